// Uses every import, in the same order in every language: the agents beside this one do the same in Rust and Python, and a
// test compares their events, their calls and their outputs. What differs from run to run (ids, times, random bytes) is in
// none of them.

import { agent, AgentError, AskError, ChildError, type Context, EventError, s, type Scope, SpawnError, StateError, ToolError } from "cofferdam-sdk";
import { readDir, readTextFile, writeFile } from "cofferdam-sdk/fs";

/** In the order in which they are done. */
const parts = {
  context: (ctx: Context) => ({
    has_user: ctx.userId !== "",
    has_run: ctx.runId !== "",
    parent: ctx.parentRunId !== undefined,
    session: ctx.sessionId !== undefined,
    metadata: ctx.metadata(),
    idempotency_key: ctx.idempotencyKey ?? null,
  }),
  budget: (ctx: Context) => {
    const { fuel, memoryBytes, wallMs, toolCalls, hostCalls } = ctx.budget();
    return {
      fuel: fuel > 0,
      memory: memoryBytes > 0,
      deadline: wallMs > 0 && wallMs <= 60_000,
      tool_calls: toolCalls,
      host_calls: hostCalls > 0,
    };
  },
  events,
  print: () => {
    console.log("to stdout");
    // As what other languages write to standard error, which the host takes for warnings.
    console.warn("to stderr");
    return true;
  },
  tools,
  files,
  state: (ctx: Context) => ({ user: state(ctx, "user"), thread: state(ctx, "thread") }),
  clock: () => {
    const [first, second] = [performance.now(), performance.now()];
    return { wall: Date.now() > Date.UTC(2020, 0), monotonic: second >= first };
  },
  random: () => ({ bytes: crypto.getRandomValues(new Uint8Array(16)).length }),
  scratch: () => {
    writeFile("/scratch/note.txt", "scratch\n");
    return { text: readTextFile("/scratch/note.txt"), names: readDir("/scratch").map(({ name }) => name) };
  },
  sleep: (ctx: Context) => {
    ctx.sleepUntil(Date.now() + 20);
    ctx.sleepUntil(0);
    ctx.sleepUntil(Date.now() + 1_500);
    return { short: "ok", past: "ok", long: "ok" };
  },
  human,
  agents,
  workspace: () => {
    const text = readTextFile("/workspace/conf/b.txt");
    writeFile("/workspace/conf/d.txt", "workspace\n");
    return { text, names: readDir("/workspace/conf").map(({ name }) => name) };
  },
};

const names = Object.keys(parts) as (keyof typeof parts)[];

export default agent(
  {
    description: "Uses every import, in the same order in every language.",
    input: s.object(
      {
        only: s.enum(names).optional().describe("This part alone."),
        fail: s.boolean().default(false).describe("Fail at the end."),
      },
      { additionalProperties: false },
    ),
    output: s.record(s.any()),
    needs: {
      tools: ["file.*", "units.*"],
      state: "read_write",
      workspace: "read_write",
      agents: ["echo", "probe"],
      human: true,
    },
  },
  (ctx, { only, fail }) => {
    const output: { [name: string]: unknown } = {};
    for (const name of names) {
      if (only === undefined || only === name) output[name] = parts[name](ctx);
    }
    if (fail) throw new AgentError("conformance_failed", "asked to fail");
    return output;
  },
);

/** What a call gives, or the kind of the error that it must throw. */
function outcome(of: new (...args: never[]) => Error & { kind: string }, call: () => unknown) {
  try {
    return { ok: call() ?? null };
  } catch (error) {
    if (!(error instanceof of)) throw error;
    return { error: error.kind };
  }
}

function events(ctx: Context) {
  ctx.log("debug", "debug line");
  ctx.log("info", "info line");
  ctx.log("warn", "warn line");
  ctx.log("error", "error line");
  ctx.thinking("Thinking about it");
  ctx.progress(0.25, "a quarter");
  ctx.partialResult({ part: 1, text: "one" });
  ctx.emit("custom.done", { n: [1, 2, 3], ok: true });
  return {
    progress: outcome(EventError, () => ctx.progress(2, "too far")),
    name: outcome(EventError, () => ctx.emit("Bad Name", {})),
    line: outcome(EventError, () => ctx.log("info", "x".repeat(8_193))),
  };
}

function tools(ctx: Context) {
  const names = ctx.tools().map(({ name }) => name);
  const written = ctx.call("file.write", { path: "conf/a.txt", text: "first\n", append: false });
  const read = ctx.call("file.read", { path: "conf/a.txt", offset: 0, length: 64 });
  const first = ctx.start("file.read", { path: "conf/a.txt" });
  const second = ctx.start("file.list", { path: "conf" });
  const listed = second.wait();
  const again = first.wait();
  ctx.start("file.read", { path: "conf/a.txt" }).cancel();
  return {
    names: names.sort(),
    written,
    read,
    listed,
    again: again.text,
    denied: outcome(ToolError, () => ctx.call("nobody.knows", {})),
    unknown: outcome(ToolError, () => ctx.call("file.nothing", {})),
    invalid: outcome(ToolError, () => ctx.call("file.read", { path: 7 })),
    missing: outcome(ToolError, () => ctx.call("file.read", { path: "conf/missing.txt" })),
  };
}

function files({ files }: Context) {
  return {
    wrote: files.write("conf/b.txt", "one\ntwo\n"),
    appended: files.append("conf/b.txt", "three\n"),
    text: files.readToString("conf/b.txt"),
    wrote_bytes: files.writeBytes("conf/c.bin", Uint8Array.of(0, 1, 2, 255)),
    bytes: [...files.readToBytes("conf/c.bin")],
    entries: files.list("conf").entries.map(({ name }) => name),
    missing: outcome(ToolError, () => files.readToString("conf/none.txt")),
  };
}

function state(ctx: Context, scope: Scope) {
  const state = ctx.state(scope);
  const absent = state.get("conf/k") === undefined;
  const first = state.set("conf/k", "1");
  const stored = state.get("conf/k");
  const same = stored !== undefined && new TextDecoder().decode(stored.value) === "1" && stored.version === first;
  const second = state.compareAndSwap("conf/k", first, "2");
  let conflict: unknown = "set";
  try {
    state.compareAndSwap("conf/k", first, "3");
  } catch (error) {
    if (!(error instanceof StateError)) throw error;
    conflict = { error: error.kind, current: error.current === second };
  }
  const present = outcome(StateError, () => state.compareAndSwap("conf/k", undefined, "4"));
  state.expiringAfter(60_000).set("conf/t", "x");
  const keys = state.list("conf/", { limit: 10 });
  const after = state.list("conf/", { after: "conf/k", limit: 10 });
  state.setJson("conf/j", { a: 1, b: [true, null] });
  const json = state.getJson("conf/j")?.value;
  const deleted = state.delete("conf/k");
  const deletedAgain = state.delete("conf/k");
  state.delete("conf/t");
  state.delete("conf/j");
  const invalid = outcome(StateError, () => state.set("bad key with spaces", "x"));
  return { absent, same, grown: second > first, conflict, present, keys, after, json, deleted, deleted_again: deletedAgain, invalid };
}

function human(ctx: Context) {
  const schema = { type: "object", properties: { go: { type: "boolean" } }, required: ["go"], additionalProperties: false };
  const answer = ctx.ask({ prompt: "Go on?", schema });
  const text = { type: "string" };
  const ifNobody = ctx.ask({ prompt: "Anybody?", schema: text, expiresMs: 1_000, default: "nobody" });
  const invalid = outcome(AskError, () => ctx.ask({ prompt: "", schema: text }));
  return { answer, default: ifNobody, invalid };
}

function agents(ctx: Context) {
  const child = ctx.spawn("echo", { hello: "child" });
  const id = child.id.startsWith("run_");
  const echo = child.wait();
  const again = child.wait();
  const limits = { fuel: 50_000_000, deadlineMs: 10_000 };
  const failed = ending(() => ctx.spawn("probe", { do: "fail", code: "no_rows", message: "none" }, limits).wait());
  const sleeping = ctx.spawn("probe", { do: "sleep", ms: 20_000 });
  sleeping.cancel();
  const { error, stop_reason } = ending(() => sleeping.wait());
  const denied = outcome(SpawnError, () => ctx.spawn("nobody", {}));
  return { id, echo, again, failed, cancelled: { error, stop_reason }, denied };
}

function ending(wait: () => unknown) {
  try {
    wait();
  } catch (error) {
    if (!(error instanceof ChildError) || error.failure === undefined) throw error;
    const { stopReason, code, message } = error.failure;
    return { error: error.kind, stop_reason: stopReason, code, message };
  }
  throw new AgentError("conformance", "the child did not fail");
}
