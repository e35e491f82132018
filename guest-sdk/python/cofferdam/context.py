"""Everything a plugin can reach."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any, TypeVar, overload

from . import calls, children, host, questions
from .calls import Pending, ToolInfo
from .children import Child
from .durations import unix_ms
from .errors import EventError, InvalidEvent, InvalidInput
from .files import Files
from .questions import UNSET
from .shaping import shape_of
from .state import Scope, State
from .text import Misfit, dump_json, parse_json, to_json

__all__ = ["BudgetLeft", "Context", "Level", "ToolContext"]

T = TypeVar("T")


class Level(enum.Enum):
    """Weight of a log line."""

    DEBUG = "debug"
    """For whoever works on the agent."""
    INFO = "info"
    """What happened."""
    WARN = "warn"
    """Something is odd, and the run goes on."""
    ERROR = "error"
    """Something failed."""


@dataclass(frozen=True, slots=True)
class BudgetLeft:
    """What is left of a run's budget, read at the moment of the call."""

    fuel: int
    """Fuel: about one unit per WebAssembly instruction."""
    memory_bytes: int
    """Bytes by which all memories and tables together may still grow."""
    wall_ms: int
    """Milliseconds until the deadline. Time spent in host calls counts, a wait that holds no sandbox does not."""
    tool_calls: int
    """Tool calls that may still be made."""
    events: int
    """Events that may still be emitted, log lines included."""
    host_calls: int
    """Calls to the host that may still be made, of every kind, those of the standard library included."""


class ToolContext:
    """What a tool plugin can reach: who the run is for, its budget, its events, and the user's state for this plugin.

    A tool calls no other tools, so they are on :class:`Context` alone.
    """

    __slots__ = ("_identity",)

    def __init__(self) -> None:
        # Asked for when it is first looked at: most runs never do, and it costs a host call.
        self._identity: Any = None

    def _info(self) -> Any:
        if self._identity is None:
            self._identity = host.call("context", "get")
        return self._identity

    @property
    def user_id(self) -> str:
        """The user on whose behalf the plugin runs."""
        return self._info().user_id

    @property
    def request_id(self) -> str:
        """The request that started the run."""
        return self._info().request_id

    @property
    def run_id(self) -> str:
        """This run."""
        return self._info().run_id

    @property
    def parent_run_id(self) -> str | None:
        """The run that started this one, if an agent did."""
        return self._info().parent_run_id

    @property
    def thread_id(self) -> str:
        """The conversation this run belongs to. A run submitted without one has a thread of its own."""
        return self._info().thread_id

    @property
    def session_id(self) -> str | None:
        """The client's connection, if the run was submitted over a lasting one."""
        return self._info().session_id

    @property
    def idempotency_key(self) -> str | None:
        """In a tool plugin: a text that is the same for each attempt at one call, and another for each call. ``None`` in an
        agent.

        A durable run that was cut off while an idempotent tool ran calls it again with the same key. Hand it on to services
        that take such keys, or keep it with what was done, and the work is done once.
        """
        return self._info().idempotency_key

    @overload
    def metadata(self) -> dict[str, Any]: ...
    @overload
    def metadata(self, type: type[T]) -> T: ...

    def metadata(self, type: Any = dict) -> Any:
        """The client's own key-value data for this run: a JSON object, empty if none was given. At most 16 KiB.

        :class:`InvalidInput` if the object is not of the type: the client chose it.
        """
        try:
            return parse_json(self._info().metadata, shape_of(type))
        except Misfit as why:
            raise InvalidInput(f"the run's metadata are not valid: {why}") from None

    def budget(self) -> BudgetLeft:
        """What is left to this run."""
        left = host.call("context", "budget")
        return BudgetLeft(left.fuel, left.memory_bytes, left.wall_ms, left.tool_calls, left.events, left.host_calls)

    def deadline(self) -> datetime:
        """When the run's time is over, if it does not wait. Asks for the :meth:`budget`; a wait that holds no sandbox puts
        it off."""
        return datetime.now(timezone.utc) + timedelta(milliseconds=self.budget().wall_ms)

    def sleep_until(self, time: datetime | float) -> None:
        """Waits until a time (with its time zone, or as seconds since 1970), to the millisecond. A time that is past
        returns at once.

        A wait of a second or more holds no sandbox and does not count as the run's time; a shorter one does. At most as
        long from now as the user's quota says, 30 days by default. In a tool plugin every wait is a short one. Raises a
        :class:`WaitError`.
        """
        host.call("context", "sleep_until", unix_ms(time))

    def sleep(self, duration: timedelta | float) -> None:
        """Waits so long (seconds, if a number), as :meth:`sleep_until` does. Unlike ``time.sleep``, it holds no sandbox
        from a second on."""
        now = datetime.now(timezone.utc)
        try:
            self.sleep_until(now + (duration if isinstance(duration, timedelta) else timedelta(seconds=duration)))
        except OverflowError:
            # Beyond all bounds, which the host says.
            host.call("context", "sleep_until", host.U64_MAX)

    def thinking(self, text: str) -> None:
        """Says what the plugin is working on, for a person to read. The client sees ``agent_thinking``.

        Raises an :class:`EventError`: :class:`EventTooLarge` over 1 MiB, :class:`TooManyEvents` after the run's last event.
        """
        host.call("events", "thinking", _text(text))

    def progress(self, fraction: float, note: str) -> None:
        """How far the run has come, from 0.0 to 1.0, and a note. The client sees ``progress``.

        As :meth:`thinking`; :class:`InvalidEvent` for a fraction out of bounds.
        """
        host.call("events", "progress", float(fraction), _text(note))

    def emit(self, name: str, payload: Any) -> None:
        """An event of the plugin's own, with any payload that is JSON. The client sees the type ``custom:NAME``.

        A name is 1 to 64 characters of ``a-z``, ``0-9``, ``_``, ``-`` and ``.``, and starts with a letter. As
        :meth:`thinking`; :class:`InvalidEvent` for another name, or a payload that cannot be written as JSON.
        """
        try:
            written = dump_json(to_json(payload))
        except Misfit as why:
            raise InvalidEvent(f"the payload cannot be written as JSON: {why}") from None
        host.call("events", "emit", _text(name), written)

    def partial_result(self, payload: Any) -> None:
        """A part of the result that is there already: the event ``custom:partial-result``."""
        self.emit("partial-result", payload)

    def log(self, level: Level, text: str) -> None:
        """A line for whoever looks into the run later. The client sees ``log``. At most 8 KiB.

        Log lines are the first events to be dropped when a client reads too slowly. As :meth:`thinking`;
        :class:`EventTooLarge` over 8 KiB. What is printed becomes log lines, too.
        """
        host.call("events", "log", getattr(host.interface("events").Level, level.name), _text(text))

    def debug(self, text: str) -> None:
        """A log line for whoever works on the plugin. If it cannot be recorded, the run goes on without it."""
        self._log_if_possible(Level.DEBUG, text)

    def info(self, text: str) -> None:
        """A log line that says what happened. If it cannot be recorded, the run goes on without it."""
        self._log_if_possible(Level.INFO, text)

    def warn(self, text: str) -> None:
        """A log line about something odd. If it cannot be recorded, the run goes on without it."""
        self._log_if_possible(Level.WARN, text)

    def error(self, text: str) -> None:
        """A log line about something that failed. If it cannot be recorded, the run goes on without it."""
        self._log_if_possible(Level.ERROR, text)

    def _log_if_possible(self, level: Level, text: str) -> None:
        try:
            self.log(level, text)
        except EventError:
            # A line that cannot be recorded is no reason to lose the work.
            pass

    def state(self, scope: Scope) -> State:
        """The user's key-value data for this plugin, in this thread or in all of the user's runs."""
        return State(scope)


class Context(ToolContext):
    """What an agent can reach: everything a :class:`ToolContext` has, tools, files, people and other agents.

    ::

        ctx.progress(0.5, "Halfway")
        converted = ctx.call("units.convert", {"value": 26.2, "from": "mi", "to": "km"}, Converted)
        ctx.info(f"{converted.value} km")
    """

    __slots__ = ()

    @property
    def files(self) -> Files:
        """The files of the user's workspace. Needs the tools ``file.list``, ``file.read`` or ``file.write``, or
        ``file.*``."""
        return Files()

    def tools(self) -> list[ToolInfo]:
        """The tools this run may call, by name. A tool that is not granted is not listed, and of more than 1 MiB of
        descriptions and schemas the last by name are left out."""
        return calls.listed()

    @overload
    def call(self, name: str, arguments: Any) -> Any: ...
    @overload
    def call(self, name: str, arguments: Any, answer: type[T]) -> T: ...

    def call(self, name: str, arguments: Any, answer: Any = Any) -> Any:
        """Calls a tool and waits for its answer, which is of the type ``answer``, or any JSON if that is not said. The
        client sees ``tool_executing``, then ``tool_completed``.

        Arguments (a dict or dataclass) and answer are at most 1 MiB of JSON. Raises a :class:`ToolError`;
        :class:`InvalidArguments` also for arguments that cannot be written as JSON, and :class:`UnexpectedAnswer` for an
        answer of another type.
        """
        return calls.call(name, arguments, shape_of(answer))

    @overload
    def start(self, name: str, arguments: Any) -> Pending[Any]: ...
    @overload
    def start(self, name: str, arguments: Any, answer: type[T]) -> Pending[T]: ...

    def start(self, name: str, arguments: Any, answer: Any = Any) -> Pending[Any]:
        """Starts a tool call without waiting, so that several run side by side. At most 32 may be under way. ::

            under_way = [ctx.start("units.convert", {"value": v, "from": "mi", "to": "km"}) for v in (3.1, 6.2, 26.2)]
            converted = [call.wait() for call in under_way]

        As :meth:`call`; :class:`ToolExhausted` when 32 are under way.
        """
        return calls.start(name, arguments, shape_of(answer))

    @overload
    def ask(
        self,
        prompt: str,
        *,
        schema: Mapping[str, Any] | None = None,
        expires_after: timedelta | float | None = None,
        default: Any = UNSET,
    ) -> Any: ...
    @overload
    def ask(
        self,
        prompt: str,
        answer: type[T],
        *,
        schema: Mapping[str, Any] | None = None,
        expires_after: timedelta | float | None = None,
        default: Any = UNSET,
    ) -> T: ...

    def ask(
        self,
        prompt: str,
        answer: Any = Any,
        *,
        schema: Mapping[str, Any] | None = None,
        expires_after: timedelta | float | None = None,
        default: Any = UNSET,
    ) -> Any:
        """Asks people, and waits for their answer. The client sees ``run_waiting`` with the question, and answers with
        ``POST /v1/runs/{id}/input``. Needs ``human``.

        Whoever answers is shown the JSON Schema of ``answer``, or ``schema`` where the shape is known only while the agent
        runs (for example ``{"enum": rooms}``), and the host refuses what does not fit it. The wait holds no sandbox and is
        not the run's time. The prompt is at most 16 KiB. ``expires_after`` (seconds, if a number) is at most, and if not
        said, what the user's quota says, 30 days by default; ``default`` is the answer if nobody gave one in time. ::

            @dataclass
            class Decision:
                approved: bool
                \"\"\"Whether the invoice may be paid.\"\"\"

            decision = ctx.ask("Pay invoice 17, 1,250 EUR, to Ada Ltd?", Decision,
                               expires_after=timedelta(days=1), default=Decision(False))

        Raises an :class:`AskError`: :class:`AskExpired` if nobody answered in time and there is no default.
        """
        return questions.ask(prompt, shape_of(answer), schema, expires_after, default)

    @overload
    def spawn(
        self,
        agent: str,
        input: Any,
        *,
        fuel: int | None = None,
        memory_bytes: int | None = None,
        deadline: timedelta | float | None = None,
    ) -> Child[Any]: ...
    @overload
    def spawn(
        self,
        agent: str,
        input: Any,
        output: type[T],
        *,
        fuel: int | None = None,
        memory_bytes: int | None = None,
        deadline: timedelta | float | None = None,
    ) -> Child[T]: ...

    def spawn(
        self,
        agent: str,
        input: Any,
        output: Any = Any,
        *,
        fuel: int | None = None,
        memory_bytes: int | None = None,
        deadline: timedelta | float | None = None,
    ) -> Child[Any]:
        """Starts an agent on an input, in a run of its own: for the same user, in the same thread, and out of this run's
        budget. Needs ``agents``.

        ``agent`` is a name, or ``name@version``. The input is at most 1 MiB of JSON. A run starts at most 16 others, and a
        tree of runs has at most 64 and is at most 8 deep. When this run ends, its children that have not are cancelled.

        Limits are at most what is left to this run: ``fuel`` (if not said, a third of what is left; what the child leaves
        comes back with :meth:`Child.wait`), ``memory_bytes`` (if not said, what the user's quota allows) and ``deadline``,
        how long it may execute (seconds, if a number; if not said, what is left to this run).

        Raises a :class:`SpawnError`. What becomes of the child is told by :meth:`Child.wait`.
        """
        return children.spawn(agent, input, shape_of(output), fuel, memory_bytes, deadline)


def _text(text: str) -> str:
    try:
        return host.call_text(text)
    except Misfit as why:
        raise InvalidEvent(str(why)) from None
