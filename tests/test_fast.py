import pytest
import torch

from ov_piano.model.fast import FastNet, optimize_for_inference
from ov_piano.model.kernels import native, sparse_conv
from ov_piano.model.networks import NETWORKS
from tests.golden_weights import golden_state

needs_compiler = pytest.mark.skipif(not sparse_conv.available(), reason="no C++ compiler here")


@pytest.fixture(scope="module", params=NETWORKS.values(), ids=NETWORKS)
def model(request):
    model = request.param(init=False)
    model.load_state_dict(golden_state(model))
    return model.eval()


def random_logmel(model, t, b=1):
    return torch.randn(b, model.in_bins, t, generator=torch.Generator().manual_seed(0)) * 20 - 40


@needs_compiler
@pytest.mark.parametrize(("b", "t"), [(2, 31), (1, 500)])
@torch.inference_mode()
def test_logits_equal_those_of_the_plain_network(model, b, t):
    logmel = random_logmel(model, t, b)
    fast = optimize_for_inference(model)
    assert isinstance(fast, FastNet)
    onset_stages, expected_velocities = model(logmel)
    onsets, velocities = fast(logmel)
    torch.testing.assert_close(onsets, onset_stages[-1], rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(velocities, expected_velocities, rtol=1e-4, atol=1e-3)


@needs_compiler
@torch.inference_mode()
def test_bf16_products_change_probabilities_little(model):
    logmel = random_logmel(model, 200)
    onsets, velocities = optimize_for_inference(model, torch.bfloat16)(logmel)
    onset_stages, expected_velocities = model(logmel)
    for logits, expected in ((onsets, onset_stages[-1]), (velocities, expected_velocities)):
        difference = (logits.sigmoid() - expected.sigmoid()).abs()
        assert 0 < difference.mean() < 0.02


def test_without_a_compiler_the_network_itself_is_used(model, monkeypatch):
    monkeypatch.setattr(sparse_conv, "available", lambda: False)
    logmel = random_logmel(model, 20)
    fast = optimize_for_inference(model)
    assert not isinstance(fast, FastNet)
    onsets, velocities = fast(logmel)
    with torch.no_grad():
        onset_stages, expected_velocities = model(logmel)
    torch.testing.assert_close(onsets, onset_stages[-1])
    torch.testing.assert_close(velocities, expected_velocities)


@needs_compiler
def test_a_failed_compilation_reports_the_compiler_error(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    source = tmp_path / "broken.cpp"
    source.write_text("#error what is wrong\n")
    assert native.library(source) is None
    (record,) = caplog.records
    assert record.message.startswith("broken.cpp: compilation failed (")
    assert "what is wrong" in record.message
    assert len(record.message.splitlines()) == 1
    assert not list(tmp_path.glob("ov_piano/*"))


@needs_compiler
@torch.inference_mode()
def test_pieces_of_a_long_input_fit_together(model, monkeypatch):
    logmel = random_logmel(model, 120)
    whole = optimize_for_inference(model)(logmel)
    monkeypatch.setattr("ov_piano.model.fast.PIECE", 23)
    for pieces, expected in zip(optimize_for_inference(model)(logmel), whole, strict=True):
        torch.testing.assert_close(pieces, expected, rtol=1e-4, atol=1e-3)
