// TextEncoder and TextDecoder, for UTF-8, which the engine has not.

/** As many units as are handed to `String.fromCharCode` in one call: more overflows the stack of arguments. */
const UNITS_AT_ONCE = 8192;

export class TextEncoder {
  get encoding() {
    return "utf-8";
  }

  encode(text = "") {
    const string = String(text).toWellFormed();
    // As long as a text of ASCII; made longer once if it is none.
    let bytes = new Uint8Array(string.length);
    let length = 0;
    for (let at = 0; at < string.length; at += 1) {
      let code = string.charCodeAt(at);
      if (code < 0x80) {
        bytes[length++] = code;
        continue;
      }
      if (bytes.length === string.length) {
        const longer = new Uint8Array(length + (string.length - at) * 3);
        longer.set(bytes.subarray(0, length));
        bytes = longer;
      }
      if (code < 0x800) {
        bytes[length++] = 0xc0 | (code >> 6);
      } else if (code >= 0xd800 && code < 0xdc00) {
        at += 1;
        code = 0x10000 + ((code - 0xd800) << 10) + (string.charCodeAt(at) - 0xdc00);
        bytes[length++] = 0xf0 | (code >> 18);
        bytes[length++] = 0x80 | ((code >> 12) & 0x3f);
        bytes[length++] = 0x80 | ((code >> 6) & 0x3f);
      } else {
        bytes[length++] = 0xe0 | (code >> 12);
        bytes[length++] = 0x80 | ((code >> 6) & 0x3f);
      }
      bytes[length++] = 0x80 | (code & 0x3f);
    }
    return bytes.slice(0, length);
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
    let text = "";
    let units = [];
    let at = !this.#ignoreBOM && bytes[0] === 0xef && bytes[1] === 0xbb && bytes[2] === 0xbf ? 3 : 0;
    while (at < bytes.length) {
      const [code, length] = next(bytes, at);
      if (code === undefined) {
        if (this.#fatal) throw new TypeError(`the bytes are not UTF-8, from byte ${at} on`);
        units.push(0xfffd);
      } else if (code < 0x10000) {
        units.push(code);
      } else {
        units.push(0xd800 + ((code - 0x10000) >> 10), 0xdc00 + ((code - 0x10000) & 0x3ff));
      }
      at += length;
      if (units.length >= UNITS_AT_ONCE) {
        text += String.fromCharCode(...units);
        units = [];
      }
    }
    return text + String.fromCharCode(...units);
  }
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
