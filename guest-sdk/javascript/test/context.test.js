import assert from "node:assert/strict";
import { afterEach, test } from "node:test";

import { useHost } from "../src/host.js";
import {
  AskError,
  ChildError,
  Context,
  EventError,
  InvalidInputError,
  s,
  SpawnError,
  StateError,
  ToolContext,
  ToolError,
  WaitError,
} from "../src/index.js";
import { fakeHost, refusal } from "./fake-host.js";

afterEach(() => useHost(null));

function start(options) {
  const host = fakeHost(options);
  useHost(host);
  return { host, ctx: new Context() };
}

/** What a call throws, which must be of a class. */
function thrown(of, call) {
  try {
    call();
  } catch (error) {
    assert.ok(error instanceof of, `${error}`);
    assert.equal(error.name, of.name);
    return error;
  }
  return assert.fail("it threw nothing");
}

test("who the run is for is asked once, when it is first looked at", () => {
  const { host, ctx } = start({ info: { metadata: '{"a":1}', parentRunId: "run_0" } });
  assert.deepEqual(host.calls, []);
  assert.deepEqual([ctx.userId, ctx.runId, ctx.parentRunId, ctx.sessionId], ["ann", "run_1", "run_0", undefined]);
  assert.equal(ctx.idempotencyKey, undefined);
  assert.deepEqual(ctx.metadata(), { a: 1 });
  assert.deepEqual(ctx.metadata(s.object({ a: s.integer() })), { a: 1 });
  const error = thrown(InvalidInputError, () => ctx.metadata(s.object({ a: s.string() })));
  assert.match(error.message, /metadata are not valid: at "\/a"/u);
  assert.deepEqual(host.calls, [["context.get"]]);
  assert.equal(ctx.budget().hostCalls, 9);
  assert.ok(Math.abs(ctx.deadline() - Date.now() - 60000) < 1000);
});

test("a tool has no tools, no people and no agents", () => {
  const ctx = new ToolContext();
  assert.deepEqual([ctx.call, ctx.ask, ctx.spawn, ctx.files], [undefined, undefined, undefined, undefined]);
});

test("a wait is never over before its time, and times beyond all bounds are left for the host to judge", () => {
  const { host, ctx } = start();
  ctx.sleepUntil(7.2);
  ctx.sleepUntil(new Date(9));
  ctx.sleepUntil(-5);
  ctx.sleepUntil(Infinity);
  assert.deepEqual(
    host.calls.map(([, time]) => time),
    [8, 9, 0, Number.MAX_SAFE_INTEGER],
  );
  assert.equal(thrown(WaitError, () => ctx.sleepUntil(new Date("x"))).kind, "invalid");
  host.context.sleepUntil = () => {
    throw refusal("unavailable", "it has a workspace");
  };
  assert.equal(thrown(WaitError, () => ctx.sleep(5)).message, "the run cannot wait: it has a workspace");
});

test("events reach the host, and what it refuses is an EventError", () => {
  const { host, ctx } = start();
  ctx.thinking("a\ud800b");
  ctx.progress(0.5);
  ctx.partialResult({ rows: 1 });
  ctx.log("warn", "w");
  assert.deepEqual(host.calls, [
    ["events.thinking", "a\ufffdb"],
    ["events.progress", 0.5, ""],
    ["events.emit", "partial-result", '{"rows":1}'],
    ["events.log", "warn", "w"],
  ]);
  assert.equal(thrown(EventError, () => ctx.progress(2)).kind, "invalid");
  assert.deepEqual({ ...thrown(EventError, () => ctx.log("info", "x".repeat(8193))) }.limit, 8192);
  assert.equal(thrown(EventError, () => ctx.emit("x", 1n)).kind, "invalid");
  assert.equal(thrown(EventError, () => ctx.emit("x", undefined)).kind, "invalid");
  assert.equal(thrown(EventError, () => ctx.log("fatal", "x")).kind, "invalid");
  ctx.info("x".repeat(8193));
  ctx.emit("half", ["\ud83d", "\\ud83d", "😀"]);
  assert.equal(host.calls.at(-1)[2], '["\ufffd","\\\\ud83d","😀"]');
});

test("tools are listed, called and started", () => {
  const { host, ctx } = start({ tools: { "units.convert": ({ value }) => ({ value: value * 2 }) } });
  assert.deepEqual(ctx.tools(), [{ name: "units.convert", description: "", inputSchema: {}, idempotent: true }]);
  assert.deepEqual(ctx.call("units.convert", { value: 2 }), { value: 4 });
  const answer = s.object({ value: s.string() });
  const error = thrown(ToolError, () => ctx.call("units.convert", { value: 2 }, answer));
  assert.equal(error.message, 'unexpected answer: from `units.convert`: at "/value": 4 is not a string');
  assert.equal(thrown(ToolError, () => ctx.call("nobody.knows", {})).kind, "unknown_tool");
  assert.equal(thrown(ToolError, () => ctx.call("units.convert", undefined)).kind, "invalid_arguments");

  const pending = ctx.start("units.convert", { value: 3 });
  assert.equal(pending.ready(), true);
  assert.deepEqual(pending.wait(), { value: 6 });
  assert.throws(() => pending.wait(), /waited for, or cancelled, before/u);
  host.calls.length = 0;
  const dropped = ctx.start("units.convert", { value: 3 });
  dropped.cancel();
  dropped.cancel();
  assert.deepEqual(host.calls.at(-1), ["pending.drop"]);
  assert.equal(host.calls.length, 2);
});

test("files are read in chunks that fit, and written in pieces that fit", () => {
  const text = `${"é😀\n".repeat(200_000)}end`;
  const bytes = Buffer.from(text);
  const files = new Map();
  const { host, ctx } = start({
    tools: {
      "file.read": ({ path, offset, length, encoding }) => {
        // A half of the longest chunk is the most that fits into an answer here.
        if (length > 262_144) throw refusal("too-large", 1_048_576);
        let end = Math.min(offset + length, bytes.length);
        if (path === "stuck") return { text: "", bytes: 0, next_offset: offset, size: 9 };
        if (encoding === "base64") {
          return { base64: bytes.subarray(offset, end).toString("base64"), next_offset: end < bytes.length ? end : null };
        }
        while (end < bytes.length && (bytes[end] & 0xc0) === 0x80) end -= 1;
        return { text: bytes.toString("utf8", offset, end), bytes: end - offset, next_offset: end < bytes.length ? end : null, size: bytes.length };
      },
      "file.write": ({ path, text: piece, base64, append }) => {
        const added = base64 === undefined ? Buffer.from(piece) : Buffer.from(base64, "base64");
        files.set(path, Buffer.concat([append ? (files.get(path) ?? Buffer.alloc(0)) : Buffer.alloc(0), added]));
        return { bytes: files.get(path).length };
      },
      "file.list": () => ({ entries: [{ name: "a", kind: "file", bytes: 1 }], truncated: false }),
    },
  });
  assert.equal(ctx.files.readToString("a"), text);
  assert.deepEqual(Buffer.from(ctx.files.readToBytes("a")), bytes);
  assert.equal(thrown(ToolError, () => ctx.files.readToString("stuck")).kind, "unexpected_answer");
  host.calls.length = 0;
  assert.equal(ctx.files.write("b", text), bytes.length);
  assert.deepEqual(files.get("b"), bytes);
  assert.ok(host.calls.length > 2 && host.calls.every(([, , args]) => Buffer.byteLength(args) < 600_000));
  const controls = "\u0001".repeat(300_000);
  ctx.files.write("controls", controls);
  assert.equal(files.get("controls").toString(), controls);
  host.calls.length = 0;
  ctx.files.write("ascii", "x".repeat(512 * 1024));
  assert.equal(host.calls.length, 1);
  assert.equal(ctx.files.append("b", "!"), bytes.length + 1);
  assert.equal(ctx.files.writeBytes("c", Uint8Array.from([0, 1, 2, 255])), 4);
  assert.equal(ctx.files.appendBytes("c", new Uint8Array(600_000)), 600_004);
  assert.equal(ctx.files.write("empty", ""), 0);
  assert.deepEqual(ctx.files.list().entries, [{ name: "a", kind: "file", bytes: 1 }]);
  assert.deepEqual(ctx.files.readChunk("a", 0, 4), { text: "é", bytes: 2, nextOffset: 2, size: bytes.length });
  host.calls.length = 0;
  ctx.files.write("d", "x");
  assert.deepEqual(host.calls, [["tools.call", "file.write", '{"path":"d","text":"x","append":false}']]);
});

test("state is bytes or JSON, with versions", () => {
  const { host, ctx } = start();
  const state = ctx.state("user");
  assert.equal(state.get("k"), undefined);
  const version = state.set("k", "é");
  assert.deepEqual(state.get("k"), { value: Uint8Array.from([0xc3, 0xa9]), version });
  assert.equal(state.compareAndSwap("k", version, "2"), version + 1);
  const conflict = thrown(StateError, () => state.compareAndSwap("k", version, "3"));
  assert.deepEqual([conflict.kind, conflict.current], ["conflict", version + 1]);
  const absent = thrown(StateError, () => state.compareAndSwap("none", 1, "3"));
  assert.deepEqual([absent.kind, absent.current, absent.message], ["conflict", undefined, "the key is absent"]);
  assert.equal(thrown(StateError, () => state.set("bad key", "")).kind, "invalid");
  state.setJson("j", { a: [true, null] });
  assert.deepEqual(state.getJson("j").value, { a: [true, null] });
  const other = thrown(StateError, () => state.getJson("j", s.object({ a: s.string() })));
  assert.match(other.message, /`j`: at "\/a"/u);
  assert.equal(thrown(StateError, () => state.getJson("k", s.string())).kind, "not_json");
  state.set("b", Uint8Array.from([0xff]));
  assert.equal(thrown(StateError, () => state.getJson("b")).kind, "not_json");
  assert.equal(thrown(StateError, () => state.setJson("j", 1n)).kind, "not_json");
  assert.deepEqual(state.list(""), ["k", "j", "b"]);
  assert.equal(state.delete("k"), true);
  host.calls.length = 0;
  state.expiringAfter(1.9).set("t", "x");
  state.expiringAfter(Infinity).set("t", "x");
  state.list("a", { after: "ab", limit: 5 });
  assert.deepEqual(
    host.calls.map((call) => call.at(-1)),
    [1, Number.MAX_SAFE_INTEGER, 5],
  );
  assert.throws(() => ctx.state("global"), /"user" or "thread"/u);
});

test("a question is asked with the schema of its answer", () => {
  const { host, ctx } = start({ answers: [{ go: true }, { go: 1 }] });
  const schema = s.object({ go: s.boolean() });
  assert.deepEqual(ctx.ask({ prompt: "Go on?", schema, expiresMs: 1.5, default: { go: false } }), { go: true });
  assert.deepEqual(host.calls[0][1], {
    prompt: "Go on?",
    schema: '{"type":"object","properties":{"go":{"type":"boolean"}},"required":["go"]}',
    expiresMs: 2,
    default: '{"go":false}',
  });
  assert.equal(thrown(AskError, () => ctx.ask({ prompt: "?", schema })).kind, "unexpected_answer");
  assert.equal(thrown(AskError, () => ctx.ask({ prompt: "?", schema })).kind, "expired");
  assert.equal(thrown(AskError, () => ctx.ask({ prompt: "?", schema, default: 1n })).kind, "invalid");
});

test("children are started, waited for and cancelled", () => {
  const failed = { stopReason: "guest_error", code: "no_rows", message: "none" };
  const { host, ctx } = start({
    children: {
      echo: () => ({ hello: 1 }),
      probe: () => {
        throw refusal("failed", failed);
      },
      stuck: () => {
        throw refusal("wait", { tag: "exhausted", val: "as many as may be" });
      },
    },
  });
  const child = ctx.spawn("echo", { hello: 1 }, { fuel: 5 });
  assert.deepEqual(host.calls[0], ["agents.spawn", "echo", '{"hello":1}', { fuel: 5, memoryBytes: null, deadlineMs: null }]);
  assert.deepEqual([child.id, child.id, child.wait(), child.wait()], ["run_2", "run_2", { hello: 1 }, { hello: 1 }]);
  assert.equal(host.calls.filter(([name]) => name === "child.id").length, 1);
  child.cancel();
  const wrong = ctx.spawn("echo", {}, { output: s.object({ hello: s.string() }) });
  assert.equal(thrown(ChildError, () => wrong.wait()).kind, "unexpected_output");
  const error = thrown(ChildError, () => ctx.spawn("probe", {}).wait());
  assert.deepEqual(error.failure, failed);
  assert.equal(error.message, "the child ended as guest_error (no_rows): none");
  assert.equal(thrown(WaitError, () => ctx.spawn("stuck", {}).wait()).kind, "exhausted");
  assert.equal(thrown(SpawnError, () => ctx.spawn("nobody", {})).kind, "unknown_agent");
  assert.equal(thrown(SpawnError, () => ctx.spawn("echo", 1n)).kind, "invalid");
});

test("without a host, a call says where it belongs", () => {
  assert.throws(() => new Context().thinking("x"), /from the function of the agent or tool/u);
});
