// Random numbers. The engine's own are seeded when the component is built, and the same in every run.

import { host } from "../host.js";

/** The most random bytes that the host gives in one call. */
const BYTES_AT_ONCE = 65536;

let words;

/** A number from 0 to 1, of 53 random bits: xoshiro128**, seeded by the host once in a run. */
export function random() {
  if (words === undefined) {
    const seed = new DataView(Uint8Array.from(host().random.getRandomBytes(16)).buffer);
    words = [0, 4, 8, 12].map((at) => seed.getUint32(at));
    // All zeros would stay zeros.
    if (words.every((word) => word === 0)) words[0] = 1;
  }
  return ((next32() >>> 5) * 0x4000000 + (next32() >>> 6)) / 2 ** 53;
}

function next32() {
  const rotated = Math.imul(words[1], 5);
  const answer = Math.imul((rotated << 7) | (rotated >>> 25), 9) >>> 0;
  const shifted = words[1] << 9;
  words[2] ^= words[0];
  words[3] ^= words[1];
  words[1] ^= words[2];
  words[0] ^= words[3];
  words[2] ^= shifted;
  words[3] = (words[3] << 11) | (words[3] >>> 21);
  return answer;
}

export const crypto = {
  getRandomValues(array) {
    const bytes = new Uint8Array(array.buffer, array.byteOffset, array.byteLength);
    for (let at = 0; at < bytes.length; at += BYTES_AT_ONCE) {
      bytes.set(host().random.getRandomBytes(Math.min(BYTES_AT_ONCE, bytes.length - at)), at);
    }
    return array;
  },

  randomUUID() {
    const bytes = crypto.getRandomValues(new Uint8Array(16));
    bytes[6] = (bytes[6] & 0x0f) | 0x40;
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    const hex = [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
    return [hex.slice(0, 8), hex.slice(8, 12), hex.slice(12, 16), hex.slice(16, 20), hex.slice(20)].join("-");
  },
};
