"""What a build does with the author's module: finds it, imports it, finds the agent or the tools in it, and imports what a
run could not import any more. Not for authors."""

from __future__ import annotations

import ast
import contextlib
import importlib
import importlib.util
import json
import os
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any, Final

from .agent import Agent
from .shaping import UnsupportedType
from .tool_plugin import Tool

__all__ = ["BuildError", "Project", "all_tools", "only_agent", "reporting"]

#: How the line begins by which ``cofferdam build`` learns what is wrong: JSON follows, with `kind`, `message`, and `file`
#: and `line` where they are known.
MARK: Final = "cofferdam-build-error "

#: What the standard library imports when it is used and not before. A run has no files to import them from.
_IMPORTED_LATE: Final = (
    "_strptime", "bisect", "calendar", "encodings.ascii", "encodings.cp1252", "encodings.cp437", "encodings.idna",
    "encodings.iso8859_15", "encodings.latin_1", "encodings.punycode", "encodings.raw_unicode_escape",
    "encodings.unicode_escape", "encodings.utf_16", "encodings.utf_16_be", "encodings.utf_16_le", "encodings.utf_32",
    "encodings.utf_32_be", "encodings.utf_32_le", "encodings.utf_8_sig", "linecache", "locale", "traceback", "unicodedata",
)

_STANDARD: Final = frozenset(sys.stdlib_module_names)

#: What the build brings.
_OURS: Final = frozenset(
    {"cofferdam", "componentize_py_async_support", "componentize_py_types", "poll_loop", "wit_world"}
)


class BuildError(Exception):
    """The component cannot be built. ``kind`` is for programs: ``syntax``, ``import``, ``agent``, ``type`` or
    ``exception``. ``file`` (as the author calls it) and ``line`` are where, if that is known."""

    def __init__(self, kind: str, message: str, file: str | None = None, line: int | None = None) -> None:
        self.kind, self.message, self.file, self.line = kind, message, file, line
        place = "" if file is None else f"{file}:{line}: " if line else f"{file}: "
        super().__init__(place + message)


@contextlib.contextmanager
def reporting() -> Iterator[None]:
    """Says what is wrong with the author's code, for a program to read and then for a person."""
    try:
        yield
    except BuildError as error:
        report = {"kind": error.kind, "file": error.file, "line": error.line, "message": error.message}
        print(MARK + json.dumps(report), file=sys.stderr, flush=True)
        raise error.with_traceback(None) from None


class Project:
    """The author's module and those beside it."""

    def __init__(self, module: str, source: str) -> None:
        try:
            spec = importlib.util.find_spec(module)
        except ImportError as why:
            raise BuildError("import", f"there is no module `{module}`: {why}") from None
        if spec is None or spec.origin is None:
            where = source or "the project"
            raise BuildError(
                "import",
                f"there is no module `{module}` in {where}: `module` in [tool.cofferdam] of pyproject.toml names it",
            )
        self.module: str = module
        self.source: str = source.strip("/").removeprefix("./")
        # `/1/pack/agent.py` of `pack.agent` lies below `/1`.
        up = module.count(".") + (2 if os.path.basename(spec.origin) == "__init__.py" else 1)
        base = spec.origin
        for _ in range(up):
            base = os.path.dirname(base)
        #: Where the build sees the source folder.
        self.base: str = base

    def shown(self, path: str) -> str:
        """A file as the author calls it."""
        if path.startswith(self.base + "/"):
            inner = path[len(self.base) + 1 :]
            return f"{self.source}/{inner}" if self.source else inner
        return path

    def has(self, path: str | None) -> bool:
        """Whether a file is the author's own."""
        return path is not None and path.startswith(self.base + "/")

    def imported(self) -> ModuleType:
        """The author's module. Raises :class:`BuildError` for all that can be wrong with it."""
        return self._import(self.module)

    def _import(self, name: str) -> ModuleType:
        try:
            return importlib.import_module(name)
        except SyntaxError as error:
            raise BuildError("syntax", error.msg or "invalid syntax", *self._syntax_place(error)) from None
        except UnsupportedType as error:
            raise self.unsupported(error) from None
        except ImportError as error:
            raise BuildError("import", _missing(error), *self._place(error)) from None
        except BaseException as error:
            message = f"{type(error).__name__}: {error}, while the module was imported"
            raise BuildError("exception", message, *self._place(error)) from None

    def unsupported(self, error: UnsupportedType) -> BuildError:
        """A type that JSON does not have."""
        return BuildError("type", str(error), None if error.file is None else self.shown(error.file), error.line)

    def _syntax_place(self, error: SyntaxError) -> tuple[str | None, int | None]:
        return (None if error.filename is None else self.shown(error.filename)), error.lineno

    def _place(self, error: BaseException) -> tuple[str | None, int | None]:
        """The innermost line of the author's own code that an error came through."""
        found: tuple[str | None, int | None] = (None, None)
        traceback = error.__traceback__
        while traceback is not None:
            file = traceback.tb_frame.f_code.co_filename
            if self.has(file):
                found = self.shown(file), traceback.tb_lineno
            traceback = traceback.tb_next
        return found

    def modules(self) -> list[tuple[str, str]]:
        """The modules that are not of the standard library, by name and file."""
        found = []
        for name, module in list(sys.modules.items()):
            file = getattr(module, "__file__", None)
            if file and file.endswith(".py") and name.partition(".")[0] not in _STANDARD | _OURS:
                found.append((name, file))
        return found

    def import_the_rest(self) -> None:
        """Imports what functions of the author and of the packages would import when they run: there are no files then.

        In the author's own code, what is not there is an error, unless the import stands in a ``try``. Raises
        :class:`BuildError`.
        """
        for name in _IMPORTED_LATE:
            importlib.import_module(name)
        done: set[str] = set()
        while True:
            fresh = [(name, file) for name, file in self.modules() if name not in done and name != "cofferdam_entry"]
            if not fresh:
                return
            for name, file in fresh:
                done.add(name)
                for wanted, line, guarded in _late_imports(name, file):
                    try:
                        importlib.import_module(wanted)
                    except ImportError as error:
                        if self.has(file) and not guarded and (error.name is None or wanted.startswith(error.name)):
                            raise BuildError("import", _missing(error), self.shown(file), line) from None
                    except Exception as error:
                        if self.has(file) and not guarded:
                            message = f"{type(error).__name__}: {error}, while `{wanted}` was imported"
                            raise BuildError("exception", message, self.shown(file), line) from None


def _missing(error: ImportError) -> str:
    top = (error.name or "").partition(".")[0]
    if not isinstance(error, ModuleNotFoundError) or not top:
        return str(error)
    if top in _STANDARD:
        return f"{error}: the standard library of a component has no `{error.name}` (no sockets, no processes, no C libraries)"
    return (
        f"{error}: a module of your own belongs into the source folder; a package into `dependencies` of pyproject.toml, if "
        "it is pure Python (one with C extensions does not run in a component)"
    )


def _late_imports(name: str, file: str) -> list[tuple[str, int, bool]]:
    """The imports within a module's functions: the module that is wanted, the line, and whether a ``try`` is around."""
    try:
        with open(file, "rb") as source:
            tree = ast.parse(source.read())
    except (OSError, SyntaxError, ValueError):
        return []
    package = name if os.path.basename(file) == "__init__.py" else name.rpartition(".")[0]
    found: list[tuple[str, int, bool]] = []

    def walk(node: ast.AST, within: bool, guarded: bool) -> None:
        if within and isinstance(node, ast.Import):
            found.extend((alias.name, node.lineno, guarded) for alias in node.names)
        elif within and isinstance(node, ast.ImportFrom):
            wanted = node.module or ""
            if node.level:
                parts = package.split(".")
                parent = ".".join(parts[: len(parts) - node.level + 1])
                wanted = f"{parent}.{wanted}".strip(".")
            if wanted and wanted != "__future__":
                found.append((wanted, node.lineno, guarded))
                # What is imported from a package may be a module of it, or something in it: nobody knows from here.
                found.extend((f"{wanted}.{alias.name}", node.lineno, True) for alias in node.names if alias.name != "*")
        within = within or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        guarded = guarded or isinstance(node, ast.Try)
        for child in ast.iter_child_nodes(node):
            walk(child, within, guarded)

    walk(tree, False, False)
    return found


def _of_kind(module: ModuleType, kind: type) -> list[Any]:
    """What a module has of a kind, in the order in which it was put there, each once."""
    found: dict[int, Any] = {}
    for value in vars(module).values():
        if isinstance(value, kind):
            found.setdefault(id(value), value)
    return list(found.values())


def only_agent(project: Project, module: ModuleType) -> Agent[Any, Any]:
    """The one agent of a module, with types that JSON has. Raises :class:`BuildError`."""
    found = _of_kind(module, Agent)
    file = project.shown(module.__file__ or "")
    if not found:
        hint = "it has tools: set world = \"tool\" in [tool.cofferdam]" if _of_kind(module, Tool) else (
            "put `@agent(...)` above the function that does the work, `def run(ctx: Context, input: Input) -> Output`"
        )
        raise BuildError("agent", f"there is no agent in this module: {hint}", file)
    if len(found) > 1:
        names = ", ".join(f"`{agent.function.__name__}`" for agent in found)
        line = found[1].function.__code__.co_firstlineno
        raise BuildError("agent", f"there are {len(found)} agents in this module ({names}): a component is one", file, line)
    _check(project, found[0])
    return found[0]


def all_tools(project: Project, module: ModuleType) -> list[Tool[Any, Any]]:
    """The tools of a module, 1 to 64, with types that JSON has. Raises :class:`BuildError`."""
    found = _of_kind(module, Tool)
    file = project.shown(module.__file__ or "")
    if not found:
        hint = "it has an agent: set world = \"agent\" in [tool.cofferdam]" if _of_kind(module, Agent) else (
            "put `@tool` above each function that is one, `def count(ctx: ToolContext, arguments: Text) -> Words`"
        )
        raise BuildError("agent", f"there are no tools in this module: {hint}", file)
    names: set[str] = set()
    for tool in found:
        if tool.name in names:
            line = tool.function.__code__.co_firstlineno
            raise BuildError("agent", f"two tools are called `{tool.name}`", file, line)
        names.add(tool.name)
        _check(project, tool)
    return found


def _check(project: Project, made: Any) -> None:
    try:
        made.shapes()
    except UnsupportedType as error:
        raise project.unsupported(error) from None
