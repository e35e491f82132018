// Calling tools.

import { ToolError } from "./errors.js";
import { ask, host, text, toJson } from "./host.js";
import { jsonSchemaOf } from "./schema.js";
import { validate } from "./validate.js";

const toolError = (kind, detail) => new ToolError(kind, detail);

export function list() {
  return host()
    .tools.list()
    .map(({ name, description, inputSchema, idempotent }) => ({
      name,
      description,
      inputSchema: JSON.parse(inputSchema),
      idempotent,
    }));
}

export function call(name, args, answer) {
  const written = writeArguments(name, args);
  return readAnswer(name, ask(() => host().tools.call(text(name), written), toolError), answer);
}

export function start(name, args, answer) {
  const written = writeArguments(name, args);
  return new Pending(name, ask(() => host().tools.start(text(name), written), toolError), answer);
}

/** A tool call under way. */
export class Pending {
  #name;
  #call;
  #answer;

  constructor(name, underWay, answer) {
    this.#name = name;
    this.#call = underWay;
    this.#answer = answer;
  }

  ready() {
    return this.#underWay().ready();
  }

  wait() {
    const underWay = this.#underWay();
    this.#call = undefined;
    const written = ask(() => host().tools.Pending.wait(underWay), toolError);
    return readAnswer(this.#name, written, this.#answer);
  }

  cancel() {
    const underWay = this.#call;
    this.#call = undefined;
    underWay?.[Symbol.dispose]();
  }

  [Symbol.dispose]() {
    this.cancel();
  }

  #underWay() {
    if (this.#call === undefined) throw new TypeError(`the call of ${this.#name} was waited for, or cancelled, before`);
    return this.#call;
  }
}

function writeArguments(name, args) {
  const refuse = (why) =>
    new ToolError("invalid_arguments", `the arguments of \`${name}\` cannot be written as JSON: ${why}`);
  return toJson(args, refuse);
}

function readAnswer(name, written, schema) {
  const answer = JSON.parse(written);
  if (schema === undefined) return answer;
  const { problem, value } = validate(jsonSchemaOf(schema), answer);
  if (problem !== undefined) throw new ToolError("unexpected_answer", `from \`${name}\`: ${problem}`);
  return value;
}
