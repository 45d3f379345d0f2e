"""Piano transcription: note onsets and velocities from recordings.

ov-piano COMMAND [ARGUMENT …] [KEY=value …]      (or python -m ov_piano.COMMAND)
"""

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version

COMMANDS = {  # name: (module with `main` and `ConfDef`, summary)
    "transcribe": ("ov_piano.transcribe", "recordings -> MIDI files"),
    "live": ("ov_piano.live.__main__", "show the notes in the browser while you play"),
    "score": ("ov_piano.score", "score MIDI files against reference MIDI files: precision, recall and F1"),
    "export": ("ov_piano.export", "convert a snapshot to ONNX"),
}
BAD_INPUT = 2  # exit status, as `ov_piano.cli`


def main(args: Sequence[str] | None = None) -> None:
    """Run the command named by the first argument, then exit."""
    name, *rest = (sys.argv[1:] if args is None else list(args)) or ["--help"]
    if name in COMMANDS:
        from ov_piano.cli import run  # noqa: PLC0415 -- so that --help is fast

        module = import_module(COMMANDS[name][0])
        run(module.main, module.ConfDef, rest)
    elif name in ("-h", "--help"):
        print(f"{__doc__}\nCommands (COMMAND --help lists the settings):")
        print("\n".join(f"  {command:12}{summary}" for command, (_, summary) in COMMANDS.items()))
    elif name == "--version":
        print(f"ov_piano {_version()}")
    else:
        print(f"error: unknown command {name!r}: expected one of {', '.join(COMMANDS)}", file=sys.stderr)
        sys.exit(BAD_INPUT)


def _version() -> str:
    try:
        return version("ov_piano")
    except PackageNotFoundError:
        return "(not installed)"


if __name__ == "__main__":
    main()
