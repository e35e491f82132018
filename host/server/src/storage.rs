//! Durable storage for a host of its own.

pub mod sqlite;

pub(crate) use sqlite::Commits;
pub use sqlite::{SqliteError, SqliteStorage};
