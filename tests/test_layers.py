import pytest
import torch
from torch import nn

from ov_piano.model.layers import (
    ContextAwareModule,
    FrequencyToKeys,
    SqueezeExcite,
    SubSpectralNorm,
    cam_stage,
    init_weights,
)


def stage(**changes):
    settings = {"cams": 2, "widths": (9, 7), "dilations": (1, 2), "head": (12, 10), "keys": 5}
    return cam_stage(3, 2, **{**settings, "momentum": 0.85, "slope": 0.1, "dropout": 0.15, **changes})


def test_sub_spectral_norm_is_a_batch_norm_of_each_channel_and_bin():
    x = torch.randn(4, 3, 6, 50, generator=torch.Generator().manual_seed(0)) * 5 + 2
    norm = SubSpectralNorm(3, 6, momentum=0.85)
    y = norm(x)
    mean = x.mean(dim=(0, 3), keepdim=True)
    var = x.var(dim=(0, 3), keepdim=True, unbiased=False)
    torch.testing.assert_close(y, (x - mean) / (var + 1e-5).sqrt(), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(norm.bn.running_mean, 0.85 * mean.flatten())  # channels outside, bins inside
    unbiased = x.var(dim=(0, 3)).flatten()
    torch.testing.assert_close(norm.bn.running_var, 0.15 + 0.85 * unbiased)


def test_frequency_to_keys_is_a_linear_map_per_channel():
    layer = FrequencyToKeys(channels=3, bins=7, keys=4)
    x = torch.randn(2, 3, 7, 9)
    weights = layer.conv.weight.reshape(3, 4, 7)  # (c, keys, bins)
    torch.testing.assert_close(layer(x), torch.einsum("ckf,bcft->bckt", weights, x), atol=1e-5, rtol=1e-4)


def test_gates_equal_a_hand_worked_example():
    gate = SqueezeExcite(in_channels=2, bottleneck=1, out_channels=3)
    with torch.no_grad():
        gate.fc[0].weight.copy_(torch.tensor([[1.0, -1.0]]))
        gate.fc[0].bias.fill_(0.5)
        gate.fc[2].weight.copy_(torch.tensor([[1.0], [0.0], [-2.0]]))
        gate.fc[2].bias.copy_(torch.tensor([0.0, 1.0, 0.0]))
    x = torch.zeros(1, 2, 4, 5)
    x[0, 0] = 2.0
    x[0, 1, :2] = 3.0  # mean 1.5; hidden unit 2 - 1.5 + 0.5 = 1
    expected = torch.sigmoid(torch.tensor([1.0, 1.0, -2.0]))
    torch.testing.assert_close(gate(x), expected.reshape(1, 3, 1, 1))


def test_context_aware_module_is_skip_plus_gated_context():
    cam = ContextAwareModule(4, 2, kernels=[(3, 5), (1, 3)], dilations=[(1, 2), (1, 1)], momentum=0.85).eval()
    x = torch.randn(2, 4, 6, 20)
    y = cam(x)
    gates, skip = cam.se(x), cam.skip(x)
    assert y.shape == (2, 4, 6, 20)
    torch.testing.assert_close(y[:, :2], skip[:, :2] + gates[:, :2] * cam.hdcs[0](x))
    torch.testing.assert_close(y[:, 2:], skip[:, 2:] + gates[:, 2:] * cam.hdcs[1](x))
    assert cam.hdcs[0][0].padding == (1, 4)
    assert cam.hdcs[1][0].padding == (0, 1)


def test_kernels_and_dilations_must_pair_up():
    with pytest.raises(ValueError, match="zip"):
        ContextAwareModule(4, 2, kernels=[(3, 5), (1, 3)], dilations=[(1, 2)], momentum=0.85)


def test_stage_turns_channels_into_keys():
    model = stage().eval()
    x = torch.randn(2, 3, 5, 11)
    y = model(x)
    assert y.shape == (2, 1, 5, 11)
    before = model[:-1](x)  # (b, keys, 1, t)
    assert torch.equal(y[:, 0], before[:, :, 0])


def test_stage_settings_reach_every_layer():
    model = stage(momentum=0.25, slope=0.3, dropout=0.4)
    norms = [layer for layer in model.modules() if isinstance(layer, nn.BatchNorm2d)]
    slopes = [layer.negative_slope for layer in model.modules() if isinstance(layer, nn.LeakyReLU)]
    dropouts = [layer.p for layer in model.modules() if isinstance(layer, nn.Dropout)]
    # input + 2 x (2 dilated + skip + output) + head's first + one hidden layer
    assert [norm.momentum for norm in norms] == [0.25] * (1 + 2 * 4 + 1 + 1)
    assert {norm.eps for norm in norms} == {1e-5}
    assert slopes == [0.3] * (1 + 2 + 1 + 1)
    assert dropouts == [0.4]
    biases = {name for name, _ in model.named_parameters() if name.endswith("bias") and ".se." not in name}
    assert biases - {f"{name}.bias" for name, layer in model.named_modules() if layer in norms} == {"8.4.bias"}


def test_initial_weights_follow_the_published_rule():
    torch.manual_seed(0)
    layers = nn.Sequential(
        nn.Conv2d(20, 400, (3, 5), groups=2),
        nn.Linear(300, 500),
        SqueezeExcite(40, 30, 50),
        nn.BatchNorm2d(7),
    )
    init_weights(layers)
    conv, linear, gate, norm = layers
    assert conv.weight.std().item() == pytest.approx((2 / (10 * 15)) ** 0.5, rel=0.03)
    assert linear.weight.std().item() == pytest.approx((2 / 300) ** 0.5, rel=0.03)
    assert gate.fc[0].weight.std().item() == pytest.approx((2 / 40) ** 0.5, rel=0.1)
    assert abs(linear.weight.mean().item()) < 1e-3
    for zeros in (conv.bias, linear.bias, norm.bias):
        assert (zeros == 0).all()
    for ones in (gate.fc[0].bias, gate.fc[2].bias, norm.weight):
        assert (ones == 1).all()
