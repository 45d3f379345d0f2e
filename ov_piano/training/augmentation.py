"""Random variations of training chunks, so that a model does not lean on the acoustics of its training set.

Edwards et al. 2024 (arXiv 2402.01424) show that such variations help a piano transcriber on recordings unlike its
training set. All of them work on log-mels in dB, draw from torch's generator, and are off by default.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

CURVE_POINTS = 8  # random curves over the mel bands are straight lines between this many points
NOISE_BELOW_DB = (20.0, 80.0)  # noise lies this far below the chunk's maximum
NOISE_CURVE_DB = 8.0  # standard deviation of the noise's spectrum at the curve's points
MIX_BELOW_DB = 10.0  # largest attenuation of the second chunk of a mix
DETUNE_SEMITONES = 0.3  # largest detuning that goes with a transposition
MASK_SHARE = 0.15  # widest masked band, as a share of the mel bands


@dataclass(frozen=True)
class Augmentation:
    """Variations of a batch, drawn for each chunk.

    :param response_db: standard deviation of a random frequency response
    :param gain_db: largest change of level
    :param transpose: largest transposition in semitones; onsets move to the transposed keys
    :param mix: probability of mixing a chunk with another one of the batch; the onsets of both count
    :param noise: probability of stationary background noise
    :param mask: probability of silencing a band of mels
    :param mel_range_hz: lower edge of the lowest and upper edge of the highest mel band, for ``transpose``
    """

    response_db: float = 0.0
    gain_db: float = 0.0
    transpose: int = 0
    mix: float = 0.0
    noise: float = 0.0
    mask: float = 0.0
    mel_range_hz: tuple[float, float] = (50.0, 8000.0)

    def __call__(self, logmel: Tensor, key_velocities: Tensor) -> tuple[Tensor, Tensor]:
        """Log-mels (b, mels, t) in dB and onset velocities (b, keys, t) of a batch -> the same, varied."""
        if self.transpose:
            logmel, key_velocities = self._transposed(logmel, key_velocities)
        if self.response_db:
            logmel = logmel + self.response_db * random_curves(logmel)
        if self.mix:
            logmel, key_velocities = self._mixed(logmel, key_velocities)
        if self.noise:
            logmel = self._with_noise(logmel)
        if self.mask:
            logmel = self._masked(logmel)
        if self.gain_db:
            gains = torch.rand(len(logmel), 1, 1, device=logmel.device) * 2 - 1
            logmel = logmel + self.gain_db * gains
        return logmel, key_velocities

    def _transposed(self, logmel: Tensor, key_velocities: Tensor) -> tuple[Tensor, Tensor]:
        """Each chunk's spectrum read at other frequencies; where there is nothing to read, its minimum."""
        device = logmel.device
        shifts = torch.randint(-self.transpose, self.transpose + 1, (len(logmel),), device=device)
        detune = (torch.rand(len(logmel), device=device) * 2 - 1) * DETUNE_SEMITONES
        sources = transposed_bands(logmel.shape[1], self.mel_range_hz, shifts + detune)  # (b, mels)
        last = logmel.shape[1] - 1
        lower = sources.floor().clamp(0, last - 1).long()[:, :, None].expand_as(logmel)
        share = (sources - lower[:, :, 0]).clamp(0, 1)[:, :, None]
        moved = torch.lerp(logmel.gather(1, lower), logmel.gather(1, lower + 1), share)
        outside = ((sources < 0) | (sources > last))[:, :, None]
        moved = torch.where(outside, logmel.amin((1, 2), keepdim=True), moved)
        keys = key_velocities.shape[1]
        from_keys = torch.arange(keys, device=device) - shifts[:, None]  # (b, keys)
        inside = (from_keys >= 0) & (from_keys < keys)
        index = from_keys.clamp(0, keys - 1)[:, :, None].expand_as(key_velocities)
        return moved, key_velocities.gather(1, index) * inside[:, :, None]

    def _mixed(self, logmel: Tensor, key_velocities: Tensor) -> tuple[Tensor, Tensor]:
        """Some chunks with the next one of the batch added; of two onsets in one cell the louder counts."""
        chosen = (torch.rand(len(logmel), 1, 1, device=logmel.device) < self.mix) & (len(logmel) > 1)
        gains = -MIX_BELOW_DB * torch.rand(len(logmel), 1, 1, device=logmel.device)
        mixed = add_powers(logmel, logmel.roll(1, 0) + gains)
        both = torch.maximum(key_velocities, key_velocities.roll(1, 0))
        return torch.where(chosen, mixed, logmel), torch.where(chosen, both, key_velocities)

    def _with_noise(self, logmel: Tensor) -> Tensor:
        """Noise of a random smooth spectrum; its power fluctuates from cell to cell as a periodogram's does."""
        chosen = torch.rand(len(logmel), 1, 1, device=logmel.device) < self.noise
        low, high = NOISE_BELOW_DB
        below = low + (high - low) * torch.rand(len(logmel), 1, 1, device=logmel.device)
        level = logmel.amax((1, 2), keepdim=True) - below + NOISE_CURVE_DB * random_curves(logmel)
        fluctuation = -torch.rand_like(logmel).clamp(min=1e-6).log()  # exponential, mean 1
        smooth = nn.functional.avg_pool1d(fluctuation, 3, stride=1, padding=1)  # windows of neighbouring frames overlap
        noisy = add_powers(logmel, level + 10 * smooth.clamp(min=1e-6).log10())
        return torch.where(chosen, noisy, logmel)

    def _masked(self, logmel: Tensor) -> Tensor:
        """Some chunks with one band of mels at their minimum."""
        b, mels, _ = logmel.shape
        chosen = torch.rand(b, 1, 1, device=logmel.device) < self.mask
        width = 1 + mels * MASK_SHARE * torch.rand(b, 1, 1, device=logmel.device)
        begin = (mels - width) * torch.rand(b, 1, 1, device=logmel.device)
        band = torch.arange(mels, device=logmel.device)[None, :, None]
        silenced = chosen & (band >= begin) & (band < begin + width)
        return torch.where(silenced, logmel.amin((1, 2), keepdim=True), logmel)


def random_curves(logmel: Tensor) -> Tensor:
    """A smooth random curve over the mel bands for each chunk, (b, mels, 1); deviation 1 at its points."""
    points = torch.randn(len(logmel), 1, CURVE_POINTS, device=logmel.device)
    curves = nn.functional.interpolate(points, logmel.shape[1], mode="linear", align_corners=True)
    return curves.transpose(1, 2)


def add_powers(first_db: Tensor, second_db: Tensor) -> Tensor:
    """Level in dB of the sum of two uncorrelated powers given in dB."""
    return torch.logaddexp(first_db * (math.log(10) / 10), second_db * (math.log(10) / 10)) * (10 / math.log(10))


def transposed_bands(mels: int, mel_range_hz: tuple[float, float], semitones: Tensor) -> Tensor:
    """Fractional band (b, mels) where each band's content lies in a spectrum that sounds ``semitones`` (b,) lower.

    Bands are centred equidistantly on the HTK mel scale, as torchaudio's `MelSpectrogram` has them.
    """
    low, high = (2595 * math.log10(1 + hz / 700) for hz in mel_range_hz)
    step = (high - low) / (mels + 1)
    mel = low + step * torch.arange(1, mels + 1, dtype=torch.float64, device=semitones.device)
    hz = 700 * (10 ** (mel / 2595) - 1)  # (mels,)
    source_hz = hz / 2 ** (semitones.double()[:, None] / 12)  # (b, mels)
    return ((2595 * torch.log10(1 + source_hz / 700) - low) / step - 1).float()
