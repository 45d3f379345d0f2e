"""``KEY=value`` arguments -> a checked dataclass instance.

A script declares its settings as a dataclass with :func:`option` fields, the single source of
each setting's type, default, meaning and valid values.
"""

import dataclasses
import difflib
import math
import os.path
import re
from collections.abc import Callable, Container, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ov_piano.errors import InputError

Conf = TypeVar("Conf")
REQUIRED = dataclasses.MISSING  # default of an option that the user must set
NUMBERS = {int: int, int | None: int, float: float, float | None: float}
NUMBER_LISTS = {list[int]: int, list[float]: float}
KINDS = {
    bool: "true or false",
    int: "a whole number",
    int | None: "a whole number, or null",
    float: "a number such as 0.5",
    float | None: "a number such as 0.5, or null",
    str: "a text",
    str | None: "a text, or null",
    list[int]: "whole numbers in brackets, such as [1,2]",
    list[float]: "numbers in brackets, such as [0.5,0.7]",
    list[str]: "words in brackets, such as [A,B]",
}


class Check(NamedTuple):
    """A condition on a setting: ``holds`` tests a value, ``expected`` describes valid values."""

    expected: str
    holds: Callable[[Any], bool]


POSITIVE = Check("a number above 0", lambda x: x > 0)
NON_NEGATIVE = Check("a number of at least 0", lambda x: x >= 0)
SEED = Check("a number from 0 to 2**64 - 1", lambda x: 0 <= x < 2**64)
FRACTION = Check("a number from 0 to 1", lambda x: 0 <= x <= 1)
ODD = Check("an odd number above 0", lambda x: x > 0 and x % 2 == 1)
FRACTIONS = Check("one or more numbers from 0 to 1", lambda xs: len(xs) > 0 and all(0 <= x <= 1 for x in xs))
TOLERANCE = Check("a number above 0, at most 1", lambda x: 0 < x <= 1)
SHIFT = Check("a number of seconds from -3600 to 3600", lambda x: -3600 <= x <= 3600)
SHIFTS = Check(
    "one or more numbers of seconds from -3600 to 3600", lambda xs: len(xs) > 0 and all(map(SHIFT.holds, xs))
)
NOT_EMPTY = Check("one or more values", lambda xs: len(xs) > 0)


def one_of(*values: Any) -> Check:
    """Check that the setting is one of ``values``."""
    return Check("one of " + ", ".join(map(str, values)), lambda x: x in values)


def option(
    default: Any,
    meaning: str,
    check: Check | None = None,
    presets: Mapping[str, Any] | None = None,
    *,
    positional: bool = False,
    required: bool = False,
) -> Any:
    """A documented dataclass field; ``default`` may be :data:`REQUIRED` or a list (empty for a required list).

    :param presets: other defaults, keyed by the ``KEY=value`` of another setting that selects them
    :param positional: arguments without ``KEY=`` fill these settings in declaration order; a setting of
        type ``list[str]`` must be the last and takes all remaining arguments
    """
    metadata = {"meaning": meaning, "check": check, "required": required or default is REQUIRED}
    metadata |= {"presets": presets or {}, "positional": positional}
    if default is REQUIRED:
        return dataclasses.field(default="", metadata=metadata)
    if isinstance(default, list):
        return dataclasses.field(default_factory=lambda: list(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def parse_args(conf_class: type[Conf], args: Sequence[str]) -> Conf:
    """``conf_class`` with the defaults overridden by ``args``, each ``KEY=value``.

    Everything after the first ``=`` is the value, so file names that contain ``=``, ``(`` or
    ``,`` need no quoting except the shell's. ``null`` means no value; in text, a leading ``~`` is the home
    folder. Checks across settings belong in the dataclass's ``__post_init__``, which may raise `InputError`.

    :raises InputError: unknown key (suggests the nearest valid one), wrong type, value out of range.
    """
    fields = {field.name: field for field in dataclasses.fields(conf_class)}
    merged = OmegaConf.structured(conf_class)
    texts = _texts_by_key(fields, args)
    for key, text in texts.items():
        OmegaConf.update(merged, key, _read_value(fields[key], text) if isinstance(text, str) else text)
    for field in fields.values():
        if field.metadata["required"] and field.name not in texts:
            raise InputError(f"setting {field.name} is required: {field.metadata['meaning']}")
    plain = OmegaConf.to_container(merged)
    plain |= {key: _default(fields, key, plain, texts) for key in fields if key not in texts}
    for field in fields.values():
        check, value = field.metadata["check"], plain[field.name]
        if not _is_finite(value):
            raise InputError(f"setting {field.name}={value}: expected finite numbers")
        if check and value is not None and not check.holds(value):
            raise InputError(f"setting {field.name}={value}: expected {check.expected}")
    return conf_class(**plain)


def _texts_by_key(fields: dict[str, dataclasses.Field], args: Sequence[str]) -> dict[str, str | list[str]]:
    """The text given for each key; a list of texts for a positional list setting."""
    texts: dict[str, str | list[str]] = {}
    bare = []
    positional = [name for name, field in fields.items() if field.metadata["positional"]]
    for arg in args:
        if not arg.isascii() and arg.encode(errors="replace") != arg.encode(errors="surrogateescape"):
            raise InputError(f"argument {arg!r}: expected text in UTF-8")
        key, equals, text = arg.partition("=")
        if equals and key in fields:
            if key in texts:
                raise InputError(f"setting {key} is given twice")
            texts[key] = text
        elif positional and (os.path.exists(arg) or not re.match(r"-|\w+=", arg)):
            bare.append(arg)
        elif equals:
            near = difflib.get_close_matches(key.upper(), fields, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]}?" if near else "--help lists the keys"
            raise InputError(f"unknown setting {key!r}: {hint}")
        else:
            raise InputError(f"argument {arg!r}: expected KEY=value (--help lists the keys)")
    for name in positional:
        if fields[name].type == list[str]:
            several = [texts[name]] if name in texts else []
            if several + bare:
                texts[name] = [os.path.expanduser(text) for text in several + bare]
            bare = []
        elif bare and name not in texts:
            texts[name] = bare.pop(0)
    if bare:
        raise InputError(f"argument {bare[0]!r}: too many arguments; expected KEY=value (--help lists the keys)")
    return texts


def _default(
    fields: Mapping[str, dataclasses.Field], key: str, values: Mapping[str, Any], given: Container[str]
) -> Any:
    """The default of a setting that is not in ``given``, taking presets into account."""
    for condition, preset in fields[key].metadata["presets"].items():
        other, _, wanted = condition.partition("=")
        value = values[other] if other in given else _default(fields, other, values, given)
        if _text(value) == wanted:
            return preset
    return values[key]


def _text(value: Any) -> str:
    """A value as users write it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _read_value(field: dataclasses.Field, text: str) -> Any:
    """``text`` converted to the field's type; raises `InputError` with the key and the type."""
    kind = KINDS[field.type]
    is_text = field.type in (str, str | None)
    try:
        if text == "null":
            value = None
        elif is_text:
            value = os.path.expanduser(text)
        elif field.type in NUMBERS:
            value = _number(text, NUMBERS[field.type])
        elif field.type in NUMBER_LISTS:
            value = yaml.load(text, yaml.BaseLoader)
            value = [_number(item, NUMBER_LISTS[field.type]) for item in value] if isinstance(value, list) else value
        else:
            value = yaml.safe_load(text)
        if isinstance(value, list) and any(isinstance(item, list | dict) for item in value):
            raise ValueError("nested")
        probe = OmegaConf.structured(dataclasses.make_dataclass("Setting", [("value", field.type | None, None)]))
        OmegaConf.update(probe, "value", value)
    except (OmegaConfBaseException, yaml.YAMLError, ValueError, TypeError):
        raise InputError(f"setting {field.name}={text}: expected {kind}") from None
    value = OmegaConf.to_container(probe)["value"]
    uninterpreted = isinstance(value, str) and not is_text  # "${...}", an OmegaConf reference
    if uninterpreted or (value is None and not _is_optional(field)):
        raise InputError(f"setting {field.name}={text}: expected {kind}")
    return value


def _number(text: str, kind: type) -> int | float:
    """``text`` as a number, unlike YAML: 010 is ten, 1e4 is an integer, 1:30 is invalid."""
    try:
        return kind(text)
    except ValueError:
        number = float(text)
        if kind is int and number.is_integer():
            return int(number)
        raise


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
        shown = _text(shown)
        presets = "".join(f" ({preset} with {other})" for other, preset in field.metadata["presets"].items())
        lines += [f"  {field.name}={shown}{presets}", f"      {field.metadata['meaning']}"]
    return "\n".join(lines)
