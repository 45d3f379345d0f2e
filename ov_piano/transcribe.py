"""Piano recordings to MIDI.

1. Each recording becomes a log-mel spectrogram, read and kept in pieces, so that hours fit into little memory.
2. The network of a snapshot and the decoder find note onsets with velocities.
3. For each recording NAME.mid (notes), NAME.csv (onset_secs, note, velocity, prob) and, with
   PLOT=true, NAME.png (spectrogram and notes) are written; each file is complete or not there.

    ov-piano transcribe RECORDING … [OUT=folder] [PLOT=true] [KEY=value …]
    ov-piano transcribe assets/live/prelude_bwv846.ogg PLOT=true

RECORDING is a file (WAV, FLAC, OGG, MP3 … of any rate and number of channels), a folder, or a pattern such
as 'music/**/*.wav'. AUDIO=one.wav,two.flac names recordings, too. Without an installation the command is
python -m ov_piano.transcribe.
"""

import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from ov_piano.atomic import atomic_write
from ov_piano.cli import run
from ov_piano.config import FRACTION, NON_NEGATIVE, POSITIVE, option
from ov_piano.device import DEFAULT_DEVICE
from ov_piano.errors import InputError
from ov_piano.plots.style import save
from ov_piano.plots.transcription import plot_transcription
from ov_piano.settings import DecoderConf, InferenceConf
from ov_piano.transcription.files import find_recordings, recording_seconds
from ov_piano.transcription.midi_writer import NOTE_SECS, write_midi
from ov_piano.transcription.stream import spool_logmel
from ov_piano.transcription.transcriber import Transcriber

MIDI_SUFFIXES = (".mid", ".midi")


@dataclass
class Files:
    """What to transcribe, with which snapshot, into which files."""

    AUDIO: list[str] = option(
        [], "recordings, folders, patterns; AUDIO= may be left out", positional=True, required=True
    )
    OUT: str = option("out/transcriptions", "folder for the results, or for one recording the name of its .mid file")
    SNAPSHOT_INPATH: str | None = option(None, "weights of the network; null: the ones that ship")
    THRESHOLD: float | None = option(None, "onset probability of a note; null: as found for the snapshot", FRACTION)
    SHIFT: float | None = option(None, "seconds added to each onset; null: as found for the snapshot")
    NOTE_SECS: float = option(
        NOTE_SECS, "seconds a note lasts in the MIDI file unless its key is struck before", POSITIVE
    )
    PLOT: bool = option(False, "also draw the spectrogram and the notes")
    OVERWRITE: bool = option(False, "replace results that exist already")
    SKIP_EXISTING: bool = option(False, "leave out recordings whose results are complete, to go on where a run ended")
    DEVICE: str = option(DEFAULT_DEVICE, "where the network runs: cpu, cuda, cuda:1 …; mps is untested")


@dataclass
class ConfDef(DecoderConf, InferenceConf, Files):
    """`Files`, then what is shared with script 2."""

    LEAKY_RELU_SLOPE: float = option(0.1, "slope of the leaky ReLUs below zero, as in training", NON_NEGATIVE)
    VERBOSE: bool = option(False, "print the configuration first")

    def __post_init__(self) -> None:
        if self.OVERWRITE and self.SKIP_EXISTING:
            raise InputError("setting SKIP_EXISTING=true: expected OVERWRITE=false")


def plan_outputs(recordings: list[tuple[Path, Path]], conf: ConfDef) -> dict[Path, Path]:
    """The MIDI file to write for each recording: NAME.mid, or song.wav.mid and song.mp3.mid where names are equal.

    :raises InputError: two recordings with one output, an output that exists
    """
    out = Path(conf.OUT)
    if out.suffix.lower() in MIDI_SUFFIXES and not out.is_dir():
        if len(recordings) > 1:
            raise InputError(f"OUT={out}: expected a folder for {len(recordings)} recordings, found a MIDI file name")
        outputs = {recordings[0][0]: out}
    else:
        times = Counter(name for _, name in recordings)
        suffixes = {audio: audio.suffix if times[name] > 1 else "" for audio, name in recordings}
        outputs = {audio: out / name.with_name(f"{name.name}{suffixes[audio]}.mid") for audio, name in recordings}
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


def transcribe_file(transcriber: Transcriber, audio: Path, seconds: float, midi: Path, conf: ConfDef) -> int:
    """Write the results of one recording of about ``seconds``, the MIDI file last; returns the number of notes."""
    with progress_bar(f"{audio.name}: spectrogram", seconds) as progress:
        logmel = spool_logmel(audio, progress=progress, mels=transcriber.mels)
    with progress_bar(f"{audio.name}: notes", seconds) as progress:
        events = transcriber.detect(logmel, progress)
    with atomic_write(midi.with_suffix(".csv")) as partial:
        events.to_csv(partial, index=False, float_format="%.6f")
    if conf.PLOT:
        save(plot_transcription(logmel, events, conf.NOTE_SECS, audio.name), midi.with_suffix(".png"))
    write_midi(events, midi, conf.NOTE_SECS)
    return len(events)


def main(conf: ConfDef) -> None:
    """Transcribe every recording, say how fast it went and which could not be used.

    :raises InputError: a recording that cannot be used, after the others have been transcribed
    """
    recordings = find_recordings(conf.AUDIO)
    outputs = plan_outputs(recordings, conf)
    if skipped := len(recordings) - len(outputs):
        print(f"transcribed before, left out: {skipped} of {len(recordings)} recordings", flush=True)
    if not outputs:
        return
    seconds: dict[Path, float] = {}
    unusable: set[Path] = set()
    for audio in outputs:  # bad files are named before the work begins
        with go_on_after(audio, unusable, alone=len(outputs) == 1):
            seconds[audio] = recording_seconds(audio)
    transcriber = load_transcriber(conf) if seconds else None
    begin = time.perf_counter()
    done = {}
    for audio, length in seconds.items():
        with go_on_after(audio, unusable, alone=len(outputs) == 1):
            notes = transcribe_file(transcriber, audio, length, outputs[audio], conf)
            print(f"{audio} -> {outputs[audio]} ({length:.1f} s, {notes} notes)", flush=True)
            done[audio] = length
    if done:
        total, spent = sum(done.values()), time.perf_counter() - begin
        print(f"recordings: {len(done)}, {total:.1f} s of audio in {spent:.1f} s: {total / spent:.1f} x real time")
    if unusable:
        raise InputError(
            f"not transcribed, {len(unusable)} of {len(outputs)} recordings: {', '.join(map(str, sorted(unusable)))}"
        )


def load_transcriber(conf: ConfDef) -> Transcriber:
    """The network of the snapshot; prints its threshold and shift."""
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
    return transcriber


@contextmanager
def go_on_after(audio: Path, unusable: set[Path], alone: bool) -> Iterator[None]:
    """A recording that cannot be used is named and added to ``unusable``; the only one raises the error."""
    try:
        yield
    except (InputError, OSError) as error:
        if alone or (isinstance(error, OSError) and error.filename != str(audio)):  # a full disk, for instance
            raise
        print(f"left out: {error}", file=sys.stderr, flush=True)
        unusable.add(audio)


if __name__ == "__main__":
    run(main, ConfDef)
