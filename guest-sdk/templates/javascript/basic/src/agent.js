// Greets, and counts how often it did.

import { agent, InvalidInputError, s } from "cofferdam-sdk";

export default agent(
  {
    description: "Greets, and counts how often it did.",
    input: s.object({ name: s.string().describe("Whom to greet.") }, { additionalProperties: false }),
    output: s.object({
      greeting: s.string(),
      times: s.integer().describe("How often this user was greeted, this time included."),
    }),
    needs: { state: "read_write" },
  },
  (ctx, { name }) => {
    if (name === "") throw new InvalidInputError("`name` is empty: say whom to greet");
    ctx.thinking(`Greeting ${name}`);
    const state = ctx.state("user");
    const times = (state.getJson("times", s.integer())?.value ?? 0) + 1;
    state.setJson("times", times);
    return { greeting: `Hello, ${name}!`, times };
  },
);
