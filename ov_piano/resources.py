"""The files of ``assets/`` that the package uses at run time.

A checkout and an editable install find them in the top-level folder ``assets``. A wheel holds a copy of those in
``IN_WHEEL`` (``setup.py`` adds them), and an installed package finds them inside itself.
"""

from pathlib import Path

from ov_piano.errors import InputError

DEFAULT_SNAPSHOT = "OnsetVelocityNet_2026_11_24_02_06_29.356step=21332_f1=0.9581.torch"
IN_WHEEL = (DEFAULT_SNAPSHOT, DEFAULT_SNAPSHOT.removesuffix(".torch") + ".yaml", "live/*")  # patterns below assets/

_PACKAGE = Path(__file__).resolve().parent
ASSETS = next(
    (path for path in (_PACKAGE / "assets", _PACKAGE.parent / "assets") if path.is_dir()), _PACKAGE / "assets"
)


def default_snapshot() -> Path:
    """The weights that are used unless others are given.

    :raises InputError: they are not there, as in a copy of the package alone
    """
    path = ASSETS / DEFAULT_SNAPSHOT
    if not path.is_file():
        raise InputError(f"{path}: the default snapshot is missing; SNAPSHOT_INPATH=… uses another one")
    return path
