// How a table differs from what it was the last time.

/** A share of missing values that grows by more than this is told. */
const MISSING_SHARE_STEP = 0.05;

/** A table that loses more than this share of its rows has lost something. */
const ROWS_SHARE_LOST = 0.1;

/** As many new values of a column are named. */
const NAMED_MAX = 5;

/**
 * @typedef {{ rows: number, columns: import("./profile.js").Column[] }} Table
 * @typedef {{ column: string | null, what: string }} Drift
 */

/**
 * @param {Table} before
 * @param {Table} now
 * @returns {Drift[]}
 */
export function drift(before, now) {
  /** @type {Drift[]} */
  const found = [];
  if (now.rows < before.rows * (1 - ROWS_SHARE_LOST)) {
    found.push({ column: null, what: `has ${now.rows} rows, and had ${before.rows}` });
  }
  const known = new Map(before.columns.map((column) => [column.name, column]));
  for (const column of now.columns) {
    const old = known.get(column.name);
    known.delete(column.name);
    if (old === undefined) found.push({ column: column.name, what: "is new" });
    else found.push(...differences(old, column).map((what) => ({ column: column.name, what })));
  }
  for (const name of known.keys()) found.push({ column: name, what: "is gone" });
  return found;
}

/**
 * @param {import("./profile.js").Column} old
 * @param {import("./profile.js").Column} now
 */
function differences(old, now) {
  const found = [];
  const [before, after] = [share(old), share(now)];
  if (after - before > MISSING_SHARE_STEP) {
    found.push(`${percent(after)} of its values are missing, and ${percent(before)} were`);
  }
  if (old.type !== now.type) {
    found.push(`is of type ${now.type}, and was ${old.type}`);
    return found;
  }
  if (now.type === "number") {
    const width = Number(old.max) - Number(old.min);
    // What grows a little, as a maximum does with each new row, is no surprise.
    if (Number(now.min) < Number(old.min) - width / 2) found.push(`goes down to ${now.min}, and its least was ${old.min}`);
    if (Number(now.max) > Number(old.max) + width / 2) found.push(`goes up to ${now.max}, and its most was ${old.max}`);
  }
  if (now.type === "date" && String(now.max) < String(old.max)) found.push(`ends on ${now.max}, and ended on ${old.max}`);
  if (old.values !== null && now.type === "text") {
    const known = new Set(old.values);
    const values = (now.values ?? now.top.map(({ value }) => value)).filter((value) => !known.has(value));
    if (values.length > 0) {
      const more = values.length > NAMED_MAX ? ` and ${values.length - NAMED_MAX} more` : "";
      found.push(`has new values: ${values.slice(0, NAMED_MAX).join(", ")}${more}`);
    }
  }
  return found;
}

/** @param {import("./profile.js").Column} column */
function share({ count, missing }) {
  return missing / Math.max(count + missing, 1);
}

/** @param {number} part */
function percent(part) {
  return `${(part * 100).toFixed(1)} %`;
}
