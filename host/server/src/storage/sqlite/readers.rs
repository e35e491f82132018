//! The read-only connections.

use super::{SqliteError, rows::Columns};
use futures_util::{TryStreamExt as _, future::join_all};
use sqlx::{
    ConnectOptions as _, Connection as _, Sqlite,
    query::Query,
    sqlite::{SqliteArguments, SqliteConnectOptions, SqliteConnection},
};
use std::{
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How many reads go on at once; one more waits. Each costs a thread and a cache.
const READERS: u32 = 4;

/// How many steps of its machine SQLite takes between two looks at whether anybody waits for the answer: some ten microseconds.
const STEPS: i32 = 1_000;

/// The read-only connections, each used by one read at a time.
pub(super) struct Readers {
    options: SqliteConnectOptions,
    free: Arc<Semaphore>,
    idle: Mutex<Vec<Open>>,
}

/// A connection that gives up what it reads once this is gone.
struct Open {
    connection: SqliteConnection,
    _wanted: Arc<()>,
    /// Held until the connection has given up and is closed.
    held: Arc<Mutex<Option<OwnedSemaphorePermit>>>,
}

/// A connection for one read. Given back on drop, unless the answer was still waited for, or was an error: whoever asked has
/// gone away, and the next one would wait for what may be a look at all of a user's runs. Then its place is free once it is closed.
struct Reader<'a> {
    readers: &'a Readers,
    connection: Option<Open>,
    /// Whether an answer is waited for.
    reads: bool,
    permit: Option<OwnedSemaphorePermit>,
}

/// While this is there, no read begins, and those that had begun have their answers.
pub(super) struct Paused {
    readers: Arc<Readers>,
    _all: OwnedSemaphorePermit,
}

impl Paused {
    /// Waits until what is left of an answer that was not wanted to its end has ended on its connection's own thread.
    pub(super) async fn nobody_reads(&self) {
        let idle = mem::take(&mut *self.readers.idle());
        let pinged = idle.into_iter().map(async |mut open| {
            // Its answer comes behind that.
            open.connection.ping().await.map(|()| open).ok()
        });
        let pinged = join_all(pinged).await;
        self.readers.idle().extend(pinged.into_iter().flatten());
    }
}

impl Drop for Reader<'_> {
    fn drop(&mut self) {
        match self.connection.take() {
            Some(open) if self.reads => *open.held.lock().unwrap_or_else(PoisonError::into_inner) = self.permit.take(),
            Some(open) => self.readers.idle().push(open),
            None => {}
        }
    }
}

impl Open {
    async fn with(options: &SqliteConnectOptions) -> Result<Self, SqliteError> {
        let (mut connection, wanted, held) = (options.connect().await?, Arc::new(()), Arc::default());
        let (still_wanted, until_closed) = (Arc::downgrade(&wanted), Arc::clone(&held));
        let handler = move || {
            let _held = &until_closed;
            still_wanted.strong_count() > 0
        };
        connection.lock_handle().await?.set_progress_handler(STEPS, handler);
        Ok(Self { connection, _wanted: wanted, held })
    }
}

impl Readers {
    pub(super) async fn open(options: SqliteConnectOptions) -> Result<Self, SqliteError> {
        let mut idle = Vec::new();
        for _ in 0..READERS {
            idle.push(Open::with(&options).await?);
        }
        Ok(Self { options, free: Arc::new(Semaphore::new(READERS as usize)), idle: Mutex::new(idle) })
    }

    /// Waits for the reads under way, then closes all connections.
    pub(super) async fn close(self: Arc<Self>) {
        // None where the readers were closed before.
        let Some(paused) = self.clone().pause().await else { return };
        paused.nobody_reads().await;
        let idle = mem::take(&mut *self.idle());
        for open in idle {
            // The connection was for reading only; nothing can be lost with it.
            let _ = open.connection.close().await;
        }
        self.free.close();
    }

    /// Waits for the reads under way, and has new ones wait until what this gives is dropped. None once all is closed, when
    /// there are no reads.
    pub(super) async fn pause(self: Arc<Self>) -> Option<Paused> {
        let all = self.free.clone().acquire_many_owned(READERS).await.ok()?;
        Some(Paused { readers: self, _all: all })
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
            Err(error) => return Err(error.into()),
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
            // Nobody can say what state the connection is in.
            Some(error) => Err(error.into()),
        }
    }

    async fn reader(&self) -> Result<Reader<'_>, SqliteError> {
        let permit = self.free.clone().acquire_owned().await.map_err(|_| SqliteError::Closed)?;
        let connection = self.idle().pop();
        Ok(Reader { readers: self, connection, reads: false, permit: Some(permit) })
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
}
