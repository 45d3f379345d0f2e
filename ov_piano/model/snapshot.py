"""Snapshots: weights and batch-norm statistics as a plain ``torch.save`` of the state dict."""

import io
import pickle
import re
import warnings
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ov_piano.errors import InputError
from ov_piano.machine.atomic import atomic_write, remove_partials

Model = TypeVar("Model", bound=nn.Module)
EXAMPLES = 3  # names spelled out in a message; the rest is counted


def save_snapshot(model: nn.Module, path: str | Path) -> None:
    """Write the weights of ``model`` (on any device) atomically."""
    save_atomically({name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}, path)


def save_atomically(content: Any, path: str | Path) -> None:
    """``torch.save`` to a partial file, then rename it to ``path``.

    Also delete partial files of killed processes in the folder, tens of megabytes each.

    :raises OSError: the file cannot be written, e.g. the disk is full; an existing file is unchanged
    """
    remove_partials(Path(path).parent)
    serialized = io.BytesIO()  # torch.save does not reliably report a full disk
    torch.save(content, serialized)
    with atomic_write(path) as partial:
        partial.write_bytes(serialized.getbuffer())


def load_snapshot(path: str | Path, model: Model) -> Model:
    """Load the weights at ``path`` into ``model`` and return it; never executes code in the file.

    :raises InputError: not a snapshot of this network: names or shapes differ, or values are not finite. The
        model is then unchanged.
    """
    return load_state(model, read_snapshot(path), path)


def load_state(model: Model, state: dict[str, Tensor], path: str | Path) -> Model:
    """Same as :func:`load_snapshot`, for a state dict that :func:`read_snapshot` read from ``path``."""
    expected = model.state_dict()
    missing, unexpected = expected.keys() - state.keys(), state.keys() - expected.keys()
    if missing or unexpected:
        raise InputError(
            f"{path}: not a snapshot of {type(model).__name__}: "
            f"{_some(missing) or 'no'} names missing, {_some(unexpected) or 'no'} unexpected"
        )
    wrong = [
        f"{name} (expected {_describe(wanted)}, found {_describe(state[name])})"
        for name, wanted in expected.items()
        if state[name].shape != wanted.shape or state[name].is_floating_point() != wanted.is_floating_point()
    ]
    if wrong:
        raise InputError(f"{path}: snapshot with shapes other than those of {type(model).__name__}: {_some(wrong)}")
    broken = [name for name, tensor in state.items() if not tensor.isfinite().all()]
    if broken:
        raise InputError(f"{path}: snapshot with values that are not finite in {_some(broken)}")
    model.load_state_dict(state, strict=True)
    return model


def read_snapshot(path: str | Path) -> dict[str, Tensor]:
    """Read the tensors by name; never executes code in the file.

    :raises InputError: not a snapshot
    """
    if not Path(path).is_file():
        raise InputError(f"{path}: snapshot not found")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the error below is enough
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the unpickler may raise anything on a damaged or foreign file
        if isinstance(error, OSError) and error.filename:  # the file cannot be read
            raise
        raise InputError(
            f"{path}: not a snapshot: expected a saved state dict, found {_foreign(path, error)}"
        ) from None
    if not isinstance(state, dict) or not state:
        raise InputError(f"{path}: not a snapshot: expected a state dict, found {type(state).__name__}")
    for name, tensor in state.items():
        if not _is_plain_tensor(tensor):
            raise InputError(
                f"{path}: not a snapshot: expected tensors, found {name!r} of type {type(tensor).__name__}"
            )
    return state


def _foreign(path: str | Path, error: Exception) -> str:
    """What kind of file the unpickler rejected with ``error``."""
    if called := re.search(r"GLOBAL ([\w.]+)", str(error)):
        return f"a pickle that calls {called[1]} (not executed)"
    with open(path, "rb") as file:
        is_pickle = file.read(1) == pickle.PROTO
    return "another kind of pickle (not executed)" if is_pickle else "another kind of file or a damaged one"


def _is_plain_tensor(x: Any) -> bool:
    return isinstance(x, Tensor) and x.layout == torch.strided and x.device.type == "cpu" and not x.is_quantized


def _describe(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"


def _some(names: Any) -> str:
    """The first few names and the number of the others; an empty string for no names."""
    names = sorted(map(str, names))
    more = f" and {len(names) - EXAMPLES} more" if len(names) > EXAMPLES else ""
    return ", ".join(names[:EXAMPLES]) + more
