"""The end stage: in which frames notes end, from the spectrum and the onsets that a trained network finds.

A damper that falls shows as levels that drop faster than strings decay. When the pedal comes up, they drop for many
keys at once, which a second path sees in the whole spectrum and the onsets of all keys. How fast levels drop depends on
the room and the dampers: the mean of what this path hears, over the recording, adapts the path of each key. The
network's features are of no use here: they are trained for onsets.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import leaky_relu, pad

STEP = 2  # frames: most of the stage runs at half the frame rate, in half the time
LEVELS = 6  # weighted sums of the spectrum for each key
CHANNELS, FRAMES, DILATIONS = 16, 5, (1, 2, 4, 8)  # of each key's path
SPECTRUM_CHANNELS, SPECTRUM_FRAMES, SPECTRUM_DILATIONS = 128, 3, (1, 2, 4, 8, 16)  # of all keys' path
CONTEXT, ADAPTING = 64, 32  # features whose mean over the recording adapts each key's path, and their hidden layer
REACH = 128  # frames to either side that an output depends on, at most, besides the mean over the recording
RARE = -4.0  # logit: few frames end a note


class Strided(nn.Module):
    """A convolution with one output frame for `STEP` input frames, batch norm, leaky ReLU."""

    def __init__(self, channels: int, out_channels: int, frames: int, momentum: float, slope: float):
        super().__init__()
        settings = {"stride": (1, STEP), "padding": (0, (frames - STEP) // 2), "bias": False}
        self.conv = nn.Conv2d(channels, out_channels, (1, frames), **settings)
        self.norm = nn.BatchNorm2d(out_channels, momentum=momentum)
        self.slope = slope

    def forward(self, x: Tensor) -> Tensor:
        return leaky_relu(self.norm(self.conv(x)), self.slope)


class Residual(nn.Module):
    """A convolution along time, batch norm and leaky ReLU, added to their input."""

    def __init__(self, channels: int, frames: int, dilation: int, momentum: float, slope: float):
        super().__init__()
        padding = (0, dilation * (frames // 2))
        self.conv = nn.Conv2d(channels, channels, (1, frames), padding=padding, dilation=(1, dilation), bias=False)
        self.norm = nn.BatchNorm2d(channels, momentum=momentum)
        self.slope = slope

    def forward(self, x: Tensor) -> Tensor:
        return x + leaky_relu(self.norm(self.conv(x)), self.slope)


def mean_over_time(x: Tensor) -> Tensor:
    """(b, c, 1, t) -> (b, c)"""
    return x.mean(dim=(2, 3))


class EndStage(nn.Module):
    """Onset logits (b, keys, t) and normalised log-mel (b, mels, t) -> logits (b, keys, t).

    A logit is that of the probability that a note that still sounds ends in this frame. All keys share the weights,
    except for the sums of the spectrum.

    :param momentum: of all batch norms, in PyTorch's sense
    :param slope: of the leaky ReLUs
    """

    def __init__(self, mels: int, keys: int, momentum: float, slope: float):
        super().__init__()
        norm = {"momentum": momentum, "slope": slope}
        self.key_levels = nn.Conv1d(mels, LEVELS * keys, 1)
        self.key_input = Strided(1 + LEVELS, CHANNELS, 6, **norm)
        self.spectrum_path = nn.Sequential(
            Strided(mels + keys, SPECTRUM_CHANNELS, 4, **norm),
            *(Residual(SPECTRUM_CHANNELS, SPECTRUM_FRAMES, dilation, **norm) for dilation in SPECTRUM_DILATIONS),
        )
        self.to_keys = nn.Conv2d(SPECTRUM_CHANNELS, CHANNELS, 1)
        self.listen = nn.Sequential(
            nn.Conv2d(SPECTRUM_CHANNELS, CONTEXT, 1, bias=False),
            nn.BatchNorm2d(CONTEXT, momentum=momentum),
            nn.LeakyReLU(slope),
        )
        self.adapt = nn.Sequential(nn.Linear(CONTEXT, ADAPTING), nn.LeakyReLU(slope), nn.Linear(ADAPTING, 2 * CHANNELS))
        self.key_path = nn.Sequential(*(Residual(CHANNELS, FRAMES, dilation, **norm) for dilation in DILATIONS))
        self.readout = nn.Conv2d(CHANNELS, STEP, 1)
        nn.init.normal_(self.readout.weight, std=0.05)
        nn.init.constant_(self.readout.bias, RARE)
        nn.init.zeros_(self.adapt[-1].weight)
        nn.init.zeros_(self.adapt[-1].bias)

    def forward(
        self,
        onsets: Tensor,
        spectrum: Tensor,
        keys: Tensor | None = None,
        mean: Callable[[Tensor], Tensor] = mean_over_time,
    ) -> Tensor:
        """Logits of all keys, or of ``keys`` (b, k) only: (b, k, t).

        :param mean: of features (b, c, 1, t / STEP) over time: (b, c); streams have their own
        """
        t = spectrum.shape[2]
        onsets, spectrum = whole_steps(onsets, spectrum)
        x = torch.cat([onsets[:, None], self.key_levels(spectrum).unflatten(1, (LEVELS, -1))], dim=1)
        if keys is not None:
            x = x.gather(2, keys[:, None, :, None].expand(-1, x.shape[1], -1, x.shape[3]))
        x = self.key_input(x)  # (b, CHANNELS, keys, t / STEP)
        common = self.spectrum_path(torch.cat([spectrum, onsets], dim=1)[:, :, None])  # (b, channels, 1, t / STEP)
        scale, shift = self.adapt(mean(self.listen(common)))[..., None, None].chunk(2, dim=1)
        x = (x + self.to_keys(common)) * (1 + scale) + shift
        x = self.readout(self.key_path(x))  # (b, STEP, keys, t / STEP)
        return x.permute(0, 2, 3, 1).flatten(2)[..., :t]


def whole_steps(onsets: Tensor, spectrum: Tensor) -> tuple[Tensor, Tensor]:
    """Both with as many frames as needed for a multiple of `STEP`."""
    missing = (0, -spectrum.shape[2] % STEP)
    return pad(onsets, missing, mode="replicate"), pad(spectrum, missing, mode="replicate")
