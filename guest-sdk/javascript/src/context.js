// What a plugin can reach.

import { spawn } from "./children.js";
import { AskError, EventError, InvalidInputError, WaitError } from "./errors.js";
import { Files } from "./files.js";
import { ask, host, text, toJson } from "./host.js";
import { jsonSchemaOf } from "./schema.js";
import { State } from "./state.js";
import { call, list, start } from "./tools.js";
import { validate } from "./validate.js";

const eventError = (kind, detail) => new EventError(kind, detail);
const waitError = (kind, detail) => new WaitError(kind, detail);
const askError = (kind, detail) => new AskError(kind, detail);

/** What a tool plugin can reach. */
export class ToolContext {
  // Asked for when it is first looked at: most runs never do, and it costs a host call.
  #identity;

  get #info() {
    this.#identity ??= host().context.get();
    return this.#identity;
  }

  get userId() {
    return this.#info.userId;
  }

  get requestId() {
    return this.#info.requestId;
  }

  get runId() {
    return this.#info.runId;
  }

  get parentRunId() {
    return this.#info.parentRunId ?? undefined;
  }

  get threadId() {
    return this.#info.threadId;
  }

  get sessionId() {
    return this.#info.sessionId ?? undefined;
  }

  get idempotencyKey() {
    return this.#info.idempotencyKey ?? undefined;
  }

  metadata(schema = {}) {
    const { problem, value } = validate(jsonSchemaOf(schema), JSON.parse(this.#info.metadata));
    if (problem !== undefined) throw new InvalidInputError(`the run's metadata are not valid: ${problem}`);
    return value;
  }

  budget() {
    const { fuel, memoryBytes, wallMs, toolCalls, events, hostCalls } = host().context.budget();
    return { fuel, memoryBytes, wallMs, toolCalls, events, hostCalls };
  }

  deadline() {
    return new Date(Date.now() + host().context.budget().wallMs);
  }

  sleepUntil(time) {
    const ms = Math.ceil(Number(time));
    if (Number.isNaN(ms)) throw new WaitError("invalid", "the time is a Date, or milliseconds since 1970");
    // A time before 1970 is past like any other. What is beyond all bounds is left for the host to refuse.
    const within = Math.min(Math.max(ms, 0), Number.MAX_SAFE_INTEGER);
    ask(() => host().context.sleepUntil(within), waitError);
  }

  sleep(ms) {
    this.sleepUntil(Date.now() + ms);
  }

  thinking(what) {
    ask(() => host().events.thinking(text(what)), eventError);
  }

  progress(fraction, note = "") {
    ask(() => host().events.progress(fraction, text(note)), eventError);
  }

  emit(name, payload) {
    const refuse = (why) => new EventError("invalid", `the payload cannot be written as JSON: ${why}`);
    const written = toJson(payload, refuse);
    ask(() => host().events.emit(text(name), written), eventError);
  }

  partialResult(payload) {
    this.emit("partial-result", payload);
  }

  log(level, line) {
    if (!LEVELS.includes(level)) throw new EventError("invalid", `a level is one of ${LEVELS.join(", ")}`);
    ask(() => host().events.log(level, text(line)), eventError);
  }

  debug(line) {
    this.#logIfPossible("debug", line);
  }

  info(line) {
    this.#logIfPossible("info", line);
  }

  warn(line) {
    this.#logIfPossible("warn", line);
  }

  error(line) {
    this.#logIfPossible("error", line);
  }

  /** A line that cannot be recorded is no reason to lose the work. */
  #logIfPossible(level, line) {
    try {
      this.log(level, line);
    } catch (error) {
      if (!(error instanceof EventError)) throw error;
    }
  }

  state(scope) {
    return new State(scope);
  }
}

const LEVELS = ["debug", "info", "warn", "error"];

/** What an agent can reach. */
export class Context extends ToolContext {
  get files() {
    return new Files(this);
  }

  tools() {
    return list();
  }

  call(name, args, answer) {
    return call(name, args, answer);
  }

  start(name, args, answer) {
    return start(name, args, answer);
  }

  spawn(agent, input, options) {
    return spawn(agent, input, options);
  }

  ask({ prompt, schema, expiresMs, default: ifNobody }) {
    const json = jsonSchemaOf(schema);
    const refuse = (what) => (why) => new AskError("invalid", `${what} cannot be written as JSON: ${why}`);
    const question = {
      prompt: text(prompt),
      schema: toJson(json, refuse("the schema")),
      expiresMs: expiresMs === undefined ? null : Math.ceil(expiresMs),
      default: ifNobody === undefined ? null : toJson(ifNobody, refuse("the default answer")),
    };
    const answer = JSON.parse(ask(() => host().human.ask(question), askError));
    const { problem, value } = validate(json, answer);
    if (problem !== undefined) throw new AskError("unexpected_answer", problem);
    return value;
  }
}
