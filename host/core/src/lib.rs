//! Words and rules of Cofferdam: what a run, a user, a grant, a limit and an event are, and what may happen between
//! them. No sandbox, no HTTP, no I/O: those live in `cofferdam-runtime` and `cofferdam-server`.

#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub mod admission;
pub mod clock;
mod closing;
pub mod codec;
pub mod context;
pub mod emitter;
pub mod event;
pub mod fault;
pub mod grant;
pub mod idempotency;
pub mod identity;
pub mod ids;
pub mod journal;
pub mod json;
pub mod latency;
pub mod memory;
pub mod pace;
pub mod quota;
pub mod record;
pub mod replay;
pub mod run;
pub mod storage;
pub mod turns;
pub mod unwind;
pub mod usage;
pub mod wait;

pub use context::UserExecutionContext;
pub use json::Json;
