"""The files of ``assets/`` that the package uses at run time.

In a checkout or an editable install they are in the top-level folder ``assets``. A wheel contains those in
``IN_WHEEL`` (copied by ``setup.py``) inside the package.
"""

from pathlib import Path

from ov_piano.errors import InputError

DEFAULT_SNAPSHOT = "OnsetsAndVelocities_2026_11_29_20_58_50.582step=4590_f1=0.9602__0.7180.torch"
_NAME = DEFAULT_SNAPSHOT.removesuffix(".torch")
IN_WHEEL = (
    DEFAULT_SNAPSHOT,
    f"{_NAME}.yaml",
    f"{_NAME}.ends.torch",
    "live/*",
)  # patterns below assets/; the note ends are optional

_PACKAGE = Path(__file__).resolve().parent
ASSETS = next(
    (path for path in (_PACKAGE / "assets", _PACKAGE.parent / "assets") if path.is_dir()), _PACKAGE / "assets"
)


def default_snapshot() -> Path:
    """The default snapshot.

    :raises InputError: the file is missing, as in a copy of the package without assets
    """
    path = ASSETS / DEFAULT_SNAPSHOT
    if not path.is_file():
        raise InputError(f"{path}: the default snapshot is missing; pass another with SNAPSHOT_INPATH=…")
    return path
