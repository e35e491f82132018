//! What the journal keeps of a guest's calls to the host: all that it learned from outside, in the order in which it
//! learned it, so that its run can be executed again without the outside.
//!
//! A guest is deterministic but for its imports. Its random numbers come from a seed, which is kept once; every other
//! answer is kept with the call that asked for it. What follows from the run itself is not kept: who it runs for, what it
//! was given, and its own `/scratch`. Neither are the calls of a tool plugin's sandbox: its caller's record has the answer.

use crate::{
    codec::{self, CodecError},
    wait::ToolsTook,
};
use bincode::{Decode, Encode};
use std::fmt::Write as _;

/// The longest argument that is kept as it is, in bytes. Of a longer one the size and a digest are kept, which is enough
/// to see that a call is another.
pub const ASKED_SHOWN_BYTES_MAX: usize = 256;

/// One entry of the record. Calls are numbered from 1 in the order in which the guest made them; only calls that are kept
/// have a number.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum Record {
    /// The seed of all random numbers that the guest is given. Kept when it first looks at the machine.
    Seed([u8; 32]),
    /// A call and its answer, in one: nothing outside the run can have been changed by it.
    Call {
        /// Number of the call.
        call: u64,
        /// The function and what it was given.
        asked: String,
        /// The answer, in the codec's form of the function's own type.
        answer: Vec<u8>,
    },
    /// A call that may change something outside the run begins. Kept before it does.
    Started {
        /// Number of the call.
        call: u64,
        /// The function and what it was given.
        asked: String,
    },
    /// A call that was `Started` has its answer. The guest that waits for it learns it here.
    Finished {
        /// Number of the call.
        call: u64,
        /// The answer, as in `Call`.
        answer: Vec<u8>,
    },
    /// The guest learns the answer of a call that it did not wait for at first.
    Observed {
        /// Number of the call by which it learns it.
        call: u64,
        /// Whose answer it learns.
        of: u64,
    },
    /// From here on something is not kept, and the run cannot be executed again beyond it.
    Incomplete {
        /// Number of the call at which it begins.
        call: u64,
        /// What is not kept, in words.
        why: String,
    },
    /// So many events of the agent's own are in the log, as far as this chunk goes. Kept for runs that are continued after
    /// a crash, so that they say nothing twice.
    Said {
        /// How many.
        events: u64,
    },
    /// The run is executed again from its beginning: what follows is asked by another attempt, which knows nothing of what
    /// was before. Calls are numbered on, from the last that is recorded.
    Attempt {
        /// Which one it is; the first has no such entry.
        attempt: u32,
    },
    /// So much have the run's tools taken of its budgets, as far as this chunk goes. Kept for runs that are continued: a call
    /// that has its answer is not made again, and nobody else would count what it took.
    Tools(ToolsTook),
}

impl Record {
    /// Number of the call that it is about; 0 for what is about none.
    #[must_use]
    pub const fn call(&self) -> u64 {
        match self {
            Self::Seed(_) | Self::Said { .. } | Self::Attempt { .. } | Self::Tools(_) => 0,
            Self::Call { call, .. }
            | Self::Started { call, .. }
            | Self::Finished { call, .. }
            | Self::Observed { call, .. }
            | Self::Incomplete { call, .. } => *call,
        }
    }
}

/// A piece of a run's record, as storage keeps it: encoded entries, one after another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordChunk {
    /// Its place in the record: from 1, without holes.
    pub number: u64,
    /// The codec's version byte, and the entries.
    pub bytes: Vec<u8>,
}

impl RecordChunk {
    /// A chunk without entries.
    #[must_use]
    pub fn empty(number: u64) -> Self {
        // Most small agents never make a call that is kept.
        Self { number, bytes: Vec::new() }
    }

    /// Whether it has no entries.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Adds an entry.
    ///
    /// # Errors
    /// When it cannot be encoded, which no entry can bring about.
    pub fn push(&mut self, record: &Record) -> Result<(), CodecError> {
        if self.bytes.is_empty() {
            self.bytes = codec::begin();
        }
        codec::append(record, &mut self.bytes)
    }

    /// Its entries, in order.
    ///
    /// # Errors
    /// When the bytes are not of a format that this host reads, or are damaged.
    pub fn records(&self) -> Result<Vec<Record>, CodecError> {
        codec::decode_all(&self.bytes)
    }

    /// Whether it has all that a run needs to be executed again; records of earlier versions do not.
    ///
    /// # Errors
    /// When the bytes are not of a format that this host reads.
    pub fn can_be_replayed(&self) -> Result<bool, CodecError> {
        codec::format_of(&self.bytes).map(codec::Format::can_be_replayed)
    }
}

/// What a guest asked: the function, and its arguments in a bounded form. The same call has the same text, another call
/// has another.
#[derive(Debug, Clone)]
pub struct Asked(String);

impl Asked {
    /// Of a function, by its name in the WIT, as `interface.function`.
    #[must_use]
    pub fn of(function: &str) -> Self {
        Self(function.to_owned())
    }

    /// With one more argument: a text.
    #[must_use]
    pub fn text(self, text: &str) -> Self {
        if text.len() > ASKED_SHOWN_BYTES_MAX {
            self.digest(text.as_bytes())
        } else {
            self.value(format_args!("{text:?}"))
        }
    }

    /// With one more argument: bytes.
    #[must_use]
    pub fn digest(self, bytes: &[u8]) -> Self {
        let digest = crate::ids::Digest::of(bytes);
        self.value(format_args!("{} bytes {digest}", bytes.len()))
    }

    /// With one more argument: anything short.
    #[must_use]
    pub fn value(mut self, value: impl std::fmt::Display) -> Self {
        // Writing to a string cannot fail.
        let _ = write!(self.0, " {value}");
        self
    }

    /// The whole.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The whole, kept.
    #[must_use]
    pub fn into_text(self) -> String {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_gives_back_what_was_put_into_it() {
        let records = [
            Record::Seed([7; 32]),
            Record::Call { call: 1, asked: Asked::of("state.get").text("key").into_text(), answer: vec![1, 2, 3] },
            Record::Started { call: 2, asked: "tools.call".into() },
            Record::Finished { call: 2, answer: Vec::new() },
            Record::Observed { call: 3, of: 2 },
            Record::Incomplete { call: 4, why: "files".into() },
            Record::Said { events: 5 },
            Record::Attempt { attempt: 2 },
            Record::Tools(ToolsTook { host_calls: 6, events: 7, event_bytes: 8, log_bytes: 9 }),
        ];
        let mut chunk = RecordChunk::empty(1);
        for record in &records {
            chunk.push(record).expect("encodes");
        }
        assert_eq!(chunk.records().expect("decodes"), records);
        // Every shorter piece is either whole entries or damaged, and never a panic.
        for end in 0..chunk.bytes.len() {
            let cut = RecordChunk { number: 1, bytes: chunk.bytes[..end].to_vec() };
            if let Ok(read) = cut.records() {
                assert!(records.starts_with(&read) && read.len() < records.len());
            }
        }
    }

    #[test]
    fn another_argument_is_another_call_however_long_it_is() {
        let long = "x".repeat(ASKED_SHOWN_BYTES_MAX + 1);
        let asked = |text: &str| Asked::of("events.thinking").text(text).into_text();
        assert_ne!(asked(&long), asked(&format!("{long}x")));
        assert_ne!(asked("a\" \"b"), Asked::of("events.thinking").text("a").text("b").into_text());
        assert!(asked(&long).len() < 120);
        assert_eq!(asked("a"), r#"events.thinking "a""#);
    }
}
