"""From a project's files to a component that describes itself, runs, and says how it failed."""

from __future__ import annotations

import contextlib
import gc
import importlib
import io
import json
import os
import sys
import tempfile
import textwrap
from typing import Any

from cofferdam import component
from cofferdam.building import MARK, BuildError

from .fake_host import Err, HostTest

AGENT = """
    from dataclasses import dataclass
    from cofferdam import Context, agent

    @dataclass
    class Input:
        name: str
        \"\"\"Whom to greet.\"\"\"

    @dataclass
    class Output:
        greeting: str

    @agent(tools=["file.read"], state="read", human=True)
    def run(ctx: Context, input: Input) -> Output:
        \"\"\"Greets.\"\"\"
        {body}
"""

OTHER = "the output is not what the agent says that it gives"
NO_JSON = "the output cannot be written as JSON"

TOOLS = """
    \"\"\"Calculates.\"\"\"
    from dataclasses import dataclass
    from cofferdam import NotFound, ToolContext, ToolFailed, tool

    @dataclass
    class Pair:
        a: int
        b: int

    @tool(idempotent=True, state="read")
    def add(ctx: ToolContext, pair: Pair) -> int:
        \"\"\"Adds.\"\"\"
        return pair.a + pair.b

    @tool(name="divide", description="Divides.", state="read_write")
    def division(ctx: ToolContext, pair: Pair) -> float:
        if pair.a == 0:
            raise NotFound("nothing to divide")
        if pair.a == 1:
            raise ToolFailed("one cannot be divided")
        return pair.a / pair.b
"""


class Built(HostTest):
    def setUp(self) -> None:
        super().setUp()
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name
        sys.path.insert(0, self.folder)
        before = set(sys.modules)
        self.addCleanup(self.forget, before)
        self.addCleanup(gc.unfreeze)
        # `_finish` makes these print line by line, which the test's own are not to do.
        self.errors = io.TextIOWrapper(io.BytesIO())
        self.output = io.TextIOWrapper(io.BytesIO())

    def forget(self, before: set[str]) -> None:
        sys.path.remove(self.folder)
        for name in set(sys.modules) - before:
            file = getattr(sys.modules[name], "__file__", None) or ""
            if file.startswith(self.folder):
                del sys.modules[name]
        importlib.invalidate_caches()

    def file(self, name: str, text: str, **into: str) -> None:
        path = os.path.join(self.folder, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        text = textwrap.dedent(text)
        for key, value in into.items():
            text = text.replace("{" + key + "}", value)
        with open(path, "w", encoding="utf-8") as out:
            out.write(text)
        importlib.invalidate_caches()

    def export(self, how: Any = component.export_agent, module: str = "agent") -> Any:
        with contextlib.redirect_stderr(self.errors), contextlib.redirect_stdout(self.output):
            return how(module, name="greeter", version="1.2.3", source="src")()

    def agent(self, body: str) -> Any:
        self.file("agent.py", AGENT, body=body)
        return self.export()

    def refused(self, *arguments: Any) -> Any:  # type: ignore[override]
        """How a call of an export fails; or an error of the contract, as in the tests of the context."""
        if isinstance(arguments[0], str):
            return super().refused(*arguments)
        with self.assertRaises(Err) as raised, contextlib.redirect_stdout(self.output), contextlib.redirect_stderr(self.errors):
            arguments[0](*arguments[1:])
        return raised.exception.value


class AnAgent(Built):
    def test_says_what_it_takes_gives_and_needs(self) -> None:
        described = self.agent("return Output(f'Hello {input.name}')").describe()
        self.assertEqual((described.name, described.version, described.description), ("greeter", "1.2.3", "Greets."))
        taken = json.loads(described.input_schema)
        self.assertEqual(taken["properties"]["name"]["description"], "Whom to greet.")
        self.assertIs(taken["additionalProperties"], False)
        self.assertEqual(json.loads(described.output_schema)["required"], ["greeting"])
        access = self.host.types.Access
        self.assertEqual(described.needs, self.host.types.Needs(["file.read"], access.READ, access.NONE, [], True, False))

    def test_gives_its_output_as_json(self) -> None:
        self.assertEqual(self.agent("return Output(f'Hello {input.name}')").run('{"name":"Ada"}'), '{"greeting":"Hello Ada"}')

    def test_refuses_an_input_of_the_wrong_shape_with_its_place(self) -> None:
        case = self.refused(self.agent("return Output('x')").run, '{"name":7}')
        self.assertEqual(type(case).__name__, "AgentError_InvalidInput")
        self.assertEqual(case.value, "the input is not valid: at `/name`: expected a string, found 7")

    def test_fails_with_its_own_code_or_with_that_of_what_it_did_not_catch(self) -> None:
        for body, case, told in [
            ("from cofferdam import AgentError; raise AgentError('no_rows', 'none')", "Failed", ("no_rows", "none")),
            ("from cofferdam import InvalidInput; raise InvalidInput('empty')", "InvalidInput", "empty"),
            ("from cofferdam import Denied; raise Denied('no leave')", "Denied", "no leave"),
            ("from cofferdam import NotFound; raise NotFound('a.csv')", "Failed", ("not_found", "not found: a.csv")),
            ("from cofferdam import StateDenied; raise StateDenied('no grant')", "Denied", "no grant"),
            ("return Output(1)", "Failed", ("invalid_output", f"{OTHER}: at `/greeting`: expected a string, got int")),
            ("return None", "Failed", ("invalid_output", f"{OTHER}: expected a Output, got NoneType")),
            ("return Output(chr(0xd800))", "Failed", ("output_not_json", f"{NO_JSON}: a text has half of a surrogate pair, which is no character")),
            ("from cofferdam import AgentError; raise AgentError('x', chr(0xd800))", "Failed", ("x", "\\ud800")),
        ]:
            failed = self.refused(self.agent(body).run, '{"name":"Ada"}')
            self.assertEqual(type(failed).__name__, f"AgentError_{case}", body)
            value = failed.value if case != "Failed" else (failed.value.code, failed.value.message)
            self.assertEqual(value, told)
            sys.modules.pop("agent")

    def test_an_exception_that_it_did_not_catch_names_its_file_and_line(self) -> None:
        self.file("helper.py", "def divide(by):\n    return 1 / by\n")
        built = self.agent("import helper; return Output(str(helper.divide(0)))")
        # As in a run, which has no files.
        os.remove(os.path.join(self.folder, "helper.py"))
        os.remove(os.path.join(self.folder, "agent.py"))
        failed = self.refused(built.run, '{"name":"Ada"}').value
        self.assertEqual(failed.code, "uncaught_exception")
        lines = failed.message.splitlines()
        self.assertEqual(lines[0], "ZeroDivisionError: division by zero, at src/helper.py line 2")
        self.assertIn('  File "src/agent.py", line 17, in run', lines)
        self.assertIn('  File "src/helper.py", line 2, in divide', lines)
        self.assertIn("    return 1 / by", lines)
        self.assertNotIn("component.py", failed.message)

    def test_ends_as_an_error_and_no_trap_however_it_ends(self) -> None:
        for body, told in [
            ("raise SystemExit(3)", "SystemExit: 3"),
            ("raise KeyboardInterrupt", "KeyboardInterrupt"),
            ("__import__('not_' + 'there')", "No module named 'not_there', at src/agent.py line 17; a run has no files to import from"),
            ("f = lambda n: f(n + 1); return f(0)", "RecursionError"),
            ("raise ValueError('x' * 100_000)", "ValueError: xxx"),
            ("raise ValueError(chr(0xd800))", "\\ud800"),
        ]:
            failed = self.refused(self.agent(body).run, '{"name":"Ada"}').value
            self.assertEqual(failed.code, "uncaught_exception")
            self.assertIn(told, failed.message)
            self.assertLessEqual(len(failed.message.encode()), 4096)
            self.assertIn("line 17", failed.message)
            sys.modules.pop("agent")

    def test_has_other_random_numbers_in_each_run(self) -> None:
        built = self.agent("import random; return Output(str(random.random()))")
        import random

        random.seed(1)
        first = built.run('{"name":"Ada"}')
        random.seed(1)
        self.assertNotEqual(built.run('{"name":"Ada"}'), first)


class AToolPlugin(Built):
    def setUp(self) -> None:
        super().setUp()
        self.file("agent.py", TOOLS)
        self.plugin = self.export(component.export_tool)

    def test_lists_its_tools_and_asks_for_the_widest_of_what_they_need(self) -> None:
        described = self.plugin.describe()
        self.assertEqual((described.name, described.version, described.description), ("greeter", "1.2.3", "Calculates."))
        listed = [(tool.name, tool.description, tool.idempotent) for tool in described.tools]
        self.assertEqual(listed, [("add", "Adds.", True), ("divide", "Divides.", False)])
        self.assertEqual(json.loads(described.tools[0].input_schema)["required"], ["a", "b"])
        access = self.host.types.Access
        self.assertEqual(described.needs, self.host.types.Needs([], access.READ_WRITE, access.NONE, [], False, False))

    def test_answers_calls_and_says_why_not(self) -> None:
        self.assertEqual(self.plugin.call("add", '{"a":1,"b":2}'), "3")
        for name, arguments, case, told in [
            ("add", '{"a":1,"b":"2"}', "InvalidArguments", 'at `/b`: expected an integer, found "2"'),
            ("subtract", "{}", "UnknownTool", "`subtract`; the plugin has add, divide"),
            ("divide", '{"a":0,"b":1}', "NotFound", "nothing to divide"),
            ("divide", '{"a":1,"b":1}', "Failed", "one cannot be divided"),
        ]:
            found = self.refused(self.plugin.call, name, arguments)
            self.assertEqual((type(found).__name__, found.value), (f"ToolError_{case}", told))
        found = self.refused(self.plugin.call, "divide", '{"a":2,"b":0}')
        self.assertEqual(type(found).__name__, "ToolError_Failed")
        self.assertIn("ZeroDivisionError: division by zero, at src/agent.py line 22", found.value)


class ABuild(Built):
    def error(self, how: Any = component.export_agent, module: str = "agent") -> BuildError:
        with self.assertRaises(BuildError) as raised:
            self.export(how, module)
        self.errors.seek(0)
        lines = [line for line in self.errors.read().splitlines() if line.startswith(MARK)]
        told = json.loads(lines[-1].removeprefix(MARK))
        error = raised.exception
        expected = {"kind": error.kind, "file": error.file, "line": error.line, "message": error.message}
        self.assertEqual(told, expected)
        sys.modules.pop("agent", None)
        return error

    def test_says_file_line_and_what_to_do(self) -> None:
        good = textwrap.dedent(AGENT).replace("{body}", "return Output('x')")
        for text, kind, line, told in [
            ("def f(:\n    pass\n", "syntax", 1, "invalid syntax"),
            ("import os\nimport numpy_is_not_here\n", "import", 2, "`dependencies` of pyproject.toml"),
            ("x = 1\n", "agent", None, "put `@agent(...)` above"),
            (good + "\n@agent\ndef other(ctx: Context, input: Input) -> Output:\n    return Output('y')\n", "agent", 19, "2 agents"),
            (good.replace("name: str", "name: set"), "type", 7, "Input.name: `set` has no JSON Schema"),
            (good.replace("input: Input", "input"), "type", 14, "says no type for `input`"),
            (good.replace(" -> Output", ""), "type", 14, "says no type for its result"),
            (good.replace("-> Output", "-> Outptu"), None, None, "Outptu"),
            (good.replace("def run", "async def run"), "type", 14, "plain function"),
            (good.replace("ctx: Context, ", ""), "type", 14, "two"),
            (good.replace('state="read"', 'state="all"'), "exception", 14, '"read_write"'),
            (good.replace("return Output('x')", "import not_here_either"), "import", 17, "not_here_either"),
            ("1 / 0\n", "exception", 1, "ZeroDivisionError: division by zero, while the module was imported"),
            (textwrap.dedent(TOOLS), "agent", None, 'world = "tool"'),
        ]:
            self.file("agent.py", text)
            error = self.error()
            self.assertIn(told, error.message)
            if kind is not None:
                self.assertEqual((error.kind, error.file, error.line), (kind, "src/agent.py", line), error)

    def test_says_it_of_tools_too(self) -> None:
        tools = textwrap.dedent(TOOLS)
        for text, told in [
            ("x = 1\n", "put `@tool` above"),
            (tools.replace('name="divide"', 'name="add"'), "two tools are called `add`"),
            (tools.replace('name="divide"', 'name="Divide it"'), "no name of a tool"),
            (textwrap.dedent(AGENT).replace("{body}", "return Output('x')"), 'world = "agent"'),
        ]:
            self.file("agent.py", text)
            self.assertIn(told, self.error(component.export_tool).message)

    def test_names_the_module_that_is_not_there(self) -> None:
        error = self.error(module="agnet")
        self.assertEqual((error.kind, error.file), ("import", None))
        self.assertIn("there is no module `agnet` in src", error.message)

    def test_an_error_in_a_module_that_the_agent_imports_is_told_where_it_is(self) -> None:
        self.file("pack/__init__.py", "")
        self.file("pack/inner.py", "x = 1\nraise ValueError('bad table')\n")
        self.file("agent.py", "import pack.inner\n")
        error = self.error()
        self.assertEqual((error.kind, error.file, error.line), ("exception", "src/pack/inner.py", 2))

    def test_imports_what_functions_would_import_and_leaves_what_a_try_is_around(self) -> None:
        self.file("pack/__init__.py", "")
        self.file("pack/late.py", "def g():\n    from . import later\n")
        self.file("pack/later.py", "value = 1\n")
        body = "import pack.late\n    try:\n        import surely_not_here\n    except ImportError:\n        pass\n    return Output('x')"
        self.agent(body)
        self.assertIn("pack.later", sys.modules)
        self.assertIn("_strptime", sys.modules)

    def test_an_agent_in_a_package_is_found(self) -> None:
        self.file("pack/__init__.py", "")
        self.file("pack/inner.py", AGENT, body="return Output(str(1 / 0))")
        built = self.export(module="pack.inner")
        failed = self.refused(built.run, '{"name":"Ada"}').value
        self.assertIn("at src/pack/inner.py line 17", failed.message)
