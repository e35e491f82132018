// From the pieces of a file to its rows: CSV with a header line, or JSON Lines.

/** A row that is longer is no row: in a CSV file, a quote that is not closed takes all that follows. In UTF-16 units. */
const ROW_UNITS_MAX = 1 << 20;

/**
 * A row. `line` is where it starts, from 1; a field without a value is null. What is wrong with it is told in `problem`, and
 * its fields are not to be looked at.
 *
 * @typedef {{ line: number, fields: Map<string, string | null>, problem?: string }} Row
 */

/** What is no table, whatever follows. */
export class NotATable extends Error {}

/**
 * A reader for a file of this name.
 *
 * @param {string} path
 */
export function readerFor(path) {
  if (/\.csv$/iu.test(path)) return new CsvReader();
  if (/\.(jsonl|ndjson)$/iu.test(path)) return new JsonLinesReader();
  throw new NotATable("a table is a file that ends in .csv, .jsonl or .ndjson");
}

/** What ends a field that is not in quotes. */
const END = /,|\r\n|\n|\r/g;

export class CsvReader {
  #rest = "";
  #line = 1;
  /** @type {string[] | undefined} */
  #header;

  /** The names of the columns, once they are known. */
  get columns() {
    return this.#header ?? [];
  }

  /**
   * The rows that a piece of the file completes.
   *
   * @param {string} text
   * @param {boolean} last whether nothing follows
   * @returns {Row[]}
   */
  push(text, last = false) {
    const all = this.#rest + text;
    /** @type {Row[]} */
    const rows = [];
    let start = 0;
    for (;;) {
      const row = fieldsFrom(all, start, last);
      if (row === undefined) break;
      const { fields, end, lines, problem } = row;
      if (problem !== undefined) rows.push({ line: this.#line, fields: new Map(), problem });
      else if (fields.length > 1 || fields[0] !== "") {
        const told = this.#row(fields);
        if (told !== undefined) rows.push(told);
      }
      this.#line += lines;
      start = end;
      if (start >= all.length) break;
    }
    this.#rest = all.slice(start);
    if (this.#rest.length > ROW_UNITS_MAX) {
      throw new NotATable(`the row from line ${this.#line} on does not end: is a quote not closed?`);
    }
    return rows;
  }

  /**
   * @param {string[]} fields
   * @returns {Row | undefined}
   */
  #row(fields) {
    const line = this.#line;
    if (this.#header === undefined) {
      // Some programs put a mark before the first line.
      this.#header = fields.map((name, at) => (at === 0 ? name.replace(/^\ufeff/u, "") : name).trim());
      const twice = this.#header.find((name, at, all) => all.indexOf(name) !== at);
      if (twice !== undefined) throw new NotATable(`two of its columns have the name \`${twice}\``);
      return undefined;
    }
    const header = this.#header;
    if (fields.length !== header.length) {
      return { line, fields: new Map(), problem: `${fields.length} fields, but the header has ${header.length}` };
    }
    const named = new Map();
    for (let at = 0; at < header.length; at += 1) named.set(header[at], fields[at] === "" ? null : fields[at]);
    return { line, fields: named };
  }
}

/**
 * The fields of the row that starts at a place, where the next one starts, and how many lines it takes, or what is wrong with
 * it; undefined if its end is not there yet.
 *
 * @param {string} text
 * @param {number} start
 * @param {boolean} last
 * @returns {{ fields: string[], end: number, lines: number, problem?: string } | undefined}
 */
function fieldsFrom(text, start, last) {
  const plain = plainRow(text, start);
  if (plain !== undefined) return { fields: plain.split(","), end: start + plain.length + 1, lines: 1 };
  const fields = [];
  let at = start;
  for (;;) {
    let field = "";
    if (text[at] === '"') {
      const close = closingQuote(text, at);
      if (close === -1 && !last) return undefined;
      if (close === -1) return { fields, end: text.length, lines: 0, problem: "a quote is not closed" };
      field = text.slice(at + 1, close).replaceAll('""', '"');
      at = close + 1;
    }
    END.lastIndex = at;
    const match = END.exec(text);
    // The second half of a line's end may come with the next piece, as may all that follows the last character.
    if (!last && (match === null || (match[0] === "\r" && END.lastIndex === text.length))) return undefined;
    if (match === null) {
      if (fields.length === 0 && at === text.length && at === start) return undefined;
      fields.push(field + text.slice(at));
      return { fields, end: text.length, lines: linesOf(text.slice(start)) };
    }
    fields.push(field + text.slice(at, match.index));
    at = END.lastIndex;
    if (match[0] !== ",") return { fields, end: at, lines: linesOf(text.slice(start, at)) };
  }
}

/**
 * The row at a place, without its end, if it has no quote and ends as most do. What is the most of most tables is read by
 * functions of the engine, at a tenth of the fuel.
 *
 * @param {string} text
 * @param {number} start
 */
function plainRow(text, start) {
  const end = text.indexOf("\n", start);
  if (end === -1) return undefined;
  const row = text.slice(start, end);
  return row.includes('"') || row.includes("\r") ? undefined : row;
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

/** @param {string} text */
function linesOf(text) {
  return text.match(/\r\n|\n|\r/gu)?.length ?? 0;
}

export class JsonLinesReader {
  #rest = "";
  #line = 1;
  /** @type {Set<string>} */
  #columns = new Set();

  get columns() {
    return [...this.#columns];
  }

  /**
   * The rows that a piece of the file completes.
   *
   * @param {string} text
   * @param {boolean} last whether nothing follows
   * @returns {Row[]}
   */
  push(text, last = false) {
    const lines = (this.#rest + text).split("\n");
    this.#rest = last ? "" : (lines.pop() ?? "");
    if (this.#rest.length > ROW_UNITS_MAX) throw new NotATable(`line ${this.#line + lines.length} does not end`);
    const rows = [];
    for (const line of lines) {
      if (line.trim() !== "") rows.push(this.#row(line));
      this.#line += 1;
    }
    return rows;
  }

  /**
   * @param {string} text
   * @returns {Row}
   */
  #row(text) {
    const row = { line: this.#line, fields: new Map() };
    let value;
    try {
      value = JSON.parse(text);
    } catch (error) {
      return { ...row, problem: `it is not JSON: ${error instanceof Error ? error.message : error}` };
    }
    if (value === null || typeof value !== "object" || Array.isArray(value)) return { ...row, problem: "it is not an object" };
    for (const [name, field] of Object.entries(value)) {
      this.#columns.add(name);
      row.fields.set(name, asText(field));
    }
    return row;
  }
}

/** @param {unknown} value */
function asText(value) {
  if (value === null || value === "") return null;
  return typeof value === "string" ? value : JSON.stringify(value);
}
