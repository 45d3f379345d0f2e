"""Data augmentation of training chunks, so that a model generalises beyond the acoustics of its training set.

Edwards et al. 2024 (arXiv 2402.01424) show that augmentation helps piano transcription on recordings unlike the
training set. Everything here works on log-mels in dB, uses torch's generator, and is off by default.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

CURVE_POINTS = 8  # random curves over the mel bands interpolate linearly between this many points
NOISE_BELOW_DB = (20.0, 80.0)  # noise level below the chunk's maximum
NOISE_CURVE_DB = 8.0  # standard deviation of the noise spectrum at the points of the curve
MIX_BELOW_DB = 10.0  # maximum attenuation of the second chunk of a mix
DETUNE_SEMITONES = 0.3  # maximum detuning added to a transposition
MASK_SHARE = 0.15  # maximum width of a mask, as a fraction of the mel bands


@dataclass(frozen=True)
class Augmentation:
    """Augment a batch, with random parameters for each chunk.

    :param response_db: standard deviation of a random frequency response
    :param gain_db: maximum gain, up or down
    :param transpose: maximum transposition in semitones; onsets move to the transposed keys
    :param mix: probability of mixing a chunk with another of the batch, with the onsets of both
    :param noise: probability of adding stationary background noise
    :param mask: probability of masking a range of mel bands
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
        """Log-mels (b, mels, t) in dB and onset velocities (b, keys, t) -> the same, augmented."""
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
        """Resample each chunk along frequency; bands outside the spectrum get its minimum."""
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
        """Mix some chunks with another of the batch; of two onsets in one cell the louder is kept."""
        chosen = (torch.rand(len(logmel), 1, 1, device=logmel.device) < self.mix) & (len(logmel) > 1)
        gains = -MIX_BELOW_DB * torch.rand(len(logmel), 1, 1, device=logmel.device)
        mixed = add_powers(logmel, logmel.roll(1, 0) + gains)
        both = torch.maximum(key_velocities, key_velocities.roll(1, 0))
        return torch.where(chosen, mixed, logmel), torch.where(chosen, both, key_velocities)

    def _with_noise(self, logmel: Tensor) -> Tensor:
        """Add noise with a smooth random spectrum and the exponentially distributed power of a periodogram."""
        chosen = torch.rand(len(logmel), 1, 1, device=logmel.device) < self.noise
        low, high = NOISE_BELOW_DB
        below = low + (high - low) * torch.rand(len(logmel), 1, 1, device=logmel.device)
        level = logmel.amax((1, 2), keepdim=True) - below + NOISE_CURVE_DB * random_curves(logmel)
        fluctuation = -torch.rand_like(logmel).clamp(min=1e-6).log()  # exponential, mean 1
        smooth = nn.functional.avg_pool1d(fluctuation, 3, stride=1, padding=1)  # windows of neighbouring frames overlap
        noisy = add_powers(logmel, level + 10 * smooth.clamp(min=1e-6).log10())
        return torch.where(chosen, noisy, logmel)

    def _masked(self, logmel: Tensor) -> Tensor:
        """Set a range of mel bands to the chunk's minimum in some chunks."""
        b, mels, _ = logmel.shape
        chosen = torch.rand(b, 1, 1, device=logmel.device) < self.mask
        width = 1 + mels * MASK_SHARE * torch.rand(b, 1, 1, device=logmel.device)
        begin = (mels - width) * torch.rand(b, 1, 1, device=logmel.device)
        band = torch.arange(mels, device=logmel.device)[None, :, None]
        silenced = chosen & (band >= begin) & (band < begin + width)
        return torch.where(silenced, logmel.amin((1, 2), keepdim=True), logmel)


def random_curves(logmel: Tensor) -> Tensor:
    """A smooth random curve over the mel bands for each chunk, (b, mels, 1), with unit deviation at its points."""
    points = torch.randn(len(logmel), 1, CURVE_POINTS, device=logmel.device)
    curves = nn.functional.interpolate(points, logmel.shape[1], mode="linear", align_corners=True)
    return curves.transpose(1, 2)


def add_powers(first_db: Tensor, second_db: Tensor) -> Tensor:
    """Level in dB of the sum of two powers given in dB."""
    return torch.logaddexp(first_db * (math.log(10) / 10), second_db * (math.log(10) / 10)) * (10 / math.log(10))


def transposed_bands(mels: int, mel_range_hz: tuple[float, float], semitones: Tensor) -> Tensor:
    """Fractional source band (b, mels) of each band when a spectrum is transposed up by ``semitones`` (b,).

    Band centres are equidistant on the HTK mel scale, as in torchaudio's `MelSpectrogram`.
    """
    low, high = (2595 * math.log10(1 + hz / 700) for hz in mel_range_hz)
    step = (high - low) / (mels + 1)
    mel = low + step * torch.arange(1, mels + 1, dtype=torch.float64, device=semitones.device)
    hz = 700 * (10 ** (mel / 2595) - 1)  # (mels,)
    source_hz = hz / 2 ** (semitones.double()[:, None] / 12)  # (b, mels)
    return ((2595 * torch.log10(1 + source_hz / 700) - low) / step - 1).float()
