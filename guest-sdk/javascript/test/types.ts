// Checked by the type checker alone: what is marked as an error must be one.

import { agent, type Infer, s, type Stored, tool, tools, ToolError } from "cofferdam-sdk";
import { readTextFile } from "cofferdam-sdk/fs";

type Same<A, B> = (<T>() => T extends A ? 1 : 2) extends <T>() => T extends B ? 1 : 2 ? true : false;
const holds = <_T extends true>() => {};

const input = s.object({
  path: s.string({ minLength: 1 }).describe("A path."),
  limit: s.integer({ minimum: 1 }).default(10),
  kind: s.enum(["csv", "jsonl"]).optional(),
  tags: s.array(s.string()).nullable(),
  pair: s.tuple([s.number(), s.boolean()]),
  by: s.record(s.union([s.literal("a"), s.number()])),
});
holds<
  Same<
    Infer<typeof input>,
    {
      path: string;
      limit: number;
      tags: string[] | null;
      pair: [number, boolean];
      by: { [name: string]: "a" | number };
      kind?: "csv" | "jsonl";
    }
  >
>();

export const one = agent(
  { description: "x", input, output: s.object({ n: s.integer(), note: s.string().default("") }), needs: { state: "read" } },
  (ctx, given) => {
    holds<Same<typeof given.limit, number>>();
    holds<Same<typeof given.kind, "csv" | "jsonl" | undefined>>();
    // @ts-expect-error there is no such property
    given.nothing;
    const counted = ctx.state("user").getJson("n", s.integer());
    holds<Same<typeof counted, Stored<number> | undefined>>();
    const n: number = counted?.value ?? readTextFile("/scratch/a").length;
    const { go } = ctx.ask({ prompt: "Go on?", schema: s.object({ go: s.boolean() }), default: { go: false } });
    const child = ctx.spawn("summary", { path: given.path }, { fuel: 1e8, output: s.string() });
    const summary: string = child.wait();
    console.log(go, summary, new TextEncoder().encode(summary).length);
    return { n };
  },
);

export const later = agent({ description: "x", input: s.any(), output: s.string() }, async (_ctx, given) => `${given.x}`);
export const raw = agent({ description: "x", input: { type: "object" }, output: { type: "null" } }, () => null);

// @ts-expect-error the output is another
agent({ description: "x", input: s.any(), output: s.object({ n: s.integer() }) }, () => ({ n: "1" }));
// @ts-expect-error there is no such access
agent({ description: "x", input: s.any(), output: s.any(), needs: { state: "write" } }, () => 1);
// @ts-expect-error a default fits its schema
s.integer().default("1");
// @ts-expect-error an agent says what it does
agent({ input: s.any(), output: s.any() }, () => 1);

export default tools({
  description: "x",
  tools: {
    half: tool({ description: "Halves.", input: s.object({ n: s.number() }), idempotent: true }, (ctx, { n }) => {
      // @ts-expect-error a tool calls no tools
      ctx.call("other.tool", {});
      if (n === 0) throw new ToolError("failed", "nothing to halve");
      return n / 2;
    }),
  },
});

// @ts-expect-error there are no timers
setTimeout(() => {}, 1);
