// Bytes, texts and base64.

/** As many bytes as are handed to `String.fromCharCode` in one call: more overflows the stack of arguments. */
const CODES_AT_ONCE = 8192;

const encoder = () => new TextEncoder();
const decoder = () => new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** The bytes of a text as UTF-8, or bytes as they are. */
export function bytesOf(value) {
  if (typeof value === "string") return encoder().encode(value);
  if (value instanceof Uint8Array) return value;
  throw new TypeError("bytes are a Uint8Array, or a string, which is written as UTF-8");
}

/** The text of bytes that are UTF-8; throws a `TypeError` if they are not. */
export function textOf(bytes) {
  return decoder().decode(bytes);
}

export function toBase64(bytes) {
  let codes = "";
  for (let at = 0; at < bytes.length; at += CODES_AT_ONCE) {
    codes += String.fromCharCode(...bytes.subarray(at, at + CODES_AT_ONCE));
  }
  return btoa(codes);
}

/** The bytes of a base64 text; throws if it is none. */
export function fromBase64(base64) {
  const codes = atob(base64);
  const bytes = new Uint8Array(codes.length);
  for (let at = 0; at < codes.length; at += 1) bytes[at] = codes.charCodeAt(at);
  return bytes;
}
