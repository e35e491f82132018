// Builds a project in JavaScript or TypeScript to a component: checks types, bundles, and makes the component.
//
//   node build.mjs --project DIR --sdk DIR --wit FILE --toolchain DIR [--out FILE]
//
// `--sdk` is the SDK's folder, `--wit` the file `agent.wit`, and `--toolchain` the folder in which `package-lock.json` beside
// this file was installed. Nothing is fetched. Prints one JSON object to standard output, and exits with 0 or 1:
//
//   {"component": PATH, "bytes": N, "world": "agent" | "tool", "ms": {"types": N, "bundle": N, "component": N}, "warnings": [PROBLEM…]}
//   {"errors": [PROBLEM…]}          a PROBLEM is {"file"?, "line"?, "column"?, "text", "next"?}; lines and columns from 1

import { spawn } from "node:child_process";
import { existsSync, readFileSync, realpathSync, statSync } from "node:fs";
import { copyFile, cp, mkdir, readFile, rename, rm, writeFile } from "node:fs/promises";
import { builtinModules, createRequire } from "node:module";
import path from "node:path";
import { pathToFileURL } from "node:url";
import { parseArgs } from "node:util";

/** What is wrong with the author's project: told, and no fault of this program. */
class Problems extends Error {
  constructor(problems) {
    super(problems.map((problem) => problem.text).join("; "));
    this.problems = problems;
  }
}

const { values: options } = parseArgs({
  options: {
    project: { type: "string", default: "." },
    sdk: { type: "string" },
    wit: { type: "string" },
    toolchain: { type: "string" },
    out: { type: "string" },
  },
});
for (const needed of ["sdk", "wit", "toolchain"]) {
  if (options[needed] === undefined) throw new Error(`--${needed} is missing`);
}

// As the bundler names them: without links on the way.
const project = realpathSync(options.project);
const sdk = realpathSync(options.sdk);
const toolchain = createRequire(pathToFileURL(path.join(path.resolve(options.toolchain), "package.json")));
const build = path.join(project, ".cofferdam", "build");

async function main() {
  const described = await readDescription();
  await mkdir(build, { recursive: true });
  const started = performance.now();
  // At once: the checker is a process of its own.
  const [types, bundled] = await Promise.all([checkTypes(described), bundle(described)]);
  if (types.errors.length > 0 || bundled.errors.length > 0) {
    // What does not resolve is told by both.
    const errors = bundled.errors.length > 0 ? bundled.errors : types.errors;
    throw new Problems(errors);
  }
  const component = await componentize(described, bundled);
  const out = path.resolve(options.out ?? path.join(build, `${described.name}.wasm`));
  await write(`${out}.new`, component.bytes);
  await rename(`${out}.new`, out);
  return {
    component: out,
    bytes: component.bytes.length,
    world: described.world,
    ms: {
      types: types.ms,
      bundle: bundled.ms,
      component: component.ms,
      all: Math.round(performance.now() - started),
    },
    warnings: bundled.warnings,
  };
}

/** Writes a file that is there under no other name: a link in its place is removed, and not followed. */
async function write(file, content) {
  await rm(file, { force: true });
  await writeFile(file, content, { flag: "wx" });
}

/** Whether a file is in a folder; both are without links on the way. */
function isIn(folder, file) {
  return file.startsWith(folder + path.sep);
}

/** What `package.json` says. */
async function readDescription() {
  const file = "package.json";
  const refuse = (text, next) => new Problems([{ file, text, next }]);
  let said;
  try {
    said = JSON.parse(await readFile(path.join(project, file), "utf8"));
  } catch (error) {
    throw refuse(`it cannot be read: ${error.message}`, "make a project with `cofferdam new NAME --lang javascript`");
  }
  const { name, version = "0.0.0", cofferdam } = said;
  const example = '"cofferdam": {"world": "agent", "main": "src/agent.js"}';
  if (typeof name !== "string" || name === "") throw refuse("it has no name", 'add "name": "my-agent"');
  // A scope is whose it is, not what it is. Files are called after the rest, which is what a plugin may be called.
  const own = name.replace(/^@[^/]*\//u, "").replace(/[_.]/gu, "-").toLowerCase();
  if (!/^[a-z](?:[a-z0-9-]{0,62}[a-z0-9])?$/u.test(own)) {
    const next = "write 1 to 64 characters of a-z, 0-9 and '-', the first a letter, the last not '-'";
    throw refuse(`${JSON.stringify(name)} cannot be a project's name`, next);
  }
  if (cofferdam === undefined) throw refuse("it does not say what this project is", `add ${example}`);
  const { world, main } = cofferdam;
  if (world !== "agent" && world !== "tool") {
    throw refuse(`a world is "agent" or "tool", and not ${JSON.stringify(world)}`, `write ${example}`);
  }
  if (typeof main !== "string") throw refuse("it does not say which module is the agent", `write ${example}`);
  const inside = path.relative(project, path.resolve(project, main));
  if (inside.startsWith("..") || path.isAbsolute(inside)) {
    throw refuse(`"main" leads out of the project: ${main}`, "move the module into the project");
  }
  if (!existsSync(path.join(project, inside))) {
    throw refuse(`"main" is a file that is not there: ${main}`, "write the module, or correct its path");
  }
  if (!isIn(project, realpathSync(path.join(project, inside)))) {
    throw refuse(`"main" is a symbolic link that leads out of the project: ${main}`, "write the file itself there");
  }
  return { name: own, version, world, main: inside.split(path.sep).join("/") };
}

/** Checks types if the project has a `tsconfig.json`. */
async function checkTypes() {
  if (!existsSync(path.join(project, "tsconfig.json"))) return { errors: [], ms: 0 };
  const started = performance.now();
  const tsc = path.join(path.dirname(toolchain.resolve("typescript/package.json")), "bin", "tsc");
  // Whatever the project's own says: nothing is written.
  const off = ["incremental", "composite"].flatMap((name) => [`--${name}`, "false"]);
  const unset = ["tsBuildInfoFile", "generateTrace"].flatMap((name) => [`--${name}`, "null"]);
  const silent = ["--noEmit", ...off, ...unset, "--pretty", "false"];
  const { code, output } = await run(process.execPath, [tsc, ...silent, "-p", "tsconfig.json"]);
  const errors = [];
  for (const line of output.split("\n")) {
    const at = /^(?<file>.+?)\((?<line>\d+),(?<column>\d+)\): error (?<text>TS\d+: .*)$/u.exec(line)?.groups;
    const without = /^error (?<text>TS\d+: .*)$/u.exec(line)?.groups;
    const last = errors.at(-1);
    if (at !== undefined) errors.push({ file: at.file, line: Number(at.line), column: Number(at.column), text: at.text });
    else if (without !== undefined) errors.push({ file: "tsconfig.json", text: without.text });
    // The reasons of an error follow it, indented.
    else if (/^\s+\S/u.test(line) && last !== undefined) last.text += `\n${line}`;
  }
  if (code !== 0 && errors.length === 0) errors.push({ text: `the type checker failed: ${output.trim()}` });
  return { errors, ms: Math.round(performance.now() - started) };
}

function run(command, args) {
  return new Promise((resolve, reject) => {
    const child = spawn(command, args, { cwd: project, stdio: ["ignore", "pipe", "pipe"] });
    let output = "";
    child.stdout.on("data", (piece) => (output += piece));
    child.stderr.on("data", (piece) => (output += piece));
    child.on("error", reject);
    child.on("close", (code) => resolve({ code, output }));
  });
}

/** Takes only what is in the project or the SDK, wherever a path or a link leads: all of it would be in the component. */
const onlyInside = {
  name: "only-inside",
  setup({ onLoad }) {
    // All files. A flag would be no regular expression to the bundler.
    onLoad({ filter: /.*/, namespace: "file" }, ({ path: file }) => {
      const real = realpathSync(file);
      if (!isIn(project, real) && !isIn(sdk, real)) {
        return { errors: [{ text: `the module is outside of the project: ${real}`, detail: OUTSIDE }] };
      }
      const map = mapOutside(real);
      return map && { errors: [{ text: `its source map is no file in the project: ${map}`, detail: NO_MAP }] };
    });
  },
};

/** A source map that a module names and that is not one of the project's files. The bundler would read it, whatever it is. */
function mapOutside(file) {
  for (const [, url] of readFileSync(file, "utf8").matchAll(/\/[/*][#@]\s*sourceMappingURL=([^\s*]*)/gu)) {
    if (url.startsWith("data:")) continue;
    // As the bundler may understand it: as a path, or as an URL.
    for (const name of [url, decoded(url)]) {
      const map = path.resolve(path.dirname(file), name);
      if (/^[a-z]+:/iu.test(name) || !isIn(project, map)) return url;
      if (existsSync(map) && !(isIn(project, realpathSync(map)) && statSync(map).isFile())) return url;
    }
  }
  return undefined;
}

/** A text without the escapes of URLs, if it has any that can be read. */
function decoded(url) {
  try {
    return decodeURIComponent(url);
  } catch {
    return url;
  }
}

const NO_MAP = "remove the comment with `sourceMappingURL`: places in the author's modules are told without it";
const OUTSIDE = "copy it into the project, or install its package in the project's own node_modules";

/** One ES module of the author's modules and the SDK, whose end tells where each line of it comes from. */
async function bundle({ name, version, world, main }) {
  const started = performance.now();
  const { build: esbuild } = toolchain("esbuild");
  const [exporter, exported] = world === "agent" ? ["exportAgent", "describe, run"] : ["exportTools", "describe, call"];
  const entry = [
    // First: what it puts in place must be there when the author's modules begin.
    `import { ${exporter} } from "cofferdam-sdk/world/${world}";`,
    `import defined from ${JSON.stringify(`./${main}`)};`,
    `export const { ${exported} } = ${exporter}(defined, ${JSON.stringify({ name, version })});`,
  ].join("\n");
  const file = `${name}.js`;
  let result;
  try {
    result = await esbuild({
      stdin: { contents: entry, resolveDir: project, sourcefile: ".cofferdam/build/entry.js", loader: "js" },
      outfile: path.join(build, file),
      absWorkingDir: project,
      bundle: true,
      format: "esm",
      platform: "neutral",
      mainFields: ["module", "main"],
      conditions: ["import", "module", "default"],
      target: "es2023",
      // Promises are the SDK's: the engine's jobs do not run here.
      supported: { "async-await": false, "async-generator": false, "for-await": false, "top-level-await": false },
      external: ["cofferdam:*", "wasi:*"],
      alias: {
        "cofferdam-sdk/fs": path.join(sdk, "src/fs.js"),
        "cofferdam-sdk/world/agent": path.join(sdk, "src/world/agent.js"),
        "cofferdam-sdk/world/tool": path.join(sdk, "src/world/tool.js"),
        "cofferdam-sdk": path.join(sdk, "src/index.js"),
      },
      plugins: [onlyInside],
      charset: "utf8",
      sourcemap: "external",
      sourcesContent: false,
      write: false,
      logLevel: "silent",
      legalComments: "none",
    });
  } catch (error) {
    if (!Array.isArray(error.errors)) throw error;
    return { errors: error.errors.map((message) => fromBundler(message, main)), warnings: [], ms: 0 };
  }
  const [code, map] = ["js", "map"].map((ending) => result.outputFiles.find((one) => one.path.endsWith(`.${ending}`)).text);
  const places = placesOf(file, JSON.parse(map));
  const source = `${code}\nglobalThis[Symbol.for("cofferdam.places")] = ${JSON.stringify(places)};\n`;
  return {
    errors: [],
    warnings: result.warnings.map((message) => fromBundler(message, main)),
    source,
    places,
    ms: Math.round(performance.now() - started),
  };
}

/** Where each line of the bundle comes from, as the SDK reads it: see `src/runtime/stack.js`. */
function placesOf(file, { sources, mappings }) {
  const own = sources.map((source) => {
    const absolute = path.resolve(build, source);
    const within = path.relative(project, absolute).split(path.sep).join("/");
    // The SDK's and the build's own lines are no places that an author can mend.
    const foreign = within.startsWith("..") || within.startsWith(".cofferdam/") || absolute.startsWith(sdk + path.sep);
    return foreign ? null : within;
  });
  let [source, line, column] = [0, 0, 0];
  const lines = mappings.split(";").map((text) => {
    let generated = 0;
    const segments = [];
    for (const segment of text === "" ? [] : text.split(",")) {
      const [ofGenerated, ofSource, ofLine, ofColumn] = numbers(segment);
      generated += ofGenerated;
      if (ofSource === undefined) continue;
      source += ofSource;
      line += ofLine;
      column += ofColumn;
      if (own[source] !== null) segments.push(`${generated} ${source} ${line} ${column}`);
    }
    return segments.join(",");
  });
  return { file, sources: own, lines };
}

const DIGITS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/** Numbers as source maps have them: in base 64, five bits a digit, the lowest first; the sixth bit says that more follow. */
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

function fromBundler({ text, location, detail }, main) {
  const at = location === null ? {} : { file: location.file, line: location.line, column: location.column + 1 };
  if ([OUTSIDE, NO_MAP].includes(detail)) return { ...at, text, next: detail };
  if (/^No matching export in .* for import "default"$/u.test(text) && at.file === ".cofferdam/build/entry.js") {
    return {
      file: main,
      text: "it has no default export",
      next: "write `export default agent({ … }, (ctx, input) => output)`, or `export default tools({ … })` for a tool plugin",
    };
  }
  const unknown = /^No matching export in "(?<module>.+)" for import "(?<name>.+)"$/u.exec(text)?.groups;
  if (unknown !== undefined && path.resolve(project, unknown.module).startsWith(sdk + path.sep)) {
    return { ...at, text: `cofferdam-sdk has no export "${unknown.name}"`, next: "correct the name" };
  }
  const missing = /^Could not resolve "(?<name>[^"]+)"/u.exec(text)?.groups.name;
  if (missing !== undefined) return { ...at, ...notFound(missing) };
  if (/^Top-level await /u.test(text)) {
    return { ...at, text: "`await` is not possible at the top level of a module", next: "move it into an `async` function" };
  }
  return { ...at, text };
}

function notFound(name) {
  if (name.startsWith("node:") || builtinModules.includes(name)) {
    const next = {
      fs: 'use ctx.files, or `import { readFile } from "cofferdam-sdk/fs"` for /scratch and /workspace',
      crypto: "crypto.getRandomValues and crypto.randomUUID are there without an import",
    }[name.replace(/^node:/u, "").split("/")[0]];
    return {
      text: `"${name}" is a module of Node.js, and an agent does not run in Node.js`,
      next: next ?? "do without it, or use a package that is written for browsers",
    };
  }
  if (name.startsWith(".") || name.startsWith("/")) {
    return { text: `there is no module "${name}"`, next: "correct the path; it has the file's ending" };
  }
  const installed = name.startsWith("@") ? name.split("/").slice(0, 2).join("/") : name.split("/")[0];
  return { text: `there is no package "${name}"`, next: `npm install ${installed}` };
}

/** The component of a bundle. */
async function componentize({ name, world, main }, { source, places }) {
  const started = performance.now();
  const wit = path.join(build, "wit");
  await rm(wit, { recursive: true, force: true });
  await cp(path.join(sdk, "wit"), wit, { recursive: true });
  await mkdir(path.join(wit, "deps", "cofferdam-agent"), { recursive: true });
  await copyFile(path.resolve(options.wit), path.join(wit, "deps", "cofferdam-agent", "agent.wit"));
  // Beside the component, for who wants to look at it.
  await write(path.join(build, `${name}.js`), source);

  const { componentize: make } = toolchain("componentize-qjs");
  const jsPath = path.join(build, `${name}.js`);
  try {
    const { component } = await make({ witPath: wit, jsSource: source, jsPath, world, sync: true });
    return { bytes: component, ms: Math.round(performance.now() - started) };
  } catch (error) {
    throw new Problems([await fromEngine(error, places, main)]);
  }
}

/** What an exception while the component is made says: it comes from a module's own statements, which run once, here. */
async function fromEngine(error, places, main) {
  const said = String(error.message ?? error);
  const { framesOf } = await import(pathToFileURL(path.join(sdk, "src/runtime/stack.js")));
  const frame = framesOf(said, places)[0];
  const at = /(?<file>[^()\s]+):(?<line>\d+):(?<column>\d+)\)?$/u.exec(frame ?? "")?.groups;
  // The engine's account of how it came to the exception, and the stack, are not the author's.
  const text = /module evaluation: (?:Error: )?(?<text>.*?)(?:\n\s+at .*)?$/su.exec(said)?.groups.text ?? said;
  if (at === undefined) return { file: main, text };
  const next = "a module's own statements run once, when the component is built";
  return { file: at.file, line: Number(at.line), column: Number(at.column), text, next };
}

try {
  console.log(JSON.stringify(await main()));
} catch (error) {
  if (!(error instanceof Problems)) throw error;
  console.log(JSON.stringify({ errors: error.problems }));
  process.exitCode = 1;
}
