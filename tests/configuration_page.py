"""``docs/configuration.md``, written from the settings themselves: ``python -m tests.configuration_page``."""

import dataclasses
import importlib
from pathlib import Path

from ov_piano.machine.device import DEFAULT_DEVICE
from tests.scripts import ROOT, load_script

PAGE = ROOT / "docs" / "configuration.md"
COMMANDS = ("transcribe", "live", "score", "export")
INTRODUCTION = """\
# Configuration

Each setting is passed as `KEY=value`. `--help` prints the same lists. This page is written by
`python -m tests.configuration_page`.
"""


def programs() -> dict[str, type]:
    """The configuration class of each script and command, by the name that users type."""
    scripts = {path.name: load_script(path.name).ConfDef for path in sorted(ROOT.glob("[0-9]*.py"))}
    present = [name for name in COMMANDS if importlib.util.find_spec(f"ov_piano.{name}")]
    return scripts | {f"ov-piano {name}": command_conf(name) for name in present}


def command_conf(name: str) -> type:
    """The configuration class of a command: its module's, or for a package that of ``__main__``."""
    module = importlib.import_module(f"ov_piano.{name}")
    if not hasattr(module, "ConfDef"):
        module = importlib.import_module(f"ov_piano.{name}.__main__")
    return module.ConfDef


def table(conf_class: type) -> str:
    """The settings as a Markdown table."""
    lines = ["| setting | default | meaning |", "|---|---|---|"]
    for field in dataclasses.fields(conf_class):
        meaning = field.metadata["meaning"].replace("|", "\\|")
        presets = "".join(f", `{preset}` with `{other}`" for other, preset in field.metadata["presets"].items())
        lines.append(f"| `{field.name}` | `{default_text(field)}`{presets} | {meaning} |")
    return "\n".join(lines) + "\n"


def default_text(field: dataclasses.Field) -> str:
    """A default as typed on the command line."""
    if field.metadata["required"]:
        return "(required)"
    default = field.default if field.default is not dataclasses.MISSING else field.default_factory()
    if field.name == "DEVICE" and default == DEFAULT_DEVICE and "cuda" in field.metadata["meaning"]:
        return "cuda if present, else cpu"  # the page must not depend on the machine that writes it
    if default is None or isinstance(default, bool):
        return {None: "null", True: "true", False: "false"}[default]
    if isinstance(default, list):
        return f"[{', '.join(map(str, default))}]"
    return str(default)


def page() -> str:
    """The whole page."""
    parts = [f"## `{name}`\n\n{table(conf_class)}" for name, conf_class in programs().items()]
    return "\n".join([INTRODUCTION, *parts])


def main(path: Path = PAGE) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(page(), encoding="utf-8")
    print(path)


if __name__ == "__main__":
    main()
