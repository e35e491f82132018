// Checks a table against rules, and against how it was the last time, and writes a page about it.
//
// The table is read in chunks, the next one while one is looked at, so it may be larger than the run's memory. What it was
// like is kept in the user's state.

import { agent, AgentError, InvalidInputError, s, ToolError } from "cofferdam-sdk";

import { drift } from "./drift.js";
import { Profile } from "./profile.js";
import { html } from "./report.js";
import { NotATable, readerFor } from "./rows.js";
import { BadRule, Rules } from "./rules.js";

/** A table with more columns is none. */
const COLUMNS_MAX = 500;

/** As many rows that are no rows are told. */
const EXAMPLES_MAX = 5;

/** As many findings are told as events while the run lasts. */
const FINDINGS_TOLD_MAX = 20;

const rule = s.object(
  {
    column: s.string(),
    required: s.boolean().optional().describe("Each row has a value."),
    unique: s.boolean().optional().describe("No value is there twice."),
    type: s.enum(["number", "date"]).optional().describe("Each value is one; dates as YYYY-MM-DD or YYYY/MM/DD."),
    min: s.number().optional(),
    max: s.number().optional(),
    one_of: s.array(s.string(), { minItems: 1 }).optional(),
    pattern: s.string().optional().describe("A regular expression that is found in each value."),
  },
  { additionalProperties: false },
);

const column = s.object({
  name: s.string(),
  type: s.enum(["number", "date", "text", "empty"]),
  count: s.integer().describe("Rows with a value."),
  missing: s.integer().describe("Rows without."),
  distinct: s.integer().describe("Different values, of which 1,000 are counted."),
  distinct_is_at_least: s.boolean().describe("Whether there are more than that."),
  min: s.string().nullable().describe("The least number or the first day."),
  max: s.string().nullable().describe("The greatest number or the last day."),
  mean: s.number().nullable(),
  top: s.array(s.object({ value: s.string(), count: s.integer() })).describe("The most frequent texts."),
  values: s.array(s.string()).nullable().describe("All values of a column of categories."),
});

const output = s.object({
  ok: s.boolean().describe("Whether no rule is broken, nothing drifted, and each row is one."),
  path: s.string(),
  rows: s.integer(),
  malformed: s
    .object({ count: s.integer(), examples: s.array(s.object({ line: s.integer(), problem: s.string() })) })
    .describe("Rows that could not be read. They are left out of all else."),
  columns: s.array(column),
  violations: s.array(
    s.object({
      column: s.string(),
      rule: s.string(),
      count: s.integer().describe("Rows that break it."),
      examples: s.array(s.object({ line: s.integer(), value: s.string().nullable() })),
    }),
  ),
  drift: s.array(s.object({ column: s.string().nullable(), what: s.string() })),
  compared_with: s.string().nullable().describe("When the table was looked at before; null for the first time."),
  report: s.string().describe("Where the page is."),
});

/** @typedef {import("cofferdam-sdk").Infer<typeof output>} Checked */

const kept = s.object({ path: s.string(), at: s.string(), rows: s.integer(), columns: s.array(column) });

export default agent(
  {
    description:
      "Checks a CSV or JSON Lines table of the workspace against rules and against how it was the last time (new, lost " +
      "and changed columns, new values, missing values, lost rows), and writes an HTML page about it.",
    input: s.object(
      {
        path: s.string({ minLength: 1 }).describe("The table, in the user's workspace: a .csv file with a header line, or a .jsonl file."),
        rules: s.array(rule, { maxItems: 100 }).default([]),
        report: s.string({ pattern: "\\.html?$" }).default("quality.html").describe("Where to write the page. What is there is replaced."),
        keep_baseline: s.boolean().default(false).describe("Compare the next time with what this run was compared with, and not with this one."),
      },
      { additionalProperties: false },
    ),
    output,
    needs: { tools: ["file.read", "file.write"], state: "read_write" },
  },
  (ctx, { path, rules: asked, report, keep_baseline: keepBaseline }) => {
    const rules = valid(() => new Rules(asked), BadRule);
    const reader = valid(() => readerFor(path), NotATable);
    ctx.thinking(`Reading ${path}`);
    const table = look(ctx, path, reader, rules);
    const unknown = rules.columns.filter((name) => !table.columns.some((column) => column.name === name));
    if (unknown.length > 0) {
      const there = table.columns.map(({ name }) => name).join(", ");
      throw new InvalidInputError(`there is no column ${unknown.join(", ")} in ${path}, which has ${there}`);
    }

    const state = ctx.state("user");
    const key = keyOf(path);
    const stored = state.getJson(key, kept)?.value;
    // Two long paths may have one key.
    const before = stored?.path === path ? stored : undefined;
    const drifted = before === undefined ? [] : drift(before, table);
    const violations = rules.told();
    for (const { column: of, what } of drifted.slice(0, FINDINGS_TOLD_MAX)) ctx.emit("drift", { column: of, what });
    for (const { column: of, rule: broken, count } of violations.slice(0, FINDINGS_TOLD_MAX)) {
      ctx.emit("violation", { column: of, rule: broken, count });
    }

    const at = new Date().toISOString();
    const checked = {
      ok: drifted.length === 0 && violations.length === 0 && table.malformed.count === 0,
      path,
      ...table,
      violations,
      drift: drifted,
      compared_with: before?.at ?? null,
      report,
    };
    ctx.thinking(`Writing ${report}`);
    ctx.files.write(report, html(checked, at));
    if (before === undefined || !keepBaseline) state.setJson(key, { path, at, rows: table.rows, columns: table.columns });
    ctx.progress(1, checked.ok ? "Nothing is wrong" : `${violations.length} rules broken, ${drifted.length} differences`);
    return checked;
  },
);

/**
 * Reads the table, row by row.
 *
 * @param {import("cofferdam-sdk").Context} ctx
 * @param {string} path
 * @param {ReturnType<typeof readerFor>} reader
 * @param {Rules} rules
 */
function look(ctx, path, reader, rules) {
  /** @type {Map<string, Profile>} */
  const profiles = new Map();
  /** @type {{ count: number, examples: { line: number, problem: string }[] }} */
  const malformed = { count: 0, examples: [] };
  let rows = 0;
  let told = 0;
  const take = (/** @type {import("./rows.js").Row} */ row) => {
    if (row.problem !== undefined) {
      malformed.count += 1;
      if (malformed.examples.length < EXAMPLES_MAX) malformed.examples.push({ line: row.line, problem: row.problem });
      return;
    }
    for (const name of row.fields.keys()) {
      if (!profiles.has(name)) profiles.set(name, new Profile(name, rows));
    }
    if (profiles.size > COLUMNS_MAX) throw new NotATable(`it has more than ${COLUMNS_MAX} columns`);
    for (const [name, profile] of profiles) profile.add(row.fields.get(name) ?? null);
    rules.look(row);
    rows += 1;
  };
  try {
    for (const { text, nextOffset, size } of chunks(ctx, path)) {
      for (const row of reader.push(text, nextOffset === undefined)) take(row);
      const fraction = (nextOffset ?? size) / Math.max(size, 1);
      // The page is the last tenth.
      if (fraction - told >= 0.1 || nextOffset === undefined) {
        told = fraction;
        ctx.progress(fraction * 0.9, `${rows} rows of ${path}`);
      }
    }
  } catch (error) {
    if (error instanceof NotATable) throw new AgentError("not_a_table", `${path}: ${error.message}`);
    throw error;
  }
  // A table without rows has columns all the same.
  for (const name of reader.columns) {
    if (!profiles.has(name)) profiles.set(name, new Profile(name, rows));
  }
  if (profiles.size === 0) throw new AgentError("not_a_table", `${path}: it has no column`);
  return { rows, malformed, columns: [...profiles.values()].map((profile) => profile.told()) };
}

/**
 * The pieces of a file, the next one on its way while one is looked at.
 *
 * @param {import("cofferdam-sdk").Context} ctx
 * @param {string} path
 */
function* chunks({ files }, path) {
  let pending = files.startReadChunk(path);
  for (;;) {
    let chunk;
    try {
      chunk = pending.wait();
    } catch (error) {
      if (error instanceof ToolError && error.kind === "not_found") {
        throw new InvalidInputError(`at "/path": there is no file ${path} in the workspace`);
      }
      throw error;
    }
    if (chunk.nextOffset !== undefined) pending = files.startReadChunk(path, chunk.nextOffset);
    yield chunk;
    if (chunk.nextOffset === undefined) return;
  }
}

/**
 * What a maker of something gives, or what is wrong with the input for it.
 *
 * @template T
 * @param {() => T} make
 * @param {new (...args: any[]) => Error} of
 */
function valid(make, of) {
  try {
    return make();
  } catch (error) {
    if (error instanceof of) throw new InvalidInputError(error.message);
    throw error;
  }
}

/**
 * The key of a table's figures: printable ASCII, at most 256 bytes. Of a long path its beginning, and a number made of all of
 * it.
 *
 * @param {string} path
 */
function keyOf(path) {
  const plain = encodeURIComponent(path);
  if (plain.length <= 200) return `table/${plain}`;
  let hash = 0x811c9dc5;
  for (const character of plain) hash = Math.imul(hash ^ character.charCodeAt(0), 0x01000193);
  return `table/${plain.slice(0, 160)}~${(hash >>> 0).toString(16)}`;
}
