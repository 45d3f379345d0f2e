"""Piano recordings to MIDI.

1. Each recording becomes a log-mel spectrogram, read and kept in pieces, so that hours fit into little memory.
2. The network of a snapshot and the decoder find note onsets with velocities.
3. For each recording NAME.mid (notes), NAME.csv (onset_secs, note, velocity, prob) and, with
   PLOT=true, NAME.png (spectrogram and notes) are written; each file is complete or not there.

    python -m ov_piano.transcribe AUDIO=recording.wav [OUT=recording.mid] [PLOT=true] [KEY=value …]

AUDIO is a file (WAV, FLAC, OGG, MP3 … of any rate and number of channels), a folder, a pattern
such as 'music/*.wav', or several of these: AUDIO=one.wav,two.flac or AUDIO=[one.wav,two.flac].
"""

import glob
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import soundfile
from tqdm import tqdm

from ov_piano.atomic import written_whole
from ov_piano.cli import run
from ov_piano.config import FRACTION, NON_NEGATIVE, POSITIVE, REQUIRED, option
from ov_piano.data.audio import audio_info
from ov_piano.device import DEFAULT_DEVICE
from ov_piano.errors import InputError
from ov_piano.plots.transcription import plot_transcription
from ov_piano.settings import DecoderConf, InferenceConf
from ov_piano.transcription.midi_writer import NOTE_SECS, write_midi
from ov_piano.transcription.stream import spool_logmel
from ov_piano.transcription.transcriber import Transcriber

MIDI_SUFFIXES = (".mid", ".midi")
AUDIO_SUFFIXES = {f".{name.lower()}" for name in soundfile.available_formats()} | {".aif", ".aifc", ".oga", ".opus"}
AUDIO_SUFFIXES -= {".raw"}


@dataclass
class Files:
    """What to transcribe, with which snapshot, into which files."""

    AUDIO: str = option(REQUIRED, "recording, folder, pattern, or several of them with commas between")
    OUT: str = option("out/transcriptions", "folder for the results, or for one recording the name of its .mid file")
    SNAPSHOT_INPATH: str | None = option(None, "weights of the network; null: the snapshot that ships in assets/")
    THRESHOLD: float | None = option(None, "onset probability of a note; null: as found for the snapshot", FRACTION)
    SHIFT: float | None = option(None, "seconds added to each onset; null: as found for the snapshot")
    NOTE_SECS: float = option(
        NOTE_SECS, "seconds a note lasts in the MIDI file unless its key is struck before", POSITIVE
    )
    PLOT: bool = option(False, "also draw the spectrogram and the notes")
    OVERWRITE: bool = option(False, "replace results that exist already")
    SKIP_EXISTING: bool = option(False, "leave out recordings whose results are complete, to go on where a run ended")
    DEVICE: str = option(DEFAULT_DEVICE, "where the network runs: cpu, cuda, cuda:1 …")


@dataclass
class ConfDef(DecoderConf, InferenceConf, Files):
    """`Files`, then what is shared with script 2."""

    LEAKY_RELU_SLOPE: float = option(0.1, "slope of the leaky ReLUs below zero, as in training", NON_NEGATIVE)

    def __post_init__(self) -> None:
        if self.OVERWRITE and self.SKIP_EXISTING:
            raise InputError("setting SKIP_EXISTING=true: expected OVERWRITE=false")


def find_recordings(audio: str) -> list[tuple[Path, Path]]:
    """The recordings that AUDIO stands for, each with the name (no suffix) of its results below the output folder.

    A recording in a folder keeps its place below that folder. A file whose name holds a comma is
    taken as one file if it exists.

    :raises InputError: a part that stands for nothing
    """
    if Path(audio).exists():
        parts = [audio]
    else:
        parts = [part.strip() for part in audio.removeprefix("[").removesuffix("]").split(",")]
    found: dict[Path, tuple[Path, Path]] = {}  # a file given twice is one
    for part in parts:
        paths = [Path(part)] if part and Path(part).exists() else [Path(name) for name in sorted(glob.glob(part))]
        if not paths:
            raise InputError(f"AUDIO={audio}: no such file or folder: {part!r}")
        for path in paths:
            if path.is_dir():
                inside = [file for file in sorted(path.rglob("*")) if _is_audio(file)]
                if not inside:
                    raise InputError(f"{path}: no audio file in this folder")
                found |= {file.resolve(): (file, file.relative_to(path).with_suffix("")) for file in inside}
            else:
                found[path.resolve()] = (path, Path(path.stem))
    return list(found.values())


def _is_audio(path: Path) -> bool:
    return path.suffix.lower() in AUDIO_SUFFIXES and path.is_file() and not path.name.startswith(".")


def plan_outputs(recordings: list[tuple[Path, Path]], conf: ConfDef) -> dict[Path, Path]:
    """The MIDI file to write for each recording.

    :raises InputError: two recordings with one output, an output that exists
    """
    out = Path(conf.OUT)
    if out.suffix.lower() in MIDI_SUFFIXES and not out.is_dir():
        if len(recordings) > 1:
            raise InputError(f"OUT={out}: expected a folder for {len(recordings)} recordings, found a MIDI file name")
        outputs = {recordings[0][0]: out}
    else:
        outputs = {audio: out / name.with_name(f"{name.name}.mid") for audio, name in recordings}
    owners: dict[Path, Path] = {}
    for audio, midi in outputs.items():
        if midi in owners:
            raise InputError(f"{owners[midi]} and {audio} would both be written to {midi}: give them different OUT")
        owners[midi] = audio
    if conf.SKIP_EXISTING:
        return {audio: midi for audio, midi in outputs.items() if not all(map(Path.exists, _files(midi, conf)))}
    existing = [file for midi in owners for file in _files(midi, conf) if file.exists()]
    if existing and not conf.OVERWRITE:
        more = f" and {len(existing) - 1} more" if len(existing) > 1 else ""
        raise InputError(
            f"{existing[0]}{more}: exists already; OVERWRITE=true replaces it, SKIP_EXISTING=true goes on with the "
            "other recordings, OUT=… writes elsewhere"
        )
    return outputs


def _files(midi: Path, conf: ConfDef) -> list[Path]:
    return [midi, midi.with_suffix(".csv")] + [midi.with_suffix(".png")] * conf.PLOT


@contextmanager
def progress_bar(what: str, seconds: float) -> Iterator[Callable[[float], None]]:
    """Something to tell how many more seconds of audio are done; shows on terminals only."""
    layout = "{desc} {percentage:3.0f}%|{bar}| {n:.0f}/{total:.0f} s [{elapsed}<{remaining}]"
    with tqdm(desc=what, total=seconds, bar_format=layout, disable=None, leave=False) as bar:
        yield lambda secs: bar.update(min(secs, seconds - bar.n))


def transcribe(transcriber: Transcriber, audio: Path, midi: Path, conf: ConfDef) -> int:
    """Write the results of one recording, the MIDI file last; returns the number of notes."""
    seconds = audio_info(audio).seconds
    with progress_bar(f"{audio.name}: spectrogram", seconds) as progress:
        logmel = spool_logmel(audio, progress=progress, mels=transcriber.mels)
    with progress_bar(f"{audio.name}: notes", seconds) as progress:
        events = transcriber.detect(logmel, progress)
    with written_whole(midi.with_suffix(".csv")) as partial:
        events.to_csv(partial, index=False, float_format="%.6f")
    if conf.PLOT:
        with written_whole(midi.with_suffix(".png")) as partial:
            plot_transcription(logmel, events, conf.NOTE_SECS, audio.name).savefig(partial)
    write_midi(events, midi, conf.NOTE_SECS)
    return len(events)


def main(conf: ConfDef) -> None:
    """Transcribe every recording and say how fast it went."""
    recordings = find_recordings(conf.AUDIO)
    outputs = plan_outputs(recordings, conf)
    if skipped := len(recordings) - len(outputs):
        print(f"transcribed before, left out: {skipped} of {len(recordings)} recordings", flush=True)
    if not outputs:
        return
    seconds = {audio: audio_info(audio).seconds for audio in outputs}  # bad files are named before the work begins
    transcriber = Transcriber(
        conf.SNAPSHOT_INPATH,
        threshold=conf.THRESHOLD,
        shift=conf.SHIFT,
        device=conf.DEVICE,
        chunking=conf.chunking(),
        decoder=conf.decoder,
        leaky_relu_slope=conf.LEAKY_RELU_SLOPE,
    )
    print(
        f"{transcriber.snapshot.name}: threshold {transcriber.threshold:g}, shift {transcriber.shift:g} s", flush=True
    )
    begin = time.perf_counter()
    for audio, midi in outputs.items():
        notes = transcribe(transcriber, audio, midi, conf)
        print(f"{audio} -> {midi} ({seconds[audio]:.1f} s, {notes} notes)", flush=True)
    total, spent = sum(seconds.values()), time.perf_counter() - begin
    print(f"recordings: {len(outputs)}, {total:.1f} s of audio in {spent:.1f} s: {total / spent:.1f} x real time")


if __name__ == "__main__":
    run(main, ConfDef)
