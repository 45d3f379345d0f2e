"""Runs a script: arguments -> configuration -> ``main(conf)`` -> exit status."""

import inspect
import os
import re
import sys
from bdb import BdbQuit
from collections.abc import Callable, Sequence
from typing import Any

from ov_piano.config import describe, parse_args, to_yaml
from ov_piano.errors import InputError

BAD_INPUT = 2  # exit status
INTERRUPTED = 130  # 128 + SIGINT, as shells report it
PIPE_CLOSED = 141  # 128 + SIGPIPE


def run(main: Callable[[Any], None], conf_class: type, args: Sequence[str] | None = None) -> None:
    """Run ``main`` with the settings in ``args`` (default: the command line) and exit.

    Prints the configuration first, unless it has a setting VERBOSE that is false. `InputError`, operating-system
    errors and running out of memory print one line to standard error and exit with status 2; Ctrl-C exits with 130.
    """
    args = sys.argv[1:] if args is None else args
    try:
        if any(arg in ("-h", "--help") for arg in args):
            doc = inspect.getdoc(sys.modules[main.__module__]) or ""
            print(f"{doc}\n\nSettings (KEY=value):\n{describe(conf_class)}", flush=True)
            sys.exit(0)
        conf = parse_args(conf_class, args)
        if getattr(conf, "VERBOSE", True) and os.environ.get("RANK", "0") == "0":  # under torchrun: rank 0
            print(to_yaml(conf), flush=True)
        main(conf)
    except InputError as error:
        _fail(str(error))
    except OSError as error:
        if isinstance(error, BrokenPipeError) and _stdout_is_closed():  # as in `--help | head`
            sys.exit(PIPE_CLOSED)
        if error.filename is None and error.errno is None:
            raise
        _fail(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    except (MemoryError, RuntimeError) as error:  # PyTorch raises RuntimeError when out of memory
        if not isinstance(error, MemoryError) and not re.search("out of memory|can't allocate memory", str(error)):
            raise
        _fail(f"out of memory: {[*str(error).splitlines(), ''][0]}")
    except (KeyboardInterrupt, BdbQuit):  # BdbQuit: q at a breakpoint
        print("\ninterrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)


def _fail(message: str) -> None:
    print("error: " + " ".join(message.split()), file=sys.stderr)
    sys.exit(BAD_INPUT)


def _stdout_is_closed() -> bool:
    """Whether standard output is a closed pipe; if so, discard further output to avoid a traceback at exit."""
    try:
        os.write(sys.stdout.fileno(), b"\n")
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return True
    return False
