"""Piano onset and velocity detection."""

from importlib import import_module

_PUBLIC = {
    "Transcriber": "ov_piano.transcription.transcriber",
    "load_model": "ov_piano.transcription.transcriber",
    "to_midi": "ov_piano.transcription.midi_writer",
    "write_midi": "ov_piano.transcription.midi_writer",
}
__all__ = list(_PUBLIC)


def __getattr__(name: str):
    """Public names are imported when first used, so that importing the package stays cheap."""
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])
