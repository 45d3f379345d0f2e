"""``KEY=value`` arguments -> a checked dataclass instance.

A script declares its settings as a dataclass whose fields are made by :func:`option`; the
dataclass is the single place for a setting's type, default, meaning and permitted values.
"""

import dataclasses
import difflib
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ov_piano.errors import InputError

Conf = TypeVar("Conf")
REQUIRED = dataclasses.MISSING  # the default of an option that the user must give


class Check(NamedTuple):
    """A condition on one setting: ``expected`` says it in words, ``holds`` tests a value."""

    expected: str
    holds: Callable[[Any], bool]


POSITIVE = Check("a number above 0", lambda x: x > 0)
NON_NEGATIVE = Check("a number of at least 0", lambda x: x >= 0)
SEED = Check("a number from 0 to 2**64 - 1", lambda x: 0 <= x < 2**64)
FRACTION = Check("a number from 0 to 1", lambda x: 0 <= x <= 1)
ODD = Check("an odd number above 0", lambda x: x > 0 and x % 2 == 1)
FRACTIONS = Check("one or more numbers from 0 to 1", lambda xs: len(xs) > 0 and all(0 <= x <= 1 for x in xs))
NOT_EMPTY = Check("one or more values", lambda xs: len(xs) > 0)


def one_of(*values: Any) -> Check:
    """The setting is one of ``values``."""
    return Check("one of " + ", ".join(map(str, values)), lambda x: x in values)


def option(default: Any, meaning: str, check: Check | None = None) -> Any:
    """A documented dataclass field; ``default`` may be :data:`REQUIRED` or a list."""
    metadata = {"meaning": meaning, "check": check, "required": default is REQUIRED}
    if default is REQUIRED:
        return dataclasses.field(default="", metadata=metadata)
    if isinstance(default, list):
        return dataclasses.field(default_factory=lambda: list(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def parse_args(conf_class: type[Conf], args: Sequence[str]) -> Conf:
    """``conf_class`` with the defaults overridden by ``args``, each ``KEY=value``.

    Everything after the first ``=`` is the value, so file names that hold ``=``, ``(`` or
    ``,`` need no quoting but the shell's. ``null`` stands for no value. Rules that span
    settings belong into the dataclass's ``__post_init__``, which may raise `InputError`.

    :raises InputError: unknown key (with the nearest valid one), wrong type, value out of range.
    """
    fields = {field.name: field for field in dataclasses.fields(conf_class)}
    merged = OmegaConf.structured(conf_class)
    given = set()
    for arg in args:
        if not arg.isascii() and arg.encode(errors="replace") != arg.encode(errors="surrogateescape"):
            raise InputError(f"argument {arg!r}: expected text in UTF-8")
        key, equals, text = arg.partition("=")
        if not equals:
            raise InputError(f"argument {arg!r}: expected KEY=value (--help lists the keys)")
        if key not in fields:
            near = difflib.get_close_matches(key.upper(), fields, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]}?" if near else "--help lists the keys"
            raise InputError(f"unknown setting {key!r}: {hint}")
        if key in given:
            raise InputError(f"setting {key} is given twice")
        given.add(key)
        OmegaConf.update(merged, key, _read_value(fields[key], text))
    for field in fields.values():
        if field.metadata["required"] and field.name not in given:
            raise InputError(f"setting {field.name} is required: {field.metadata['meaning']}")
    plain = OmegaConf.to_container(merged)
    for field in fields.values():
        check, value = field.metadata["check"], plain[field.name]
        if not _is_finite(value):
            raise InputError(f"setting {field.name}={value}: expected finite numbers")
        if check and value is not None and not check.holds(value):
            raise InputError(f"setting {field.name}={value}: expected {check.expected}")
    return conf_class(**plain)


def _read_value(field: dataclasses.Field, text: str) -> Any:
    """The typed value of ``text``, or `InputError` that names the key and the type."""
    kind = getattr(field.type, "__name__", str(field.type)).replace(" | None", " or null")
    kind = str(field.type).replace(" | None", " or null") if "[" in str(field.type) else kind
    is_text = field.type in (str, str | None)
    try:
        value = text if is_text and text != "null" else yaml.safe_load(text)
        if isinstance(value, list) and any(isinstance(item, list | dict) for item in value):
            raise ValueError("nested")
        probe = OmegaConf.structured(dataclasses.make_dataclass("Setting", [("value", field.type | None, None)]))
        OmegaConf.update(probe, "value", value)  # which reads 1 as 1.0 where a float is declared
    except (OmegaConfBaseException, yaml.YAMLError, ValueError):
        raise InputError(f"setting {field.name}={text}: expected {kind}") from None
    value = OmegaConf.to_container(probe)["value"]
    uninterpreted = isinstance(value, str) and not is_text  # "${...}": we have no such references
    if uninterpreted or (value is None and not _is_optional(field)):
        raise InputError(f"setting {field.name}={text}: expected {kind}")
    return value


def _is_finite(value: Any) -> bool:
    values = value if isinstance(value, list) else [value]
    return all(math.isfinite(x) for x in values if isinstance(x, float))


def _is_optional(field: dataclasses.Field) -> bool:
    return type(None) in getattr(field.type, "__args__", ())


def to_yaml(conf: Any) -> str:
    """The resolved settings as YAML, one line each, in the order of declaration."""
    return OmegaConf.to_yaml(OmegaConf.structured(conf)).rstrip()


def describe(conf_class: type) -> str:
    """The text of ``--help``: each key with its default and meaning."""
    lines = []
    for field in dataclasses.fields(conf_class):
        default = field.default if field.default is not dataclasses.MISSING else field.default_factory()
        shown = "(required)" if field.metadata["required"] else "null" if default is None else default
        shown = str(shown).lower() if isinstance(shown, bool) else shown
        lines += [f"  {field.name}={shown}", f"      {field.metadata['meaning']}"]
    return "\n".join(lines)
