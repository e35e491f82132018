// CSV as spreadsheets write it: fields with commas, quotes or line ends stand in quotes, a quote in them is written twice.

/** A line of a table: where it starts, from 1, and its fields. */
/** @typedef {{ line: number, fields: string[] }} Row */

/** What ends a field that is not in quotes. */
const END = /,|\r\n|\n|\r|$/g;

/**
 * The lines of a CSV text that are not empty.
 *
 * @param {string} text
 * @returns {Row[]}
 */
export function parseCsv(text) {
  /** @type {Row[]} */
  const rows = [];
  /** @type {string[]} */
  let fields = [];
  let [at, line, start] = [0, 1, 1];
  for (;;) {
    let field = "";
    const close = text[at] === '"' ? closingQuote(text, at) : -1;
    if (close !== -1) {
      field = text.slice(at + 1, close).replaceAll('""', '"');
      line += field.match(/\r\n|\n|\r/g)?.length ?? 0;
      at = close + 1;
    }
    END.lastIndex = at;
    const end = /** @type {RegExpExecArray} */ (END.exec(text));
    fields.push(field + text.slice(at, end.index));
    at = end.index + end[0].length;
    if (end[0] === ",") continue;
    line += 1;
    if (fields.length > 1 || fields[0] !== "") rows.push({ line: start, fields });
    if (end[0] === "") return rows;
    fields = [];
    start = line;
  }
}

/**
 * Where the quote at a place is closed, or -1: a quote that is written twice is one of the text.
 *
 * @param {string} text
 * @param {number} open
 */
function closingQuote(text, open) {
  let close = text.indexOf('"', open + 1);
  while (close !== -1 && text[close + 1] === '"') close = text.indexOf('"', close + 2);
  return close;
}
