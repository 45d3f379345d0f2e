"""KEY=value arguments."""

from dataclasses import dataclass

import pytest

from ov_piano.config import FRACTION, REQUIRED, describe, option, parse_args, to_yaml
from ov_piano.errors import InputError


@dataclass
class Conf:
    """Settings of the tests."""

    PATH: str = option("a(1-2)=3,4.h5", "a file")
    NAME: str | None = option(None, "a name")
    COUNT: int = option(3, "how many")
    SHARE: float = option(0.5, "how much", FRACTION)
    FLAG: bool = option(True, "whether")
    LEVELS: list[float] = option([0.1, 0.2], "which")


@pytest.mark.parametrize(
    ("arg", "expected"),
    [
        ("PATH=x=1(2),3 [4].h5", "x=1(2),3 [4].h5"),
        ("PATH=123", "123"),
        ("PATH=", ""),
        ("NAME=null", None),
        ("NAME=true", "true"),
        ("COUNT=7", 7),
        ("COUNT=010", 10),
        ("COUNT=1e4", 10_000),
        ("COUNT=18446744073709551615", 2**64 - 1),
        ("SHARE=1", 1.0),
        ("SHARE=1e-05", 1e-5),
        ("SHARE=.5", 0.5),
        ("LEVELS=[010e-2, 1]", [0.1, 1.0]),
        ("SHARE=1.0e-05", 1e-5),
        ("FLAG=false", False),
        ("LEVELS=[0.5]", [0.5]),
        ("LEVELS=[1, 0.5]", [1.0, 0.5]),
    ],
)
def test_values_are_parsed_to_the_declared_type(arg, expected):
    found = getattr(parse_args(Conf, [arg]), arg.split("=")[0])
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["count=3"], "unknown setting 'count': did you mean COUNT?"),
        (["XYZZY=3"], "unknown setting 'XYZZY': --help lists the keys"),
        (["COUNT"], "argument 'COUNT': expected KEY=value"),
        (["COUNT=3", "COUNT=4"], "setting COUNT is given twice"),
        (["COUNT=3.5"], "setting COUNT=3.5: expected a whole number"),
        (["COUNT=1:30"], "setting COUNT=1:30: expected a whole number"),
        (["COUNT=0x10"], "setting COUNT=0x10: expected a whole number"),
        (["COUNT=1e999"], "setting COUNT=1e999: expected a whole number"),
        (["COUNT="], "setting COUNT=: expected a whole number"),
        (["SHARE=1:30"], "setting SHARE=1:30: expected a number such as 0.5"),
        (["LEVELS=[1:30]"], r"setting LEVELS=\[1:30\]: expected numbers in brackets"),
        (["COUNT=null"], "setting COUNT=null: expected a whole number"),
        (["COUNT=[1]"], r"setting COUNT=\[1\]: expected a whole number"),
        (["COUNT={a: 1}"], "expected a whole number"),
        (["FLAG=maybe"], "setting FLAG=maybe: expected true or false"),
        (["SHARE=1.5"], "setting SHARE=1.5: expected a number from 0 to 1"),
        (["SHARE=nan"], "setting SHARE=nan: expected finite numbers"),
        (["LEVELS=[0.5,inf]"], r"setting LEVELS=\[0.5, inf\]: expected finite numbers"),
        (["LEVELS=0.5"], r"setting LEVELS=0.5: expected numbers in brackets"),
        (["LEVELS=[a]"], r"setting LEVELS=\[a\]: expected numbers in brackets"),
        (["LEVELS=[0.5"], "setting LEVELS="),
        (["LEVELS=[[0.5]]"], r"setting LEVELS=\[\[0.5\]\]: expected numbers in brackets"),
        (["LEVELS=[0.5, {a: 1}]"], r": expected numbers in brackets"),
        (["COUNT=${PATH}"], "expected a whole number"),
        (["COUNT=3\n4"], "setting COUNT=3 4: expected a whole number"),
        (["PATH=caf\udce9"], "expected text in UTF-8"),
    ],
)
def test_bad_arguments_name_the_setting_and_what_was_expected(args, message):
    with pytest.raises(InputError, match=message) as caught:
        parse_args(Conf, args)
    assert "\n" not in str(caught.value)


@dataclass
class Positional:
    """Settings of a command that takes files by position."""

    FIRST: str = option(REQUIRED, "first file", positional=True)
    OTHERS: list[str] = option([], "more files", positional=True)
    COUNT: int = option(3, "how many")


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["a.wav"], Positional("a.wav")),
        (["a.wav", "COUNT=4", "b c.wav", "d,e"], Positional("a.wav", ["b c.wav", "d,e"], 4)),
        (["b", "FIRST=a", "c"], Positional("a", ["b", "c"])),
        (["FIRST=a", "OTHERS=[x, y=1]", "z"], Positional("a", ["[x, y=1]", "z"])),
        (["FIRST=${COUNT}"], Positional("${COUNT}")),
    ],
)
def test_arguments_without_a_key_fill_the_positional_settings(args, expected):
    assert parse_args(Positional, args) == expected


def test_positional_arguments_may_hold_an_equals_sign_if_they_exist(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="unknown setting 'step': --help lists the keys"):
        parse_args(Positional, ["step=3.wav"])
    (tmp_path / "step=3.wav").touch()
    assert parse_args(Positional, ["step=3.wav"]).FIRST == "step=3.wav"
    with pytest.raises(InputError, match="argument '--plot': expected KEY=value"):
        parse_args(Positional, ["--plot"])


def test_too_many_positional_arguments_are_refused():
    @dataclass
    class One:
        PATH: str = option(REQUIRED, "what to read", positional=True)

    with pytest.raises(InputError, match="argument 'y': too many arguments"):
        parse_args(One, ["x", "y"])


def test_a_leading_tilde_is_the_home_folder(monkeypatch):
    monkeypatch.setenv("HOME", "/home/pianist")
    assert parse_args(Conf, ["PATH=~/a.h5", "NAME=a~b"]) == Conf(PATH="/home/pianist/a.h5", NAME="a~b")
    assert parse_args(Positional, ["~/a", "~/b"]) == Positional("/home/pianist/a", ["/home/pianist/b"])


def test_required_settings_must_be_given():
    @dataclass
    class Needy:
        PATH: str = option(REQUIRED, "what to read")

    with pytest.raises(InputError, match="setting PATH is required: what to read"):
        parse_args(Needy, [])
    assert parse_args(Needy, ["PATH=x"]) == Needy("x")


def test_default_lists_are_not_shared():
    first, second = parse_args(Conf, []), parse_args(Conf, [])
    first.LEVELS.append(1.0)
    assert second.LEVELS == [0.1, 0.2]


def test_configuration_is_printed_in_order_and_help_lists_meanings():
    assert to_yaml(parse_args(Conf, ["COUNT=4"])).splitlines()[2:5] == ["COUNT: 4", "SHARE: 0.5", "FLAG: true"]
    assert "  COUNT=3\n      how many" in describe(Conf)


@dataclass
class Presets:
    """Settings whose defaults depend on others."""

    WIDTH: int = option(1, "a width", presets={"KIND=large": 10})
    RATES: list[float] = option([0.5], "rates", presets={"METHOD=new": [0.1, 0.2]})
    KIND: str = option("small", "what")
    METHOD: str = option("old", "how", presets={"KIND=large": "new"})


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ([], Presets(1, [0.5], "small", "old")),
        (["KIND=large"], Presets(10, [0.1, 0.2], "large", "new")),
        (["KIND=large", "METHOD=old"], Presets(10, [0.5], "large", "old")),
        (["METHOD=new"], Presets(1, [0.1, 0.2], "small", "new")),
        (["KIND=large", "WIDTH=1", "RATES=[0.5]"], Presets(1, [0.5], "large", "new")),
    ],
)
def test_defaults_follow_other_settings_unless_given(args, expected):
    assert parse_args(Presets, args) == expected


def test_help_lists_presets():
    assert "WIDTH=1 (10 with KIND=large)" in describe(Presets)
