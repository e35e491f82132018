"""A host for tests: modules with the names and types of the bindings, which answer from what a test put in."""

from __future__ import annotations

import sys
import types
import unittest
from dataclasses import make_dataclass
from enum import Enum
from typing import Any


class Err(Exception):
    """As the bindings have it: an error of the contract, as an exception."""

    def __init__(self, value: Any) -> None:
        self.value = value


def _case(module: types.ModuleType, *names: str) -> None:
    for name in names:
        setattr(module, name, make_dataclass(name, ["value"]))


def _bare(module: types.ModuleType, *names: str) -> None:
    for name in names:
        setattr(module, name, make_dataclass(name, []))


class FakeHost:
    """Records every call as ``(interface, function, arguments)``; ``answers`` are given in order, functions are called,
    and an ``Err`` is raised."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.answers: dict[str, list[Any]] = {}
        world = types.ModuleType("wit_world")
        imports = types.ModuleType("wit_world.imports")
        self.modules = {"wit_world": world, "wit_world.imports": imports}
        support = types.ModuleType("componentize_py_types")
        support.Err = Err  # type: ignore[attr-defined]
        self.modules["componentize_py_types"] = support
        functions = {
            "context": ["get", "budget", "sleep_until"],
            "events": ["thinking", "progress", "emit", "log"],
            "tools": ["list", "call", "start"],
            "state": ["get", "set", "delete", "list", "compare_and_swap"],
            "human": ["ask"],
            "agents": ["spawn"],
            "types": [],
            "tool_plugins": [],
        }
        for interface, names in functions.items():
            module = types.ModuleType(f"wit_world.imports.{interface}")
            self.modules[module.__name__] = module
            setattr(self, interface, module)
            for name in names:
                setattr(module, name, self._function(interface, name))
        kinds: Any = self
        kinds.types.Access = Enum("Access", "NONE READ READ_WRITE")
        kinds.types.Needs = make_dataclass("Needs", ["tools", "state", "workspace", "agents", "human", "durable"])
        kinds.types.Tool = make_dataclass("Tool", ["name", "description", "input_schema", "idempotent"])
        tool_cases = ["UnknownTool", "Denied", "InvalidArguments", "TooLarge", "Exhausted", "NotFound", "Failed", "OutcomeUnknown"]
        _case(kinds.types, *(f"ToolError_{case}" for case in tool_cases))
        _case(kinds.types, "WaitError_Invalid", "WaitError_Unavailable", "WaitError_Exhausted")
        kinds.events.Level = Enum("Level", "DEBUG INFO WARN ERROR")
        _case(kinds.events, *(f"EventError_{case}" for case in ("TooMany", "TooLarge", "Invalid", "Full", "Exhausted")))
        kinds.state.Scope = Enum("Scope", "THREAD USER")
        kinds.state.Entry = make_dataclass("Entry", ["value", "version"])
        _case(kinds.state, *(f"StateError_{case}" for case in ("Denied", "Invalid", "TooLarge", "Full", "Conflict", "Exhausted")))
        _bare(kinds.state, "StateError_Unavailable")
        kinds.human.Question = make_dataclass("Question", ["prompt", "schema", "expires_ms", "default"])
        _case(kinds.human, *(f"AskError_{case}" for case in ("Denied", "Invalid", "Unavailable", "Exhausted")))
        _bare(kinds.human, "AskError_Expired")
        spawn_cases = ["Denied", "UnknownAgent", "Invalid", "TooMany", "Exhausted", "Unavailable"]
        _case(kinds.agents, *(f"SpawnError_{case}" for case in spawn_cases), "ChildError_Failed", "ChildError_Wait")
        kinds.agents.ChildLimits = make_dataclass("ChildLimits", ["fuel", "memory_bytes", "deadline_ms"])
        kinds.agents.ChildFailure = make_dataclass("ChildFailure", ["stop_reason", "code", "message"])
        needed = ["name", "version", "description", "input_schema", "output_schema", "needs"]
        kinds.agents.Descriptor = make_dataclass("Descriptor", needed)
        kinds.agents.Failure = make_dataclass("Failure", ["code", "message"])
        _case(kinds.agents, "AgentError_InvalidInput", "AgentError_Denied", "AgentError_Failed")
        kinds.tool_plugins.Descriptor = make_dataclass("Descriptor", ["name", "version", "description", "tools", "needs"])

    def _function(self, interface: str, name: str) -> Any:
        def called(*arguments: Any) -> Any:
            self.calls.append((interface, name, *arguments))
            return self.answer(f"{interface}.{name}", *arguments)

        return called

    def answer(self, function: str, *arguments: Any) -> Any:
        """The next answer of a function."""
        waiting = self.answers.get(function)
        if not waiting:
            return None
        answer = waiting.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer(*arguments) if callable(answer) else answer

    def will(self, function: str, *answers: Any) -> None:
        """What a function answers next."""
        self.answers.setdefault(function, []).extend(answers)


class HostTest(unittest.TestCase):
    """A test with a host of its own."""

    def setUp(self) -> None:
        self.host: Any = FakeHost()
        sys.modules.update(self.host.modules)
        self.addCleanup(self._gone)

    def _gone(self) -> None:
        for name in self.host.modules:
            sys.modules.pop(name, None)

    def refused(self, interface: str, case: str, *value: Any) -> Err:
        """An error of the contract."""
        return Err(getattr(getattr(self.host, interface), case)(*value))
