"""A snapshot as an ONNX file, for other languages, devices and browsers.

1. The network of the snapshot is loaded (plain PyTorch, without the optimised CPU kernels).
2. It is exported with the inputs and outputs below, and compared with the original in onnxruntime.
3. What a program needs to know beyond the graph is in the file's metadata: how to compute the log-mel spectrogram,
   the threshold and the shift, the decoder's blur.

    ov-piano export SNAPSHOT OUT.onnx        (the snapshot that ships: ov-piano export OUT=OUT.onnx)

Input logmel (batch, mels, frames) in dB, any batch, three frames or more; outputs onsets and velocities
(batch, 88, frames), probabilities and relative velocities from 0 to 1; key 0 is A0. Without an installation the
command is python -m ov_piano.export. It needs the extra: pip install 'ov_piano[export]'.
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

from ov_piano.atomic import written_whole
from ov_piano.cli import run
from ov_piano.config import NON_NEGATIVE, REQUIRED, option
from ov_piano.constants import LOWEST_NOTE, TOP_DB
from ov_piano.errors import InputError
from ov_piano.model.base import OnsetVelocityBase
from ov_piano.model.networks import load_network
from ov_piano.model.operating_point import PUBLISHED, OperatingPoint, read_operating_point
from ov_piano.resources import default_snapshot
from ov_piano.settings import DecoderSettings, LogMelSettings

EXTRA = ("onnx", "onnxscript", "onnxruntime")
TOLERANCE = 1e-3  # of a probability, between PyTorch and onnxruntime
CHECKED_FRAMES = (3, 333)  # other lengths than the export's example

log = logging.getLogger(__name__)


@dataclass
class ConfDef:
    """Settings of the command."""

    SNAPSHOT_INPATH: str | None = option(None, "weights of the network; null: the ones that ship", positional=True)
    OUT: str = option(REQUIRED, "ONNX file to write", positional=True)
    OVERWRITE: bool = option(False, "replace the file if it exists")
    LEAKY_RELU_SLOPE: float = option(0.1, "slope of the leaky ReLUs below zero, as in training", NON_NEGATIVE)
    VERBOSE: bool = option(False, "print the configuration first")


class ProbabilityMaps(nn.Module):
    """Log-mel (b, mels, t) in dB -> onset probabilities and velocities, (b, keys, t) in 0..1 each.

    The network's output lacks the first frame, which is 0 here, as the decoder expects it.
    """

    def __init__(self, network: OnsetVelocityBase):
        super().__init__()
        self.network = network

    def forward(self, logmel: Tensor) -> tuple[Tensor, Tensor]:
        onsets, velocities = self.network.infer(logmel)  # (b, keys, t-1) each
        return nn.functional.pad(onsets.sigmoid(), (1, 0)), nn.functional.pad(velocities.sigmoid(), (1, 0))


def export_onnx(network: OnsetVelocityBase, path: str | Path, metadata: dict[str, str]) -> None:
    """Write the `ProbabilityMaps` of ``network`` as one complete ONNX file.

    :raises TypeError: another module, such as the optimised network for the CPU, whose kernels ONNX lacks
    :raises InputError: the packages of the extra are missing
    """
    if not isinstance(network, OnsetVelocityBase):
        raise TypeError(f"expected a plain network, found {type(network).__name__}: load_network(path) gives one")
    _require_extra()
    maps = ProbabilityMaps(network).eval().cpu()
    axes = {0: torch.export.Dim("batch"), 2: torch.export.Dim("frames", min=3)}
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # operators of torchvision, which are not needed
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of PyTorch about itself
        exported = torch.export.export(maps, (_example(network, 2, 50),), dynamic_shapes={"logmel": axes})
        program = torch.onnx.export(
            exported, dynamo=True, input_names=["logmel"], output_names=["onsets", "velocities"], verbose=False
        )
    program.model.metadata_props.update(metadata)
    with written_whole(path) as partial:
        program.save(str(partial))


def onnx_metadata(network: OnsetVelocityBase, snapshot: str | Path, point: OperatingPoint) -> dict[str, str]:
    """What a program must know to use the graph, as JSON texts by name."""
    settings = LogMelSettings(mels=network.in_bins)
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
    """Between the outputs of ``network`` and of the file in onnxruntime, over several batches and lengths."""
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
    """A log-mel like those of recordings: (batch, mels, frames) in dB."""
    noise = torch.randn(batch, network.in_bins, frames, generator=torch.Generator().manual_seed(0))
    return (20 * noise - 40).clamp(-80, 40)


def _require_extra() -> None:
    for package in EXTRA:
        try:
            import_module(package)
        except ModuleNotFoundError:
            raise InputError(f"the export needs {package}: pip install 'ov_piano[export]'") from None


def main(conf: ConfDef) -> None:
    """Export and compare."""
    out = Path(conf.OUT)
    if out.exists() and not conf.OVERWRITE:
        raise InputError(f"{out}: exists already; OVERWRITE=true replaces it")
    snapshot = Path(conf.SNAPSHOT_INPATH or default_snapshot())
    network = load_network(snapshot, conf.LEAKY_RELU_SLOPE)
    point = read_operating_point(snapshot)
    if point is None:
        point = PUBLISHED[type(network).__name__]
        log.warning("no operating point beside %s: the file gets the published one", snapshot)
    export_onnx(network, out, onnx_metadata(network, snapshot, point))
    difference = largest_difference(network, out)
    if not difference <= TOLERANCE:
        raise InputError(f"{out}: differs from the network by up to {difference:.1e}, expected at most {TOLERANCE:g}")
    size = out.stat().st_size / 1e6
    print(f"{out}: {type(network).__name__}, {size:.1f} MB; equal to the network to {difference:.1e} in onnxruntime")


if __name__ == "__main__":
    run(main, ConfDef)
