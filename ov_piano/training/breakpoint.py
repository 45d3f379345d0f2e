"""Pause a training run in the debugger: ``breakpoint.json``."""

import json
import logging
import sys
from pathlib import Path

logger = logging.getLogger(__name__)

KEYS = ("inconditional", "step_gt", "step_every")


class BreakpointFile:
    """Read ``{"inconditional": bool, "step_gt": int or null, "step_every": int or null}`` at every step.

    A missing or invalid file never stops training; each problem is logged once.

    :param interactive: whether a debugger can be used; if not, log a message and continue
    """

    def __init__(self, path: str | Path, interactive: bool = True):
        self.path = Path(path)
        self.interactive = interactive
        self._warned: set[str] = set()

    def wants_pause(self, step: int) -> bool:
        """Whether to pause at ``step``."""
        try:
            rules = json.loads(self.path.read_text(encoding="utf-8"))
            if not isinstance(rules, dict):
                raise ValueError("expected an object with the keys " + ", ".join(KEYS))
            for key in KEYS[1:]:
                if rules.get(key) is not None and type(rules[key]) is not int:
                    raise ValueError(f"{key} must be a whole number or null")
            if type(rules.get("inconditional", False)) is not bool:
                raise ValueError("inconditional must be true or false")
            if unknown := set(rules) - set(KEYS):
                raise ValueError(f"unknown key {min(unknown)!r}")
        except (OSError, ValueError, RecursionError) as error:
            self._warn_once(str(error))
            return False
        step_gt, step_every = rules.get("step_gt"), rules.get("step_every")
        wanted = (
            rules.get("inconditional", False)
            or (step_gt is not None and step > step_gt)
            or (bool(step_every) and step % step_every == 0)
        )
        if wanted and not self.interactive:
            self._warn_once("pausing requires a terminal and a single process")
            return False
        return wanted

    def _warn_once(self, fault: str) -> None:
        if fault not in self._warned:
            logger.warning("ignoring %s: %s", self.path, fault)
            self._warned.add(fault)


def has_terminal() -> bool:
    """Whether somebody can type at a debugger's prompt."""
    return sys.stdin is not None and sys.stdin.isatty()  # None if closed
