"""The tool plugin: functions that agents call as ``PLUGIN.TOOL``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, overload

from .agent import Made
from .context import ToolContext
from .needs import Access, AccessLike, access_of

__all__ = ["Tool", "tool"]

A = TypeVar("A")
O = TypeVar("O")

_NAME_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789_-")


class Tool(Made[ToolContext, A, O]):
    """A tool, made by :func:`tool`. It is called as the function that it was made of."""

    def __init__(
        self,
        function: Callable[[ToolContext, A], O],
        *,
        name: str | None,
        description: str | None,
        idempotent: bool,
        state: Access,
        workspace: Access,
    ) -> None:
        super().__init__(function, description)
        #: The tool's own name, without the plugin's.
        self.name: str = function.__name__ if name is None else name
        if not (1 <= len(self.name) <= 64 and _NAME_CHARACTERS.issuperset(self.name)):
            raise ValueError(f"`{self.name}` is no name of a tool: 1 to 64 characters of a-z, 0-9, _ and -; give name=\"...\"")
        #: Whether a second call with the same arguments does no harm.
        self.idempotent: bool = idempotent
        #: The access to the user's state that it asks to be granted.
        self.state: Access = state
        #: The access to the user's files that it asks to be granted.
        self.workspace: Access = workspace


@overload
def tool(function: Callable[[ToolContext, A], O]) -> Tool[A, O]: ...
@overload
def tool(
    *,
    name: str | None = None,
    description: str | None = None,
    idempotent: bool = False,
    state: AccessLike = "none",
    workspace: AccessLike = "none",
) -> Callable[[Callable[[ToolContext, A], O]], Tool[A, O]]: ...


def tool(
    function: Callable[[ToolContext, Any], Any] | None = None,
    *,
    name: str | None = None,
    description: str | None = None,
    idempotent: bool = False,
    state: AccessLike = "none",
    workspace: AccessLike = "none",
) -> Any:
    """Makes a function of a context and its arguments a tool of its module's plugin. ::

        @tool(idempotent=True)
        def count(ctx: ToolContext, text: Text) -> Words:
            \"\"\"Counts the words of a text.\"\"\"
            return Words(len(text.text.split()))

    The type of the arguments, a dataclass as a rule, becomes the JSON Schema that callers see. Arguments of another shape
    are refused as :class:`InvalidArguments` before the function is called. Arguments and answer are at most 1 MiB of JSON.

    ``name`` (1 to 64 characters of ``a-z``, ``0-9``, ``_`` and ``-``) is by default the function's, ``description`` its
    docstring. ``idempotent`` says that a second call with the same arguments does no harm: the tool only looks, or puts
    things in a state that does not depend on what was before, or knows a call that it has seen by its
    :attr:`ToolContext.idempotency_key`. A durable run that was cut off while the tool ran then calls it again; of another
    tool it learns :class:`OutcomeUnknown`.

    ``state`` and ``workspace`` are what the tool asks to be granted; the plugin asks for the widest that its tools name. A
    tool has no ``/scratch``.
    """
    wanted = (access_of("state", state), access_of("workspace", workspace))

    def made(function: Callable[[ToolContext, Any], Any]) -> Tool[Any, Any]:
        return Tool(
            function, name=name, description=description, idempotent=idempotent, state=wanted[0], workspace=wanted[1]
        )

    return made if function is None else made(function)
