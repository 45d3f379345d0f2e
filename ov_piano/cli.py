"""How a script runs: arguments -> configuration -> ``main(conf)`` -> exit status."""

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


def run(main: Callable[[Any], None], conf_class: type, args: Sequence[str] | None = None) -> None:
    """Run ``main`` with the settings of ``args`` (default: the command line) and exit.

    Prints the merged configuration first. `InputError`, operating-system errors and a lack of
    memory become one line on standard error and status 2; Ctrl-C a line and 130.
    """
    args = sys.argv[1:] if args is None else args
    if any(arg in ("-h", "--help") for arg in args):
        doc = inspect.getdoc(sys.modules[main.__module__]) or ""
        print(f"{doc}\n\nSettings (KEY=value):\n{describe(conf_class)}")
        sys.exit(0)
    try:
        conf = parse_args(conf_class, args)
        if os.environ.get("RANK", "0") == "0":  # of several processes under torchrun the first
            print(to_yaml(conf), flush=True)
        main(conf)
    except InputError as error:
        _fail(str(error))
    except OSError as error:
        if error.filename is None and error.errno is None:
            raise
        _fail(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    except (MemoryError, RuntimeError) as error:  # PyTorch has errors of its own for it
        if not isinstance(error, MemoryError) and not re.search("out of memory|can't allocate memory", str(error)):
            raise
        _fail(f"out of memory: {[*str(error).splitlines(), ''][0]}")
    except (KeyboardInterrupt, BdbQuit):  # BdbQuit: q at a breakpoint
        print("\ninterrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)


def _fail(message: str) -> None:
    print("error: " + " ".join(message.split()), file=sys.stderr)
    sys.exit(BAD_INPUT)
