"""Modified networks: the kernels compute them correctly or leave them to plain PyTorch."""

import copy
import statistics
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from ov_piano.model import fast_training, onset_velocity_net, onsets_and_velocities
from ov_piano.model.fast import FastNet, optimize_for_inference
from ov_piano.model.fast_training import fast_forward
from ov_piano.model.kernels import sparse_conv
from ov_piano.model.kernels.plan import UnsupportedNetworkError, plan_network, supports, warn_once
from ov_piano.model.kernels.sparse_conv import Branch
from ov_piano.model.layers import ContextAwareModule, SqueezeExcite
from ov_piano.model.onset_velocity_net import OnsetVelocityNet
from ov_piano.model.onsets_and_velocities import OnsetsAndVelocities

pytestmark = pytest.mark.skipif(not sparse_conv.available(), reason="no C++ compiler here")
BINS, KEYS = 40, 20  # a small network is as good here
MODULES = {OnsetVelocityNet: onset_velocity_net, OnsetsAndVelocities: onsets_and_velocities}


@pytest.fixture(params=MODULES, ids=lambda network: network.__name__)
def network(request):
    warn_once.cache_clear()
    return request.param


def build(network) -> nn.Module:
    """A network without dropout whose batch norms have statistics of the input."""
    torch.manual_seed(0)
    model = network(BINS, KEYS, dropout=0.0).train()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(0, 0.3)
        model(random_logmel())
    return model


def random_logmel() -> torch.Tensor:
    return torch.randn(2, BINS, 14, generator=torch.Generator().manual_seed(0)) * 20 - 40


def gradients(model: nn.Module, forward: Callable) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """The logits of a training step, and its gradients."""
    stages, velocities = forward(random_logmel())
    logits = torch.cat([x.flatten() for x in (*stages, velocities)])
    torch.nn.functional.binary_cross_entropy_with_logits(logits, torch.full_like(logits, 0.1)).backward()
    return logits.detach(), [p.grad for p in model.parameters() if p.grad is not None]


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    return ((found - expected).norm() / (expected.norm() + 1e-6)).item()


def check_equal(model: nn.Module, is_fast: bool) -> None:
    """Inference and a training step equal those of the plain network, and the kernels take part or not."""
    assert supports(model) == supports(model, training=True) == is_fast
    plain, fast = copy.deepcopy(model), copy.deepcopy(model)
    expected_logits, expected = gradients(plain, plain)
    logits, found = gradients(fast, lambda x: fast_forward(fast, x))
    assert relative_error(logits, expected_logits) < 1e-4
    errors = [relative_error(*both) for both in zip(found, expected, strict=True)]
    assert statistics.median(errors) < 1e-3
    assert max(errors) < 0.2  # single units of a ReLU at zero fall on the other side
    for (name, entry), expected_entry in zip(fast.named_buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(entry, expected_entry, rtol=1e-3, atol=1e-3, msg=name)
    optimized = optimize_for_inference(model)
    assert isinstance(optimized, FastNet) == is_fast
    with torch.no_grad():
        for found, expected in zip(optimized(random_logmel()), model.eval().infer(random_logmel()), strict=True):
            assert relative_error(found, expected) < 1e-4


@pytest.mark.parametrize(
    ("settings", "is_fast"),
    [
        ({}, True),
        ({"STEM_CAMS": 1}, True),
        ({"STEM_KERNELS": [(5, 5)] * 4, "STEM_CHANNELS": 16}, False),
        ({"STEM_KERNELS": [(3, 5), (1, 5), (3, 3), (3, 7)], "STEM_CHANNELS": 16}, True),
        ({"STEM_DILATIONS": [(2, d) for d in (1, 2, 3, 4, 5)]}, False),
        ({"STEM_DILATIONS": [(1, d) for d in (1, 2, 3, 4, 6)]}, True),
        ({"STEM_KERNELS": [(3, 9)] * 5, "STEM_DILATIONS": [(1, d) for d in (1, 3, 5, 7, 9)]}, False),
        ({"STEM_CHANNELS": 40}, False),
        ({"STEM_CHANNELS": 15}, False),
        ({"STEM_CHANNELS": 10}, False),
        ({"STEM_CHANNELS": 5}, False),
    ],
    ids=str,
)
def test_other_constants_give_equal_results(network, monkeypatch, settings, is_fast):
    branches = len(settings.get("STEM_KERNELS", [1] * 5))
    defaults = {
        "STEM_CHANNELS": 4 * branches,
        "STEM_KERNELS": [(3, 5)] * branches,
        "STEM_DILATIONS": [(1, d + 1) for d in range(branches)],
    }
    for name, value in (defaults | settings).items():
        monkeypatch.setattr(MODULES[network], name, value)
    check_equal(build(network), is_fast)


def replace(model: nn.Module, kind: type, make: Callable, first_only: bool = False) -> None:
    """Replace each layer of one type by another."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is kind:
                setattr(parent, name, make(child))
                if first_only:
                    return


class Squared(nn.Module):
    def forward(self, x):
        return x * x.abs()


class OtherReLU(nn.LeakyReLU):
    def forward(self, x):
        return nn.functional.leaky_relu(x, 2 * self.negative_slope)


def with_eps(norm, eps):
    norm.eps = eps
    return norm


ALTERATIONS = {
    "PReLU": lambda m: replace(m, nn.LeakyReLU, lambda _: nn.PReLU()),
    "GELU": lambda m: replace(m, nn.LeakyReLU, lambda _: nn.GELU(), first_only=True),
    "another leaky ReLU": lambda m: replace(m, nn.LeakyReLU, lambda old: OtherReLU(0.1), first_only=True),
    "SiLU in a context-aware module": lambda m: setattr(m.stem[3][0].skip, "2", nn.SiLU()),
    "no activation": lambda m: replace(m, nn.LeakyReLU, lambda _: nn.Identity(), first_only=True),
    "one eps": lambda m: with_eps(m.stem[3][0].hdcs[1][1], 0.5),
    "affine=False": lambda m: replace(
        m, nn.BatchNorm2d, lambda old: nn.BatchNorm2d(old.num_features, affine=False), first_only=True
    ),
    "no running statistics": lambda m: replace(
        m, nn.BatchNorm2d, lambda old: nn.BatchNorm2d(old.num_features, track_running_stats=False)
    ),
    "instance norm": lambda m: setattr(m.stem, "7", nn.InstanceNorm2d(m.stem[7].num_features, affine=True)),
    "one more layer": lambda m: m.stem.append(nn.Conv2d(m.stem[0].out_channels, m.stem[0].out_channels, 1)),
    "a layer between": lambda m: m.stem.insert(3, Squared()),
    "a layer in a branch": lambda m: m.stem[3][0].hdcs[0].append(Squared()),
    "a layer in the gates": lambda m: m.stem[3][0].se.add_module("more", Squared()),
    "bias": lambda m: replace(
        m, nn.Conv2d, lambda old: nn.Conv2d(old.in_channels, old.out_channels, 3, padding=1), first_only=True
    ),
    "reflecting padding": lambda m: (
        setattr(m.stem[0], "padding_mode", "reflect")
        or setattr(m.stem[0], "_reversed_padding_repeated_twice", [1, 1, 1, 1])
    ),
    "weight norm": lambda m: parametrizations.weight_norm(m.stem[0]),
    "another forward": lambda m: (
        setattr(m.stem[0], "forward", Squared().forward)
        if m.stem[0].in_channels == m.stem[0].out_channels
        else setattr(m.stem[2], "forward", Squared().forward)
    ),
    "a layer that is not in turn": lambda m: m.add_module("more", nn.Linear(2, 2)),
}
KNOWN = {
    "eps": lambda m: [with_eps(norm, 0.1) for norm in m.modules() if isinstance(norm, nn.BatchNorm2d)],
    "cumulative statistics": lambda m: [
        setattr(norm, "momentum", None) for norm in m.modules() if isinstance(norm, nn.BatchNorm2d)
    ],
    "slopes": lambda m: [setattr(r, "negative_slope", 0.4) for r in m.modules() if isinstance(r, nn.LeakyReLU)],
    "gates": lambda m: replace(m, nn.Sigmoid, lambda _: nn.Hardsigmoid()),
    "one more block": lambda m: m.stem.insert(5, copy.deepcopy(m.stem[4])),
    "one more norm": lambda m: m.stem[3].append(nn.BatchNorm2d(m.stem[0].out_channels)),
    "a norm at the end": lambda m: m.velocity_stage.append(nn.BatchNorm2d(1)),
    "frozen weights": lambda m: m.stem.requires_grad_(False),
}


@pytest.mark.parametrize("alteration", ALTERATIONS)
def test_altered_layers_are_left_to_pytorch(network, alteration, caplog):
    model = build(network)
    ALTERATIONS[alteration](model)
    check_equal(model, is_fast=False)
    lines = [record.message for record in caplog.records]
    assert lines
    assert all(line.startswith("using plain PyTorch instead of the optimised kernels: ") for line in lines)
    assert len(lines) == len(set(lines))


@pytest.mark.parametrize("alteration", KNOWN)
def test_supported_alterations_run_on_the_kernels(network, alteration):
    model = build(network)
    KNOWN[alteration](model)
    check_equal(model, is_fast=True)


@pytest.mark.parametrize("register", ["register_forward_hook", "register_forward_pre_hook"])
@pytest.mark.parametrize("layer", ["", "stem", "stem.3.0", "stem.3.0.hdcs.1.0", "velocity_stage"])
def test_hooks_fire(network, layer, register):
    model, fired = build(network), []
    getattr(model.get_submodule(layer), register)(lambda *_: fired.append(layer))
    fast_forward(model, random_logmel())
    optimize_for_inference(model)(random_logmel())
    assert fired == [layer] * 2


def test_backward_hooks_fire(network):
    model, fired = build(network), []
    model.stem[6].register_full_backward_hook(lambda *_: fired.append(1))
    fast_forward(model, random_logmel())[1].sum().backward()
    assert fired == [1]


def test_an_overridden_forward_pass_is_the_one_computed(network):
    class Doubled(network):
        def _onsets(self, logmel):
            features, onset_stages = super()._onsets(logmel)
            return 2 * features, onset_stages

    check_equal(build(Doubled), is_fast=False)


def test_a_layer_whose_code_was_changed_is_noticed_at_the_start(network, monkeypatch, caplog):
    monkeypatch.setattr(SqueezeExcite, "forward", lambda self, x: self.fc(x.amax(dim=(2, 3)))[:, :, None, None])
    model = build(network)
    assert supports(model)
    plain, fast = copy.deepcopy(model), copy.deepcopy(model)
    logits, _ = gradients(fast, lambda x: fast_forward(fast, x))
    assert torch.equal(logits, gradients(plain, plain)[0])
    assert not isinstance(optimize_for_inference(model), FastNet)
    assert "logits or gradients for random input differ between kernels and network" in caplog.text
    assert "logits for random input differ" in caplog.text


def test_a_layer_in_eval_mode_keeps_its_statistics(network):
    model = build(network)
    model.stem[3].eval()
    assert not supports(model, training=True)
    before = model.stem[3][0].skip[1].running_mean.clone()
    fast_forward(model, random_logmel())
    assert torch.equal(model.stem[3][0].skip[1].running_mean, before)


def test_other_number_types_are_left_to_pytorch(network):
    model = build(network).double()
    expected = copy.deepcopy(model)(random_logmel().double())
    found = fast_forward(model, random_logmel().double())
    assert found[1].dtype == torch.float64
    assert torch.equal(found[1], expected[1])
    onsets, _ = optimize_for_inference(model)(random_logmel().double())
    with torch.no_grad():
        torch.testing.assert_close(onsets, model.eval().infer(random_logmel().double())[0].float())


@pytest.mark.parametrize("shape", [(BINS, 14), (2, BINS - 1, 14), (2, BINS, 1)])
def test_impossible_input_is_refused_as_by_the_network(network, shape):
    model = build(network)
    for forward in (lambda x: fast_forward(model, x), optimize_for_inference(model)):
        with pytest.raises(ValueError, match="log-mel: expected shape"):
            forward(torch.zeros(shape))


def test_the_check_at_the_start_changes_nothing(network):
    model = build(network)
    before, state = copy.deepcopy(model.state_dict()), torch.random.get_rng_state()
    assert fast_training._is_equal(model)
    optimize_for_inference(model)
    assert torch.equal(state, torch.random.get_rng_state())
    assert model.training
    assert all(torch.equal(entry, before[name]) for name, entry in model.state_dict().items())


def test_the_reason_names_the_layer(network):
    model = build(network)
    model.stem[4][0].hdcs[1][0].dilation = (3, 1)
    with pytest.raises(UnsupportedNetworkError, match=r"stem\.4\.0\.hdcs\.1\.0: dilation \(3, 1\)"):
        plan_network(model)


@pytest.mark.parametrize(
    ("c_in", "c", "branch"),
    [(4, 5, Branch(1, 3)), (4, 3, Branch(3, 3)), (6, 4, Branch(3, 3)), (4, 4, Branch(1, 3, 40))],
)
def test_the_source_refuses_sizes_that_it_has_no_kernel_for(c_in, c, branch):
    assert sparse_conv.unsupported(c_in, c, [branch])
    x, weight = torch.randn(1, c_in, 8, 50, requires_grad=True), torch.randn(c, c_in, branch.rows, branch.frames)
    with pytest.raises(RuntimeError, match="no kernel for"):
        sparse_conv.sparse_conv(x, [branch], [weight]).sum().backward()


def test_kernels_refuse_other_number_types():
    plan = sparse_conv.forward_plan(4, (Branch(1, 3),))
    with pytest.raises(TypeError, match=r"expected float32 on the CPU, found torch\.float64"):
        sparse_conv.convolve(torch.randn(1, 4, 8, 20).double(), plan, torch.randn(12, 4).double())


def test_context_aware_modules_are_recognised_by_their_own_class(network):
    class Other(ContextAwareModule):
        def forward(self, x):
            return -super().forward(x)

    model = build(network)
    model.stem[3][0].__class__ = Other
    check_equal(model, is_fast=False)
