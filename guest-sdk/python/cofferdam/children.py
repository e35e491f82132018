"""Agents that an agent starts."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Generic, TypeVar

from . import host
from .durations import ms_rounded_down
from .errors import InvalidChild, UnexpectedChildOutput
from .shapes import Shape
from .text import Misfit, dump_json, parse_json, to_json

__all__ = ["Child"]

T = TypeVar("T")


class Child(Generic[T]):
    """A run that this one started, with :meth:`Context.spawn`.

    Dropping it changes nothing: the child runs on. When this run ends, its children that have not are cancelled. ::

        child = ctx.spawn("summary", {"path": "one.txt"}, str)
        try:
            ctx.info(child.wait())
        except ChildFailed as failure:
            if failure.code != "no_text":
                raise
            ctx.warn("there is nothing to summarize")
    """

    __slots__ = ("_id", "_run", "_shape")

    def __init__(self, run: Any, shape: Shape) -> None:
        self._run, self._shape = run, shape
        # Asked for when it is first looked at: it costs a host call.
        self._id: str | None = None

    @property
    def id(self) -> str:
        """Its run."""
        if self._id is None:
            self._id = host.method(self._run.id)
        return self._id

    def wait(self) -> T:
        """Waits for its output, at most 4 MiB of JSON. The wait holds no sandbox and is not the run's time. Waiting again
        gives the same.

        Raises :class:`ChildFailed` if it failed or was cancelled, a :class:`WaitError` if this run cannot wait, and
        :class:`UnexpectedChildOutput` for an output that is not of the type.
        """
        output = host.method(self._run.wait)
        try:
            return parse_json(output, self._shape)
        except Misfit as why:
            raise UnexpectedChildOutput(str(why)) from None

    def cancel(self) -> None:
        """Asks it to stop. If it has not ended before, it ends as ``cancelled``, which :meth:`wait` tells."""
        host.method(self._run.cancel)


def spawn(
    agent: str,
    input: Any,
    shape: Shape,
    fuel: int | None,
    memory_bytes: int | None,
    deadline: timedelta | float | None,
) -> Child[Any]:
    """Starts an agent."""
    try:
        written = dump_json(to_json(input))
    except Misfit as why:
        raise InvalidChild(f"the input of `{agent}` cannot be written as JSON: {why}") from None
    # Rounded down: it is an upper bound.
    deadline_ms = None if deadline is None else ms_rounded_down(deadline)
    limits = host.interface("agents").ChildLimits(fuel, memory_bytes, deadline_ms)
    return Child(host.call("agents", "spawn", agent, written, limits), shape)
