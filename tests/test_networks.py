import json
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import nn

from ov_piano.errors import InputError
from ov_piano.model.base import OnsetVelocityBase
from ov_piano.model.networks import NETWORKS, load_network, load_weights
from ov_piano.model.onset_velocity_net import OnsetVelocityNet
from ov_piano.model.onsets_and_velocities import OnsetsAndVelocities
from ov_piano.model.snapshot import save_snapshot
from tests.golden_weights import GOLDEN, golden_state


class Published(NamedTuple):
    """Known facts about a network."""

    network: type[OnsetVelocityBase]
    state: str
    outputs: str
    parameters: int
    mels: int
    stages: int
    dropouts: int
    no_gradient: set[str]  # but rounding errors: a batch norm follows


PUBLISHED = [
    Published(
        OnsetVelocityNet,
        "state_dict.json",
        "model_eval.npz",
        parameters=6_276_288,
        mels=250,
        stages=4,
        dropouts=4 * 2 + 1,  # two hidden layers an onset stage, one for velocities
        no_gradient={"velocity_stage.1.7.4.bias"},
    ),
    Published(
        OnsetsAndVelocities,
        "state_dict_2023.json",
        "model_2023_eval.npz",
        parameters=3_127_168,
        mels=229,
        stages=3,
        dropouts=3 + 1,
        no_gradient={f"{stage}.7.4.bias" for stage in ("velocity_stage.0",)}
        | {f"onset_stages.{i}.0.9.4.bias" for i in range(3)},
    ),
]


@pytest.fixture(params=PUBLISHED, ids=lambda published: published.network.__name__)
def published(request):
    return request.param


@pytest.fixture
def model(published):
    model = published.network(init=False)
    model.load_state_dict(golden_state(model))
    return model.eval()


@pytest.fixture
def logmel(published):
    return torch.from_numpy(np.load(GOLDEN / published.outputs)["x"])  # (2, mels, 60 or 64)


def test_names_shapes_and_types_are_the_published(published):
    state = published.network(init=False).state_dict()
    found = {name: [list(x.shape), str(x.dtype).removeprefix("torch.")] for name, x in state.items()}
    expected = json.loads((GOLDEN / published.state).read_text())
    assert found == {name: [shape, dtype.removeprefix("torch.")] for name, (shape, dtype) in expected.items()}


def test_number_of_parameters_is_the_published(published):
    assert sum(p.numel() for p in published.network(init=False).parameters()) == published.parameters


@torch.no_grad()
def test_outputs_equal_the_golden_ones(published, model, logmel):
    golden = np.load(GOLDEN / published.outputs)
    onset_stages, velocities = model(logmel)
    assert len(onset_stages) == published.stages
    for i, onsets in enumerate(onset_stages):
        np.testing.assert_allclose(onsets, golden[f"onset_stage_{i}"], atol=1e-3, rtol=0)
    np.testing.assert_allclose(velocities, golden["velocity"], atol=1e-3, rtol=0)


def test_snapshots_are_loaded_into_their_network(published, model, tmp_path):
    path = tmp_path / "snapshot.torch"
    torch.save(model.state_dict(), path)
    loaded = load_network(path, leaky_relu_slope=0.3)
    assert type(loaded) is published.network
    assert loaded.in_bins == published.mels
    assert not loaded.training
    assert {layer.negative_slope for layer in loaded.modules() if isinstance(layer, nn.LeakyReLU)} == {0.3}
    assert all(torch.equal(x, model.state_dict()[name]) for name, x in loaded.state_dict().items())


def test_the_number_of_mel_bands_is_read_from_the_snapshot(published, tmp_path):
    save_snapshot(published.network(in_bins=100, init=False), tmp_path / "snapshot.torch")
    assert load_network(tmp_path / "snapshot.torch").in_bins == 100


def test_weights_of_another_network_are_refused_by_name(published, tmp_path):
    (other,) = (network for network in NETWORKS.values() if network is not published.network)
    save_snapshot(other(init=False), tmp_path / "snapshot.torch")
    expected = f"snapshot of {other.__name__}, expected one of {published.network.__name__}"
    with pytest.raises(InputError, match=expected):
        load_weights(tmp_path / "snapshot.torch", published.network(init=False))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda state: state.pop("stem.7.weight"), "not a snapshot of .*: stem.7.weight names missing, no unexpected"),
        (
            lambda state: state.update({"more": torch.zeros(1)}),
            "not a snapshot of .*: no names missing, more unexpected",
        ),
        (lambda state: state.pop("specnorm.bn.weight"), "specnorm.bn.weight names missing"),
        (
            lambda state: state.update({"specnorm.bn.weight": torch.zeros(3)}),
            "snapshot with shapes other than those of ",
        ),
        (lambda state: state.update({"specnorm.bn.weight": torch.zeros(9, 9)}), r"found float32 \(9, 9\)"),
        (lambda state: [state.pop(name) for name in list(state)[1:]], "names missing"),
    ],
)
def test_damaged_snapshots_are_refused_in_one_line(model, tmp_path, damage, message):
    state = model.state_dict()
    damage(state)
    torch.save(dict(state), tmp_path / "snapshot.torch")
    with pytest.raises(InputError, match=message) as refusal:
        load_network(tmp_path / "snapshot.torch")
    assert "\n" not in str(refusal.value)


@torch.no_grad()
def test_batch_equals_item_by_item(model, logmel):
    onset_stages, velocities = model(logmel)
    for i in range(2):
        onsets_alone, velocities_alone = model(logmel[i : i + 1])
        torch.testing.assert_close(onset_stages[-1][i], onsets_alone[-1][0], atol=1e-3, rtol=1e-4)
        torch.testing.assert_close(velocities[i], velocities_alone[0], atol=1e-3, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("frames", [2, 3, 25])
def test_one_frame_less_than_the_input(model, frames):
    onset_stages, velocities = model(torch.zeros(1, model.in_bins, frames))
    assert {x.shape for x in (*onset_stages, velocities)} == {(1, 88, frames - 1)}


@pytest.mark.parametrize("shape", [(1, 0, 1), (0, 30), (1, 1, 30)])
def test_input_of_unusable_shapes_is_refused(model, shape):
    shape = (*shape[:-2], shape[-2] + model.in_bins, shape[-1])
    with pytest.raises(ValueError, match=rf"expected shape \(b, {model.in_bins}, 2 or more\), found"):
        model(torch.zeros(shape))


def test_settings_reach_every_layer(published):
    model = published.network(batch_norm=0.5, leaky_relu_slope=0.2, dropout=0.25, init=False)
    layers = list(model.modules())
    assert {layer.momentum for layer in layers if isinstance(layer, nn.BatchNorm2d)} == {0.5}
    assert {layer.negative_slope for layer in layers if isinstance(layer, nn.LeakyReLU)} == {0.2}
    dropouts = [layer.p for layer in layers if isinstance(layer, nn.Dropout)]
    assert dropouts == [0.25] * published.dropouts


def test_initial_weights_follow_the_published_rule(published):
    torch.manual_seed(0)
    model = published.network()
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            expected = 1.0 if ".se." in name else 0.0
            assert (parameter == expected).all(), name
        elif parameter.ndim == 1:
            assert (parameter == 1).all(), name
        elif parameter.numel() >= 5000:
            kaiming = (2 / parameter[0].numel()) ** 0.5
            assert parameter.std().item() == pytest.approx(kaiming, rel=0.05), name
    torch.manual_seed(0)
    assert torch.equal(published.network().stem[0].weight, model.stem[0].weight)


def train_step(model, logmel, **arguments):
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1, momentum=0.85)
    onset_stages, velocities = model(logmel, **arguments)
    target = torch.randn(velocities.shape, generator=torch.Generator().manual_seed(0))
    sum((x - target).square().mean() for x in (*onset_stages, velocities)).backward()
    optimizer.step()


def changed_entries(model, before):
    return {name for name, x in model.state_dict().items() if not torch.equal(x, before[name])}


def copied_state(model):
    return {name: x.clone() for name, x in model.state_dict().items()}


def test_frozen_onsets_stay_bit_equal(published, model, logmel):
    before, velocity_names = copied_state(model), {n for n in model.state_dict() if n.startswith("velocity_stage.")}
    model.freeze_onsets()
    learnable = {name for name, p in model.named_parameters() if p.requires_grad}
    assert learnable == {name for name, _ in model.named_parameters() if name in velocity_names}
    model.eval()
    onsets_before = model(logmel, trainable_onsets=False)[0][-1]
    model.train()
    assert model.training
    onsets = model(logmel, trainable_onsets=False)[0][-1]
    assert torch.equal(onsets, onsets_before)  # neither dropout nor batch statistics
    train_step(model, logmel, trainable_onsets=False)
    assert changed_entries(model, before) | (published.no_gradient & velocity_names) == velocity_names
    assert all(layer.training for layer in model.velocity_stage.modules())  # its dropout, too
    model.eval()
    assert not any(module.training for module in model.modules())


def test_unfrozen_training_changes_everything(published, model, logmel):
    before = copied_state(model)
    train_step(model.train(), logmel)
    assert changed_entries(model, before) | published.no_gradient == set(before)


def test_no_gradients_before_the_velocity_stage_without_trainable_onsets(model, logmel):
    onset_stages, velocities = model(logmel, trainable_onsets=False)
    assert not any(x.requires_grad for x in onset_stages)
    velocities.mean().backward()
    with_gradient = {name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None}
    assert with_gradient == {"velocity_stage"}
