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
  const [year, month, day] = [Number(match[1]), Number(match[2]), Number(match[3])];
  const leap = year % 4 === 0 && (year % 100 !== 0 || year % 400 === 0);
  const days = month === 2 && leap ? 29 : DAYS[month - 1];
  return day >= 1 && day <= days ? `${match[1]}-${match[2]}-${match[3]}` : undefined;
}

const DAYS = [31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];

/**
 * A value that was seen: how often, and what it is.
 *
 * @typedef {{ count: number, number: number | undefined, day: string | undefined }} Seen
 */

/**
 * @param {string} text
 * @returns {Seen}
 */
function seen(text) {
  const number = asNumber(text);
  return { count: 0, number, day: number === undefined ? asDay(text) : undefined };
}

export class Profile {
  #name;
  #count = 0;
  #missing = 0;
  #numbers = { count: 0, min: Infinity, max: -Infinity, sum: 0 };
  #days = { count: 0, min: "9999-99-99", max: "" };
  /** @type {Map<string, Seen>} */
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
    // What is there often is looked at once.
    const one = this.#values.get(value) ?? this.#met(value);
    one.count += 1;
    if (one.number !== undefined) {
      const all = this.#numbers;
      all.count += 1;
      all.sum += one.number;
      if (one.number < all.min) all.min = one.number;
      if (one.number > all.max) all.max = one.number;
    } else if (one.day !== undefined) {
      const all = this.#days;
      all.count += 1;
      if (one.day < all.min) all.min = one.day;
      if (one.day > all.max) all.max = one.day;
    }
  }

  /** @param {string} value */
  #met(value) {
    const one = seen(value);
    if (this.#values.size < VALUES_MAX && value.length <= VALUE_UNITS_MAX) this.#values.set(value, one);
    else this.#more = true;
    return one;
  }

  /** @returns {Column} */
  told() {
    const type = this.#type();
    const texts = type === "text";
    const byCount = texts ? [...this.#values].sort(([a, m], [b, n]) => n.count - m.count || (a < b ? -1 : 1)) : [];
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
      top: byCount.slice(0, TOP_MAX).map(([value, { count }]) => ({ value, count })),
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
