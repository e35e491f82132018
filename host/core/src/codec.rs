//! The bytes of what is stored in binary form: one version byte, then bincode. The only room that names bincode's
//! functions, so that a change of format has one place to happen.

use bincode::{Decode, Encode, config};

/// The format written today. A reader meets it as the first byte.
///
/// | format | since then |
/// |--:|---|
/// | 1 | |
/// | 2 | a run's usage has its tool calls and its memory over time |
/// | 3 | the record of a run has all that it takes to execute it again |
/// | 4 | the end of a run has what became of its children; a record can have several attempts |
/// | 5 | the first event of a run has how long it was throttled |
/// | 6 | the record of a run has what its tools took of its budgets |
const VERSION: u8 = 6;

/// The first format, from which on all can be read.
const VERSION_MIN: u8 = 1;

/// The format of the bytes that are being read, for the types that were something else in an earlier one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Format(u8);

impl Format {
    /// Whether a run's usage has its tool calls and its memory over time.
    #[must_use]
    pub const fn counts_tools_and_memory_time(self) -> bool {
        self.0 >= 2
    }

    /// Whether the end of a run has what became of its children.
    #[must_use]
    pub const fn counts_children(self) -> bool {
        self.0 >= 4
    }

    /// Whether the first event of a run has how long it was throttled.
    #[must_use]
    pub const fn tells_throttling(self) -> bool {
        self.0 >= 5
    }

    /// Whether a record has the fuel that tools took, and where an unusual answer came.
    #[must_use]
    pub const fn can_be_replayed(self) -> bool {
        self.0 >= 3
    }
}

/// Bytes that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    /// Nothing there.
    #[error("the stored record is empty")]
    Empty,
    /// Written by a version of Cofferdam that this one does not know.
    #[error(
        "the stored record has format {0}, this host reads formats up to {VERSION}; use the Cofferdam that wrote it, or newer"
    )]
    UnknownVersion(u8),
    /// Damaged.
    #[error("the stored record is damaged: {0}")]
    Damaged(String),
}

/// The bytes of a value.
///
/// # Errors
/// When the value cannot be encoded, which none of our types can bring about.
pub fn encode(value: &impl Encode) -> Result<Vec<u8>, CodecError> {
    let mut bytes = begin();
    append(value, &mut bytes)?;
    Ok(bytes)
}

/// The beginning of bytes to which values are appended: the version.
#[must_use]
pub fn begin() -> Vec<u8> {
    vec![VERSION]
}

/// Adds the bytes of a value behind those of others.
///
/// # Errors
/// When the value cannot be encoded, which none of our types can bring about. Then nothing was added.
pub fn append(value: &impl Encode, bytes: &mut Vec<u8>) -> Result<(), CodecError> {
    let before = bytes.len();
    match bincode::encode_into_std_write(value, bytes, config::standard()) {
        Ok(_) => Ok(()),
        Err(error) => {
            bytes.truncate(before);
            Err(CodecError::Damaged(error.to_string()))
        }
    }
}

/// The value of bytes.
///
/// # Errors
/// When the bytes are not of a format that this host reads, are cut short, or go on after their end.
pub fn decode<T: Decode<Format>>(bytes: &[u8]) -> Result<T, CodecError> {
    let (format, body) = body(bytes)?;
    let (value, rest) = decode_first(format, body)?;
    if rest.is_empty() { Ok(value) } else { Err(CodecError::Damaged("there are bytes after its end".into())) }
}

/// All the values of bytes to which values were appended.
///
/// # Errors
/// When the bytes are not of a format that this host reads, or are cut short within a value.
pub fn decode_all<T: Decode<Format>>(bytes: &[u8]) -> Result<Vec<T>, CodecError> {
    let (format, mut rest) = body(bytes)?;
    let mut values = Vec::new();
    while !rest.is_empty() {
        let (value, after) = decode_first(format, rest)?;
        // A type without bytes would go on for ever.
        if after.len() == rest.len() {
            return Err(CodecError::Damaged("a value has no bytes".into()));
        }
        values.push(value);
        rest = after;
    }
    Ok(values)
}

/// The value of bytes that stand within others, in today's format.
///
/// # Errors
/// When they are damaged, are cut short, or go on after their end.
pub fn read<T: Decode<Format>>(bytes: &[u8]) -> Result<T, CodecError> {
    let (value, rest) = decode_first(Format(VERSION), bytes)?;
    if rest.is_empty() { Ok(value) } else { Err(CodecError::Damaged("there are bytes after its end".into())) }
}

/// The format that bytes are written in.
///
/// # Errors
/// When it is not one that this host reads.
pub fn format_of(bytes: &[u8]) -> Result<Format, CodecError> {
    body(bytes).map(|(format, _)| format)
}

fn body(bytes: &[u8]) -> Result<(Format, &[u8]), CodecError> {
    let (version, body) = bytes.split_first().ok_or(CodecError::Empty)?;
    let known = (VERSION_MIN..=VERSION).contains(version);
    if known { Ok((Format(*version), body)) } else { Err(CodecError::UnknownVersion(*version)) }
}

fn decode_first<T: Decode<Format>>(format: Format, bytes: &[u8]) -> Result<(T, &[u8]), CodecError> {
    // The bound keeps a damaged length from asking for memory that the record cannot hold.
    let bounded = config::standard().with_limit::<{ 16 << 20 }>();
    let (value, read) = bincode::decode_from_slice_with_context(bytes, bounded, format)
        .map_err(|e| CodecError::Damaged(e.to_string()))?;
    Ok((value, bytes.get(read..).unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        event::Event,
        run::{Children, Usage},
    };
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn damaged_bytes_are_an_error_never_a_panic(bytes: Vec<u8>) {
            let _ = decode::<Event>(&bytes);
            for version in VERSION_MIN..=VERSION {
                let mut tagged = vec![version];
                tagged.extend(&bytes);
                let _ = decode::<Event>(&tagged);
            }
        }

        #[test]
        fn an_end_of_the_first_format_is_read(output_bytes: u64, figures: [u64; 6]) {
            let [fuel, memory_peak_bytes, wall_ms, active_ms, host_calls, events] = figures;
            let usage =
                Usage { fuel, memory_peak_bytes, wall_ms, active_ms, host_calls, events, ..Usage::default() };
            let mut first = vec![VERSION_MIN];
            // The variant's number, its size, and the figures that there were then.
            let _ = append(&(4_u32, output_bytes), &mut first);
            let _ = append(&figures, &mut first);
            let read: Event = decode(&first).expect("decodes");
            let children = Children::default();
            prop_assert_eq!(&read, &Event::AgentCompleted { output_bytes, usage, children });
            let again: Event = decode(&encode(&read).expect("encodes")).expect("decodes");
            prop_assert_eq!(again, read);
            first[0] = VERSION;
            prop_assert!(decode::<Event>(&first).is_err(), "a newer one that is cut short");
        }

        #[test]
        fn what_was_written_is_read(text: String, fraction: f64) {
            for event in [Event::AgentThinking { text: text.clone() }, Event::Progress { fraction, note: text.clone() }] {
                let read: Event = decode(&encode(&event).expect("encodes")).expect("decodes");
                // NaN differs from itself, so the bytes are compared.
                prop_assert_eq!(encode(&read).expect("encodes"), encode(&event).expect("encodes"));
            }
        }
    }
}
