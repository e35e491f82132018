"""What can go wrong: a class for each refusal of the host, and the agent's own failures.

What an author does not catch ends the run with a code of its own: a refusal for want of a grant as ``denied``, any other
refusal with its class's ``run_code``, an :class:`AgentError` with its own code.
"""

from __future__ import annotations

from typing import Any, ClassVar

__all__ = [
    "AgentError", "AskDenied", "AskError", "AskExhausted", "AskExpired", "AskUnavailable", "ChildError", "ChildFailed",
    "Denied", "EventError", "EventTooLarge", "EventsExhausted", "EventsFull", "HostError", "InvalidArguments",
    "InvalidChild", "InvalidEvent", "InvalidInput", "InvalidQuestion", "InvalidStateRequest", "InvalidWait", "NotFound",
    "OutcomeUnknown", "SpawnDenied", "SpawnError", "SpawnExhausted", "SpawnUnavailable", "StateConflict", "StateDenied",
    "StateError", "StateExhausted", "StateFull", "StateNotJson", "StateTooLarge", "StateUnavailable", "ToolDenied",
    "ToolError", "ToolExhausted", "ToolFailed", "ToolTooLarge", "TooManyChildren", "TooManyEvents", "UnexpectedAnswer",
    "UnexpectedChildOutput", "UnexpectedHumanAnswer", "UnknownAgent", "UnknownTool", "WaitError", "WaitExhausted",
    "WaitUnavailable",
]

#: The longest code, in characters, as the contract has it.
CODE_CHARS_MAX = 64


class AgentError(Exception):
    """The agent's own account of why it failed.

    ``code`` is for programs, 1 to 64 characters of ``a-z``, ``0-9`` and ``_``: capitals become small, any other character
    becomes ``_``, what is too long is cut, and no code at all becomes ``failed``. ``message`` is for people; the host keeps
    at most 4 KiB. ::

        raise AgentError("no_rows", "weather.csv has a header but no rows")
    """

    def __init__(self, code: str, message: str) -> None:
        kept = "".join(c if c in "abcdefghijklmnopqrstuvwxyz0123456789_" else "_" for c in code[:CODE_CHARS_MAX].lower())
        self.code: str = kept[:CODE_CHARS_MAX] or "failed"
        self.message: str = message
        super().__init__(f"{self.code}: {message}")


class InvalidInput(AgentError):
    """The input is not what the agent takes: say what is wrong, where, and what to do."""

    def __init__(self, message: str) -> None:
        super().__init__("invalid_input", message)


class Denied(AgentError):
    """The host refused something that the agent cannot do without: say what."""

    def __init__(self, message: str) -> None:
        super().__init__("denied", message)


class HostError(Exception):
    """Something that the host refused, or could not do. The run goes on if the author catches it."""

    #: The case's name in the contract, in snake case: ``not_found``, ``denied``, ``conflict``.
    kind: ClassVar[str] = ""
    #: The code that the run fails with if nobody catches this.
    run_code: ClassVar[str] = "failed"
    #: The message, with the place of what the host said.
    _says: ClassVar[str] = "{}"

    #: The class of each case of the contract, by the name that its bindings have.
    _of_binding: ClassVar[dict[str, type[HostError]]] = {}

    def __init_subclass__(cls, binding: str = "", **more: Any) -> None:
        super().__init_subclass__(**more)
        if binding:
            HostError._of_binding[binding] = cls


class _WithText(HostError):
    def __init__(self, text: str) -> None:
        #: What the host said, for a person to read.
        self.text: str = text
        super().__init__(self._says.format(text))


class _WithLimit(HostError):
    def __init__(self, limit: int) -> None:
        #: The limit: how many, or how many bytes.
        self.limit: int = limit
        super().__init__(self._says.format(limit))


class _WithNothing(HostError):
    def __init__(self, _: None = None) -> None:
        super().__init__(self._says)


class _Denied(_WithText):
    kind, run_code, _says = "denied", "denied", "denied: {}"


class _NoHostCallLeft(_WithText):
    kind, run_code = "exhausted", "host_calls_exhausted"


# ---- tools


class ToolError(HostError):
    """Why a tool call came to nothing. Raised by :meth:`Context.call`, and by an author whose own tool cannot do what was
    asked: one of :class:`InvalidArguments`, :class:`NotFound`, :class:`ToolFailed` and so on."""


class UnknownTool(_WithText, ToolError, binding="ToolError_UnknownTool"):
    """There is no such tool. The text names the nearest one."""

    kind, run_code, _says = "unknown_tool", "unknown_tool", "unknown tool: {}"


class ToolDenied(_Denied, ToolError, binding="ToolError_Denied"):
    """This run may not call the tool. The text says what is missing from the needs or the grant."""


class InvalidArguments(_WithText, ToolError, binding="ToolError_InvalidArguments"):
    """The arguments are not what the tool's schema asks. The text says what and where."""

    kind, run_code, _says = "invalid_arguments", "invalid_arguments", "invalid arguments: {}"


class ToolTooLarge(_WithLimit, ToolError, binding="ToolError_TooLarge"):
    """The arguments or the answer are larger than the limit, in bytes."""

    kind, run_code = "too_large", "too_large"
    _says = "the arguments or the answer are larger than {} bytes"


class ToolExhausted(_WithText, ToolError, binding="ToolError_Exhausted"):
    """The run has used up a budget (calls, calls in flight, storage). The text names it with its value."""

    kind, run_code, _says = "exhausted", "exhausted", "budget used up: {}"


class NotFound(_WithText, ToolError, binding="ToolError_NotFound"):
    """The thing asked for does not exist: a missing file, for example."""

    kind, run_code, _says = "not_found", "not_found", "not found: {}"


class ToolFailed(_WithText, ToolError, binding="ToolError_Failed"):
    """The tool ran and failed."""

    kind, run_code, _says = "failed", "tool_failed", "the tool failed: {}"


class OutcomeUnknown(_WithText, ToolError, binding="ToolError_OutcomeUnknown"):
    """The host went away while the tool ran, and the tool is not idempotent. It may have done its work, or some of it, or
    none: look before you call it again."""

    kind, run_code, _says = "outcome_unknown", "outcome_unknown", "nobody knows what the tool did: {}"


class UnexpectedAnswer(_WithText, ToolError):
    """The tool answered, but not with what the caller's type expects. The text says what and where."""

    kind, run_code, _says = "unexpected_answer", "unexpected_answer", "unexpected answer: {}"


# ---- events


class EventError(HostError):
    """Why an event was not recorded. The run may go on."""


class TooManyEvents(_WithLimit, EventError, binding="EventError_TooMany"):
    """The run has emitted as many events as it may (10,000 by default)."""

    kind, run_code, _says = "too_many", "too_many_events", "the run has emitted all of its {} events"


class EventTooLarge(_WithLimit, EventError, binding="EventError_TooLarge"):
    """The text or payload is over the limit in bytes (1 MiB; 8 KiB for a log line)."""

    kind, run_code, _says = "too_large", "event_too_large", "the event is larger than {} bytes"


class EventsFull(_WithLimit, EventError, binding="EventError_Full"):
    """The run's events together, or its log lines, have as many bytes as they may (64 MiB and 16 MiB by default)."""

    kind, run_code = "full", "events_full"
    _says = "the run's events have {} bytes together, which is as many as they may"


class InvalidEvent(_WithText, EventError, binding="EventError_Invalid"):
    """The name or payload is not what it should be. The text says why."""

    kind, run_code, _says = "invalid", "invalid_event", "the event is not valid: {}"


class EventsExhausted(_NoHostCallLeft, EventError, binding="EventError_Exhausted"):
    """The run has made as many host calls as it may. The text says how many."""


# ---- state


class StateError(HostError):
    """Why the user's key-value data could not be read or changed."""


class StateDenied(_Denied, StateError, binding="StateError_Denied"):
    """The plugin did not declare, or the user was not granted, this access to state."""


class InvalidStateRequest(_WithText, StateError, binding="StateError_Invalid"):
    """The key, the time to live or the page size is out of bounds. The text says which."""

    kind, run_code = "invalid", "invalid_state_request"
    _says = "the request for state is not valid: {}"


class StateTooLarge(_WithLimit, StateError, binding="StateError_TooLarge"):
    """The value is over the limit, in bytes."""

    kind, run_code, _says = "too_large", "state_value_too_large", "the value is larger than {} bytes"


class StateFull(_WithLimit, StateError, binding="StateError_Full"):
    """The user's data would be over the limit, in bytes. Delete something first."""

    kind, run_code = "full", "state_full"
    _says = "the user's state is full at {} bytes: delete something first"


class StateConflict(StateError, binding="StateError_Conflict"):
    """``compare_and_swap`` found another version than expected."""

    kind, run_code = "conflict", "state_conflict"

    def __init__(self, current: int | None) -> None:
        #: The version that is there now, or ``None`` if the key is absent.
        self.current: int | None = current
        super().__init__(
            "the key is absent" if current is None else f"the key changed meanwhile and is now at version {current}"
        )


class StateUnavailable(_WithNothing, StateError, binding="StateError_Unavailable"):
    """The host could not reach its storage. Nothing was changed."""

    kind, run_code = "unavailable", "state_unavailable"
    _says = "the host's storage is not available: try again later"


class StateExhausted(_NoHostCallLeft, StateError, binding="StateError_Exhausted"):
    """The run has made as many host calls as it may. The text says how many."""


class StateNotJson(_WithText, StateError):
    """The value is not what the caller's type expects, or cannot be written as JSON. The text says what and where."""

    kind, run_code, _says = "not_json", "state_value_not_json", "the value does not fit: {}"


# ---- waits


class WaitError(HostError):
    """Why a run did not wait."""


class InvalidWait(_WithText, WaitError, binding="WaitError_Invalid"):
    """What was asked is out of bounds. The text says what, and the bounds."""

    kind, run_code, _says = "invalid", "invalid_wait", "the wait is not valid: {}"


class WaitUnavailable(_WithText, WaitError, binding="WaitError_Unavailable"):
    """This run cannot be put away. The text says why."""

    kind, run_code, _says = "unavailable", "wait_unavailable", "the run cannot wait: {}"


class WaitExhausted(_WithText, WaitError, binding="WaitError_Exhausted"):
    """The user has as many runs that wait as may be, or the run has made as many host calls as it may."""

    kind, run_code, _says = "exhausted", "waits_exhausted", "no wait is left: {}"


# ---- questions to people


class AskError(HostError):
    """Why there is no answer to a question."""


class AskDenied(_Denied, AskError, binding="AskError_Denied"):
    """The plugin did not declare, or the user was not granted, questions to people."""


class InvalidQuestion(_WithText, AskError, binding="AskError_Invalid"):
    """The question is not what it should be. The text says what."""

    kind, run_code, _says = "invalid", "invalid_question", "the question is not valid: {}"


class AskExpired(_WithNothing, AskError, binding="AskError_Expired"):
    """Nobody answered in time, and there was no default."""

    kind, run_code, _says = "expired", "question_expired", "nobody answered in time"


class AskUnavailable(_WithText, AskError, binding="AskError_Unavailable"):
    """This run cannot be put away. The text says why."""

    kind, run_code = "unavailable", "question_unavailable"
    _says = "the run cannot wait for an answer: {}"


class AskExhausted(_WithText, AskError, binding="AskError_Exhausted"):
    """The user has as many runs that wait as may be, or the run has made as many host calls as it may."""

    kind, run_code, _says = "exhausted", "questions_exhausted", "no question is left: {}"


class UnexpectedHumanAnswer(_WithText, AskError):
    """The answer fits the question's schema, but not the type that was asked for. The text says what and where."""

    kind, run_code, _says = "unexpected_answer", "unexpected_human_answer", "unexpected answer: {}"


# ---- agents that an agent starts


class SpawnError(HostError):
    """Why a child was not started."""


class SpawnDenied(_Denied, SpawnError, binding="SpawnError_Denied"):
    """The plugin did not declare, or the user was not granted, this agent."""


class UnknownAgent(_WithText, SpawnError, binding="SpawnError_UnknownAgent"):
    """There is no such agent. The text names the nearest one."""

    kind, run_code, _says = "unknown_agent", "unknown_agent", "unknown agent: {}"


class InvalidChild(_WithText, SpawnError, binding="SpawnError_Invalid"):
    """The input or a limit is not what it must be. The text says which."""

    kind, run_code, _says = "invalid", "invalid_child", "the child is not valid: {}"


class TooManyChildren(_WithText, SpawnError, binding="SpawnError_TooMany"):
    """The tree of runs is as deep, or has as many runs, as it may, or what the user's finished runs take that have to stay is
    as much as may be kept. The text says which."""

    kind, run_code, _says = "too_many", "too_many_children", "too many runs: {}"


class SpawnExhausted(_WithText, SpawnError, binding="SpawnError_Exhausted"):
    """The run has made as many host calls as it may. The text says how many."""

    kind, run_code, _says = "exhausted", "children_exhausted", "budget used up: {}"


class SpawnUnavailable(_WithText, SpawnError, binding="SpawnError_Unavailable"):
    """The host takes no new runs. The text says why."""

    kind, run_code, _says = "unavailable", "children_unavailable", "no run can be started: {}"


class ChildError(HostError):
    """Why there is no output of a child. That this run could not wait for it is a :class:`WaitError`."""


class ChildFailed(ChildError):
    """The child failed, or was cancelled."""

    kind, run_code = "failed", "child_failed"

    def __init__(self, stop_reason: str, code: str, message: str) -> None:
        #: Its stop reason: ``guest_error``, ``trap``, ``deadline``, ``cancelled`` and so on.
        self.stop_reason: str = stop_reason
        #: Its error's code, for programs.
        self.code: str = code
        #: For people.
        self.message: str = message
        super().__init__(f"the child ended as {stop_reason} ({code}): {message}")


class UnexpectedChildOutput(_WithText, ChildError):
    """The child gave an output, but not what the caller's type expects. The text says what and where."""

    kind, run_code, _says = "unexpected_output", "unexpected_child_output", "unexpected output of the child: {}"


def of_binding(case: object) -> HostError:
    """The exception for a case of an error of the contract, as the bindings have it."""
    name = type(case).__name__
    value: Any = getattr(case, "value", None)
    if name == "ChildError_Wait":
        # What kept this run from waiting is the same, whatever it waited for.
        return of_binding(value)
    if name == "ChildError_Failed":
        return ChildFailed(value.stop_reason, value.code, value.message)
    return HostError._of_binding[name](value)
