//! The read-only connections.

use super::{SqliteError, rows::Columns};
use futures_util::TryStreamExt as _;
use sqlx::{
    ConnectOptions as _, Connection as _, Sqlite,
    query::Query,
    sqlite::{SqliteArguments, SqliteConnectOptions, SqliteConnection},
};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{Semaphore, SemaphorePermit};

/// How many reads go on at once; one more waits. Each costs a thread and a cache.
const READERS: u32 = 4;

/// How many steps of its machine SQLite takes between two looks at whether anybody waits for the answer: some ten microseconds.
const STEPS: i32 = 1_000;

/// The read-only connections, each used by one read at a time.
pub(super) struct Readers {
    options: SqliteConnectOptions,
    free: Semaphore,
    idle: Mutex<Vec<Open>>,
}

/// A connection that gives up what it reads once this is gone.
struct Open {
    connection: SqliteConnection,
    _wanted: Arc<()>,
}

/// A connection for one read. Given back on drop, unless the answer was still waited for: whoever asked has gone away, and the
/// next one would wait for what may be a look at all of a user's runs.
struct Reader<'a> {
    readers: &'a Readers,
    /// None once the connection is not to be used again.
    connection: Option<Open>,
    /// Whether an answer is waited for.
    reads: bool,
    _permit: SemaphorePermit<'a>,
}

impl Drop for Reader<'_> {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take().filter(|_| !self.reads) {
            self.readers.idle().push(connection);
        }
    }
}

impl Open {
    async fn with(options: &SqliteConnectOptions) -> Result<Self, SqliteError> {
        let (mut connection, wanted) = (options.connect().await?, Arc::new(()));
        let still_wanted = Arc::downgrade(&wanted);
        connection.lock_handle().await?.set_progress_handler(STEPS, move || still_wanted.strong_count() > 0);
        Ok(Self { connection, _wanted: wanted })
    }
}

impl Readers {
    pub(super) async fn open(options: SqliteConnectOptions) -> Result<Self, SqliteError> {
        let mut idle = Vec::new();
        for _ in 0..READERS {
            idle.push(Open::with(&options).await?);
        }
        Ok(Self { options, free: Semaphore::new(READERS as usize), idle: Mutex::new(idle) })
    }

    /// Waits for the reads under way, then closes all connections.
    pub(super) async fn close(&self) {
        // It fails only where the readers were closed before.
        let Ok(_all) = self.free.acquire_many(READERS).await else { return };
        self.free.close();
        let idle = std::mem::take(&mut *self.idle());
        for open in idle {
            // The connection was for reading only; nothing can be lost with it.
            let _ = open.connection.close().await;
        }
    }

    /// What is made of the first row of the answer.
    pub(super) async fn first<T>(
        &self,
        query: Query<'static, Sqlite, SqliteArguments>,
        read: impl FnOnce(&mut Columns<'_>) -> Result<T, SqliteError>,
    ) -> Result<Option<T>, SqliteError> {
        let mut reader = self.reader().await?;
        let row = match query.fetch_optional(reader.begin().await?).await {
            Ok(row) => row,
            Err(error) => return Err(reader.discard(error)),
        };
        reader.end();
        row.map(|row| read(&mut Columns::of(&row))).transpose()
    }

    /// What is made of each row of the answer.
    pub(super) async fn all<T>(
        &self,
        query: Query<'static, Sqlite, SqliteArguments>,
        read: impl Fn(&mut Columns<'_>) -> Result<T, SqliteError>,
    ) -> Result<Vec<T>, SqliteError> {
        self.all_while(query, |columns| read(columns).map(Some)).await
    }

    /// What is made of each row of the answer, up to the first row of which nothing is made.
    pub(super) async fn all_while<T>(
        &self,
        query: Query<'static, Sqlite, SqliteArguments>,
        mut read: impl FnMut(&mut Columns<'_>) -> Result<Option<T>, SqliteError>,
    ) -> Result<Vec<T>, SqliteError> {
        let mut reader = self.reader().await?;
        let mut found = Vec::new();
        let failed = {
            let mut rows = query.fetch(reader.begin().await?);
            loop {
                match rows.try_next().await {
                    Ok(Some(row)) => match read(&mut Columns::of(&row))? {
                        Some(thing) => found.push(thing),
                        None => break None,
                    },
                    Ok(None) => break None,
                    Err(error) => break Some(error),
                }
            }
        };
        match failed {
            None => {
                reader.end();
                Ok(found)
            }
            Some(error) => Err(reader.discard(error)),
        }
    }

    async fn reader(&self) -> Result<Reader<'_>, SqliteError> {
        let permit = self.free.acquire().await.map_err(|_| SqliteError::Closed)?;
        let connection = self.idle().pop();
        Ok(Reader { readers: self, connection, reads: false, _permit: permit })
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Open>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reader<'_> {
    /// The connection, for a read that begins.
    async fn begin(&mut self) -> Result<&mut SqliteConnection, SqliteError> {
        let open = match self.connection.take() {
            Some(open) => open,
            None => Open::with(&self.readers.options).await?,
        };
        self.reads = true;
        Ok(&mut self.connection.insert(open).connection)
    }

    /// The answer is there, as far as it is wanted, and the connection is given back. What is left of it ends with its next row.
    fn end(mut self) {
        self.reads = false;
    }

    /// Throws the connection away: after an error, nobody can say what state it is in.
    fn discard(mut self, error: sqlx::Error) -> SqliteError {
        self.connection = None;
        error.into()
    }
}
