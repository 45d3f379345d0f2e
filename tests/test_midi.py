import re
import struct

import mido
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ov_piano.data.keyboard import SOFT, SOSTENUTO, SUSTAIN
from ov_piano.data.midi import read_messages, read_notes
from ov_piano.data.pianoroll import piano_roll
from ov_piano.data.smf import parse_midi
from ov_piano.errors import InputError
from tests.midi_files import GOLDEN_MIDI, GOLDEN_ROLLS, sorted_rows, write_tracks


def note_on(note, velocity, time=0, channel=0):
    return mido.Message("note_on", note=note, velocity=velocity, time=time, channel=channel)


def note_off(note, time=0, velocity=64, channel=0):
    return mido.Message("note_off", note=note, velocity=velocity, time=time, channel=channel)


def control(number, value, time=0):
    return mido.Message("control_change", control=number, value=value, time=time)


def tempo(microseconds, time=0):
    return mido.MetaMessage("set_tempo", tempo=microseconds, time=time)


def end(time):
    return mido.MetaMessage("end_of_track", time=time)


def chunk(name: bytes, data: bytes) -> bytes:
    return name + struct.pack(">L", len(data)) + data


def header(midi_format=0, tracks=1, division=500) -> bytes:
    return chunk(b"MThd", struct.pack(">HHH", midi_format, tracks, division))


def iterate_with_mido(path):
    """Key and pedal messages with seconds, and the end, from mido's own (slow) iteration."""
    secs, rows = 0.0, []
    for message in mido.MidiFile(path):
        secs += message.time
        if message.type in ("note_on", "note_off"):
            rows.append((secs, False, message.note, message.velocity if message.type == "note_on" else 0))
        elif message.type == "control_change" and message.control in (SUSTAIN, SOSTENUTO, SOFT):
            rows.append((secs, True, message.control, message.value))
    return rows, secs


def assert_as_mido_reads_it(path):
    messages = read_messages(path)
    rows, last_secs = iterate_with_mido(path)
    ours = np.column_stack((messages.secs, messages.is_pedal, messages.numbers, messages.values))
    np.testing.assert_allclose(ours, np.array(rows, float).reshape(-1, 4), rtol=0, atol=1e-9)
    assert messages.last_secs == pytest.approx(last_secs, abs=1e-9)


@pytest.mark.parametrize("extend_sustain", [True, False])
@pytest.mark.parametrize("path", GOLDEN_MIDI, ids=lambda path: path.stem)
def test_notes_equal_the_golden_ones(path, extend_sustain):
    expected = GOLDEN_ROLLS[f"{path.stem}_extendsus={extend_sustain}_events"]
    midi_notes = read_notes(path, extend_sustain)
    np.testing.assert_allclose(sorted_rows(midi_notes.notes), sorted_rows(expected), rtol=0, atol=1e-9)
    oddities = (1, 1) if path.stem == "maestro_redundant" else (0, 0)
    assert (midi_notes.restruck, midi_notes.unmatched) == oddities


def test_notes_are_sorted_by_onset_then_note(tmp_path):
    messages = [note_on(64, 1), note_on(60, 2), note_off(64, 480), note_off(60, 480), note_on(62, 3, 480), end(960)]
    notes = read_notes(write_tracks(tmp_path / "a.mid", [messages])).notes
    np.testing.assert_allclose(notes, [[0, 1, 60, 2], [0, 0.5, 64, 1], [1.5, 2.5, 62, 3]], rtol=0, atol=1e-12)


def test_tempo_changes_of_one_track_time_the_notes_of_another(tmp_path):
    tempos = [tempo(1_000_000, 480), tempo(250_000, 480), end(0)]
    notes = [note_on(60, 90, 240), note_off(60, 480), note_on(62, 80, 480), note_off(62, 480), end(480)]
    midi_notes = read_notes(write_tracks(tmp_path / "a.mid", [tempos, notes]))
    # ticks 240, 720, 1200, 1680, 2160; 480 ticks last 0.5 s, then 1 s, then 0.25 s
    np.testing.assert_allclose(midi_notes.notes, [[0.25, 1, 60, 90], [1.625, 1.875, 62, 80]], rtol=0, atol=1e-12)
    assert midi_notes.last_secs == pytest.approx(2.125, abs=1e-12)


def test_velocity_zero_is_a_note_off(tmp_path):
    messages = [note_on(60, 90), note_on(62, 80), note_on(60, 0, 480), note_off(62, 0, velocity=127)]
    notes = read_notes(write_tracks(tmp_path / "a.mid", [messages])).notes
    np.testing.assert_array_equal(notes, [[0, 0.5, 60, 90], [0, 0.5, 62, 80]])


def test_channels_share_one_keyboard_and_other_messages_are_ignored(tmp_path):
    messages = [
        mido.MetaMessage("track_name", name="piano"),
        mido.Message("program_change", program=3, channel=5),
        note_on(60, 90, 480, channel=5),
        control(1, 100, 480),
        control(7, 100),
        mido.Message("pitchwheel", pitch=-900),
        mido.Message("aftertouch", value=5),
        mido.Message("polytouch", note=60, value=5),
        mido.Message("sysex", data=(1, 2, 3)),
        note_on(62, 80, 0, channel=15),
        note_off(60, 480, channel=0),
        note_off(62, channel=15),
    ]
    midi_notes = read_notes(write_tracks(tmp_path / "a.mid", [messages]))
    np.testing.assert_array_equal(midi_notes.notes, [[0.5, 1.5, 60, 90], [1, 1.5, 62, 80]])
    assert (midi_notes.restruck, midi_notes.unmatched) == (0, 0)


def test_pedal_changes_are_read_with_their_times(tmp_path):
    messages = [control(SUSTAIN, 3), control(SOFT, 5, 480), control(SUSTAIN, 90, 480), control(SOSTENUTO, 1)]
    pedals = read_notes(write_tracks(tmp_path / "a.mid", [messages])).pedals
    np.testing.assert_array_equal(pedals[SUSTAIN], [[0, 3], [1, 90]])
    np.testing.assert_array_equal(pedals[SOFT], [[0.5, 5]])
    np.testing.assert_array_equal(pedals[SOSTENUTO], [[1, 1]])


def test_tracks_of_format_2_are_concatenated(tmp_path):
    first = [tempo(1_000_000), note_on(60, 90, 480), note_off(60, 480), end(480)]
    second = [note_on(62, 80), note_off(62, 480)]
    midi_notes = read_notes(write_tracks(tmp_path / "a.mid", [first, second], midi_format=2))
    np.testing.assert_allclose(midi_notes.notes, [[1, 2, 60, 90], [3, 3.5, 62, 80]], rtol=0, atol=1e-12)
    assert midi_notes.last_secs == 3.5


def test_smpte_time_ignores_tempo(tmp_path):
    track = bytes([0, 0xFF, 0x51, 3, 1, 2, 3, 100, 0x90, 60, 90, 100, 60, 0])
    path = tmp_path / "a.mid"
    path.write_bytes(header(division=(256 - 25 << 8) + 40) + chunk(b"MTrk", track))
    np.testing.assert_allclose(read_notes(path).notes, [[0.1, 0.2, 60, 90]], rtol=0, atol=1e-12)


def test_file_without_notes_is_an_empty_table(tmp_path):
    midi_notes = read_notes(write_tracks(tmp_path / "a.mid", [[tempo(500_000), end(4800)]]))
    assert midi_notes.notes.shape == (0, 4)
    assert midi_notes.last_secs == 5
    assert piano_roll(midi_notes)[0].sum() == 0
    assert len(read_messages(write_tracks(tmp_path / "b.mid", [[]])).secs) == 0


def test_chunks_of_other_kinds_are_skipped(tmp_path):
    path = tmp_path / "a.mid"
    track = bytes([0, 0x90, 60, 90, 100, 60, 0])
    path.write_bytes(header() + chunk(b"XFIH", b"whatever") + chunk(b"MTrk", track))
    np.testing.assert_array_equal(read_notes(path).notes, [[0, 0.1, 60, 90]])


def test_tempo_of_four_bytes_falls_back_to_mido(tmp_path):
    path = tmp_path / "a.mid"
    tempo_event = [0, 0xFF, 0x51, 4, 0x0F, 0x42, 0x40, 0]  # 1,000,000 microseconds
    path.write_bytes(header() + chunk(b"MTrk", bytes([*tempo_event, 0, 0x90, 60, 90, 100, 60, 0])))
    np.testing.assert_allclose(read_notes(path).notes, [[0, 0.2, 60, 90]], rtol=0, atol=1e-12)


def test_running_status_after_a_meta_event_falls_back_to_mido(tmp_path):
    path = tmp_path / "a.mid"
    path.write_bytes(header() + chunk(b"MTrk", bytes([0, 0x90, 60, 90, 50, 0xFF, 1, 1, 65, 50, 60, 0])))
    with pytest.raises(ValueError, match="without a status"):
        parse_midi(path.read_bytes())
    np.testing.assert_array_equal(read_notes(path).notes, [[0, 0.1, 60, 90]])


GOOD_TRACK = chunk(b"MTrk", bytes([0, 0x90, 60, 90, 100, 60, 0]))
BROKEN = {
    "empty": (b"", "ends too early"),
    "text": (b"not a MIDI file at all", "MThd not found"),
    "header only": (header(), "ends too early"),
    "cut in the header": (header()[:9], "ends too early"),
    "cut in a track": (header() + GOOD_TRACK[:-1], "ends too early"),
    "second track missing": (header(1, 2) + GOOD_TRACK, "ends too early"),
    "no tracks": (header(0, 0), "without tracks"),
    "no division": (header(division=0) + GOOD_TRACK, "and time division 0"),
    "no ticks in a SMPTE frame": (header(division=0xE700) + GOOD_TRACK, "and time division 59136"),
    "format 3": (header(3) + GOOD_TRACK, "found format 3"),
    "status byte as data": (header() + chunk(b"MTrk", bytes([0, 0x90, 60, 0x90])), "not a readable MIDI file"),
    "program change without data": (header() + chunk(b"MTrk", bytes([0, 0xC0, 0x90])), "not a readable MIDI file"),
    "data without status": (header() + chunk(b"MTrk", bytes([0, 60, 90])), "not a readable MIDI file"),
    "undefined status": (header() + chunk(b"MTrk", bytes([0, 0xF4, 90])), "not a readable MIDI file"),
    "text longer than its track and the file": (header() + chunk(b"MTrk", bytes([0, 0xFF, 1, 100])), "ends too early"),
    "text and track longer than the file": (header() + b"MTrk\0\0\0\x68" + bytes([0, 0xFF, 1, 100]), "ends too early"),
    "tempo of two bytes": (
        header() + chunk(b"MTrk", bytes([0, 0xFF, 0x51, 2, 9, 9, 0, 0, 0x90, 60, 90])),
        "not a readable MIDI file",
    ),
    "event beyond its track": (header() + b"MTrk\0\0\0\3" + bytes([0, 0x90, 60, 90]), "ends too early"),
    "endless tick count": (header() + chunk(b"MTrk", bytes([*[0xFF] * 20, 0x7F, 0x90, 60, 90])), "not a readable"),
    "lasting for days": (header() + chunk(b"MTrk", bytes([0xFF, 0xFF, 0xFF, 0x7F, 0x90, 60, 90])), "lasts 75 h"),
}


@pytest.mark.parametrize(("data", "reason"), BROKEN.values(), ids=BROKEN)
def test_broken_midi_is_refused_with_path_and_reason(tmp_path, data, reason):
    path = tmp_path / "a strange name.mid"
    path.write_bytes(data)
    with pytest.raises(InputError, match=re.escape(reason)) as caught:
        read_notes(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_files_and_folders_are_named(tmp_path):
    with pytest.raises(InputError, match=r"missing\.mid: cannot read MIDI file \(No such file or directory\)"):
        read_notes(tmp_path / "missing.mid")
    with pytest.raises(InputError, match="Is a directory"):
        read_notes(tmp_path)


@pytest.mark.parametrize("path", GOLDEN_MIDI, ids=lambda path: path.stem)
def test_a_truncated_midi_file_is_refused(path, tmp_path):
    data, cut = path.read_bytes(), tmp_path / "cut.mid"
    for length in [*range(0, 50), *range(50, len(data), 37), *range(len(data) - 10, len(data))]:
        cut.write_bytes(data[:length])
        with pytest.raises(InputError, match="ends too early"):
            read_notes(cut)


@pytest.mark.parametrize("path", GOLDEN_MIDI, ids=lambda path: path.stem)
def test_golden_files_equal_mido_playback(path):
    assert_as_mido_reads_it(path)


times = st.sampled_from([0, 0, 1, 11, 127, 128, 480, 100_000])
notes_of_a_few_keys = st.sampled_from([60, 61, 127])
sevenbit = st.sampled_from([0, 1, 64, 127])
messages_of_any_kind = st.one_of(
    st.builds(note_on, notes_of_a_few_keys, sevenbit, times, st.sampled_from([0, 0, 9])),
    st.builds(note_off, notes_of_a_few_keys, times, sevenbit, st.sampled_from([0, 0, 9])),
    st.builds(control, st.sampled_from([1, SUSTAIN, SOSTENUTO, SOFT]), sevenbit, times),
    st.builds(tempo, st.integers(0, 0xFFFFFF), times),
    st.builds(mido.Message, st.just("program_change"), program=sevenbit, time=times),
    st.builds(mido.Message, st.just("aftertouch"), value=sevenbit, time=times),
    st.builds(mido.Message, st.just("pitchwheel"), pitch=st.integers(-8192, 8191), time=times),
    st.builds(mido.Message, st.just("sysex"), data=st.lists(sevenbit, max_size=3), time=times),
    st.builds(mido.MetaMessage, st.just("text"), text=st.text("aé", max_size=150), time=times),
)


@given(st.lists(st.lists(messages_of_any_kind, max_size=25), min_size=1, max_size=3), st.sampled_from([1, 384, 0x7FFF]))
def test_any_messages_equal_mido_playback(tmp_path_factory, tracks, ticks_per_beat):
    path = write_tracks(tmp_path_factory.getbasetemp() / "any.mid", tracks, ticks_per_beat=ticks_per_beat)
    assert len(parse_midi(path.read_bytes()).tracks) == len(tracks)  # written by mido, so well-formed
    rows, last_secs = iterate_with_mido(path)
    if last_secs > 600:  # rolls of hours are slow to make
        return
    assert_as_mido_reads_it(path)

    midi_notes = read_notes(path)
    strikes = [(secs, number, value) for secs, is_pedal, number, value in rows if value and not is_pedal]
    onsets = midi_notes.notes[:, [0, 2, 3]]
    assert len(onsets) == len(strikes)
    np.testing.assert_allclose(
        onsets[:, 1:], [row[1:] for row in sorted(strikes, key=lambda row: row[:2])] or onsets[:, 1:]
    )
    for key in np.unique(midi_notes.notes[:, 2]):
        onset_secs, offset_secs = midi_notes.notes[midi_notes.notes[:, 2] == key, :2].T
        assert (onset_secs <= offset_secs).all()
        assert (offset_secs[:-1] <= onset_secs[1:]).all()
    assert (midi_notes.notes[:, 1] <= midi_notes.last_secs).all()
    roll, collisions = piano_roll(midi_notes)
    assert np.count_nonzero(roll[:128]) + collisions == len(strikes)


@given(st.data())
def test_mutated_files_are_read_like_mido_or_refused(tmp_path_factory, data):
    content = bytearray(data.draw(st.sampled_from(GOLDEN_MIDI)).read_bytes())
    for position in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=3)):
        content[position] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "mutated.mid"
    path.write_bytes(content)
    try:
        messages = read_messages(path)
    except InputError:
        return
    try:
        file = mido.MidiFile(path)
    except Exception:  # mido also refuses what plays no role here: texts, key signatures, foreign chunks
        return
    unknown = any(message.type == "unknown_meta" for track in file.tracks for message in track)
    if file.type != 2 and file.ticks_per_beat > 0 and not unknown:  # mido's iteration drops the time of unknown ones
        assert_as_mido_reads_it(path)
    assert (np.diff(messages.secs) >= 0).all()
