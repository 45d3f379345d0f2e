"""The end stage of a network and its file.

The network stays as it is. The stage's weights are a file of their own beside the snapshot: ``X.ends.torch`` belongs to
``X.torch`` and carries the fingerprint of the layers it was trained on, so that it is not used with others.
"""

import hashlib
from pathlib import Path

import torch
from torch import Tensor, nn

from ov_piano.errors import InputError
from ov_piano.model.base import OnsetVelocityBase
from ov_piano.model.end_stage import EndStage
from ov_piano.model.networks import FINGERPRINT, load_network
from ov_piano.model.sidecar import read_sidecar
from ov_piano.model.snapshot import load_state, read_snapshot, save_atomically

SUFFIX = ".ends.torch"
FINGERPRINT_BYTES = 16


def add_end_stage(model: OnsetVelocityBase, *, batch_norm: float = 0.1, leaky_relu_slope: float = 0.1) -> EndStage:
    """Give ``model`` a new end stage and return it; see the networks for the parameters."""
    stage = EndStage(model.in_bins, model.keys, batch_norm, leaky_relu_slope)
    model.end_stage = stage.to(next(model.parameters()).device)
    model.train(model.training)
    return model.end_stage


def has_end_stage(model: nn.Module) -> bool:
    """Whether note ends can be inferred with ``model``."""
    return getattr(model, "end_stage", None) is not None


def ends_path(snapshot_path: str | Path) -> Path:
    """Path of the end stage's weights that belong to a snapshot."""
    path = Path(snapshot_path)
    return path.with_name(path.name.removesuffix(path.suffix) + SUFFIX)


def save_ends(model: OnsetVelocityBase, path: str | Path) -> None:
    """Write the weights of the end stage of ``model`` atomically."""
    state = {name: tensor.detach().cpu() for name, tensor in model.end_stage.state_dict().items()}
    save_atomically({**state, FINGERPRINT: fingerprint(model)}, path)


def load_ends(path: str | Path, model: OnsetVelocityBase, leaky_relu_slope: float = 0.1) -> None:
    """Give ``model`` the end stage at ``path``, in eval mode.

    :raises InputError: not an end stage, or one that was trained on another snapshot; the model is then unchanged
    """
    state, trained_on = _read_ends(path)
    if not torch.equal(trained_on, fingerprint(model)):
        raise InputError(f"{path}: note ends of another snapshot: train them on this one (TRAIN_ENDS=true)")
    before = model.end_stage
    stage = add_end_stage(model, leaky_relu_slope=leaky_relu_slope)
    try:
        load_state(stage, state, path)
    except InputError:
        model.end_stage = before
        raise
    stage.eval()


def initialise_from(path: str | Path, model: OnsetVelocityBase) -> None:
    """Copy the weights at ``path``, trained on any snapshot of the same network, into the end stage of ``model``.

    :raises InputError: not an end stage for this network
    """
    load_state(model.end_stage, _read_ends(path)[0], path)


def _read_ends(path: str | Path) -> tuple[dict[str, Tensor], Tensor]:
    """The weights at ``path``, and the fingerprint of the network that they were trained on."""
    state = read_snapshot(path)
    trained_on = state.pop(FINGERPRINT, None)
    if trained_on is None or not state:
        raise InputError(f"{path}: expected the weights of an end stage, as script 1 saves with TRAIN_ENDS=true")
    return state, trained_on


def load_with_ends(
    snapshot: str | Path, leaky_relu_slope: float | None = None, ends: str | Path | None = None
) -> OnsetVelocityBase:
    """The network of ``snapshot`` in eval mode, with the end stage ``ends`` (None: the one beside it, if any).

    :raises InputError: a file that is not what it should be, or ``ends`` of another snapshot
    """
    model = load_network(snapshot, leaky_relu_slope)
    if ends is None and ends_path(snapshot).is_file():
        ends = ends_path(snapshot)
    if ends is not None:
        load_ends(ends, model, read_sidecar(snapshot).slope(leaky_relu_slope))
    return model


def fingerprint(model: OnsetVelocityBase) -> Tensor:
    """Hash of the class and of all weights and statistics that the end stage depends on: uint8 (16,)."""
    digest = hashlib.sha256(type(model).__name__.encode())
    for name, tensor in sorted(model.state_dict().items()):
        if not name.startswith(("velocity_stage.", "end_stage.")) and tensor.is_floating_point():
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().float().contiguous().numpy().tobytes())
    return torch.tensor(list(digest.digest()[:FINGERPRINT_BYTES]), dtype=torch.uint8)
