"""Write agents and tool plugins for Cofferdam in Python.

An **agent** takes a JSON input, works, and gives a JSON output. It runs for one user, in a sandbox of its own, and
everything it does to the world outside goes through its :class:`Context`: tools, events, the user's state, questions to
people, and agents that it starts. ::

    import io
    from dataclasses import dataclass

    from cofferdam import Context, Scope, agent


    @dataclass
    class Input:
        path: str
        \"\"\"The file to count, in the user's workspace.\"\"\"


    @dataclass
    class Output:
        lines: int
        times: int
        \"\"\"How often this file was counted, this time included.\"\"\"


    @agent(tools=["file.read"], state="read_write")
    def run(ctx: Context, input: Input) -> Output:
        \"\"\"Counts the lines of a file.\"\"\"
        ctx.thinking(f"Counting the lines of {input.path}")
        lines = len(io.StringIO(ctx.files.read_text(input.path)).readlines())
        state = ctx.state(Scope.USER)
        stored = state.get_json("times", int)
        times = (stored.value if stored else 0) + 1
        state.set_json("times", times)
        return Output(lines, times)

A **tool plugin** offers tools to agents: see :func:`tool`.

What a plugin can reach is its context and, of the standard library, what needs no socket, process, thread or C library of
the system: the time, random numbers, standard output and error (each line becomes a ``log`` event), and of files
``/scratch``, which starts empty and goes with the run, and ``/workspace``, if the agent asks for it and the user was granted
it. Modules are imported when the component is built; a run has no files to import from.
"""

from .agent import Agent, agent
from .calls import Pending, ToolInfo
from .children import Child
from .context import BudgetLeft, Context, Level, ToolContext
from .errors import *  # noqa: F403
from .errors import __all__ as _errors
from .files import CHUNK_BYTES_MAX, Chunk, Entry, Files, Listing
from .needs import Access, Needs
from .shapes import Length, Range
from .state import Scope, State, Stored
from .tool_plugin import Tool, tool

__all__ = [
    "CHUNK_BYTES_MAX", "Access", "Agent", "BudgetLeft", "Child", "Chunk", "Context", "Entry", "Files", "Length", "Level",
    "Listing", "Needs", "Pending", "Range", "Scope", "State", "Stored", "Tool", "ToolContext", "ToolInfo", "agent", "tool",
]
__all__ += _errors
