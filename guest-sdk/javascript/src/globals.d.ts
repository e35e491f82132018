// What is there beside the language itself (ECMAScript 2023). No timers, no network, no Intl.

interface Console {
  /** A log line of level `debug`. */
  debug(...values: unknown[]): void;
  /** A log line of level `info`. */
  log(...values: unknown[]): void;
  /** A log line of level `info`. */
  info(...values: unknown[]): void;
  /** A log line of level `warn`. */
  warn(...values: unknown[]): void;
  /** A log line of level `error`. */
  error(...values: unknown[]): void;
}

/**
 * Each line becomes a `log` event; one longer than 8 KiB becomes several. What cannot be recorded is lost, and the run goes
 * on.
 */
declare var console: Console;

/** Writes texts as UTF-8. */
declare class TextEncoder {
  readonly encoding: "utf-8";
  encode(text?: string): Uint8Array<ArrayBuffer>;
}

/** Reads UTF-8; other encodings are not there. */
declare class TextDecoder {
  constructor(label?: "utf-8" | "utf8", options?: { fatal?: boolean; ignoreBOM?: boolean });
  readonly encoding: "utf-8";
  readonly fatal: boolean;
  readonly ignoreBOM: boolean;
  decode(bytes?: ArrayBuffer | ArrayBufferView): string;
}

interface Crypto {
  /** Fills an array with random bytes of the host. */
  getRandomValues<T extends ArrayBufferView>(array: T): T;
  /** A random UUID (version 4). */
  randomUUID(): string;
}

declare var crypto: Crypto;

declare function queueMicrotask(job: () => void): void;
/** From a text of which each character is a byte to base64. */
declare function btoa(bytes: string): string;
/** From base64 to a text of which each character is a byte. */
declare function atob(base64: string): string;

declare var performance: {
  /** Milliseconds, from no time in particular. */
  now(): number;
};
