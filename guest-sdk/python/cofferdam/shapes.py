"""What the author's types look like as JSON: their JSON Schema, and the way from JSON to values and back.

A :class:`Shape` is made of a type once, when the component is built; so a type that JSON does not have is an error of the
build, with the place in the author's file, and not of a run.
"""

from __future__ import annotations

import ast
import dataclasses
import enum
import inspect
import json
import keyword
import math
import textwrap
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, Final

__all__ = ["Length", "Misfit", "NotJson", "Range", "Shape", "UnsupportedType", "dump_json", "parse_json", "shape_of", "to_json"]

#: Which JSON Schema the schemas are written in.
DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"

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


class UnsupportedType(TypeError):
    """A type has no JSON Schema. ``file`` and ``line`` are the place in the author's code, if it is known."""

    def __init__(self, text: str, file: str | None = None, line: int | None = None) -> None:
        self.file: str | None = file
        self.line: int | None = line
        super().__init__(text)


@dataclasses.dataclass(frozen=True, slots=True)
class Range:
    """Bounds of a number, both within: ``Annotated[int, Range(1, 10)]``. ``None`` is no bound."""

    minimum: float | None = None
    maximum: float | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Length:
    """Bounds of the characters of a text or the entries of a list or dict: ``Annotated[str, Length(1, 64)]``."""

    minimum: int = 0
    maximum: int | None = None


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
        return _finite(float(value), pointer)
    if isinstance(value, Mapping):
        written = {}
        for key, inner in value.items():
            if isinstance(key, enum.Enum):
                key = key.value
            if not isinstance(key, str):
                raise NotJson(pointer, f"JSON has no keys but strings, and here is {key!r}")
            written[str(key)] = to_json(inner, f"{pointer}/{_escaped(key)}", depth + 1)
        return written
    if isinstance(value, (list, tuple)):
        return [to_json(inner, f"{pointer}/{at}", depth + 1) for at, inner in enumerate(value)]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        # By its own shape, which knows the names that its fields have in JSON.
        return shape_of(type(value)).write(value, pointer)
    raise NotJson(
        pointer,
        f"a {type(value).__name__} cannot be written as JSON: use str, int, float, bool, None, a list, a dict or a dataclass",
    )


def _finite(value: float, pointer: str) -> float:
    if not math.isfinite(value):
        raise NotJson(pointer, f"{value} is no number in JSON")
    return value


def _escaped(key: str) -> str:
    return key.replace("~", "~0").replace("/", "~1")


def _kind(value: Any) -> str:
    """What a JSON value is called."""
    if value is None:
        return "null"
    if value is True or value is False:
        return "boolean"
    if isinstance(value, str):
        return "string"
    if isinstance(value, (int, float)):
        return "number"
    return "array" if isinstance(value, list) else "object"


def _found(value: Any) -> str:
    """A JSON value in an error: short, and of any size."""
    kind = _kind(value)
    if kind in ("array", "object"):
        return f"an {kind}"
    shown = json.dumps(value, ensure_ascii=False)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."


class _Definitions:
    """The named types of a schema, each written once."""

    def __init__(self, root: Shape, output: bool) -> None:
        self.root, self.output = root, output
        self.written: dict[str, Any] = {}
        self.names: dict[int, str] = {}

    def reference(self, shape: _Named) -> dict[str, Any]:
        if shape is self.root:
            return {"$ref": "#"}
        name = self.names.get(id(shape))
        if name is None:
            name, tries = shape.name, 2
            while name in self.written:
                name, tries = f"{shape.name}{tries}", tries + 1
            self.names[id(shape)] = name
            # Before it is followed, so that a type that contains itself ends.
            self.written[name] = None
            self.written[name] = shape.definition(self)
        return {"$ref": f"#/$defs/{name}"}


class Shape:
    """What a type looks like as JSON."""

    #: The kinds of JSON value that may fit.
    kinds: frozenset[str] = frozenset({"null", "boolean", "string", "number", "array", "object"})
    #: How the type is called in errors.
    called: str = "a value"

    def document(self, *, output: bool = False) -> Any:
        """The JSON Schema of what the type accepts or, as ``output``, of what it is written as."""
        definitions = _Definitions(self, output)
        schema = self.definition(definitions) if isinstance(self, _Named) else self.schema(definitions)
        if isinstance(schema, bool):
            return schema
        title = {"title": self.name} if isinstance(self, _Named) else {}
        defs = {"$defs": definitions.written} if definitions.written else {}
        return {"$schema": DIALECT, **title, **schema, **defs}

    def schema(self, definitions: _Definitions) -> Any:
        """The schema of a value of this type within another's."""
        raise NotImplementedError

    def read(self, value: Any, at: str, strict: bool) -> Any:
        """The author's value of a JSON value. Raises :class:`Misfit`."""
        raise NotImplementedError

    def write(self, value: Any, at: str) -> Any:
        """The JSON value of an author's value. Raises :class:`Misfit`."""
        raise NotImplementedError

    def expected(self, value: Any, at: str) -> Misfit:
        return Misfit(at, f"expected {self.called}, found {_found(value)}")

    def given(self, value: Any, at: str) -> Misfit:
        return Misfit(at, f"expected {self.called}, got {type(value).__name__}")


class _Any(Shape):
    def schema(self, definitions: _Definitions) -> Any:
        return True

    def read(self, value: Any, at: str, strict: bool) -> Any:
        return value

    def write(self, value: Any, at: str) -> Any:
        return to_json(value, at)


class _Simple(Shape):
    """null, a boolean or a string."""

    def __init__(self, python: type, kind: str, called: str) -> None:
        self.python, self.kind, self.called = python, kind, called
        self.kinds = frozenset({kind})

    def schema(self, definitions: _Definitions) -> Any:
        return {"type": self.kind}

    def read(self, value: Any, at: str, strict: bool) -> Any:
        if not isinstance(value, self.python):
            raise self.expected(value, at)
        return value

    def write(self, value: Any, at: str) -> Any:
        if not isinstance(value, self.python):
            raise self.given(value, at)
        return str(value) if self.python is str else value


class _Integer(Shape):
    kinds, called = frozenset({"number"}), "an integer"

    def schema(self, definitions: _Definitions) -> Any:
        return {"type": "integer"}

    def read(self, value: Any, at: str, strict: bool) -> Any:
        # 3.0 is an integer by JSON Schema, so it is one here.
        if isinstance(value, float) and value.is_integer():
            return int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.expected(value, at)
        return value

    def write(self, value: Any, at: str) -> Any:
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.given(value, at)
        return int(value)


class _Number(Shape):
    kinds, called = frozenset({"number"}), "a number"

    def schema(self, definitions: _Definitions) -> Any:
        return {"type": "number"}

    def read(self, value: Any, at: str, strict: bool) -> Any:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise self.expected(value, at)
        try:
            return float(value)
        except OverflowError:
            raise Misfit(at, "the number is too large") from None

    def write(self, value: Any, at: str) -> Any:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise self.given(value, at)
        return int(value) if isinstance(value, int) else _finite(float(value), at)


class _Choice(Shape):
    """One of a few values: a Literal."""

    def __init__(self, values: Sequence[Any]) -> None:
        self.values = list(values)
        self.kinds = frozenset(_kind(value) for value in self.values)
        shown = [f"`{json.dumps(value, ensure_ascii=False)}`" for value in self.values]
        self.called = shown[0] if len(shown) == 1 else f"one of {', '.join(shown)}"

    def schema(self, definitions: _Definitions) -> Any:
        return {"const": self.values[0]} if len(self.values) == 1 else {"enum": self.values}

    def read(self, value: Any, at: str, strict: bool) -> Any:
        for known in self.values:
            # 1 and true are equal in Python, and not in JSON.
            if known == value and _kind(known) == _kind(value):
                return known
        raise self.expected(value, at)

    def write(self, value: Any, at: str) -> Any:
        if any(known == value and type(known) is type(value) for known in self.values):
            return value
        raise self.given(value, at)


class _List(Shape):
    kinds, called = frozenset({"array"}), "an array"

    def __init__(self, items: Shape, python: type) -> None:
        self.items, self.python = items, python

    def schema(self, definitions: _Definitions) -> Any:
        return {"type": "array", "items": self.items.schema(definitions)}

    def read(self, value: Any, at: str, strict: bool) -> Any:
        if not isinstance(value, list):
            raise self.expected(value, at)
        read = [self.items.read(inner, f"{at}/{index}", strict) for index, inner in enumerate(value)]
        return read if self.python is list else tuple(read)

    def write(self, value: Any, at: str) -> Any:
        if not isinstance(value, (list, tuple)):
            raise self.given(value, at)
        return [self.items.write(inner, f"{at}/{index}") for index, inner in enumerate(value)]


class _Tuple(Shape):
    kinds = frozenset({"array"})

    def __init__(self, items: Sequence[Shape]) -> None:
        self.items = list(items)
        self.called = f"an array of {len(self.items)}"

    def schema(self, definitions: _Definitions) -> Any:
        count = len(self.items)
        items = [shape.schema(definitions) for shape in self.items]
        return {"type": "array", "prefixItems": items, "minItems": count, "maxItems": count}

    def read(self, value: Any, at: str, strict: bool) -> Any:
        if not isinstance(value, list) or len(value) != len(self.items):
            raise self.expected(value, at)
        return tuple(self.items[index].read(inner, f"{at}/{index}", strict) for index, inner in enumerate(value))

    def write(self, value: Any, at: str) -> Any:
        if not isinstance(value, (list, tuple)) or len(value) != len(self.items):
            raise self.given(value, at)
        return [self.items[index].write(inner, f"{at}/{index}") for index, inner in enumerate(value)]


class _Dict(Shape):
    kinds, called = frozenset({"object"}), "an object"

    def __init__(self, values: Shape) -> None:
        self.values = values

    def schema(self, definitions: _Definitions) -> Any:
        values = self.values.schema(definitions)
        return {"type": "object"} if values is True else {"type": "object", "additionalProperties": values}

    def read(self, value: Any, at: str, strict: bool) -> Any:
        if not isinstance(value, dict):
            raise self.expected(value, at)
        return {key: self.values.read(inner, f"{at}/{_escaped(key)}", strict) for key, inner in value.items()}

    def write(self, value: Any, at: str) -> Any:
        if not isinstance(value, Mapping):
            raise self.given(value, at)
        for key in value:
            if not isinstance(key, str):
                raise NotJson(at, f"JSON has no keys but strings, and here is {key!r}")
        return {str(key): self.values.write(inner, f"{at}/{_escaped(key)}") for key, inner in value.items()}


class _Union(Shape):
    """One of several types; the first that fits."""

    def __init__(self, members: Sequence[Shape]) -> None:
        self.members = list(members)
        self.kinds = frozenset().union(*(member.kinds for member in self.members))
        self.called = " or ".join(member.called for member in self.members)

    def schema(self, definitions: _Definitions) -> Any:
        schemas = [member.schema(definitions) for member in self.members]
        if all(isinstance(schema, dict) and list(schema) == ["type"] for schema in schemas):
            return {"type": [schema["type"] for schema in schemas]}
        return {"anyOf": schemas}

    def read(self, value: Any, at: str, strict: bool) -> Any:
        kind = _kind(value)
        members = [member for member in self.members if kind in member.kinds]
        # A number that is written as one stays what it is: 3 is no float where an int is as good.
        if kind == "number" and isinstance(value, int):
            members.sort(key=lambda member: isinstance(member, _Number))
        if isinstance(value, dict):
            # Types that are told apart by a Literal: only the one that is meant can say what is wrong.
            tagged: list[Shape] = [m for m in members if isinstance(m, _Object) and m.is_tagged(value)]
            members = tagged or members
        misfits = []
        for member in members:
            try:
                return member.read(value, at, strict)
            except Misfit as misfit:
                misfits.append(misfit)
        if len(misfits) == 1:
            raise misfits[0]
        if not misfits:
            raise self.expected(value, at)
        reasons = "; ".join(f"{member.called}: {misfit}" for member, misfit in zip(members, misfits))
        raise Misfit(at, f"fits none of its types ({reasons})")

    def write(self, value: Any, at: str) -> Any:
        misfits = []
        for member in self.members:
            try:
                return member.write(value, at)
            except Misfit as misfit:
                misfits.append(misfit)
        # The one that got furthest knows best.
        raise max(misfits, key=lambda misfit: len(misfit.pointer))


class _Bounded(Shape):
    """A shape with bounds."""

    def __init__(self, inner: Shape, bounds: Range | Length) -> None:
        self.inner, self.bounds = inner, bounds
        self.kinds, self.called = inner.kinds, inner.called

    def schema(self, definitions: _Definitions) -> Any:
        schema = dict(self.inner.schema(definitions))
        low, high = self.bounds.minimum, self.bounds.maximum
        if isinstance(self.bounds, Range):
            names = ("minimum", "maximum")
        else:
            ending = {"string": "Length", "array": "Items", "object": "Properties"}[next(iter(self.kinds))]
            names = (f"min{ending}", f"max{ending}")
            low = low or None
        for name, bound in zip(names, (low, high)):
            if bound is not None:
                schema[name] = bound
        return schema

    def read(self, value: Any, at: str, strict: bool) -> Any:
        return self._within(self.inner.read(value, at, strict), at)

    def write(self, value: Any, at: str) -> Any:
        self._within(value, at)
        return self.inner.write(value, at)

    def _within(self, value: Any, at: str) -> Any:
        low, high = self.bounds.minimum, self.bounds.maximum
        measured = value if isinstance(self.bounds, Range) else len(value)
        what = "" if isinstance(self.bounds, Range) else (" characters" if isinstance(value, str) else " entries")
        if low is not None and measured < low:
            raise Misfit(at, f"expected at least {low}{what}, found {measured}")
        if high is not None and measured > high:
            raise Misfit(at, f"expected at most {high}{what}, found {measured}")
        return value


class _Named(Shape):
    """A type with a name, whose schema is written once."""

    name: str = ""

    def schema(self, definitions: _Definitions) -> Any:
        return definitions.reference(self)

    def definition(self, definitions: _Definitions) -> dict[str, Any]:
        raise NotImplementedError


class _Enum(_Named):
    def __init__(self, python: type[enum.Enum]) -> None:
        self.python, self.name = python, python.__name__
        self.choice = _Choice([member.value for member in python])
        self.kinds, self.called = self.choice.kinds, self.choice.called

    def definition(self, definitions: _Definitions) -> dict[str, Any]:
        return {**_described(_doc_of(self.python)), "enum": self.choice.values}

    def read(self, value: Any, at: str, strict: bool) -> Any:
        return self.python(self.choice.read(value, at, strict))

    def write(self, value: Any, at: str) -> Any:
        if not isinstance(value, self.python):
            raise Misfit(at, f"expected a {self.name}, got {type(value).__name__}")
        return value.value


@dataclasses.dataclass(slots=True)
class _Field:
    """A field of a dataclass or TypedDict."""

    #: As it is called in Python, and in JSON.
    python: str
    json: str
    shape: Shape
    doc: str | None = None
    #: Whether it must be given in JSON.
    required: bool = True
    #: Whether it is given to the class.
    init: bool = True
    #: Makes the default.
    default: Any = None


class _Object(_Named):
    """A dataclass or a TypedDict."""

    kinds = frozenset({"object"})

    def __init__(self, python: type) -> None:
        self.python, self.name = python, python.__name__
        self.called = f"an object ({self.name})"
        self.is_dataclass = dataclasses.is_dataclass(python)
        self.fields: list[_Field] = []

    def definition(self, definitions: _Definitions) -> dict[str, Any]:
        properties: dict[str, Any] = {}
        required = []
        for field in self.fields:
            if not definitions.output and not field.init:
                continue
            schema = field.shape.schema(definitions)
            schema = {} if schema is True and field.doc else schema
            if isinstance(schema, dict):
                schema = {**_described(field.doc), **schema}
                if not field.required and field.default is not None:
                    schema["default"] = field.shape.write(field.default(), "")
            properties[field.json] = schema
            # What has a default may be left out of what is read, and stands in all that is written.
            if field.required or definitions.output and self.is_dataclass:
                required.append(field.json)
        schema = {**_described(_doc_of(self.python)), "type": "object", "properties": properties}
        if required:
            schema["required"] = required
        return schema if definitions.output else {**schema, "additionalProperties": False}

    def is_tagged(self, value: dict[str, Any]) -> bool:
        tags = [field for field in self.fields if isinstance(field.shape, _Choice) and len(field.shape.values) == 1]
        return bool(tags) and all(value.get(tag.json) == tag.shape.values[0] for tag in tags)  # type: ignore[attr-defined]

    def read(self, value: Any, at: str, strict: bool) -> Any:
        if not isinstance(value, dict):
            raise self.expected(value, at)
        if strict:
            known = [field.json for field in self.fields if field.init]
            for key in value:
                if key not in known:
                    there = ", ".join(f"`{name}`" for name in known) or "none"
                    raise Misfit(f"{at}/{_escaped(key)}", f"unknown field `{key}`: the fields are {there}")
        read = {}
        for field in self.fields:
            if field.init and field.json in value:
                read[field.python] = field.shape.read(value[field.json], f"{at}/{_escaped(field.json)}", strict)
            elif field.init and field.required:
                raise Misfit(at, f"missing field `{field.json}`")
        try:
            return self.python(**read)
        except ValueError as why:
            # The author's own check, in `__post_init__`.
            raise Misfit(at, str(why)) from None

    def write(self, value: Any, at: str) -> Any:
        if self.is_dataclass:
            if not isinstance(value, self.python):
                raise Misfit(at, f"expected a {self.name}, got {type(value).__name__}")
            found = {field.python: getattr(value, field.python) for field in self.fields}
        else:
            if not isinstance(value, Mapping):
                raise Misfit(at, f"expected a dict ({self.name}), got {type(value).__name__}")
            found = dict(value)
            known = {field.python for field in self.fields}
            for key in found:
                if key not in known:
                    raise Misfit(at, f"`{key}` is no field of {self.name}")
        written = {}
        for field in self.fields:
            if field.python in found:
                written[field.json] = field.shape.write(found[field.python], f"{at}/{_escaped(field.json)}")
            elif field.required:
                raise Misfit(at, f"missing field `{field.python}` of {self.name}")
        return written


def _described(doc: str | None) -> dict[str, str]:
    return {"description": doc} if doc else {}


def _doc_of(python: type) -> str | None:
    """The class's own docstring; a dataclass without one is given its signature, which describes nothing."""
    doc = python.__dict__.get("__doc__")
    if not doc or doc.startswith(f"{python.__name__}("):
        return None
    return inspect.cleandoc(doc)


# ---- from types to shapes

ANY: Final = _Any()
NULL: Final = _Simple(type(None), "null", "null")
_BOOLEAN: Final = _Simple(bool, "boolean", "true or false")
_TEXT: Final = _Simple(str, "string", "a string")
_INTEGER: Final = _Integer()
_NUMBER: Final = _Number()

_SIMPLE: Final[dict[Any, Shape]] = {
    Any: ANY, object: ANY, None: NULL, type(None): NULL, bool: _BOOLEAN, str: _TEXT, int: _INTEGER, float: _NUMBER,
    list: _List(ANY, list), tuple: _List(ANY, tuple), dict: _Dict(ANY),
}

#: The shapes of the author's classes, so that each is made once and one that contains itself ends.
_CLASSES: Final[dict[type, Shape]] = {}


def shape_of(python: Any) -> Shape:
    """The shape of a type: ``str``, ``int``, ``float``, ``bool``, ``None``, ``Any``, ``list[T]``, ``tuple[T, ...]``,
    ``tuple[A, B]``, ``dict[str, T]``, ``A | B``, ``Literal``, ``Annotated``, Enum, dataclasses and TypedDicts of such.

    Raises :class:`UnsupportedType` for any other.
    """
    if isinstance(python, typing.Hashable) and python in _SIMPLE:
        return _SIMPLE[python]
    origin, arguments = typing.get_origin(python), typing.get_args(python)
    if origin is typing.Annotated:
        return _annotated(python)
    if origin in (typing.Required, typing.NotRequired, typing.Final) or str(origin) == "typing.ReadOnly":
        return shape_of(arguments[0])
    if origin is typing.Literal:
        return _literal(arguments)
    if origin in (typing.Union, types.UnionType):
        return _Union([shape_of(member) for member in arguments])
    if origin is list:
        return _List(shape_of(arguments[0]), list)
    if origin is tuple:
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return _List(shape_of(arguments[0]), tuple)
        return _Tuple([shape_of(item) for item in arguments])
    if origin is dict:
        if arguments[0] is not str:
            raise UnsupportedType("the keys of a dict are `str` in JSON: write `dict[str, ...]`")
        return _Dict(shape_of(arguments[1]))
    if isinstance(python, typing.NewType):
        return shape_of(python.__supertype__)
    if type(python).__name__ == "TypeAliasType":
        return shape_of(python.__value__)
    if isinstance(python, type):
        known = _CLASSES.get(python)
        if known is None:
            known = _of_class(python)
        return known
    raise _unsupported(python)


def _unsupported(python: Any) -> UnsupportedType:
    called = python.__name__ if isinstance(python, type) else str(python)
    return UnsupportedType(
        f"`{called}` has no JSON Schema: use str, int, float, bool, None, Any, list, tuple, dict, Literal, an Enum, "
        "a dataclass, a TypedDict, or a union of these"
    )


def _annotated(python: Any) -> Shape:
    shape = shape_of(python.__origin__)
    for note in python.__metadata__:
        if isinstance(note, (Range, Length)):
            fits = {"number"} if isinstance(note, Range) else {"string", "array", "object"}
            if isinstance(shape, _Named) or len(shape.kinds) != 1 or not shape.kinds <= fits:
                raise UnsupportedType(f"{type(note).__name__} bounds {' or '.join(sorted(fits))}, not {shape.called}")
            shape = _Bounded(shape, note)
    return shape


def _literal(values: Sequence[Any]) -> Shape:
    for value in values:
        if not (value is None or isinstance(value, (bool, int, str)) and not isinstance(value, enum.Enum)):
            raise UnsupportedType(f"`{value!r}` in a Literal has no JSON: use strings, integers, booleans and None")
    return _Choice(values)


def _of_class(python: type) -> Shape:
    if issubclass(python, enum.Enum):
        for member in python:
            if not isinstance(member.value, (str, int, float, bool)):
                raise _at(UnsupportedType(f"the value of {python.__name__}.{member.name} is neither text nor number"), python)
        _CLASSES[python] = _Enum(python)
        return _CLASSES[python]
    if not dataclasses.is_dataclass(python) and not typing.is_typeddict(python):
        raise _unsupported(python)
    shape = _Object(python)
    # Before its fields, one of which may be of this type.
    _CLASSES[python] = shape
    try:
        shape.fields = _fields(python)
    except BaseException:
        del _CLASSES[python]
        raise
    return shape


def _fields(python: type) -> list[_Field]:
    try:
        hints = typing.get_type_hints(python, include_extras=True)
    except NameError as why:
        raise _at(UnsupportedType(f"{python.__name__}: {why}: define it at the top of the module"), python) from None
    docs, lines = _source_of(python)
    declared: list[tuple[str, dataclasses.Field[Any] | None]]
    if dataclasses.is_dataclass(python):
        declared = [(field.name, field) for field in dataclasses.fields(python)]
    else:
        declared = [(name, None) for name in hints]
    fields = []
    for name, of_dataclass in declared:
        hint = hints[name]
        try:
            shape = shape_of(hint)
        except UnsupportedType as why:
            if why.line is None:
                raise _at(UnsupportedType(f"{python.__name__}.{name}: {why}"), python, lines.get(name)) from None
            raise
        field = _Field(name, name, shape, docs.get(name) or _note_of(hint))
        if of_dataclass is None:
            field.required = _is_required(python, name, hint)
        else:
            # `from_` is how Python writes a name that it has taken itself.
            if name.endswith("_") and keyword.iskeyword(name[:-1]):
                field.json = name[:-1]
            field.init = of_dataclass.init
            if of_dataclass.default is not dataclasses.MISSING:
                field.required, field.default = False, lambda value=of_dataclass.default: value
            elif of_dataclass.default_factory is not dataclasses.MISSING:
                field.required, field.default = False, of_dataclass.default_factory
            if field.init and field.default is not None:
                try:
                    shape.write(field.default(), "")
                except Misfit as misfit:
                    text = f"{python.__name__}.{name}: the default does not fit its own type: {misfit}"
                    raise _at(UnsupportedType(text), python, lines.get(name)) from None
        fields.append(field)
    return fields


def _is_required(python: Any, name: str, hint: Any) -> bool:
    while typing.get_origin(hint) is typing.Annotated:
        hint = hint.__origin__
    origin = typing.get_origin(hint)
    if origin in (typing.Required, typing.NotRequired):
        return origin is typing.Required
    return name in python.__required_keys__


def _note_of(hint: Any) -> str | None:
    """The text in ``Annotated[str, "text"]``."""
    if typing.get_origin(hint) in (typing.Required, typing.NotRequired):
        hint = typing.get_args(hint)[0]
    if typing.get_origin(hint) is not typing.Annotated:
        return None
    return next((note for note in hint.__metadata__ if isinstance(note, str)), None)


def _source_of(python: type) -> tuple[dict[str, str], dict[str, int]]:
    """Of each field, the text that stands below it, and its line. Nothing where the source is not there."""
    docs: dict[str, str] = {}
    lines: dict[str, int] = {}
    for base in reversed(python.__mro__):
        if base.__module__ in ("builtins", "typing", "enum"):
            continue
        try:
            source, first = inspect.getsourcelines(base)
            body = ast.parse(textwrap.dedent("".join(source))).body
        except (OSError, TypeError, SyntaxError):
            continue
        if not body or not isinstance(body[0], ast.ClassDef):
            continue
        before: str | None = None
        for statement in body[0].body:
            if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
                before = statement.target.id
                lines[before] = first + statement.lineno - 1
                continue
            if before and isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
                if isinstance(statement.value.value, str):
                    docs[before] = inspect.cleandoc(statement.value.value)
            before = None
    return docs, lines


def _at(error: UnsupportedType, python: type, line: int | None = None) -> UnsupportedType:
    """The error with its place in the author's file, as far as it is known."""
    try:
        error.file = inspect.getsourcefile(python)
        error.line = line or inspect.getsourcelines(python)[1]
    except (OSError, TypeError):
        pass
    return error
