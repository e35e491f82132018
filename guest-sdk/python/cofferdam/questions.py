"""Questions to people."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Final

from . import host
from .durations import ms_rounded_up
from .errors import InvalidQuestion, UnexpectedHumanAnswer
from .shapes import Shape
from .text import Misfit, dump_json, parse_json, to_json


class _Unset:
    """That no default was given: ``None`` is an answer, too."""

    def __repr__(self) -> str:
        return "none"


UNSET: Final = _Unset()


def ask(prompt: str, shape: Shape, schema: Any, expires_after: timedelta | float | None, default: Any) -> Any:
    """Asks, and waits."""
    try:
        written = dump_json(shape.document() if schema is None else to_json(schema))
    except Misfit as why:
        raise InvalidQuestion(f"the schema cannot be written as JSON: {why}") from None
    try:
        answer = None if default is UNSET else dump_json(to_json(default))
    except Misfit as why:
        raise InvalidQuestion(f"the default answer cannot be written as JSON: {why}") from None
    expires_ms = None if expires_after is None else ms_rounded_up(expires_after)
    question = host.interface("human").Question(prompt, written, expires_ms, answer)
    given = host.call("human", "ask", question)
    try:
        return parse_json(given, shape)
    except Misfit as why:
        raise UnexpectedHumanAnswer(str(why)) from None
