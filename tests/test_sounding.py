"""The sounding stage: same results on all paths, frozen network, its file beside the snapshot."""

import copy

import pytest
import torch
import torchaudio

from ov_piano.errors import InputError
from ov_piano.model import harmonics
from ov_piano.model.fast import FastNet, optimize_for_inference
from ov_piano.model.fast_training import sounding_logits
from ov_piano.model.harmonics import HARMONICS, harmonic_levels
from ov_piano.model.incremental import IncrementalNet, Memory, plain_parts
from ov_piano.model.networks import NETWORKS
from ov_piano.model.snapshot import load_snapshot, save_snapshot
from ov_piano.model.sounding import add_sounding_stage, ends_path, load_ends, save_ends
from tests.golden_weights import golden_state


@pytest.fixture(scope="module", params=NETWORKS)
def plain_model(request):
    model = NETWORKS[request.param](init=False)
    model.load_state_dict(golden_state(model))
    return model.eval()


@pytest.fixture
def model(plain_model):
    model = copy.deepcopy(plain_model)
    add_sounding_stage(model)
    model.load_state_dict(golden_state(model))
    return model


@pytest.fixture
def logmel(model):
    return torch.randn(1, model.in_bins, 60) * 20 - 40


def test_harmonic_levels_are_those_of_the_bands_around_each_harmonic():
    centres = torchaudio.functional.melscale_fbanks(4001, 50, 8000, 229, 16000).argmax(0) * 2  # Hz, of each band
    levels = harmonic_levels(centres.float()[None, :, None].expand(1, -1, 2))  # (1, harmonics, keys, 2)
    fundamentals = 440 * 2 ** ((torch.arange(88) - 48) / 12)
    for index, harmonic in enumerate(HARMONICS):
        hz, found = harmonic * fundamentals, levels[0, index, :, 0]
        inside = (hz > 70) & (hz < 7900)
        torch.testing.assert_close(found[inside], hz[inside], rtol=0, atol=6)
        assert not found[(hz < 40) | (hz > 8100)].any()
    assert torch.equal(levels[..., 0], levels[..., 1])


def loss_of(logits: torch.Tensor) -> torch.Tensor:
    """A loss whose gradient the last norm does not cancel."""
    targets = torch.rand(logits.shape, generator=torch.Generator().manual_seed(0)).round()
    return torch.nn.functional.binary_cross_entropy_with_logits(logits, targets)


def test_the_stage_leaves_the_other_outputs_as_they_are_to_the_bit(plain_model, model, logmel):
    for path in (lambda network: network.infer, optimize_for_inference):
        with torch.no_grad():
            before, after = path(plain_model)(logmel), path(model)(logmel)
        assert (len(before), len(after)) == (2, 4)
        assert all(torch.equal(old, new) for old, new in zip(before, after, strict=False))


def test_kernels_and_increments_give_the_stages_logits(model, logmel):
    with torch.no_grad():
        expected = torch.stack(model.infer(logmel)[2:], dim=1)
        assert torch.equal(expected, model.sounding_stage(model.sounding_input(logmel)))
    fast = optimize_for_inference(model)
    assert isinstance(fast, FastNet)
    torch.testing.assert_close(torch.stack(fast(logmel)[2:], dim=1), expected, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(fast.sounding_input(logmel), model.sounding_input(logmel), atol=1e-3, rtol=1e-3)
    for parts in (plain_parts(model), fast.parts):
        assert parts.maps == 4
        net = IncrementalNet(parts)
        net(logmel, settled=0)
        found = Memory(parts.sounding_stage)(net.sounding_input, settled=0)
        torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)


def test_training_kernels_give_the_stages_logits_and_gradients(model, logmel):
    model.freeze_all_but_sounding()
    with torch.no_grad():
        shared = model.train().sounding_input(logmel)
    results = []
    for forward in (lambda network: network.sounding_stage(shared), lambda network: sounding_logits(network, shared)):
        network = copy.deepcopy(model)
        for layer in network.modules():
            if isinstance(layer, torch.nn.Dropout):
                layer.p = 0.0
        logits = forward(network)
        gradients = torch.autograd.grad(loss_of(logits), list(network.sounding_stage.parameters()))
        results.append((logits, torch.cat([gradient.flatten() for gradient in gradients])))
    (plain_logits, plain_gradients), (fast_logits, fast_gradients) = results
    torch.testing.assert_close(fast_logits, plain_logits, atol=1e-3, rtol=1e-3)
    assert (fast_gradients - plain_gradients).norm() <= 0.02 * plain_gradients.norm()


def test_training_the_stage_changes_nothing_else(model, logmel):
    model.freeze_all_but_sounding()
    model.train()
    before = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    with torch.no_grad():
        shared = model.sounding_input(logmel)
    loss_of(sounding_logits(model, shared)).backward()
    optimizer.step()
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert all(name.startswith("sounding_stage.") for name in changed)
    parameters = {name for name, _ in model.sounding_stage.named_parameters()}
    assert {f"sounding_stage.{name}" for name in parameters} <= changed


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
    load_snapshot(tmp_path / "net.torch", type(plain_model)(init=False))
    assert not any(name.startswith("sounding") for name in torch.load(tmp_path / "net.torch"))


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
        assert network.sounding_stage is None


def test_other_files_are_refused_and_leave_the_network_as_it_was(model, plain_model, tmp_path):
    network = copy.deepcopy(plain_model)
    save_snapshot(plain_model, tmp_path / "net.torch")
    with pytest.raises(InputError, match=r"net\.torch: expected the weights of a sounding stage"):
        load_ends(tmp_path / "net.torch", network)
    with pytest.raises(InputError, match=r"missing\.torch: snapshot not found"):
        load_ends(tmp_path / "missing.torch", network)
    del model.sounding_stage[1]
    save_ends(model, tmp_path / "part.ends.torch")
    with pytest.raises(InputError, match="names missing"):
        load_ends(tmp_path / "part.ends.torch", network)
    assert network.sounding_stage is None


def test_harmonic_levels_have_gradients_after_a_transcription_filled_the_cache():
    levels = torch.randn(1, 229, 5)
    harmonics._bands.cache_clear()
    with torch.inference_mode():
        expected = harmonic_levels(levels)
    found = harmonic_levels(levels.requires_grad_())
    found.sum().backward()
    assert torch.equal(found, expected)
    assert levels.grad.count_nonzero() > 0
