// Write agents and tool plugins for Cofferdam in JavaScript or TypeScript. Types, and what each thing does, are in
// `index.d.ts`.

export { agent } from "./agent.js";
export { Child } from "./children.js";
export { Context, ToolContext } from "./context.js";
export {
  AgentError,
  AskError,
  ChildError,
  DeniedError,
  EventError,
  FileError,
  InvalidInputError,
  SpawnError,
  StateError,
  ToolError,
  WaitError,
} from "./errors.js";
export { CHUNK_BYTES_MAX, Files } from "./files.js";
export { s, Schema } from "./schema.js";
export { State } from "./state.js";
export { tool, tools } from "./tool-plugin.js";
export { Pending } from "./tools.js";
