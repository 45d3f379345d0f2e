"""MIDI tools for rendering: notes with the pedal applied; cut, stretched and softened copies."""

import mido
import numpy as np

SUSTAIN = 64  # MIDI control


def sounding_notes(mid: mido.MidiFile, pedal_on: int) -> tuple[list[tuple[float, float, int, int]], float]:
    """Notes as (onset s, end s, MIDI note, velocity) with the sustain pedal applied, and the file's length in seconds.

    :param pedal_on: value of control 64 at which the dampers lift
    """
    now, pedal, held, ringing, notes = 0.0, False, {}, {}, []
    for msg in mid:
        now += msg.time
        if msg.type == "control_change" and msg.control == SUSTAIN:
            if pedal and msg.value < pedal_on:
                notes += [(onset, now, note, velocity) for note, (onset, velocity) in ringing.items()]
                ringing = {}
            pedal = msg.value >= pedal_on
        elif msg.type == "note_on" and msg.velocity > 0:
            for group in (ringing, held):
                if msg.note in group:
                    onset, velocity = group.pop(msg.note)
                    notes.append((onset, now, msg.note, velocity))
            held[msg.note] = (now, msg.velocity)
        elif msg.type in ("note_on", "note_off") and msg.note in held:
            onset, velocity = held.pop(msg.note)
            if pedal:
                ringing[msg.note] = (onset, velocity)
            else:
                notes.append((onset, now, msg.note, velocity))
    for group in (held, ringing):
        notes += [(onset, now, note, velocity) for note, (onset, velocity) in group.items()]
    return sorted(notes), now


def pedal_curve(mid: mido.MidiFile, samples: int, sample_rate: int, pedal_on: int) -> np.ndarray:
    """1 where the sustain pedal is down, else 0; (samples,)."""
    curve, now, last, value = np.zeros(samples, np.float32), 0.0, 0, 0.0
    for msg in mid:
        now += msg.time
        if msg.type == "control_change" and msg.control == SUSTAIN:
            at = min(samples, int(now * sample_rate))
            curve[last:at], last, value = value, at, float(msg.value >= pedal_on)
    curve[last:] = value
    return curve


def switch_pedal(mid: mido.MidiFile, pedal_on: int) -> None:
    """Make the sustain pedal a switch, in place: down (127) from ``pedal_on``, up (0) below.

    A piano's dampers lift somewhere on the pedal's way, and labels must say where: otherwise a half-pressed pedal
    holds notes in the labels that nobody hears.
    """
    for track in mid.tracks:
        for msg in track:
            if msg.type == "control_change" and msg.control == SUSTAIN:
                msg.value = 127 if msg.value >= pedal_on else 0


def cut(mid: mido.MidiFile, begin_secs: float, seconds: float) -> mido.MidiFile:
    """Cut a window out of a two-track file, at 120 beats per minute; omits notes that began before the window."""
    ticks = mid.ticks_per_beat * 2  # a second
    first, last = round(begin_secs * ticks), round((begin_secs + seconds) * ticks)
    now, controls, down, body = 0, {}, {}, []
    for msg in mid.tracks[1]:
        now += msg.time
        if msg.is_meta or msg.type == "program_change":
            continue
        if now < first and msg.type == "control_change":
            controls[msg.control] = msg  # the state at the window's begin
        if not first <= now < last:
            continue
        if msg.type == "note_on" and msg.velocity > 0:
            down[msg.note] = down.get(msg.note, 0) + 1
        elif msg.type in ("note_on", "note_off"):
            if not down.get(msg.note):
                continue
            down[msg.note] -= 1
        body.append((now - first, msg))
    ends = [mido.Message("note_on", note=note, velocity=0) for note, count in down.items() for _ in range(count)]
    timed = [(0, msg) for msg in controls.values()] + body + [(last - first, msg) for msg in ends]
    track, before = mido.MidiTrack([mido.Message("program_change", program=0)]), 0
    for tick, msg in timed:
        track.append(msg.copy(time=tick - before))
        before = tick
    track.append(mido.MetaMessage("end_of_track", time=1))
    return mido.MidiFile(type=1, ticks_per_beat=mid.ticks_per_beat, tracks=[mid.tracks[0], track])


def stretch(mid: mido.MidiFile, factor: float) -> mido.MidiFile:
    """A copy that is ``factor`` times as long: changes the tempo, not the ticks."""
    tracks = [
        mido.MidiTrack(
            msg.copy(tempo=round(msg.tempo * factor)) if msg.type == "set_tempo" else msg.copy() for msg in track
        )
        for track in mid.tracks
    ]
    if not any(msg.type == "set_tempo" for track in tracks for msg in track):
        tracks[0].insert(0, mido.MetaMessage("set_tempo", tempo=round(500_000 * factor)))
    return mido.MidiFile(type=mid.type, ticks_per_beat=mid.ticks_per_beat, tracks=tracks)


def soften(mid: mido.MidiFile, factor: float) -> None:
    """Multiply all velocities by ``factor``, in place; results stay within 1-127."""
    for track in mid.tracks:
        for msg in track:
            if msg.type == "note_on" and msg.velocity > 0:
                msg.velocity = int(np.clip(round(msg.velocity * factor), 1, 127))
