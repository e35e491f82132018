//! Schemas that a plugin gives for its inputs, outputs and tools: bounded, and complete in themselves.
//!
//! They are passed on to clients and models, and whoever checks a value against one walks it. So none is deeper or larger
//! than such a walk should be, and none refers to anything outside of itself: a reference to somewhere else is a request
//! that a plugin's author lets others send.

use cofferdam_core::Json;
use serde_json::Value;
use std::collections::HashMap;
use tokio::sync::Semaphore;

/// The largest schema, in bytes.
const SCHEMA_BYTES_MAX: usize = 64 << 10;
/// Objects and arrays inside one another: checkers recurse. An object in an object takes two; schemas that are derived
/// from types name their parts in `$defs` and have about 6.
const SCHEMA_DEPTH_MAX: usize = 32;
/// Values in a schema, of every kind: what a checker compiles it into has as many parts. Derived ones have hundreds.
const SCHEMA_NODES_MAX: usize = 5_000;
/// The longest part of a plugin's text that an error repeats, in characters.
const SHOWN_CHARS_MAX: usize = 128;

/// Keywords that refer to another schema.
const REFERENCES: [&str; 3] = ["$ref", "$dynamicRef", "$recursiveRef"];

/// The dialects that a schema may say it is written in. Older ones also with the empty fragment that they were named with.
const DIALECTS: [&str; 5] = [
    "http://json-schema.org/draft-04/schema",
    "http://json-schema.org/draft-06/schema",
    "http://json-schema.org/draft-07/schema",
    "https://json-schema.org/draft/2019-09/schema",
    "https://json-schema.org/draft/2020-12/schema",
];

/// Why a schema is not taken. Reads on from the name of the field it is in; `at` is a JSON pointer into it.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum SchemaError {
    #[error("has {0} bytes, at most {SCHEMA_BYTES_MAX} are allowed")]
    TooLarge(usize),
    #[error("is {0}")]
    NotJson(String),
    #[error("must be a JSON Schema: an object, true or false")]
    NotASchema,
    #[error(
        "is nested more than {SCHEMA_DEPTH_MAX} levels deep at {at:?}; move inner schemas to \"$defs\" and refer to them"
    )]
    TooDeep { at: String },
    #[error("has more than {SCHEMA_NODES_MAX} values, the first too many at {at:?}; make it simpler")]
    TooManyValues { at: String },
    #[error(
        "refers to {to:?} at {at:?}, but a schema must hold all it refers to: begin it with '#', as in \"#/$defs/NAME\""
    )]
    RemoteReference { at: String, to: String },
    #[error("has an absolute URI or a host in its $id at {at:?}; leave $id out, or give a name without a scheme")]
    AbsoluteId { at: String },
    #[error(
        "names an unknown dialect at {at:?}; leave $schema out, or give \"https://json-schema.org/draft/2020-12/schema\""
    )]
    UnknownDialect { at: String },
}

/// A schema that is bounded and refers to nothing outside of itself.
pub fn checked(text: String) -> Result<Json, SchemaError> {
    if text.len() > SCHEMA_BYTES_MAX {
        return Err(SchemaError::TooLarge(text.len()));
    }
    let schema = Json::parse(text).map_err(|error| SchemaError::NotJson(error.to_string()))?;
    let value: Value =
        serde_json::from_str(schema.as_str()).map_err(|error| SchemaError::NotJson(error.to_string()))?;
    if !matches!(value, Value::Object(_) | Value::Bool(_)) {
        return Err(SchemaError::NotASchema);
    }
    Walk::default().value(&value, 0)?;
    Ok(schema)
}

/// How many values a value may have that is checked against a schema: a checker's work is at most so many times the schema's
/// parts.
const CHECKED_NODES_MAX: usize = 10_000;

/// A schema with every reference in it followed may have so many values: what a check does for each value of what it checks.
const UNROLLED_NODES_MAX: u64 = 3_000;
/// And so many levels: a check goes as deep.
const UNROLLED_DEPTH_MAX: usize = 96;
/// A pattern counts as so many values, because what it is compiled into has as much memory: so there are at most 20.
const PATTERN_NODES: u64 = 150;
/// The memory of a compiled pattern, and of what its matching keeps, in bytes.
const PATTERN_BYTES_MAX: usize = 1 << 20;
/// A check looks at each value with each part of the schema at most, and says of all of them why it does not fit: so many in all.
const CHECKED_WORK_MAX: u64 = 500_000;
/// Values that are checked at the same time, for all users: each takes a processor, and the memory of 20 patterns.
const CHECKS_AT_ONCE: usize = 2;

/// A schema that values are checked against.
pub struct Checker {
    validator: jsonschema::Validator,
    /// Values in the schema with its references followed.
    nodes: u64,
}

/// Checks a value beside the threads of guests and sockets, on a stack of its own. The schema and the value are bounded, and so
/// is the work.
#[expect(clippy::disallowed_methods, reason = "it ends by itself, with or without who asked")]
pub async fn check(schema: Json, value: Option<Json>) -> Result<(), Misfit> {
    static CHECKS: Semaphore = Semaphore::const_new(CHECKS_AT_ONCE);
    let failed = |why: String| Misfit { at: String::new(), why };
    let place = CHECKS.acquire().await.map_err(|error| failed(error.to_string()))?;
    let checked = tokio::task::spawn_blocking(move || {
        let _place = place;
        let checker =
            Checker::of(&schema).map_err(|why| failed(format!("the schema cannot be checked against: {why}")))?;
        value.map_or(Ok(()), |value| checker.check(&value))
    });
    checked.await.unwrap_or_else(|error| Err(failed(error.to_string())))
}

/// A value that does not fit. `at` is a JSON pointer into it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("at {at:?}: {why}")]
pub struct Misfit {
    /// Where.
    pub at: String,
    /// Why.
    pub why: String,
}

impl Checker {
    /// Of a schema that was [`checked`].
    ///
    /// # Errors
    /// When it says what no schema can, as a type that there is not.
    pub fn of(schema: &Json) -> Result<Self, String> {
        let schema: Value = serde_json::from_str(schema.as_str()).map_err(|error| error.to_string())?;
        let (nodes, _) = Unrolled::default().value(&schema, &schema, 0)?;
        // Patterns are a stranger's: matching takes time in proportion to the text, whatever they are.
        let patterns = jsonschema::PatternOptions::regex();
        let patterns = patterns.size_limit(PATTERN_BYTES_MAX).dfa_size_limit(PATTERN_BYTES_MAX);
        let options = jsonschema::options().with_pattern_options(patterns);
        let validator = options.build(&schema).map_err(|error| shown(&error.to_string()))?;
        Ok(Self { validator, nodes })
    }

    /// Whether a value fits.
    ///
    /// # Errors
    /// With the first place at which it does not.
    pub fn check(&self, value: &Json) -> Result<(), Misfit> {
        let misfit = |at: String, why: &str| Misfit { at: shown(&at), why: shown(why) };
        let value: Value =
            serde_json::from_str(value.as_str()).map_err(|error| misfit(String::new(), &error.to_string()))?;
        let values = nodes(&value);
        if values > CHECKED_NODES_MAX {
            return Err(misfit(String::new(), &format!("it has more than {CHECKED_NODES_MAX} values")));
        }
        if self.nodes.saturating_mul(values as u64) > CHECKED_WORK_MAX {
            let most = CHECKED_WORK_MAX / self.nodes.max(1);
            return Err(misfit(
                String::new(),
                &format!("it has {values} values, at most {most} for a schema as large as this"),
            ));
        }
        self.validator.validate(&value).map_err(|error| misfit(error.instance_path().to_string(), &error.to_string()))
    }
}

/// A schema as a checker goes through it: with what each reference leads to in its place. Whatever stands anywhere is taken for
/// a schema, so what is refused here may be more than what a checker would go through, and is never less.
#[derive(Default)]
struct Unrolled {
    /// How many values there are in what was looked at, and how many levels, by its place in memory.
    seen: HashMap<*const Value, (u64, usize)>,
}

impl Unrolled {
    /// How many values and levels there are.
    fn value(&mut self, root: &Value, value: &Value, depth: usize) -> Result<(u64, usize), String> {
        let place: *const Value = value;
        let known = self.seen.get(&place).copied();
        if depth + known.map_or(1, |(_, levels)| levels) > UNROLLED_DEPTH_MAX {
            return Err(format!(
                "with its references followed it has more than {UNROLLED_DEPTH_MAX} levels, or refers to itself; write a schema without cycles"
            ));
        }
        if let Some(known) = known {
            return Ok(known);
        }
        let (mut nodes, mut levels) = (1_u64, 1);
        let mut add = |(more, deeper): (u64, usize)| {
            nodes = nodes.saturating_add(more);
            levels = levels.max(deeper.saturating_add(1));
        };
        match value {
            Value::Object(members) => {
                for (name, member) in members {
                    match (name.as_str(), member) {
                        ("$ref", Value::String(to)) => add(self.value(root, target(root, to)?, depth + 1)?),
                        ("$dynamicRef" | "$recursiveRef" | "unevaluatedItems" | "unevaluatedProperties", _) => {
                            return Err(format!("it has {name:?}; leave that out"));
                        }
                        ("$id" | "id", Value::String(_)) if depth > 0 => {
                            return Err(format!("a part of it has {name:?}; leave that out"));
                        }
                        ("pattern", Value::String(_)) => add((PATTERN_NODES, 1)),
                        ("patternProperties", Value::Object(patterns)) => {
                            add((PATTERN_NODES.saturating_mul(patterns.len() as u64), 1));
                            add(self.value(root, member, depth + 1)?);
                        }
                        _ => add(self.value(root, member, depth + 1)?),
                    }
                }
            }
            Value::Array(items) => {
                for item in items {
                    add(self.value(root, item, depth + 1)?);
                }
            }
            _ => {}
        }
        if nodes > UNROLLED_NODES_MAX {
            return Err(format!(
                "with its references followed it has more than {UNROLLED_NODES_MAX} values, of which a pattern counts as {PATTERN_NODES}; make it simpler"
            ));
        }
        self.seen.insert(place, (nodes, levels));
        Ok((nodes, levels))
    }
}

/// What a reference within a schema leads to.
fn target<'a>(root: &'a Value, to: &str) -> Result<&'a Value, String> {
    let pointer = to.strip_prefix('#').filter(|pointer| !pointer.contains('%'));
    let found = pointer.filter(|pointer| pointer.is_empty() || pointer.starts_with('/')).and_then(|p| root.pointer(p));
    found.ok_or_else(|| format!("it refers to {:?}; refer to a part of it, as in \"#/$defs/NAME\"", shown(to)))
}

fn nodes(value: &Value) -> usize {
    1 + match value {
        Value::Array(items) => items.iter().map(nodes).sum(),
        Value::Object(members) => members.values().map(nodes).sum(),
        _ => 0,
    }
}

/// Where in a schema the walk is, and what it has seen.
#[derive(Default)]
struct Walk {
    path: Vec<String>,
    nodes: usize,
}

impl Walk {
    fn value(&mut self, value: &Value, depth: usize) -> Result<(), SchemaError> {
        self.nodes += 1;
        if self.nodes > SCHEMA_NODES_MAX {
            return Err(SchemaError::TooManyValues { at: self.pointer() });
        }
        match value {
            Value::Object(_) | Value::Array(_) if depth >= SCHEMA_DEPTH_MAX => {
                Err(SchemaError::TooDeep { at: self.pointer() })
            }
            Value::Object(members) => members.iter().try_for_each(|(name, member)| {
                self.path.push(name.replace('~', "~0").replace('/', "~1"));
                if let Value::String(text) = member {
                    self.keyword(name, text)?;
                }
                self.value(member, depth + 1)?;
                self.path.pop();
                Ok(())
            }),
            Value::Array(items) => items.iter().enumerate().try_for_each(|(i, item)| {
                self.path.push(i.to_string());
                self.value(item, depth + 1)?;
                self.path.pop();
                Ok(())
            }),
            _ => Ok(()),
        }
    }

    /// Looks at a text by its name wherever it stands, also in a `default` or below an unknown keyword: a reference can
    /// make a schema of any part. A property of that name is no text, but a schema.
    fn keyword(&self, name: &str, text: &str) -> Result<(), SchemaError> {
        if REFERENCES.contains(&name) && !text.starts_with('#') {
            return Err(SchemaError::RemoteReference { at: self.pointer(), to: shown(text) });
        }
        if name == "$id" && (text.starts_with("//") || has_scheme(text)) {
            return Err(SchemaError::AbsoluteId { at: self.pointer() });
        }
        if name == "$schema" && !DIALECTS.contains(&text.strip_suffix('#').unwrap_or(text)) {
            return Err(SchemaError::UnknownDialect { at: self.pointer() });
        }
        Ok(())
    }

    fn pointer(&self) -> String {
        let pointer: String = self.path.iter().flat_map(|name| ["/", name]).collect();
        shown(&pointer)
    }
}

fn shown(text: &str) -> String {
    let mut shown: String = text.chars().take(SHOWN_CHARS_MAX).collect();
    if shown.len() < text.len() {
        shown.push_str("...");
    }
    shown
}

/// Whether a URI begins with a scheme (RFC 3986, section 3.1).
fn has_scheme(uri: &str) -> bool {
    uri.split_once(':').is_some_and(|(scheme, _)| {
        scheme.starts_with(|c: char| c.is_ascii_alphabetic())
            && scheme.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> String {
        checked(text.to_owned()).expect_err(text).to_string()
    }

    #[test]
    fn what_toolchains_derive_is_taken() {
        for text in [
            "true",
            " false",
            "{}",
            r##"{"$schema":"https://json-schema.org/draft/2020-12/schema","title":"Input","type":"object",
                "properties":{"rows":{"type":"array","items":{"$ref":"#/$defs/Row"}}},"$defs":{"Row":{"type":"object"}}}"##,
            r##"{"$schema":"http://json-schema.org/draft-07/schema#","definitions":{"a":{"$ref":"#"}},"$id":"input"}"##,
            r##"{"$dynamicRef":"#node","$dynamicAnchor":"node","$recursiveRef":"#"}"##,
            // Properties may have any names.
            r##"{"properties":{"$ref":{"type":"string"},"$id":{"type":"string"},"$schema":true}}"##,
        ] {
            assert!(checked(text.to_owned()).is_ok(), "{text}");
        }
    }

    #[test]
    fn nothing_outside_is_referred_to() {
        for (text, at) in [
            (r#"{"$ref":"https://example.com/s.json"}"#, "/$ref"),
            (r#"{"$ref":""}"#, "/$ref"),
            (r#"{"$ref":"other.json#/a"}"#, "/$ref"),
            (r#"{"properties":{"a/b":{"items":[{"$ref":"file:///etc/passwd"}]}}}"#, "/properties/a~1b/items/0/$ref"),
            (r#"{"allOf":[true,{"$dynamicRef":"//host/x"}]}"#, "/allOf/1/$dynamicRef"),
            (r#"{"not":{"$recursiveRef":"x"}}"#, "/not/$recursiveRef"),
            // A reference can lead there.
            (r##"{"$ref":"#/default","default":{"$ref":"http://h"}}"##, "/default/$ref"),
            (r#"{"$id":"https://example.com/s"}"#, "/$id"),
            (r#"{"$id":"urn:x"}"#, "/$id"),
            (r#"{"$defs":{"a":{"$id":"//example.com/s"}}}"#, "/$defs/a/$id"),
            (r#"{"$schema":"https://example.com/dialect"}"#, "/$schema"),
            (r#"{"$schema":""}"#, "/$schema"),
        ] {
            let why = refused(text);
            assert!(why.contains(&format!("{at:?}")), "{text}: {why}");
        }
    }

    #[test]
    fn depth_and_size_have_an_edge() {
        let deep = |levels: usize| format!("{}{{}}{}", r#"{"not":"#.repeat(levels - 1), "}".repeat(levels - 1));
        assert!(checked(deep(SCHEMA_DEPTH_MAX)).is_ok());
        assert!(refused(&deep(SCHEMA_DEPTH_MAX + 1)).contains("levels deep"));
        // The object, the array, and what is in it.
        let wide = |nodes: usize| format!(r#"{{"enum":[{}]}}"#, vec!["1"; nodes - 2].join(","));
        assert!(checked(wide(SCHEMA_NODES_MAX)).is_ok());
        assert!(refused(&wide(SCHEMA_NODES_MAX + 1)).contains("values"));
        let long = |bytes: usize| format!(r#"{{"title":"{}"}}"#, "x".repeat(bytes - 12));
        assert!(checked(long(SCHEMA_BYTES_MAX)).is_ok());
        assert!(refused(&long(SCHEMA_BYTES_MAX + 1)).contains("bytes"));
    }

    #[test]
    fn a_value_is_checked_and_the_place_is_named() {
        let schema =
            r#"{"type":"object","properties":{"n":{"type":"array","items":{"type":"integer"}}},"required":["n"]}"#;
        let checker = Checker::of(&checked(schema.into()).expect("a schema")).expect("can be checked against");
        let check = |text: &str| checker.check(&Json::parse(text).expect("JSON"));
        assert_eq!(check(r#"{"n":[1,2]}"#), Ok(()));
        assert_eq!(check(r#"{"n":[1,"x"]}"#).expect_err("a text").at, "/n/1");
        assert_eq!(check("{}").expect_err("nothing").at, "");
        let long = format!(r#"{{"n":[{}]}}"#, vec!["1"; CHECKED_NODES_MAX].join(","));
        assert!(check(&long).expect_err("too many").why.contains("more than"));
        let refused = |text: &str| {
            Checker::of(&checked(text.into()).expect("bounded")).err().unwrap_or_else(|| panic!("taken: {text}"))
        };
        // Small to send, and endless to follow: cycles, long ways, many ways.
        let chain = |links: usize, link: &dyn Fn(usize) -> String| {
            let links: Vec<_> = (0..links).map(|n| format!(r#""a{n}":{}"#, link(n))).collect();
            format!(r##"{{"$defs":{{{}}},"$ref":"#/$defs/a0"}}"##, links.join(","))
        };
        let next = |n: usize| format!(r##"{{"$ref":"#/$defs/a{}"}}"##, n + 1);
        assert!(
            refused(&chain(160, &|n| if n < 159 { next(n) } else { r##"{"items":{"$ref":"#/$defs/a0"}}"##.into() }))
                .contains("levels")
        );
        let twice = |n: usize| if n < 23 { format!(r#"{{"anyOf":[{0},{0}]}}"#, next(n)) } else { "true".into() };
        assert!(refused(&chain(24, &twice)).contains("values"));
        assert!(refused(r##"{"properties":{"left":{"$ref":"#"}}}"##).contains("refers to itself"));
        let patterns = vec![r#"{"pattern":"a"}"#; 21].join(",");
        assert!(refused(&format!(r#"{{"anyOf":[{patterns}]}}"#)).contains("pattern"));
        for text in [
            r#"{"pattern":"^([\\w-]{600}){600}$"}"#,
            r##"{"$dynamicRef":"#x"}"##,
            r#"{"unevaluatedItems":false}"#,
            r##"{"$ref":"#x","$defs":{"a":{"$anchor":"x"}}}"##,
            r#"{"$defs":{"a":{"$id":"x"}}}"#,
        ] {
            refused(text);
        }
        // What a type with parts comes to is not near it.
        let part =
            r##"{"type":"object","properties":{"a":{"type":"string","pattern":"^x"},"b":{"$ref":"#/$defs/c"}}}"##;
        let usual = format!(
            r##"{{"properties":{{"x":{{"$ref":"#/$defs/p"}},"y":{{"$ref":"#/$defs/p"}}}},"$defs":{{"p":{part},"c":{{"enum":[1,2]}}}}}}"##
        );
        assert!(Checker::of(&checked(usual).expect("bounded")).is_ok());
        // A large value for a large schema.
        let many = vec![r#"{"items":{"const":1}}"#; 500].join(",");
        let many = Checker::of(&checked(format!(r#"{{"anyOf":[{many}]}}"#)).expect("bounded")).expect("a schema");
        let twos = |count: usize| Json::parse(format!("[{}]", vec!["2"; count].join(","))).expect("JSON");
        assert!(many.check(&twos(9_000)).expect_err("too much").why.contains("as large as this"));
        let begun = std::time::Instant::now();
        assert!(many.check(&twos(200)).is_err());
        assert!(begun.elapsed() < std::time::Duration::from_secs(2), "{:?}", begun.elapsed());
        // Neither a type that there is not nor a pattern that would take for ever.
        assert!(Checker::of(&checked(r#"{"type":"nothing"}"#.into()).expect("bounded")).is_err());
        let slow = Checker::of(&checked(r#"{"pattern":"^(a+)+$"}"#.into()).expect("bounded")).expect("a pattern");
        let begun = std::time::Instant::now();
        assert!(slow.check(&Json::of(&format!("{}!", "a".repeat(50_000)))).is_err());
        assert!(begun.elapsed() < std::time::Duration::from_secs(2), "{:?}", begun.elapsed());
    }

    #[test]
    fn what_is_no_schema_is_refused_and_errors_stay_short() {
        for text in ["", "1", "[]", "null", r#""x""#, "{", "{}{}"] {
            refused(text);
        }
        let long = refused(&format!(r#"{{"{}":{{"$ref":"{}"}}}}"#, "a".repeat(10_000), "b".repeat(10_000)));
        assert!(long.len() < 600, "{long}");
    }
}
