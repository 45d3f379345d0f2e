"""Properties across modules for any input; the modules' own tests cover single modules."""

import dataclasses
import math

import h5py
import numpy as np
import pandas as pd
import torch
import torchaudio
import yaml
from hypothesis import given
from hypothesis import strategies as st

from ov_piano.config import option, parse_args, to_yaml
from ov_piano.constants import FRAME_SECS, KEY_ROWS, KEYS, LOWEST_NOTE
from ov_piano.data.audio import resample, resampled_length
from ov_piano.data.chunks import chunk_bounds
from ov_piano.data.hdf5 import Store, StoreWriter, create_frames
from ov_piano.data.keyboard import SOFT, SOSTENUTO, SUSTAIN
from ov_piano.data.midi import MidiNotes, read_notes
from ov_piano.data.pianoroll import piano_roll
from ov_piano.evaluation.scoring import score
from ov_piano.evaluation.search import as_notes
from ov_piano.transcription.decoder import Decoder
from ov_piano.transcription.events import decode_pieces
from ov_piano.transcription.midi_writer import TICK_SECS, to_notes, write_midi

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)

# Notes far enough apart for the decoder's blur to leave each a peak: (key, frames since the one before, velocity)
spaced_notes = st.lists(st.tuples(st.integers(0, KEYS - 1), st.integers(0, 30), st.integers(1, 127)), max_size=40)


@given(spaced_notes)
def test_notes_through_roll_and_decoder_score_one(steps):
    frame, last, rows = 2, {}, []
    for key, step, velocity in steps:
        frame += step
        if frame - last.get(key, -99) >= 6:
            last[key] = frame
            secs = (frame + 0.5) * FRAME_SECS
            rows.append((secs, secs + 0.05, key + LOWEST_NOTE, velocity))
    notes = np.array(sorted(rows, key=lambda row: (row[0], row[2])), float).reshape(-1, 4)
    pedals = {pedal: np.empty((0, 2)) for pedal in (SUSTAIN, SOSTENUTO, SOFT)}
    roll, collisions = piano_roll(MidiNotes(notes, pedals, (frame + 10) * FRAME_SECS, restruck=0, unmatched=0))
    assert collisions == 0
    velocities = torch.from_numpy(roll[KEY_ROWS]).float()
    events = Decoder()((velocities > 0).float()[None], velocities[None], 0.3)
    assert len(events) == len(notes)
    table = pd.DataFrame(
        {
            "onset_secs": events["t_idx"] * FRAME_SECS,
            "note": events["key"] + LOWEST_NOTE,
            "velocity": events["vel"],
            "prob": events["prob"],
        }
    ).sort_values(["onset_secs", "note"])
    np.testing.assert_allclose(table["onset_secs"], notes[:, 0] - FRAME_SECS / 2)
    np.testing.assert_array_equal(table["note"], notes[:, 2])
    scores = score(notes, as_notes(table, 0.0))
    assert scores.onsets.f1 == (1 if len(notes) else 0)
    assert scores.onsets_velocities.f1 == scores.onsets.f1  # a third of each velocity: the fit finds the factor


events_of_any_kind = st.lists(
    st.tuples(st.floats(0, 30), st.integers(21, 108), st.floats(0, 127), st.floats(0, 1)), max_size=30
)


@given(events_of_any_kind, st.floats(0.01, 2))
def test_events_written_as_midi_read_back_as_notes(tmp_path_factory, rows, note_secs):
    path = tmp_path_factory.getbasetemp() / "events.mid"
    events = pd.DataFrame(rows, columns=["onset_secs", "note", "velocity", "prob"])
    write_midi(events, path, note_secs)
    read = read_notes(path)
    expected = to_notes(events, note_secs)
    ticks = np.round(expected[:, :2] / TICK_SECS)
    expected = expected[ticks[:, 0] < ticks[:, 1]]  # shorter ones are left out, as its warning says
    assert (read.restruck, read.unmatched) == (0, 0)
    assert len(read.notes) == len(expected)
    found = read.notes[np.lexsort((np.round(read.notes[:, 0] / TICK_SECS), read.notes[:, 2]))]
    expected = expected[np.lexsort((expected[:, 0], expected[:, 2]))]
    np.testing.assert_allclose(found[:, :2], expected[:, :2], atol=TICK_SECS / 2 + 1e-9, rtol=0)
    np.testing.assert_array_equal(found[:, 2:], expected[:, 2:])


metadata = st.tuples(texts, st.integers(0, 9999), texts, st.floats(0, 1e6), texts, texts)


@given(st.lists(st.tuples(st.integers(1, 40), metadata), min_size=1, max_size=5), st.integers(1, 17), st.booleans())
def test_recordings_of_any_length_and_name_read_back(tmp_path_factory, recordings, chunk_frames, chunked):
    """Written by `append`, or chunk by chunk from datasets with any alignment."""
    folder = tmp_path_factory.mktemp("any")
    rng, arrays = np.random.default_rng(0), []
    with StoreWriter(folder / "store.h5", 3, chunk_frames) as store, h5py.File(folder / "parts.h5", "w") as parts:
        for frames, metadata in recordings:
            array = rng.normal(size=(3, frames)).astype(np.float32)
            lead = store.frames % chunk_frames
            if chunked:
                source = create_frames(parts, str(len(arrays)), 3, chunk_frames)
                source.resize(lead + frames, axis=1)
                source[:, lead:] = array
                store.append_chunked(source, lead, metadata)
            else:
                store.append(array, metadata)
            arrays.append(array)
    store = Store(folder / "store.h5", 3)
    assert store.metadata == [entry for _, entry in recordings]
    for array, begin, end in zip(arrays, store.begins, store.ends, strict=True):
        np.testing.assert_array_equal(store.read(begin, end), array)
    store.close()


@given(st.integers(0, 50), st.integers(1, 120), st.integers(1, 60), st.floats(0.01, 1.5))
def test_chunks_cover_every_frame_equally_often(begin, frames, length, share):
    """From the first frame to the begin of the chunk after the last, a stride before the end."""
    stride = max(1, int(length * share))
    begins, ends, padding = chunk_bounds(begin, begin + frames, length, stride)
    assert (ends - begins == length).all()
    assert (np.diff(begins) == stride).all()
    assert ((padding == 0) == ((begins >= begin) & (ends <= begin + frames))).all()
    following = begins[-1] + stride if len(begins) else begin - (length - stride)
    assert following >= begin + frames - stride
    for frame in range(begin, min(following, begin + frames)):
        count = int(((begins <= frame) & (frame < ends)).sum())
        assert length // stride <= count <= math.ceil(length / stride)


@given(st.lists(st.integers(1, 30), min_size=1, max_size=8), st.integers(0, 999), st.sampled_from([0.0, 0.2, 0.5]))
def test_decoding_does_not_depend_on_the_pieces(sizes, seed, threshold):
    draw = torch.Generator().manual_seed(seed)
    maps = torch.rand(2, 4, sum(sizes), generator=draw).round(decimals=1)  # with ties
    whole = Decoder()(maps[None, 0], maps[None, 1], threshold)
    pieces = pd.concat([table for table, _ in decode_pieces(Decoder(), maps.split(sizes, dim=2), threshold)])
    pd.testing.assert_frame_equal(pieces.sort_values(["key", "t_idx"], ignore_index=True), whole)


@given(
    st.lists(st.integers(1, 700), min_size=1, max_size=6), st.sampled_from([8000, 11025, 22050, 44100, 48000, 96000])
)
def test_resampling_does_not_depend_on_the_blocks(sizes, rate):
    wave = torch.rand(sum(sizes), generator=torch.Generator().manual_seed(len(sizes))) - 0.5
    joined = torch.cat(list(resample(wave.split(sizes), len(wave), rate)))
    assert len(joined) == resampled_length(len(wave), rate, 16000)
    whole = torchaudio.transforms.Resample(rate, 16000)(wave)
    torch.testing.assert_close(joined, whole, atol=2e-6, rtol=0)


@dataclasses.dataclass
class Conf:
    PATH: str = option("x", "any text")
    SHARE: float = option(0.5, "any number")
    COUNT: int = option(1, "any whole number")
    FLAG: bool = option(True, "either")
    LEVELS: list[float] = option([0.5], "any numbers")


@given(texts, st.floats(allow_nan=False, allow_infinity=False), st.integers(-(2**62), 2**62), st.booleans(), st.data())
def test_settings_are_read_as_typed_and_printed_as_read(text, share, count, flag, data):
    levels = data.draw(st.lists(st.floats(-1e9, 1e9), max_size=4))
    given_ = [f"PATH={text}", f"SHARE={share!r}", f"COUNT={count}", f"FLAG={str(flag).lower()}", f"LEVELS={levels}"]
    if text == "null":
        return
    conf = parse_args(Conf, given_)
    assert conf == Conf(text, share, count, flag, levels)
    assert yaml.safe_load(to_yaml(conf)) == dataclasses.asdict(conf)
