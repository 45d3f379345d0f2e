"""Random variations of log-mels, so that a model does not lean on the acoustics of its training set."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

POINTS = 8  # across the mel bands, where a response is drawn; straight lines between them


@dataclass(frozen=True)
class RandomResponse:
    """Give each chunk a frequency response of its own, constant over the chunk.

    That augmentation helps a piano transcriber on recordings unlike its training set is shown by
    Edwards et al. 2024 (arXiv 2402.01424). Levels in dB just add, so a response is a curve over
    the mel bands, drawn from torch's generator.

    :param decibels: standard deviation of the response at its points; 0 leaves chunks as they are
    """

    decibels: float

    def __call__(self, logmel: Tensor) -> Tensor:
        """(b, mels, t) in dB -> the same."""
        if not self.decibels:
            return logmel
        points = self.decibels * torch.randn(len(logmel), 1, POINTS, device=logmel.device)
        response = nn.functional.interpolate(points, logmel.shape[1], mode="linear", align_corners=True)
        return logmel + response.transpose(1, 2)
