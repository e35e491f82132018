import assert from "node:assert/strict";
import { afterEach, test } from "node:test";

import { fromBase64, toBase64 } from "../src/bytes.js";
import { useHost } from "../src/host.js";
import { console as ours, inspect } from "../src/runtime/console.js";
import { TextDecoder as Decoder, TextEncoder as Encoder } from "../src/runtime/encoding.js";
import { look, Promise as Ours, runJobs, takeUnhandled } from "../src/runtime/promise.js";
import { crypto, random } from "../src/runtime/random.js";
import { settled } from "../src/runtime/settle.js";
import { framesOf, place } from "../src/runtime/stack.js";
import { fakeHost, refusal } from "./fake-host.js";

afterEach(() => useHost(null));

test("promises settle in the order of the language's own", async () => {
  const run = (P, log) => {
    const note = (text) => () => {
      log.push(text);
      return text;
    };
    P.resolve(1).then(note("a")).then(note("b")).finally(note("c"));
    P.reject(2).catch(note("d")).then(note("e"));
    new P((resolve) => resolve(P.resolve(3))).then(note("f"));
    P.all([1, P.resolve(2)]).then((all) => log.push(all));
    P.allSettled([1, P.reject(2)]).then((all) => log.push(all));
    P.any([P.reject(1), P.resolve(2)]).then((one) => log.push(`any ${one}`));
    P.any([P.reject(1)]).catch((error) => log.push(error.errors));
    P.race([new P(() => {}), P.resolve("r")]).then((one) => log.push(one));
    P.all([]).then((all) => log.push(all));
    P.resolve({ then: (resolve) => resolve("thenable") }).then((one) => log.push(one));
    new P(() => {
      throw new Error("thrown");
    }).catch((error) => log.push(error.message));
    log.push("sync");
  };
  const [engine, own] = [[], []];
  run(Promise, engine);
  run(Ours, own);
  await new Promise((resolve) => setImmediate(resolve));
  runJobs();
  assert.deepEqual(own, engine);
  assert.equal(takeUnhandled(), undefined);
});

test("a promise that is rejected and that nobody looks at is told", () => {
  Ours.reject(new Error("lost"));
  runJobs();
  assert.equal(takeUnhandled().reason.message, "lost");
  assert.equal(takeUnhandled(), undefined);
  const late = Ours.reject(1);
  late.catch(() => {});
  runJobs();
  assert.equal(takeUnhandled(), undefined);
  const { promise, resolve } = Ours.withResolvers();
  assert.equal(look(promise).state, "pending");
  resolve(promise);
  assert.match(look(promise).value.message, /wait for itself/u);
  assert.equal(look(Ours.try(() => 5)).value, 5);
});

test("a function's promise is its value, its error, or a promise that never settles", () => {
  assert.equal(settled(() => 1), 1);
  assert.equal(settled(() => Ours.resolve(1).then((one) => one + 1)), 2);
  assert.throws(() => settled(() => Ours.reject(new RangeError("no"))), RangeError);
  assert.throws(() => settled(() => new Ours(() => {})), /will never settle/u);
  assert.throws(() => settled(() => void Ours.reject(new RangeError("floating"))), /floating/u);
  let done = false;
  settled(() => void Ours.resolve().then(() => (done = true)));
  assert.equal(done, true);
});

test("console's lines are log events, cut where they are too long", () => {
  ours.log("while it is built, nobody listens");
  const host = fakeHost();
  useHost(host);
  ours.log("hello", { name: "Ada", n: [1, undefined, null] }, 7, "a\nb");
  ours.debug("d");
  ours.warn("w");
  ours.error(new TypeError("bad"));
  assert.deepEqual(host.calls, [
    ["events.log", "info", 'hello {name: "Ada", n: [1, undefined, null]} 7 a'],
    ["events.log", "info", "b"],
    ["events.log", "debug", "d"],
    ["events.log", "warn", "w"],
    ["events.log", "error", "TypeError: bad"],
  ]);
  host.calls.length = 0;
  const long = `${"x".repeat(8191)}😀${"é".repeat(5000)}`;
  ours.log(long);
  assert.equal(host.calls.map(([, , text]) => text).join(""), long);
  assert.deepEqual(host.calls.map(([, , text]) => Buffer.byteLength(text)), [8191, 8192, 1812]);
  host.events.log = () => {
    throw refusal("too-many", 10_000);
  };
  ours.log("a line that cannot be recorded is lost");
});

test("values are shown for people to read", () => {
  const circle = { a: 1 };
  circle.self = circle;
  assert.equal(inspect(circle), "{a: 1, self: [circular]}");
  assert.equal(inspect({ "a-b": { c: { d: { e: {} } } } }), '{"a-b": {c: {d: {e: {…}}}}}');
  assert.equal(inspect(new Map([["a", new Set([1n])]])), 'Map {"a" => Set {1n}}');
  assert.equal(inspect([new Date(0), /x/u, Symbol("s"), function named() {}]), "[1970-01-01T00:00:00.000Z, /x/u, Symbol(s), [function named]]");
  assert.equal(inspect(new Uint8Array(3)), "Uint8Array(3) [0, 0, 0]");
});

test("texts become UTF-8 and come back", () => {
  for (const text of ["", "plain", "é", "€", "😀", "a€b😀cé", "\ufeffmark", "x".repeat(20_000) + "😀".repeat(9_000)]) {
    assert.deepEqual(new Encoder().encode(text), new Uint8Array(Buffer.from(text)));
    assert.equal(new Decoder("utf-8", { ignoreBOM: true }).decode(Buffer.from(text)), text);
  }
  assert.deepEqual([...new Encoder().encode("\ud800x")], [0xef, 0xbf, 0xbd, 0x78]);
  assert.equal(new Decoder().decode(Buffer.from("\ufeffa")), "a");
});

test("bytes that are no UTF-8 are read as the standard has it", () => {
  const samples = [
    [0xff], [0xc3], [0xc3, 0x28], [0xe2, 0x82], [0xe2, 0x28, 0xa1], [0xf0, 0x9f, 0x98], [0xc0, 0x80], [0xed, 0xa0, 0x80],
    [0xe0, 0x80, 0x80], [0xf4, 0x90, 0x80, 0x80], [0xf0, 0x80, 0x80, 0x80], [0x61, 0xf0, 0x9f, 0x61], [0x80, 0x61],
  ];
  for (const sample of samples) {
    const bytes = Uint8Array.from(sample);
    assert.equal(new Decoder().decode(bytes), new TextDecoder().decode(bytes), sample.join());
    assert.throws(() => new Decoder("utf-8", { fatal: true }).decode(bytes), TypeError);
  }
  assert.throws(() => new Decoder("latin1"), /UTF-8 alone/u);
});

test("base64 there and back", () => {
  const bytes = Uint8Array.from({ length: 20_000 }, (_one, at) => at % 256);
  assert.equal(toBase64(bytes), Buffer.from(bytes).toString("base64"));
  assert.deepEqual(fromBase64(toBase64(bytes)), bytes);
  assert.equal(toBase64(new Uint8Array(0)), "");
});

test("random numbers come from the host: a seed for Math.random, bytes for the rest", () => {
  const host = fakeHost();
  useHost(host);
  const numbers = Array.from({ length: 1000 }, random);
  assert.ok(numbers.every((number) => number >= 0 && number < 1));
  assert.equal(new Set(numbers).size, 1000);
  const mean = numbers.reduce((sum, number) => sum + number) / 1000;
  assert.ok(Math.abs(mean - 0.5) < 0.05, `${mean}`);
  assert.equal(host.calls.length, 1);
  assert.match(crypto.randomUUID(), /^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/u);
  assert.deepEqual([...crypto.getRandomValues(new Uint16Array(2))], [0x0707, 0x0707]);
});

test("a stack is told in lines of the author's files", () => {
  const places = { file: "x.js", sources: ["src/agent.js", null], lines: ["", "0 0 4 0", "", "0 0 5 2,4 0 5 6"] };
  const stack = "    at deep (/x.js:2:9)\n    at run (/x.js:3:1)\n    at <anonymous> (/x.js:4:7)\n    at x (/x.js:4:2)\n    at other (/y.js:2:1)\n    at native";
  assert.deepEqual(framesOf(stack, places), ["deep (src/agent.js:5:1)", "src/agent.js:6:7", "x (src/agent.js:6:3)"]);
  assert.deepEqual(framesOf(stack, undefined), []);
  assert.equal(place(new RangeError("far")), "RangeError: far");
});
