// TextEncoder and TextDecoder, for UTF-8, which the engine has not.
// What can be left to functions of the engine is: they take a tenth of the fuel of a loop. They know texts of bytes, of which
// each character is a byte.

/** As many bytes as are handed to `String.fromCharCode` in one call: more overflows the stack of arguments. */
const BYTES_AT_ONCE = 8192;

/** From bytes to a text of which each character is a byte. */
export function binaryOf(bytes) {
  let binary = "";
  for (let at = 0; at < bytes.length; at += BYTES_AT_ONCE) {
    binary += String.fromCharCode.apply(null, bytes.subarray(at, at + BYTES_AT_ONCE));
  }
  return binary;
}

/** From a text of which each character is a byte to the bytes. */
export function bytesOfBinary(binary) {
  if (Uint8Array.fromBase64 !== undefined) return Uint8Array.fromBase64(btoa(binary));
  const bytes = new Uint8Array(binary.length);
  for (let at = 0; at < bytes.length; at += 1) bytes[at] = binary.charCodeAt(at);
  return bytes;
}

export class TextEncoder {
  get encoding() {
    return "utf-8";
  }

  encode(text = "") {
    // The one writes UTF-8 as %XX, the other reads %XX as characters.
    return bytesOfBinary(unescape(encodeURIComponent(String(text).toWellFormed())));
  }
}

export class TextDecoder {
  #fatal;
  #ignoreBOM;

  constructor(label = "utf-8", { fatal = false, ignoreBOM = false } = {}) {
    if (!["utf-8", "utf8", "unicode-1-1-utf-8"].includes(String(label).trim().toLowerCase())) {
      throw new RangeError(`the encoding ${label} is not known: there is UTF-8 alone`);
    }
    this.#fatal = Boolean(fatal);
    this.#ignoreBOM = Boolean(ignoreBOM);
  }

  get encoding() {
    return "utf-8";
  }

  get fatal() {
    return this.#fatal;
  }

  get ignoreBOM() {
    return this.#ignoreBOM;
  }

  decode(input = new Uint8Array(0)) {
    const bytes = ArrayBuffer.isView(input)
      ? new Uint8Array(input.buffer, input.byteOffset, input.byteLength)
      : new Uint8Array(input);
    const text = decode(bytes, this.#fatal);
    return this.#ignoreBOM || text[0] !== "\ufeff" ? text : text.slice(1);
  }
}

function decode(bytes, fatal) {
  const binary = binaryOf(bytes);
  if (!/[^\0-\x7f]/.test(binary)) return binary;
  try {
    return decodeURIComponent(escape(binary));
  } catch {
    return decodeInvalid(bytes, fatal);
  }
}

/** Bytes that are not UTF-8 all through: what is none is told, or becomes U+FFFD as the standard has it. */
function decodeInvalid(bytes, fatal) {
  const characters = [];
  let at = 0;
  while (at < bytes.length) {
    const [code, length] = next(bytes, at);
    if (code === undefined && fatal) throw new TypeError(`the bytes are not UTF-8, from byte ${at} on`);
    characters.push(String.fromCodePoint(code ?? 0xfffd));
    at += length;
  }
  return characters.join("");
}

/**
 * The character at a place, and how many bytes it takes; without a character, how many bytes are skipped: those that could
 * begin one, at least one.
 */
function next(bytes, at) {
  const first = bytes[at];
  if (first < 0x80) return [first, 1];
  let [more, code, low, high] = [0, 0, 0x80, 0xbf];
  if (first >= 0xc2 && first <= 0xdf) [more, code] = [1, first & 0x1f];
  else if (first >= 0xe0 && first <= 0xef) [more, code] = [2, first & 0x0f];
  else if (first >= 0xf0 && first <= 0xf4) [more, code] = [3, first & 0x07];
  else return [undefined, 1];
  if (first === 0xe0) low = 0xa0;
  if (first === 0xed) high = 0x9f;
  if (first === 0xf0) low = 0x90;
  if (first === 0xf4) high = 0x8f;
  for (let step = 1; step <= more; step += 1) {
    const byte = bytes[at + step];
    if (byte === undefined || byte < low || byte > high) return [undefined, step];
    code = (code << 6) | (byte & 0x3f);
    [low, high] = [0x80, 0xbf];
  }
  return [code, more + 1];
}
