"""Torch devices."""

import torch

from ov_piano.errors import InputError

DEFAULT_DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def select_device(name: str, tf32: bool = True) -> torch.device:
    """The torch device ``name`` ("cpu", "cuda", "cuda:1", "mps"), checked to be usable.

    :param tf32: use TF32 for float32 matrix products on CUDA; affects the whole process
    :raises InputError: the device is not available
    """
    try:
        device = torch.device(name)
    except RuntimeError:
        raise InputError(f"DEVICE={name}: not a usable device, expected cpu, cuda, cuda:1 or the like") from None
    try:
        torch.empty(1, device=device).item()  # raises on "meta", which has no values
    except (RuntimeError, AssertionError, NotImplementedError, ImportError) as error:
        reason = str(error).splitlines()[0].split(". ")[0]
        raise InputError(f"DEVICE={name}: not a usable device here ({reason})") from None
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = tf32
        torch.backends.cudnn.allow_tf32 = tf32
    return device
