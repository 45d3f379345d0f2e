"""Hand-worked tables for the keyboard; notes are (onset, offset, note, velocity)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ov_piano.data.keyboard import SOFT, SOSTENUTO, SUSTAIN, play


def down(secs, key, velocity=80):
    return secs, False, key, velocity


def up(secs, key):
    return secs, False, key, 0


def sustain(secs, value):
    return secs, True, SUSTAIN, value


def sostenuto(secs, value):
    return secs, True, SOSTENUTO, value


def soft(secs, value):
    return secs, True, SOFT, value


TABLE = {
    "a key sounds from strike to lift": (
        [down(1, 60), down(1.5, 64, 30), up(2, 60), up(3, 64)],
        [(1, 2, 60, 80), (1.5, 3, 64, 30)],
    ),
    "sustain holds a lifted key until released": (
        [sustain(0, 127), down(1, 60), up(2, 60), sustain(4, 0)],
        [(1, 4, 60, 80)],
    ),
    "sustain pressed after the strike, released before the lift": (
        [down(1, 60), sustain(1.5, 127), sustain(2, 0), up(3, 60)],
        [(1, 3, 60, 80)],
    ),
    "sustain pressed after the lift holds nothing": (
        [down(1, 60), up(2, 60), sustain(2, 127), sustain(4, 0)],
        [(1, 2, 60, 80)],
    ),
    "sustain at 7 is up, at 8 down; moving while down changes nothing": (
        [sustain(0, 7), down(1, 60), up(2, 60), sustain(3, 8), down(4, 62), up(5, 62), sustain(6, 90), sustain(7, 7)],
        [(1, 2, 60, 80), (4, 7, 62, 80)],
    ),
    "releasing sustain leaves keys that are down": (
        [sustain(0, 127), down(1, 60), down(1, 62), up(2, 60), sustain(3, 0), up(5, 62)],
        [(1, 3, 60, 80), (1, 5, 62, 80)],
    ),
    "sostenuto holds only keys that were down when it became active": (
        [down(1, 60), sostenuto(2, 1), down(3, 62), up(4, 60), up(4, 62), sostenuto(6, 0)],
        [(1, 6, 60, 80), (3, 4, 62, 80)],
    ),
    "moving an active sostenuto catches no more keys": (
        [down(1, 60), sostenuto(2, 1), down(3, 62), sostenuto(3.5, 127), up(4, 60), up(4, 62), sostenuto(6, 0)],
        [(1, 6, 60, 80), (3, 4, 62, 80)],
    ),
    "sostenuto does not catch a key that only sustain still holds": (
        [sustain(0, 99), down(1, 60), up(2, 60), sostenuto(3, 9), sustain(4, 0), sostenuto(5, 0)],
        [(1, 4, 60, 80)],
    ),
    "a key held by both pedals waits for both": (
        [down(1, 60), sostenuto(2, 9), sustain(2, 99), up(3, 60), sostenuto(4, 0), sustain(5, 0)],
        [(1, 5, 60, 80)],
    ),
    "and in the other order": (
        [down(1, 60), sostenuto(2, 9), sustain(2, 99), up(3, 60), sustain(4, 0), sostenuto(5, 0)],
        [(1, 5, 60, 80)],
    ),
    "sostenuto's key keeps being held when struck again": (
        [down(1, 60), sostenuto(2, 9), up(3, 60), down(4, 60), up(5, 60), sostenuto(6, 0)],
        [(1, 4, 60, 80), (4, 6, 60, 80)],
    ),
    "a resonant key struck again ends there": (
        [sustain(0, 127), down(1, 60), up(2, 60), down(3, 60, 50), up(4, 60), sustain(5, 0)],
        [(1, 3, 60, 80), (3, 5, 60, 50)],
    ),
    "soft holds nothing": ([soft(0, 127), down(1, 60), up(2, 60), soft(3, 0)], [(1, 2, 60, 80)]),
    "what still sounds ends with the recording": (
        [down(1, 60), sustain(1, 127), down(2, 62), up(3, 62)],
        [(1, 10, 60, 80), (2, 10, 62, 80)],
    ),
    "no messages": ([], []),
}


@pytest.mark.parametrize(("messages", "notes"), TABLE.values(), ids=TABLE)
def test_notes_equal_a_hand_worked_table(messages, notes):
    keyboard = play(messages, last_secs=10)
    assert sorted(keyboard.notes) == notes
    assert (keyboard.restruck, keyboard.unmatched) == (0, 0)


def test_an_overlapping_note_ends_a_millisecond_before_the_next_onset():
    keyboard = play([down(1, 60, 10), down(2, 60, 20), up(3, 60), up(4, 60)], last_secs=10)
    assert keyboard.notes == [(1, 2 - 0.001, 60, 10), (2, 3, 60, 20)]
    assert (keyboard.restruck, keyboard.unmatched) == (1, 1)


@pytest.mark.parametrize("pedal", [SUSTAIN, SOSTENUTO])
def test_an_overlapping_note_held_by_a_pedal_ends_at_the_next_onset(pedal):
    keyboard = play([down(1, 60, 10), (1.5, True, pedal, 127), down(2, 60, 20), up(3, 60)], last_secs=10)
    assert sorted(keyboard.notes) == [(1, 2, 60, 10), (2, 10, 60, 20)]
    assert keyboard.restruck == 1


def test_an_overlap_within_a_millisecond_never_ends_before_its_onset():
    keyboard = play([down(1, 60, 10), down(1.0005, 60, 20), up(3, 60)], last_secs=10)
    assert keyboard.notes == [(1, 1, 60, 10), (1.0005, 3, 60, 20)]


def test_a_note_off_of_a_resonant_key_is_unmatched_and_ignored():
    keyboard = play([sustain(0, 127), down(1, 60), up(2, 60), up(3, 60), sustain(4, 0)], last_secs=10)
    assert keyboard.notes == [(1, 4, 60, 80)]
    assert keyboard.unmatched == 1


def test_without_extension_sustain_never_holds_but_sostenuto_does():
    messages = [sustain(0, 127), down(1, 60), sostenuto(2, 127), down(2, 62), up(3, 60), up(3, 62), sostenuto(4, 0)]
    assert sorted(play(messages, 10, extend_sustain=False).notes) == [(1, 4, 60, 80), (2, 3, 62, 80)]
    assert sorted(play(messages, 10).notes) == [(1, 10, 60, 80), (2, 10, 62, 80)]


def notes_by_dampers(messages, last_secs, extend_sustain):
    """An independent implementation of the rules: after each message, which keys are damped?"""
    notes, sounding, down_keys, caught, pedals = [], {}, set(), set(), {SUSTAIN: 0, SOSTENUTO: 0, SOFT: 0}

    def held(key):
        return (extend_sustain and pedals[SUSTAIN] > 7) or (pedals[SOSTENUTO] > 0 and key in caught)

    for secs, is_pedal, number, value in messages:
        if is_pedal:
            if number == SOSTENUTO and pedals[SOSTENUTO] == 0 and value > 0:
                caught = set(down_keys)
            pedals[number] = value
        elif value:
            if number in sounding:
                early = 0.001 if number in down_keys and not held(number) else 0
                onset, velocity = sounding[number]
                notes.append((onset, max(onset, secs - early), number, velocity))
            sounding[number] = (secs, value)
            down_keys.add(number)
        else:
            down_keys.discard(number)
        for key in list(sounding):
            if key not in down_keys and not held(key):
                onset, velocity = sounding.pop(key)
                notes.append((onset, secs, key, velocity))
    return notes + [(onset, last_secs, key, velocity) for key, (onset, velocity) in sounding.items()]


gestures = st.tuples(
    st.sampled_from([0, 0, 0.0004, 0.001, 0.01, 0.5]),
    st.one_of(
        st.tuples(st.just(False), st.integers(60, 63), st.sampled_from([0, 0, 1, 64, 127])),
        st.tuples(st.just(True), st.sampled_from([SUSTAIN, SOSTENUTO, SOFT]), st.sampled_from([0, 1, 7, 8, 127])),
    ),
)


@given(st.lists(gestures, max_size=60), st.booleans())
def test_any_messages_equal_a_reference_implementation(gestures, extend_sustain):
    messages, secs = [], 0.0
    for delta, gesture in gestures:
        secs += delta
        messages.append((secs, *gesture))
    keyboard = play(messages, secs, extend_sustain)
    assert sorted(keyboard.notes) == sorted(notes_by_dampers(messages, secs, extend_sustain))

    strikes = [(secs, number, value) for secs, is_pedal, number, value in messages if not is_pedal and value]
    assert sorted((onset, key, velocity) for onset, _, key, velocity in keyboard.notes) == sorted(strikes)
    ends = {}
    for onset, offset, key, _ in keyboard.notes:  # notes of one key come in order of time
        assert ends.get(key, 0) <= onset <= offset
        ends[key] = offset
