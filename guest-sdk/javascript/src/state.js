// Key-value data that outlives the run.

import { bytesOf, textOf } from "./bytes.js";
import { StateError } from "./errors.js";
import { ask, host, text, toJson } from "./host.js";
import { jsonSchemaOf } from "./schema.js";
import { validate } from "./validate.js";

const stateError = (kind, detail) => new StateError(kind, detail);

/** The user's key-value data for a plugin, in one scope. */
export class State {
  #scope;
  #ttlMs;

  constructor(scope, ttlMs = null) {
    if (scope !== "user" && scope !== "thread") throw new TypeError('the scope of state is "user" or "thread"');
    this.#scope = scope;
    this.#ttlMs = ttlMs;
  }

  expiringAfter(ms) {
    // Rounded down: it is an upper bound. What is out of bounds is left for the host to refuse.
    return new State(this.#scope, Math.min(Math.max(Math.floor(ms), 0), Number.MAX_SAFE_INTEGER));
  }

  get(key) {
    const entry = ask(() => host().state.get(this.#scope, text(key)), stateError);
    return entry === null || entry === undefined
      ? undefined
      : { value: Uint8Array.from(entry.value), version: entry.version };
  }

  getJson(key, schema) {
    const stored = this.get(key);
    if (stored === undefined) return undefined;
    return { value: readJson(key, stored.value, schema), version: stored.version };
  }

  set(key, value) {
    const bytes = bytesOf(value);
    return ask(() => host().state.set(this.#scope, text(key), bytes, this.#ttlMs), stateError);
  }

  setJson(key, value) {
    return this.set(key, writeJson(key, value));
  }

  delete(key) {
    return ask(() => host().state.delete(this.#scope, text(key)), stateError);
  }

  list(prefix = "", { after, limit = 1000 } = {}) {
    const from = after === undefined ? null : text(after);
    return ask(() => host().state.list(this.#scope, text(prefix), from, limit), stateError);
  }

  compareAndSwap(key, expected, value) {
    const bytes = bytesOf(value);
    return ask(
      () => host().state.compareAndSwap(this.#scope, text(key), expected ?? null, bytes, this.#ttlMs),
      stateError,
    );
  }

  compareAndSwapJson(key, expected, value) {
    return this.compareAndSwap(key, expected, writeJson(key, value));
  }
}

function readJson(key, bytes, schema) {
  let value;
  try {
    value = JSON.parse(textOf(bytes));
  } catch (error) {
    throw new StateError("not_json", `\`${key}\`: ${error.message}`);
  }
  if (schema === undefined) return value;
  const checked = validate(jsonSchemaOf(schema), value);
  if (checked.problem !== undefined) throw new StateError("not_json", `\`${key}\`: ${checked.problem}`);
  return checked.value;
}

function writeJson(key, value) {
  return toJson(value, (why) => new StateError("not_json", `\`${key}\`: ${why}`));
}
