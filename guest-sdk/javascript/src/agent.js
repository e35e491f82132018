// The agent: what an author defines, and how it answers the world.

import { Context } from "./context.js";
import { AgentError, asAgentError, failure, InvalidInputError } from "./errors.js";
import { toJson } from "./host.js";
import { asNeeds } from "./needs.js";
import { settled } from "./runtime/settle.js";
import { place } from "./runtime/stack.js";
import { jsonSchemaOf } from "./schema.js";
import { checkerOf, validate } from "./validate.js";

const NEEDS = ["tools", "state", "workspace", "agents", "human", "durable"];

/** An agent as its author defined it. */
export class Agent {
  constructor(options, run) {
    const { name, version, description, input, output, needs = {} } = options;
    if (typeof description !== "string") throw new TypeError("an agent has a `description`, which says what it does");
    if (input === undefined) throw new TypeError("an agent has an `input`: s.object({ … }), or s.any()");
    if (output === undefined) throw new TypeError("an agent has an `output`: s.object({ … }), or s.any()");
    if (typeof run !== "function") throw new TypeError("an agent has a function: agent({ … }, (ctx, input) => output)");
    this.name = name;
    this.version = version;
    this.description = description;
    this.input = jsonSchemaOf(input);
    this.output = jsonSchemaOf(output);
    this.needs = asNeeds(needs, NEEDS);
    // Now, when the component is built, and not in each run.
    checkerOf(this.input);
    checkerOf(this.output);
    this.run = run;
    Object.freeze(this);
  }
}

export function agent(options, run) {
  return new Agent(options, run);
}

/** The exports of the world `agent`, for an agent of a project of this name and version. */
export function exportsOf(defined, project) {
  if (!(defined instanceof Agent)) {
    throw new TypeError(
      "the default export is not an agent: write `export default agent({ … }, (ctx, input) => output)`, with `agent` imported from cofferdam-sdk",
    );
  }
  return {
    describe: () => ({
      name: defined.name ?? project.name,
      version: defined.version ?? project.version,
      description: defined.description,
      inputSchema: JSON.stringify(defined.input),
      outputSchema: JSON.stringify(defined.output),
      needs: defined.needs,
    }),
    run: (input) => run(defined, input),
  };
}

function run(defined, text) {
  try {
    return outputText(defined, settled(() => defined.run(new Context(), readInput(defined, text))));
  } catch (error) {
    throw asAgentError(error) ?? failure("uncaught_exception", place(error));
  }
}

function readInput(defined, text) {
  let input;
  try {
    input = JSON.parse(text);
  } catch (error) {
    throw new InvalidInputError(`the input is not valid: ${error.message}`);
  }
  const { problem, value } = validate(defined.input, input);
  if (problem !== undefined) throw new InvalidInputError(`the input is not valid: ${problem}`);
  return value;
}

function outputText(defined, output) {
  const refuse = (why) => new AgentError("output_not_json", `the output cannot be written as JSON: ${why}`);
  // An agent whose function returns nothing has the output null.
  const text = toJson(output === undefined ? null : output, refuse);
  const { problem } = validate(defined.output, JSON.parse(text));
  if (problem !== undefined) {
    throw new AgentError("invalid_output", `the output is not what the agent says it gives: ${problem}`);
  }
  return text;
}
