"""The networks by name, and the one that a snapshot belongs to."""

from pathlib import Path

import torch
from torch import Tensor

from ov_piano.errors import InputError
from ov_piano.model.base import OnsetVelocityBase
from ov_piano.model.onset_velocity_net import OnsetVelocityNet
from ov_piano.model.onsets_and_velocities import OnsetsAndVelocities
from ov_piano.model.snapshot import load_state, read_snapshot

NETWORKS: dict[str, type[OnsetVelocityBase]] = {
    network.__name__: network for network in (OnsetVelocityNet, OnsetsAndVelocities)
}
LARGEST_BINS = 4096


def load_network(path: str | Path, leaky_relu_slope: float = 0.1) -> OnsetVelocityBase:
    """The network of the snapshot at ``path`` with its weights, in eval mode; ``in_bins`` is what it needs.

    :raises InputError: no snapshot, or not one of our networks
    """
    state = read_snapshot(path)
    network = network_of(state)
    bins = _mel_bands(state)
    shape = {} if bins is None else {"in_bins": bins}
    return load_state(network(**shape, leaky_relu_slope=leaky_relu_slope, init=False), state, path).eval()


def network_of(state: dict[str, Tensor]) -> type[OnsetVelocityBase]:
    """The network that has the most names in common with ``state``."""
    return max(NETWORKS.values(), key=lambda network: len(_names(network) & state.keys()))


def _names(network: type[OnsetVelocityBase]) -> set[str]:
    with torch.device("meta"):
        return set(network(init=False).state_dict())


def _mel_bands(state: dict[str, Tensor]) -> int | None:
    """The mel bands that the input norm is for; None where there is no such norm."""
    weight = state.get("specnorm.bn.weight")  # of the frames and of their differences
    if weight is None or weight.ndim != 1 or not 1 <= len(weight) // 2 <= LARGEST_BINS:
        return None
    return len(weight) // 2


def check_mel_bands(model: OnsetVelocityBase, snapshot: str | Path, mels: int, mel_path: str | Path) -> None:
    """:raises InputError: the log-mels at ``mel_path`` do not have the bands that ``model`` needs"""
    if mels != model.in_bins:
        raise InputError(
            f"{snapshot}: snapshot of {type(model).__name__} for {model.in_bins} mel bands: expected HDF5_MEL_PATH="
            f"…_mel={model.in_bins}(50-8000).h5 (script 0a or 0b with MELBINS={model.in_bins}), found {mel_path}"
        )
