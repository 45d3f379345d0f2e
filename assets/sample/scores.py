"""Three openings of the piano repertoire, written out from their scores (all in the public domain).

A voice is a line of tokens, each a note name with an optional length in sixteenths:
``C4`` a sixteenth, ``C4/4`` a quarter, ``C4+E4/8`` a chord for a half, ``r/2`` an eighth's
rest; bar lines ``|`` are for the reader. Middle C is C4 = MIDI note 60.
"""

from dataclasses import dataclass
from typing import NamedTuple

SEMITONES = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}
SIXTEENTH = 0.25  # quarters


class ScoreNote(NamedTuple):
    """One written note: begin and length in quarters, MIDI note, voice."""

    quarter: float
    quarters: float
    note: int
    voice: str


@dataclass(frozen=True)
class Piece:
    """A score with instructions for its performer.

    hairpins: (quarter, velocity) points of the written dynamics, straight lines between them.
    voices: name -> (velocity offset, share of its written length that a note is held).
    pedal: quarters at which the sustain pedal is changed; empty for none.
    """

    file: str
    composer: str
    title: str
    split: str
    year: int
    notes: list[ScoreNote]
    quarters_per_minute: float
    quarters_per_bar: int
    bars_per_phrase: int
    hairpins: list[tuple[float, float]]
    voices: dict[str, tuple[float, float]]
    pedal: list[float]


def midi_note(name: str) -> int:
    """``F#3`` -> 54, ``Bb4`` -> 70."""
    return 12 * (int(name[-1]) + 1) + SEMITONES[name[0]] + name.count("#") - name.count("b")


def read_voice(text: str, voice: str, start: float = 0.0) -> list[ScoreNote]:
    """The notes of one line of tokens, the first at ``start`` quarters."""
    notes, now = [], start
    for token in text.replace("|", " ").split():
        names, _, sixteenths = token.partition("/")
        length = float(sixteenths or 1) * SIXTEENTH
        notes += [ScoreNote(now, length, midi_note(name), voice) for name in names.split("+") if name != "r"]
        now += length
    return notes


def bach_prelude() -> Piece:
    """Bars 1-11 of the C major prelude: each half bar breaks one chord of five notes, bass and tenor held."""
    bars = """C4 E4 G4 C5 E5 | C4 D4 A4 D5 F5 | B3 D4 G4 D5 F5 | C4 E4 G4 C5 E5 | C4 E4 A4 E5 A5 | C4 D4 F#4 A4 D5
        | B3 D4 G4 D5 G5 | B3 C4 E4 G4 C5 | A3 C4 E4 G4 C5 | D3 A3 D4 F#4 C5 | G3 B3 D4 G4 B4"""
    notes = []
    for bar, chord in enumerate(bars.split("|")):
        bass, tenor, *upper = chord.split()
        for half in (4 * bar, 4 * bar + 2):
            notes += read_voice(f"{bass}/8", "bass", half)
            notes += read_voice(f"{tenor}/7", "tenor", half + SIXTEENTH)
            notes += read_voice(" ".join(upper * 2), "treble", half + 2 * SIXTEENTH)
    return Piece(
        file="bach_prelude_bwv846",
        composer="Johann Sebastian Bach",
        title="Prelude in C Major, WTC I, BWV 846 (opening)",
        split="train",
        year=2004,
        notes=notes,
        quarters_per_minute=100,
        quarters_per_bar=4,
        bars_per_phrase=4,
        hairpins=[(0, 52), (16, 66), (26, 84), (36, 72), (44, 56)],
        voices={"bass": (6, 1.0), "tenor": (-4, 1.0), "treble": (0, 0.95)},
        pedal=[4.0 * bar for bar in range(11)],
    )


def satie_gymnopedie() -> Piece:
    """Bars 1-11 of the first Gymnopédie: bass, wide chords on the second beat, a melody from bar 5."""
    accompaniment = "G2/4 B3+D4+F#4/8 | D2/4 A3+C#4+F#4/8 | " * 6
    melody = "r/4 F#5/4 A5/4 | G5/4 F#5/4 C#5/4 | B4/4 C#5/4 D5/4 | A4/12 | F#4/36"
    lower = read_voice(accompaniment, "chords")[: 4 * 11]
    # the bass sounds for the whole bar
    lower = [note._replace(quarters=3.0, voice="bass") if note.quarters == 1 else note for note in lower]
    # from bar 9 on the held F sharp belongs to the melody
    lower = [note for note in lower if not (note.note == midi_note("F#4") and note.quarter > 24)]
    return Piece(
        file="satie_gymnopedie_1",
        composer="Erik Satie",
        title="Gymnopédie No. 1 (opening)",
        split="validation",
        year=2006,
        notes=lower + read_voice(melody, "melody", 12.0),
        quarters_per_minute=74,
        quarters_per_bar=3,
        bars_per_phrase=4,
        hairpins=[(0, 42), (12, 48), (15, 58), (24, 46), (33, 36)],
        voices={"bass": (2, 1.0), "chords": (-8, 0.9), "melody": (14, 1.0)},
        pedal=[3.0 * bar for bar in range(11)],
    )


def bach_invention() -> Piece:
    """Bars 1-6 of the C major invention with its cadence: two voices, no pedal, mordents written out."""
    right = """r C4 D4 E4 F4 D4 E4 C4 G4/2 C5/2 B4/.5 A4/.5 B4 C5/2
        | D5 G4 A4 B4 C5 A4 B4 G4 D5/2 G5/2 F5/.5 E5/.5 F5 G5/2
        | E5 A5 G5 F5 E5 G5 F5 A5 G5 F5 E5 D5 C5 E5 D5 F5
        | E5 D5 C5 B4 A4 C5 B4 D5 C5 B4 A4 G4 F#4 A4 G4 B4
        | A4/2 D4/2 C5/.5 B4/.5 C5/2 D5 B4 A4 G4 F#4 E4 G4 F#4 A4
        | G4 B4 A4 C5 B4 D5 C5 E5 D5 B4/.5 C5/.5 D5 G5 B4/2 A4 G4 | G4/6"""
    left = """r/8 r C3 D3 E3 F3 D3 E3 C3
        | G3/2 G2/2 r/4 r G3 A3 B3 C4 A3 B3 G3
        | C4/2 B3/2 C4/2 D4/2 E4/2 G3/2 A3/2 B3/2
        | C4/2 E3/2 F#3/2 G3/2 A3/2 B3/2 C4/5
        | D3 E3 F#3 G3 E3 F#3 D3 G3/2 B2/2 C3/2 D3/2
        | E3/2 F#3/2 G3/2 E3/2 B2/3 C3 D3/2 D2/2 | G2/6"""
    return Piece(
        file="bach_invention_bwv772",
        composer="Johann Sebastian Bach",
        title="Invention No. 1 in C Major, BWV 772 (opening)",
        split="test",
        year=2008,
        notes=read_voice(right, "right") + read_voice(left, "left"),
        quarters_per_minute=70,
        quarters_per_bar=4,
        bars_per_phrase=2,
        hairpins=[(0, 68), (8, 80), (12, 90), (18, 76), (22, 92), (24, 84)],
        voices={"right": (4, 0.9), "left": (-3, 0.85)},
        pedal=[],
    )


PIECES = [bach_prelude(), satie_gymnopedie(), bach_invention()]
