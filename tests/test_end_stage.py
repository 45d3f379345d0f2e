"""The end stage: same results on all paths, frozen network, its file beside the snapshot."""

import copy

import pytest
import torch

from ov_piano.errors import InputError
from ov_piano.model import incremental
from ov_piano.model.end_stage import CONTEXT, REACH, EndStage
from ov_piano.model.ends import add_end_stage, ends_path, load_ends, save_ends
from ov_piano.model.fast import FastNet, optimize_for_inference
from ov_piano.model.incremental import IncrementalNet, plain_parts
from ov_piano.model.kernels import sparse_conv
from ov_piano.model.networks import NETWORKS, load_network
from ov_piano.model.snapshot import save_snapshot
from ov_piano.training.ends import EndForward
from tests.golden_weights import golden_state


@pytest.fixture(scope="module", params=NETWORKS)
def plain_model(request):
    model = NETWORKS[request.param](init=False)
    model.load_state_dict(golden_state(model))
    return model.eval()


@pytest.fixture
def model(plain_model):
    model = copy.deepcopy(plain_model)
    stage = add_end_stage(model)
    model.load_state_dict(golden_state(model))
    with torch.no_grad():
        stage.adapt[-1].weight *= 1e-3  # else the golden weights scale all channels by hundreds
    return model


@pytest.fixture
def logmel(model):
    return torch.randn(1, model.in_bins, 60) * 20 - 40


def loss_of(logits: torch.Tensor) -> torch.Tensor:
    """A loss whose gradient the last norm does not cancel."""
    targets = torch.rand(logits.shape, generator=torch.Generator().manual_seed(0)).round()
    return torch.nn.functional.binary_cross_entropy_with_logits(logits, targets)


def test_the_stage_leaves_the_other_outputs_as_they_are_to_the_bit(plain_model, model, logmel):
    for path in (lambda network: network.infer, optimize_for_inference):
        with torch.no_grad():
            before, after = path(plain_model)(logmel), path(model)(logmel)
        assert (len(before), len(after)) == (2, 3)
        assert all(torch.equal(old, new) for old, new in zip(before, after, strict=False))


@pytest.mark.skipif(not sparse_conv.available(), reason="no C++ compiler here")
@pytest.mark.parametrize("frames", [60, 61])
def test_fast_and_incremental_networks_give_the_stages_logits(model, frames, monkeypatch):
    monkeypatch.setattr(incremental, "PRIOR_FRAMES", 0)
    logmel = torch.randn(2, model.in_bins, frames) * 20 - 40
    with torch.no_grad():
        expected = model.infer(logmel)[2]
        assert torch.equal(expected, model.end_stage(*model.end_input(logmel)))
    fast = optimize_for_inference(model)
    assert isinstance(fast, FastNet)
    torch.testing.assert_close(fast(logmel)[2], expected, atol=1e-3, rtol=1e-3)
    for found, wanted in zip(fast.end_input(logmel), model.end_input(logmel), strict=True):
        torch.testing.assert_close(found, wanted, atol=2e-3, rtol=1e-3)
    for parts in (plain_parts(model), fast.parts):
        net = IncrementalNet(parts)
        net(logmel, settled=0)
        torch.testing.assert_close(parts.end_stage.run(*net.end_input), expected, atol=1e-3, rtol=1e-3)


def test_a_selection_of_keys_has_the_logits_of_all_keys(model, logmel):
    onsets, spectrum = model.end_input(logmel)
    keys = torch.tensor([[3, 0, 87]])
    with torch.no_grad():
        found, expected = model.end_stage(onsets, spectrum, keys), model.end_stage(onsets, spectrum)
    torch.testing.assert_close(found, expected[:, keys[0]], atol=1e-3, rtol=1e-3)


def test_an_output_depends_on_frames_within_reach_only():
    stage = EndStage(20, 88, 0.1, 0.1).eval()
    middle, frames = 300, 600
    spectrum = torch.randn(1, 20, frames, requires_grad=True)
    onsets = torch.randn(1, 88, frames, requires_grad=True)
    stage(onsets, spectrum, mean=lambda heard: heard.new_zeros(1, CONTEXT))[0, 40, middle].backward()
    used = (spectrum.grad[0].abs().sum(0) + onsets.grad[0].abs().sum(0)).nonzero()
    assert middle - REACH <= used.min() < middle - 60
    assert middle + 60 < used.max() <= middle + REACH


@pytest.mark.parametrize("fast", [True, False])
def test_training_the_stage_changes_nothing_else(model, logmel, fast):
    model.freeze_all_but_ends()
    model.train()
    before = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    loss_of(EndForward(model, fast)(logmel, torch.arange(88)[None])).backward()
    optimizer.step()
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert all(name.startswith("end_stage.") for name in changed)
    parameters = {name for name, _ in model.end_stage.named_parameters()}
    assert {f"end_stage.{name}" for name in parameters} <= changed


def test_a_saved_stage_loads_into_its_network_and_gives_the_same_logits(plain_model, model, logmel, tmp_path):
    path = ends_path(tmp_path / "net_f1=0.9.torch")
    assert path.name == "net_f1=0.9.ends.torch"
    save_ends(model, path)
    network = copy.deepcopy(plain_model)
    load_ends(path, network)
    assert not any(module.training for module in network.modules())
    assert torch.equal(network.infer(logmel)[2], model.infer(logmel)[2])


def test_a_snapshot_knows_nothing_of_the_stage(plain_model, tmp_path):
    save_snapshot(plain_model, tmp_path / "net.torch")
    load_network(tmp_path / "net.torch")
    assert not any(name.startswith("end_stage") for name in torch.load(tmp_path / "net.torch"))


def test_note_ends_are_no_network(model, tmp_path):
    save_ends(model, tmp_path / "x.ends.torch")
    with pytest.raises(InputError, match=r"found note ends: pass X\.torch, not X\.ends\.torch"):
        load_network(tmp_path / "x.ends.torch")


def test_a_stage_fits_a_network_with_other_velocities_only(model, plain_model, tmp_path):
    save_ends(model, tmp_path / "x.ends.torch")
    network = copy.deepcopy(plain_model)
    with torch.no_grad():
        next(network.velocity_stage.parameters()).add_(1)
    load_ends(tmp_path / "x.ends.torch", network)
    for part in (plain_model.specnorm, plain_model.stem, plain_model.onset_stages[-1]):
        network = copy.deepcopy(plain_model)
        name = next(name for name, module in plain_model.named_modules() if module is part)
        norm = next(layer for layer in network.get_submodule(name).modules() if hasattr(layer, "running_mean"))
        norm.running_mean[0] += 1e-3
        with pytest.raises(InputError, match=r"x\.ends\.torch: note ends of another snapshot"):
            load_ends(tmp_path / "x.ends.torch", network)
        assert network.end_stage is None


def test_other_files_are_refused_and_leave_the_network_as_it_was(model, plain_model, tmp_path):
    network = copy.deepcopy(plain_model)
    save_snapshot(plain_model, tmp_path / "net.torch")
    with pytest.raises(InputError, match=r"net\.torch: expected the weights of an end stage"):
        load_ends(tmp_path / "net.torch", network)
    with pytest.raises(InputError, match=r"missing\.torch: snapshot not found"):
        load_ends(tmp_path / "missing.torch", network)
    del model.end_stage.key_input
    save_ends(model, tmp_path / "part.ends.torch")
    with pytest.raises(InputError, match="names missing"):
        load_ends(tmp_path / "part.ends.torch", network)
    assert network.end_stage is None
