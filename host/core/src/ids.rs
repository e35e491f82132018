//! Identifiers, each its own type, checked on the way in.

mod sequence;

use bincode::{
    Decode, Encode,
    de::Decoder,
    enc::Encoder,
    error::{DecodeError, EncodeError},
};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::{fmt, str::FromStr, sync::Arc};
use uuid::{Uuid, fmt::Simple};

/// An identifier that is not one. Says what it must look like.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{kind} must be {rule}")]
pub struct InvalidId {
    /// Which identifier.
    pub kind: &'static str,
    /// What it must look like.
    pub rule: &'static str,
}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $rule:literal, $valid:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// The identifier as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;
            fn from_str(text: &str) -> Result<Self, InvalidId> {
                let valid: fn(&str) -> bool = $valid;
                if valid(text) {
                    Ok(Self(text.into()))
                } else {
                    Err(InvalidId { kind: $kind, rule: $rule })
                }
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidId;
            fn try_from(text: String) -> Result<Self, InvalidId> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.0.as_ref().to_owned()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", &*self.0)
            }
        }
    };
}

/// Up to 64 characters, first from `first`, the others from `rest`.
fn word(text: &str, first: fn(u8) -> bool, rest: fn(u8) -> bool) -> bool {
    let bytes = text.as_bytes();
    bytes.len() <= 64 && bytes.first().is_some_and(|b| first(*b)) && bytes.iter().all(|b| rest(*b))
}

const fn lower_or_digit(b: u8) -> bool {
    b.is_ascii_lowercase() || b.is_ascii_digit()
}

const fn token(b: u8) -> bool {
    b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.')
}

text_id!(
    /// The owner of contexts, quotas, grants and data. Also the name of the user's workspace directory, so it is lower
    /// case and never starts with a dot.
    UserId,
    "a user id",
    "1 to 64 characters of a-z, 0-9, '_', '-', '.' and '@', the first a letter or digit",
    |t| word(t, lower_or_digit, |b| lower_or_digit(b) || matches!(b, b'_' | b'-' | b'.' | b'@'))
);
text_id!(
    /// The name that a plugin is pushed under.
    PluginName,
    "a plugin name",
    "1 to 64 characters of a-z, 0-9 and '-', the first a letter",
    |t| word(t, |b| b.is_ascii_lowercase(), |b| lower_or_digit(b) || b == b'-')
);
text_id!(
    /// A named quota that users can be in.
    TierName,
    "a tier name",
    "1 to 64 characters of a-z, 0-9 and '-', the first a letter",
    |t| word(t, |b| b.is_ascii_lowercase(), |b| lower_or_digit(b) || b == b'-')
);
text_id!(
    /// A conversation of runs.
    ThreadId,
    "a thread id",
    "1 to 64 characters of A-Z, a-z, 0-9, '_', '-' and '.', the first a letter or digit",
    |t| word(t, |b| b.is_ascii_alphanumeric(), token)
);
text_id!(
    /// A client's lasting connection.
    SessionId,
    "a session id",
    "1 to 64 characters of A-Z, a-z, 0-9, '_', '-' and '.', the first a letter or digit",
    |t| word(t, |b| b.is_ascii_alphanumeric(), token)
);
text_id!(
    /// One request of a client.
    RequestId,
    "a request id",
    "1 to 64 characters of A-Z, a-z, 0-9, '_', '-' and '.', the first a letter or digit",
    |t| word(t, |b| b.is_ascii_alphanumeric(), token)
);
text_id!(
    /// An API key's public name; says nothing about the secret.
    KeyId,
    "a key id",
    "1 to 64 characters of A-Z, a-z, 0-9, '_', '-' and '.', the first a letter or digit",
    |t| word(t, |b| b.is_ascii_alphanumeric(), token)
);
text_id!(
    /// A client's own name for a request, so that it can be sent again without being done again.
    IdempotencyKey,
    "an idempotency key",
    "1 to 255 visible ASCII characters",
    |t| (1..=255).contains(&t.len()) && t.bytes().all(|b| b.is_ascii_graphic())
);

/// How many bytes say what kind of number follows.
const PREFIX_BYTES: usize = 4;

fn prefixed(prefix: &[u8; PREFIX_BYTES], number: Uuid) -> Arc<str> {
    let mut text = [0; PREFIX_BYTES + Simple::LENGTH];
    let (begin, digits) = text.split_at_mut(PREFIX_BYTES);
    begin.copy_from_slice(prefix);
    number.simple().encode_lower(digits);
    // All of it is ASCII.
    str::from_utf8(&text).unwrap_or_default().into()
}

impl ThreadId {
    /// The thread of a run that was submitted without one.
    #[must_use]
    pub fn of_run(run: RunId) -> Self {
        Self(prefixed(b"thr_", run.0))
    }
}

impl RequestId {
    /// A new one.
    #[must_use]
    pub fn generate() -> Self {
        Self(prefixed(b"req_", sequence::next()))
    }
}

impl KeyId {
    /// A new one.
    #[must_use]
    pub fn generate() -> Self {
        Self(prefixed(b"key_", sequence::next()))
    }
}

/// One execution of an agent. Ordered by time of creation; written `run_` and 32 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RunId(Uuid);

impl RunId {
    /// A new one, later than all before it in this process.
    #[must_use]
    pub fn generate() -> Self {
        Self(sequence::next())
    }

    /// The run that a call of an attempt at another one starts: the same whenever it is asked for, and in the order of ids a
    /// millisecond after its parent. Two attempts can have calls of the same number.
    #[must_use]
    pub fn of_child(parent: Self, attempt: u32, call: u64) -> Self {
        let mut hasher = Sha256::new();
        hasher.update(b"child");
        hasher.update(parent.0.as_bytes());
        // Ids of first attempts are older than attempts are.
        if attempt > 1 {
            hasher.update(attempt.to_be_bytes());
        }
        hasher.update(call.to_be_bytes());
        let digest = hasher.finalize();
        // The first 48 bits are the time, in milliseconds; what follows is random in any id.
        let time = (parent.0.as_u128() >> 80).wrapping_add(1) << 80;
        let random = digest.iter().take(10).fold(0_u128, |bits, byte| bits << 8 | u128::from(*byte));
        Self(
            uuid::Builder::from_u128(time | random)
                .with_version(uuid::Version::SortRand)
                .with_variant(uuid::Variant::RFC4122)
                .into_uuid(),
        )
    }
}

impl FromStr for RunId {
    type Err = InvalidId;
    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let invalid = InvalidId { kind: "a run id", rule: "'run_' and 32 lower-case hexadecimal digits" };
        let hex = text.strip_prefix("run_").ok_or_else(|| invalid.clone())?;
        // The parser of UUIDs takes hyphens, braces and capitals too; one spelling keeps ids comparable as text.
        if hex.len() != 32 || !hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(invalid);
        }
        Uuid::try_parse(hex).map(Self).map_err(|_| invalid)
    }
}

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "run_{}", self.0.simple())
    }
}

impl fmt::Debug for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl TryFrom<String> for RunId {
    type Error = InvalidId;
    fn try_from(text: String) -> Result<Self, InvalidId> {
        text.parse()
    }
}

impl From<RunId> for String {
    fn from(id: RunId) -> String {
        id.to_string()
    }
}

/// The SHA-256 of a component's bytes: what a plugin is, whatever it is called. Written `sha256:` and 64 digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest([u8; 32]);

impl Digest {
    /// The digest of these bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// The 64 hexadecimal digits, without the `sha256:` in front; fit for a file name.
    #[must_use]
    pub fn hex(&self) -> String {
        // Digit by digit: the formatting machinery takes ten times as long, and each run tells its component's digest.
        let mut text = String::with_capacity(64);
        for byte in self.0 {
            text.extend([byte >> 4, byte & 15].map(|nibble| char::from(digit(nibble))));
        }
        text
    }
}

impl FromStr for Digest {
    type Err = InvalidId;
    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let invalid = InvalidId { kind: "a digest", rule: "'sha256:' and 64 lower-case hexadecimal digits" };
        let hex = text.strip_prefix("sha256:").ok_or_else(|| invalid.clone())?.as_bytes();
        let mut digest = [0_u8; 32];
        if hex.len() != 64 {
            return Err(invalid);
        }
        for (byte, pair) in digest.iter_mut().zip(hex.chunks_exact(2)) {
            let [high, low] = pair else { return Err(invalid) };
            *byte = nibble(*high).zip(nibble(*low)).map(|(h, l)| h << 4 | l).ok_or_else(|| invalid.clone())?;
        }
        Ok(Self(digest))
    }
}

const fn digit(nibble: u8) -> u8 {
    if nibble < 10 { b'0' + nibble } else { b'a' + (nibble - 10) }
}

const fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("sha256:")?;
        f.write_str(&self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl TryFrom<String> for Digest {
    type Error = InvalidId;
    fn try_from(text: String) -> Result<Self, InvalidId> {
        text.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> String {
        digest.to_string()
    }
}

/// In stored bytes, identifiers are the texts that they are on the wire.
macro_rules! stored_as_text {
    ($($name:ident),+) => {$(
        impl Encode for $name {
            fn encode<E: Encoder>(&self, encoder: &mut E) -> Result<(), EncodeError> {
                self.to_string().encode(encoder)
            }
        }

        impl<C> Decode<C> for $name {
            fn decode<D: Decoder<Context = C>>(decoder: &mut D) -> Result<Self, DecodeError> {
                String::decode(decoder)?.parse().map_err(|error: InvalidId| DecodeError::OtherString(error.to_string()))
            }
        }

        bincode::impl_borrow_decode!($name);
    )+};
}

stored_as_text!(PluginName, Digest);

/// A client's way to name an agent: `name`, `name@version` or `name@sha256:…`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentRef {
    /// The plugin's name.
    pub name: PluginName,
    /// Which of its versions; the one pushed last if not said.
    pub pick: Pick,
}

/// Which version of a plugin is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pick {
    /// The one pushed last.
    Latest,
    /// The one pushed last under this version of the author's.
    Version(String),
    /// Exactly these bytes.
    Digest(Digest),
}

impl FromStr for AgentRef {
    type Err = InvalidId;
    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let (name, pick) = match text.split_once('@') {
            None => (text, Pick::Latest),
            Some((name, digest)) if digest.starts_with("sha256:") => (name, Pick::Digest(digest.parse()?)),
            Some((name, version)) if is_version(version) => (name, Pick::Version(version.to_owned())),
            Some(_) => {
                return Err(InvalidId { kind: "an agent", rule: "name, name@version or name@sha256:digest" });
            }
        };
        Ok(Self { name: name.parse()?, pick })
    }
}

/// Whether a text can be a plugin's version: 1 to 64 characters of `A-Z a-z 0-9 . - + _`.
#[must_use]
pub fn is_version(text: &str) -> bool {
    word(text, |b| token(b) || b == b'+', |b| token(b) || b == b'+')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_childs_id_follows_from_its_call_and_comes_after_its_parents() {
        let parents: Vec<_> = (0..100).map(|_| RunId::generate()).collect();
        for parent in &parents {
            let children = [1, 2, u64::MAX].map(|call| RunId::of_child(*parent, 1, call));
            assert_eq!(children, [1, 2, u64::MAX].map(|call| RunId::of_child(*parent, 1, call)));
            assert!(children.iter().all(|child| child > parent && child.to_string().parse() == Ok(*child)));
            assert!(children[0] != children[1] && children[1] != children[2]);
        }
        assert_ne!(RunId::of_child(parents[0], 1, 1), RunId::of_child(parents[1], 1, 1));
    }

    #[test]
    fn the_same_call_of_another_attempt_starts_another_child() {
        let parent: RunId = "run_0192f0c1a2b37c3d8e4f5a6b7c8d9e0f".parse().expect("a run id");
        let children = [1, 2, 3, 7, u32::MAX].map(|attempt| RunId::of_child(parent, attempt, 7));
        // What it was before there were attempts.
        assert_eq!(children[0].to_string(), "run_0192f0c1a2b47d20b045dd7dd462630e");
        assert_eq!(children[1].to_string(), "run_0192f0c1a2b479e49c2f41e004a35813");
        assert_eq!(children, [1, 2, 3, 7, u32::MAX].map(|attempt| RunId::of_child(parent, attempt, 7)));
        let distinct: std::collections::BTreeSet<_> = children.into_iter().collect();
        assert_eq!(distinct.len(), children.len(), "{children:?}");
        assert!(children.iter().all(|child| *child > parent), "{children:?}");
    }

    #[test]
    fn a_user_id_cannot_climb_out_of_its_directory() {
        for text in ["", ".", "..", "../x", "a/b", "a\\b", "A", "a b", "a\0", "-a", &"a".repeat(65)] {
            assert!(text.parse::<UserId>().is_err(), "{text:?} was taken");
        }
        assert!("a".repeat(64).parse::<UserId>().is_ok());
        assert!("ann@example.org".parse::<UserId>().is_ok());
    }

    #[test]
    fn ids_read_back_as_they_were_written() {
        let run = RunId::generate();
        assert_eq!(run.to_string().parse(), Ok(run));
        let digest = Digest::of(b"abc");
        assert_eq!(digest.to_string(), "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!(digest.to_string().parse(), Ok(digest));
        assert!(run.to_string().to_uppercase().parse::<RunId>().is_err());
    }

    #[test]
    fn run_ids_are_in_order_of_creation() {
        let ids: Vec<_> = (0..1000).map(|_| RunId::generate()).collect();
        assert!(ids.is_sorted_by(|a, b| a < b && a.to_string() < b.to_string()));
    }

    #[test]
    fn an_agent_is_named_by_name_version_or_digest() {
        let digest = Digest::of(b"abc");
        assert_eq!("echo".parse::<AgentRef>().map(|r| r.pick), Ok(Pick::Latest));
        assert_eq!("echo@1.0.0".parse::<AgentRef>().map(|r| r.pick), Ok(Pick::Version("1.0.0".into())));
        assert_eq!(format!("echo@{digest}").parse::<AgentRef>().map(|r| r.pick), Ok(Pick::Digest(digest)));
        for text in ["", "@1", "echo@", "echo@sha256:12", "echo@a b", "Echo"] {
            assert!(text.parse::<AgentRef>().is_err(), "{text:?} was taken");
        }
    }
}
