// Counts the words of a text.

import { s, tool, tools } from "cofferdam-sdk";

export default tools({
  description: "Counts the words of a text.",
  tools: {
    "word-count": tool(
      {
        description: "Counts the words, lines and characters of a text.",
        input: s.object({ text: s.string().describe("What to count.") }, { additionalProperties: false }),
        // A second call does no harm, so a run that was cut off may call it again.
        idempotent: true,
      },
      (_ctx, { text }) => ({
        words: text.match(/\S+/g)?.length ?? 0,
        lines: text.match(/[^\n]+\n?|\n/g)?.length ?? 0,
        // By characters: a text's length counts some of them twice.
        characters: [...text].length,
      }),
    ),
  },
});
