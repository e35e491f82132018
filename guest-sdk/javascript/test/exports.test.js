import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

import * as fs from "../src/fs.js";
import * as index from "../src/index.js";

/** The values that files of types declare. */
function declared(...files) {
  const names = files.flatMap((file) => {
    const text = readFileSync(new URL(`../src/${file}`, import.meta.url), "utf8");
    return [...text.matchAll(/^export declare (?:class|function|const) (\w+)/gmu)].map(([, name]) => name);
  });
  return [...new Set(names)].sort();
}

/** The members of a class that a file of types declares. */
function members(file, name) {
  const text = readFileSync(new URL(`../src/${file}`, import.meta.url), "utf8");
  const body = text.split(new RegExp(`^export declare class ${name}\\b.*\\{$`, "mu"))[1].split(/^\}$/mu)[0];
  const found = [...body.matchAll(/^ {2}(?:readonly )?(\w+)[?<(:]/gmu)].map(([, member]) => member);
  return [...new Set(found)].filter((member) => member !== "constructor").sort();
}

test("what the types declare is there, and nothing else", () => {
  assert.deepEqual(Object.keys(index).sort(), declared("index.d.ts", "context.d.ts", "errors.d.ts", "schema.d.ts"));
  assert.deepEqual(Object.keys(fs).sort(), declared("fs.d.ts"));
});

test("what the types declare of a class is there, and nothing else", () => {
  for (const [file, name] of [
    ["context.d.ts", "ToolContext"],
    ["context.d.ts", "Context"],
    ["context.d.ts", "Child"],
    ["context.d.ts", "Pending"],
    ["context.d.ts", "State"],
    ["context.d.ts", "Files"],
    ["schema.d.ts", "Schema"],
  ]) {
    const there = Object.getOwnPropertyNames(index[name].prototype).filter((member) => member !== "constructor");
    assert.deepEqual(there.sort(), members(file, name), name);
  }
});
