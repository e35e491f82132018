"""What values look like as JSON: their JSON Schema, and the way from JSON to them and back.

A :class:`Shape` is made of a type once, when the component is built, by :func:`~cofferdam.shaping.shape_of`.
"""

from __future__ import annotations

import dataclasses
import enum
import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from .text import Misfit, NotJson, escaped, finite, to_json

__all__ = [
    "AnyShape", "Bounded", "Choice", "DictShape", "EnumShape", "Field", "Integer", "Length", "ListShape", "Named", "Number",
    "ObjectShape", "Range", "Shape", "Simple", "TupleShape", "Union",
]

#: Which JSON Schema the schemas are written in.
DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"

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

    def reference(self, shape: Named) -> dict[str, Any]:
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
        schema = self.definition(definitions) if isinstance(self, Named) else self.schema(definitions)
        if isinstance(schema, bool):
            return schema
        title = {"title": self.name} if isinstance(self, Named) else {}
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


class AnyShape(Shape):
    def schema(self, definitions: _Definitions) -> Any:
        return True

    def read(self, value: Any, at: str, strict: bool) -> Any:
        return value

    def write(self, value: Any, at: str) -> Any:
        return to_json(value, at)


class Simple(Shape):
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


class Integer(Shape):
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


class Number(Shape):
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
        return int(value) if isinstance(value, int) else finite(float(value), at)


class Choice(Shape):
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


class ListShape(Shape):
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


class TupleShape(Shape):
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


class DictShape(Shape):
    kinds, called = frozenset({"object"}), "an object"

    def __init__(self, values: Shape) -> None:
        self.values = values

    def schema(self, definitions: _Definitions) -> Any:
        values = self.values.schema(definitions)
        return {"type": "object"} if values is True else {"type": "object", "additionalProperties": values}

    def read(self, value: Any, at: str, strict: bool) -> Any:
        if not isinstance(value, dict):
            raise self.expected(value, at)
        return {key: self.values.read(inner, f"{at}/{escaped(key)}", strict) for key, inner in value.items()}

    def write(self, value: Any, at: str) -> Any:
        if not isinstance(value, Mapping):
            raise self.given(value, at)
        for key in value:
            if not isinstance(key, str):
                raise NotJson(at, f"JSON has no keys but strings, and here is {key!r}")
        return {str(key): self.values.write(inner, f"{at}/{escaped(key)}") for key, inner in value.items()}


class Union(Shape):
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
            members.sort(key=lambda member: isinstance(member, Number))
        if isinstance(value, dict):
            # Types that are told apart by a Literal: only the one that is meant can say what is wrong.
            tagged: list[Shape] = [m for m in members if isinstance(m, ObjectShape) and m.is_tagged(value)]
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


class Bounded(Shape):
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


class Named(Shape):
    """A type with a name, whose schema is written once."""

    name: str = ""

    def schema(self, definitions: _Definitions) -> Any:
        return definitions.reference(self)

    def definition(self, definitions: _Definitions) -> dict[str, Any]:
        raise NotImplementedError


class EnumShape(Named):
    def __init__(self, python: type[enum.Enum]) -> None:
        self.python, self.name = python, python.__name__
        self.choice = Choice([member.value for member in python])
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
class Field:
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


class ObjectShape(Named):
    """A dataclass or a TypedDict."""

    kinds = frozenset({"object"})

    def __init__(self, python: type) -> None:
        self.python, self.name = python, python.__name__
        self.called = f"an object ({self.name})"
        self.is_dataclass = dataclasses.is_dataclass(python)
        self.fields: list[Field] = []

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
        tags = [field for field in self.fields if isinstance(field.shape, Choice) and len(field.shape.values) == 1]
        return bool(tags) and all(value.get(tag.json) == tag.shape.values[0] for tag in tags)  # type: ignore[attr-defined]

    def read(self, value: Any, at: str, strict: bool) -> Any:
        if not isinstance(value, dict):
            raise self.expected(value, at)
        if strict:
            known = [field.json for field in self.fields if field.init]
            for key in value:
                if key not in known:
                    there = ", ".join(f"`{name}`" for name in known) or "none"
                    raise Misfit(f"{at}/{escaped(key)}", f"unknown field `{key}`: the fields are {there}")
        read = {}
        for field in self.fields:
            if field.init and field.json in value:
                read[field.python] = field.shape.read(value[field.json], f"{at}/{escaped(field.json)}", strict)
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
                written[field.json] = field.shape.write(found[field.python], f"{at}/{escaped(field.json)}")
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
