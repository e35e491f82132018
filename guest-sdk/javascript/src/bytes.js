// Bytes, texts and base64.

import { binaryOf, bytesOfBinary, TextDecoder, TextEncoder } from "./runtime/encoding.js";

/** The bytes of a text as UTF-8, or bytes as they are. */
export function bytesOf(value) {
  if (typeof value === "string") return new TextEncoder().encode(value);
  if (value instanceof Uint8Array) return value;
  throw new TypeError("bytes are a Uint8Array, or a string, which is written as UTF-8");
}

/** The text of bytes that are UTF-8; throws a `TypeError` if they are not. */
export function textOf(bytes) {
  return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
}

export function toBase64(bytes) {
  // The engine's own takes a thirtieth of the fuel; Node.js has it from 25 on.
  return bytes.toBase64 !== undefined ? bytes.toBase64() : btoa(binaryOf(bytes));
}

/** The bytes of a base64 text; throws if it is none. */
export function fromBase64(base64) {
  return Uint8Array.fromBase64 !== undefined ? Uint8Array.fromBase64(base64) : bytesOfBinary(atob(base64));
}

/** How many bytes a text takes within a JSON text, as UTF-8. */
export function jsonBytesOf(text) {
  // The one writes each byte as one character or as %XX, the other reads %XX as one. Without the quotes.
  return unescape(encodeURIComponent(JSON.stringify(text))).length - 2;
}
