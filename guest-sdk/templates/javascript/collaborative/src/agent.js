// Has other agents work side by side, and puts together what they found.

import { agent, AgentError, ChildError, s, SpawnError } from "cofferdam-sdk";

/** As many as one run may start. */
const JOBS_MAX = 16;

const job = s.object(
  {
    agent: s.string().describe("The agent that does it."),
    input: s.any().describe("What it gets."),
  },
  { additionalProperties: false },
);

const failure = s.object({ agent: s.string(), code: s.string(), message: s.string() });

export default agent(
  {
    description: "Has other agents work side by side, and puts together what they found.",
    input: s.object(
      { jobs: s.array(job, { minItems: 1, maxItems: JOBS_MAX }).describe("What is to be done, 1 to 16 of them.") },
      { additionalProperties: false },
    ),
    output: s.object({
      done: s.array(s.object({ agent: s.string(), output: s.any() })),
      failed: s.array(failure),
      complete: s.boolean().describe("Whether nothing failed."),
    }),
    needs: { agents: ["*"] },
  },
  (ctx, { jobs }) => {
    ctx.thinking(`Starting ${jobs.length} agents`);
    // All of them, before the first is waited for.
    const started = jobs.map(({ agent: name, input }) => ({ name, ...start(ctx, name, input) }));
    const done = [];
    const failed = [];
    for (const { name, child, error } of started) {
      const ended = child === undefined ? { code: "not_started", message: error } : ending(child);
      const ok = "output" in ended;
      ctx.emit("job", { agent: name, ok });
      if (ok) done.push({ agent: name, output: ended.output });
      else failed.push({ agent: name, ...ended });
    }
    // What little there is, is of use; nothing at all is a failure.
    if (done.length === 0) throw new AgentError("all_failed", failed[0].message);
    return { done, failed, complete: failed.length === 0 };
  },
);

/**
 * @param {import("cofferdam-sdk").Context} ctx
 * @param {string} name
 * @param {unknown} input
 */
function start(ctx, name, input) {
  try {
    return { child: ctx.spawn(name, input) };
  } catch (error) {
    if (!(error instanceof SpawnError)) throw error;
    return { error: error.message };
  }
}

/** @param {import("cofferdam-sdk").Child<any>} child */
function ending(child) {
  try {
    return { output: child.wait() };
  } catch (error) {
    if (!(error instanceof ChildError)) throw error;
    return { code: error.failure?.code ?? "not_known", message: error.failure?.message ?? error.message };
  }
}
