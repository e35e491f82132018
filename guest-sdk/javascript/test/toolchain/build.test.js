// The build, with the toolchain: `COFFERDAM_JAVASCRIPT_TOOLCHAIN` is the folder in which `toolchain/package-lock.json` was
// installed.

import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, test } from "node:test";
import { fileURLToPath } from "node:url";

const toolchain = process.env.COFFERDAM_JAVASCRIPT_TOOLCHAIN;
if (toolchain === undefined) throw new Error("COFFERDAM_JAVASCRIPT_TOOLCHAIN is not set");

const sdk = fileURLToPath(new URL("../..", import.meta.url));
const folder = mkdtempSync(path.join(tmpdir(), "cofferdam-sdk-"));
after(() => rmSync(folder, { recursive: true }));

let projects = 0;

/** Builds a project of these files. */
function build(files, said = {}) {
  projects += 1;
  const project = path.join(folder, `${projects}`);
  const all = {
    "package.json": JSON.stringify({
      name: "hello",
      version: "1.2.3",
      type: "module",
      cofferdam: { world: "agent", main: "src/agent.js" },
      ...said,
    }),
    ...files,
  };
  for (const [name, text] of Object.entries(all)) {
    mkdirSync(path.dirname(path.join(project, name)), { recursive: true });
    writeFileSync(path.join(project, name), text);
  }
  if ("tsconfig.json" in files) {
    mkdirSync(path.join(project, ".cofferdam/sdk"), { recursive: true });
    cpSync(sdk, path.join(project, ".cofferdam/sdk/javascript"), { recursive: true });
  }
  return again(project);
}

/** Builds a project that is there. */
function again(project) {
  const wit = path.join(sdk, "../../wit/agent.wit");
  const args = ["--project", project, "--sdk", sdk, "--wit", wit, "--toolchain", toolchain];
  const { status, stdout, stderr } = spawnSync(process.execPath, [path.join(sdk, "toolchain/build.mjs"), ...args], { encoding: "utf8" });
  assert.equal(stderr, "");
  return { status, told: JSON.parse(stdout), project };
}

/** The only problem of a project with this agent. */
function problem(agent, files = {}) {
  const { status, told } = build({ "src/agent.js": agent, ...files });
  assert.equal(status, 1, JSON.stringify(told));
  assert.equal(told.errors.length, 1, JSON.stringify(told.errors));
  return told.errors[0];
}

const AGENT = 'import { agent, s } from "cofferdam-sdk";\nexport default agent({ description: "x", input: s.any(), output: s.any() }, () => 1);\n';
const TYPES = { "tsconfig.json": '{ "extends": "./.cofferdam/sdk/javascript/tsconfig.json", "include": ["src"] }' };

test("an agent and a tool plugin become components", () => {
  const { status, told } = build({ "src/agent.js": AGENT });
  assert.equal(status, 0, JSON.stringify(told));
  assert.deepEqual([told.world, path.basename(told.component), told.warnings], ["agent", "hello.wasm", []]);
  const bytes = readFileSync(told.component);
  assert.equal(bytes.length, told.bytes);
  // A component, and not a module.
  assert.deepEqual([...bytes.subarray(0, 8)], [0, 0x61, 0x73, 0x6d, 0x0d, 0, 1, 0]);

  const plugin = 'import { s, tool, tools } from "cofferdam-sdk";\nexport default tools({ description: "x", tools: { one: tool({ description: "x", input: s.any() }, () => 1) } });\n';
  const tools = build({ "src/tools.ts": plugin, ...TYPES }, { name: "@me/hello", cofferdam: { world: "tool", main: "src/tools.ts" } });
  assert.equal(tools.status, 0, JSON.stringify(tools.told));
  assert.deepEqual([tools.told.world, path.basename(tools.told.component)], ["tool", "hello.wasm"]);
});

test("packages are bundled, in either form, and JSON too", () => {
  const { status, told } = build({
    "src/agent.js": `import plain from "plain";\nimport { one } from "module-package";\nimport table from "./table.json";\n${AGENT.replace("1);", "[plain(), one, table.n]);")}`,
    "src/table.json": '{"n": 3}',
    "node_modules/plain/package.json": '{"name": "plain", "main": "index.js"}',
    "node_modules/plain/index.js": "module.exports = () => require('./other').x;\n",
    "node_modules/plain/other.js": "exports.x = 1;\n",
    "node_modules/module-package/package.json": '{"name": "module-package", "type": "module", "exports": "./main.js"}',
    "node_modules/module-package/main.js": "export const one = 1;\n",
  });
  assert.equal(status, 0, JSON.stringify(told));
});

test("a project behind a link has its places too", () => {
  const link = path.join(folder, "link");
  const { project } = build({ "src/agent.js": `${AGENT}null.x;\n` });
  symlinkSync(project, link);
  const args = ["--project", link, "--sdk", sdk, "--wit", path.join(sdk, "../../wit/agent.wit"), "--toolchain", toolchain];
  const { stdout } = spawnSync(process.execPath, [path.join(sdk, "toolchain/build.mjs"), ...args], { encoding: "utf8" });
  const [{ file, line }] = JSON.parse(stdout).errors;
  assert.deepEqual([file, line], ["src/agent.js", 3]);
});

test("what is wrong with a module is told with file and line", () => {
  const at = ({ file, line, column }) => [file, line, column];
  const syntax = problem('import { agent } from "cofferdam-sdk";\nexport default agent({ a: 1 ;\n');
  assert.deepEqual(at(syntax), ["src/agent.js", 2, 29]);
  const types = problem(AGENT.replace("s.any() }, () => 1", "s.string() },\n  () => 1"), TYPES);
  assert.deepEqual(at(types), ["src/agent.js", 3, 9]);
  assert.match(types.text, /^TS\d+: .*number/u);
  const missing = problem(`${AGENT}import "left-pad";\n`);
  assert.deepEqual(at(missing), ["src/agent.js", 3, 8]);
  assert.deepEqual([missing.text, missing.next], ['there is no package "left-pad"', "npm install left-pad"]);
  const node = problem(`${AGENT}import "node:fs";\n`);
  assert.match(node.text, /module of Node\.js/u);
  assert.match(node.next, /cofferdam-sdk\/fs/u);
  assert.match(problem(`${AGENT}import "./other.js";\n`).text, /there is no module "\.\/other\.js"/u);
  assert.match(problem(`${AGENT}await 1;\n`).text, /`await` is not possible/u);
  assert.match(problem('import { agnt } from "cofferdam-sdk";\nexport default agnt();\n').text, /has no export "agnt"/u);
});

test("a default export that is missing, or no agent, is told", () => {
  assert.match(problem("export const x = 1;\n").text, /no default export/u);
  assert.match(problem("export default () => 1;\n").text, /not an agent/u);
});

test("an exception while the component is made is told with file and line", () => {
  const { file, line, text } = problem(`import { x } from "./other.js";\n${AGENT}x();\n`, {
    "src/other.js": 'export function x() {\n  throw new RangeError("too far");\n}\n',
  });
  assert.deepEqual([file, line, text], ["src/other.js", 2, "too far"]);
  const need = problem(AGENT.replace("s.any() }", 's.any(), needs: { stat: "read" } }'));
  assert.deepEqual([need.file, need.line], ["src/agent.js", 2]);
  assert.match(need.text, /`stat` is no need/u);
  assert.match(problem(`import { Context } from "cofferdam-sdk";\n${AGENT}new Context().runId;\n`).text, /no host while/u);
});

test("what is wrong with package.json is told", () => {
  for (const [said, text] of [
    [{ name: undefined }, /no name/u],
    [{ cofferdam: undefined }, /does not say what this project is/u],
    [{ cofferdam: { world: "agents", main: "src/agent.js" } }, /a world is "agent" or "tool"/u],
    [{ cofferdam: { world: "agent" } }, /which module/u],
    [{ cofferdam: { world: "agent", main: "src/none.js" } }, /not there: src\/none\.js/u],
    [{ cofferdam: { world: "agent", main: "../agent.js" } }, /out of the project/u],
    [{ name: "../../x" }, /cannot be a project's name/u],
    [{ name: "/tmp/x" }, /cannot be a project's name/u],
    [{ name: "@me/../x" }, /cannot be a project's name/u],
  ]) {
    const { status, told } = build({ "src/agent.js": AGENT }, said);
    assert.equal(status, 1);
    assert.equal(told.errors[0].file, "package.json");
    assert.match(told.errors[0].text, text);
    assert.ok(told.errors[0].next.length > 0);
  }
});

test("nothing outside of the project is read into it, or written", () => {
  const outside = path.join(folder, "outside");
  mkdirSync(outside);
  writeFileSync(path.join(outside, "x.json"), "{}");
  for (const name of [path.join(outside, "x.json"), "../../outside/x.json", "linked/x.json"]) {
    const { project } = build({ "src/agent.js": AGENT, "node_modules/.keep": "" });
    symlinkSync(outside, path.join(project, "node_modules/linked"));
    writeFileSync(path.join(project, "src/agent.js"), `${AGENT}import x from ${JSON.stringify(name)};\nglobalThis.x = x;\n`);
    const { status, told } = again(project);
    assert.equal(status, 1);
    const [{ file, line, text }] = told.errors;
    assert.deepEqual([file, line], ["src/agent.js", 3]);
    assert.match(text, /outside of the project: .*x\.json/u);
  }

  const { project } = build({ "src/agent.js": AGENT });
  const precious = path.join(outside, "precious.js");
  writeFileSync(precious, AGENT);
  rmSync(path.join(project, ".cofferdam/build/hello.js"));
  for (const name of ["hello.js", "hello.wasm.new"]) symlinkSync(precious, path.join(project, ".cofferdam/build", name));
  assert.equal(again(project).status, 0);
  assert.equal(readFileSync(precious, "utf8"), AGENT);
  rmSync(path.join(project, "src/agent.js"));
  symlinkSync(precious, path.join(project, "src/agent.js"));
  assert.match(again(project).told.errors[0].text, /leads out of the project/u);

  const written = { incremental: true, tsBuildInfoFile: path.join(outside, "info"), generateTrace: path.join(outside, "trace") };
  const config = { ...JSON.parse(TYPES["tsconfig.json"]), compilerOptions: written };
  const typed = build({ "src/agent.js": AGENT, "tsconfig.json": JSON.stringify(config) });
  assert.equal(typed.status, 0, JSON.stringify(typed.told));
  assert.ok(!existsSync(written.tsBuildInfoFile) && !existsSync(written.generateTrace));
});

test("the types are what they are said to be", () => {
  const tsc = path.join(toolchain, "node_modules/typescript/bin/tsc");
  const { status, stdout } = spawnSync(process.execPath, [tsc, "-p", path.join(sdk, "test")], { encoding: "utf8" });
  assert.equal(stdout, "");
  assert.equal(status, 0);
});
