"""How a dataclass becomes flags, a commented file and help: one description for all three.

A field made by :func:`setting` carries a :class:`Setting`: what it means, how its text is read
(:class:`Kind`) and shown, its section. Names are those of the field without the unit at its end
(``drain_s`` is ``drain = "30s"`` in the file and ``--drain 30s`` as a flag). Every mistake is one
:class:`ConfigError` that names the setting, where it was written, and what to write instead.
"""

from __future__ import annotations

import dataclasses
import difflib
import enum
import functools
import json
import math
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import click

from overlay.errors import ConfigError
from overlay.units import parse_duration, parse_size, show_duration, show_size

CONFIG_BYTES_MAX = 1 << 20
"""A settings file is a few KiB; anything of this size is some other file."""

METADATA_KEY = "setting"
SUGGESTION_LIKENESS_MIN = 0.5

E = TypeVar("E", bound=enum.Enum)
C = TypeVar("C", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """How values of one sort are read and shown.

    ``read`` takes what TOML or a flag gave (a flag gives text) and raises :class:`ConfigError`;
    ``show`` gives the value as TOML. The values are of many types, hence ``Any``.
    """

    metavar: str
    read: Callable[[object], Any]
    show: Callable[[Any], str]
    suffix: str = ""
    many: bool = False
    switch: bool = False
    choices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What a setting means. ``shown`` stands for the default where its value says too little."""

    kind: Kind
    section: str
    help: str
    shown: str | None = None
    file_only: bool = False


def setting(
    kind: Kind,
    default: Any,  # as many types as there are kinds
    *,
    section: str,
    text: str,
    shown: str | None = None,
    file_only: bool = False,
) -> Any:  # the value of dataclasses.field has the field's own type
    """A dataclass field that is a setting."""
    described = Setting(kind=kind, section=section, help=text, shown=shown, file_only=file_only)
    return field(default=default, metadata={METADATA_KEY: described})


@dataclass(frozen=True, slots=True, kw_only=True)
class Described:
    """One setting of a config class: its field, its public name, its description."""

    field_name: str
    name: str
    default: Any  # as many types as there are kinds
    setting: Setting

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")

    @property
    def default_text(self) -> str:
        if self.setting.shown is not None:
            return self.setting.shown
        text = self.setting.kind.show(self.default)
        return text.strip('"')


def settings_of(config_class: type) -> tuple[Described, ...]:
    """Every setting of a config class, in the order of its fields."""
    return tuple(_described(config_class))


def _described(config_class: type) -> Iterator[Described]:
    for each in dataclasses.fields(config_class):
        found = each.metadata.get(METADATA_KEY)
        if found is not None:
            name = each.name.removesuffix(found.kind.suffix) if found.kind.suffix else each.name
            yield Described(field_name=each.name, name=name, default=each.default, setting=found)


def read_values(config_class: type, raw: Mapping[str, object], *, source: str) -> dict[str, Any]:
    """Field values from raw ones by public name.

    Args:
        config_class: whose settings they are.
        raw: what a file or the flags gave.
        source: where they come from, for messages: a file's name, or ``""`` for flags.

    Raises:
        ConfigError: for the first unknown name or wrong value.
    """
    known = {each.name: each for each in settings_of(config_class)}
    values: dict[str, Any] = {}
    for name, value in raw.items():
        found = known.get(name)
        if found is None:
            raise ConfigError(f"{source}: no such setting: {name}{_nearest(name, known)}")
        try:
            values[found.field_name] = found.setting.kind.read(value)
        except ConfigError as error:
            where = f"{source}: {name}" if source else found.flag
            raise ConfigError(f"{where}: {error}") from None
    return values


def read_toml(file: Path) -> dict[str, object]:
    """What a file holds, nothing where there is none. Raises ConfigError."""
    try:
        with file.open("rb") as opened:
            raw = opened.read(CONFIG_BYTES_MAX + 1)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror}") from None
    if len(raw) > CONFIG_BYTES_MAX:
        raise ConfigError(f"{file} is too large for a settings file")
    try:
        return tomllib.loads(raw.decode())
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{file} is not valid TOML: {error}") from None


def _nearest(name: str, known: Mapping[str, object]) -> str:
    near = difflib.get_close_matches(
        name.replace("-", "_"), list(known), n=1, cutoff=SUGGESTION_LIKENESS_MIN
    )
    return f" (did you mean {near[0]}?)" if near else ""


def options_of(config_class: type, names: Sequence[str]) -> Callable[[C], C]:
    """A decorator: adds flags for the named settings (all, if none is named) to a command.

    The command gets those that were given as one argument ``flags``, by public name.
    """
    public = {each.name for each in settings_of(config_class)}

    def decorate(command: C) -> C:
        @functools.wraps(command)
        def with_flags(*args: Any, **kwargs: Any) -> Any:  # click's own arguments
            given = {name: kwargs.pop(name) for name in list(kwargs) if name in public}
            flags = {name: value for name, value in given.items() if value not in (None, ())}
            return command(*args, flags=flags, **kwargs)

        return add_options(config_class, names, with_flags)  # type: ignore[return-value]  # same shape

    return decorate


def add_options(config_class: type, names: Sequence[str], command: C) -> C:
    """Adds a click option for each named setting (all, if none is named) to a command.

    Values arrive as the raw text, or None where the flag was not given, so that a file can speak.
    """
    chosen = [
        each
        for each in settings_of(config_class)
        if not each.setting.file_only and (not names or each.name in names)
    ]
    missing = sorted(set(names) - {each.name for each in chosen})
    assert not missing, f"no such settings: {missing}"
    for each in reversed(chosen):
        command = _option(each)(command)
    return command


def _option(each: Described) -> Callable[[C], C]:
    kind = each.setting.kind
    words = f"{each.setting.help}  [default: {each.default_text}]"
    if kind.switch:
        declaration = f"{each.flag}/--no-{each.flag.removeprefix('--')}"
        return click.option(declaration, each.name, default=None, help=words)
    return click.option(
        each.flag,
        each.name,
        default=None,
        multiple=kind.many,
        metavar="|".join(kind.choices) or kind.metavar,
        help=words,
    )


def template(config_class: type, *, title: str, footer: str = "") -> str:
    """The commented file: every setting with its help and default, none of them active."""
    lines = [f"# {line}".rstrip() for line in title.splitlines()]
    section = ""
    for each in settings_of(config_class):
        if each.setting.file_only:
            continue
        if each.setting.section != section:
            section = each.setting.section
            lines += ["", f"# ---- {section} ----"]
        lines += ["", f"# {each.setting.help}"]
        if each.setting.kind.choices:
            lines.append(f"# One of: {', '.join(each.setting.kind.choices)}.")
        if each.setting.shown is not None:
            lines.append(f"# Default: {each.setting.shown}.")
        lines.append(f"#{each.name} = {each.setting.kind.show(each.default)}")
    return "\n".join([*lines, footer.rstrip(), ""])


def toml_text(value: str) -> str:
    """A TOML basic string; JSON's escapes are TOML's."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _expect_text(value: object) -> str:
    if not isinstance(value, str):
        raise ConfigError(f"expected text, not {_sort(value)}")
    if not value or not value.isprintable():
        raise ConfigError("expected printable text that is not empty")
    return value


def _sort(value: object) -> str:
    names = {bool: "a boolean", int: "a number", float: "a number", list: "a list", dict: "a table"}
    return names.get(type(value), f"a {type(value).__name__}")


def text(metavar: str, check: Callable[[str], Any] = str) -> Kind:
    """Any text that ``check`` takes."""
    return Kind(
        metavar=metavar,
        read=lambda value: check(_expect_text(value)),
        show=lambda value: toml_text(str(value)),
    )


def optional_text(metavar: str, check: Callable[[str], Any] = str) -> Kind:
    """Text that ``check`` takes, or None, written as an empty string."""
    return Kind(
        metavar=metavar,
        read=lambda value: None if value == "" else check(_expect_text(value)),
        show=lambda value: toml_text("" if value is None else str(value)),
    )


def texts(metavar: str, check: Callable[[str], Any] = str, *, suffix: str = "") -> Kind:
    """A list, or a single text for a list of one; as a flag, given several times.

    With ``suffix="s"`` the public name is the singular.
    """

    def read(value: object) -> tuple[Any, ...]:
        several = [value] if isinstance(value, str) else value
        if not isinstance(several, list | tuple):
            raise ConfigError(f"expected a list, not {_sort(value)}")
        return tuple(check(_expect_text(each)) for each in several)

    def show(values: Sequence[object]) -> str:
        return "[" + ", ".join(toml_text(str(value)) for value in values) + "]"

    return Kind(metavar=metavar, read=read, show=show, many=True, suffix=suffix)


def integer(least: int, most: int) -> Kind:
    """A whole number in a range."""

    def read(value: object) -> int:
        if isinstance(value, str) and value.removeprefix("-").isdecimal() and value.isascii():
            value = int(value[:20])
        if not isinstance(value, int) or isinstance(value, bool):
            raise ConfigError(f"expected a whole number from {least} to {most}")
        if not least <= value <= most:
            raise ConfigError(f"must be from {least} to {most}, not {value}")
        return value

    return Kind(metavar="NUMBER", read=read, show=str)


def number(least: float, most: float) -> Kind:
    """A number in a range."""

    def read(value: object) -> float:
        try:
            read_value = float(value) if isinstance(value, str | int | float) else math.nan
        except (ValueError, OverflowError):
            read_value = math.nan
        if isinstance(value, bool) or math.isnan(read_value):
            raise ConfigError(f"expected a number from {least:g} to {most:g}")
        if not least <= read_value <= most:
            raise ConfigError(f"must be from {least:g} to {most:g}, not {read_value:g}")
        return read_value

    return Kind(metavar="NUMBER", read=read, show=lambda value: f"{value:g}")


def boolean() -> Kind:
    """True or false; as a flag, ``--name`` or ``--no-name``."""

    def read(value: object) -> bool:
        if not isinstance(value, bool):
            raise ConfigError("expected true or false")
        return value

    return Kind(metavar="", read=read, show=lambda value: str(value).lower(), switch=True)


def duration(least_s: float, most_s: float) -> Kind:
    """Seconds, written as ``30s``; the field's name ends in ``_s``."""

    def read(value: object) -> float:
        seconds = parse_duration(_expect_quantity(value, "30s"))
        if not least_s <= seconds <= most_s:
            bounds = f"from {show_duration(least_s)} to {show_duration(most_s)}"
            raise ConfigError(f"must be {bounds}, not {show_duration(seconds)}")
        return seconds

    return Kind(
        metavar="DURATION",
        read=read,
        show=lambda value: toml_text(show_duration(value)),
        suffix="_s",
    )


def size(least_bytes: int, most_bytes: int) -> Kind:
    """Bytes, written as ``1GiB``; the field's name ends in ``_bytes``."""

    def read(value: object) -> int:
        size_bytes = parse_size(_expect_quantity(value, "1GiB"))
        if not least_bytes <= size_bytes <= most_bytes:
            bounds = f"from {show_size(least_bytes)} to {show_size(most_bytes)}"
            raise ConfigError(f"must be {bounds}, not {show_size(size_bytes)}")
        return size_bytes

    return Kind(
        metavar="SIZE",
        read=read,
        show=lambda value: toml_text(show_size(value)),
        suffix="_bytes",
    )


def optional_size(least_bytes: int, most_bytes: int) -> Kind:
    """Bytes as of :func:`size`, or None, written as an empty string."""
    plain = size(least_bytes, most_bytes)
    return dataclasses.replace(
        plain,
        read=lambda value: None if value == "" else plain.read(value),
        show=lambda value: toml_text("") if value is None else plain.show(value),
    )


def _expect_quantity(value: object, example: str) -> str:
    if isinstance(value, int | float) and not isinstance(value, bool):
        raise ConfigError(f'needs a unit and quotes, as in "{example}"')
    return _expect_text(value)


def choice(values: type[E]) -> Kind:
    """One member of an enumeration, by its value."""
    names = tuple(str(member.value) for member in values)

    def read(value: object) -> E:
        for member in values:
            if member.value == value:
                return member
        raise ConfigError(f"must be one of {', '.join(names)}, not {str(value)[:40]!r}")

    return Kind(
        metavar="CHOICE",
        read=read,
        show=lambda member: toml_text(str(member.value)),
        choices=names,
    )
