"""Training of the end stage beside a trained network that stays as it is.

A note ends in a frame if it has survived all frames before, so that the map gives the probability of each end, as in
survival analysis. The loss is the negative log probability of an end close to the true one: what counts is the note,
not the frame, and what the scores accept costs nothing.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid, pad

from ov_piano.model.base import OnsetVelocityBase
from ov_piano.model.fast import optimize_for_inference
from ov_piano.training.schedule import Schedule
from ov_piano.training.step import Step

SHARE, LEAST_FRAMES = 0.15, 1.5  # of a note's length: the largest error without loss; scores accept 20 % and 50 ms
KEYS_USED = 24  # of each chunk, those with the most notes
CUT_WEIGHT = 0.5  # of notes that begin before the chunk or end after it


class Notes(NamedTuple):
    """Notes of piano rolls (rows, t), (n,) each: their row, first frame, end frame (exclusive), and how they end."""

    row: Tensor
    begin: Tensor
    end: Tensor
    struck_again: Tensor  # the key is struck again in the end frame
    is_cut: Tensor  # begins before or ends after the roll


def find_notes(velocities: Tensor) -> Notes:
    """Notes in (rows, t), above 0 while a key sounds. A change of velocity is a new onset of a sounding key."""
    t = velocities.shape[1]
    padded = pad(velocities, (1, 1))  # frame -1 to frame t
    changes = pad(padded.diff(dim=1), (1, 0)).flatten().nonzero().squeeze(1)
    after = padded.flatten()[changes]
    begins = (after > 0).nonzero().squeeze(1)
    ends = begins + 1  # every note is followed by another change in its row
    begin, end = (changes[places] % (t + 2) - 1 for places in (begins, ends))
    return Notes(changes[begins] // (t + 2), begin, end, after[ends] > 0, (begin == 0) | (end == t))


def end_loss(logits: Tensor, velocities: Tensor, over_processes: Callable[[Tensor], Tensor] | None = None) -> Tensor:
    """Mean over the notes of -log P(the note ends where it should).

    Where its key is struck again, or the chunk ends, P is the probability that it lasts until then.

    :param logits: of the end in each frame, (rows, t)
    :param velocities: (rows, t), above 0 while a key sounds
    :param over_processes: mean over the processes that have a share of the batch each. The mean of what they return is
        then the loss of the whole batch, however the notes are distributed.
    """
    t, notes = logits.shape[1], find_notes(velocities)
    survival = pad(logsigmoid(-logits).double().cumsum(dim=1), (1, 0))  # log, before each frame: (rows, t + 1)
    reach = (SHARE * (notes.end - notes.begin)).clamp(min=LEAST_FRAMES).long()
    first = torch.maximum(notes.end - reach, notes.begin + 1)
    last = notes.end + reach
    first = torch.where(notes.end == t, t, first)
    lasts = survival[notes.row, first] - survival[notes.row, notes.begin + 1]
    ends = survival[notes.row, (last + 1).clamp(max=t)] - survival[notes.row, first]  # log P(it does not end within)
    ends = torch.log(-torch.expm1(ends.clamp(max=-1e-6)))
    log_probability = lasts + torch.where(notes.struck_again | (last >= t), 0, ends)
    weights = torch.where(notes.is_cut, CUT_WEIGHT, 1.0)
    weight = weights.sum()
    if over_processes is not None:
        weight = over_processes(weight)
    return -(log_probability * weights).sum().float() / weight.clamp(min=1)


def busiest_keys(key_velocities: Tensor, keys: int = KEYS_USED) -> Tensor:
    """The keys with the most notes in each chunk (b, all keys, t): (b, ``keys``), in ascending order."""
    starts = pad(key_velocities, (1, 0)).diff(dim=2) > 0  # (b, all keys, t)
    return starts.sum(dim=2).topk(keys, dim=1).indices.sort(dim=1).values


class EndLosses(NamedTuple):
    """Scalars with gradients; ``total`` is what the step minimises."""

    total: Tensor

    @property
    def logged(self) -> dict[str, Tensor]:
        """The losses to log, by name."""
        return {"end_loss": self.total}


class EndForward(nn.Module):
    """Logits (b, k, t-1) for keys (b, k) from the log-mel (b, mels, t) in dB, with gradients in the end stage only.

    :param fast: use the optimised kernels on the CPU for the frozen network
    """

    def __init__(self, model: OnsetVelocityBase, fast: bool):
        super().__init__()
        self.model, self.fast = model, fast
        self._frozen = None

    def forward(self, logmel: Tensor, keys: Tensor) -> Tensor:
        with torch.no_grad(), torch.autocast(logmel.device.type, enabled=False):  # the kernels read float32
            if self._frozen is None:  # not before the first step: by then a resumed run has its weights
                self._frozen = optimize_for_inference(self.model).end_input if self.fast else self.model.end_input
            onsets, spectrum = self._frozen(logmel)
        return self.model.end_stage(onsets.clone(), spectrum.clone(), keys)  # autograd refuses inference tensors


class EndStep(Step):
    """Losses and weight update of one step; see `Step` for the parameters.

    :param forward: log-mel (b, mels, t) and keys (b, k) -> logits of note ends (b, k, t-1)
    :param over_processes: mean over the processes that have a share of the batch each
    """

    def __init__(
        self,
        forward: Callable,
        optimizer: torch.optim.Optimizer,
        schedule: Schedule,
        *,
        over_processes: Callable[[Tensor], Tensor] | None = None,
        bf16: bool = False,
    ):
        super().__init__(forward, optimizer, schedule, bf16=bf16)
        self.over_processes = over_processes

    def losses(self, logmel: Tensor, key_velocities: Tensor) -> EndLosses:
        """Losses for a batch: log-mels (b, mels, t) in dB and velocities (b, keys, t), above 0 while a key sounds."""
        keys = busiest_keys(key_velocities[:, :, 1:])
        with torch.autocast(logmel.device.type, torch.bfloat16, enabled=self.bf16):
            logits = self.forward(logmel, keys)  # (b, k, t-1): the network's output lacks the first frame
        velocities = key_velocities.gather(1, keys[:, :, None].expand(-1, -1, key_velocities.shape[2]))[:, :, 1:]
        return EndLosses(end_loss(logits.float().flatten(0, 1), velocities.flatten(0, 1), self.over_processes))
