import assert from "node:assert/strict";
import { afterEach, beforeEach, test } from "node:test";

import * as fs from "../src/fs.js";
import { useHost } from "../src/host.js";
import { FileError } from "../src/index.js";
import { thrownBy } from "./fake-host.js";

/** As many bytes as this disk takes or gives in one call: fewer than are asked for, as a host may. */
const BYTES_AT_ONCE = 1000;

let opened = 0;

/** A disk in memory: from paths to bytes, or to null for a directory. */
function fakeDisk() {
  const all = new Map([[".", null]]);
  const parent = (path) => (path.includes("/") ? path.slice(0, path.lastIndexOf("/")) : ".");
  const handle = (path, { isRoot = false } = {}) => {
    if (!isRoot) opened += 1;
    return {
      read(length, offset) {
        const bytes = all.get(path).subarray(offset, offset + Math.min(length, BYTES_AT_ONCE));
        return [bytes, offset + bytes.length >= all.get(path).length];
      },
      write(buffer, offset) {
        const taken = buffer.subarray(0, BYTES_AT_ONCE);
        const old = all.get(path);
        const bytes = new Uint8Array(Math.max(old.length, offset + taken.length));
        bytes.set(old);
        bytes.set(taken, offset);
        all.set(path, bytes);
        return taken.length;
      },
      stat: () => ({ type: "regular-file", size: all.get(path).length }),
      statAt(_flags, of) {
        if (!all.has(of)) throw thrownBy("no-entry");
        return all.get(of) === null ? { type: "directory", size: 0 } : { type: "regular-file", size: all.get(of).length };
      },
      openAt(_flags, of, { create, directory, truncate }, { write }) {
        if (!all.has(of) && !create) throw thrownBy("no-entry");
        if (!all.has(of) && all.get(parent(of)) !== null) throw thrownBy("no-entry");
        if (all.get(of) === null && write) throw thrownBy("is-directory");
        if (directory && all.get(of) !== null) throw thrownBy("not-directory");
        if (!all.has(of) || truncate) all.set(of, new Uint8Array(0));
        return handle(of);
      },
      readDirectory() {
        const names = [...all.keys()].filter((of) => of !== "." && parent(of) === path);
        opened += 1;
        return {
          readDirectoryEntry() {
            const of = names.shift();
            if (of === undefined) return null;
            return { type: all.get(of) === null ? "directory" : "regular-file", name: of.split("/").at(-1) };
          },
          [Symbol.dispose]: () => (opened -= 1),
        };
      },
      createDirectoryAt(of) {
        if (all.has(of)) throw thrownBy("exist");
        all.set(of, null);
      },
      removeDirectoryAt: (of) => all.delete(of),
      unlinkFileAt: (of) => all.delete(of),
      renameAt(from, _directory, to) {
        all.set(to, all.get(from));
        all.delete(from);
      },
      [Symbol.dispose]: () => (opened -= 1),
    };
  };
  return { getDirectories: () => [[handle(".", { isRoot: true }), "/scratch"]] };
}

beforeEach(() => {
  opened = 0;
  useHost({ files: fakeDisk() });
});
afterEach(() => {
  useHost(null);
  assert.equal(opened, 0, "a handle was left open");
});

const kindOf = (call) => {
  try {
    call();
  } catch (error) {
    assert.ok(error instanceof FileError, `${error}`);
    return error.kind;
  }
  return assert.fail("it threw nothing");
};

test("files are written, read, added to and removed", () => {
  const bytes = Uint8Array.from({ length: 5000 }, (_one, at) => at % 256);
  fs.writeFile("/scratch/a.bin", bytes);
  assert.deepEqual(fs.readFile("/scratch/a.bin"), bytes);
  fs.writeFile("/scratch/a.txt", "é");
  fs.appendFile("/scratch/a.txt", "\n");
  fs.appendFile("/scratch/b.txt", "new");
  assert.equal(fs.readTextFile("/scratch/a.txt"), "é\n");
  assert.deepEqual(fs.stat("/scratch/a.txt"), { kind: "file", size: 3 });
  fs.rename("/scratch/b.txt", "/scratch/c.txt");
  assert.deepEqual(fs.readDir("/scratch").map(({ name }) => name), ["a.bin", "a.txt", "c.txt"]);
  fs.remove("/scratch/c.txt");
  assert.equal(fs.exists("/scratch/c.txt"), false);
  assert.equal(fs.exists("/scratch"), true);
  fs.writeFile("/scratch/a.txt", Uint8Array.of(0xff));
  assert.throws(() => fs.readTextFile("/scratch/a.txt"), TypeError);
});

test("directories are made with those on the way", () => {
  fs.makeDir("/scratch/a/b/c");
  fs.makeDir("/scratch/a/b");
  fs.writeFile("/scratch/a/b/f", "");
  assert.deepEqual(fs.readDir("/scratch/a/b"), [{ name: "c", kind: "directory" }, { name: "f", kind: "file" }]);
  assert.equal(kindOf(() => fs.makeDir("/scratch/a/b/f")), "not_directory");
  fs.remove("/scratch/a/b/c");
  assert.equal(fs.exists("/scratch/a/b/c"), false);
});

test("what cannot be done is told with its path", () => {
  assert.equal(kindOf(() => fs.readFile("/scratch/none")), "no_entry");
  assert.equal(kindOf(() => fs.readFile("/workspace/a")), "no_directory");
  assert.equal(kindOf(() => fs.readFile("relative")), "no_directory");
  assert.equal(kindOf(() => fs.readFile("/scratchy/a")), "no_directory");
  assert.equal(kindOf(() => fs.writeFile("/scratch", "x")), "is_directory");
  assert.throws(() => fs.readFile("/scratch/none"), /\/scratch\/none: there is no such file/u);
});
