// `console`, whose lines become log events.

import { hasHost, host, refusalOf } from "../host.js";

/** The longest line of a log, in bytes, as the contract has it. */
const LINE_BYTES_MAX = 8192;

/** How deep an object is shown. */
const DEPTH_MAX = 4;

function write(level, values) {
  // While the component is built nobody listens.
  if (!hasHost()) return;
  const text = values.map((value) => (typeof value === "string" ? value : inspect(value))).join(" ").toWellFormed();
  for (const line of text.split("\n")) {
    for (const piece of pieces(line)) {
      try {
        host().events.log(level, piece);
      } catch (error) {
        // A line that cannot be recorded is no reason to lose the work.
        if (refusalOf(error) === undefined) throw error;
      }
    }
  }
}

/** A line in pieces that fit, as whole characters. */
function pieces(line) {
  // No UTF-16 unit takes more than three bytes.
  if (line.length * 3 <= LINE_BYTES_MAX) return [line];
  const cut = [];
  let [start, bytes, at] = [0, 0, 0];
  for (const character of line) {
    const code = character.codePointAt(0);
    const more = code < 0x80 ? 1 : code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
    if (bytes + more > LINE_BYTES_MAX) {
      cut.push(line.slice(start, at));
      [start, bytes] = [at, 0];
    }
    bytes += more;
    at += character.length;
  }
  cut.push(line.slice(start));
  return cut;
}

/** A value for a person to read: JSON's notation, with what JSON has no word for. */
export function inspect(value, depth = 0, within = []) {
  if (typeof value === "string") return JSON.stringify(value);
  if (typeof value === "bigint") return `${value}n`;
  if (typeof value === "function") return `[function ${value.name || "(anonymous)"}]`;
  if (value === null || typeof value !== "object") return String(value);
  if (value instanceof Error) return `${value.name}: ${value.message}`;
  if (value instanceof Date) return Number.isNaN(value.getTime()) ? "Invalid Date" : value.toISOString();
  if (value instanceof RegExp) return String(value);
  if (within.includes(value)) return "[circular]";
  if (depth >= DEPTH_MAX) return Array.isArray(value) ? "[…]" : "{…}";
  const inner = [...within, value];
  const show = (one) => inspect(one, depth + 1, inner);
  if (Array.isArray(value)) return `[${value.map(show).join(", ")}]`;
  if (ArrayBuffer.isView(value) && !(value instanceof DataView)) {
    return `${value.constructor.name}(${value.length}) [${[...value.subarray(0, 32)].join(", ")}${value.length > 32 ? ", …" : ""}]`;
  }
  if (value instanceof Map) return `Map {${[...value].map(([key, of]) => `${show(key)} => ${show(of)}`).join(", ")}}`;
  if (value instanceof Set) return `Set {${[...value].map(show).join(", ")}}`;
  return `{${Object.entries(value)
    .map(([key, of]) => `${/^[A-Za-z_$][\w$]*$/u.test(key) ? key : JSON.stringify(key)}: ${show(of)}`)
    .join(", ")}}`;
}

export const console = {
  debug: (...values) => write("debug", values),
  log: (...values) => write("info", values),
  info: (...values) => write("info", values),
  warn: (...values) => write("warn", values),
  error: (...values) => write("error", values),
};
