// How calls to the host, and runs, fail. One class for each error of the contract; `kind` says which of its cases.

/** The longest code of a failure, in characters, as the contract has it. */
const CODE_CHARS_MAX = 64;

class HostError extends Error {
  constructor(name, kind, message) {
    super(message);
    this.name = name;
    this.kind = kind;
  }
}

const TOOL_TEXTS = {
  unknown_tool: (text) => `unknown tool: ${text}`,
  denied: (text) => `denied: ${text}`,
  invalid_arguments: (text) => `invalid arguments: ${text}`,
  too_large: (limit) => `the arguments or the answer are larger than ${limit} bytes`,
  exhausted: (text) => `budget used up: ${text}`,
  not_found: (text) => `not found: ${text}`,
  failed: (text) => `the tool failed: ${text}`,
  outcome_unknown: (text) => `nobody knows what the tool did: ${text}`,
  unexpected_answer: (text) => `unexpected answer: ${text}`,
};

export class ToolError extends HostError {
  constructor(kind, detail) {
    if (!Object.hasOwn(TOOL_TEXTS, kind)) {
      throw new TypeError(`a ToolError is one of ${Object.keys(TOOL_TEXTS).join(", ")}, and not ${kind}`);
    }
    super("ToolError", kind, TOOL_TEXTS[kind](detail));
    if (kind === "too_large") this.limit = Number(detail);
    this.detail = detail;
  }
}

const EVENT_TEXTS = {
  too_many: (limit) => `the run has emitted all of its ${limit} events`,
  too_large: (limit) => `the event is larger than ${limit} bytes`,
  full: (limit) => `the run's events have ${limit} bytes together, which is as many as they may`,
  exhausted: (text) => text,
  invalid: (text) => `the event is not valid: ${text}`,
};

export class EventError extends HostError {
  constructor(kind, detail) {
    super("EventError", kind, EVENT_TEXTS[kind](detail));
    if (typeof detail === "number") this.limit = detail;
  }
}

const STATE_TEXTS = {
  denied: (text) => `denied: ${text}`,
  invalid: (text) => `the request for state is not valid: ${text}`,
  too_large: (limit) => `the value is larger than ${limit} bytes`,
  full: (limit) => `the user's state is full at ${limit} bytes: delete something first`,
  conflict: (version) =>
    version === undefined ? "the key is absent" : `the key changed meanwhile and is now at version ${version}`,
  unavailable: () => "the host's storage is not available: try again later",
  exhausted: (text) => text,
  not_json: (text) => `the value does not fit: ${text}`,
};

export class StateError extends HostError {
  constructor(kind, detail) {
    const given = detail ?? undefined;
    super("StateError", kind, STATE_TEXTS[kind](given));
    if (kind === "conflict") this.current = given;
    else if (typeof given === "number") this.limit = given;
  }
}

const WAIT_TEXTS = {
  invalid: (text) => `the wait is not valid: ${text}`,
  unavailable: (text) => `the run cannot wait: ${text}`,
  exhausted: (text) => `no wait is left: ${text}`,
};

export class WaitError extends HostError {
  constructor(kind, detail) {
    super("WaitError", kind, WAIT_TEXTS[kind](detail));
  }
}

const ASK_TEXTS = {
  denied: (text) => `denied: ${text}`,
  invalid: (text) => `the question is not valid: ${text}`,
  expired: () => "nobody answered in time",
  unavailable: (text) => `the run cannot wait for an answer: ${text}`,
  exhausted: (text) => `no question is left: ${text}`,
  unexpected_answer: (text) => `unexpected answer: ${text}`,
};

export class AskError extends HostError {
  constructor(kind, detail) {
    super("AskError", kind, ASK_TEXTS[kind](detail));
  }
}

const SPAWN_TEXTS = {
  denied: (text) => `denied: ${text}`,
  unknown_agent: (text) => `unknown agent: ${text}`,
  invalid: (text) => `the child is not valid: ${text}`,
  too_many: (text) => `too many runs: ${text}`,
  exhausted: (text) => `budget used up: ${text}`,
  unavailable: (text) => `no run can be started: ${text}`,
};

export class SpawnError extends HostError {
  constructor(kind, detail) {
    super("SpawnError", kind, SPAWN_TEXTS[kind](detail));
  }
}

export class ChildError extends HostError {
  constructor(kind, detail) {
    if (kind === "failed") {
      const { stopReason, code, message } = detail;
      super("ChildError", kind, `the child ended as ${stopReason} (${code}): ${message}`);
      this.failure = { stopReason, code, message };
    } else {
      super("ChildError", kind, `unexpected output of the child: ${detail}`);
    }
  }
}

const FILE_TEXTS = {
  no_entry: "there is no such file or directory",
  exist: "it is there already",
  is_directory: "it is a directory",
  not_directory: "it is not a directory",
  not_empty: "the directory is not empty",
  insufficient_space: "the quota is used up: remove something first",
  read_only: "it may only be read",
  not_permitted: "this is not permitted",
  access: "this may not be reached",
  no_directory: "a path starts with /scratch, or with /workspace if the plugin needs it and the user was granted it",
};

export class FileError extends HostError {
  constructor(kind, path) {
    super("FileError", kind, `${path}: ${FILE_TEXTS[kind] ?? kind.replaceAll("_", " ")}`);
    this.path = path;
  }
}

export class InvalidInputError extends Error {
  constructor(message) {
    super(message);
    this.name = "InvalidInputError";
  }
}

export class DeniedError extends Error {
  constructor(message) {
    super(message);
    this.name = "DeniedError";
  }
}

export class AgentError extends Error {
  constructor(code, message) {
    super(message);
    this.name = "AgentError";
    const known = [...String(code)].slice(0, CODE_CHARS_MAX).map((c) => c.toLowerCase().replace(/[^a-z0-9_]/u, "_"));
    this.code = known.join("") || "failed";
  }
}

// The codes of runs that ended with an error of the host that their agent did not catch: the same in every language.
const CODES = new Map([
  [ToolError, { failed: "tool_failed" }],
  [
    EventError,
    {
      too_many: "too_many_events",
      too_large: "event_too_large",
      full: "events_full",
      exhausted: "host_calls_exhausted",
      invalid: "invalid_event",
    },
  ],
  [
    StateError,
    {
      invalid: "invalid_state_request",
      too_large: "state_value_too_large",
      full: "state_full",
      conflict: "state_conflict",
      unavailable: "state_unavailable",
      exhausted: "host_calls_exhausted",
      not_json: "state_value_not_json",
    },
  ],
  [WaitError, { invalid: "invalid_wait", unavailable: "wait_unavailable", exhausted: "waits_exhausted" }],
  [
    AskError,
    {
      invalid: "invalid_question",
      expired: "question_expired",
      unavailable: "question_unavailable",
      exhausted: "questions_exhausted",
      unexpected_answer: "unexpected_human_answer",
    },
  ],
  [
    SpawnError,
    {
      unknown_agent: "unknown_agent",
      invalid: "invalid_child",
      too_many: "too_many_children",
      exhausted: "children_exhausted",
      unavailable: "children_unavailable",
    },
  ],
  [ChildError, { failed: "child_failed", unexpected_output: "unexpected_child_output" }],
]);

/** The contract's `agent-error` of what a run threw, or undefined if it is no error of the SDK. */
export function asAgentError(error) {
  if (error instanceof InvalidInputError) return { tag: "invalid-input", val: error.message.toWellFormed() };
  if (error instanceof DeniedError) return { tag: "denied", val: error.message.toWellFormed() };
  if (error instanceof AgentError) return failure(error.code, error.message);
  if (error instanceof FileError) return failure("file_error", error.message);
  for (const [of, codes] of CODES) {
    if (!(error instanceof of)) continue;
    if (error.kind === "denied") return { tag: "denied", val: error.message.replace(/^denied: /u, "").toWellFormed() };
    return failure(codes[error.kind] ?? error.kind, error.message);
  }
  return undefined;
}

/** The contract's `failed`. */
export function failure(code, message) {
  return { tag: "failed", val: { code, message: message.toWellFormed() } };
}

/** The contract's `tool-error` of what a tool threw, or undefined if it is no error of the SDK. */
export function asToolError(error) {
  if (error instanceof ToolError) {
    if (error.kind === "unexpected_answer") return { tag: "failed", val: error.message.toWellFormed() };
    const val = error.kind === "too_large" ? error.limit : String(error.detail).toWellFormed();
    return { tag: error.kind.replaceAll("_", "-"), val };
  }
  if (error instanceof InvalidInputError) return { tag: "invalid-arguments", val: error.message.toWellFormed() };
  if (error instanceof DeniedError) return { tag: "denied", val: error.message.toWellFormed() };
  if (asAgentError(error) !== undefined) return { tag: "failed", val: error.message.toWellFormed() };
  return undefined;
}
