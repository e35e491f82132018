//! A JSON text that has been checked: valid, and nested no deeper than every reader can follow.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::{
    fmt,
    sync::{Arc, LazyLock},
};

/// How deep a JSON text may nest. What serde_json follows before it gives up, so that any text we take can be read by
/// anyone who uses a common parser.
pub const JSON_DEPTH_MAX: usize = 128;

/// A valid JSON text, kept as it was written: numbers keep their digits, objects their order.
#[derive(Clone)]
pub struct Json(Arc<RawValue>);

impl PartialEq for Json {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for Json {}

/// Why a text is not taken as JSON.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidJson {
    /// Not JSON.
    #[error("not JSON: {0}")]
    Syntax(String),
    /// Nested too deep.
    #[error("JSON nested deeper than {JSON_DEPTH_MAX} levels")]
    TooDeep,
    /// A number that no common parser can hold.
    #[error("JSON with a number beyond ±1.8e308, at byte {0}")]
    NumberOutOfRange(usize),
    /// Half of a character.
    #[error("JSON with an unpaired surrogate (\\uD800 to \\uDFFF), at byte {0}")]
    UnpairedSurrogate(usize),
}

impl Json {
    /// Checks a text.
    ///
    /// # Errors
    /// When it is not JSON, or JSON that common parsers refuse: a guest's text must not make what it is part of
    /// unreadable for the client.
    pub fn parse(text: impl Into<String>) -> Result<Self, InvalidJson> {
        let text = text.into();
        // This comes first: it is a plain loop, and what follows may not be.
        readable(&text)?;
        let text = RawValue::from_string(text).map_err(|e| InvalidJson::Syntax(e.to_string()))?;
        Ok(Self(text.into()))
    }

    /// The JSON of a value of ours.
    #[must_use]
    pub fn of(value: &impl Serialize) -> Self {
        // Our own types serialize; were one not to, `null` is the honest absence.
        let text = serde_json::value::to_raw_value(value);
        Self(text.map_or_else(|_| RawValue::NULL.to_owned().into(), Into::into))
    }

    /// `{}`.
    #[must_use]
    pub fn empty_object() -> Self {
        // Of each run without metadata: shared.
        static EMPTY: LazyLock<Json> = LazyLock::new(|| Json::of(&serde_json::Map::new()));
        EMPTY.clone()
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.get()
    }

    /// Reads the text as a type.
    ///
    /// # Errors
    /// When the text does not have the type's shape.
    pub fn read<'a, T: Deserialize<'a>>(&'a self) -> Result<T, serde_json::Error> {
        serde_json::from_str(self.as_str())
    }
}

/// Whether common parsers can read a text that is valid JSON: nesting, numbers and surrogates are within their bounds.
/// Of a text that is not JSON this says nothing.
fn readable(text: &str) -> Result<(), InvalidJson> {
    let bytes = text.as_bytes();
    let (mut depth, mut at) = (0_usize, 0);
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'"' => {
                at = string_end(text, at + 1)?;
                continue;
            }
            b'[' | b'{' => {
                depth += 1;
                if depth > JSON_DEPTH_MAX {
                    return Err(InvalidJson::TooDeep);
                }
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            b'0'..=b'9' => {
                let rest = bytes.get(at..).unwrap_or_default();
                let is_of_number = |byte: &u8| byte.is_ascii_digit() || b".eE+-".contains(byte);
                let end = at + rest.iter().position(|byte| !is_of_number(byte)).unwrap_or(rest.len());
                // Fewer than 300 digits without an exponent always fit.
                let number = text.get(at..end).unwrap_or_default();
                let may_be_large = number.len() >= 300 || number.bytes().any(|b| matches!(b, b'e' | b'E'));
                if may_be_large && number.parse::<f64>().is_ok_and(f64::is_infinite) {
                    return Err(InvalidJson::NumberOutOfRange(at));
                }
                at = end;
                continue;
            }
            _ => {}
        }
        at += 1;
    }
    Ok(())
}

/// Where a string that begins here has ended, its quotation mark included.
fn string_end(text: &str, mut at: usize) -> Result<usize, InvalidJson> {
    let bytes = text.as_bytes();
    while let Some(found) = memchr::memchr2(b'"', b'\\', bytes.get(at..).unwrap_or_default()) {
        let escape = at + found;
        if bytes.get(escape) == Some(&b'"') {
            return Ok(escape + 1);
        }
        at = escape + 2;
        if bytes.get(escape + 1) == Some(&b'u') {
            match code_unit(text, escape) {
                Some(0xD800..=0xDBFF) => {
                    let second = code_unit(text, escape + 6).filter(|unit| (0xDC00..=0xDFFF).contains(unit));
                    second.ok_or(InvalidJson::UnpairedSurrogate(escape))?;
                    // Both escapes.
                    at = escape + 12;
                }
                Some(0xDC00..=0xDFFF) => return Err(InvalidJson::UnpairedSurrogate(escape)),
                _ => {}
            }
        }
    }
    Ok(bytes.len())
}

/// The UTF-16 code unit of an escape `\\uXXXX` at a place, if there is one.
fn code_unit(text: &str, at: usize) -> Option<u32> {
    let digits = text.get(at..at + 6)?.strip_prefix("\\u")?;
    u32::from_str_radix(digits, 16).ok()
}

impl Serialize for Json {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = Box::<RawValue>::deserialize(deserializer)?;
        readable(raw.get()).map_err(serde::de::Error::custom)?;
        Ok(Self(raw.into()))
    }
}

impl fmt::Debug for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl bincode::Encode for Json {
    fn encode<E: bincode::enc::Encoder>(&self, encoder: &mut E) -> Result<(), bincode::error::EncodeError> {
        bincode::Encode::encode(self.as_str(), encoder)
    }
}

impl<C> bincode::Decode<C> for Json {
    fn decode<D: bincode::de::Decoder<Context = C>>(decoder: &mut D) -> Result<Self, bincode::error::DecodeError> {
        let text = <String as bincode::Decode<C>>::decode(decoder)?;
        Self::parse(text).map_err(|e| bincode::error::DecodeError::OtherString(e.to_string()))
    }
}

bincode::impl_borrow_decode!(Json);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nesting_is_bounded_and_brackets_in_strings_do_not_count() {
        let nested = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
        assert!(Json::parse(nested(JSON_DEPTH_MAX)).is_ok());
        assert_eq!(Json::parse(nested(JSON_DEPTH_MAX + 1)), Err(InvalidJson::TooDeep));
        assert_eq!(Json::parse(nested(1_000_000)), Err(InvalidJson::TooDeep));
        assert!(Json::parse(format!("\"{}\\\"{}\"", "[".repeat(500), "{".repeat(500))).is_ok());
    }

    #[test]
    fn what_is_not_json_is_refused_and_what_is_keeps_its_digits() {
        for text in ["", "{", "01", "nul", "{\"a\":1,}", "\"\u{1}\"", "1 2"] {
            assert!(matches!(Json::parse(text), Err(InvalidJson::Syntax(_))), "{text:?} was taken");
        }
        let text = "{\"b\":1.000000000000000000000001,\"a\":1e300}";
        assert_eq!(serde_json::to_string(&Json::parse(text).expect("valid")).expect("serializes"), text);
    }

    proptest::proptest! {
        /// What is taken can be read by a parser that builds the whole value; what such a parser reads is taken.
        #[test]
        fn a_text_is_taken_exactly_if_a_common_parser_reads_it(
            text in r#"(\[|\{"a":|[0-9]{1,4}|-|e|E|\+|\.|"|\\\\|\\\\u[dD][89abAB-F][0-9]{2}|\\\\u00e9|,|\]|\}|null| ){1,14}"#
        ) {
            let read = serde_json::from_str::<serde_json::Value>(&text);
            proptest::prop_assert_eq!(Json::parse(text.as_str()).is_ok(), read.is_ok(), "{} {:?}", text, read);
        }
    }

    #[test]
    fn numbers_and_surrogates_are_within_what_parsers_hold() {
        for text in ["1e308", "-1.7976931348623157e308", "1e-999", "\"1e999\"", "\"\\ud83d\\ude00\"", "\"\\\\ud83d\""] {
            assert!(Json::parse(text).is_ok(), "{text} was refused");
            assert!(serde_json::from_str::<serde_json::Value>(text).is_ok());
        }
        let digits = "9".repeat(400);
        for text in
            ["1e309", "[-1e999]", digits.as_str(), "\"\\ud83d\"", "\"\\ude00\"", "\"\\ud83dx\"", "\"\\ud83d\\u0041\""]
        {
            assert!(Json::parse(text).is_err(), "{text} was taken");
            assert!(serde_json::from_str::<serde_json::Value>(text).is_err());
        }
    }
}
