// The tool plugin: what an author defines to offer tools to agents, and how it answers the world.

import { ToolContext } from "./context.js";
import { asToolError, ToolError } from "./errors.js";
import { toJson } from "./host.js";
import { asNeeds } from "./needs.js";
import { settled } from "./runtime/settle.js";
import { place } from "./runtime/stack.js";
import { jsonSchemaOf } from "./schema.js";
import { checkerOf, validate } from "./validate.js";

const NEEDS = ["state", "workspace"];

/** One tool. */
export class Tool {
  constructor(options, answer) {
    const { description, input, idempotent = false } = options;
    if (typeof description !== "string") throw new TypeError("a tool has a `description`, which says what it does");
    if (input === undefined) throw new TypeError("a tool has an `input`, the schema of its arguments: s.object({ … })");
    if (typeof answer !== "function") throw new TypeError("a tool has a function: tool({ … }, (ctx, args) => answer)");
    this.description = description;
    this.input = jsonSchemaOf(input);
    this.idempotent = Boolean(idempotent);
    // Now, when the component is built, and not in each call.
    checkerOf(this.input);
    this.answer = answer;
    Object.freeze(this);
  }
}

export function tool(options, answer) {
  return new Tool(options, answer);
}

/** A tool plugin as its author defined it. */
export class ToolPlugin {
  constructor({ name, version, description, needs = {}, tools: table }) {
    if (typeof description !== "string") throw new TypeError("a tool plugin has a `description`, which says what it is for");
    if (table === null || typeof table !== "object" || Object.keys(table).length === 0) {
      throw new TypeError("a tool plugin has `tools`: { NAME: tool({ … }, (ctx, args) => answer) }");
    }
    for (const [of, one] of Object.entries(table)) {
      if (!(one instanceof Tool)) throw new TypeError(`the tool \`${of}\` is not made with \`tool({ … }, (ctx, args) => answer)\``);
    }
    this.name = name;
    this.version = version;
    this.description = description;
    this.needs = asNeeds(needs, NEEDS);
    this.tools = new Map(Object.entries(table));
    Object.freeze(this);
  }
}

export function tools(options) {
  return new ToolPlugin(options);
}

/** The exports of the world `tool`, for a plugin of a project of this name and version. */
export function exportsOf(defined, project) {
  if (!(defined instanceof ToolPlugin)) {
    throw new TypeError(
      "the default export is not a tool plugin: write `export default tools({ description, tools: { … } })`, with `tools` imported from cofferdam-sdk",
    );
  }
  return {
    describe: () => ({
      name: defined.name ?? project.name,
      version: defined.version ?? project.version,
      description: defined.description,
      tools: [...defined.tools].map(([name, { description, input, idempotent }]) => ({
        name,
        description,
        inputSchema: JSON.stringify(input),
        idempotent,
      })),
      needs: defined.needs,
    }),
    call: (name, args) => call(defined, name, args),
  };
}

function call(defined, name, text) {
  try {
    const known = defined.tools.get(name);
    if (known === undefined) {
      throw new ToolError("unknown_tool", `\`${name}\`; the plugin has ${[...defined.tools.keys()].join(", ")}`);
    }
    return answerText(settled(() => known.answer(new ToolContext(), readArguments(known, text))));
  } catch (error) {
    throw asToolError(error) ?? { tag: "failed", val: place(error) };
  }
}

function readArguments(known, text) {
  let args;
  try {
    args = JSON.parse(text);
  } catch (error) {
    throw new ToolError("invalid_arguments", error.message);
  }
  const { problem, value } = validate(known.input, args);
  if (problem !== undefined) throw new ToolError("invalid_arguments", problem);
  return value;
}

function answerText(answer) {
  const refuse = (why) => new ToolError("failed", `the answer cannot be written as JSON: ${why}`);
  return toJson(answer === undefined ? null : answer, refuse);
}
