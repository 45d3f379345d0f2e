import pytest
import torch
from torch.nn import functional

from ov_piano.model.kernels import sparse_conv
from ov_piano.model.kernels.sparse_conv import POINTWISE, Branch
from ov_piano.model.kernels.winograd import time_conv, transform_weight

pytestmark = pytest.mark.skipif(not sparse_conv.available(), reason="no C++ compiler here")

LAYERS = {  # c_in, c, rows, branches
    "stem": (20, 4, 30, [*(Branch(3, 5, d) for d in (1, 2, 3, 4, 5)), POINTWISE]),
    "input": (2, 4, 30, [Branch(3, 3), Branch(3, 3)]),
    "first stage": (16, 4, 8, [Branch(1, 21), Branch(1, 17, 2), Branch(1, 13, 3), Branch(1, 9, 4), POINTWISE]),
    "refiner": (9, 3, 8, [Branch(1, 9), Branch(1, 7, 2), Branch(1, 5, 3), POINTWISE]),
    "velocity": (21, 4, 8, [POINTWISE]),
    "stem of 2023": (16, 4, 30, [*(Branch(3, 5, d) for d in (1, 2, 3, 4)), POINTWISE]),
    "stage of 2023": (12, 4, 8, [*(Branch(1, 11, d) for d in (1, 2, 3)), POINTWISE]),
    "velocity of 2023": (17, 4, 8, [POINTWISE]),
    "two inputs": (2, 3, 8, [Branch(1, 3)]),
}


def plain(x, branches, weights):
    outputs = []
    for branch, weight in zip(branches, weights, strict=True):
        padding = (branch.rows // 2, branch.frames // 2 * branch.dilation)
        outputs.append(functional.conv2d(x, weight, padding=padding, dilation=(1, branch.dilation)))
    return torch.cat(outputs, dim=1)


def relative_errors(actual, expected):
    return [((a - e).norm() / e.norm()).item() for a, e in zip(actual, expected, strict=True)]


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("t", [1, 33, 230])
def test_outputs_and_gradients_equal_those_of_conv2d(layer, t):
    torch.manual_seed(0)
    c_in, c, f, branches = LAYERS[layer]
    x = torch.randn(2, c_in, f, t, requires_grad=True)
    weights = [torch.randn(c, c_in, branch.rows, branch.frames, requires_grad=True) for branch in branches]
    results = []
    for convolve in (sparse_conv.sparse_conv, plain):
        y = convolve(x, branches, weights)
        torch.manual_seed(1)
        gradients = torch.autograd.grad(y, [x, *weights], torch.randn_like(y), materialize_grads=True)
        results.append([y.detach(), *(g + 1e-9 for g in gradients)])
    assert max(relative_errors(*results)) < 2e-5


@pytest.mark.parametrize("layer", ["stem", "refiner"])
def test_frames_of_context_have_no_output_of_their_own(layer):
    torch.manual_seed(0)
    c_in, c, f, branches = LAYERS[layer]
    x = torch.randn(1, c_in, f, 40)
    weights = [torch.randn(c, c_in, branch.rows, branch.frames) for branch in branches]
    plan, packed = sparse_conv.forward_plan(c_in, tuple(branches)), sparse_conv.forward_weights(branches, weights)
    channels = plan.blocks * c
    epilogue = torch.zeros(channels), None, torch.ones(channels, f, 2), 0.1
    whole, _ = sparse_conv.convolve_and_finish(x, plan, packed, *epilogue)
    for lead in (1, 7, 39):
        out, mean = sparse_conv.convolve_and_finish(x, plan, packed, *epilogue, lead)
        torch.testing.assert_close(out, whole[..., lead:])
        torch.testing.assert_close(mean, whole[..., lead:].mean(dim=(2, 3)), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("t", [1, 4, 33, 207])
def test_winograd_along_time_equals_conv1d(t):
    torch.manual_seed(0)
    x = torch.randn(2, 50, t, requires_grad=True)
    weight = torch.randn(11, 50, 3, requires_grad=True)
    y, expected = time_conv(x, transform_weight(weight)), functional.conv1d(x, weight, padding=1)
    upstream = torch.randn_like(y)
    gradients = torch.autograd.grad(y, [x, weight], upstream)
    expected_gradients = torch.autograd.grad(expected, [x, weight], upstream)
    assert max(relative_errors([y, *gradients], [expected, *expected_gradients])) < 2e-5


def test_results_are_bit_equal_for_any_number_of_threads():
    torch.manual_seed(0)
    c_in, c, f, branches = LAYERS["stem"]
    x, gradient = torch.randn(2, c_in, f, 900), torch.randn(2, c * len(branches), f, 900)
    weights = [torch.randn(c, c_in, branch.rows, branch.frames) for branch in branches]
    plan, packed = sparse_conv.forward_plan(c_in, tuple(branches)), sparse_conv.forward_weights(branches, weights)
    channels = plan.blocks * c
    epilogue = torch.zeros(channels), None, torch.ones(channels, f, 2), 0.1
    threads, results = torch.get_num_threads(), []
    try:
        for number in (1, 2, 2, 2, 5):
            torch.set_num_threads(number)
            finished = sparse_conv.convolve_and_finish(x, plan, packed, *epilogue)
            results.append([*finished, sparse_conv.correlate(x, gradient, plan, c)])
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for others in results[1:] for a, b in zip(results[0], others, strict=True))
