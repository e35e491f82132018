/** Why a tool call came to nothing. Thrown by calls of tools, and by a tool that cannot do what was asked. */
export declare class ToolError extends Error {
  /** With a text, or for `too_large` the limit in bytes. */
  constructor(kind: ToolErrorKind, detail: string | number);
  readonly kind: ToolErrorKind;
  /** The text without the kind. */
  readonly detail: string | number;
  /** Of `too_large`, in bytes. */
  readonly limit?: number;
}

export type ToolErrorKind =
  /** There is no such tool. The text names the nearest one. */
  | "unknown_tool"
  /** This run may not call it. The text says what is missing from the needs or the grant. */
  | "denied"
  /** The arguments are not what the tool's schema asks. The text says what and where. */
  | "invalid_arguments"
  /** The arguments or the answer are larger than the limit. */
  | "too_large"
  /** The run has used up a budget (calls, calls in flight, storage). The text names it with its value. */
  | "exhausted"
  /** The thing asked for does not exist: a missing file, for example. */
  | "not_found"
  /** The tool ran and failed. */
  | "failed"
  /** The host went away while the tool ran. It may have done its work, or some of it, or none: look before you call again. */
  | "outcome_unknown"
  /** The tool answered, but not with what the schema of the answer asks. The text says what and where. */
  | "unexpected_answer";

/** Why an event was not recorded. The run may go on. */
export declare class EventError extends Error {
  constructor(kind: EventError["kind"], detail?: string | number);
  /**
   * `too_many` events were emitted (`limit`); one is `too_large` (`limit`, in bytes: 1 MiB, 8 KiB for a log line); all
   * together have as many bytes as they may, `full` (`limit`); the name or payload is `invalid`; the run's host calls are
   * `exhausted`.
   */
  readonly kind: "too_many" | "too_large" | "full" | "exhausted" | "invalid";
  readonly limit?: number;
}

/** Why the state could not be read or changed. */
export declare class StateError extends Error {
  constructor(kind: StateError["kind"], detail?: string | number);
  /**
   * `denied`; the key, the time to live or the page size is `invalid`; the value is `too_large` (`limit`, in bytes); the
   * user's data are `full` (`limit`, in bytes); `conflict`: the key has another version than expected (`current`, absent if
   * the key is); the storage is `unavailable`; the run's host calls are `exhausted`; the value is `not_json`, or not what
   * its schema asks.
   */
  readonly kind: "denied" | "invalid" | "too_large" | "full" | "conflict" | "unavailable" | "exhausted" | "not_json";
  readonly limit?: number;
  /** The version that is there. */
  readonly current?: number;
}

/** Why a run did not wait. */
export declare class WaitError extends Error {
  constructor(kind: WaitError["kind"], detail?: string);
  /** Out of bounds; the run cannot be put away; or there are as many runs that wait, or host calls, as may be. */
  readonly kind: "invalid" | "unavailable" | "exhausted";
}

/** Why there is no answer to a question. */
export declare class AskError extends Error {
  constructor(kind: AskError["kind"], detail?: string);
  /** `expired`: nobody answered in time, and there was no default. */
  readonly kind: "denied" | "invalid" | "expired" | "unavailable" | "exhausted" | "unexpected_answer";
}

/** Why a child was not started. */
export declare class SpawnError extends Error {
  constructor(kind: SpawnError["kind"], detail?: string);
  /** `too_many`: the tree of runs is as deep, or has as many runs, as it may, or as much has to stay as may be kept. */
  readonly kind: "denied" | "unknown_agent" | "invalid" | "too_many" | "exhausted" | "unavailable";
}

/** Why there is no output of a child. That this run cannot wait for it is a `WaitError`. */
export declare class ChildError extends Error {
  constructor(kind: ChildError["kind"], detail?: ChildError["failure"] | string);
  /** It failed, and `failure` says how; or its output is not what the schema asks. */
  readonly kind: "failed" | "unexpected_output";
  readonly failure?: {
    /** Its stop reason: `guest_error`, `trap`, `deadline`, `cancelled` and so on. */
    readonly stopReason: string;
    /** For programs: its error's code. */
    readonly code: string;
    /** For people. */
    readonly message: string;
  };
}

/** Why a file of `/scratch` or `/workspace` could not be used. */
export declare class FileError extends Error {
  constructor(kind: string, path: string);
  /** As WASI has it, with `_`: `no_entry`, `exist`, `is_directory`, `insufficient_space` …; or `no_directory`. */
  readonly kind: string;
  readonly path: string;
}

/** Ends the run: the input is not what the agent takes. Say what is wrong, where, and what to do. */
export declare class InvalidInputError extends Error {
  constructor(message: string);
}

/** Ends the run: the host refused something that the agent cannot do without. */
export declare class DeniedError extends Error {
  constructor(message: string);
}

/** Ends the run: a code for programs to switch on, and a message for people. */
export declare class AgentError extends Error {
  /**
   * A code is 1 to 64 characters of `a-z`, `0-9` and `_`. Capitals become small, any other character becomes `_`, what is
   * too long is cut. Of the message, the host keeps 4 KiB.
   */
  constructor(code: string, message: string);
  readonly code: string;
}
