// What a plugin asks to be granted.

const ACCESS = { none: "none", read: "read", read_write: "read-write" };

/** The contract's `needs`. What is not named is not needed; a name that is none of a need is an error of the author. */
export function asNeeds(needs, known) {
  for (const name of Object.keys(needs)) {
    if (!known.includes(name)) throw new TypeError(`\`${name}\` is no need: needs are ${known.join(", ")}`);
  }
  const { tools = [], state = "none", workspace = "none", agents = [], human = false, durable = false } = needs;
  return {
    tools: names("tools", tools),
    state: access("state", state),
    workspace: access("workspace", workspace),
    agents: names("agents", agents),
    human: Boolean(human),
    durable: Boolean(durable),
  };
}

function access(of, value) {
  if (!Object.hasOwn(ACCESS, value)) {
    throw new TypeError(`the need for ${of} is "none", "read" or "read_write", and not ${JSON.stringify(value)}`);
  }
  return ACCESS[value];
}

function names(of, value) {
  if (!Array.isArray(value) || !value.every((name) => typeof name === "string")) {
    throw new TypeError(`the need for ${of} is an array of names`);
  }
  return value;
}
