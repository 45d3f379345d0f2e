"""Transcribe piano recordings to MIDI.

1. Compute each recording's log-mel spectrogram in chunks, so that hours of audio need little memory.
2. Detect note onsets and velocities with the network of a snapshot and the decoder.
3. For each recording, write NAME.mid (notes), NAME.csv (onset_secs, note, velocity, prob; with note ends also
   offset_secs) and, with PLOT=true, NAME.png (spectrogram and notes). Each file is written completely or not at all.

    ov-piano transcribe RECORDING … [OUT=folder] [PLOT=true] [KEY=value …]
    ov-piano transcribe assets/live/prelude_bwv846.ogg PLOT=true

RECORDING is an audio file (WAV, FLAC, OGG, MP3 …, any sampling rate and number of channels), a folder, or a pattern
such as 'music/**/*.wav'. AUDIO=one.wav,two.flac works, too. If ov_piano is not installed, run
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

from ov_piano.cli import run
from ov_piano.config import FRACTION, NON_NEGATIVE, POSITIVE, SHIFT, option
from ov_piano.constants import MIDI_SUFFIXES
from ov_piano.errors import InputError
from ov_piano.machine.atomic import atomic_write
from ov_piano.machine.device import DEFAULT_DEVICE
from ov_piano.plots.style import save
from ov_piano.plots.transcription import plot_transcription
from ov_piano.settings import DecoderConf, InferenceConf
from ov_piano.transcription.files import find_recordings, recording_seconds
from ov_piano.transcription.midi_writer import NOTE_SECS, write_midi
from ov_piano.transcription.stream import spool_logmel
from ov_piano.transcription.transcriber import Transcriber


@dataclass
class Files:
    """Input, output and snapshot."""

    AUDIO: list[str] = option(
        [], "recordings, folders or patterns; AUDIO= may be omitted", positional=True, required=True
    )
    OUT: str = option("out/transcriptions", "output folder; for a single recording, also the path of its .mid file")
    SNAPSHOT_INPATH: str | None = option(None, "network weights; null: the shipped snapshot")
    THRESHOLD: float | None = option(None, "onset probability threshold; null: the snapshot's", FRACTION)
    SHIFT: float | None = option(None, "time shift of all notes in seconds; null: the snapshot's", SHIFT)
    NOTE_SECS: float = option(
        NOTE_SECS,
        "duration in seconds of notes without a detected end; the key's next onset ends a note earlier",
        POSITIVE,
    )
    PLOT: bool = option(False, "also plot the spectrogram and the notes")
    OVERWRITE: bool = option(False, "overwrite existing results")
    SKIP_EXISTING: bool = option(False, "skip recordings with complete results, for example to resume a run")
    DEVICE: str = option(DEFAULT_DEVICE, "torch device: cpu, cuda, cuda:1 …; mps is untested")


@dataclass
class ConfDef(DecoderConf, InferenceConf, Files):
    """`Files`, then the settings shared with script 2."""

    LEAKY_RELU_SLOPE: float | None = option(
        None, "negative slope of the leaky ReLUs, as in training; null: the snapshot's own, else 0.1", NON_NEGATIVE
    )
    VERBOSE: bool = option(False, "print the configuration first")
    ENDS_INPATH: str | None = option(
        None, "note ends saved by script 1 with TRAIN_ENDS=true; null: X.ends.torch beside the snapshot X.torch, if any"
    )

    def __post_init__(self) -> None:
        if self.OVERWRITE and self.SKIP_EXISTING:
            raise InputError("setting SKIP_EXISTING=true: expected OVERWRITE=false")


def plan_outputs(recordings: list[tuple[Path, Path]], conf: ConfDef) -> dict[Path, Path]:
    """The MIDI file to write for each recording: NAME.mid, or song.wav.mid and song.mp3.mid where names clash.

    :raises InputError: two recordings with the same output, or an existing output
    """
    out = Path(conf.OUT)
    if out.suffix.lower() in MIDI_SUFFIXES and not out.is_dir():
        if len(recordings) > 1:
            raise InputError(f"OUT={out}: expected a folder for {len(recordings)} recordings, found a MIDI file name")
        outputs = {recordings[0][0]: out}
    elif out.is_file():
        raise InputError(f"OUT={out}: expected a folder or NAME.mid, found another file")
    else:
        times = Counter(name for _, name in recordings)
        suffixes = {audio: audio.suffix if times[name] > 1 else "" for audio, name in recordings}
        outputs = {audio: out / name.with_name(f"{name.name}{suffixes[audio]}.mid") for audio, name in recordings}
    owners: dict[Path, Path] = {}
    for audio, midi in outputs.items():
        if midi in owners:
            raise InputError(f"{owners[midi]} and {audio} would both be written to {midi}: pass different OUT")
        owners[midi] = audio
    if conf.SKIP_EXISTING:
        return {audio: midi for audio, midi in outputs.items() if not all(map(Path.exists, _files(midi, conf)))}
    existing = [file for midi in owners for file in _files(midi, conf) if file.exists()]
    if existing and not conf.OVERWRITE:
        more = f" and {len(existing) - 1} more" if len(existing) > 1 else ""
        raise InputError(
            f"{existing[0]}{more}: exists already; pass OVERWRITE=true to overwrite, SKIP_EXISTING=true to skip, "
            "or another OUT=…"
        )
    return outputs


def _files(midi: Path, conf: ConfDef) -> list[Path]:
    return [midi, midi.with_suffix(".csv")] + [midi.with_suffix(".png")] * conf.PLOT


@contextmanager
def progress_bar(what: str, seconds: float) -> Iterator[Callable[[float], None]]:
    """Yield a function to call with the seconds of audio just processed; the bar shows on terminals only."""
    layout = "{desc} {percentage:3.0f}%|{bar}| {n:.0f}/{total:.0f} s [{elapsed}<{remaining}]"
    with tqdm(desc=what, total=seconds, bar_format=layout, disable=None, leave=False) as bar:
        yield lambda secs: bar.update(min(secs, seconds - bar.n))


def transcribe_file(transcriber: Transcriber, audio: Path, seconds: float, midi: Path, conf: ConfDef) -> int:
    """Write the results of one recording (about ``seconds`` long), the MIDI file last; return the number of notes."""
    with progress_bar(f"{audio.name}: spectrogram", seconds) as progress:
        logmel = spool_logmel(audio, progress=progress, settings=transcriber.logmel)
    with progress_bar(f"{audio.name}: notes", seconds) as progress:
        events = transcriber.detect(logmel, progress)
    with atomic_write(midi.with_suffix(".csv")) as partial:
        events.to_csv(partial, index=False, float_format="%.6f")
    if conf.PLOT:
        save(plot_transcription(logmel, events, conf.NOTE_SECS, audio.name), midi.with_suffix(".png"))
    write_midi(events, midi, conf.NOTE_SECS)
    return len(events)


def main(conf: ConfDef) -> None:
    """Transcribe all recordings, then print the speed and list the recordings that failed.

    :raises InputError: a recording cannot be used; raised after the others have been transcribed
    """
    recordings = find_recordings(conf.AUDIO)
    outputs = plan_outputs(recordings, conf)
    if skipped := len(recordings) - len(outputs):
        print(f"skipped, already transcribed: {skipped} of {len(recordings)} recordings", flush=True)
    if not outputs:
        return
    seconds: dict[Path, float] = {}
    unusable: set[Path] = set()
    for audio in outputs:  # reports bad files before the work begins
        with skip_unusable(audio, unusable, alone=len(outputs) == 1):
            seconds[audio] = recording_seconds(audio)
    transcriber = load_transcriber(conf) if seconds else None
    begin = time.perf_counter()
    done = {}
    for audio, length in seconds.items():
        with skip_unusable(audio, unusable, alone=len(outputs) == 1):
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
    """The snapshot's transcriber; prints its threshold and shift."""
    transcriber = Transcriber(
        conf.SNAPSHOT_INPATH,
        threshold=conf.THRESHOLD,
        shift=conf.SHIFT,
        device=conf.DEVICE,
        chunking=conf.chunking(),
        decoder=conf.decoder,
        leaky_relu_slope=conf.LEAKY_RELU_SLOPE,
        ends=conf.ENDS_INPATH,
    )
    print(
        f"{transcriber.snapshot.name}: threshold {transcriber.threshold:g}, shift {transcriber.shift:g} s", flush=True
    )
    return transcriber


@contextmanager
def skip_unusable(audio: Path, unusable: set[Path], alone: bool) -> Iterator[None]:
    """Report a recording that cannot be used and add it to ``unusable``; re-raise the error if it is ``alone``."""
    try:
        yield
    except (InputError, OSError) as error:
        if alone or (isinstance(error, OSError) and error.filename != str(audio)):  # a full disk, for instance
            raise
        print(f"skipped: {error}", file=sys.stderr, flush=True)
        unusable.add(audio)


if __name__ == "__main__":
    run(main, ConfDef)
