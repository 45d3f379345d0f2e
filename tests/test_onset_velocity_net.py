import json

import numpy as np
import pytest
import torch
from torch import nn

from ov_piano.model.onset_velocity_net import OnsetVelocityNet
from tests.golden_weights import GOLDEN, golden_state

NO_GRADIENT = "velocity_stage.1.7.4.bias"  # but rounding errors: a batch norm follows


@pytest.fixture
def model():
    model = OnsetVelocityNet(init=False)
    model.load_state_dict(golden_state(model))
    return model.eval()


@pytest.fixture
def logmel():
    return torch.from_numpy(np.load(GOLDEN / "model_eval.npz")["x"])  # (2, 250, 60)


def test_names_shapes_and_types_are_the_published():
    state = OnsetVelocityNet(init=False).state_dict()
    found = {name: [list(x.shape), str(x.dtype).removeprefix("torch.")] for name, x in state.items()}
    assert found == json.loads((GOLDEN / "state_dict.json").read_text())


def test_number_of_parameters():
    assert sum(p.numel() for p in OnsetVelocityNet(init=False).parameters()) == 6_276_288


@torch.no_grad()
def test_golden_outputs(model, logmel):
    golden = np.load(GOLDEN / "model_eval.npz")
    onset_stages, velocities = model(logmel)
    assert len(onset_stages) == 4
    for i, onsets in enumerate(onset_stages):
        np.testing.assert_allclose(onsets, golden[f"onset_stage_{i}"], atol=1e-3, rtol=0)
    np.testing.assert_allclose(velocities, golden["velocity"], atol=1e-3, rtol=0)


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
    onset_stages, velocities = model(torch.zeros(1, 250, frames))
    assert {x.shape for x in (*onset_stages, velocities)} == {(1, 88, frames - 1)}


@pytest.mark.parametrize("shape", [(1, 250, 1), (250, 30), (1, 229, 30)])
def test_impossible_input(model, shape):
    with pytest.raises(ValueError, match=r"expected shape \(b, 250, 2 or more\), found"):
        model(torch.zeros(shape))


def test_settings_reach_every_layer():
    model = OnsetVelocityNet(batch_norm=0.5, leaky_relu_slope=0.2, dropout=0.25, init=False)
    layers = list(model.modules())
    assert {layer.momentum for layer in layers if isinstance(layer, nn.BatchNorm2d)} == {0.5}
    assert {layer.negative_slope for layer in layers if isinstance(layer, nn.LeakyReLU)} == {0.2}
    dropouts = [layer.p for layer in layers if isinstance(layer, nn.Dropout)]
    assert dropouts == [0.25] * (4 * 2 + 1)  # two hidden layers a stage, one for velocities


def test_init():
    torch.manual_seed(0)
    model = OnsetVelocityNet()
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
    assert torch.equal(OnsetVelocityNet().stem[0].weight, model.stem[0].weight)


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


def test_frozen_onsets_stay_bit_equal(model, logmel):
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
    assert changed_entries(model, before) | {NO_GRADIENT} == velocity_names
    assert model.velocity_stage[1][7][3].training  # its dropout
    model.eval()
    assert not any(module.training for module in model.modules())


def test_unfrozen_training_changes_everything(model, logmel):
    before = copied_state(model)
    train_step(model.train(), logmel)
    assert changed_entries(model, before) | {NO_GRADIENT} == set(before)


def test_no_gradients_before_the_velocity_stage_without_trainable_onsets(model, logmel):
    onset_stages, velocities = model(logmel, trainable_onsets=False)
    assert not any(x.requires_grad for x in onset_stages)
    velocities.mean().backward()
    with_gradient = {name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None}
    assert with_gradient == {"velocity_stage"}
