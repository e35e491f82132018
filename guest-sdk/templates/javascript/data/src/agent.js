// Checks a CSV file of the user's workspace, sums up its columns, and writes a report beside it.

import { agent, AgentError, s } from "cofferdam-sdk";

import { parseCsv } from "./csv.js";

const column = s.object({
  name: s.string(),
  kind: s.enum(["number", "text"]),
  missing: s.integer().describe("Fields without a value."),
  min: s.number().nullable(),
  max: s.number().nullable(),
  mean: s.number().nullable(),
  distinct: s.integer().describe("Different values."),
});

/** @typedef {import("cofferdam-sdk").Infer<typeof column>} Column */

export default agent(
  {
    description: "Checks a CSV file and reports what is in its columns.",
    input: s.object(
      {
        path: s.string().describe("The CSV file, in the user's workspace. Its first line has the names of the columns."),
        report: s.string().default("report.md").describe("Where the report goes."),
      },
      { additionalProperties: false },
    ),
    output: s.object({
      rows: s.integer(),
      columns: s.array(column),
      report: s.string().describe("Where the report is."),
    }),
    needs: { tools: ["file.read", "file.write"] },
  },
  (ctx, { path, report }) => {
    ctx.progress(0.1, `reading ${path}`);
    const { names, rows } = table(path, ctx.files.readToString(path));
    ctx.progress(0.6, `${rows.length} rows checked`);
    const columns = names.map((name, at) => summary(name, rows.map((row) => row[at])));
    ctx.files.write(report, markdown(path, rows.length, columns));
    ctx.progress(1, `${report} written`);
    return { rows: rows.length, columns, report };
  },
);

/**
 * @param {string} path
 * @param {string} text
 */
function table(path, text) {
  const [header, ...rows] = parseCsv(text);
  if (header === undefined) throw new AgentError("bad_table", `${path} is empty`);
  for (const { line, fields } of rows) {
    if (fields.length !== header.fields.length) {
      const why = `has ${fields.length} fields, but the header has ${header.fields.length}`;
      throw new AgentError("bad_table", `${path} line ${line} ${why}`);
    }
  }
  return { names: header.fields, rows: rows.map(({ fields }) => fields) };
}

/**
 * @param {string} name
 * @param {string[]} fields
 * @returns {Column}
 */
function summary(name, fields) {
  const values = fields.filter((value) => value !== "");
  const numbers = values.map((value) => (value.trim() === "" ? NaN : Number(value)));
  const missing = fields.length - values.length;
  const distinct = new Set(values).size;
  if (numbers.length === 0 || !numbers.every(Number.isFinite)) {
    return { name, kind: "text", missing, min: null, max: null, mean: null, distinct };
  }
  const min = numbers.reduce((one, other) => Math.min(one, other));
  const max = numbers.reduce((one, other) => Math.max(one, other));
  const mean = numbers.reduce((sum, number) => sum + number, 0) / numbers.length;
  return { name, kind: "number", missing, min, max, mean, distinct };
}

/**
 * @param {string} path
 * @param {number} rows
 * @param {Column[]} columns
 */
function markdown(path, rows, columns) {
  const lines = columns.map(
    ({ name, kind, missing, distinct, min, max, mean }) =>
      `| ${name} | ${kind} | ${missing} | ${distinct} | ${min ?? ""} | ${max ?? ""} | ${mean?.toFixed(2) ?? ""} |\n`,
  );
  const head = "| column | kind | missing | distinct | min | max | mean |\n|---|---|--:|--:|--:|--:|--:|\n";
  return `# ${path}\n\n${rows} rows\n\n${head}${lines.join("")}`;
}
