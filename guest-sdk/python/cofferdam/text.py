"""JSON as a text: what the contract has of every value."""

from __future__ import annotations

import dataclasses
import enum
import json
import keyword
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from .shapes import Shape

__all__ = ["Misfit", "NotJson", "dump_json", "escaped", "finite", "json_name", "parse_json", "to_json"]

#: JSON is nested at most so deep where it crosses to the host, which refuses more. Here it keeps a value that contains
#: itself from being followed for ever.
DEPTH_MAX: Final = 128


class Misfit(Exception):
    """A value does not fit its type. ``pointer`` is the JSON pointer (RFC 6901) of the place, empty for the whole."""

    def __init__(self, pointer: str, text: str) -> None:
        self.pointer: str = pointer
        self.text: str = text
        super().__init__(f"at `{pointer}`: {text}" if pointer else text)


class NotJson(Misfit):
    """A value is nothing that JSON has, whatever its type was to be."""


def parse_json(text: str, shape: Shape, *, strict: bool = False) -> Any:
    """The value that a JSON text is, by its shape. ``strict`` refuses fields that the type does not have.

    Raises :class:`Misfit`.
    """
    try:
        value = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError) as why:
        raise Misfit("", f"not JSON: {why}") from None
    return shape.read(value, "", strict)


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")


def dump_json(value: Any) -> str:
    """A value that is JSON already as a text, without spaces. Raises :class:`NotJson`."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise NotJson("", "a text has half of a surrogate pair, which is no character") from None
    return text


def to_json(value: Any, pointer: str = "", depth: int = 0) -> Any:
    """Any value as JSON: what dicts, lists, dataclasses and enums hold. Raises :class:`Misfit` with the place."""
    if value is None or isinstance(value, (bool, str)) and type(value) in (bool, str):
        return value
    if depth > DEPTH_MAX:
        raise NotJson("", f"nested more than {DEPTH_MAX} deep")
    if isinstance(value, enum.Enum):
        return to_json(value.value, pointer, depth + 1)
    if isinstance(value, str):
        return str(value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return finite(float(value), pointer)
    if isinstance(value, Mapping):
        written = {}
        for key, inner in value.items():
            if isinstance(key, enum.Enum):
                key = key.value
            if not isinstance(key, str):
                raise NotJson(pointer, f"JSON has no keys but strings, and here is {key!r}")
            written[str(key)] = to_json(inner, f"{pointer}/{escaped(key)}", depth + 1)
        return written
    if isinstance(value, (list, tuple)):
        return [to_json(inner, f"{pointer}/{at}", depth + 1) for at, inner in enumerate(value)]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {json_name(field.name): getattr(value, field.name) for field in dataclasses.fields(value)}
        return to_json(fields, pointer, depth + 1)
    raise NotJson(
        pointer,
        f"a {type(value).__name__} cannot be written as JSON: use str, int, float, bool, None, a list, a dict or a dataclass",
    )


def finite(value: float, pointer: str) -> float:
    """The number, unless JSON has none such."""
    if not math.isfinite(value):
        raise NotJson(pointer, f"{value} is no number in JSON")
    return value


def escaped(key: str) -> str:
    """A key as a part of a JSON pointer."""
    return key.replace("~", "~0").replace("/", "~1")


def json_name(name: str) -> str:
    """What a field is called in JSON: `from_` is how Python writes a name that it has taken itself."""
    return name[:-1] if name.endswith("_") and keyword.iskeyword(name[:-1]) else name
