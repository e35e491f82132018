"""Key-value data that outlives the run."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Generic, TypeAlias, TypeVar, overload

from . import host
from .durations import ms_rounded_down
from .errors import StateNotJson
from .shaping import shape_of
from .text import Misfit, dump_json, parse_json, to_json

__all__ = ["Scope", "State", "Stored"]

T = TypeVar("T")

#: What :meth:`State.list` gives, within whose class `list` is that method.
Keys: TypeAlias = list[str]


class Scope(enum.Enum):
    """How widely a key is seen."""

    THREAD = "thread"
    """Runs of this plugin in this thread."""
    USER = "user"
    """All of this user's runs of this plugin."""


@dataclass(frozen=True, slots=True)
class Stored(Generic[T]):
    """A stored value with the version that :meth:`State.compare_and_swap` compares."""

    value: T
    """What was set."""
    version: int
    """Grows with every change of the key."""


class State:
    """The user's key-value data for this plugin in one scope, from :meth:`ToolContext.state`.

    Keys are 1 to 256 bytes of printable ASCII without spaces, values at most 1 MiB, a user's keys and values together at
    most 64 MiB, to which each key adds 200 bytes. Each plugin sees only its own keys, each user only theirs. Reading needs
    the access ``read``, the rest ``read_write``. Every method raises a :class:`StateError`. ::

        # Counts, although another run may count at the same time.
        state = ctx.state(Scope.USER)
        while True:
            stored = state.get_json("count", int)
            count, version = (stored.value, stored.version) if stored else (0, None)
            try:
                state.compare_and_swap_json("count", version, count + 1)
                break
            except StateConflict:
                continue
    """

    __slots__ = ("_scope", "_ttl_ms")

    def __init__(self, scope: Scope, ttl_ms: int | None = None) -> None:
        self._scope = scope
        self._ttl_ms = ttl_ms

    def expiring_after(self, ttl: timedelta | float) -> State:
        """The same data, but what is set through this value vanishes after ``ttl`` (seconds, if a number): 1 ms to 10
        years, in whole milliseconds."""
        return State(self._scope, ms_rounded_down(ttl))

    def _call(self, function: str, *arguments: Any) -> Any:
        scope = getattr(host.interface("state").Scope, self._scope.name)
        return host.call("state", function, scope, *arguments)

    def get(self, key: str) -> Stored[bytes] | None:
        """The value of a key, or ``None``."""
        entry = self._call("get", key)
        return None if entry is None else Stored(bytes(entry.value), entry.version)

    @overload
    def get_json(self, key: str) -> Stored[Any] | None: ...
    @overload
    def get_json(self, key: str, type: type[T]) -> Stored[T] | None: ...

    def get_json(self, key: str, type: Any = Any) -> Stored[Any] | None:
        """The value of a key that was set as JSON, or ``None``. :class:`StateNotJson` if the value is not of the type."""
        stored = self.get(key)
        if stored is None:
            return None
        try:
            value = parse_json(stored.value.decode(), shape_of(type))
        except (Misfit, UnicodeDecodeError) as why:
            raise StateNotJson(f"`{key}`: {why}") from None
        return Stored(value, stored.version)

    def set(self, key: str, value: bytes) -> int:
        """Sets a key and gives its new version."""
        return self._call("set", key, bytes(value), self._ttl_ms)

    def set_json(self, key: str, value: Any) -> int:
        """Sets a key to a value written as JSON and gives its new version."""
        return self.set(key, _written(key, value))

    def delete(self, key: str) -> bool:
        """Removes a key. Says whether it was there."""
        return self._call("delete", key)

    def list(self, prefix: str = "", after: str | None = None, limit: int = 1000) -> Keys:
        """Keys that start with ``prefix``, in byte order, after the key ``after``, at most ``limit`` (1 to 1,000).

        The next page starts after the last key of this one; a page shorter than ``limit`` is the last.
        """
        return self._call("list", prefix, after, limit)

    def compare_and_swap(self, key: str, expected: int | None, value: bytes) -> int:
        """Sets a key only if its version is ``expected`` (``None``: only if it is absent), and gives the new version.

        :class:`StateConflict` with the version that is there instead.
        """
        return self._call("compare_and_swap", key, expected, bytes(value), self._ttl_ms)

    def compare_and_swap_json(self, key: str, expected: int | None, value: Any) -> int:
        """As :meth:`compare_and_swap`, with a value written as JSON."""
        return self.compare_and_swap(key, expected, _written(key, value))


def _written(key: str, value: Any) -> bytes:
    try:
        return dump_json(to_json(value)).encode()
    except Misfit as why:
        raise StateNotJson(f"`{key}`: {why}") from None
