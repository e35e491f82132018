"""Uses every import, in the same order in every language: the agents beside this one do the same in Rust and JavaScript, and a
test compares their events, their calls and their outputs. What differs from run to run (ids, times, random bytes) is in none
of them."""

import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

from cofferdam import AgentError, ChildFailed, Context, HostError, Level, Scope, StateConflict, agent

Part = Literal[
    "context", "budget", "events", "print", "tools", "files", "state", "clock", "random", "scratch", "sleep", "human", "agents",
    "workspace",
]


@dataclass
class Input:
    only: Part | None = None
    """This part alone."""
    fail: bool = False
    """Fail at the end."""


@agent(
    name="conformance",
    version="1.0.0",
    description="Uses every import, in the same order in every language.",
    tools=["file.*", "units.*"],
    state="read_write",
    workspace="read_write",
    agents=["echo", "probe"],
    human=True,
)
def run(ctx: Context, input: Input) -> dict[str, Any]:
    output = {name: part(ctx) for name, part in PARTS.items() if input.only in (None, name)}
    if input.fail:
        raise AgentError("conformance_failed", "asked to fail")
    return output


def of(call: Callable[..., Any], *arguments: Any) -> Any:
    """What came of a call, without its text."""
    try:
        return {"ok": call(*arguments)}
    except HostError as error:
        return {"error": error.kind}


def context(ctx: Context) -> Any:
    return {
        "has_user": ctx.user_id != "",
        "has_run": ctx.run_id != "",
        "parent": ctx.parent_run_id is not None,
        "session": ctx.session_id is not None,
        "metadata": ctx.metadata(),
        "idempotency_key": ctx.idempotency_key,
    }


def budget(ctx: Context) -> Any:
    left = ctx.budget()
    return {
        "fuel": left.fuel > 0,
        "memory": left.memory_bytes > 0,
        "deadline": 0 < left.wall_ms <= 60_000,
        "tool_calls": left.tool_calls,
        "host_calls": left.host_calls > 0,
    }


def events(ctx: Context) -> Any:
    ctx.log(Level.DEBUG, "debug line")
    ctx.log(Level.INFO, "info line")
    ctx.log(Level.WARN, "warn line")
    ctx.log(Level.ERROR, "error line")
    ctx.thinking("Thinking about it")
    ctx.progress(0.25, "a quarter")
    ctx.partial_result({"part": 1, "text": "one"})
    ctx.emit("custom.done", {"n": [1, 2, 3], "ok": True})
    return {
        "progress": of(ctx.progress, 2.0, "too far"),
        "name": of(ctx.emit, "Bad Name", {}),
        "line": of(ctx.log, Level.INFO, "x" * 8_193),
    }


def print_lines(ctx: Context) -> Any:
    print("to stdout")
    print("to stderr", file=sys.stderr)
    return True


def tools(ctx: Context) -> Any:
    names = sorted(tool.name for tool in ctx.tools())
    written = ctx.call("file.write", {"path": "conf/a.txt", "text": "first\n", "append": False})
    read = ctx.call("file.read", {"path": "conf/a.txt", "offset": 0, "length": 64})
    first = ctx.start("file.read", {"path": "conf/a.txt"})
    second = ctx.start("file.list", {"path": "conf"})
    listed = second.wait()
    again = first.wait()
    ctx.start("file.read", {"path": "conf/a.txt"}).cancel()
    return {
        "names": names,
        "written": written,
        "read": read,
        "listed": listed,
        "again": again["text"],
        "denied": of(ctx.call, "nobody.knows", {}),
        "unknown": of(ctx.call, "file.nothing", {}),
        "invalid": of(ctx.call, "file.read", {"path": 7}),
        "missing": of(ctx.call, "file.read", {"path": "conf/missing.txt"}),
    }


def files(ctx: Context) -> Any:
    return {
        "wrote": ctx.files.write_text("conf/b.txt", "one\ntwo\n"),
        "appended": ctx.files.append_text("conf/b.txt", "three\n"),
        "text": ctx.files.read_text("conf/b.txt"),
        "wrote_bytes": ctx.files.write_bytes("conf/c.bin", bytes([0, 1, 2, 255])),
        "bytes": list(ctx.files.read_bytes("conf/c.bin")),
        "entries": [entry.name for entry in ctx.files.list("conf").entries],
        "missing": of(ctx.files.read_text, "conf/none.txt"),
    }


def state(ctx: Context) -> Any:
    return {"user": state_in(ctx, Scope.USER), "thread": state_in(ctx, Scope.THREAD)}


def state_in(ctx: Context, scope: Scope) -> Any:
    state = ctx.state(scope)
    absent = state.get("conf/k") is None
    first = state.set("conf/k", b"1")
    stored = state.get("conf/k")
    same = stored is not None and stored.value == b"1" and stored.version == first
    second = state.compare_and_swap("conf/k", first, b"2")
    try:
        conflict: Any = {"ok": state.compare_and_swap("conf/k", first, b"3")}
    except StateConflict as error:
        conflict = {"error": error.kind, "current": error.current == second}
    present = of(state.compare_and_swap, "conf/k", None, b"4")
    state.expiring_after(timedelta(seconds=60)).set("conf/t", b"x")
    keys = state.list("conf/", None, 10)
    after = state.list("conf/", "conf/k", 10)
    state.set_json("conf/j", {"a": 1, "b": [True, None]})
    kept = state.get_json("conf/j")
    deleted = state.delete("conf/k")
    deleted_again = state.delete("conf/k")
    state.delete("conf/t")
    state.delete("conf/j")
    return {
        "absent": absent,
        "same": same,
        "grown": second > first,
        "conflict": conflict,
        "present": present,
        "keys": keys,
        "after": after,
        "json": kept.value if kept else None,
        "deleted": deleted,
        "deleted_again": deleted_again,
        "invalid": of(state.set, "bad key with spaces", b"x"),
    }


def clock(ctx: Context) -> Any:
    first, second = time.monotonic(), time.monotonic()
    return {"wall": time.time() > 1_577_836_800, "monotonic": second >= first}


def random(ctx: Context) -> Any:
    return {"bytes": len(os.urandom(16))}


def scratch(ctx: Context) -> Any:
    note = Path("/scratch/note.txt")
    note.write_text("scratch\n")
    return {"text": note.read_text(), "names": sorted(os.listdir("/scratch"))}


def sleep(ctx: Context) -> Any:
    ctx.sleep_until(time.time() + 0.020)
    ctx.sleep_until(0)
    ctx.sleep_until(time.time() + 1.5)
    return {"short": "ok", "past": "ok", "long": "ok"}


def human(ctx: Context) -> Any:
    schema = {"type": "object", "properties": {"go": {"type": "boolean"}}, "required": ["go"], "additionalProperties": False}
    text = {"type": "string"}
    return {
        "answer": ctx.ask("Go on?", schema=schema),
        "default": ctx.ask("Anybody?", schema=text, expires_after=1.0, default="nobody"),
        "invalid": of(lambda: ctx.ask("", schema=text)),
    }


def agents(ctx: Context) -> Any:
    child = ctx.spawn("echo", {"hello": "child"})
    known = child.id.startswith("run_")
    echo, again = child.wait(), child.wait()
    fail = {"do": "fail", "code": "no_rows", "message": "none"}
    failing = ctx.spawn("probe", fail, fuel=50_000_000, deadline=timedelta(seconds=10))
    failed = failure(failing.wait)
    sleeping = ctx.spawn("probe", {"do": "sleep", "ms": 20_000})
    sleeping.cancel()
    cancelled = failure(sleeping.wait)
    return {
        "id": known,
        "echo": echo,
        "again": again,
        "failed": failed,
        "cancelled": {key: cancelled[key] for key in ("error", "stop_reason")},
        "denied": of(ctx.spawn, "nobody", {}),
    }


def failure(wait: Callable[[], Any]) -> Any:
    try:
        return {"error": None, "stop_reason": None, "output": wait()}
    except ChildFailed as error:
        return {"error": error.kind, "stop_reason": error.stop_reason, "code": error.code, "message": error.message}


def workspace(ctx: Context) -> Any:
    text = Path("/workspace/conf/b.txt").read_text()
    Path("/workspace/conf/d.txt").write_text("workspace\n")
    return {"text": text, "names": sorted(os.listdir("/workspace/conf"))}


# In the order in which they are done. The workspace comes last: a run that has used it cannot be put away.
PARTS: dict[str, Callable[[Context], Any]] = {
    "context": context, "budget": budget, "events": events, "print": print_lines, "tools": tools, "files": files, "state": state,
    "clock": clock, "random": random, "scratch": scratch, "sleep": sleep, "human": human, "agents": agents,
    "workspace": workspace,
}
