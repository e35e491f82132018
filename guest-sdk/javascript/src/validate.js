// Whether a JSON value is what a JSON Schema (2020-12) asks, and where not. What the host's own check knows of formats and
// of references out of the schema is not here: formats are not checked, and a plugin with such references is refused.
//
// A schema is compiled to functions once, for an agent's input and output when its component is built, so that a run pays for
// its values alone. A value is copied where a default is filled in, and nowhere else.

/** Values nested deeper than this come from nowhere: the contract has 128. */
const DEPTH_MAX = 256;

/** As much of a value as an error shows, in characters. */
const SHOWN_CHARS_MAX = 60;

/** The compiled schemas, by the object that is their JSON Schema. */
const compiled = new WeakMap();

/**
 * Looks at a value. Gives `{ value }`, with the defaults of absent properties filled in, or `{ problem }`, a text that says
 * what is wrong and where, as a JSON pointer.
 */
export function validate(schema, value) {
  const state = { path: [], problem: undefined };
  const filled = checkerOf(schema)(value, state);
  return state.problem === undefined ? { value: filled } : { problem: state.problem };
}

/** Compiles a schema, if that was not done before. */
export function checkerOf(schema) {
  if (typeof schema === "boolean") return compile(schema);
  let check = compiled.get(schema);
  if (check === undefined) {
    check = compile(schema, { root: schema, references: new Map() });
    compiled.set(schema, check);
  }
  return check;
}

/** The first problem is told: it is what the others follow from more often than not. */
function fail(state, why) {
  if (state.problem !== undefined) return;
  const pointer = state.path.map((step) => `/${String(step).replaceAll("~", "~0").replaceAll("/", "~1")}`).join("");
  state.problem = pointer === "" ? why : `at "${pointer}": ${why}`;
}

/** Whether a value fits, without a word. */
function fits(check, value, state) {
  const own = { path: [...state.path], problem: undefined };
  check(value, own);
  return own.problem === undefined;
}

/** A checker of a value within another, at a step of its path. */
function within(check, value, step, state) {
  if (state.path.length >= DEPTH_MAX) {
    fail(state, `it is nested more than ${DEPTH_MAX} deep`);
    return value;
  }
  state.path.push(step);
  const filled = check(value, state);
  state.path.pop();
  return filled;
}

const pass = (value) => value;

/** A function from a value and a state to the value with its defaults, which leaves a problem in the state. */
function compile(schema, context) {
  if (schema === true) return pass;
  if (schema === false) {
    return (value, state) => {
      fail(state, "nothing may be here");
      return value;
    };
  }
  const steps = [
    schema.$ref !== undefined && compileReference(schema.$ref, context),
    schema.type !== undefined && compileType([schema.type].flat()),
    schema.const !== undefined &&
      compileTest((value) => same(schema.const, value), (value) => `${shown(value)} is not ${shown(schema.const)}`),
    schema.enum !== undefined && compileEnum(schema.enum),
    compileString(schema),
    compileNumber(schema),
    compileArray(schema, context),
    compileObject(schema, context),
    ...compileCombined(schema, context),
  ].filter(Boolean);
  if (steps.length === 0) return pass;
  if (steps.length === 1) return steps[0];
  return (value, state) => {
    let filled = value;
    for (let at = 0; at < steps.length; at += 1) {
      filled = steps[at](filled, state);
      if (state.problem !== undefined) return value;
    }
    return filled;
  };
}

function compileTest(test, why) {
  return (value, state) => {
    if (!test(value)) fail(state, why(value));
    return value;
  };
}

/** What a reference within the schema stands for, `#/$defs/NAME` for example. */
function compileReference(reference, context) {
  const { root, references } = context;
  return (value, state) => {
    // Not before it is used: it may stand for what it is in.
    if (!references.has(reference)) references.set(reference, compile(resolve(reference, root), context));
    return references.get(reference)(value, state);
  };
}

function resolve(reference, root) {
  let of = root;
  const steps = reference.split("/");
  for (const step of steps.slice(1)) {
    const name = decodeURIComponent(step).replaceAll("~1", "/").replaceAll("~0", "~");
    of = of !== null && typeof of === "object" && Object.hasOwn(of, name) ? of[name] : undefined;
  }
  if (steps[0] !== "#" || of === undefined) throw new TypeError(`the schema refers to ${reference}, which is not in it`);
  return of;
}

const TYPES = {
  string: ["a string", (value) => typeof value === "string"],
  number: ["a number", (value) => typeof value === "number"],
  integer: ["a whole number", Number.isInteger],
  boolean: ["true or false", (value) => typeof value === "boolean"],
  null: ["null", (value) => value === null],
  array: ["an array", Array.isArray],
  object: ["an object", isObject],
};

function isObject(value) {
  return value !== null && typeof value === "object" && !Array.isArray(value);
}

function compileType(types) {
  for (const type of types) {
    if (!Object.hasOwn(TYPES, type)) throw new TypeError(`the schema has the type ${JSON.stringify(type)}, which JSON has not`);
  }
  const names = types.map((type) => TYPES[type][0]).join(" or ");
  const tests = types.map((type) => TYPES[type][1]);
  const test = tests.length === 1 ? tests[0] : (value) => tests.some((one) => one(value));
  return compileTest(test, (value) => `${shown(value)} is not ${names}`);
}

function compileEnum(values) {
  const plain = new Set(values.filter((value) => value === null || typeof value !== "object"));
  const others = values.filter((value) => !plain.has(value));
  const test = (value) => plain.has(value) || others.some((one) => same(one, value));
  return compileTest(test, (value) => `${shown(value)} is not one of ${values.map(shown).join(", ")}`);
}

function compileString({ minLength, maxLength, pattern }) {
  if (minLength === undefined && maxLength === undefined && pattern === undefined) return undefined;
  const expression = pattern === undefined ? undefined : new RegExp(pattern, "u");
  return (value, state) => {
    if (typeof value !== "string") return value;
    if (minLength !== undefined || maxLength !== undefined) {
      const length = [...value].length;
      if (length < minLength) fail(state, `${shown(value)} has fewer than ${counted(minLength, "character")}`);
      if (length > maxLength) fail(state, `${shown(value)} has more than ${counted(maxLength, "character")}`);
    }
    if (expression !== undefined && !expression.test(value)) fail(state, `${shown(value)} does not match the pattern ${pattern}`);
    return value;
  };
}

function compileNumber({ minimum, maximum, exclusiveMinimum, exclusiveMaximum, multipleOf }) {
  const bounds = [minimum, maximum, exclusiveMinimum, exclusiveMaximum, multipleOf];
  if (bounds.every((bound) => bound === undefined)) return undefined;
  return (value, state) => {
    if (typeof value !== "number") return value;
    if (value < minimum) fail(state, `${value} is less than ${minimum}`);
    if (value > maximum) fail(state, `${value} is more than ${maximum}`);
    if (value <= exclusiveMinimum) fail(state, `${value} is not more than ${exclusiveMinimum}`);
    if (value >= exclusiveMaximum) fail(state, `${value} is not less than ${exclusiveMaximum}`);
    if (multipleOf !== undefined && !Number.isInteger(value / multipleOf)) fail(state, `${value} is no multiple of ${multipleOf}`);
    return value;
  };
}

function compileArray({ prefixItems = [], items = true, minItems, maxItems, uniqueItems = false, contains }, context) {
  if (prefixItems.length === 0 && items === true && minItems === undefined && maxItems === undefined && !uniqueItems && contains === undefined) {
    return undefined;
  }
  const first = prefixItems.map((one) => compile(one, context));
  const rest = compile(items, context);
  const contained = contains === undefined ? undefined : compile(contains, context);
  return (value, state) => {
    if (!Array.isArray(value)) return value;
    if (value.length < minItems) fail(state, `it has fewer than ${counted(minItems, "item")}`);
    if (value.length > maxItems) fail(state, `it has more than ${counted(maxItems, "item")}`);
    if (items === false && value.length > first.length) fail(state, `it has more than ${counted(first.length, "item")}`);
    if (uniqueItems && hasTwice(value)) fail(state, "two of its items are the same");
    if (contained !== undefined && !value.some((one) => fits(contained, one, state))) fail(state, "no item is as one must be");
    let filled = value;
    for (let at = 0; at < value.length && state.problem === undefined; at += 1) {
      const check = at < first.length ? first[at] : rest;
      if (check === pass) continue;
      const item = within(check, value[at], at, state);
      if (item === value[at]) continue;
      if (filled === value) filled = [...value];
      filled[at] = item;
    }
    return filled;
  };
}

function hasTwice(items) {
  const seen = new Set();
  const objects = [];
  for (const item of items) {
    if (item === null || typeof item !== "object") {
      if (seen.has(item)) return true;
      seen.add(item);
    } else {
      if (objects.some((other) => same(item, other))) return true;
      objects.push(item);
    }
  }
  return false;
}

function compileObject(schema, context) {
  const { properties = {}, required = [], patternProperties = {}, additionalProperties = true } = schema;
  const { propertyNames, minProperties, maxProperties } = schema;
  const fields = Object.entries(properties).map(([name, of]) => ({
    name,
    check: compile(of, context),
    // As a text, so that each value has a default of its own.
    ifAbsent: of?.default === undefined ? undefined : JSON.stringify(of.default),
    // Else the property of that name that every object has would be taken for its own.
    inherited: name in Object.prototype,
  }));
  const others = compileOthers();
  const nameCheck = propertyNames === undefined ? undefined : compile(propertyNames, context);
  const plain = others === undefined && nameCheck === undefined && minProperties === undefined && maxProperties === undefined;
  if (plain && fields.length === 0 && required.length === 0) return undefined;
  return (value, state) => {
    if (!isObject(value)) return value;
    for (let at = 0; at < required.length; at += 1) {
      const name = required[at];
      if (value[name] === undefined || !Object.hasOwn(value, name)) fail(state, `\`${name}\` is missing`);
    }
    let filled = value;
    let known = 0;
    const set = (name, to) => {
      if (filled === value) filled = copy(value);
      define(filled, name, to);
    };
    for (let at = 0; at < fields.length && state.problem === undefined; at += 1) {
      const { name, check, ifAbsent, inherited } = fields[at];
      const field = value[name];
      if (field === undefined || (inherited && !Object.hasOwn(value, name))) {
        if (ifAbsent !== undefined) set(name, JSON.parse(ifAbsent));
        continue;
      }
      known += 1;
      if (check === pass) continue;
      const to = within(check, field, name, state);
      if (to !== field) set(name, to);
    }
    if (plain || state.problem !== undefined) return filled;
    const names = Object.keys(value);
    if (names.length < minProperties) fail(state, `it has fewer than ${counted(minProperties, "property")}`);
    if (names.length > maxProperties) fail(state, `it has more than ${counted(maxProperties, "property")}`);
    if (nameCheck !== undefined) {
      const bad = names.find((name) => !fits(nameCheck, name, state));
      if (bad !== undefined) fail(state, `\`${bad}\` is no name for a property`);
    }
    if (others === undefined || (known === names.length && Object.keys(patternProperties).length === 0)) return filled;
    for (let at = 0; at < names.length && state.problem === undefined; at += 1) {
      const name = names[at];
      const to = others(name, filled[name], state);
      if (to !== filled[name]) set(name, to);
    }
    return filled;
  };

  /** What properties that have no schema of their own are looked at by, and those that a pattern is about. */
  function compileOthers() {
    const patterns = Object.entries(patternProperties).map(([pattern, of]) => [new RegExp(pattern, "u"), compile(of, context)]);
    if (patterns.length === 0 && additionalProperties === true) return undefined;
    const own = new Set(Object.keys(properties));
    const additional = compile(additionalProperties, context);
    return (name, field, state) => {
      let known = own.has(name);
      let filled = field;
      for (const [expression, check] of patterns) {
        if (!expression.test(name)) continue;
        known = true;
        filled = within(check, filled, name, state);
      }
      if (known) return filled;
      if (additionalProperties === false) {
        fail(state, unknown(name, properties));
        return filled;
      }
      return within(additional, filled, name, state);
    };
  }
}

function copy(object) {
  const copied = {};
  for (const name of Object.keys(object)) define(copied, name, object[name]);
  return copied;
}

/** Sets an own property, of any name, `__proto__` too. */
function define(object, name, value) {
  Object.defineProperty(object, name, { value, enumerable: true, configurable: true, writable: true });
}

function unknown(name, properties) {
  const known = Object.keys(properties).map((one) => `\`${one}\``);
  return known.length === 0 ? `\`${name}\` is not known` : `\`${name}\` is not known: known are ${known.join(", ")}`;
}

function compileCombined(schema, context) {
  const steps = (schema.allOf ?? []).map((one) => compile(one, context));
  if (schema.anyOf !== undefined) steps.push(compileAny(schema.anyOf, context));
  if (schema.oneOf !== undefined) {
    const checks = schema.oneOf.map((one) => compile(one, context));
    const any = compileAny(schema.oneOf, context);
    steps.push((value, state) => {
      if (checks.filter((check) => fits(check, value, state)).length < 2) return any(value, state);
      fail(state, `${shown(value)} fits more than one of its options`);
      return value;
    });
  }
  if (schema.not !== undefined) {
    const not = compile(schema.not, context);
    steps.push((value, state) => {
      if (fits(not, value, state)) fail(state, `${shown(value)} is what it may not be`);
      return value;
    });
  }
  if (schema.if !== undefined) {
    const [when, then, otherwise] = [schema.if, schema.then ?? true, schema.else ?? true].map((one) => compile(one, context));
    steps.push((value, state) => (fits(when, value, state) ? then : otherwise)(value, state));
  }
  return steps;
}

/** The first option that fits. If none does, what the only option of the value's type has against it says most. */
function compileAny(options, context) {
  const checks = options.map((one) => compile(one, context));
  return (value, state) => {
    const fitting = checks.find((check) => fits(check, value, state));
    if (fitting !== undefined) return fitting(value, state);
    const ofType = checks.filter((_check, at) => mayBe(options[at], value));
    if (ofType.length === 1) return ofType[0](value, state);
    fail(state, `${shown(value)} fits none of its ${options.length} options`);
    return value;
  };
}

function mayBe({ type }, value) {
  return type === undefined || [type].flat().some((one) => TYPES[one][1](value));
}

function same(one, other) {
  if (one === other) return true;
  if (one === null || other === null || typeof one !== "object" || typeof other !== "object") return false;
  if (Array.isArray(one) !== Array.isArray(other)) return false;
  const [ones, others] = [Object.keys(one), Object.keys(other)];
  return ones.length === others.length && ones.every((name) => Object.hasOwn(other, name) && same(one[name], other[name]));
}

function counted(count, what) {
  const plural = what.endsWith("y") ? `${what.slice(0, -1)}ies` : `${what}s`;
  return `${count} ${count === 1 ? what : plural}`;
}

function shown(value) {
  const written = JSON.stringify(value) ?? String(value);
  const characters = [...written.slice(0, 2 * SHOWN_CHARS_MAX + 2)];
  return characters.length > SHOWN_CHARS_MAX ? `${characters.slice(0, SHOWN_CHARS_MAX).join("")}…` : written;
}
