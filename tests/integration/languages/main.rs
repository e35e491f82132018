//! Agents in three languages, as their authors make them: new, build, test, dev; and that they are the same to the host.
//!
//! In a process of its own, after the other tests: it compiles, for minutes, and would slow what they time.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "tests: a surprise is a failure"
)]

mod author;
mod conformance;
mod migrating;
#[path = "../process.rs"]
#[allow(dead_code, reason = "shared with the other integration tests, which use all of it")]
mod process;
mod readme;
#[path = "../server.rs"]
#[allow(dead_code, reason = "shared with the other integration tests, which use all of it")]
mod server;
