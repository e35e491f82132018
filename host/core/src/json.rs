//! A JSON text that has been checked: valid, and nested no deeper than every reader can follow.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::{fmt, sync::Arc};

/// How deep a JSON text may nest. What serde_json follows before it gives up, so that any text we take can be read by
/// anyone who uses a common parser.
pub const JSON_DEPTH_MAX: usize = 128;

/// A valid JSON text, kept as it was written: numbers keep their digits, objects their order.
#[derive(Clone, PartialEq, Eq)]
pub struct Json(Arc<str>);

/// Why a text is not taken as JSON.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidJson {
    /// Not JSON.
    #[error("not JSON: {0}")]
    Syntax(String),
    /// Nested too deep.
    #[error("JSON nested deeper than {JSON_DEPTH_MAX} levels")]
    TooDeep,
}

impl Json {
    /// Checks a text.
    ///
    /// # Errors
    /// When it is not JSON, or nested deeper than [`JSON_DEPTH_MAX`].
    pub fn parse(text: impl Into<Arc<str>>) -> Result<Self, InvalidJson> {
        let text = text.into();
        // The check for depth comes first: it is a plain loop, and what follows may not be.
        if depth(&text) > JSON_DEPTH_MAX {
            return Err(InvalidJson::TooDeep);
        }
        serde_json::from_str::<&RawValue>(&text).map_err(|e| InvalidJson::Syntax(e.to_string()))?;
        Ok(Self(text))
    }

    /// The JSON of a value of ours.
    #[must_use]
    pub fn of(value: &impl Serialize) -> Self {
        // Our own types serialize; were one not to, `null` is the honest absence.
        Self(serde_json::to_string(value).map_or_else(|_| "null".into(), Into::into))
    }

    /// `{}`.
    #[must_use]
    pub fn empty_object() -> Self {
        Self("{}".into())
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Reads the text as a type.
    ///
    /// # Errors
    /// When the text does not have the type's shape.
    pub fn read<'a, T: Deserialize<'a>>(&'a self) -> Result<T, serde_json::Error> {
        serde_json::from_str(&self.0)
    }
}

/// The deepest nesting of brackets outside strings. Right for valid JSON; for anything else some number.
fn depth(text: &str) -> usize {
    let (mut now, mut deepest, mut in_string, mut escaped) = (0_usize, 0_usize, false, false);
    for byte in text.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            _ if in_string => {}
            b'[' | b'{' => {
                now += 1;
                deepest = deepest.max(now);
            }
            b']' | b'}' => now = now.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

impl Serialize for Json {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let raw: &RawValue = serde_json::from_str(&self.0).map_err(serde::ser::Error::custom)?;
        raw.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = Box::<RawValue>::deserialize(deserializer)?;
        if depth(raw.get()) > JSON_DEPTH_MAX {
            return Err(serde::de::Error::custom(InvalidJson::TooDeep));
        }
        Ok(Self(raw.get().into()))
    }
}

impl fmt::Debug for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
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
        let text = "{\"b\":1.000000000000000000000001,\"a\":1e400}";
        assert_eq!(serde_json::to_string(&Json::parse(text).expect("valid")).expect("serializes"), text);
    }
}
