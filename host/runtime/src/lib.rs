//! Cofferdam's runtime: the only crate that knows wasmtime. [`Runtime`] takes a submission and gives back a run;
//! everything between is in `invoke.rs`, which reads from top to bottom.

mod artifact;
mod backoff;
mod bindings;
mod cancel;
pub mod compile;
mod counts;
mod disk;
mod dispatch;
pub mod engine;
mod gate;
mod guest_threads;
mod imports;
mod invoke;
mod local;
mod meter;
mod plugin;
mod recent;
mod recovery;
mod registry;
mod replay;
mod retention;
mod runtime;
mod sandbox;
mod schema;
mod scratch;
mod services;
mod tree;
mod wasi;
mod workspace;

pub use counts::Counts;
pub use gate::GateError;
pub use local::{LocalError, LocalOptions, run_local};
pub use registry::{PushError, Pushed, Registry};
pub use runtime::{AcceptError, Accepted, Runtime, RuntimeConfig, StartError, Submission, UnderWay};
pub use workspace::{Chunk, Entry, EntryKind, FileError, Listing, Workspace, WorkspaceRoot};
