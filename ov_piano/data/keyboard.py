"""A piano's keys and pedals as a state machine: from key and pedal messages to note events.

A note begins when its key is struck. It ends when nothing holds its damper up any more: the key is lifted and
neither the sustain nor the sostenuto pedal holds it (until then a lifted key is "resonant"), or the key is struck
again. Pedals follow the MIDI 1.0 control changes 64 (sustain) and 66 (sostenuto); the soft pedal (67) holds nothing.
"""

from collections.abc import Iterable

SUSTAIN, SOSTENUTO, SOFT = 64, 66, 67  # control change numbers
SUSTAIN_OFF = 7  # sustain holds above this value: half-pedalling players rest their foot on the pedal
RESTRIKE_SECS = 0.001  # a key struck while down was lifted this long before


class Keyboard:
    """Receives what the player does in order of time and collects `notes`: (onset s, offset s, MIDI note, velocity).

    Impossible gestures are put right and counted: `restruck` (struck while down) and `unmatched` (lifted while up).
    """

    def __init__(self, extend_sustain: bool = True):
        self.notes: list[tuple[float, float, int, int]] = []
        self.restruck = 0
        self.unmatched = 0
        self._extend_sustain = extend_sustain
        self._sounding: dict[int, tuple[float, int]] = {}  # MIDI note -> onset s, velocity
        self._down: set[int] = set()
        self._sustain = False
        self._sostenuto = False
        self._sostenuto_keys: set[int] = set()  # down when the sostenuto pedal became active

    def strike(self, secs: float, note: int, velocity: int) -> None:
        if note in self._down:
            self.restruck += 1
            self._end(note, secs if self._held_by_pedal(note) else secs - RESTRIKE_SECS)
        elif note in self._sounding:
            self._end(note, secs)
        self._down.add(note)
        self._sounding[note] = (secs, velocity)

    def lift(self, secs: float, note: int) -> None:
        if note not in self._down:
            self.unmatched += 1
            return
        self._down.remove(note)
        if not self._held_by_pedal(note):
            self._end(note, secs)

    def move_sustain(self, secs: float, value: int) -> None:
        was_active = self._sustain
        self._sustain = self._extend_sustain and value > SUSTAIN_OFF
        if was_active and not self._sustain:
            self._end_released(secs)

    def move_sostenuto(self, secs: float, value: int) -> None:
        was_active = self._sostenuto
        self._sostenuto = value > 0
        if self._sostenuto and not was_active:
            self._sostenuto_keys = set(self._down)
        elif was_active and not self._sostenuto:
            self._sostenuto_keys = set()
            self._end_released(secs)

    def finish(self, last_secs: float) -> None:
        """End what still sounds at `last_secs`, the recording's last timestamp."""
        for note in list(self._sounding):
            self._end(note, last_secs)

    def _held_by_pedal(self, note: int) -> bool:
        return self._sustain or note in self._sostenuto_keys

    def _end(self, note: int, secs: float) -> None:
        onset_secs, velocity = self._sounding.pop(note)
        self.notes.append((onset_secs, max(onset_secs, secs), note, velocity))

    def _end_released(self, secs: float) -> None:
        """A pedal went up: end the resonant keys that nothing holds any more."""
        for note in self._sounding.keys() - self._down:
            if not self._held_by_pedal(note):
                self._end(note, secs)


def play(messages: Iterable[tuple[float, bool, int, int]], last_secs: float, extend_sustain: bool = True) -> Keyboard:
    """Send messages in order of time to a new keyboard and end the notes still sounding at `last_secs`.

    A message says what happens to a key: (seconds, False, MIDI note, velocity or 0 for lifted), or to a pedal:
    (seconds, True, control change, value).
    """
    keyboard = Keyboard(extend_sustain)
    for secs, is_pedal, number, value in messages:
        if not is_pedal:
            if value:
                keyboard.strike(secs, number, value)
            else:
                keyboard.lift(secs, number)
        elif number == SUSTAIN:
            keyboard.move_sustain(secs, value)
        elif number == SOSTENUTO:
            keyboard.move_sostenuto(secs, value)
    keyboard.finish(last_secs)
    return keyboard
