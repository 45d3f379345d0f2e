"""Settings shared by scripts 0a and 0b."""

from dataclasses import dataclass

from ov_piano.config import NON_NEGATIVE, POSITIVE, Check, option
from ov_piano.constants import HOP, MEL_FMAX, MEL_FMIN, MELS, SAMPLE_RATE, WINDOW
from ov_piano.data.store_names import MelName, RollName
from ov_piano.errors import InputError
from ov_piano.machine.device import select_device
from ov_piano.preprocessing.parts import PartSettings
from ov_piano.settings import LogMelSettings

WITHIN_AN_HOUR = Check("a number above 0, at most 3600", lambda x: 0 < x <= 3600)


@dataclass
class PreprocessConf:
    """Preprocessing settings; each script adds the location of its dataset."""

    OUTPUT_DIR: str = option("datasets", "folder for the HDF5 files")
    TARGET_SR: int = option(SAMPLE_RATE, "sampling rate in Hz to which the audio is resampled", POSITIVE)
    STFT_WINSIZE: int = option(WINDOW, "STFT window and FFT size in samples", POSITIVE)
    STFT_HOPSIZE: int = option(HOP, "STFT hop in samples; a frame lasts STFT_HOPSIZE / TARGET_SR seconds", POSITIVE)
    MELBINS: int = option(MELS, "number of mel bins", POSITIVE)
    MEL_FMIN: int = option(MEL_FMIN, "lower edge of the lowest mel bin in Hz", NON_NEGATIVE)
    MEL_FMAX: int = option(MEL_FMAX, "upper edge of the highest mel bin in Hz", POSITIVE)
    MIDI_SUS_EXTEND: bool = option(True, "extend notes in the piano rolls while the sustain pedal is down")
    HDF5_CHUNKLEN_SECONDS: float = option(8.0, "HDF5 chunk length in seconds", WITHIN_AN_HOUR)
    DEVICE: str = option("cpu", "torch device for the log-mels")
    IGNORE_MEL: bool = option(False, "write only the piano rolls; needs no audio files")
    WORKERS: int | None = option(None, "number of processes; null: one per core, or one if DEVICE is a GPU", POSITIVE)

    def __post_init__(self) -> None:
        if self.STFT_WINSIZE < 2:
            raise InputError(f"setting STFT_WINSIZE={self.STFT_WINSIZE}: expected at least 2")
        if self.STFT_HOPSIZE > self.STFT_WINSIZE:
            raise InputError(
                f"setting STFT_HOPSIZE={self.STFT_HOPSIZE}: expected at most STFT_WINSIZE={self.STFT_WINSIZE}"
            )
        if not self.MEL_FMIN < self.MEL_FMAX <= self.TARGET_SR / 2:
            raise InputError(
                f"settings MEL_FMIN={self.MEL_FMIN}, MEL_FMAX={self.MEL_FMAX}: expected MEL_FMIN below MEL_FMAX "
                f"and MEL_FMAX at most half of TARGET_SR={self.TARGET_SR}"
            )
        if self.chunk_frames < 1:
            raise InputError(
                f"setting HDF5_CHUNKLEN_SECONDS={self.HDF5_CHUNKLEN_SECONDS}: expected at least one frame, "
                f"{self.logmel.frame_secs:g} s"
            )
        select_device(self.DEVICE, tf32=False)

    @property
    def logmel(self) -> LogMelSettings:
        return LogMelSettings(
            self.TARGET_SR, self.STFT_WINSIZE, self.STFT_HOPSIZE, self.MELBINS, self.MEL_FMIN, self.MEL_FMAX
        )

    @property
    def chunk_frames(self) -> int:
        return round(self.HDF5_CHUNKLEN_SECONDS / self.logmel.frame_secs)

    def part_settings(self, dataset: str) -> PartSettings:
        """The settings of a dataset's parts; ``dataset`` is its name in the HDF5 file names."""
        mel = MelName(dataset, self.logmel)
        roll = RollName(dataset, mel.frame_secs, self.MIDI_SUS_EXTEND)
        return PartSettings(mel, roll, self.chunk_frames, self.IGNORE_MEL, self.DEVICE)
