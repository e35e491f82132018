/** A JSON Schema (2020-12). At most 64 KiB, 32 levels and 5,000 values, and no reference out of itself. */
export type JsonSchema = boolean | { readonly [keyword: string]: unknown };

/** What JSON can say. */
export type Json = string | number | boolean | null | Json[] | { [name: string]: Json };

/** Whether a property may be absent, and whether a default then takes its place. */
export type Presence = "required" | "optional" | "default";

/**
 * What a value must be: a JSON Schema for clients, a check of what comes in, and a type of TypeScript.
 *
 * `Out` is what the value is after the check, `In` what may be given: they differ where there are defaults.
 */
export declare class Schema<out Out, out In = Out, out P extends Presence = "required"> {
  private constructor();

  /** The JSON Schema. */
  readonly json: JsonSchema;
  readonly presence: P;

  /** What the value is for, for a person or a model to read. */
  describe(text: string): Schema<Out, In, P>;
  /** As a property of an object it may be absent. */
  optional(): Schema<Out, In, "optional">;
  /** As a property of an object it may be absent, and is this then. Throws if the default does not fit the schema. */
  default(value: In): Schema<Out, In, "default">;
  /** It may be null. */
  nullable(): Schema<Out | null, In | null, P>;
  /** A value that was checked, with its defaults. Throws a `TypeError` that says what is wrong and where. */
  parse(value: unknown): Out;
  toJSON(): JsonSchema;

  /** For TypeScript alone. */
  declare protected readonly types: { out: Out; in: In };
}

/** The type of the values of a schema: `Infer<typeof input>`. */
export type Infer<S> = S extends Schema<infer Out, unknown, Presence> ? Out : unknown;

/** The type of what may be given for a schema: as `Infer`, but properties with a default may be absent. */
export type InferIn<S> = S extends Schema<unknown, infer In, Presence> ? In : unknown;

type Any = Schema<unknown, unknown, Presence>;
type Fields = { readonly [name: string]: Any };
// Shown as one object by editors and in errors.
type Flat<T> = T extends unknown ? { [K in keyof T]: T[K] } : never;
type NamesOf<F extends Fields, P extends Presence> = {
  [K in keyof F]: F[K] extends Schema<unknown, unknown, infer Q> ? (Q extends P ? K : never) : never;
}[keyof F];

/** An object with these properties. */
export type ObjectOut<F extends Fields> = Flat<
  { [K in NamesOf<F, "required" | "default">]: Infer<F[K]> } & { [K in NamesOf<F, "optional">]?: Infer<F[K]> }
>;

/** What may be given for an object with these properties. */
export type ObjectIn<F extends Fields> = Flat<
  { [K in NamesOf<F, "required">]: InferIn<F[K]> } & { [K in NamesOf<F, "optional" | "default">]?: InferIn<F[K]> }
>;

export interface StringBounds {
  /** In characters. */
  minLength?: number;
  /** In characters. */
  maxLength?: number;
  /** A regular expression that is found somewhere in the text. */
  pattern?: string;
  /** For people and models; not checked. */
  format?: string;
}

export interface NumberBounds {
  minimum?: number;
  maximum?: number;
  exclusiveMinimum?: number;
  exclusiveMaximum?: number;
  multipleOf?: number;
}

export interface ArrayBounds {
  minItems?: number;
  maxItems?: number;
  uniqueItems?: boolean;
}

/** Makes schemas. */
export declare const s: {
  string(bounds?: StringBounds): Schema<string>;
  number(bounds?: NumberBounds): Schema<number>;
  /** A whole number. */
  integer(bounds?: NumberBounds): Schema<number>;
  boolean(): Schema<boolean>;
  null(): Schema<null>;
  /** Anything that JSON can say. */
  any(): Schema<any>;
  /** This value and no other. */
  literal<const T extends string | number | boolean | null>(value: T): Schema<T>;
  /** One of these values. */
  enum<const T extends string | number | boolean | null>(values: readonly T[]): Schema<T>;
  array<Out, In, P extends Presence>(items: Schema<Out, In, P>, bounds?: ArrayBounds): Schema<Out[], In[]>;
  /** An array of just these items, in this order. */
  tuple<const T extends readonly [Any, ...Any[]]>(
    items: T,
  ): Schema<{ -readonly [K in keyof T]: Infer<T[K]> }, { -readonly [K in keyof T]: InferIn<T[K]> }>;
  /** An object with properties of any name, all of one kind. */
  record<Out, In, P extends Presence>(
    values: Schema<Out, In, P>,
  ): Schema<{ [name: string]: Out }, { [name: string]: In }>;
  /** One of several: the first that fits. */
  union<const T extends readonly [Any, ...Any[]]>(options: T): Schema<Infer<T[number]>, InferIn<T[number]>>;
  /**
   * An object with these properties. Properties that it does not name are passed on as they are, unless
   * `additionalProperties` is false: then they are refused; or a schema that they must fit.
   */
  object<const F extends Fields>(
    fields: F,
    options?: { additionalProperties?: boolean | Any | JsonSchema },
  ): Schema<ObjectOut<F>, ObjectIn<F>>;
  /** A JSON Schema as it is, with the type that you say it has. */
  json<T = any>(schema: JsonSchema): Schema<T>;
};
