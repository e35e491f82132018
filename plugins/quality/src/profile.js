// What is in a column, gathered value by value in bounded memory.

/** Different values of a column that are counted. */
const VALUES_MAX = 1000;

/** A longer value is not kept: it is no category. In UTF-16 units. */
const VALUE_UNITS_MAX = 100;

/** As many of the most frequent values are told. */
const TOP_MAX = 5;

const NUMBER = /^[+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?$/iu;
const DATE = /^(\d{4})[-/](\d{2})[-/](\d{2})(?:[T ]\d{2}:\d{2}(?::\d{2}(?:\.\d+)?)?(?:Z|[+-]\d{2}:?\d{2})?)?$/u;

/**
 * A column as it is told, and kept for the next run.
 *
 * @typedef {{
 *   name: string, type: "number" | "date" | "text" | "empty", count: number, missing: number, distinct: number,
 *   distinct_is_at_least: boolean, min: string | null, max: string | null, mean: number | null,
 *   top: { value: string, count: number }[], values: string[] | null,
 * }} Column
 */

/** @param {string} text */
export function asNumber(text) {
  return NUMBER.test(text.trim()) ? Number(text) : undefined;
}

/**
 * The day of a date, as YYYY-MM-DD, if there is such a day.
 *
 * @param {string} text
 */
export function asDay(text) {
  const match = DATE.exec(text.trim());
  if (match === null) return undefined;
  const day = match.slice(1, 4).join("-");
  const time = Date.parse(`${day}T00:00:00Z`);
  return Number.isNaN(time) || new Date(time).toISOString().slice(0, 10) !== day ? undefined : day;
}

export class Profile {
  #name;
  #count = 0;
  #missing = 0;
  #numbers = { count: 0, min: Infinity, max: -Infinity, sum: 0 };
  #days = { count: 0, min: "9999-99-99", max: "" };
  /** @type {Map<string, number>} */
  #values = new Map();
  #more = false;

  /**
   * @param {string} name
   * @param {number} missing rows before that had no such column
   */
  constructor(name, missing = 0) {
    this.#name = name;
    this.#missing = missing;
  }

  /** @param {string | null} value */
  add(value) {
    if (value === null) {
      this.#missing += 1;
      return;
    }
    this.#count += 1;
    this.#count1(value);
    const number = asNumber(value);
    if (number !== undefined) {
      const all = this.#numbers;
      all.count += 1;
      all.min = Math.min(all.min, number);
      all.max = Math.max(all.max, number);
      all.sum += number;
      return;
    }
    const day = asDay(value);
    if (day !== undefined) {
      const all = this.#days;
      all.count += 1;
      if (day < all.min) all.min = day;
      if (day > all.max) all.max = day;
    }
  }

  /** @param {string} value */
  #count1(value) {
    const known = this.#values.get(value);
    if (known !== undefined) this.#values.set(value, known + 1);
    else if (this.#values.size < VALUES_MAX && value.length <= VALUE_UNITS_MAX) this.#values.set(value, 1);
    else this.#more = true;
  }

  /** @returns {Column} */
  told() {
    const type = this.#type();
    const texts = type === "text";
    const byCount = [...this.#values].sort(([a, m], [b, n]) => n - m || (a < b ? -1 : 1));
    const range = { number: this.#numbers, date: this.#days }[/** @type {string} */ (type)];
    return {
      name: this.#name,
      type,
      count: this.#count,
      missing: this.#missing,
      distinct: this.#values.size,
      distinct_is_at_least: this.#more,
      min: range === undefined ? null : String(range.min),
      max: range === undefined ? null : String(range.max),
      mean: type === "number" ? this.#numbers.sum / this.#numbers.count : null,
      top: texts ? byCount.slice(0, TOP_MAX).map(([value, count]) => ({ value, count })) : [],
      // Categories: few, and each of them often.
      values: texts && !this.#more && this.#values.size * 10 <= this.#count ? byCount.map(([value]) => value).sort() : null,
    };
  }

  #type() {
    if (this.#count === 0) return "empty";
    if (this.#numbers.count === this.#count) return "number";
    return this.#days.count === this.#count ? "date" : "text";
  }
}
