"""From the author's types to shapes.

A type that JSON does not have is an error of the build, with the place in the author's file, and not of a run.
"""

from __future__ import annotations

import ast
import dataclasses
import enum
import inspect
import textwrap
import types
import typing
from collections.abc import Sequence
from typing import Any, Final

from .shapes import (
    AnyShape,
    Bounded,
    Choice,
    DictShape,
    EnumShape,
    Field,
    Integer,
    Length,
    ListShape,
    Named,
    Number,
    ObjectShape,
    Range,
    Shape,
    Simple,
    TupleShape,
    Union,
)
from .text import Misfit, json_name

__all__ = ["UnsupportedType", "shape_of"]


class UnsupportedType(TypeError):
    """A type has no JSON Schema. ``file`` and ``line`` are the place in the author's code, if it is known."""

    def __init__(self, text: str, file: str | None = None, line: int | None = None) -> None:
        self.file: str | None = file
        self.line: int | None = line
        super().__init__(text)


ANY: Final = AnyShape()
NULL: Final = Simple(type(None), "null", "null")
_BOOLEAN: Final = Simple(bool, "boolean", "true or false")
_TEXT: Final = Simple(str, "string", "a string")
_INTEGER: Final = Integer()
_NUMBER: Final = Number()

_SIMPLE: Final[dict[Any, Shape]] = {
    Any: ANY, object: ANY, None: NULL, type(None): NULL, bool: _BOOLEAN, str: _TEXT, int: _INTEGER, float: _NUMBER,
    list: ListShape(ANY, list), tuple: ListShape(ANY, tuple), dict: DictShape(ANY),
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
        return Union([shape_of(member) for member in arguments])
    if origin is list:
        return ListShape(shape_of(arguments[0]), list)
    if origin is tuple:
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return ListShape(shape_of(arguments[0]), tuple)
        return TupleShape([shape_of(item) for item in arguments])
    if origin is dict:
        if arguments[0] is not str:
            raise UnsupportedType("the keys of a dict are `str` in JSON: write `dict[str, ...]`")
        return DictShape(shape_of(arguments[1]))
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
            if isinstance(shape, Named) or len(shape.kinds) != 1 or not shape.kinds <= fits:
                raise UnsupportedType(f"{type(note).__name__} bounds {' or '.join(sorted(fits))}, not {shape.called}")
            shape = Bounded(shape, note)
    return shape


def _literal(values: Sequence[Any]) -> Shape:
    for value in values:
        if not (value is None or isinstance(value, (bool, int, str)) and not isinstance(value, enum.Enum)):
            raise UnsupportedType(f"`{value!r}` in a Literal has no JSON: use strings, integers, booleans and None")
    return Choice(values)


def _of_class(python: type) -> Shape:
    if issubclass(python, enum.Enum):
        for member in python:
            if not isinstance(member.value, (str, int, float, bool)):
                text = f"the value of {python.__name__}.{member.name} is neither text nor number"
                raise _at(UnsupportedType(text), python)
        _CLASSES[python] = EnumShape(python)
        return _CLASSES[python]
    if not dataclasses.is_dataclass(python) and not typing.is_typeddict(python):
        raise _unsupported(python)
    shape = ObjectShape(python)
    # Before its fields, one of which may be of this type.
    _CLASSES[python] = shape
    try:
        shape.fields = _fields(python)
    except BaseException:
        del _CLASSES[python]
        raise
    return shape


def _fields(python: type) -> list[Field]:
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
        field = Field(name, name, shape, docs.get(name) or _note_of(hint))
        if of_dataclass is None:
            field.required = _is_required(python, name, hint)
        else:
            field.json = json_name(name)
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
