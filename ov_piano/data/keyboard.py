"""State machine of piano keys and pedals: key and pedal messages -> notes.

A note begins at its note-on. It ends when the key is released and neither the sustain nor the sostenuto pedal holds
the damper (until then a released key is "resonant"), or at the key's next note-on. Pedals are the MIDI 1.0 control
changes 64 (sustain) and 66 (sostenuto); the soft pedal (67) does not affect note ends.
"""

from collections.abc import Iterable

SUSTAIN, SOSTENUTO, SOFT = 64, 66, 67  # control change numbers
SUSTAIN_OFF = 7  # sustain holds above this value: half-pedalling players rest their foot on the pedal
RESTRIKE_SECS = 0.001  # an overlapping note ends this long before the next onset of its key


class Keyboard:
    """Processes messages in order of time and collects `notes`: (onset s, offset s, MIDI note, velocity).

    Corrects and counts overlapping notes (`restruck`: note-on while the key is down) and `unmatched` note-offs.
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
        """End the notes still sounding at `last_secs`, the file's last timestamp."""
        for note in list(self._sounding):
            self._end(note, last_secs)

    def _held_by_pedal(self, note: int) -> bool:
        return self._sustain or note in self._sostenuto_keys

    def _end(self, note: int, secs: float) -> None:
        onset_secs, velocity = self._sounding.pop(note)
        self.notes.append((onset_secs, max(onset_secs, secs), note, velocity))

    def _end_released(self, secs: float) -> None:
        """End the notes of released keys that no pedal holds any more."""
        for note in self._sounding.keys() - self._down:
            if not self._held_by_pedal(note):
                self._end(note, secs)


def play(messages: Iterable[tuple[float, bool, int, int]], last_secs: float, extend_sustain: bool = True) -> Keyboard:
    """Send messages in order of time to a new keyboard and end the notes still sounding at `last_secs`.

    Messages are (seconds, False, MIDI note, velocity; 0 is a note-off) for keys and
    (seconds, True, control change, value) for pedals.
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
