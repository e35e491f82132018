// Where an exception comes from, in the author's own files.

/** As many lines of a stack as a message names. */
const FRAMES_MAX = 10;

/**
 * Where the build leaves where each line of the bundle comes from: `{ file, sources, lines }`. A line has a segment for each
 * piece of it, `COLUMN SOURCE LINE COLUMN`, all from 0, with commas between; it is empty where no line of the author's is.
 * Not a source map, all of which had to be read for one line of it, at more fuel than many runs have.
 */
const PLACES = Symbol.for("cofferdam.places");

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
export function framesOf(stack, places = globalThis[PLACES]) {
  const frames = [];
  if (places === undefined) return frames;
  for (const frame of stack.split("\n")) {
    const parts = /^\s*at (?:(.*) \()?\/?([^()\s]+):(\d+):(\d+)\)?$/u.exec(frame);
    if (parts === null || !parts[2].endsWith(places.file)) continue;
    const place = lookUp(places, Number(parts[3]) - 1, Number(parts[4]) - 1);
    if (place === undefined) continue;
    const name = parts[1] === undefined || parts[1] === "<anonymous>" ? "" : parts[1];
    frames.push(name === "" ? place : `${name} (${place})`);
  }
  return frames;
}

function lookUp({ sources, lines }, line, column) {
  let found;
  for (const text of (lines[line] ?? "").split(",")) {
    const segment = text.split(" ").map(Number);
    if (segment.length < 4 || (found !== undefined && segment[0] > column)) break;
    found = segment;
  }
  return found === undefined ? undefined : `${sources[found[1]]}:${found[2] + 1}:${found[3] + 1}`;
}
