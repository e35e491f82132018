// The builder of schemas. A schema is its JSON Schema and whether it may be absent; types are in `index.d.ts`.

import { validate } from "./validate.js";

/** A schema: what a value must be, for people, programs and TypeScript. */
export class Schema {
  #json;
  #presence;

  constructor(json, presence = "required") {
    this.#json = json;
    this.#presence = presence;
  }

  get json() {
    return this.#json;
  }

  /** `required`, `optional`, or `default` where a default takes the place of what is absent. */
  get presence() {
    return this.#presence;
  }

  toJSON() {
    return this.#json;
  }

  describe(text) {
    return new Schema({ ...this.#json, description: text }, this.#presence);
  }

  optional() {
    return new Schema(this.#json, "optional");
  }

  default(value) {
    const { problem } = validate(this.#json, value);
    if (problem !== undefined) throw new TypeError(`the default does not fit its own schema: ${problem}`);
    return new Schema({ ...this.#json, default: value }, "default");
  }

  nullable() {
    const { type } = this.#json;
    const plain = typeof type === "string" && this.#json.enum === undefined && this.#json.const === undefined;
    const json = plain ? { ...this.#json, type: [type, "null"] } : { anyOf: [this.#json, { type: "null" }] };
    return new Schema(json, this.#presence);
  }

  parse(value) {
    const { problem, value: parsed } = validate(this.#json, value);
    if (problem !== undefined) throw new TypeError(problem);
    return parsed;
  }
}

/** The JSON Schema of a schema of ours, or of a JSON Schema that is given as it is. */
export function jsonSchemaOf(schema) {
  if (schema instanceof Schema) return schema.json;
  if (typeof schema === "boolean") return schema;
  if (schema === null || typeof schema !== "object" || Array.isArray(schema)) {
    throw new TypeError("a schema is one made with `s`, as s.object({ … }), or a JSON Schema, which is an object");
  }
  return schema;
}

function schemas(list, of) {
  if (!Array.isArray(list) || list.length === 0) throw new TypeError(`${of} takes an array of one or more schemas`);
  return list.map((schema) => jsonSchemaOf(schema));
}

export const s = Object.freeze({
  string: (bounds = {}) => new Schema({ type: "string", ...bounds }),
  number: (bounds = {}) => new Schema({ type: "number", ...bounds }),
  integer: (bounds = {}) => new Schema({ type: "integer", ...bounds }),
  boolean: () => new Schema({ type: "boolean" }),
  null: () => new Schema({ type: "null" }),
  any: () => new Schema({}),
  literal: (value) => new Schema({ const: value }),
  enum: (values) => new Schema({ enum: [...values] }),
  array: (items, bounds = {}) => new Schema({ type: "array", items: jsonSchemaOf(items), ...bounds }),
  tuple: (items) => {
    const prefixItems = schemas(items, "s.tuple");
    return new Schema({ type: "array", prefixItems, items: false, minItems: prefixItems.length });
  },
  record: (values) => new Schema({ type: "object", additionalProperties: jsonSchemaOf(values) }),
  union: (options) => new Schema({ anyOf: schemas(options, "s.union") }),
  json: (schema) => new Schema(jsonSchemaOf(schema)),
  object: (fields, { additionalProperties = true } = {}) => {
    const properties = {};
    const required = [];
    for (const [name, field] of Object.entries(fields)) {
      if (field === undefined) throw new TypeError(`the schema of \`${name}\` is undefined`);
      // Own by definition, so that a property of any name, `__proto__` too, is one like the others.
      Object.defineProperty(properties, name, {
        value: jsonSchemaOf(field),
        enumerable: true,
        configurable: true,
        writable: true,
      });
      if (!(field instanceof Schema) || field.presence === "required") required.push(name);
    }
    const json = { type: "object", properties };
    if (required.length > 0) json.required = required;
    if (additionalProperties !== true) {
      json.additionalProperties = additionalProperties === false ? false : jsonSchemaOf(additionalProperties);
    }
    return new Schema(json);
  },
});
