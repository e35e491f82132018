// The files of the user's workspace, through the host's file tools.

import { fromBase64, jsonBytesOf, toBase64 } from "./bytes.js";
import { ToolError } from "./errors.js";

/** The longest piece of a file that one call reads, in bytes. */
export const CHUNK_BYTES_MAX = 512 * 1024;

/** Below this many bytes a chunk is not made smaller to fit into an answer: no text grows that much as JSON. */
const CHUNK_BYTES_MIN = 64 * 1024;

/** The bytes that one call writes: as base64, with the path and the braces, they stay below the 1 MiB of a host call. */
const WRITE_BYTES_MAX = 512 * 1024;

export class Files {
  #context;

  constructor(context) {
    this.#context = context;
  }

  list(directory = "") {
    const { entries, truncated } = this.#context.call("file.list", { path: directory });
    return { entries, truncated };
  }

  readChunk(path, offset = 0, length = CHUNK_BYTES_MAX) {
    return asChunk(this.#context.call("file.read", { path, offset, length }));
  }

  startReadChunk(path, offset = 0, length = CHUNK_BYTES_MAX) {
    const pending = this.#context.start("file.read", { path, offset, length });
    return {
      ready: () => pending.ready(),
      wait: () => asChunk(pending.wait()),
      cancel: () => pending.cancel(),
      [Symbol.dispose]: () => pending.cancel(),
    };
  }

  readToString(path) {
    let whole = "";
    readAll((offset, length) => {
      const chunk = this.readChunk(path, offset, length);
      whole += chunk.text;
      return chunk.nextOffset;
    });
    return whole;
  }

  readToBytes(path) {
    const pieces = [];
    readAll((offset, length) => {
      const chunk = this.#context.call("file.read", { path, offset, length, encoding: "base64" });
      pieces.push(decoded(chunk.base64));
      return chunk.next_offset ?? undefined;
    });
    const whole = new Uint8Array(pieces.reduce((sum, piece) => sum + piece.length, 0));
    let at = 0;
    for (const piece of pieces) {
      whole.set(piece, at);
      at += piece.length;
    }
    return whole;
  }

  write(path, text) {
    return this.#writePieces(path, text, false);
  }

  append(path, text) {
    return this.#writePieces(path, text, true);
  }

  writeBytes(path, bytes) {
    return this.#writeBytePieces(path, bytes, false);
  }

  appendBytes(path, bytes) {
    return this.#writeBytePieces(path, bytes, true);
  }

  #writePieces(path, text, append) {
    let [rest, adding] = [String(text).toWellFormed(), append];
    for (;;) {
      const end = fittingPrefix(rest);
      const { bytes } = this.#context.call("file.write", { path, text: rest.slice(0, end), append: adding });
      rest = rest.slice(end);
      if (rest === "") return bytes;
      adding = true;
    }
  }

  #writeBytePieces(path, bytes, append) {
    let [rest, adding] = [bytes, append];
    for (;;) {
      const base64 = toBase64(rest.subarray(0, WRITE_BYTES_MAX));
      const written = this.#context.call("file.write", { path, base64, append: adding });
      rest = rest.subarray(WRITE_BYTES_MAX);
      if (rest.length === 0) return written.bytes;
      adding = true;
    }
  }
}

function asChunk({ text, bytes, next_offset: nextOffset, size }) {
  return { text, bytes, nextOffset: nextOffset ?? undefined, size };
}

function decoded(base64) {
  try {
    return fromBase64(base64);
  } catch {
    throw new ToolError("unexpected_answer", "from `file.read`: not base64");
  }
}

/**
 * Reads from the start to the end; `read` takes an offset and a length and gives the next offset.
 *
 * JSON writes some characters as two or six, so a chunk within its own limit may not fit into an answer. Then it is
 * halved, and stays so: the rest of the file is likely to be of the same kind.
 */
function readAll(read) {
  let [offset, length] = [0, CHUNK_BYTES_MAX];
  for (;;) {
    let next;
    try {
      next = read(offset, length);
    } catch (error) {
      if (!(error instanceof ToolError) || error.kind !== "too_large" || length / 2 < CHUNK_BYTES_MIN) throw error;
      length /= 2;
      continue;
    }
    if (next === undefined) return;
    if (next <= offset) throw new ToolError("unexpected_answer", "from `file.read`: it does not go on");
    offset = next;
  }
}

/** How many UTF-16 units from the start of a text fit into one call, as whole characters: as many as fit, or half of that. */
function fittingPrefix(text) {
  let end = Math.min(text.length, WRITE_BYTES_MAX);
  // No unit takes more than six bytes as JSON: a short text needs no count.
  if (end * 6 <= WRITE_BYTES_MAX) return end;
  for (;;) {
    const last = text.charCodeAt(end - 1);
    // Not between the halves of a character.
    if (end < text.length && last >= 0xd800 && last < 0xdc00) end -= 1;
    if (jsonBytesOf(text.slice(0, end)) <= WRITE_BYTES_MAX) return end;
    end = Math.floor(end / 2);
  }
}
