import assert from "node:assert/strict";
import { afterEach, test } from "node:test";

import { exportsOf } from "../src/agent.js";
import { useHost } from "../src/host.js";
import { agent, AgentError, DeniedError, InvalidInputError, s } from "../src/index.js";
import { exportsOf as toolExportsOf } from "../src/tool-plugin.js";
import { tool, ToolError, tools } from "../src/index.js";
import { fakeHost } from "./fake-host.js";

const PROJECT = { name: "greeter", version: "1.2.3" };

afterEach(() => useHost(null));

function greeter(run, more = {}) {
  return exportsOf(
    agent(
      {
        description: "Greets.",
        input: s.object({ name: s.string(), times: s.integer({ minimum: 0 }).default(1) }, { additionalProperties: false }),
        output: s.object({ greeting: s.string(), note: s.string().optional() }),
        ...more,
      },
      run,
    ),
    PROJECT,
  );
}

function thrown(call) {
  try {
    call();
  } catch (error) {
    return error;
  }
  return assert.fail("it threw nothing");
}

test("a descriptor has name and version of the project unless the agent has its own", () => {
  const described = greeter(() => {}, { needs: { tools: ["file.read"], state: "read_write", human: true } }).describe();
  assert.deepEqual([described.name, described.version, described.description], ["greeter", "1.2.3", "Greets."]);
  assert.deepEqual(described.needs, {
    tools: ["file.read"],
    state: "read-write",
    workspace: "none",
    agents: [],
    human: true,
    durable: false,
  });
  assert.deepEqual(JSON.parse(described.inputSchema).required, ["name"]);
  assert.deepEqual(JSON.parse(described.outputSchema).required, ["greeting"]);
  const own = greeter(() => {}, { name: "other", version: "7" }).describe();
  assert.deepEqual([own.name, own.version], ["other", "7"]);
});

test("a run gives its output as JSON, also from an async function", () => {
  useHost(fakeHost());
  const sync = greeter((_ctx, { name, times }) => ({ greeting: `Hello ${name} (${times})`, note: undefined }));
  assert.equal(sync.run('{"name":"Ada"}'), '{"greeting":"Hello Ada (1)"}');
  const thenable = greeter((_ctx, { name }) => ({ then: (resolve) => resolve({ greeting: name }) }));
  assert.equal(thenable.run('{"name":"Ada"}'), '{"greeting":"Ada"}');
  const nothing = exportsOf(agent({ description: "", input: s.any(), output: s.null() }, () => {}), PROJECT);
  assert.equal(nothing.run("[1]"), "null");
});

test("an input of the wrong shape is invalid and the error names the place", () => {
  useHost(fakeHost());
  const { run } = greeter(() => assert.fail("it ran"));
  for (const [input, place] of [
    ['{"name":7}', 'at "/name": 7 is not a string'],
    ['{"name":"Ada","times":-2}', 'at "/times": -2 is less than 0'],
    ['{"name":"Ada","nmae":1}', "`nmae` is not known"],
    ["{}", "`name` is missing"],
    ['{"name":', "JSON"],
  ]) {
    const error = thrown(() => run(input));
    assert.equal(error.tag, "invalid-input");
    assert.ok(error.val.startsWith("the input is not valid: ") && error.val.includes(place), error.val);
  }
});

test("how a run fails is told as the agent said it", () => {
  useHost(fakeHost());
  for (const [error, expected] of [
    [new InvalidInputError("no rows"), { tag: "invalid-input", val: "no rows" }],
    [new DeniedError("no grant"), { tag: "denied", val: "no grant" }],
    [new AgentError("No Rows!", "none"), { tag: "failed", val: { code: "no_rows_", message: "none" } }],
    [new AgentError("", "none"), { tag: "failed", val: { code: "failed", message: "none" } }],
    [new AgentError("é".repeat(65), "m"), { tag: "failed", val: { code: "_".repeat(64), message: "m" } }],
    [new ToolError("denied", "no grant"), { tag: "denied", val: "no grant" }],
    [new ToolError("not_found", "a.csv"), { tag: "failed", val: { code: "not_found", message: "not found: a.csv" } }],
    [new ToolError("failed", "it broke"), { tag: "failed", val: { code: "tool_failed", message: "the tool failed: it broke" } }],
  ]) {
    const { run } = greeter(() => {
      throw error;
    });
    assert.deepEqual(thrown(() => run('{"name":"Ada"}')), expected);
  }
});

test("an exception that nobody caught is an error of the run", () => {
  useHost(fakeHost());
  const { run } = greeter((_ctx, { name }) => name.x.y);
  const { tag, val } = thrown(() => run('{"name":"Ada"}'));
  assert.deepEqual([tag, val.code], ["failed", "uncaught_exception"]);
  assert.match(val.message, /^TypeError: /u);
  const throwing = (what) => () => {
    throw what;
  };
  assert.equal(thrown(() => greeter(throwing("text")).run('{"name":""}')).val.message, "thrown: text");
  assert.equal(thrown(() => greeter(throwing({ a: 1 })).run('{"name":""}')).val.message, 'thrown: {"a":1}');
  const cause = thrown(() => greeter(throwing(new Error("a", { cause: new Error("b") }))).run('{"name":""}'));
  assert.equal(cause.val.message, "Error: a\ncaused by Error: b");
});

test("an output that is not what the agent says is its own fault", () => {
  useHost(fakeHost());
  for (const [output, code, text] of [
    [{ greeting: 7 }, "invalid_output", 'at "/greeting": 7 is not a string'],
    [undefined, "invalid_output", "null is not an object"],
    [{ greeting: 1n }, "output_not_json", "BigInt"],
    [() => {}, "output_not_json", "function"],
  ]) {
    const { val } = thrown(() => greeter(() => output).run('{"name":"Ada"}'));
    assert.equal(val.code, code);
    assert.ok(val.message.includes(text), val.message);
  }
});

test("what is missing from a definition is said when it is made", () => {
  const made = (options, run = () => {}) => () => agent(options, run);
  assert.throws(made({ input: s.any(), output: s.any() }), /`description`/u);
  assert.throws(made({ description: "", output: s.any() }), /`input`/u);
  assert.throws(made({ description: "", input: s.any() }), /`output`/u);
  assert.throws(made({ description: "", input: s.any(), output: s.any() }, null), /function/u);
  assert.throws(made({ description: "", input: 7, output: s.any() }), /a schema is/u);
  assert.throws(made({ description: "", input: s.any(), output: s.any(), needs: { stat: "read" } }), /`stat` is no need/u);
  assert.throws(made({ description: "", input: s.any(), output: s.any(), needs: { state: "write" } }), /"read_write"/u);
  assert.throws(() => exportsOf(() => {}, PROJECT), /not an agent/u);
  assert.throws(() => toolExportsOf({}, PROJECT), /not a tool plugin/u);
  assert.throws(() => tools({ description: "", tools: {} }), /has `tools`/u);
  assert.throws(() => tools({ description: "", tools: { a: () => {} } }), /`a` is not made with/u);
});

const arithmetic = () =>
  toolExportsOf(
    tools({
      description: "Calculates.",
      needs: { state: "read" },
      tools: {
        add: tool({ description: "Adds.", input: s.object({ a: s.number(), b: s.number() }), idempotent: true }, (_ctx, { a, b }) => a + b),
        divide: tool({ description: "Divides.", input: s.object({ a: s.number(), b: s.number() }) }, (ctx, { a, b }) => {
          ctx.info("dividing");
          if (b === 0) throw new ToolError("failed", "cannot divide by zero");
          return a / b;
        }),
        break: tool({ description: "Breaks.", input: s.any() }, () => null.x),
        big: tool({ description: "Is too large.", input: s.any() }, () => {
          throw new ToolError("too_large", 7);
        }),
      },
    }),
    PROJECT,
  );

test("a tool plugin lists its tools with their schemas", () => {
  const described = arithmetic().describe();
  assert.deepEqual(described.tools.map(({ name }) => name), ["add", "divide", "break", "big"]);
  assert.deepEqual(described.tools.map(({ idempotent }) => idempotent), [true, false, false, false]);
  assert.deepEqual(JSON.parse(described.tools[0].inputSchema).required, ["a", "b"]);
  assert.equal(described.needs.state, "read");
});

test("a call reaches the tool of its name, and says why it cannot be answered", () => {
  useHost(fakeHost());
  const { call } = arithmetic();
  assert.equal(call("add", '{"a":1,"b":2}'), "3");
  assert.deepEqual(thrown(() => call("divide", '{"a":1,"b":0}')), { tag: "failed", val: "cannot divide by zero" });
  assert.deepEqual(thrown(() => call("add", '{"a":1,"b":"2"}')), {
    tag: "invalid-arguments",
    val: 'at "/b": "2" is not a number',
  });
  assert.equal(thrown(() => call("subtract", "{}")).tag, "unknown-tool");
  assert.match(thrown(() => call("break", "{}")).val, /^TypeError: /u);
  assert.deepEqual(thrown(() => call("big", "{}")), { tag: "too-large", val: 7 });
});
