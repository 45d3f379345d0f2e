"""Files, folders and glob patterns -> recordings."""

import glob
import logging
import os.path
from collections.abc import Iterable, Iterator
from pathlib import Path

import soundfile

from ov_piano.data.audio import audio_info
from ov_piano.errors import InputError

SUFFIXES = {f".{name.lower()}" for name in soundfile.available_formats()} | {".aif", ".aifc", ".oga", ".opus"}
SUFFIXES -= {".raw"}
CONVERTIBLE = {
    ".m4a",
    ".m4b",
    ".aac",
    ".wma",
    ".ape",
    ".amr",
    ".ac3",
    ".mp4",
    ".mov",
    ".mkv",
    ".webm",
}  # not libsndfile

log = logging.getLogger(__name__)


def find_recordings(given: str | Iterable[str]) -> list[tuple[Path, Path]]:
    """The recordings that ``given`` matches, each with its output path (no suffix) relative to the output folder.

    Each item is a file, a folder, a pattern such as ``music/**/*.wav``, or several of these: ``one.wav,two.flac`` or
    ``[one.wav,two.flac]``. Outputs keep the subfolders below a given folder, or below the fixed part of a pattern.
    An existing file whose name contains a comma or bracket is taken as one file.

    :raises InputError: an item matches nothing
    """
    found: dict[Path, tuple[Path, Path]] = {}  # by resolved path: a file given twice counts once
    for text in [given] if isinstance(given, str) else given:
        for part in _parts(text):
            path = Path(os.path.expanduser(part))
            if not part or not path.exists():
                inside = list(_matches(part))
                if not inside:
                    raise InputError(f"{text}: no such file or folder" + (f": {part!r}" if part != text else ""))
            else:
                inside = _folder(path) if path.is_dir() else [(path, Path(path.stem))]
            found |= {file.resolve(): (file, name) for file, name in inside}
    return list(found.values())


def _parts(text: str) -> list[str]:
    if Path(os.path.expanduser(text)).exists():
        return [text]
    return [part.strip() for part in text.removeprefix("[").removesuffix("]").split(",")]


def _matches(pattern: str) -> Iterator[tuple[Path, Path]]:
    """The recordings that a pattern matches, with their output paths; a matching folder gives all of its own."""
    pattern = os.path.expanduser(pattern)
    fixed = pattern
    while glob.has_magic(fixed):
        fixed = os.path.dirname(fixed)
    for path in map(Path, sorted(glob.glob(pattern, recursive=True))):
        if path.is_dir() and "**" not in pattern:
            yield from _folder(path)
        elif path.is_file() and (_is_audio(path) or "**" not in pattern):
            yield path, Path(os.path.relpath(path, fixed or ".")).with_suffix("")


def _folder(folder: Path) -> list[tuple[Path, Path]]:
    """The recordings in a folder and its subfolders, with their output paths; warns of files in unsupported formats.

    :raises InputError: no recordings found
    """
    files = [file for file in sorted(folder.rglob("*")) if file.is_file() and not file.name.startswith(".")]
    unreadable = [file for file in files if file.suffix.lower() in CONVERTIBLE]
    found = [(file, file.relative_to(folder).with_suffix("")) for file in files if _is_audio(file)]
    for file in unreadable:
        log.warning("skipping %s", _conversion_hint(file))
    if not found:
        raise InputError(_conversion_hint(unreadable[0]) if unreadable else f"{folder}: no audio files in this folder")
    return found


def _is_audio(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and path.is_file() and not path.name.startswith(".")


def _conversion_hint(path: Path) -> str:
    return f"{path}: {path.suffix} is not supported; convert it first: ffmpeg -i {path.name} {path.stem}.wav"


def recording_seconds(path: Path) -> float:
    """The duration of a recording.

    :raises InputError: missing, empty, truncated, or in an unsupported format
    """
    try:
        return audio_info(path).seconds
    except InputError as error:
        if path.is_file() and path.suffix.lower() in CONVERTIBLE:
            raise InputError(_conversion_hint(path)) from None
        raise error
