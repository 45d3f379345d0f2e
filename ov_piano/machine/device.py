"""Where tensors live."""

import torch

from ov_piano.errors import InputError

DEFAULT_DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def select_device(name: str, tf32: bool = True) -> torch.device:
    """The torch device called ``name`` ("cpu", "cuda", "cuda:1", "mps"), checked to be usable.

    :param tf32: on CUDA, compute float32 products in TF32, for the whole process
    :raises InputError: no such device here
    """
    try:
        device = torch.device(name)
    except RuntimeError:
        raise InputError(f"DEVICE={name}: not a usable device, expected cpu, cuda, cuda:1 or the like") from None
    try:
        torch.empty(1, device=device).item()  # raises where there are no values, as on "meta"
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"DEVICE={name}: not a usable device here ({reason})") from None
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = tf32
        torch.backends.cudnn.allow_tf32 = tf32
    return device
