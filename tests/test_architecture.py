"""docs/architecture.md matches the code: its rooms, import directions and file names."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "ov_piano"
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
OUTSIDE = {"__init__", "__main__"}  # the front door: they name rooms of any layer


def layers() -> dict[str, int]:
    """The page's rooms with the number of their layer, counted from the top."""
    table = PAGE.split("## Who imports whom")[1].split("\n\n##")[0]
    rows = [line.split("|")[2] for line in table.splitlines() if line.startswith("| ")][1:]
    return {room: number for number, row in enumerate(rows) for room in re.findall(r"`(\w+)`", row)}


def rooms() -> set[str]:
    """Folders and modules directly in the package."""
    folders = {path.name for path in PACKAGE.iterdir() if path.is_dir() and any(path.glob("*.py"))}
    return folders | {path.stem for path in PACKAGE.glob("*.py")} - OUTSIDE


def imported_modules(path: Path) -> set[str]:
    """Dotted names of the package's modules that a file imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in found if name.startswith("ov_piano.")}


def room_of(module: str) -> str:
    return module.split(".")[1]


def test_the_page_lists_every_room():
    assert set(layers()) == rooms()


@pytest.mark.parametrize("room", sorted(rooms()))
def test_rooms_import_lower_layers_only(room):
    place = layers()
    files = sorted((PACKAGE / room).rglob("*.py")) or [PACKAGE / f"{room}.py"]
    for file in files:
        others = {room_of(module) for module in imported_modules(file)} - {room}
        upward = {other for other in others if other in place and place[other] <= place[room]}
        assert not upward, f"{file.relative_to(ROOT)} imports {upward}, which the page does not allow"


def test_files_and_folders_that_the_page_names_exist():
    named = set(re.findall(r"`(\w+/\w+(?:\.\w+)?)`", PAGE)) | set(re.findall(r"`(\w+\.py)`", PAGE))
    assert len(named) > 15
    for name in named:
        assert any((folder / (name + end)).exists() for folder in (PACKAGE, ROOT) for end in ("", ".py")), name
    for classes in re.findall(r"\((`\w+`(?:, `\w+`)+)\)", PAGE):
        settings = (PACKAGE / "settings.py").read_text(encoding="utf-8")
        for name in re.findall(r"`(\w+)`", classes):
            assert f"class {name}:" in settings, name
