// Agents that an agent starts.

import { ChildError, SpawnError, WaitError } from "./errors.js";
import { ask, host, text, toJson } from "./host.js";
import { jsonSchemaOf } from "./schema.js";
import { validate } from "./validate.js";

const spawnError = (kind, detail) => new SpawnError(kind, detail);

export function spawn(agent, input, { output, fuel, memoryBytes, deadlineMs } = {}) {
  const refuse = (why) => new SpawnError("invalid", `the input of \`${agent}\` cannot be written as JSON: ${why}`);
  const written = toJson(input, refuse);
  const limits = { fuel: fuel ?? null, memoryBytes: memoryBytes ?? null, deadlineMs: deadlineMs ?? null };
  return new Child(ask(() => host().agents.spawn(text(agent), written, limits), spawnError), output);
}

/** A run that this one started. */
export class Child {
  #run;
  #output;
  // Asked for when it is first looked at: it costs a host call.
  #id;

  constructor(run, output) {
    this.#run = run;
    this.#output = output;
  }

  get id() {
    this.#id ??= this.#run.id();
    return this.#id;
  }

  wait() {
    const output = JSON.parse(ask(() => this.#run.wait(), childError));
    if (this.#output === undefined) return output;
    const { problem, value } = validate(jsonSchemaOf(this.#output), output);
    if (problem !== undefined) throw new ChildError("unexpected_output", problem);
    return value;
  }

  cancel() {
    this.#run.cancel();
  }
}

/** What kept this run from waiting is the same, whatever it waited for. */
function childError(kind, detail) {
  return kind === "wait" ? new WaitError(detail.tag.replaceAll("-", "_"), detail.val) : new ChildError(kind, detail);
}
