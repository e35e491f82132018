// Puts in place what the engine has not, or has in a form that is of no use here. Imported before the author's modules.

import { console } from "./console.js";
import { TextDecoder, TextEncoder } from "./encoding.js";
import { Promise, queueMicrotask } from "./promise.js";
import { crypto, random } from "./random.js";

function define(name, value) {
  Object.defineProperty(globalThis, name, { value, writable: true, configurable: true, enumerable: false });
}

define("console", console);
define("TextDecoder", TextDecoder);
define("TextEncoder", TextEncoder);
define("Promise", Promise);
define("queueMicrotask", queueMicrotask);
define("crypto", crypto);
Math.random = random;
