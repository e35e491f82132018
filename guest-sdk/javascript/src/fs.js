// The directories of a run, `/scratch` and `/workspace`, by WASI.

import { bytesOf, textOf } from "./bytes.js";
import { FileError } from "./errors.js";
import { ask, host } from "./host.js";

/** As many bytes as are read or written in one call. */
const BYTES_AT_ONCE = 64 * 1024;

const READ = flags({ read: true });
const WRITE = flags({ write: true });
const NOTHING = openFlags({});

function flags(set) {
  const none = { read: false, write: false, fileIntegritySync: false, dataIntegritySync: false };
  return { ...none, requestedWriteSync: false, mutateDirectory: false, ...set };
}

function openFlags(set) {
  return { create: false, directory: false, exclusive: false, truncate: false, ...set };
}

export function readFile(path) {
  return withOpen(path, NOTHING, READ, (file) => {
    const pieces = [];
    let length = 0;
    for (;;) {
      const [piece, atEnd] = file.read(BYTES_AT_ONCE, length);
      if (piece.length > 0) pieces.push(piece);
      length += piece.length;
      if (atEnd) break;
    }
    const whole = new Uint8Array(length);
    let at = 0;
    for (const piece of pieces) {
      whole.set(piece, at);
      at += piece.length;
    }
    return whole;
  });
}

export function readTextFile(path) {
  return textOf(readFile(path));
}

export function writeFile(path, data) {
  const bytes = bytesOf(data);
  withOpen(path, openFlags({ create: true, truncate: true }), WRITE, (file) => writeAt(file, bytes, 0));
}

export function appendFile(path, data) {
  const bytes = bytesOf(data);
  withOpen(path, openFlags({ create: true }), WRITE, (file) => writeAt(file, bytes, file.stat().size));
}

function writeAt(file, bytes, offset) {
  let written = 0;
  while (written < bytes.length) {
    written += file.write(bytes.subarray(written, written + BYTES_AT_ONCE), offset + written);
  }
}

export function readDir(path) {
  const entries = withOpen(path, openFlags({ directory: true }), READ, (directory) => {
    const stream = directory.readDirectory();
    const all = [];
    try {
      for (let entry = stream.readDirectoryEntry(); entry; entry = stream.readDirectoryEntry()) {
        all.push({ name: entry.name, kind: kindOf(entry.type) });
      }
    } finally {
      stream[Symbol.dispose]();
    }
    return all;
  });
  return entries.sort((one, other) => (one.name < other.name ? -1 : 1));
}

export function stat(path) {
  const { type, size } = at(path, (root, rest) => root.statAt({ symlinkFollow: false }, rest));
  return { kind: kindOf(type), size };
}

export function exists(path) {
  try {
    stat(path);
    return true;
  } catch (error) {
    if (error instanceof FileError && error.kind === "no_entry") return false;
    throw error;
  }
}

export function makeDir(path) {
  const steps = path.split("/").filter((step) => step !== "");
  for (let end = 2; end <= steps.length; end += 1) {
    const directory = `/${steps.slice(0, end).join("/")}`;
    try {
      at(directory, (root, rest) => root.createDirectoryAt(rest));
    } catch (error) {
      if (!(error instanceof FileError) || error.kind !== "exist") throw error;
      if (stat(directory).kind !== "directory") throw new FileError("not_directory", directory);
    }
  }
}

export function rename(from, to) {
  at(from, (root, rest) => {
    const [target, targetRest] = locate(to);
    root.renameAt(rest, target, targetRest);
  });
}

export function remove(path) {
  const isDirectory = stat(path).kind === "directory";
  at(path, (root, rest) => (isDirectory ? root.removeDirectoryAt(rest) : root.unlinkFileAt(rest)));
}

function kindOf(type) {
  return type === "directory" ? "directory" : "file";
}

function withOpen(path, open, how, use) {
  return at(path, (root, rest) => {
    const file = root.openAt({ symlinkFollow: false }, rest, open, how);
    try {
      return use(file);
    } finally {
      file[Symbol.dispose]();
    }
  });
}

function at(path, use) {
  return ask(
    () => use(...locate(path)),
    (kind) => new FileError(kind, path),
  );
}

let roots;

/** The directory that a path is in, and the path from there. */
function locate(path) {
  const files = host().files;
  // One set of handles for a run: each is a handle of the host.
  if (roots?.of !== files) roots = { of: files, all: files.getDirectories() };
  for (const [root, name] of roots.all) {
    if (path === name) return [root, "."];
    if (path.startsWith(`${name}/`)) return [root, path.slice(name.length + 1) || "."];
  }
  throw new FileError("no_directory", path);
}
