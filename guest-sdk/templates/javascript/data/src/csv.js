// CSV as spreadsheets write it: fields with commas, quotes or line ends stand in quotes, a quote in them is written twice.

/** A line of a table: where it starts, from 1, and its fields. */
/** @typedef {{ line: number, fields: string[] }} Row */

/**
 * The lines of a CSV text that are not empty.
 *
 * @param {string} text
 * @returns {Row[]}
 */
export function parseCsv(text) {
  /** @type {Row[]} */
  const rows = [];
  let line = 1;
  let start = 1;
  /** @type {string[]} */
  let fields = [];
  const endRow = () => {
    if (fields.length > 1 || fields[0] !== "") rows.push({ line: start, fields });
    fields = [];
  };
  // A field, quoted or plain, and what ends it: a comma, the end of the line, or the end of the text.
  const field = /(?:"((?:[^"]|"")*)"|)([^,\r\n]*)(,|\r\n|\n|\r|$)/gy;
  for (let ended = false; !ended; ) {
    const match = /** @type {RegExpExecArray} */ (field.exec(text));
    const [whole, quoted, plain, end] = match;
    if (fields.length === 0) start = line;
    fields.push((quoted ?? "").replaceAll('""', '"') + plain);
    line += whole.match(/\r\n|\n|\r/g)?.length ?? 0;
    if (end !== ",") endRow();
    ended = end === "";
  }
  return rows;
}
