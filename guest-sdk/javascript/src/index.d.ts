/// <reference path="./globals.d.ts" />

import type { Context, ToolContext } from "./context.js";
import type { Infer, InferIn, JsonSchema, Presence, Schema } from "./schema.js";

export * from "./context.js";
export * from "./errors.js";
export { s, Schema } from "./schema.js";
export type { ArrayBounds, Infer, InferIn, Json, JsonSchema, NumberBounds, StringBounds } from "./schema.js";

export type { Agent, Tool, ToolPlugin };

type AnySchema = Schema<unknown, unknown, Presence>;

/** What a run has of a schema: its type, or `any` for a JSON Schema that is given as it is. */
type Taken<S> = S extends AnySchema ? Infer<S> : any;
/** What a function gives for a schema. */
type Given<S> = S extends AnySchema ? InferIn<S> : any;

/** How far a permission goes: nothing, look, or look and change. */
export type Access = "none" | "read" | "read_write";

/**
 * What an agent asks to be granted: a request, which the platform team answers with a grant for each user. What a run may do
 * is what stands in both. Ask for what you use, and no more.
 */
export interface Needs {
  /** Tools the agent calls: a tool's full name (`file.read`), or a family (`file.*`). At most 64. */
  tools?: readonly string[];
  /** The user's key-value data for this plugin. */
  state?: Access;
  /** The user's files below `/workspace`, with `cofferdam-sdk/fs`. Durable runs have no such directory. */
  workspace?: Access;
  /** Agents it starts, by the names they were pushed under, or `*` for any. At most 64. */
  agents?: readonly string[];
  /** Questions to people. Makes its runs durable as well. */
  human?: boolean;
  /** A host that is killed goes on with its runs where they were. Not a permission, and granted by nobody. */
  durable?: boolean;
}

export interface AgentOptions<I, O> {
  /** The agent's own name, 1 to 64 characters. If not said, that of `package.json`. */
  name?: string;
  /** The author's version, 1 to 64 characters of `A-Z`, `a-z`, `0-9`, `.`, `-`, `+` and `_`. If not said, that of `package.json`. */
  version?: string;
  /** What it does, for a person or a model to read. At most 4 KiB. */
  description: string;
  /** What it takes: a schema, or a JSON Schema. An input that does not fit ends the run before the function is called. */
  input: I;
  /** What it gives. An output that does not fit ends the run as `invalid_output`. */
  output: O;
  needs?: Needs;
}

/** An agent, for the default export of its module. */
declare class Agent {
  private constructor();
  readonly description: string;
}

/**
 * Defines an agent: one input, one run, one output.
 *
 * The host calls the function once for each run, in a fresh sandbox. What should last goes to `ctx.state` or to files. The
 * function may be `async`, and is done when its promise settles; calls of the host wait, and need no `await`.
 *
 * What it throws ends the run: `InvalidInputError`, `DeniedError` and `AgentError` as they say; errors of the host with a
 * code of their own; anything else as `uncaught_exception`, with the place in your files.
 *
 * ```js
 * import { agent, s } from "cofferdam-sdk";
 *
 * export default agent(
 *   {
 *     description: "Counts the lines of a file.",
 *     input: s.object({ path: s.string().describe("The file to count, in the user's workspace.") }),
 *     output: s.object({ lines: s.integer() }),
 *     needs: { tools: ["file.read"] },
 *   },
 *   (ctx, { path }) => ({ lines: ctx.files.readToString(path).match(/[^\n]*\n|[^\n]+$/g)?.length ?? 0 }),
 * );
 * ```
 */
export declare function agent<const I extends AnySchema | JsonSchema, const O extends AnySchema | JsonSchema>(
  options: AgentOptions<I, O>,
  run: (ctx: Context, input: Taken<I>) => Given<O> | Promise<Given<O>>,
): Agent;

export interface ToolOptions<I> {
  /** What it does, for a person or a model to read. At most 4 KiB. */
  description: string;
  /** What its arguments are: a schema, or a JSON Schema. Others are refused as `invalid_arguments`. */
  input: I;
  /**
   * Whether a second call with the same arguments, of which nobody knows whether the first one came to its end, does no harm.
   * A durable run makes it again after a crash, with the same `ctx.idempotencyKey`.
   */
  idempotent?: boolean;
}

/** A tool, for `tools`. */
declare class Tool {
  private constructor();
  readonly description: string;
}

/**
 * Defines a tool. The function may be `async`. It throws a `ToolError` if it cannot do what was asked; anything else that it
 * throws is a tool that `failed`. Arguments and answer are at most 1 MiB of JSON.
 */
export declare function tool<const I extends AnySchema | JsonSchema>(
  options: ToolOptions<I>,
  answer: (ctx: ToolContext, args: Taken<I>) => unknown,
): Tool;

export interface ToolPluginOptions {
  /** The plugin's own name, 1 to 64 characters. If not said, that of `package.json`. */
  name?: string;
  /** The author's version. If not said, that of `package.json`. */
  version?: string;
  /** What it is for. At most 4 KiB. */
  description: string;
  /** A tool calls no other tools, starts no agents, asks nobody. */
  needs?: Pick<Needs, "state" | "workspace">;
  /** Its tools, 1 to 64, by name: 1 to 64 characters of `a-z`, `0-9`, `_` and `-`. Agents call them as `PLUGIN.TOOL`. */
  tools: { readonly [name: string]: Tool };
}

/** A tool plugin, for the default export of its module. */
declare class ToolPlugin {
  private constructor();
  readonly description: string;
}

/**
 * Defines a tool plugin. Each call runs in a sandbox of its own, in a context narrower than the calling agent's, and spends
 * the calling run's budget.
 *
 * ```js
 * import { s, tool, tools } from "cofferdam-sdk";
 *
 * export default tools({
 *   description: "Looks at texts.",
 *   tools: {
 *     count: tool(
 *       { description: "Counts the words of a text.", input: s.object({ text: s.string() }), idempotent: true },
 *       (_ctx, { text }) => ({ words: text.split(/\s+/u).filter(Boolean).length }),
 *     ),
 *   },
 * });
 * ```
 */
export declare function tools(options: ToolPluginOptions): ToolPlugin;
