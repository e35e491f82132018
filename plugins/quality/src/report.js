// The report, an HTML page that stands alone.

/** @typedef {import("./agent.js").Checked} Checked */

const STYLE = `body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; width: 100% } th, td { text-align: left; padding: .3rem .6rem; border-bottom: 1px solid #ddd }
td.n, th.n { text-align: right } .bad { color: #a40000 } .good { color: #1a6b1a } code { background: #f4f4f4 }`;

/**
 * @param {Checked} checked
 * @param {string} at when, as ISO 8601
 */
export function html({ path, rows, malformed, columns, violations, drift, compared_with: before }, at) {
  const good = violations.length === 0 && drift.length === 0 && malformed.count === 0;
  const verdict = good ? '<p class="good">Nothing is wrong.</p>' : '<p class="bad">Look at what follows.</p>';
  return `<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>Quality of ${escape(path)}</title>
<style>${STYLE}</style>
<h1>${escape(path)}</h1>
<p>${rows} rows, ${columns.length} columns, looked at on ${escape(at)}.</p>
${verdict}
${section("Rows that are no rows", malformed.count, list(malformed.examples.map(({ line, problem }) => `line ${line}: ${problem}`)))}
${section(
  "Rules that are broken",
  violations.length,
  table(
    ["column", "rule", "rows", "for example"],
    violations.map(({ column, rule, count, examples }) => [
      column,
      rule,
      count,
      examples.map(({ line, value }) => `line ${line}: ${value ?? "nothing"}`).join("; "),
    ]),
  ),
)}
${section(
  before === null ? "Different from the last time" : `Different from ${before}`,
  drift.length,
  list(drift.map(({ column, what }) => (column === null ? `the table ${what}` : `${column} ${what}`))),
)}
<h2>Columns</h2>
${table(
  ["column", "type", "values", "missing", "distinct", "least", "most", "mean", "most frequent"],
  columns.map((column) => [
    column.name,
    column.type,
    column.count,
    column.missing,
    `${column.distinct_is_at_least ? "≥ " : ""}${column.distinct}`,
    column.min ?? "",
    column.max ?? "",
    column.mean === null ? "" : column.mean.toPrecision(6),
    column.top.map(({ value, count }) => `${value} (${count})`).join(", "),
  ]),
)}
</html>
`;
}

/**
 * @param {string} title
 * @param {number} count
 * @param {string} content
 */
function section(title, count, content) {
  return count === 0 ? "" : `<h2>${escape(title)} (${count})</h2>\n${content}`;
}

/** @param {string[]} items */
function list(items) {
  return `<ul>\n${items.map((item) => `<li>${escape(item)}\n`).join("")}</ul>`;
}

/**
 * @param {string[]} head
 * @param {(string | number)[][]} body
 */
function table(head, body) {
  const cell = (/** @type {string | number} */ value) =>
    typeof value === "number" ? `<td class="n">${value}` : `<td>${escape(value)}`;
  const line = (/** @type {(string | number)[]} */ cells) => `<tr>${cells.map(cell).join("")}\n`;
  return `<table>\n<tr>${head.map((name) => `<th>${escape(name)}`).join("")}\n${body.map(line).join("")}</table>`;
}

/** @param {string} text */
function escape(text) {
  const names = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" };
  return text.replace(/[&<>"]/gu, (character) => names[character]);
}
