import assert from "node:assert/strict";
import { test } from "node:test";

import { s } from "../src/index.js";
import { validate } from "../src/validate.js";

const problem = (schema, value) => validate(schema.json ?? schema, value).problem;

test("a schema is a JSON Schema", () => {
  const schema = s.object(
    {
      path: s.string({ minLength: 1 }).describe("Where."),
      limit: s.integer({ minimum: 1 }).default(10),
      tags: s.array(s.string()).optional(),
      note: s.string().nullable(),
      kind: s.enum(["csv", "jsonl"]),
    },
    { additionalProperties: false },
  );
  assert.deepEqual(JSON.parse(JSON.stringify(schema)), {
    type: "object",
    properties: {
      path: { type: "string", minLength: 1, description: "Where." },
      limit: { type: "integer", minimum: 1, default: 10 },
      tags: { type: "array", items: { type: "string" } },
      note: { type: ["string", "null"] },
      kind: { enum: ["csv", "jsonl"] },
    },
    required: ["path", "note", "kind"],
    additionalProperties: false,
  });
});

test("what is wrong is told with its place, as a JSON pointer", () => {
  const schema = s.object(
    {
      name: s.string({ minLength: 2, maxLength: 3, pattern: "^a" }).optional(),
      items: s.array(s.object({ "a/b": s.integer({ minimum: 0, maximum: 9 }) }), { maxItems: 2 }).optional(),
      kind: s.enum(["x", 1]).optional(),
      pair: s.tuple([s.number(), s.null()]).optional(),
      by: s.record(s.boolean()).optional(),
    },
    { additionalProperties: false },
  );
  for (const [value, expected] of [
    [7, "7 is not an object"],
    [[], "[] is not an object"],
    [{ nmae: 1 }, "`nmae` is not known: known are `name`, `items`, `kind`, `pair`, `by`"],
    [{ name: 7 }, 'at "/name": 7 is not a string'],
    [{ name: "a" }, 'at "/name": "a" has fewer than 2 characters'],
    [{ name: "a😀😀😀" }, 'at "/name": "a😀😀😀" has more than 3 characters'],
    [{ name: "ba" }, 'at "/name": "ba" does not match the pattern ^a'],
    [{ items: [{ "a/b": 1 }, { "a/b": -1 }] }, 'at "/items/1/a~1b": -1 is less than 0'],
    [{ items: [{ "a/b": 1.5 }] }, 'at "/items/0/a~1b": 1.5 is not a whole number'],
    [{ items: [{}] }, 'at "/items/0": `a/b` is missing'],
    [{ items: [1, 2, 3] }, 'at "/items": it has more than 2 items'],
    [{ kind: "y" }, 'at "/kind": "y" is not one of "x", 1'],
    [{ pair: [1] }, 'at "/pair": it has fewer than 2 items'],
    [{ pair: [1, null, 3] }, 'at "/pair": it has more than 2 items'],
    [{ by: { a: true, b: 0 } }, 'at "/by/b": 0 is not true or false'],
  ]) {
    assert.equal(problem(schema, value), expected, JSON.stringify(value));
  }
  assert.equal(problem(schema, { name: "a😀", items: [{ "a/b": 9, more: 1 }], kind: 1, pair: [1.5, null], by: {} }), undefined);
});

test("defaults take the place of what is absent, and each value has its own", () => {
  const schema = s.object({ list: s.array(s.integer()).default([]), deep: s.object({ n: s.integer().default(3) }) });
  const first = schema.parse({ deep: {} });
  assert.deepEqual(first, { list: [], deep: { n: 3 } });
  first.list.push(1);
  assert.deepEqual(schema.parse({ deep: { n: 4 } }), { list: [], deep: { n: 4 } });
  assert.throws(() => s.integer().default("1"), /does not fit its own schema: "1" is not a whole number/u);
});

test("a property of any name is one like the others", () => {
  const schema = s.object({ ["__proto__"]: s.integer(), toString: s.string().optional() });
  const given = JSON.parse('{"__proto__":1}');
  assert.equal(JSON.stringify(schema.parse(given)), '{"__proto__":1}');
  assert.equal(problem(schema, JSON.parse("{}")), "`__proto__` is missing");
});

test("a raw JSON Schema is checked as one of ours", () => {
  const tree = {
    $ref: "#/$defs/node",
    $defs: {
      node: {
        type: "object",
        properties: { value: { type: "number" }, children: { type: "array", items: { $ref: "#/$defs/node" } } },
        required: ["value"],
      },
    },
  };
  assert.equal(problem(tree, { value: 1, children: [{ value: 2, children: [] }] }), undefined);
  assert.equal(problem(tree, { value: 1, children: [{ value: "2" }] }), 'at "/children/0/value": "2" is not a number');
  assert.equal(problem({ allOf: [{ minimum: 1 }, { maximum: 2 }] }, 3), "3 is more than 2");
  assert.equal(problem({ anyOf: [{ type: "string", minLength: 2 }, { type: "number" }] }, "a"), '"a" has fewer than 2 characters');
  assert.equal(problem({ anyOf: [{ type: "string" }, { type: "number" }] }, null), "null fits none of its 2 options");
  assert.equal(problem({ oneOf: [{ minimum: 1 }, { minimum: 2 }] }, 3), "3 fits more than one of its options");
  assert.equal(problem({ not: { const: 1 } }, 1), "1 is what it may not be");
  assert.equal(problem({ if: { const: 1 }, then: { const: 2 } }, 1), "1 is not 2");
  assert.equal(problem({ const: { a: [1] } }, { a: [1] }), undefined);
  assert.equal(problem({ uniqueItems: true }, [{ a: 1 }, { a: 1 }]), "two of its items are the same");
  assert.equal(problem({ patternProperties: { "^x": { type: "null" } }, additionalProperties: false }, { xa: null }), undefined);
  assert.equal(problem(false, 1), "nothing may be here");
  assert.throws(() => problem({ $ref: "#/$defs/none" }, 1), /not in it/u);
});

test("a long value is shown in part, and deep nesting ends", () => {
  assert.ok(problem(s.integer(), "x".repeat(1000)).length < 100);
  let deep = 1;
  for (let i = 0; i < 1000; i += 1) deep = [deep];
  const any = { $defs: { any: { items: { $ref: "#/$defs/any" } } }, $ref: "#/$defs/any" };
  assert.match(problem(any, deep), /nested more than/u);
});
