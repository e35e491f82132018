// A host for tests: state and files in memory, and a log of the calls.

/** An error of the contract, as the bindings throw it: a variant, or an enum. */
export const thrownBy = (payload) => Object.assign(new Error("[object Object] (see error.payload)"), { payload });

/** What the host refuses. */
export const refusal = (tag, val) => thrownBy({ tag, val });

export function fakeHost({ tools = {}, answers = [], children = {}, info = {} } = {}) {
  const calls = [];
  const kept = new Map();
  let versions = 0;
  const noted =
    (name, answer) =>
    (...args) => {
      calls.push([name, ...args]);
      return answer(...args);
    };
  const callTool = (name, args) => {
    if (!(name in tools)) throw refusal("unknown-tool", `\`${name}\``);
    return JSON.stringify(tools[name](JSON.parse(args)));
  };
  class Pending {
    constructor(answer) {
      this.answer = answer;
    }
    ready() {
      return true;
    }
    static wait(pending) {
      return pending.answer();
    }
    [Symbol.dispose]() {
      calls.push(["pending.drop"]);
    }
  }
  const key = (scope, name) => `${scope}/${name}`;
  return {
    calls,
    kept,
    context: {
      get: noted("context.get", () => ({
        userId: "ann",
        requestId: "req_1",
        runId: "run_1",
        parentRunId: null,
        threadId: "thr_1",
        sessionId: null,
        metadata: "{}",
        idempotencyKey: null,
        ...info,
      })),
      budget: noted("context.budget", () => ({
        fuel: 1000,
        memoryBytes: 100,
        wallMs: 60000,
        toolCalls: 7,
        events: 8,
        hostCalls: 9,
      })),
      sleepUntil: noted("context.sleep-until", () => {}),
    },
    events: {
      thinking: noted("events.thinking", () => {}),
      progress: noted("events.progress", (fraction) => {
        if (!(fraction >= 0 && fraction <= 1)) throw refusal("invalid", "the fraction");
      }),
      emit: noted("events.emit", () => {}),
      log: noted("events.log", (_level, text) => {
        if (Buffer.byteLength(text) > 8192) throw refusal("too-large", 8192);
      }),
    },
    tools: {
      list: noted("tools.list", () =>
        Object.keys(tools).map((name) => ({ name, description: "", inputSchema: "{}", idempotent: true })),
      ),
      call: noted("tools.call", callTool),
      start: noted("tools.start", (name, args) => new Pending(() => callTool(name, args))),
      Pending,
    },
    state: {
      get: noted("state.get", (scope, name) => kept.get(key(scope, name)) ?? null),
      set: noted("state.set", (scope, name, value) => {
        if (name.includes(" ")) throw refusal("invalid", "the key has a space");
        versions += 1;
        kept.set(key(scope, name), { value, version: versions });
        return versions;
      }),
      delete: noted("state.delete", (scope, name) => kept.delete(key(scope, name))),
      list: noted("state.list", (scope, prefix) =>
        [...kept.keys()].filter((name) => name.startsWith(key(scope, prefix))).map((name) => name.slice(scope.length + 1)),
      ),
      compareAndSwap: noted("state.compare-and-swap", (scope, name, expected, value) => {
        const there = kept.get(key(scope, name))?.version ?? null;
        if (there !== expected) throw refusal("conflict", there);
        versions += 1;
        kept.set(key(scope, name), { value, version: versions });
        return versions;
      }),
    },
    human: {
      ask: noted("human.ask", () => {
        if (answers.length === 0) throw refusal("expired");
        return JSON.stringify(answers.shift());
      }),
    },
    agents: {
      spawn: noted("agents.spawn", (name) => {
        if (!(name in children)) throw refusal("unknown-agent", `\`${name}\``);
        return {
          id: noted("child.id", () => "run_2"),
          wait: noted("child.wait", () => JSON.stringify(children[name]())),
          cancel: noted("child.cancel", () => {}),
        };
      }),
    },
    random: { getRandomBytes: noted("random", (count) => new Uint8Array(count).fill(7)) },
  };
}
