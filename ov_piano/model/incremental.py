"""Incremental inference for streams: new log-mel frames in, logits of the latest frames out.

Convolutions depend on frames to both sides. The latest frames lack their right context, as at the end of a recording,
so each layer recomputes them when more input arrives, until the caller declares them settled. Of the settled frames,
each layer keeps as many input frames as its kernels reach.

The gates of context-aware modules depend on the mean of their input over time: here the mean over the stream so far
and, after ``GATE_FRAMES``, an exponential moving average. As the first seconds of a stream say little about the rest,
the mean that the trained batch norms imply counts at first, too.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ov_piano.model.base import OnsetVelocityBase, with_differences
from ov_piano.model.end_stage import EndStage
from ov_piano.model.layers import ContextAwareModule, SubSpectralNorm, batch_norm_of, in_turn

GATE_FRAMES = 2000  # 48 s
PRIOR_FRAMES = 80  # what the prior mean counts at first; falls to 0 while `PRIOR_FADES_FRAMES` are heard
PRIOR_FADES_FRAMES = 1000


class Step(NamedTuple):
    """One or more layers: ``run(x, mean, lead) -> (y, mean of y or None)``.

    The first ``lead`` frames of x are only context: y starts with the frame after them.

    :param reach: frames to either side that an output depends on
    :param prior: (c,) if ``run`` needs ``mean`` (b, c), the input's mean over frequency and time: what to expect
    """

    run: Callable[[Tensor, Tensor | None, int], tuple[Tensor, Tensor | None]]
    reach: int
    prior: Tensor | None = None


class EndPart(NamedTuple):
    """The end stage, which is not in steps: see `EndStage`.

    :param run: ``run(onsets, spectrum, mean=…) -> logits``, as the stage
    :param prior: (c,) of the features whose mean it needs: what to expect
    """

    run: Callable[..., Tensor]
    prior: Tensor

    @classmethod
    def of(cls, stage: EndStage, run: Callable[..., Tensor] | None = None) -> "EndPart":
        """``run`` defaults to the stage itself."""
        norm, leaky_relu = stage.listen[1:]
        return cls(run or stage, prior_mean(norm, leaky_relu.negative_slope, norm.num_features))


class Parts(NamedTuple):
    """A network's parts as steps; see `OnsetVelocityBase`."""

    stem: Sequence[Step]  # including specnorm, as the first step
    onset_stages: Sequence[Sequence[Step]]
    velocity_stage: Sequence[Step]
    end_stage: EndPart | None = None


def plain_parts(model: OnsetVelocityBase) -> Parts:
    """The network in plain PyTorch, one step per layer."""
    stem = _plain_steps(nn.Sequential(model.specnorm, model.stem))
    onset_stages, velocity_stage = [*map(_plain_steps, model.onset_stages)], _plain_steps(model.velocity_stage)
    return Parts(stem, onset_stages, velocity_stage, model.end_stage and EndPart.of(model.end_stage))


def _plain_steps(part: nn.Module) -> list[Step]:
    layers, steps = list(in_turn(part)), []
    for i, layer in enumerate(layers):
        if isinstance(layer, ContextAwareModule):
            norm, leaky_relu = layers[i - 2 : i] if i > 1 else (None, None)
            slope = getattr(leaky_relu, "negative_slope", None)
            steps.append(_plain_context_aware(layer, prior_mean(norm, slope, layer.se.fc[0].in_features)))
        else:
            steps.append(Step(lambda x, _, lead, layer=layer: (layer(x.clone())[..., lead:], None), reach(layer)))
    return steps


def _plain_context_aware(layer: ContextAwareModule, prior: Tensor) -> Step:
    def run(x: Tensor, mean: Tensor, lead: int) -> tuple[Tensor, None]:
        context = torch.cat([hdc(x) for hdc in layer.hdcs], dim=1)
        return torch.addcmul(layer.skip(x), layer.se.fc(mean)[:, :, None, None], context)[..., lead:], None

    return Step(run, reach(layer), prior)


@torch.no_grad()
def prior_mean(norm: nn.Module | None, slope: float | None, channels: int) -> Tensor:
    """Mean (channels,) after a trained norm and a leaky ReLU, as if normally distributed; 0, shape (), if unknown."""
    if not isinstance(norm, SubSpectralNorm | nn.BatchNorm2d) or slope is None:
        return torch.zeros(())  # whatever the device
    mean, deviation = batch_norm_of(norm).bias, batch_norm_of(norm).weight.abs().clamp(min=1e-12)
    z = mean / deviation
    density = torch.exp(-z.square() / 2) / math.sqrt(2 * math.pi)
    positive = mean * torch.special.ndtr(z) + deviation * density  # the mean after a ReLU
    return (positive + slope * (mean - positive)).view(channels, -1).mean(dim=1)


def reach(layer: nn.Module) -> int:
    """Frames to either side that the layer's widest convolution depends on."""
    convs = [module for module in layer.modules() if isinstance(module, nn.Conv2d)]
    return max((conv.dilation[1] * (conv.kernel_size[1] // 2) for conv in convs), default=0)


class IncrementalNet:
    """The state of one stream through a network; streams may share ``parts``.

    The end stage is left to the caller, who may run it less often. ``end_input`` is its input for the frames of the
    latest call: see `OnsetVelocityBase.end_input`.
    """

    def __init__(self, parts: Parts):
        self._stem = _Memory(parts.stem)
        self._onset_stages = [_Memory(stage) for stage in parts.onset_stages]
        self._normalise = parts.stem[0]
        self._velocity_stage = _Memory(parts.velocity_stage)
        self.end_input: tuple[Tensor, Tensor] | None = None

    @torch.inference_mode()
    def __call__(self, logmel: Tensor, settled: int) -> Tensor:
        """Log-mel (b, mels, 1 + t) in dB -> onset and velocity logits (b, 2, keys, t) of all frames but the first.

        :param settled: how many of the t frames, counted from the first, are final; the next call must start with
            the last of them
        """
        x = with_differences(logmel)  # (b, 2, mels, t)
        features = self._stem(x, settled)  # (b, c, keys, t)
        onsets = sum(stage(features, settled) for stage in self._onset_stages)  # (b, 1, keys, t)
        shared = torch.cat([features, onsets], dim=1)  # (b, c+1, keys, t)
        self.end_input = onsets[:, 0], self._normalise.run(x, None, 0)[0][:, 0]
        return torch.cat([onsets, self._velocity_stage(shared, settled)], dim=1)


class _Memory:
    """A sequence of steps with the past input that each needs."""

    def __init__(self, steps: Sequence[Step]):
        self._steps = steps
        self._before: list[Tensor | None] = [None] * len(steps)
        self._means = [None if step.prior is None else RunningMean(step.prior) for step in steps]

    def __call__(self, x: Tensor, settled: int) -> Tensor:
        """(b, c, f, t) -> output for the same frames; the first ``settled`` of them are final."""
        for i, (run, frames, _) in enumerate(self._steps):
            mean = self._means[i] and self._means[i](x, settled)
            known = 0
            if frames:
                if self._before[i] is not None:
                    known = self._before[i].shape[3]
                    x = torch.cat([self._before[i], x], dim=3)
                if settled:
                    end = known + settled
                    self._before[i] = x[..., max(0, end - frames) : end].clone()
            x = run(x, mean, known)[0]
        return x


class RunningMean:
    """Mean (b, c) over frequency and past time, an exponential moving average after ``GATE_FRAMES``.

    :param prior: (c,) what to expect
    """

    def __init__(self, prior: Tensor):
        self._prior = prior
        self._sum, self._frames = 0.0, 0.0

    def __call__(self, x: Tensor, settled: int) -> Tensor:
        levels = x.mean(dim=2)  # (b, c, t)
        heard = self._frames + levels.shape[2]
        weight = PRIOR_FRAMES * max(0.0, 1 - heard / PRIOR_FADES_FRAMES)
        mean = (self._sum + levels.sum(dim=2) + weight * self._prior) / (heard + weight)
        self._sum = self._sum + levels[:, :, :settled].sum(dim=2)
        self._frames += settled
        if self._frames > GATE_FRAMES:
            self._sum, self._frames = self._sum * (GATE_FRAMES / self._frames), float(GATE_FRAMES)
        return mean
