"""The networks by name, and loading of snapshots."""

from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from ov_piano.errors import InputError
from ov_piano.model.base import OnsetVelocityBase
from ov_piano.model.onset_velocity_net import OnsetVelocityNet
from ov_piano.model.onsets_and_velocities import OnsetsAndVelocities
from ov_piano.model.sidecar import LARGEST_MELS, read_sidecar
from ov_piano.model.snapshot import load_state, read_snapshot

NETWORKS: dict[str, type[OnsetVelocityBase]] = {
    network.__name__: network for network in (OnsetVelocityNet, OnsetsAndVelocities)
}
FINGERPRINT = "network"  # an entry of files with note ends: which network they were trained on


def load_network(path: str | Path, leaky_relu_slope: float | None = None) -> OnsetVelocityBase:
    """Load the snapshot at ``path`` into a network of the matching class and ``in_bins``, in eval mode.

    :param leaky_relu_slope: None: the one in the YAML file beside the snapshot, else 0.1
    :raises InputError: not a snapshot of a known network, or its YAML file is invalid or says otherwise
    """
    sidecar = read_sidecar(path)
    slope = sidecar.slope(leaky_relu_slope)
    state = _read_network(path)
    network = network_of(state) or OnsetVelocityNet  # load_state then reports the missing names
    bins = _mel_bands(state)
    shape = {} if bins is None else {"in_bins": bins}
    model = load_state(network(**shape, leaky_relu_slope=slope, init=False), state, path).eval()
    sidecar.check_network(network.__name__, model.in_bins)
    return model


def load_weights(path: str | Path, model: OnsetVelocityBase) -> None:
    """Load the weights at ``path`` into ``model``.

    :raises InputError: not a snapshot of this network; the model is then unchanged
    """
    state = _read_network(path)
    network = network_of(state)
    if network is not None and not isinstance(model, network):
        raise InputError(f"{path}: snapshot of {network.__name__}, expected one of {type(model).__name__}")
    load_state(model, state, path)


def _read_network(path: str | Path) -> dict[str, Tensor]:
    state = read_snapshot(path)
    if FINGERPRINT in state:
        raise InputError(f"{path}: expected the weights of a network, found note ends: pass X.torch, not X.ends.torch")
    return state


def network_of(state: dict[str, Tensor]) -> type[OnsetVelocityBase] | None:
    """The network that shares the most names with ``state``; None if none does."""
    in_common = {network: len(_names(network) & state.keys()) for network in NETWORKS.values()}
    found = max(in_common, key=in_common.get)
    return found if in_common[found] else None


@cache
def _names(network: type[OnsetVelocityBase]) -> frozenset[str]:
    with torch.device("meta"):
        return frozenset(network(init=False).state_dict())


def _mel_bands(state: dict[str, Tensor]) -> int | None:
    """The number of mel bands of the input norm; None if there is no such norm."""
    weight = state.get("specnorm.bn.weight")  # (2 * mels,): frames and their differences
    if weight is None or weight.ndim != 1 or not 1 <= len(weight) // 2 <= LARGEST_MELS:
        return None
    return len(weight) // 2
