"""Copies the assets that the package uses into the wheel; everything else is in pyproject.toml."""

import shutil
import sys
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT))

from ov_piano.resources import IN_WHEEL  # noqa: E402 -- needs nothing but the standard library


class BuildWithAssets(build_py):
    """Adds ``ov_piano/assets``; an editable install reads the checkout's ``assets`` instead."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        shutil.rmtree(Path(self.build_lib, "ov_piano", "assets"), ignore_errors=True)  # of an earlier build
        for source, target in self._assets():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        return super().get_outputs(include_bytecode) + [str(target) for _, target in self._assets()]

    def _assets(self) -> list[tuple[Path, Path]]:
        assets = ROOT / "assets"
        sources = [path for pattern in IN_WHEEL for path in sorted(assets.glob(pattern))]
        return [(path, Path(self.build_lib, "ov_piano", "assets", path.relative_to(assets))) for path in sources]


setup(cmdclass={"build_py": BuildWithAssets})
