"""From an author's module to a component: what the entry module of a build calls. Not for authors.

``cofferdam build`` writes an entry module of three lines, such as ::

    from cofferdam.component import export_agent

    WitWorld = export_agent("agent", name="line-count", version="0.1.0", source="src")

componentize-py imports it, and keeps the interpreter as it is after that. So what is done here is done once, when the
component is built: the author's module is imported, its types are checked and described, and what can only be imported
now is imported. A run begins where this ends.
"""

from __future__ import annotations

import gc
import importlib
import sys
from typing import Any, NoReturn

from . import building, uncaught
from .agent import Agent
from .building import Project
from .context import Context, ToolContext
from .errors import AgentError, Denied, HostError, InvalidInput, ToolError
from .host import interface
from .needs import Access, Needs, widest
from .shapes import Shape
from .text import Misfit, NotJson, dump_json, parse_json
from .tool_plugin import Tool

__all__ = ["export_agent", "export_tool"]

_AGENT_INTERFACES = ("agents", "context", "events", "human", "state", "tools", "types")
#: The tools of a plugin by name, each with the shapes of its arguments and its answer.
Tools = dict[str, tuple[Tool[Any, Any], tuple[Shape, Shape]]]

_TOOL_INTERFACES = ("context", "events", "state", "tool_plugins", "types")


def export_agent(module: str, *, name: str, version: str, source: str = "") -> type:
    """The world ``agent``, answered by the :class:`Agent` of a module. ``source`` is the folder that the module is in, as
    the author calls it. Raises :class:`~cofferdam.building.BuildError`, after saying it on standard error for ``cofferdam
    build`` to read.
    """
    with building.reporting():
        project = Project(module, source)
        agent = building.only_agent(project, project.imported())
        shapes = agent.shapes()
        described = _described_agent(agent, shapes, name, version)
        _finish(project, _AGENT_INTERFACES)

    class WitWorld:
        def describe(self) -> Any:
            return described

        def run(self, input: str) -> str:
            return _answer(project, _run_agent, agent, shapes, input)

    return WitWorld


def export_tool(module: str, *, name: str, version: str, source: str = "") -> type:
    """The world ``tool``, answered by the :class:`Tool` functions of a module. Otherwise as :func:`export_agent`."""
    with building.reporting():
        project = Project(module, source)
        imported = project.imported()
        tools = {tool.name: (tool, tool.shapes()) for tool in building.all_tools(project, imported)}
        described = _described_plugin(imported, tools, name, version)
        _finish(project, _TOOL_INTERFACES)

    class WitWorld:
        def describe(self) -> Any:
            return described

        def call(self, name: str, arguments: str) -> str:
            return _answer(project, _call_tool, tools, name, arguments)

    return WitWorld


def _finish(project: Project, interfaces: tuple[str, ...]) -> None:
    """What must be done while modules can still be imported, and what every run would otherwise do again."""
    for each in interfaces:
        interface(each)
    importlib.import_module("componentize_py_types")
    project.import_the_rest()
    if sys.platform == "wasi":
        _take_sockets_away()
    uncaught.remember_sources(project)
    for stream in (sys.stdout, sys.stderr):
        # A line becomes a log event when it is printed, in its place among the other events.
        stream.reconfigure(encoding="utf-8", errors="backslashreplace", line_buffering=True)  # type: ignore[union-attr]
    # What is here now stays: runs need not look through it for garbage.
    gc.collect()
    gc.freeze()


def _take_sockets_away() -> None:
    """Where the C library would trap, the author gets an exception, with a line."""

    def refuse(*_: Any, **__: Any) -> NoReturn:
        raise PermissionError("a component has no sockets: what is outside is reached by tools, with `ctx.call`")

    socket: Any = sys.modules.get("socket")
    if socket is not None:
        socket.socket.__init__ = refuse
        for name in ("create_connection", "create_server", "getaddrinfo", "gethostbyname", "gethostname", "socketpair"):
            if hasattr(socket, name):
                setattr(socket, name, refuse)


def _access(access: Access) -> Any:
    return getattr(interface("types").Access, access.name)


def _needs(needs: Needs) -> Any:
    return interface("types").Needs(
        tools=list(needs.tools),
        state=_access(needs.state),
        workspace=_access(needs.workspace),
        agents=list(needs.agents),
        human=needs.human,
        durable=needs.durable,
    )


def _described_agent(agent: Agent[Any, Any], shapes: tuple[Shape, Shape], name: str, version: str) -> Any:
    return interface("agents").Descriptor(
        name=agent.name or name,
        version=agent.version or version,
        description=agent.description,
        input_schema=dump_json(shapes[0].document()),
        output_schema=dump_json(shapes[1].document(output=True)),
        needs=_needs(agent.needs),
    )


def _described_plugin(module: Any, tools: Tools, name: str, version: str) -> Any:
    listed = [
        interface("types").Tool(tool.name, tool.description, dump_json(shapes[0].document()), tool.idempotent)
        for tool, shapes in tools.values()
    ]
    wanted = Needs(
        state=widest(tool.state for tool, _ in tools.values()),
        workspace=widest(tool.workspace for tool, _ in tools.values()),
    )
    return interface("tool_plugins").Descriptor(name, version, (module.__doc__ or "").strip(), listed, _needs(wanted))


def _answer(project: Project, answer: Any, *arguments: Any) -> str:
    """Runs it, and says every way in which it can fail as the contract has it."""
    random = sys.modules.get("random")
    if random is not None:
        # Its state was made when the component was built, and would be the same in every run.
        random.seed()
    try:
        return answer(*arguments)
    except uncaught.bindings_error():
        raise
    except BaseException as error:
        raise _refusal(project, answer is _run_agent, error) from None
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def _run_agent(agent: Agent[Any, Any], shapes: tuple[Shape, Shape], text: str) -> str:
    try:
        input = parse_json(text, shapes[0], strict=True)
    except Misfit as why:
        raise InvalidInput(f"the input is not valid: {why}") from None
    output = agent.function(Context(), input)
    try:
        return dump_json(shapes[1].write(output, ""))
    except NotJson as why:
        raise AgentError("output_not_json", f"the output cannot be written as JSON: {why}") from None
    except Misfit as why:
        raise AgentError("invalid_output", f"the output is not what the agent says that it gives: {why}") from None


def _call_tool(tools: Tools, name: str, text: str) -> str:
    types = interface("types")
    if name not in tools:
        _refuse(types.ToolError_UnknownTool(f"`{name}`; the plugin has {', '.join(tools)}"))
    tool, shapes = tools[name]
    try:
        arguments = parse_json(text, shapes[0], strict=True)
    except Misfit as why:
        _refuse(types.ToolError_InvalidArguments(str(why)))
    answer = tool.function(ToolContext(), arguments)
    try:
        return dump_json(shapes[1].write(answer, ""))
    except Misfit as why:
        _refuse(types.ToolError_Failed(f"the answer is not what the tool says that it gives: {why}"))


def _refuse(case: Any) -> NoReturn:
    raise uncaught.bindings_error()(case)


def _refusal(project: Project, of_agent: bool, error: BaseException) -> Exception:
    """An exception as the error of the contract that it is told as."""
    case = _agent_case(project, error) if of_agent else _tool_case(project, error)
    return uncaught.bindings_error()(case)


def _agent_case(project: Project, error: BaseException) -> Any:
    agents = interface("agents")
    if isinstance(error, InvalidInput):
        return agents.AgentError_InvalidInput(_clean(error.message))
    if isinstance(error, Denied):
        return agents.AgentError_Denied(_clean(error.message))
    if isinstance(error, AgentError):
        return agents.AgentError_Failed(agents.Failure(error.code, _clean(error.message)))
    if isinstance(error, HostError):
        if error.kind == "denied":
            return agents.AgentError_Denied(_clean(str(getattr(error, "text", error))))
        Context().debug(f"{type(error).__name__} was not caught, {uncaught.place(project, error)}")
        return agents.AgentError_Failed(agents.Failure(error.run_code, _clean(str(error))))
    return agents.AgentError_Failed(agents.Failure("uncaught_exception", uncaught.account(project, error)))


def _tool_case(project: Project, error: BaseException) -> Any:
    types = interface("types")
    if isinstance(error, ToolError):
        case = getattr(types, f"ToolError_{''.join(part.capitalize() for part in error.kind.split('_'))}", None)
        # An answer has no such case for its own caller: there it is the tool that failed.
        if case is None:
            return types.ToolError_Failed(_clean(str(error)))
        limit = getattr(error, "limit", None)
        return case(_clean(getattr(error, "text", "")) if limit is None else limit)
    if isinstance(error, InvalidInput):
        return types.ToolError_InvalidArguments(_clean(error.message))
    if isinstance(error, Denied):
        return types.ToolError_Denied(_clean(error.message))
    if isinstance(error, HostError):
        if error.kind == "denied":
            return types.ToolError_Denied(_clean(str(getattr(error, "text", error))))
        return types.ToolError_Failed(_clean(str(error)))
    if isinstance(error, AgentError):
        return types.ToolError_Failed(_clean(str(error)))
    return types.ToolError_Failed(uncaught.account(project, error))


def _clean(text: str) -> str:
    """A text that the host can be handed, whatever the author put in."""
    return str(text).encode("utf-8", "backslashreplace").decode()
