//! The host as its users meet it: a real server on a free port, real components, a real client.
//!
//! Most tests share one server, as users do, each with users of its own; those that restart a server, or set its
//! quotas, start theirs.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "tests: a surprise is a failure"
)]

mod bad_input;
mod cancel;
mod children;
mod cli;
#[path = "corpus/component.rs"]
#[allow(dead_code, reason = "shared with the corpus, which uses all of it")]
mod component;
mod directories;
mod drain;
mod durable;
mod events;
mod generated;
mod grants;
mod host_failure;
mod idempotency;
mod invariants;
mod isolation;
mod journal;
mod kept;
mod leftovers;
mod limits;
mod metrics;
mod plugins;
mod process;
mod quotas;
mod readme;
mod recovery;
mod replay;
mod restart;
mod retention;
mod retries;
mod runs;
mod server;
mod sockets;
mod storage;
mod team;
mod tools;
mod turns;
mod uploads;
mod usage;
mod waits;
mod wat;
