//! The read-only connections.

use super::{SqliteError, rows::Columns};
use futures_util::TryStreamExt as _;
use sqlx::{
    ConnectOptions as _, Connection as _, Sqlite,
    query::Query,
    sqlite::{SqliteArguments, SqliteConnectOptions, SqliteConnection},
};
use std::{
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};

/// How many reads go on at once; one more waits. Each costs a thread and a cache.
const READERS: u32 = 4;

/// The read-only connections, each used by one read at a time.
pub(super) struct Readers {
    options: SqliteConnectOptions,
    free: Arc<Semaphore>,
    idle: Mutex<Vec<SqliteConnection>>,
}

/// A connection for one read. Given back on drop, also in the middle of an answer: what is left of that is discarded
/// by the connection.
struct Reader<'a> {
    readers: &'a Readers,
    /// None once the connection is not to be used again.
    connection: Option<SqliteConnection>,
    _permit: SemaphorePermit<'a>,
}

/// While this is there, nobody reads.
pub(super) struct Paused {
    _all: OwnedSemaphorePermit,
}

impl Drop for Reader<'_> {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take() {
            self.readers.idle().push(connection);
        }
    }
}

impl Readers {
    pub(super) async fn open(options: SqliteConnectOptions) -> Result<Self, SqliteError> {
        let mut idle = Vec::new();
        for _ in 0..READERS {
            idle.push(options.connect().await?);
        }
        Ok(Self { options, free: Arc::new(Semaphore::new(READERS as usize)), idle: Mutex::new(idle) })
    }

    /// Waits for the reads under way, then closes all connections.
    pub(super) async fn close(&self) {
        // It fails only where the readers were closed before.
        let Ok(_all) = self.free.acquire_many(READERS).await else { return };
        self.free.close();
        let idle = mem::take(&mut *self.idle());
        for connection in idle {
            // The connection was for reading only; nothing can be lost with it.
            let _ = connection.close().await;
        }
    }

    /// Waits for the reads under way, and has new ones wait until what this gives is dropped. None once all is closed, when
    /// there are no reads.
    pub(super) async fn pause(self: Arc<Self>) -> Option<Paused> {
        let all = self.free.clone().acquire_many_owned(READERS).await.ok()?;
        let idle = mem::take(&mut *self.idle());
        for mut connection in idle {
            // A read that nobody waits for any more ends on the connection's own thread: behind it comes the answer to this.
            if connection.ping().await.is_ok() {
                self.idle().push(connection);
            }
        }
        Some(Paused { _all: all })
    }

    /// What is made of the first row of the answer.
    pub(super) async fn first<T>(
        &self,
        query: Query<'static, Sqlite, SqliteArguments>,
        read: impl FnOnce(&mut Columns<'_>) -> Result<T, SqliteError>,
    ) -> Result<Option<T>, SqliteError> {
        let mut reader = self.reader().await?;
        let row = match query.fetch_optional(reader.connection().await?).await {
            Ok(row) => row,
            Err(error) => return Err(reader.discard(error)),
        };
        drop(reader);
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
            let mut rows = query.fetch(reader.connection().await?);
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
            None => Ok(found),
            Some(error) => Err(reader.discard(error)),
        }
    }

    async fn reader(&self) -> Result<Reader<'_>, SqliteError> {
        let permit = self.free.acquire().await.map_err(|_| SqliteError::Closed)?;
        let connection = self.idle().pop();
        Ok(Reader { readers: self, connection, _permit: permit })
    }

    fn idle(&self) -> MutexGuard<'_, Vec<SqliteConnection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reader<'_> {
    async fn connection(&mut self) -> Result<&mut SqliteConnection, SqliteError> {
        let connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.readers.options.connect().await?,
        };
        Ok(self.connection.insert(connection))
    }

    /// Throws the connection away: after an error, nobody can say what state it is in.
    fn discard(&mut self, error: sqlx::Error) -> SqliteError {
        self.connection = None;
        error.into()
    }
}
