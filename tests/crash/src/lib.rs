//! What a crash may not take: a real server is killed at random moments under load, and afterwards everything that it
//! had acknowledged is compared with what it says then.
//!
//! Three roles. The *driver* starts the server, kills it and starts it again. The *client*, a process of its own, loads
//! it and writes down every acknowledgement, on disk before it goes on. The *checker* compares what was written down
//! with what the server says in the end. None of them shares code with the host.
//!
//! Durable runs are told what to do by a *plan*, and what must come of a plan does not depend on kills: the checker knows
//! it, and counts what they did outside themselves where it lies on the disk.

#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a developer's command talks to the terminal")]
#![allow(clippy::disallowed_methods, reason = "the tasks of a test's client end with its process")]

pub mod acks;
pub mod check;
pub mod client;
pub mod collect;
pub mod driver;
pub mod durable;
pub mod faults;
pub mod http;
pub mod judge;
pub mod place;
pub mod plan;
pub mod powercut;
pub mod random;
pub mod server;
pub mod stored;
pub mod writer;

use sha2::{Digest as _, Sha256};

/// The SHA-256 of bytes, in hexadecimal digits.
#[must_use]
pub fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
