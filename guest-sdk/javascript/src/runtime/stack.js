// Where an exception comes from, in the author's own files.

/** As many lines of a stack as a message names. */
const FRAMES_MAX = 10;

/** Where the build leaves the source map of the bundle: `{ file, sources, mappings }`, as in a source map of version 3. */
const MAP = Symbol.for("cofferdam.sourceMap");

/** What was thrown, and the lines of the author's files that led there, the innermost first. */
export function place(thrown) {
  if (!(thrown instanceof Error)) return `thrown: ${inspectThrown(thrown)}`;
  const frames = framesOf(thrown.stack ?? "").slice(0, FRAMES_MAX);
  const cause = thrown.cause === undefined ? [] : [`caused by ${place(thrown.cause)}`];
  return [`${thrown.name}: ${thrown.message}`, ...frames.map((frame) => `    at ${frame}`), ...cause].join("\n");
}

function inspectThrown(thrown) {
  if (thrown === null || typeof thrown !== "object") return String(thrown);
  try {
    return JSON.stringify(thrown);
  } catch {
    return Object.prototype.toString.call(thrown);
  }
}

/** The frames of a stack as `FUNCTION (FILE:LINE:COLUMN)`, without those of the SDK and the engine. */
export function framesOf(stack, map = globalThis[MAP]) {
  const frames = [];
  if (map === undefined) return frames;
  const lines = decode(map.mappings);
  for (const frame of stack.split("\n")) {
    const parts = /^\s*at (?:(.*) \()?\/?([^()\s]+):(\d+):(\d+)\)?$/u.exec(frame);
    if (parts === null || !parts[2].endsWith(map.file)) continue;
    const original = lookUp(lines, Number(parts[3]) - 1, Number(parts[4]) - 1);
    const file = original === undefined ? undefined : map.sources[original.source];
    if (file === undefined || file === null) continue;
    const at = `${file}:${original.line + 1}:${original.column + 1}`;
    const name = parts[1] === undefined || parts[1] === "<anonymous>" ? "" : parts[1];
    frames.push(name === "" ? at : `${name} (${at})`);
  }
  return frames;
}

function lookUp(lines, line, column) {
  const segments = lines[line] ?? [];
  let found = segments[0];
  for (const segment of segments) {
    if (segment.generated > column) break;
    found = segment;
  }
  return found;
}

const DIGITS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/** The segments of each generated line, of a source map's mappings. */
function decode(mappings) {
  let [source, line, column] = [0, 0, 0];
  return mappings.split(";").map((text) => {
    let generated = 0;
    const segments = [];
    for (const segment of text === "" ? [] : text.split(",")) {
      const [ofGenerated, ofSource, ofLine, ofColumn] = numbers(segment);
      generated += ofGenerated;
      if (ofSource === undefined) continue;
      source += ofSource;
      line += ofLine;
      column += ofColumn;
      segments.push({ generated, source, line, column });
    }
    return segments;
  });
}

/** Numbers in base 64, five bits a digit, the lowest first; the sixth bit says that more follow, the first is the sign. */
function numbers(text) {
  const all = [];
  let [value, shift] = [0, 0];
  for (const character of text) {
    const digit = DIGITS.indexOf(character);
    value += (digit & 31) << shift;
    shift += 5;
    if ((digit & 32) !== 0) continue;
    all.push((value & 1) === 1 ? -(value >>> 1) : value >>> 1);
    [value, shift] = [0, 0];
  }
  return all;
}
