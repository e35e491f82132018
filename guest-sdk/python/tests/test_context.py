"""What an agent asks of its host: the calls that are made, and what is made of their answers."""

from __future__ import annotations

import json
import sys
import types
import unittest
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any

import cofferdam
from cofferdam import Context, Scope, ToolContext
from cofferdam.host import U64_MAX

from .fake_host import HostTest


@dataclass
class Converted:
    value: float
    unit: str = "km"


@dataclass
class Decision:
    approved: bool
    """Whether it may be."""


class Handle:
    """A call under way, or a child, as the bindings have them."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.done: list[str] = []

    def _next(self) -> Any:
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def ready(self) -> bool:
        return True

    def id(self) -> str:
        self.done.append("id")
        return "run_1"

    def cancel(self) -> None:
        self.done.append("cancel")

    def __exit__(self, *_: object) -> None:
        self.done.append("dropped")


class PendingHandle(Handle):
    @classmethod
    def wait(cls, call: PendingHandle) -> Any:
        return call._next()


class ChildHandle(Handle):
    def wait(self) -> Any:
        return self._next()


class Identity(HostTest):
    def test_who_the_run_is_for_is_asked_once(self) -> None:
        info = types.SimpleNamespace(
            user_id="ann", request_id="req_1", run_id="run_1", parent_run_id=None, thread_id="thr_1", session_id=None,
            metadata='{"a":1}', idempotency_key=None,
        )
        self.host.will("context.get", info)
        ctx = Context()
        self.assertEqual((ctx.user_id, ctx.request_id, ctx.run_id, ctx.parent_run_id), ("ann", "req_1", "run_1", None))
        self.assertEqual((ctx.thread_id, ctx.session_id, ctx.idempotency_key), ("thr_1", None, None))
        self.assertEqual(ctx.metadata(), {"a": 1})
        with self.assertRaises(cofferdam.InvalidInput) as raised:
            ctx.metadata(Converted)
        self.assertIn("metadata are not valid: missing field `value`", str(raised.exception))
        self.assertEqual(self.host.calls, [("context", "get")])

    def test_budget_and_deadline(self) -> None:
        left = types.SimpleNamespace(fuel=1, memory_bytes=2, wall_ms=60_000, tool_calls=3, events=4, host_calls=5)
        self.host.will("context.budget", left, left)
        self.assertEqual(ToolContext().budget(), cofferdam.BudgetLeft(1, 2, 60_000, 3, 4, 5))
        ahead = Context().deadline() - datetime.now(timezone.utc)
        self.assertTrue(timedelta(seconds=59) < ahead <= timedelta(seconds=60), ahead)

    def test_waits_are_never_over_before_their_time(self) -> None:
        ctx = Context()
        ctx.sleep_until(datetime(1970, 1, 1, 0, 0, 0, 7_001, tzinfo=timezone.utc))
        ctx.sleep_until(0.0015)
        ctx.sleep_until(-5)
        ctx.sleep_until(1e300)
        self.assertEqual([call[2] for call in self.host.calls], [8, 2, 0, 86_400_000_000_000_000_000 // 1_000])
        with self.assertRaises(ValueError):
            ctx.sleep_until(datetime(2030, 1, 1))
        self.host.calls.clear()
        ctx.sleep(timedelta.max)
        self.assertEqual(self.host.calls, [("context", "sleep_until", U64_MAX)])
        self.host.will("context.sleep_until", self.refused("types", "WaitError_Unavailable", "it used /workspace"))
        with self.assertRaises(cofferdam.WaitUnavailable) as raised:
            ctx.sleep(1)
        self.assertEqual(str(raised.exception), "the run cannot wait: it used /workspace")


class Events(HostTest):
    def test_events_are_handed_to_the_host_as_they_are(self) -> None:
        ctx = ToolContext()
        ctx.thinking("Thinking")
        ctx.progress(1, "done")
        ctx.emit("table", {"rows": 2, "of": Converted(1.5)})
        ctx.partial_result([1])
        ctx.log(cofferdam.Level.WARN, "odd")
        ctx.info("fine")
        level = self.host.events.Level
        self.assertEqual(
            self.host.calls,
            [
                ("events", "thinking", "Thinking"),
                ("events", "progress", 1.0, "done"),
                ("events", "emit", "table", '{"rows":2,"of":{"value":1.5,"unit":"km"}}'),
                ("events", "emit", "partial-result", "[1]"),
                ("events", "log", level.WARN, "odd"),
                ("events", "log", level.INFO, "fine"),
            ],
        )

    def test_what_cannot_be_recorded_is_told_but_for_lines_that_may_be_lost(self) -> None:
        ctx = ToolContext()
        self.host.will("events.log", *[self.refused("events", "EventError_TooLarge", 8192) for _ in range(2)])
        ctx.error("x" * 9000)
        with self.assertRaises(cofferdam.EventTooLarge) as raised:
            ctx.log(cofferdam.Level.ERROR, "x" * 9000)
        self.assertEqual((raised.exception.limit, raised.exception.kind), (8192, "too_large"))

    def test_what_is_no_json_or_no_text_never_reaches_the_host(self) -> None:
        ctx = ToolContext()
        for call in (lambda: ctx.emit("x", {1: 2}), lambda: ctx.emit("x", "\udc00"), lambda: ctx.thinking("\udc00")):
            with self.assertRaises(cofferdam.InvalidEvent):
                call()
        self.assertEqual(self.host.calls, [])


class Tools(HostTest):
    def test_a_call_is_json_both_ways(self) -> None:
        self.host.will("tools.call", '{"value":42.1,"unit":"km","more":1}', "[1]")
        ctx = Context()
        self.assertEqual(ctx.call("units.convert", {"value": 26.2, "to": "km"}, Converted), Converted(42.1))
        self.assertEqual(ctx.call("units.list", Converted(1.0)), [1])
        self.assertEqual(
            self.host.calls,
            [
                ("tools", "call", "units.convert", '{"value":26.2,"to":"km"}'),
                ("tools", "call", "units.list", '{"value":1.0,"unit":"km"}'),
            ],
        )

    def test_every_refusal_is_an_exception_of_its_own(self) -> None:
        for case, value, kind, python in [
            ("UnknownTool", "x", "unknown_tool", cofferdam.UnknownTool),
            ("Denied", "x", "denied", cofferdam.ToolDenied),
            ("InvalidArguments", "x", "invalid_arguments", cofferdam.InvalidArguments),
            ("TooLarge", 7, "too_large", cofferdam.ToolTooLarge),
            ("Exhausted", "x", "exhausted", cofferdam.ToolExhausted),
            ("NotFound", "x", "not_found", cofferdam.NotFound),
            ("Failed", "x", "failed", cofferdam.ToolFailed),
            ("OutcomeUnknown", "x", "outcome_unknown", cofferdam.OutcomeUnknown),
        ]:
            self.host.will("tools.call", self.refused("types", f"ToolError_{case}", value))
            with self.assertRaises(cofferdam.ToolError) as raised:
                Context().call("x.y", {})
            self.assertIs(type(raised.exception), python)
            self.assertEqual(raised.exception.kind, kind)

    def test_an_answer_of_another_type_is_unexpected_and_arguments_must_be_json(self) -> None:
        self.host.will("tools.call", '{"value":"much"}')
        with self.assertRaises(cofferdam.UnexpectedAnswer) as raised:
            Context().call("units.convert", {}, Converted)
        self.assertIn("from `units.convert`: at `/value`: expected a number", str(raised.exception))
        self.host.calls.clear()
        with self.assertRaises(cofferdam.InvalidArguments):
            Context().call("units.convert", {"value": float("inf")})
        self.assertEqual(self.host.calls, [])

    def test_calls_under_way(self) -> None:
        first, second = PendingHandle('{"value":1}'), PendingHandle("null")
        self.host.will("tools.start", first, second)
        pending = Context().start("a.b", {}, Converted)
        self.assertTrue(pending.ready())
        self.assertEqual(pending.wait(), Converted(1.0))
        with self.assertRaises(RuntimeError):
            pending.wait()
        with Context().start("a.b", {}):
            pass
        self.assertEqual((first.done, second.done), ([], ["dropped"]))

    def test_the_tools_are_listed(self) -> None:
        self.host.will("tools.list", [self.host.types.Tool("file.read", "Reads.", "true", True)])
        self.assertEqual(Context().tools(), [cofferdam.ToolInfo("file.read", "Reads.", "true", True)])


class FilesOfTheWorkspace(HostTest):
    def test_a_file_is_read_in_chunks_to_its_end(self) -> None:
        self.host.will(
            "tools.call",
            '{"text":"on","bytes":2,"next_offset":2,"size":3}',
            '{"text":"e","bytes":1,"next_offset":null,"size":3}',
            '{"base64":"AAEC/w==","bytes":4,"next_offset":null,"size":4}',
        )
        ctx = Context()
        self.assertEqual(ctx.files.read_text("a.txt"), "one")
        self.assertEqual(ctx.files.read_bytes("b.bin"), bytes([0, 1, 2, 255]))
        self.assertEqual(
            [call[3] for call in self.host.calls],
            [
                '{"path":"a.txt","offset":0,"length":524288}',
                '{"path":"a.txt","offset":2,"length":524288}',
                '{"path":"b.bin","offset":0,"length":524288,"encoding":"base64"}',
            ],
        )

    def test_a_chunk_too_large_for_an_answer_is_halved_down_to_a_bound(self) -> None:
        self.host.will("tools.call", *[self.refused("types", "ToolError_TooLarge", 1) for _ in range(9)])
        with self.assertRaises(cofferdam.ToolTooLarge):
            Context().files.read_text("a.txt")
        lengths = [json.loads(call[3])["length"] for call in self.host.calls]
        self.assertEqual(lengths, [524_288, 262_144, 131_072, 65_536])

    def test_an_answer_that_does_not_go_on_ends(self) -> None:
        self.host.will("tools.call", '{"text":"","bytes":0,"next_offset":0,"size":3}')
        with self.assertRaises(cofferdam.UnexpectedAnswer):
            Context().files.read_text("a.txt")

    def written(self) -> list[dict[str, Any]]:
        return [json.loads(call[3]) for call in self.host.calls]

    def test_what_is_written_fits_into_its_calls_and_is_all_there(self) -> None:
        for text in ("", "short", '"' * 600_000, "\x01" * 200_000, "é" * 300_000 + "\n" * 400_000):
            self.host.calls.clear()
            self.host.will("tools.call", *[lambda *_: '{"bytes":9}'] * 9)
            self.assertEqual(Context().files.write_text("a", text), 9)
            self.host.answers.clear()
            self.assertTrue(all(len(call[3].encode()) < 600 * 1024 for call in self.host.calls))
            self.assertEqual("".join(call["text"] for call in self.written()), text)
            self.assertEqual([call["append"] for call in self.written()], [False] + [True] * (len(self.written()) - 1))

    def test_bytes_are_written_as_base64(self) -> None:
        self.host.will("tools.call", *['{"bytes":4}'] * 4)
        Context().files.write_bytes("c", bytes([0, 1, 2, 255]))
        Context().files.append_bytes("c", bytes(600 * 1024))
        self.assertEqual(self.host.calls[0][3], '{"path":"c","base64":"AAEC/w==","append":false}')
        self.assertEqual([call["append"] for call in self.written()], [False, True, True])

    def test_a_directory_is_listed(self) -> None:
        self.host.will(
            "tools.call", '{"entries":[{"name":"w","kind":"file","bytes":3},{"name":"d","kind":"directory"}],"truncated":false}'
        )
        listing = Context().files.list("x")
        self.assertEqual([(entry.name, entry.kind, entry.bytes) for entry in listing.entries], [("w", "file", 3), ("d", "directory", 0)])
        self.assertEqual(self.host.calls, [("tools", "call", "file.list", '{"path":"x"}')])


class StateOfTheUser(HostTest):
    def test_keys_are_read_and_changed(self) -> None:
        entry = self.host.state.Entry(b'{"value":2}', 5)
        self.host.will("state.get", None, entry, entry)
        self.host.will("state.set", 6)
        self.host.will("state.compare_and_swap", 7, self.refused("state", "StateError_Conflict", 9))
        state = Context().state(Scope.USER)
        self.assertIsNone(state.get("k"))
        self.assertEqual(state.get("k"), cofferdam.Stored(b'{"value":2}', 5))
        self.assertEqual(state.get_json("k", Converted), cofferdam.Stored(Converted(2.0), 5))
        self.assertEqual(state.expiring_after(60).set_json("k", [1, {"a": None}]), 6)
        self.assertEqual(state.compare_and_swap("k", 6, b"x"), 7)
        with self.assertRaises(cofferdam.StateConflict) as raised:
            state.compare_and_swap_json("k", None, 1)
        self.assertEqual(raised.exception.current, 9)
        scope = self.host.state.Scope
        self.assertEqual(
            self.host.calls[3:],
            [
                ("state", "set", scope.USER, "k", b'[1,{"a":null}]', 60_000),
                ("state", "compare_and_swap", scope.USER, "k", 6, b"x", None),
                ("state", "compare_and_swap", scope.USER, "k", None, b"1", None),
            ],
        )

    def test_what_is_no_json_is_told_with_its_key(self) -> None:
        state = Context().state(Scope.THREAD)
        for stored in (b"\xff", b"{", b'{"value":"x"}'):
            self.host.will("state.get", self.host.state.Entry(stored, 1))
            with self.assertRaises(cofferdam.StateNotJson) as raised:
                state.get_json("k", Converted)
            self.assertIn("`k`: ", str(raised.exception))
        with self.assertRaises(cofferdam.StateNotJson):
            state.set_json("k", {1: 2})

    def test_storage_that_is_not_there_has_no_text(self) -> None:
        self.host.will("state.delete", self.refused("state", "StateError_Unavailable"))
        with self.assertRaises(cofferdam.StateUnavailable):
            Context().state(Scope.USER).delete("k")


class PeopleAndAgents(HostTest):
    def test_a_question_asks_for_the_type_of_its_answer_unless_it_has_a_schema_of_its_own(self) -> None:
        self.host.will("human.ask", '{"approved":true}', "1")
        ctx = Context()
        self.assertEqual(ctx.ask("Pay?", Decision, expires_after=0.0015, default=Decision(False)), Decision(True))
        self.assertEqual(ctx.ask("Which?", schema={"enum": [1, 2]}), 1)
        asked = [call[2] for call in self.host.calls]
        self.assertEqual(json.loads(asked[0].schema)["properties"]["approved"]["description"], "Whether it may be.")
        self.assertEqual((asked[0].prompt, asked[0].expires_ms, asked[0].default), ("Pay?", 2, '{"approved":false}'))
        self.assertEqual((asked[1].schema, asked[1].expires_ms, asked[1].default), ('{"enum":[1,2]}', None, None))

    def test_none_is_a_default_answer(self) -> None:
        self.host.will("human.ask", "null")
        Context().ask("Any?", default=None)
        self.assertEqual(self.host.calls[0][2].default, "null")

    def test_questions_that_come_to_nothing(self) -> None:
        self.host.will("human.ask", self.refused("human", "AskError_Expired"), '{"approved":"yes"}')
        with self.assertRaises(cofferdam.AskExpired):
            Context().ask("Pay?", Decision)
        with self.assertRaises(cofferdam.UnexpectedHumanAnswer):
            Context().ask("Pay?", Decision)
        with self.assertRaises(cofferdam.InvalidQuestion):
            Context().ask("Pay?", default={1: 2})

    def test_a_child_is_started_with_its_limits_and_waited_for(self) -> None:
        child_handle = ChildHandle('{"value":1}')
        self.host.will("agents.spawn", child_handle)
        child = Context().spawn("summary", {"path": "a"}, Converted, fuel=7, deadline=timedelta(microseconds=2_900))
        self.assertEqual((child.id, child.id, child.wait(), child.wait()), ("run_1", "run_1", Converted(1.0), Converted(1.0)))
        child.cancel()
        self.assertEqual(child_handle.done, ["id", "cancel"])
        limits = self.host.agents.ChildLimits(7, None, 2)
        self.assertEqual(self.host.calls, [("agents", "spawn", "summary", '{"path":"a"}', limits)])

    def test_a_child_that_fails_says_how(self) -> None:
        failure = self.host.agents.ChildFailure("guest_error", "no_rows", "it has no rows")
        exhausted = self.host.types.WaitError_Exhausted("too many")
        self.host.will(
            "agents.spawn",
            ChildHandle(self.refused("agents", "ChildError_Failed", failure)),
            ChildHandle(self.refused("agents", "ChildError_Wait", exhausted)),
            ChildHandle('"text"'),
            self.refused("agents", "SpawnError_UnknownAgent", "`nobody`"),
        )
        ctx = Context()
        with self.assertRaises(cofferdam.ChildFailed) as raised:
            ctx.spawn("a", {}).wait()
        told = raised.exception
        self.assertEqual((told.stop_reason, told.code, told.message), ("guest_error", "no_rows", "it has no rows"))
        with self.assertRaises(cofferdam.WaitExhausted):
            ctx.spawn("a", {}).wait()
        with self.assertRaises(cofferdam.UnexpectedChildOutput):
            ctx.spawn("a", {}, Converted).wait()
        with self.assertRaises(cofferdam.UnknownAgent):
            ctx.spawn("nobody", {})


class WithoutAHost(unittest.TestCase):
    def test_a_context_outside_of_a_component_says_what_to_do(self) -> None:
        self.assertNotIn("wit_world", sys.modules)
        with self.assertRaises(RuntimeError) as raised:
            Context().thinking("?")
        self.assertIn("cofferdam test", str(raised.exception))


class Codes(unittest.TestCase):
    def test_every_refusal_fails_the_run_with_a_code_of_its_own_but_for_what_is_one_thing(self) -> None:
        codes: dict[str, list[str]] = {}
        for name in cofferdam.__all__:
            found = getattr(cofferdam, name)
            if isinstance(found, type) and issubclass(found, cofferdam.HostError) and found.kind:
                codes.setdefault(found.run_code, []).append(name)
        shared = {code for code, names in codes.items() if len(names) > 1}
        self.assertEqual(shared, {"denied", "host_calls_exhausted"})

    def test_a_code_always_fits_the_contract(self) -> None:
        for given, kept in [("no_rows", "no_rows"), ("No Rows!", "no_rows_"), ("", "failed"), ("é" * 65, "_" * 64), ("a/b", "a_b")]:
            self.assertEqual(cofferdam.AgentError(given, "m").code, kept)


if __name__ == "__main__":
    unittest.main()
