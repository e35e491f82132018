import type { Infer, InferIn, JsonSchema, Presence, Schema } from "./schema.js";

type AnySchema = Schema<unknown, unknown, Presence>;

/** What is left of a run's budget, read at the moment of the call. */
export interface BudgetLeft {
  /** Fuel: about one unit per WebAssembly instruction. */
  readonly fuel: number;
  /** Bytes by which all memories and tables together may still grow. */
  readonly memoryBytes: number;
  /** Milliseconds until the deadline. Time spent in host calls counts. */
  readonly wallMs: number;
  /** Tool calls that may still be made. */
  readonly toolCalls: number;
  /** Events that may still be emitted, log lines included. */
  readonly events: number;
  /** Calls to the host that may still be made, of every kind. */
  readonly hostCalls: number;
}

export type Level = "debug" | "info" | "warn" | "error";

/** How widely a key is seen: by runs of this plugin in this thread, or by all of this user's runs of this plugin. */
export type Scope = "thread" | "user";

/** What a tool plugin can reach: who the run is for, its budget, its events, and the user's state for this plugin. */
export declare class ToolContext {
  /** The user on whose behalf the plugin runs. */
  readonly userId: string;
  /** The request that started the run. */
  readonly requestId: string;
  /** This run. */
  readonly runId: string;
  /** The run that started this one, if an agent did. */
  readonly parentRunId: string | undefined;
  /** The conversation this run belongs to. A run submitted without one has a thread of its own. */
  readonly threadId: string;
  /** The client's connection, if the run was submitted over a lasting one. */
  readonly sessionId: string | undefined;
  /**
   * In a tool plugin: the same for each attempt at one call, and another for each call. A durable run that was cut off while
   * an idempotent tool ran calls it again with the same key.
   */
  readonly idempotencyKey: string | undefined;

  /**
   * The client's own key-value data for this run: an object, empty if none was given. At most 16 KiB.
   * @throws {InvalidInputError} if it does not fit the schema: the client chose it.
   */
  metadata(): { [name: string]: any };
  metadata<S extends AnySchema>(schema: S): Infer<S>;

  /** What is left to this run. */
  budget(): BudgetLeft;
  /** When the run ends by its deadline. */
  deadline(): Date;

  /**
   * Waits until a time, a `Date` or milliseconds since 1970. A time that is past returns at once. A wait of a second or more
   * holds no sandbox and does not count as the run's time; a shorter one does. At most as long from now as the user's quota
   * says, 30 days by default. In a tool plugin every wait is a short one.
   * @throws {WaitError}
   */
  sleepUntil(time: Date | number): void;
  /** Waits so many milliseconds, as `sleepUntil` does. */
  sleep(ms: number): void;

  /** Says what the plugin is working on, for a person to read. The client sees `agent_thinking`. @throws {EventError} */
  thinking(text: string): void;
  /** How far the run has come, from 0 to 1, and a note. The client sees `progress`. @throws {EventError} */
  progress(fraction: number, note?: string): void;
  /**
   * An event of the plugin's own. The client sees the type `custom:NAME`. A name is 1 to 64 characters of `a-z`, `0-9`, `_`,
   * `-` and `.`, and starts with a letter. @throws {EventError}
   */
  emit(name: string, payload: unknown): void;
  /** A part of the output before its end: `emit("partial-result", payload)`. @throws {EventError} */
  partialResult(payload: unknown): void;
  /** A line for whoever looks into the run later. The client sees `log`. At most 8 KiB. @throws {EventError} */
  log(level: Level, text: string): void;
  /** A log line. If it cannot be recorded, the run goes on without it. */
  debug(text: string): void;
  /** A log line. If it cannot be recorded, the run goes on without it. */
  info(text: string): void;
  /** A log line. If it cannot be recorded, the run goes on without it. */
  warn(text: string): void;
  /** A log line. If it cannot be recorded, the run goes on without it. */
  error(text: string): void;

  /** The user's key-value data for this plugin. */
  state(scope: Scope): State;
}

/** What an agent can reach: what a tool plugin can, and tools, files, people and other agents. */
export declare class Context extends ToolContext {
  /** The files of the user's workspace. Needs the tools `file.list`, `file.read` or `file.write`, or `file.*`. */
  readonly files: Files;

  /**
   * The tools this run may call, by name. A tool that is not granted is not listed, and of more than 1 MiB of descriptions
   * and schemas the last by name are left out.
   */
  tools(): ToolInfo[];

  /**
   * Calls a tool and waits for its answer. The client sees `tool_executing`, then `tool_completed`. Arguments and answer are
   * at most 1 MiB of JSON. With a schema, the answer is checked.
   * @throws {ToolError}
   */
  call(name: string, args: unknown): any;
  call<S extends AnySchema>(name: string, args: unknown, answer: S): Infer<S>;

  /** Starts a tool call without waiting, so that several run side by side. At most 32 may be under way. @throws {ToolError} */
  start(name: string, args: unknown): Pending<any>;
  start<S extends AnySchema>(name: string, args: unknown, answer: S): Pending<Infer<S>>;

  /**
   * Asks people, and waits for their answer. The client sees `run_waiting` with the question, and answers with
   * `POST /v1/runs/{id}/input`. Needs `human`. The wait holds no sandbox and is not the run's time.
   * @throws {AskError}
   */
  ask<S extends AnySchema>(question: Question<S>): Infer<S>;
  ask(question: Question<JsonSchema>): any;

  /**
   * Starts an agent on an input, in a run of its own: for the same user, in the same thread, and out of this run's budget.
   * Needs `agents`. `agent` is a name, or `name@version`. The input is at most 1 MiB of JSON. A run starts at most 16 others,
   * and a tree of runs has at most 64 and is at most 8 deep. When this run ends, its children that have not are cancelled.
   * @throws {SpawnError}
   */
  spawn(agent: string, input: unknown, options?: ChildLimits): Child<any>;
  spawn<S extends AnySchema>(agent: string, input: unknown, options: ChildLimits & { output: S }): Child<Infer<S>>;
}

/** A question to people. */
export interface Question<S> {
  /** What is asked, for a person to read. At most 16 KiB. */
  prompt: string;
  /** What the answer must be. What does not fit is refused before the agent hears of it. */
  schema: S;
  /** How long to wait, in milliseconds: at most, and if not said, what the user's quota says (30 days by default). */
  expiresMs?: number;
  /** The answer if nobody gave one in time. It must fit the schema. */
  default?: InferIn<S>;
}

/** Limits of a child, each at most what is left to its parent, which is also what it has if not said. */
export interface ChildLimits {
  /** Fuel, which the parent does not have meanwhile; what the child leaves comes back with `wait`. If not said, a third. */
  fuel?: number;
  /** Bytes of all memories and tables. */
  memoryBytes?: number;
  /** Milliseconds of execution. */
  deadlineMs?: number;
}

/** A run that this one started. */
export declare class Child<T> {
  private constructor();
  /** Its run. */
  readonly id: string;
  /**
   * Waits for its output. The wait holds no sandbox and is not the run's time. Waiting again gives the same.
   * @throws {ChildError} if it failed or was cancelled. @throws {WaitError} if this run cannot wait.
   */
  wait(): T;
  /** Asks it to stop. If it has not ended before, it ends as `cancelled`, which `wait` tells. */
  cancel(): void;
}

/** A tool that this run may call. */
export interface ToolInfo {
  /** Full name: `family.verb` for the host's own tools (`file.read`), `plugin.tool` for a plugin's. */
  readonly name: string;
  /** What it does, for a person or a model to read. */
  readonly description: string;
  /** JSON Schema of the arguments. */
  readonly inputSchema: JsonSchema;
  /** Whether a second call with the same arguments does no harm. */
  readonly idempotent: boolean;
}

/** A tool call under way, until its answer is taken. */
export declare class Pending<T> {
  private constructor();
  /** Whether the answer is there, so that `wait` would not wait. */
  ready(): boolean;
  /** Waits for the answer. Only once. @throws {ToolError} */
  wait(): T;
  /** Ends the call where it stands; a file that it was writing may be written. */
  cancel(): void;
  [Symbol.dispose](): void;
}

/** A stored value, and the version that `compareAndSwap` compares. */
export interface Stored<T> {
  readonly value: T;
  /** Grows with every change of the key. */
  readonly version: number;
}

/**
 * The user's key-value data for this plugin, in one scope. Keys are 1 to 256 bytes of printable ASCII without spaces, values
 * at most 1 MiB, a user's keys and values together at most 64 MiB, to which each key adds 200 bytes. Reading needs `state`
 * of `read`, the rest `read_write`. All of it throws a `StateError` where the host refuses.
 */
export declare class State {
  private constructor();
  /** The same data, but what is set through this value vanishes after so many milliseconds: 1 ms to 10 years. */
  expiringAfter(ms: number): State;
  /** The value of a key, or undefined. */
  get(key: string): Stored<Uint8Array<ArrayBuffer>> | undefined;
  /** The value of a key that was set as JSON, or undefined. */
  getJson(key: string): Stored<any> | undefined;
  getJson<S extends AnySchema>(key: string, schema: S): Stored<Infer<S>> | undefined;
  /** Sets a key and gives its new version. A text is written as UTF-8. */
  set(key: string, value: Uint8Array | string): number;
  /** Sets a key to a value written as JSON and gives its new version. */
  setJson(key: string, value: unknown): number;
  /** Removes a key. Says whether it was there. */
  delete(key: string): boolean;
  /**
   * Keys that start with `prefix`, in byte order, after the key `after`, at most `limit` (1 to 1,000, and so many if not said).
   * The next page starts after the last key of this one; a page shorter than `limit` is the last.
   */
  list(prefix?: string, options?: { after?: string; limit?: number }): string[];
  /** Sets a key only if its version is `expected` (undefined: only if it is absent), and gives the new version. */
  compareAndSwap(key: string, expected: number | undefined, value: Uint8Array | string): number;
  /** As `compareAndSwap`, with a value written as JSON. */
  compareAndSwapJson(key: string, expected: number | undefined, value: unknown): number;
}

/** A file or directory. */
export interface Entry {
  /** Its name, without the path. */
  readonly name: string;
  readonly kind: "file" | "directory";
  /** Size of a file in bytes. */
  readonly bytes?: number;
}

/** A piece of a text file. It never ends within a character. */
export interface Chunk {
  readonly text: string;
  /** Its length in bytes. */
  readonly bytes: number;
  /** Where the next piece starts, in bytes from the start of the file; undefined at the end. */
  readonly nextOffset: number | undefined;
  /** The whole file's size in bytes. */
  readonly size: number;
}

/** The longest piece of a file that one call reads, in bytes. */
export declare const CHUNK_BYTES_MAX: number;

/**
 * The files of the user's workspace, by the tools `file.*`. Paths are relative to the workspace, with `/` between their
 * parts. Every call counts as a tool call, and throws a `ToolError` where it fails: `not_found` for a file that is not there.
 */
export declare class Files {
  private constructor();
  /** What a directory holds, by name, at most 1,000 entries; `""` is the workspace itself. */
  list(directory?: string): { entries: Entry[]; truncated: boolean };
  /** A piece of a text file: up to `length` bytes from `offset`. It may be shorter. */
  readChunk(path: string, offset?: number, length?: number): Chunk;
  /** As `readChunk`, without waiting for it. */
  startReadChunk(path: string, offset?: number, length?: number): Pick<Pending<Chunk>, "ready" | "wait" | "cancel"> & Disposable;
  /** A text file as a whole, read in chunks. It must fit into the run's memory. */
  readToString(path: string): string;
  /** A file of any kind as a whole, read in chunks. It must fit into the run's memory. */
  readToBytes(path: string): Uint8Array<ArrayBuffer>;
  /**
   * Makes a file with this text, or replaces the file that is there, and gives its size in bytes. Directories on the way are
   * made. A text larger than 512 KiB is written in several calls, so another run can see it half written.
   */
  write(path: string, text: string): number;
  /** Adds text to the end of a file, which is made if it is not there, and gives its size in bytes. */
  append(path: string, text: string): number;
  /** As `write`, for a file of any kind. */
  writeBytes(path: string, bytes: Uint8Array): number;
  /** As `append`, for a file of any kind. */
  appendBytes(path: string, bytes: Uint8Array): number;
}
