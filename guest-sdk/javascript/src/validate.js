// Whether a JSON value is what a JSON Schema (2020-12) asks, and where not. What the host's own check knows of formats and
// of references out of the schema is not here: formats are not checked, and a plugin with such references is refused.

/** Values nested deeper than this come from nowhere: the contract has 128. */
const DEPTH_MAX = 256;

/** As much of a value as an error shows, in characters. */
const SHOWN_CHARS_MAX = 60;

/**
 * Looks at a value. Gives `{ value }`, with the defaults of absent properties filled in, or `{ problem }`, a text that says
 * what is wrong and where, as a JSON pointer.
 */
export function validate(schema, value) {
  const found = { problem: undefined };
  const filled = check(schema, value, { root: schema, path: "", found, depth: 0 });
  return found.problem === undefined ? { value: filled } : { problem: found.problem };
}

/** The first problem is told: it is what the others follow from more often than not. */
function fail(at, why) {
  at.found.problem ??= at.path === "" ? why : `at "${at.path}": ${why}`;
}

function within(at, step) {
  return { ...at, path: `${at.path}/${String(step).replaceAll("~", "~0").replaceAll("/", "~1")}`, depth: at.depth + 1 };
}

/** Whether a value fits, without a word. */
function fits(schema, value, at) {
  const found = { problem: undefined };
  check(schema, value, { ...at, found });
  return found.problem === undefined;
}

function check(schema, value, at) {
  if (at.depth > DEPTH_MAX) {
    fail(at, `it is nested more than ${DEPTH_MAX} deep`);
    return value;
  }
  if (schema === true) return value;
  if (schema === false) {
    fail(at, "nothing may be here");
    return value;
  }
  let filled = value;
  if (schema.$ref !== undefined) filled = check(resolve(schema.$ref, at), filled, { ...at, depth: at.depth + 1 });
  if (schema.type !== undefined) checkType(schema.type, value, at);
  if (schema.const !== undefined && !same(schema.const, value)) fail(at, `${shown(value)} is not ${shown(schema.const)}`);
  if (schema.enum !== undefined && !schema.enum.some((one) => same(one, value))) {
    fail(at, `${shown(value)} is not one of ${schema.enum.map(shown).join(", ")}`);
  }
  if (at.found.problem !== undefined) return value;

  if (typeof value === "string") checkString(schema, value, at);
  else if (typeof value === "number") checkNumber(schema, value, at);
  else if (Array.isArray(value)) filled = checkArray(schema, filled, at);
  else if (value !== null && typeof value === "object") filled = checkObject(schema, filled, at);
  return at.found.problem === undefined ? checkCombined(schema, filled, at) : value;
}

function checkType(type, value, at) {
  const types = Array.isArray(type) ? type : [type];
  if (!types.some((one) => isOfType(one, value))) {
    fail(at, `${shown(value)} is not ${types.map((one) => NAMES[one] ?? one).join(" or ")}`);
  }
}

const NAMES = {
  string: "a string",
  number: "a number",
  integer: "a whole number",
  boolean: "true or false",
  null: "null",
  array: "an array",
  object: "an object",
};

function isOfType(type, value) {
  switch (type) {
    case "integer":
      return Number.isInteger(value);
    case "null":
      return value === null;
    case "array":
      return Array.isArray(value);
    case "object":
      return value !== null && typeof value === "object" && !Array.isArray(value);
    default:
      return typeof value === type;
  }
}

function checkString(schema, value, at) {
  const { minLength, maxLength, pattern } = schema;
  if (minLength !== undefined || maxLength !== undefined) {
    const length = [...value].length;
    if (length < minLength) fail(at, `${shown(value)} has fewer than ${counted(minLength, "character")}`);
    if (length > maxLength) fail(at, `${shown(value)} has more than ${counted(maxLength, "character")}`);
  }
  if (pattern !== undefined && !new RegExp(pattern, "u").test(value)) {
    fail(at, `${shown(value)} does not match the pattern ${pattern}`);
  }
}

function checkNumber(schema, value, at) {
  const { minimum, maximum, exclusiveMinimum, exclusiveMaximum, multipleOf } = schema;
  if (value < minimum) fail(at, `${value} is less than ${minimum}`);
  if (value > maximum) fail(at, `${value} is more than ${maximum}`);
  if (value <= exclusiveMinimum) fail(at, `${value} is not more than ${exclusiveMinimum}`);
  if (value >= exclusiveMaximum) fail(at, `${value} is not less than ${exclusiveMaximum}`);
  if (multipleOf !== undefined && !Number.isInteger(value / multipleOf)) fail(at, `${value} is no multiple of ${multipleOf}`);
}

function checkArray(schema, value, at) {
  const { prefixItems = [], items, minItems, maxItems, uniqueItems, contains } = schema;
  if (value.length < minItems) fail(at, `it has fewer than ${counted(minItems, "item")}`);
  if (value.length > maxItems) fail(at, `it has more than ${counted(maxItems, "item")}`);
  if (uniqueItems === true && value.some((one, i) => value.slice(0, i).some((other) => same(one, other)))) {
    fail(at, "two of its items are the same");
  }
  if (contains !== undefined && !value.some((one) => fits(contains, one, at))) fail(at, "no item is as one must be");
  return value.map((item, index) => {
    const of = index < prefixItems.length ? prefixItems[index] : items;
    if (of === undefined) return item;
    if (of === false) {
      fail(at, `it has more than ${counted(prefixItems.length, "item")}`);
      return item;
    }
    return check(of, item, within(at, index));
  });
}

function checkObject(schema, value, at) {
  const { properties = {}, required = [], patternProperties = {}, additionalProperties = true, propertyNames } = schema;
  const filled = {};
  const set = (name, to) => {
    Object.defineProperty(filled, name, { value: to, enumerable: true, configurable: true, writable: true });
  };
  for (const name of required) {
    if (!Object.hasOwn(value, name)) fail(at, `\`${name}\` is missing`);
  }
  const names = Object.keys(value);
  if (names.length < schema.minProperties) fail(at, `it has fewer than ${counted(schema.minProperties, "property")}`);
  if (names.length > schema.maxProperties) fail(at, `it has more than ${counted(schema.maxProperties, "property")}`);
  for (const name of names) {
    let [to, known] = [value[name], false];
    if (propertyNames !== undefined && !fits(propertyNames, name, at)) fail(at, `\`${name}\` is no name for a property`);
    if (Object.hasOwn(properties, name)) {
      known = true;
      to = check(properties[name], to, within(at, name));
    }
    for (const [pattern, of] of Object.entries(patternProperties)) {
      if (!new RegExp(pattern, "u").test(name)) continue;
      known = true;
      to = check(of, to, within(at, name));
    }
    if (!known && additionalProperties === false) fail(at, unknown(name, properties));
    else if (!known) to = check(additionalProperties, to, within(at, name));
    set(name, to);
  }
  for (const [name, of] of Object.entries(properties)) {
    // A copy, so that a run that changes what it was given changes no other value of the schema.
    if (!Object.hasOwn(value, name) && of?.default !== undefined) set(name, JSON.parse(JSON.stringify(of.default)));
  }
  return filled;
}

function unknown(name, properties) {
  const known = Object.keys(properties).map((one) => `\`${one}\``);
  return known.length === 0 ? `\`${name}\` is not known` : `\`${name}\` is not known: known are ${known.join(", ")}`;
}

function checkCombined(schema, value, at) {
  let filled = value;
  for (const one of schema.allOf ?? []) filled = check(one, filled, at);
  if (schema.anyOf !== undefined) filled = oneOf(schema.anyOf, filled, at);
  if (schema.oneOf !== undefined) {
    if (schema.oneOf.filter((one) => fits(one, filled, at)).length > 1) fail(at, `${shown(value)} fits more than one of its options`);
    else filled = oneOf(schema.oneOf, filled, at);
  }
  if (schema.not !== undefined && fits(schema.not, filled, at)) fail(at, `${shown(value)} is what it may not be`);
  if (schema.if !== undefined) {
    const then = fits(schema.if, filled, at) ? schema.then : schema.else;
    if (then !== undefined) filled = check(then, filled, at);
  }
  return filled;
}

/** The first option that fits. If none does, what the only option of the value's type has against it says most. */
function oneOf(options, value, at) {
  const fitting = options.find((one) => fits(one, value, at));
  if (fitting !== undefined) return check(fitting, value, at);
  const ofType = options.filter((one) => one.type === undefined || [one.type].flat().some((type) => isOfType(type, value)));
  if (ofType.length === 1) return check(ofType[0], value, at);
  fail(at, `${shown(value)} fits none of its ${options.length} options`);
  return value;
}

/** What a reference within the schema stands for, `#/$defs/NAME` for example. */
function resolve(reference, at) {
  let of = at.root;
  const steps = reference.split("/");
  for (const step of steps.slice(1)) {
    const name = decodeURIComponent(step).replaceAll("~1", "/").replaceAll("~0", "~");
    of = of !== null && typeof of === "object" && Object.hasOwn(of, name) ? of[name] : undefined;
  }
  if (steps[0] !== "#" || of === undefined) {
    throw new TypeError(`the schema refers to ${reference}, which is not in it`);
  }
  return of;
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
  const characters = [...written];
  return characters.length > SHOWN_CHARS_MAX ? `${characters.slice(0, SHOWN_CHARS_MAX).join("")}…` : written;
}
