// The host's interfaces, as the world that the component was built for imports them. One component serves one run, so
// there is one host; tests put a fake one here.

let interfaces = null;

/**
 * Sets the interfaces: `context`, `events`, `state`, `random` and `files` in both worlds; `tools`, `human` and `agents`
 * in an agent.
 */
export function useHost(of) {
  interfaces = of;
}

/** The interfaces. Throws while the component is built, when there is no host yet. */
export function host() {
  if (interfaces === null) {
    throw new Error(
      "there is no host while the component is built: call it from the function of the agent or tool, not from the top level of a module",
    );
  }
  return interfaces;
}

/** Whether there is a host: false while the component is built. */
export function hasHost() {
  return interfaces !== null;
}

/** Calls the host. What it refuses, a variant or an enum of the contract, is thrown as an error of the SDK. */
export function ask(call, refused) {
  try {
    return call();
  } catch (error) {
    const refusal = refusalOf(error);
    if (refusal === undefined) throw error;
    throw refused(refusal.kind, refusal.detail);
  }
}

/** What the host refused, as `{ kind, detail }`, or undefined for any other error. The bindings throw it in an error. */
export function refusalOf(error) {
  if (!(error instanceof Error) || error.payload === undefined) return undefined;
  const { tag, val } = typeof error.payload === "string" ? { tag: error.payload } : error.payload;
  return { kind: tag.replaceAll("-", "_"), detail: val };
}

/** A text as the contract takes it: a half of a surrogate pair becomes U+FFFD. */
export function text(value) {
  return String(value).toWellFormed();
}

/** A value as a JSON text, or `refuse(why)` thrown. */
export function toJson(value, refuse) {
  let written;
  try {
    written = JSON.stringify(value);
    // So half of a surrogate pair is written, which the host takes for no JSON; it becomes U+FFFD.
    if (written?.includes("\\ud")) written = JSON.stringify(value, (_name, one) => (typeof one === "string" ? text(one) : one));
  } catch (error) {
    throw refuse(error instanceof Error ? error.message : String(error));
  }
  if (written === undefined) throw refuse(`it is a ${typeof value}`);
  return written;
}
