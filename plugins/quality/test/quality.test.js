import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

import { drift } from "../src/drift.js";
import { asDay, asNumber, Profile } from "../src/profile.js";
import { html } from "../src/report.js";
import { CsvReader, JsonLinesReader, NotATable, readerFor } from "../src/rows.js";
import { BadRule, Rules } from "../src/rules.js";

/** All rows of a text that comes in pieces of a length. */
function read(reader, text, length = text.length) {
  const rows = [];
  for (let at = 0; at < text.length || at === 0; at += Math.max(length, 1)) {
    rows.push(...reader.push(text.slice(at, at + length), at + length >= text.length));
  }
  return rows;
}

function profiles(rows) {
  const all = new Map();
  rows.forEach(({ fields }, before) => {
    for (const name of fields.keys()) if (!all.has(name)) all.set(name, new Profile(name, before));
    for (const [name, profile] of all) profile.add(fields.get(name) ?? null);
  });
  return { rows: rows.length, columns: [...all.values()].map((profile) => profile.told()) };
}

test("a CSV file is the same rows, in whatever pieces it comes", () => {
  const text = '\ufeffa,"b ""x"""\r\n1,"two\r\nlines"\r\n\r\n3,\n"4,4",\'5\'\nshort\nlast,"end"';
  const whole = read(new CsvReader(), text);
  assert.deepEqual(
    whole.map(({ line, fields, problem }) => [line, problem ?? Object.fromEntries(fields)]),
    [
      [2, { a: "1", 'b "x"': "two\r\nlines" }],
      [5, { a: "3", 'b "x"': null }],
      [6, { a: "4,4", 'b "x"': "'5'" }],
      [7, "1 fields, but the header has 2"],
      [8, { a: "last", 'b "x"': "end" }],
    ],
  );
  for (let length = 1; length < text.length; length += 1) assert.deepEqual(read(new CsvReader(), text, length), whole, `${length}`);
});

test("what is no table is said so", () => {
  assert.throws(() => read(new CsvReader(), "a,a\n"), /two of its columns have the name `a`/u);
  assert.throws(() => read(new CsvReader(), `a,b\n"${"x\n".repeat(1_000_000)}`, 500_000), /row from line 2 on does not end/u);
  assert.throws(() => read(new JsonLinesReader(), "x".repeat(2_000_000), 700_000), NotATable);
  assert.throws(() => readerFor("a.xlsx"), NotATable);
  assert.deepEqual(read(new CsvReader(), 'a\n1\n"2\n3').map(({ line, problem }) => [line, problem]), [
    [2, undefined],
    [3, "a quote is not closed"],
  ]);
  assert.deepEqual(read(readerFor("A.CSV"), ""), []);
});

test("JSON Lines are objects, whose properties may differ", () => {
  const text = '{"a":1,"b":"x"}\n\n{"a":null,"c":[1]}\r\n[1]\nnot\n{"b":""}';
  for (let length = 1; length <= text.length; length += 1) {
    const reader = readerFor("x.jsonl");
    const rows = read(reader, text, length);
    assert.deepEqual(
      rows.map(({ line, fields, problem }) => [line, problem === undefined ? Object.fromEntries(fields) : "problem"]),
      [[1, { a: "1", b: "x" }], [3, { a: null, c: "[1]" }], [4, "problem"], [5, "problem"], [6, { b: null }]],
    );
    assert.deepEqual(reader.columns, ["a", "b", "c"]);
  }
});

test("numbers and days are those that are written so", () => {
  for (const [text, number] of [["1", 1], [" -2.5e3 ", -2500], [".5", 0.5], ["", undefined], ["1,5", undefined], ["0x10", undefined], ["NaN", undefined]]) {
    assert.equal(asNumber(text), number, text);
  }
  for (const [text, day] of [["2012/01/31", "2012-01-31"], ["2012-02-29T10:00:00Z", "2012-02-29"], ["2013-02-29", undefined], ["31.1.2012", undefined]]) {
    assert.equal(asDay(text), day, text);
  }
});

test("the weather of Seattle has the figures that are known of it", () => {
  const text = readFileSync(new URL("../../analyst/data/seattle-weather.csv", import.meta.url), "utf8");
  const { rows, columns } = profiles(read(readerFor("seattle-weather.csv"), text, 1000));
  assert.equal(rows, 1461);
  const [date, precipitation, , , , weather] = columns;
  assert.deepEqual([date.type, date.min, date.max, date.distinct_is_at_least], ["date", "2012-01-01", "2015-12-31", true]);
  assert.deepEqual([precipitation.type, precipitation.min, precipitation.max], ["number", "0", "55.9"]);
  assert.ok(Math.abs(precipitation.mean - 3.029432) < 1e-6, `${precipitation.mean}`);
  assert.deepEqual(weather.values, ["drizzle", "fog", "rain", "snow", "sun"]);
  assert.equal(weather.top.reduce((sum, { count }) => sum + count, 0), 1461);
});

test("rules are about values, and tell the first rows that break them", () => {
  const rules = new Rules([
    { column: "id", required: true, unique: true, pattern: "^[a-z]+$" },
    { column: "n", type: "number", min: 0, max: 10 },
    { column: "kind", one_of: ["a", "b"] },
    { column: "on", type: "date" },
  ]);
  const text = "id,n,kind,on\nx,1,a,2020-01-01\nx,11,c,2020-13-01\n,-1,,\nA7,many,b,\n";
  for (const row of read(new CsvReader(), text)) rules.look(row);
  const told = rules.told().map(({ column, rule, count, examples }) => [column, rule, count, examples.map(({ line }) => line)]);
  assert.deepEqual(told, [
    ["id", "has a value", 1, [4]],
    ["id", "is there once", 1, [3]],
    ["id", "matches ^[a-z]+$", 1, [5]],
    ["n", "is a number", 1, [5]],
    ["n", "is at least 0", 2, [4, 5]],
    ["n", "is at most 10", 2, [3, 5]],
    ["kind", "is one of a, b", 1, [3]],
    ["on", "is a date", 1, [3]],
  ]);
  assert.throws(() => new Rules([{ column: "a", pattern: "(" }]), BadRule);
  assert.throws(() => new Rules([{ column: "a" }]), /asks nothing/u);
});

test("what differs from the last time is told, and growth is not", () => {
  const csv = (lines) => profiles(read(new CsvReader(), `id,n,kind,on\n${lines.join("\n")}\n`));
  const lines = Array.from({ length: 100 }, (_one, at) => `${at},${at % 50},${at % 2 ? "a" : "b"},2020-01-${String((at % 28) + 1).padStart(2, "0")}`);
  const before = csv(lines);
  assert.deepEqual(drift(before, before), []);
  assert.deepEqual(drift(before, csv([...lines, "100,51,a,2020-02-01"])), []);
  const texts = drift(before, csv([...lines.slice(0, 60), ...Array.from({ length: 20 }, () => "x,900,c,2019-01-01")]));
  assert.deepEqual(texts, [
    { column: null, what: "has 80 rows, and had 100" },
    { column: "id", what: "is of type text, and was number" },
    { column: "n", what: "goes up to 900, and its most was 49" },
    { column: "kind", what: "has new values: c" },
  ]);
  const other = profiles(read(new CsvReader(), `id,n,extra\n${lines.map((line, at) => `${at},${at % 5 ? line.split(",")[1] : ""},1`).join("\n")}\n`));
  assert.deepEqual(drift(before, other), [
    { column: "n", what: "20.0 % of its values are missing, and 0.0 % were" },
    { column: "extra", what: "is new" },
    { column: "kind", what: "is gone" },
    { column: "on", what: "is gone" },
  ]);
});

test("a column of JSON Lines that comes late was missing before", () => {
  const { columns } = profiles(read(new JsonLinesReader(), '{"a":1}\n{"a":2}\n{"a":3,"b":"x"}\n'));
  assert.deepEqual(columns.map(({ name, count, missing }) => [name, count, missing]), [["a", 3, 0], ["b", 1, 2]]);
});

test("the page holds what was found, and no more markup than its own", () => {
  const { rows, columns } = profiles(read(new CsvReader(), 'a<b>,c\n"<script>alert(1)</script>",1\n'));
  const page = html(
    {
      ok: false,
      path: "x&y.csv",
      rows,
      malformed: { count: 1, examples: [{ line: 3, problem: "1 fields, but the header has 2" }] },
      columns,
      violations: [{ column: "c", rule: "is at least 5", count: 1, examples: [{ line: 2, value: "1" }] }],
      drift: [{ column: null, what: "has 1 rows, and had 100" }],
      compared_with: "2020-01-01T00:00:00.000Z",
      report: "quality.html",
    },
    "2020-01-02T00:00:00.000Z",
  );
  assert.ok(!page.includes("<script>") && page.includes("&lt;script&gt;") && page.includes("<h1>x&amp;y.csv</h1>"));
  for (const text of ["Look at what follows", "line 3: 1 fields", "is at least 5", "the table has 1 rows", "Different from 2020-01-01"]) {
    assert.ok(page.includes(text), text);
  }
});
