// From a function that may be `async` to its value.

import { look, Promise as Ours, runJobs, takeUnhandled } from "./promise.js";

/** Calls a function, runs the jobs that it leaves, and gives its value, or throws what it threw. */
export function settled(call) {
  const answer = call();
  if (answer === null || typeof answer !== "object" || typeof answer.then !== "function") {
    runJobs();
    throwUnhandled();
    return answer;
  }
  // Whatever has a `then`; the engine's own promises never call it, which is said below.
  const promise = new Ours((resolve) => resolve(answer));
  runJobs();
  const { state, value } = look(promise);
  if (state === "rejected") throw value;
  throwUnhandled();
  if (state === "pending") {
    throw new Error(
      "the promise that was returned will never settle: nothing that it waits for can happen any more. There are no timers " +
        "and no promises of the engine here, as Array.fromAsync makes them; ctx.sleep waits for a time",
    );
  }
  return value;
}

function throwUnhandled() {
  const unhandled = takeUnhandled();
  if (unhandled !== undefined) throw unhandled.reason;
}
