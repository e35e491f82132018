//! Durable storage for a host of its own.

pub mod sqlite;

pub use sqlite::{SqliteError, SqliteStorage};
