"""Convert a snapshot to ONNX, to run it in other languages, on other devices and in browsers.

1. Load the network of the snapshot (plain PyTorch, without the optimised CPU kernels).
2. Export it with the inputs and outputs below, and compare it with the original in onnxruntime.
3. Store what a program needs besides the graph in the file's metadata: log-mel settings, threshold, shift and the
   decoder's blur.

    ov-piano export SNAPSHOT OUT.onnx        (the shipped snapshot: ov-piano export OUT=OUT.onnx)

Input: logmel (batch, mels, frames) in dB, any batch size, at least three frames. Outputs: onsets (probabilities) and
velocities, (batch, 88, frames) each, from 0 to 1; key 0 is A0. Requires pip install 'ov_piano[export]'. If ov_piano
is not installed, run python -m ov_piano.export.
"""

import json
import logging
import warnings
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ov_piano.cli import run
from ov_piano.config import NON_NEGATIVE, REQUIRED, option
from ov_piano.constants import LOWEST_NOTE, TOP_DB
from ov_piano.errors import InputError
from ov_piano.machine.atomic import atomic_write
from ov_piano.model.base import OnsetVelocityBase
from ov_piano.model.networks import load_network
from ov_piano.model.sidecar import PUBLISHED, read_sidecar
from ov_piano.resources import default_snapshot
from ov_piano.settings import DecoderSettings, LogMelSettings, OperatingPoint

EXTRA = ("onnx", "onnxscript", "onnxruntime")
TOLERANCE = 1e-3  # of a probability, between PyTorch and onnxruntime
CHECKED_FRAMES = (3, 333)  # other lengths than the export's example

log = logging.getLogger(__name__)


@dataclass
class ConfDef:
    """Settings of the command."""

    SNAPSHOT_INPATH: str | None = option(None, "network weights; null: the shipped snapshot", positional=True)
    OUT: str = option(REQUIRED, "ONNX file to write", positional=True)
    OVERWRITE: bool = option(False, "overwrite an existing file")
    LEAKY_RELU_SLOPE: float | None = option(
        None, "negative slope of the leaky ReLUs, as in training; null: the snapshot's own, else 0.1", NON_NEGATIVE
    )
    VERBOSE: bool = option(False, "print the configuration first")


class ProbabilityMaps(nn.Module):
    """Log-mel (b, mels, t) in dB -> onset probabilities and velocities, (b, keys, t) in 0..1 each.

    The network's output lacks the first frame; it is padded with 0, as the decoder expects.
    """

    def __init__(self, network: OnsetVelocityBase):
        super().__init__()
        self.network = network

    def forward(self, logmel: Tensor) -> tuple[Tensor, Tensor]:
        onsets, velocities = self.network.infer(logmel)  # (b, keys, t-1) each
        return nn.functional.pad(onsets.sigmoid(), (1, 0)), nn.functional.pad(velocities.sigmoid(), (1, 0))


def export_onnx(network: OnsetVelocityBase, path: str | Path, metadata: dict[str, str]) -> float:
    """Write the `ProbabilityMaps` of ``network`` as one complete ONNX file; returns its `largest_difference`.

    :raises TypeError: another module, such as the optimised CPU network, whose kernels ONNX lacks
    :raises InputError: onnx, onnxscript or onnxruntime is not installed, or the file would not compute what the network
        computes; no file is written then
    """
    if not isinstance(network, OnsetVelocityBase):
        raise TypeError(f"expected a plain network, found {type(network).__name__}: use load_network(path)")
    _require_extra()
    maps = ProbabilityMaps(network).eval().cpu()
    axes = {0: torch.export.Dim("batch"), 2: torch.export.Dim("frames", min=3)}
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # warns about torchvision operators, which are not needed
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # PyTorch's own deprecations
        exported = torch.export.export(maps, (_example(network, 2, 50),), dynamic_shapes={"logmel": axes})
        program = torch.onnx.export(
            exported, dynamo=True, input_names=["logmel"], output_names=["onsets", "velocities"], verbose=False
        )
    program.model.metadata_props.update(metadata)
    with atomic_write(path) as partial:
        program.save(str(partial))
        difference = largest_difference(network, partial)
        if not difference <= TOLERANCE:
            expected = f"expected at most {TOLERANCE:g}"
            raise InputError(f"{path}: differs from the network by up to {difference:.1e}, {expected}; not written")
    return difference


def onnx_metadata(network: OnsetVelocityBase, snapshot: str | Path, point: OperatingPoint) -> dict[str, str]:
    """What a program needs to use the graph: JSON strings by name."""
    settings = read_sidecar(snapshot).logmel or LogMelSettings(mels=network.in_bins)
    logmel = {
        **asdict(settings),
        "frame_secs": settings.frame_secs,
        "top_db": TOP_DB,
        "description": "mono; STFT with a periodic Hann window, centred, reflected at the ends; power spectrum; "
        "mel bands on the HTK scale without normalisation; 10 log10 of at least 1e-10; not below the maximum - top_db",
    }
    decoder = {
        **asdict(DecoderSettings()),
        **point._asdict(),
        "description": "blur onsets over frames (zero padding); an event is a value of at least threshold that no "
        "neighbouring frame exceeds; its velocity is the mean over three frames; add shift (s) to its time",
    }
    facts = {"network": type(network).__name__, "snapshot": Path(snapshot).name, "lowest_note": LOWEST_NOTE}
    return {name: json.dumps(value) for name, value in {**facts, "logmel": logmel, "decoder": decoder}.items()}


def largest_difference(network: OnsetVelocityBase, path: str | Path) -> float:
    """Largest difference between ``network`` and the file in onnxruntime, over several batch sizes and lengths."""
    _require_extra()
    session = import_module("onnxruntime").InferenceSession(str(path), providers=["CPUExecutionProvider"])
    maps, largest = ProbabilityMaps(network).eval().cpu(), 0.0
    for batch, frames in enumerate(CHECKED_FRAMES, start=1):
        logmel = _example(network, batch, frames)
        with torch.no_grad():
            expected = maps(logmel)
        found = session.run(["onsets", "velocities"], {"logmel": logmel.numpy()})
        largest = max(largest, *(float(np.abs(a.numpy() - b).max()) for a, b in zip(expected, found, strict=True)))
    return largest


def _example(network: OnsetVelocityBase, batch: int, frames: int) -> Tensor:
    """A random log-mel (batch, mels, frames) in dB, in the range of real recordings."""
    noise = torch.randn(batch, network.in_bins, frames, generator=torch.Generator().manual_seed(0))
    return (20 * noise - 40).clamp(-80, 40)


def _require_extra() -> None:
    for package in EXTRA:
        try:
            import_module(package)
        except ModuleNotFoundError:
            raise InputError(f"the export needs {package}: pip install 'ov_piano[export]'") from None


def main(conf: ConfDef) -> None:
    """Export the snapshot and verify the ONNX file."""
    out = Path(conf.OUT)
    if out.exists() and not conf.OVERWRITE:
        raise InputError(f"{out}: exists already; pass OVERWRITE=true to overwrite")
    snapshot = Path(conf.SNAPSHOT_INPATH or default_snapshot())
    network = load_network(snapshot, conf.LEAKY_RELU_SLOPE)
    point = read_sidecar(snapshot).point
    if point is None:
        point = PUBLISHED[type(network).__name__]
        log.warning("no operating point beside %s: using the published one", snapshot)
    difference = export_onnx(network, out, onnx_metadata(network, snapshot, point))
    size = out.stat().st_size / 1e6
    print(f"{out}: {type(network).__name__}, {size:.1f} MB; onnxruntime agrees with PyTorch to {difference:.1e}")


if __name__ == "__main__":
    run(main, ConfDef)
