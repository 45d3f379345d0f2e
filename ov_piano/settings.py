"""Groups of related settings as frozen dataclasses that validate themselves, and the options shared by several scripts.

Scripts convert their configuration (upper-case keys) to these dataclasses once and pass them on.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

from ov_piano.config import NON_NEGATIVE, ODD, POSITIVE, one_of, option
from ov_piano.constants import FRAME_SECS, HOP, MEL_FMAX, MEL_FMIN, MELS, SAMPLE_RATE, WINDOW
from ov_piano.errors import InputError
from ov_piano.machine.device import DEFAULT_DEVICE


@dataclass(frozen=True)
class LogMelSettings:
    """Log-mel spectrogram parameters; the defaults are the published ones."""

    sample_rate: int = SAMPLE_RATE  # Hz
    window: int = WINDOW  # samples, STFT window and FFT size
    hop: int = HOP  # samples
    mels: int = MELS
    fmin: float = MEL_FMIN  # Hz, lower edge of the lowest band
    fmax: float = MEL_FMAX  # Hz, upper edge of the highest band

    @property
    def frame_secs(self) -> float:
        return self.hop / self.sample_rate if self.sample_rate else math.inf


@dataclass(frozen=True)
class Chunking:
    """Long recordings are processed in chunks of ``size`` frames; adjacent chunks share ``overlap`` frames.

    :raises InputError: a size below 2, an overlap that is odd or not below the size
    """

    size: int
    overlap: int

    def __post_init__(self) -> None:
        if self.size < 2:
            raise InputError(f"expected a chunk of at least 2 frames, found {self.size}")
        if self.overlap < 0 or self.overlap % 2 or self.overlap >= self.size:
            raise InputError(
                f"expected an even number of overlapping frames, at least 0 and less than the chunk size {self.size}, "
                f"found {self.overlap}"
            )

    @classmethod
    def from_secs(cls, size_secs: float = 300.0, overlap_secs: float = 11.0, frame_secs: float = FRAME_SECS):
        """The chunking nearest to these durations.

        :raises InputError: invalid size or overlap in frames; the message suggests a valid overlap
        """
        if not math.isfinite(size_secs + overlap_secs):
            raise InputError(f"chunks of {size_secs} s with an overlap of {overlap_secs} s: expected finite numbers")
        size, overlap = round(size_secs / frame_secs), round(overlap_secs / frame_secs)
        try:
            return cls(size, overlap)
        except InputError as error:
            hint = ""
            if 0 < overlap < size and overlap % 2:
                hint = f"; use {frame_secs * (overlap - 1):g} s or {frame_secs * (overlap + 1):g} s"
            setting = f"chunks of {size_secs:g} s with an overlap of {overlap_secs:g} s at {frame_secs:g} s a frame"
            raise InputError(f"{setting}: {error}{hint}") from None


@dataclass(frozen=True)
class DecoderSettings:
    """The Gaussian blur over time before peak picking.

    :raises InputError: a parameter outside its range
    """

    gauss_std: float = 1.0  # frames
    gauss_ksize: int = 11  # taps, an odd number

    def __post_init__(self) -> None:
        if not 0 < self.gauss_std < math.inf:
            raise InputError(f"gauss_std: expected a number above 0, found {self.gauss_std}")
        if self.gauss_ksize < 1 or self.gauss_ksize % 2 == 0:
            raise InputError(f"gauss_ksize: expected an odd number above 0, found {self.gauss_ksize}")


class OperatingPoint(NamedTuple):
    """Minimum probability of an event, and seconds to add to its onset."""

    threshold: float
    shift: float


@dataclass(frozen=True)
class Tolerances:
    """Largest errors of a correct note; an offset may be off by ``offset_secs`` or ``offset_ratio`` of the note."""

    onset_secs: float = 0.05
    velocity: float = 0.1  # of 0-1, after mir_eval's rescaling
    offset_secs: float = 0.05
    offset_ratio: float = 0.2  # of the reference note's duration


@dataclass(frozen=True)
class DatasetFolders:
    """Folders of the datasets that the HDF5 stores were made from."""

    maestro: str
    maestro_version: int
    maps: str


@dataclass
class DatasetConf:
    """Device and dataset of scripts 1 and 2."""

    DEVICE: str = option(DEFAULT_DEVICE, "torch device: cpu, cuda, cuda:1, ...")
    MAESTRO_PATH: str = option("datasets/maestro/maestro-v3.0.0", "MAESTRO folder, to read the MIDI files")
    MAESTRO_VERSION: int = option(3, "MAESTRO version: 1, 2 or 3", one_of(1, 2, 3))


@dataclass
class StoresConf:
    """The pair of HDF5 files of scripts 1 and 2."""

    HDF5_MEL_PATH: str = option(
        "datasets/MAESTROv3_logmel_sr=16000_stft=2048w384h_mel=250(50-8000).h5", "log-mels made by script 0a or 0b"
    )
    HDF5_ROLL_PATH: str = option(
        "datasets/MAESTROv3_roll_quant=0.024_midivals=128_extendsus=True.h5", "piano rolls made by script 0a or 0b"
    )


@dataclass
class MapsConf(DatasetConf):
    """`DatasetConf` plus MAPS; separate, so that MAPS_PATH can come later in a script's list."""

    MAPS_PATH: str = option("datasets/MAPS", "MAPS folder, if the HDF5 files are of MAPS")

    @property
    def folders(self) -> DatasetFolders:
        return DatasetFolders(self.MAESTRO_PATH, self.MAESTRO_VERSION, self.MAPS_PATH)


@dataclass
class DecoderConf:
    """Decoder settings of scripts 1 and 2 and of the transcribe command."""

    DECODER_GAUSS_STD: float = option(1.0, "standard deviation of the decoder's Gaussian blur, in frames", POSITIVE)
    DECODER_GAUSS_KSIZE: int = option(11, "kernel size of the Gaussian blur, in frames", ODD)

    @property
    def decoder(self) -> DecoderSettings:
        return DecoderSettings(self.DECODER_GAUSS_STD, self.DECODER_GAUSS_KSIZE)


@dataclass
class InferenceConf:
    """Chunking of long recordings in script 2 and the transcribe command."""

    INFERENCE_CHUNK_SIZE: float = option(300.0, "chunk length for inference, in seconds", POSITIVE)
    INFERENCE_CHUNK_OVERLAP: float = option(11.0, "overlap of adjacent chunks, in seconds", NON_NEGATIVE)

    def chunking(self, frame_secs: float = FRAME_SECS) -> Chunking:
        """:raises InputError: chunk size or overlap is invalid at ``frame_secs`` seconds per frame"""
        return Chunking.from_secs(self.INFERENCE_CHUNK_SIZE, self.INFERENCE_CHUNK_OVERLAP, frame_secs)


@dataclass
class SpeedConf:
    """Speed settings of scripts 1 and 2; BF16 and TF32 reduce precision."""

    FAST: bool = option(True, "use the optimised kernels on the CPU; false: plain PyTorch")
    BF16: bool = option(False, "compute in bfloat16 where the precision suffices")
    TF32: bool = option(True, "use TF32 for float32 matrix products on CUDA")
