"""How much longer a run will take."""

import time


class TimeLeft:
    """The time to ``last_step`` as text, from the pace since this object was made after ``first_step`` steps."""

    def __init__(self, first_step: int, last_step: int) -> None:
        self.first_step, self.last_step, self._begin = first_step, last_step, time.monotonic()

    def __call__(self, step: int) -> str:
        secs_per_step = (time.monotonic() - self._begin) / (step - self.first_step)
        return format_duration(secs_per_step * (self.last_step - step))


def format_duration(secs: float) -> str:
    """A duration as ``2 d 03:04 h`` or, below a day, ``03:04 h``."""
    days, minutes = divmod(round(secs / 60), 24 * 60)
    clock = f"{minutes // 60:02}:{minutes % 60:02}"
    return f"{days} d {clock} h" if days else f"{clock} h"
