"""Calling tools."""

from __future__ import annotations

from dataclasses import dataclass
from types import TracebackType
from typing import Any, Generic, TypeVar

from . import host
from .errors import InvalidArguments, UnexpectedAnswer
from .shapes import Shape
from .text import Misfit, dump_json, parse_json, to_json

__all__ = ["Pending", "ToolInfo"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ToolInfo:
    """A tool that this run may call."""

    name: str
    """Full name: ``family.verb`` for the host's own tools (``file.read``), ``plugin.tool`` for a plugin's."""
    description: str
    """What it does, for a person or a model to read."""
    input_schema: str
    """JSON Schema of the arguments, as a JSON text."""
    idempotent: bool
    """Whether a second call with the same arguments, of which nobody knows whether the first one came to its end, does no
    harm. A durable run makes such a call again after a crash; of any other it learns :class:`OutcomeUnknown`."""


class Pending(Generic[T]):
    """A tool call under way, from :meth:`Context.start`.

    :meth:`cancel`, or dropping it, ends the call where it stands; it has been counted, and a file that it was writing may be
    written.
    """

    __slots__ = ("_call", "_name", "_shape")

    def __init__(self, name: str, call: Any, shape: Shape) -> None:
        self._name, self._call, self._shape = name, call, shape

    def ready(self) -> bool:
        """Whether the answer is there, so that :meth:`wait` would not wait."""
        return host.method(self._handle().ready)

    def wait(self) -> T:
        """Waits for the answer, once. Raises a :class:`ToolError`, as :meth:`Context.call`."""
        call = self._handle()
        self._call = None
        return read_answer(self._name, host.method(type(call).wait, call), self._shape)

    def cancel(self) -> None:
        """Gives the answer up."""
        call, self._call = self._call, None
        if call is not None:
            call.__exit__(None, None, None)

    def _handle(self) -> Any:
        if self._call is None:
            raise RuntimeError(f"the call of `{self._name}` was waited for, or cancelled: start it again")
        return self._call

    def __enter__(self) -> Pending[T]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.cancel()


def listed() -> list[ToolInfo]:
    """The tools that this run may call."""
    tools = host.call("tools", "list")
    return [ToolInfo(tool.name, tool.description, tool.input_schema, tool.idempotent) for tool in tools]


def call(name: str, arguments: Any, shape: Shape) -> Any:
    """Calls a tool and waits."""
    return read_answer(name, host.call("tools", "call", name, _written(name, arguments)), shape)


def start(name: str, arguments: Any, shape: Shape) -> Pending[Any]:
    """Starts a call."""
    return Pending(name, host.call("tools", "start", name, _written(name, arguments)), shape)


def _written(name: str, arguments: Any) -> str:
    try:
        return dump_json(to_json(arguments))
    except Misfit as why:
        raise InvalidArguments(f"the arguments of `{name}` cannot be written as JSON: {why}") from None


def read_answer(name: str, answer: str, shape: Shape) -> Any:
    """The caller's value of an answer."""
    try:
        return parse_json(answer, shape)
    except Misfit as why:
        raise UnexpectedAnswer(f"from `{name}`: {why}") from None
