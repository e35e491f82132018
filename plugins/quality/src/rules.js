// What the values of a column must be.

import { asDay, asNumber } from "./profile.js";

/** Values that are kept to find one that is there twice. */
const UNIQUE_MAX = 100_000;

/** As many of the rows that break a rule are told. */
const EXAMPLES_MAX = 5;

/** As much of a value is told, in characters. */
const SHOWN_MAX = 60;

/**
 * @typedef {{
 *   column: string, required?: boolean, unique?: boolean, type?: "number" | "date", min?: number, max?: number,
 *   one_of?: string[], pattern?: string,
 * }} Rule
 * @typedef {{ line: number, value: string | null }} Example
 * @typedef {{ column: string, rule: string, count: number, examples: Example[] }} Violation
 */

/** A rule is one that cannot be kept. */
export class BadRule extends Error {}

/** The rules of a table, and which rows break them. */
export class Rules {
  /** @type {Map<string, Check[]>} */
  #checks = new Map();

  /** @param {Rule[]} rules */
  constructor(rules) {
    for (const rule of rules) {
      const checks = this.#checks.get(rule.column) ?? [];
      checks.push(...checksOf(rule));
      this.#checks.set(rule.column, checks);
    }
  }

  /** The columns that rules are about. */
  get columns() {
    return [...this.#checks.keys()];
  }

  /** @param {import("./rows.js").Row} row */
  look({ line, fields }) {
    for (const [column, checks] of this.#checks) {
      const value = fields.get(column) ?? null;
      for (const check of checks) check.look(line, value);
    }
  }

  /** @returns {Violation[]} */
  told() {
    return [...this.#checks].flatMap(([column, checks]) =>
      checks
        .filter(({ count }) => count > 0)
        .map(({ rule, count, examples }) => ({ column, rule, count, examples })),
    );
  }
}

class Check {
  count = 0;
  /** @type {Example[]} */
  examples = [];
  #fits;

  /**
   * @param {string} rule
   * @param {(value: string | null) => boolean} fits
   */
  constructor(rule, fits) {
    this.rule = rule;
    this.#fits = fits;
  }

  /**
   * @param {number} line
   * @param {string | null} value
   */
  look(line, value) {
    if (this.#fits(value)) return;
    this.count += 1;
    if (this.examples.length < EXAMPLES_MAX) {
      this.examples.push({ line, value: value === null ? null : [...value].slice(0, SHOWN_MAX).join("") });
    }
  }
}

/**
 * @param {Rule} rule
 * @returns {Check[]}
 */
function checksOf({ column, required, unique, type, min, max, one_of: oneOf, pattern }) {
  const checks = [];
  /** A rule about values: that there is one is a rule of its own. */
  const of = (/** @type {string} */ rule, /** @type {(value: string) => boolean} */ fits) =>
    checks.push(new Check(rule, (value) => value === null || fits(value)));
  if (required) checks.push(new Check("has a value", (value) => value !== null));
  if (unique) {
    /** @type {Set<string>} */
    const seen = new Set();
    of("is there once", (value) => {
      if (seen.has(value)) return false;
      if (seen.size < UNIQUE_MAX) seen.add(value);
      return true;
    });
  }
  if (type === "number") of("is a number", (value) => asNumber(value) !== undefined);
  if (type === "date") of("is a date", (value) => asDay(value) !== undefined);
  if (min !== undefined) of(`is at least ${min}`, (value) => (asNumber(value) ?? NaN) >= min);
  if (max !== undefined) of(`is at most ${max}`, (value) => (asNumber(value) ?? NaN) <= max);
  if (oneOf !== undefined) {
    const known = new Set(oneOf);
    of(`is one of ${oneOf.join(", ")}`, (value) => known.has(value));
  }
  if (pattern !== undefined) {
    let expression;
    try {
      expression = new RegExp(pattern, "u");
    } catch (error) {
      throw new BadRule(`the pattern of \`${column}\` is no regular expression: ${error instanceof Error ? error.message : error}`);
    }
    of(`matches ${pattern}`, (value) => expression.test(value));
  }
  if (checks.length === 0) throw new BadRule(`the rule for \`${column}\` asks nothing of it`);
  return checks;
}
