"""The agent: what an author writes."""

from __future__ import annotations

import functools
import inspect
import typing
from collections.abc import Callable, Iterable
from typing import Any, Generic, TypeVar, overload

from .context import Context
from .needs import AccessLike, Needs, access_of, names_of
from .shapes import Shape
from .shaping import UnsupportedType, shape_of

__all__ = ["Agent", "agent"]

C = TypeVar("C")
I = TypeVar("I")
O = TypeVar("O")


class Made(Generic[C, I, O]):
    """A function that an author made something of. It is called as the function that it was."""

    def __init__(self, function: Callable[[C, I], O], description: str | None) -> None:
        functools.update_wrapper(self, function)
        self.function: Callable[[C, I], O] = function
        #: What it does, for a person or a model to read: what the author gave, or the function's docstring. At most 4 KiB.
        self.description: str = inspect.cleandoc(description if description is not None else function.__doc__ or "")

    def __call__(self, ctx: C, input: I) -> O:
        return self.function(ctx, input)

    def shapes(self) -> tuple[Shape, Shape]:
        """The shapes of what it takes and gives. Raises :class:`~cofferdam.shaping.UnsupportedType`."""
        return shapes_of(self.function)


class Agent(Made[Context, I, O]):
    """An agent, made by :func:`agent`. It is called as the function that it was made of, which is how its own tests call it.

    The host calls it once for each run, in a fresh sandbox: nothing that a run leaves in memory is there for the next. What
    should last goes to :meth:`Context.state` or to files.
    """

    def __init__(
        self,
        function: Callable[[Context, I], O],
        *,
        description: str | None,
        name: str | None,
        version: str | None,
        needs: Needs,
    ) -> None:
        super().__init__(function, description)
        #: The agent's own name, or ``None`` for the project's.
        self.name: str | None = name
        #: The author's version, or ``None`` for the project's.
        self.version: str | None = version
        #: What it asks to be granted.
        self.needs: Needs = needs


@overload
def agent(function: Callable[[Context, I], O]) -> Agent[I, O]: ...
@overload
def agent(
    *,
    description: str | None = None,
    name: str | None = None,
    version: str | None = None,
    tools: Iterable[str] = (),
    state: AccessLike = "none",
    workspace: AccessLike = "none",
    agents: Iterable[str] = (),
    human: bool = False,
    durable: bool = False,
) -> Callable[[Callable[[Context, I], O]], Agent[I, O]]: ...


def agent(
    function: Callable[[Context, Any], Any] | None = None,
    *,
    description: str | None = None,
    name: str | None = None,
    version: str | None = None,
    tools: Iterable[str] = (),
    state: AccessLike = "none",
    workspace: AccessLike = "none",
    agents: Iterable[str] = (),
    human: bool = False,
    durable: bool = False,
) -> Any:
    """Makes a function of a context and an input the agent of its module. ::

        @agent(tools=["file.read"], state="read_write")
        def run(ctx: Context, input: Input) -> Output:
            \"\"\"Counts the lines of a file.\"\"\"

    The types of input and output, dataclasses as a rule, become the JSON Schema that clients see, with the texts below the
    fields as their descriptions. An input of another shape is refused before the function is called, with the JSON pointer
    of the place.

    ``description``, by default the function's own docstring, says what the agent does, for a person or a model to read, in
    at most 4 KiB. ``name`` and ``version`` are by default those of ``pyproject.toml``. The rest is what the agent asks to be
    granted (see :class:`Needs`): ask for what you use, and no more, for the platform team reads this.
    """
    needs = Needs(
        tools=names_of("tools", tools),
        state=access_of("state", state),
        workspace=access_of("workspace", workspace),
        agents=names_of("agents", agents),
        human=human,
        durable=durable,
    )

    def made(function: Callable[[Context, Any], Any]) -> Agent[Any, Any]:
        return Agent(function, description=description, name=name, version=version, needs=needs)

    return made if function is None else made(function)


def shapes_of(function: Callable[..., Any]) -> tuple[Shape, Shape]:
    """The shapes of what a function of a context and an input takes and gives."""
    code = function.__code__

    def wrong(text: str) -> UnsupportedType:
        return UnsupportedType(f"`{function.__name__}` {text}", code.co_filename, code.co_firstlineno)

    if inspect.iscoroutinefunction(function) or inspect.isgeneratorfunction(function):
        raise wrong("is async or a generator: write it as a plain function; to do several things at once, `ctx.start` them")
    if code.co_argcount != 2 or code.co_kwonlyargcount:
        raise wrong(f"takes {code.co_argcount + code.co_kwonlyargcount} parameters: a context and an input are two")
    try:
        hints = typing.get_type_hints(function, include_extras=True)
    except NameError as why:
        raise wrong(f"is annotated with what is not there: {why}") from None
    parameter = code.co_varnames[1]
    for name in (parameter, "return"):
        if name not in hints:
            shown = "its result" if name == "return" else f"`{name}`"
            raise wrong(f"says no type for {shown}: annotate it, as in `def run(ctx: Context, input: Input) -> Output`")
    shapes = []
    for name in (parameter, "return"):
        try:
            shapes.append(shape_of(hints[name]))
        except UnsupportedType as why:
            if why.line is not None:
                raise
            raise wrong(f"{'gives' if name == 'return' else 'takes'} what JSON has no form for: {why}") from None
    return shapes[0], shapes[1]
