"""The networks by name, and the one that a snapshot belongs to."""

from functools import cache
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
    network = network_of(state) or OnsetVelocityNet  # whose names the message will miss
    bins = _mel_bands(state)
    shape = {} if bins is None else {"in_bins": bins}
    return load_state(network(**shape, leaky_relu_slope=leaky_relu_slope, init=False), state, path).eval()


def load_weights(path: str | Path, model: OnsetVelocityBase) -> None:
    """Load the weights at ``path`` into ``model``.

    :raises InputError: no snapshot, or not one of this network; the model is then unchanged
    """
    state = read_snapshot(path)
    network = network_of(state)
    if network is not None and not isinstance(model, network):
        raise InputError(f"{path}: snapshot of {network.__name__}, expected one of {type(model).__name__}")
    load_state(model, state, path)


def network_of(state: dict[str, Tensor]) -> type[OnsetVelocityBase] | None:
    """The network that has the most names in common with ``state``; None if there are no such names."""
    in_common = {network: len(_names(network) & state.keys()) for network in NETWORKS.values()}
    found = max(in_common, key=in_common.get)
    return found if in_common[found] else None


@cache
def _names(network: type[OnsetVelocityBase]) -> frozenset[str]:
    with torch.device("meta"):
        return frozenset(network(init=False).state_dict())


def _mel_bands(state: dict[str, Tensor]) -> int | None:
    """The mel bands that the input norm is for; None where there is no such norm."""
    weight = state.get("specnorm.bn.weight")  # of the frames and of their differences
    if weight is None or weight.ndim != 1 or not 1 <= len(weight) // 2 <= LARGEST_BINS:
        return None
    return len(weight) // 2
