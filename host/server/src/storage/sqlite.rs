//! Storage in one SQLite file: nothing to install, and every acknowledged write survives a crash.
//!
//! One thread writes and commits whatever has been asked for meanwhile in one go; a few read-only connections answer
//! questions beside it. What has been committed is seen by every read that begins after it.

mod once;
mod readers;
mod rows;
mod state;
mod waits;
mod writer;
mod writes;

#[cfg(test)]
mod tests;

use async_trait::async_trait;
use cofferdam_core::{
    context::StateSpace,
    event::Envelope,
    grant::Permissions,
    idempotency::{Creating, Creation, Earlier, Once},
    identity::{Identity, Operator, Role, Scope},
    ids::{Digest, PluginName, RunId, TierName, UserId},
    quota::{QuotaEdit, UserQuota},
    record::RecordChunk,
    run::{CancelRequest, RunEnd, RunSpec, RunView},
    storage::{
        ApiKey, EVENTS_PAGE_BYTES_MAX, FeedEntry, FeedPlace, History, MadeBy, PluginVersion, Result, RunBatch,
        RunQuery, StateEntry, StateRefused, StateWrite, Storage, StorageError, StoredQuotas, UnfinishedRun, Waits,
    },
    usage::{Day, UsageSum},
};
use jiff::Timestamp;
use once::Create;
use readers::Readers;
use sqlx::{
    ConnectOptions, Connection,
    migrate::{MigrateError, Migrator},
    sqlite::{SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqliteSynchronous},
};
use state::{DeleteState, SetState, StateKey};
use std::{error::Error, fs, io, path::Path, sync::Arc, time::Duration};
use tokio::sync::Semaphore;
pub(crate) use writer::Commits;
use writer::Writer;
use writes::Row;

/// The schema, from the first version to this host's, in the binary.
static MIGRATIONS: Migrator = sqlx::migrate!("./migrations");

/// How long a statement waits while another process holds the file. Then it fails, and the
/// one who asked may ask again.
const BUSY_WAIT: Duration = Duration::from_secs(5);

/// The pages that each connection keeps in memory, in KiB. The hot part of the tables is the runs under way, which
/// is far smaller; what is read besides comes from the system's cache.
const CACHE_KIB: u32 = 16 << 10;

/// What the file of the write-ahead log is cut to when it begins anew, in bytes. It is not made anew below that, because a file that
/// grows is slower to sync.
const WAL_FILE_BYTES_MAX: u64 = 16 << 20;

/// How many pages of runs are read at once. The other readers are for what is found at once.
const LISTS_AT_ONCE: usize = 2;

/// How many of a user's runs a list with a filter looks at before it lets other lists look: about 4 ms.
const LIST_STEP: u32 = 10_000;

/// How many prepared statements each connection keeps. More than there are, so that none is prepared twice.
const STATEMENTS_KEPT: usize = 64;

/// How many rows may be on their way from a connection to their reader. An event is up to 1 MiB, and each is held in
/// memory twice on this way.
const ROWS_READ_AHEAD: usize = 16;

/// A page of a user's runs, the youngest first, of which this holds.
macro_rules! list_of_runs {
    ($which:literal) => {
        concat!(
            "SELECT ",
            rows::view_columns!(),
            ", NULL FROM runs
            WHERE user = ?1 AND id < coalesce(?2, '~') AND id >= coalesce(?3, '') AND (?4 IS NULL OR status = ?4)
                AND (?5 IS NULL OR agent = ?5) AND (?6 IS NULL OR thread_id = ?6) AND ",
            $which,
            " ORDER BY id DESC LIMIT ?7"
        )
    };
}
#[cfg(test)]
use list_of_runs;

/// Why SQLite could not do it.
#[derive(Debug, thiserror::Error)]
pub enum SqliteError {
    /// The file could not be made.
    #[error("the database file cannot be made; give the host a directory that exists and that it may write to")]
    File(#[source] io::Error),
    /// The file is somebody else's.
    #[error(
        "the database cannot be opened for writing; give its file and its directory to the user that the host runs as"
    )]
    Access(#[source] sqlx::Error),
    /// Written by a newer Cofferdam.
    #[error(
        "the database has schema {found}, this host knows schemas up to {known}; start the Cofferdam that last used this database, or a newer one"
    )]
    NewerSchema {
        /// The schema of the database.
        found: i64,
        /// The newest schema of this host.
        known: i64,
    },
    /// The schema could not be brought up to date.
    #[error("the schema of the database cannot be brought up to date; restore the database from a backup")]
    Schema(#[source] MigrateError),
    /// There is no room.
    #[error("the disk that holds the database is full; free some space there and try again, the host need not restart")]
    Full(#[source] sqlx::Error),
    /// Reading, writing or syncing failed.
    #[error(
        "the disk that holds the database fails; see the system's log, and mend or replace it: the host need not restart, it goes on once the disk does"
    )]
    Disk(#[source] sqlx::Error),
    /// Somebody else holds the file.
    #[error("another process holds the database; end it and try again")]
    Busy(#[source] sqlx::Error),
    /// The file is no database, or is damaged.
    #[error("the file is not a sound database; restore it from a backup")]
    Damaged(#[source] sqlx::Error),
    /// A record that cannot be read.
    #[error("a stored record is not of the form that this host writes; restore the database from a backup")]
    Record(#[source] Box<dyn Error + Send + Sync>),
    /// A value that cannot be written.
    #[error("the value cannot be stored")]
    Value(#[source] Box<dyn Error + Send + Sync>),
    /// The writer's thread could not be started.
    #[error("the host cannot start one more thread; raise its limit of processes")]
    Thread(#[source] io::Error),
    /// The storage was closed, or its thread is gone.
    #[error("the storage has been closed; start the host again")]
    Closed,
    /// Anything else.
    #[error("the database refused a statement")]
    Sql(#[source] sqlx::Error),
}

impl From<sqlx::Error> for SqliteError {
    fn from(error: sqlx::Error) -> Self {
        // The low byte of SQLite's result codes is the kind, the rest its details: IOERR; FULL; BUSY, LOCKED; PERM, READONLY,
        // CANTOPEN, AUTH; CORRUPT, NOTADB.
        let code = error.as_database_error().and_then(|e| e.code()).and_then(|code| code.parse::<u32>().ok());
        match code.map(|code| code & 0xff) {
            Some(10) => Self::Disk(error),
            Some(13) => Self::Full(error),
            Some(5 | 6) => Self::Busy(error),
            Some(3 | 8 | 14 | 23) => Self::Access(error),
            Some(11 | 26) => Self::Damaged(error),
            _ => Self::Sql(error),
        }
    }
}

/// Says what was being done when it failed.
fn while_doing<E: Error + Send + Sync + 'static>(doing: &'static str) -> impl FnOnce(E) -> StorageError {
    move |error| StorageError { doing, source: Box::new(error) }
}

/// Storage in one SQLite file.
pub struct SqliteStorage {
    writer: Writer,
    readers: Arc<Readers>,
    /// Pages of runs, each of which may look at all runs of a user.
    lists: Semaphore,
}

impl SqliteStorage {
    /// Opens the database in a file, and makes both if there is none. Only the owner may read the file. One process at a
    /// time.
    ///
    /// # Errors
    /// When the file cannot be made or is not a sound database, or was last used by a newer Cofferdam.
    pub async fn open(path: &Path) -> Result<Self> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            // The writer moves the write-ahead log, at times when nobody reads.
            .pragma("wal_autocheckpoint", "0")
            .pragma("journal_size_limit", WAL_FILE_BYTES_MAX.to_string());
        Self::open_with(path, options).await.map_err(while_doing("open the database"))
    }

    async fn open_with(path: &Path, options: SqliteConnectOptions) -> Result<Self, SqliteError> {
        create_private(path).map_err(SqliteError::File)?;
        let options = options
            .foreign_keys(true)
            .busy_timeout(BUSY_WAIT)
            .pragma("temp_store", "MEMORY")
            .pragma("cache_size", format!("-{CACHE_KIB}"))
            .statement_cache_capacity(STATEMENTS_KEPT)
            .row_buffer_size(ROWS_READ_AHEAD)
            .disable_statement_logging();
        let mut connection = connect_to_write(&options).await?;
        if let Err(error) = update_schema(&mut connection).await {
            // The error to tell is the first.
            let _ = connection.close().await;
            return Err(error);
        }
        // What the last host was removing when it ended.
        let rest = sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM going)").fetch_one(&mut connection).await?;
        let readers = Arc::new(Readers::open(options.clone().read_only(true)).await?);
        Ok(Self {
            writer: Writer::start(options, connection, readers.clone(), rest)?,
            readers,
            lists: Semaphore::new(LISTS_AT_ONCE),
        })
    }

    /// How many commits there were since it was opened, failed ones included.
    #[must_use]
    pub fn commits(&self) -> u64 {
        self.writer.commits().latency.counts().count()
    }

    /// What was committed since it was opened.
    pub(crate) fn committed(&self) -> &Arc<Commits> {
        self.writer.commits()
    }

    /// Waits for the writes that were asked for, then closes the file. What is asked for later fails. What is being removed in
    /// pieces goes on with the next start.
    pub async fn close(&self) {
        // The last connection to close moves the write-ahead log into the database, and only the writer may write.
        self.readers.clone().close().await;
        self.writer.close().await;
    }

    async fn write(&self, doing: &'static str, rows: Vec<Row>) -> Result<()> {
        self.writer.write(rows).await.map_err(while_doing(doing))
    }

    /// Removes runs. What is large is hidden first and goes in pieces; it is answered when all of it is gone.
    async fn remove(&self, which: Row) -> Result<()> {
        self.writer.remove(which).await.map_err(while_doing("remove old runs"))
    }

    /// Creates something, once if a record is given.
    async fn create(
        &self,
        doing: &'static str,
        creating: Creating,
        id: &str,
        rows: Vec<Row>,
        once: Option<(&Scope, &Once)>,
    ) -> Result<Creation> {
        let Some((scope, once)) = once else {
            return self.write(doing, rows).await.map(|()| Creation::Made);
        };
        let user = scope.user().clone();
        let create = Create { user, creating, once: once.clone(), id: id.to_owned(), rows };
        self.writer.create(create).await.map_err(while_doing(doing))
    }
}

/// A connection to write with, on a file whose write-ahead log has been moved into the database. Nobody may read meanwhile.
///
/// A sync that fails leaves files of which nobody can say how much is on the disk: the system may have given up on it and
/// show it all the same, and a later sync does not try it again. Whatever is appended to such a log is lost with it when the
/// power goes. So nothing is: what can be read of it is written anew, into the database, and the log begins again. This
/// also takes away what a write that failed has left there, which a crash would otherwise bring back.
///
/// All of the log is written anew, because all of it is moved together: what SQLite takes for moved already is on the disk.
/// Not so where another process reads the file while the log is moved.
async fn connect_to_write(options: &SqliteConnectOptions) -> Result<SqliteConnection, SqliteError> {
    let mut connection = options.connect().await?;
    let settled = sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)").fetch_one(&mut connection).await;
    match settled {
        Ok(_) => Ok(connection),
        Err(error) => {
            // The error to tell is the first.
            let _ = connection.close().await;
            Err(error.into())
        }
    }
}

/// Makes the file, for its owner only. SQLite gives its other files the same mode.
fn create_private(path: &Path) -> io::Result<()> {
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    match options.open(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

async fn update_schema(connection: &mut SqliteConnection) -> Result<(), SqliteError> {
    let known = MIGRATIONS.iter().map(|migration| migration.version).max().unwrap_or(0);
    match MIGRATIONS.run(&mut *connection).await {
        Ok(()) => Ok(()),
        Err(MigrateError::VersionMissing(first)) if first > known => {
            // The error names the first step that this host does not know; the schema is the last.
            let newest = sqlx::query_scalar("SELECT max(version) FROM _sqlx_migrations").fetch_one(connection).await;
            Err(SqliteError::NewerSchema { found: newest.unwrap_or(first), known })
        }
        Err(MigrateError::Execute(error)) => Err(error.into()),
        Err(other) => Err(SqliteError::Schema(other)),
    }
}

/// The rows of a batch, encoded by the caller, so that the writer does not have to.
fn batch_rows(scope: &Scope, batch: &mut RunBatch) -> Result<Vec<Row>, SqliteError> {
    let run = batch.run.to_string();
    let mut rows = Row::events(scope, &run, &batch.events)?;
    rows.extend(batch.chunks.drain(..).map(|chunk| Row::record(scope, &run, chunk)));
    rows.extend(batch.attempt.map(|attempt| Row::attempt(scope, &run, attempt)));
    if let Some(wait) = &batch.wait {
        rows.push(Row::wait(scope, &run, wait)?);
    }
    // Behind all that it counts as having come to.
    rows.extend(batch.start.map(|start| Row::start(scope, &run, start)));
    Ok(rows)
}

#[async_trait]
impl Storage for SqliteStorage {
    async fn insert_run(&self, scope: &Scope, spec: &RunSpec, once: Option<&Once>) -> Result<Creation> {
        let (id, once) = (spec.id.to_string(), once.map(|once| (scope, once)));
        let more = [Row::priority(scope, spec), Row::durable(scope, spec), Row::retries(scope, spec)];
        let rows = std::iter::once(Row::run(scope, spec)).chain(more.into_iter().flatten()).collect();
        self.create("keep a new run", Creating::Run, &id, rows, once).await
    }

    async fn earlier(&self, scope: &Scope, creating: Creating, key: Digest) -> Result<Option<Earlier>> {
        let query = sqlx::query(
            "SELECT made, body FROM idempotency WHERE user = ?1 AND creating = ?2 AND key = ?3 AND expires_at > ?4",
        );
        let query = query
            .bind(scope.user().as_str().to_owned())
            .bind(creating.as_str())
            .bind(key.to_string())
            .bind(Timestamp::now().as_microsecond());
        let earlier = self.readers.first(query, |columns| columns.earlier_if_there()).await;
        Ok(earlier.map_err(while_doing("look up an idempotency key"))?.flatten())
    }

    async fn request_cancel(&self, scope: &Scope, id: RunId, request: &CancelRequest) -> Result<()> {
        self.write("keep who cancelled a run", vec![Row::cancel(scope, id, request)]).await
    }

    async fn append(&self, scope: &Scope, mut batch: RunBatch) -> Result<()> {
        let doing = "add to the log of a run";
        // That it runs stands before that it waits.
        let progress = (batch.started_at.is_some() || batch.effects).then(|| Row::progress(scope, &batch));
        let mut rows: Vec<_> = progress.into_iter().collect();
        rows.extend(batch_rows(scope, &mut batch).map_err(while_doing(doing))?);
        self.write(doing, rows).await
    }

    async fn finish(&self, scope: &Scope, mut batch: RunBatch, end: RunEnd) -> Result<()> {
        let doing = "keep the end of a run";
        let mut rows = batch_rows(scope, &mut batch).map_err(while_doing(doing))?;
        rows.push(Row::end(scope, &batch, &end));
        rows.extend(Row::children(scope, batch.run, end.children));
        rows.push(Row::usage(scope, batch.run, &end.usage));
        self.write(doing, rows).await
    }

    async fn run(&self, scope: &Scope, id: RunId) -> Result<Option<RunView>> {
        let query =
            sqlx::query(concat!("SELECT ", rows::view_columns!(), ", output FROM runs WHERE user = ?1 AND id = ?2"));
        let query = query.bind(scope.user().as_str().to_owned()).bind(id.to_string());
        self.readers.first(query, |columns| columns.run_view()).await.map_err(while_doing("read a run"))
    }

    async fn run_spec(&self, scope: &Scope, id: RunId) -> Result<Option<RunSpec>> {
        let query = sqlx::query(
            "SELECT id, user, agent, digest, request_id, thread_id, session_id, parent_id,
                limit_fuel, limit_memory_bytes, limit_deadline_ms, priority, durable,
                (SELECT json_array(attempts, backoff_ms, attempt) FROM retries WHERE run = number), created_at, metadata,
                input
            FROM runs WHERE user = ?1 AND id = ?2",
        );
        let query = query.bind(scope.user().as_str().to_owned()).bind(id.to_string());
        self.readers.first(query, |columns| columns.run_spec()).await.map_err(while_doing("read a run"))
    }

    async fn runs(&self, scope: &Scope, query: &RunQuery) -> Result<Vec<RunView>> {
        let user = scope.user().as_str();
        let unfinished = query.status.is_some_and(|status| !status.has_ended());
        let everything = query.status.is_none() && query.agent.is_none() && query.thread.is_none();
        let (mut before, mut found) = (query.before.map(|id| id.to_string()), Vec::new());
        loop {
            // It is never closed. Whoever has waited for longest is next: between two steps, others have their turn.
            let _page = self.lists.acquire().await;
            // Ids have one length and one case, so that the order of their texts is their order in time. `~` is after
            // every id, and the empty text before.
            let end = sqlx::query(
                "SELECT id FROM runs WHERE user = ?1 AND id < coalesce(?2, '~') ORDER BY id DESC LIMIT 1 OFFSET ?3",
            );
            let end = end.bind(user.to_owned()).bind(before.clone()).bind(LIST_STEP - 1);
            let end = match everything || unfinished {
                true => Ok(None),
                false => self.readers.first(end, |columns| columns.take::<String>()).await,
            };
            let end = end.map_err(while_doing("list runs"))?;
            // Those that have not ended are found in an index that has no others.
            let sql = if unfinished { list_of_runs!("finished_at IS NULL") } else { list_of_runs!("TRUE") };
            let sql = sqlx::query(sql)
                .bind(user.to_owned())
                .bind(before)
                .bind(end.clone())
                .bind(query.status.map(|status| status.as_str()))
                .bind(query.agent.as_ref().map(|agent| agent.as_str().to_owned()))
                .bind(query.thread.as_ref().map(|thread| thread.as_str().to_owned()))
                .bind(i64::from(query.limit) - i64::try_from(found.len()).unwrap_or(i64::MAX));
            found.extend(self.readers.all(sql, |columns| columns.run_view()).await.map_err(while_doing("list runs"))?);
            if end.is_none() || found.len() >= query.limit as usize {
                return Ok(found);
            }
            before = end;
        }
    }

    async fn events(&self, scope: &Scope, id: RunId, after: u64, limit: u32) -> Result<Vec<Envelope>> {
        let query = sqlx::query(
            "SELECT seq, at, payload FROM events
            WHERE run = (SELECT number FROM runs WHERE user = ?1 AND id = ?2) AND seq > ?3 ORDER BY seq LIMIT ?4",
        );
        let query = query
            .bind(scope.user().as_str().to_owned())
            .bind(id.to_string())
            .bind(i64::try_from(after).unwrap_or(i64::MAX))
            .bind(i64::from(limit));
        let mut bytes = 0;
        let page = self.readers.all_while(query, |columns| {
            let envelope = columns.envelope(id)?;
            let first = bytes == 0;
            bytes += envelope.event.bytes();
            Ok(Some(envelope).filter(|_| first || bytes <= EVENTS_PAGE_BYTES_MAX))
        });
        page.await.map_err(while_doing("read the log of a run"))
    }

    async fn record(&self, scope: &Scope, id: RunId, after: u64) -> Result<Vec<RecordChunk>> {
        let query = sqlx::query(
            "SELECT chunk, payload FROM records
            WHERE run = (SELECT number FROM runs WHERE user = ?1 AND id = ?2) AND chunk > ?3 ORDER BY chunk",
        );
        let query = query
            .bind(scope.user().as_str().to_owned())
            .bind(id.to_string())
            .bind(i64::try_from(after).unwrap_or(i64::MAX));
        let mut bytes = 0;
        let page = self.readers.all_while(query, |columns| {
            let chunk = columns.record_chunk()?;
            let first = bytes == 0;
            bytes += chunk.bytes.len();
            Ok(Some(chunk).filter(|_| first || bytes <= EVENTS_PAGE_BYTES_MAX))
        });
        page.await.map_err(while_doing("read the record of a run"))
    }

    async fn log_end(&self, scope: &Scope, id: RunId) -> Result<u64> {
        let query = sqlx::query(
            "SELECT coalesce(max(seq), 0) FROM events WHERE run = (SELECT number FROM runs WHERE user = ?1 AND id = ?2)",
        );
        let query = query.bind(scope.user().as_str().to_owned()).bind(id.to_string());
        let last = self.readers.first(query, |columns| columns.unsigned()).await;
        Ok(last.map_err(while_doing("read the log of a run"))?.unwrap_or(0))
    }

    async fn feed(&self, scope: &Scope, after: FeedPlace, limit: u32) -> Result<Vec<FeedEntry>> {
        // The order of an index, and then that of each run's log: nothing has to be sorted.
        let query = sqlx::query(
            "SELECT feed.position, events.seq = feed.seq_to, runs.id, events.seq, events.at, events.payload
            FROM feed CROSS JOIN runs ON runs.number = feed.run AND runs.user = feed.user
            CROSS JOIN events ON events.run = feed.run AND events.seq BETWEEN feed.seq_from AND feed.seq_to
            WHERE feed.user = ?1 AND feed.position >= ?2 AND (feed.position > ?2 OR events.seq > ?3)
            ORDER BY feed.position, events.seq LIMIT ?4",
        );
        let query = query
            .bind(scope.user().as_str().to_owned())
            .bind(i64::try_from(after.position).unwrap_or(i64::MAX))
            .bind(i64::try_from(after.seq).unwrap_or(i64::MAX))
            .bind(i64::from(limit));
        let mut bytes = 0;
        let page = self.readers.all_while(query, |columns| {
            let entry = columns.feed_entry()?;
            let first = bytes == 0;
            bytes += entry.envelope.event.bytes();
            Ok(Some(entry).filter(|_| first || bytes <= EVENTS_PAGE_BYTES_MAX))
        });
        page.await.map_err(while_doing("read the feed of a user"))
    }

    async fn feed_end(&self, scope: &Scope) -> Result<FeedPlace> {
        // What was removed had places, too: a cursor of then is not one of the future.
        let query = sqlx::query(
            "SELECT position, seq_to FROM (
                SELECT position, seq_to FROM feed WHERE user = ?1 ORDER BY position DESC LIMIT 1
            )
            UNION ALL SELECT position, 9223372036854775807 FROM feed_removed WHERE user = ?1
            ORDER BY position DESC LIMIT 1",
        );
        let query = query.bind(scope.user().as_str().to_owned());
        let last = self
            .readers
            .first(query, |columns| Ok(FeedPlace { position: columns.unsigned()?, seq: columns.unsigned()? }));
        Ok(last.await.map_err(while_doing("read the feed of a user"))?.unwrap_or_default())
    }

    fn waits(&self) -> &dyn Waits {
        self
    }

    async fn unfinished_runs(&self, _operator: Operator) -> Result<Vec<UnfinishedRun>> {
        let query = sqlx::query(concat!(
            "SELECT ",
            rows::unfinished_columns!(),
            " FROM runs LEFT JOIN cancels ON cancels.run = runs.number
                WHERE finished_at IS NULL AND status <> 'waiting' ORDER BY id",
        ));
        self.readers.all(query, |columns| columns.unfinished_run()).await.map_err(while_doing("list unfinished runs"))
    }

    async fn history(&self, scope: &Scope) -> Result<History> {
        let query = sqlx::query("SELECT runs, bytes FROM history_users WHERE user = ?1");
        let query = query.bind(scope.user().as_str().to_owned());
        let found =
            self.readers.first(query, |columns| Ok(History { runs: columns.unsigned()?, bytes: columns.unsigned()? }));
        Ok(found.await.map_err(while_doing("read what a user's runs take"))?.unwrap_or_default())
    }

    async fn stays_at_least(&self, scope: &Scope, bytes: u64) -> Result<bool> {
        if self.history(scope).await?.bytes < bytes {
            return Ok(false);
        }
        // There may be many below runs that have not ended. It is never closed.
        let _page = self.lists.acquire().await;
        let query = sqlx::query(
            "WITH RECURSIVE below (id, number) AS (
                SELECT id, number FROM runs WHERE user = ?1 AND finished_at IS NULL
                UNION
                SELECT child.id, child.number FROM below JOIN runs AS child ON child.parent_id = below.id
                WHERE child.user = ?1
            )
            SELECT coalesce(sum(bytes), 0) FROM below JOIN history ON history.user = ?1 AND history.run = below.number",
        );
        let stays = self.readers.first(query.bind(scope.user().as_str().to_owned()), |columns| columns.unsigned());
        Ok(stays.await.map_err(while_doing("read what a user's runs take that stay"))?.unwrap_or_default() >= bytes)
    }

    async fn oldest_finishes(
        &self,
        _operator: Operator,
        after: Option<&UserId>,
        limit: u32,
    ) -> Result<Vec<(UserId, Timestamp)>> {
        let query = sqlx::query(
            "SELECT user, (SELECT finished_at FROM history WHERE history.user = history_users.user ORDER BY run LIMIT 1)
            FROM history_users WHERE user > ?1 AND runs > 0 ORDER BY user LIMIT ?2",
        );
        let query = query.bind(after.map_or("", UserId::as_str).to_owned()).bind(limit);
        let oldest = self.readers.all(query, |columns| Ok((columns.parsed::<UserId>()?, columns.time_if_there()?)));
        let oldest = oldest.await.map_err(while_doing("read when runs finished"))?;
        Ok(oldest.into_iter().filter_map(|(user, at)| Some((user, at?))).collect())
    }

    async fn prune(&self, _operator: Operator, user: &UserId, keep: History) -> Result<()> {
        self.remove(Row::prune(user, keep)).await
    }

    async fn prune_before(&self, _operator: Operator, user: &UserId, before: Timestamp) -> Result<()> {
        self.remove(Row::prune_age(user, before)).await
    }

    async fn usage(&self, scope: &Scope, first: Day, last: Day) -> Result<UsageSum> {
        let doing = "read what a user's runs took";
        let days = |sql: &'static str| {
            sqlx::query(sql).bind(scope.user().as_str().to_owned()).bind(first.number()).bind(last.number())
        };
        let sums = days(
            "SELECT runs, fuel, active_ms, memory_byte_seconds, events, tool_calls, host_calls FROM usage_days
            WHERE user = ?1 AND day BETWEEN ?2 AND ?3",
        );
        let ends = days("SELECT stop_reason, runs FROM usage_ends WHERE user = ?1 AND day BETWEEN ?2 AND ?3");
        let mut sum = UsageSum::default();
        let sums = self.readers.all(sums, |columns| columns.usage()).await.map_err(while_doing(doing))?;
        let ends = self.readers.all(ends, |columns| columns.ends()).await.map_err(while_doing(doing))?;
        for part in sums.iter().chain(&ends) {
            sum.add(part);
        }
        Ok(sum)
    }

    async fn oldest_usage(&self, _operator: Operator) -> Result<Option<Day>> {
        let query = sqlx::query("SELECT day FROM usage_days ORDER BY day LIMIT 1");
        let day = self.readers.first(query, |columns| Ok(Day::from_number(columns.take()?))).await;
        day.map_err(while_doing("read of which day usage is kept"))
    }

    async fn prune_usage(&self, _operator: Operator, before: Day) -> Result<()> {
        self.write("forget the usage of old days", vec![Row::usage_sweep(before)]).await
    }

    async fn state_bytes(&self, scope: &Scope) -> Result<u64> {
        let query = sqlx::query("SELECT bytes FROM state_users WHERE user = ?1").bind(scope.user().as_str().to_owned());
        let bytes = self.readers.first(query, |columns| columns.unsigned()).await;
        Ok(bytes.map_err(while_doing("read what a user's state takes"))?.unwrap_or(0))
    }

    async fn state_get(&self, space: &StateSpace, key: &str) -> Result<Option<StateEntry>> {
        let query = sqlx::query(
            "SELECT version, value FROM state WHERE user = ?1 AND plugin = ?2 AND thread = ?3 AND key = ?4
                AND (expires_at IS NULL OR expires_at > ?5)",
        );
        let query = query
            .bind(space.scope().user().as_str().to_owned())
            .bind(space.plugin().as_str().to_owned())
            .bind(space.thread().to_owned())
            .bind(key.to_owned())
            .bind(Timestamp::now().as_microsecond());
        self.readers.first(query, |columns| columns.state_entry()).await.map_err(while_doing("read a state key"))
    }

    async fn state_set(&self, space: &StateSpace, write: StateWrite) -> Result<u64, StateRefused> {
        let set = SetState {
            key: StateKey::new(space, write.key),
            value: write.value,
            expires_at: write.expires_at,
            expected: write.expected,
            user_bytes_max: write.user_bytes_max,
            by: write.by,
        };
        self.writer.set_state(set).await.map_err(while_doing("set a state key"))?
    }

    async fn state_delete(&self, space: &StateSpace, key: &str, by: Option<MadeBy>) -> Result<bool> {
        let delete = DeleteState { key: StateKey::new(space, key.to_owned()), by };
        self.writer.delete_state(delete).await.map_err(while_doing("remove a state key"))
    }

    async fn state_keys(
        &self,
        space: &StateSpace,
        prefix: &str,
        after: Option<&str>,
        limit: u32,
    ) -> Result<Vec<String>> {
        // Keys with the prefix stand together, from the prefix on; the first other key ends them.
        let query = sqlx::query(
            "SELECT key FROM state WHERE user = ?1 AND plugin = ?2 AND thread = ?3 AND key >= ?4
                AND (?5 IS NULL OR key > ?5) AND (expires_at IS NULL OR expires_at > ?6)
            ORDER BY key LIMIT ?7",
        );
        let query = query
            .bind(space.scope().user().as_str().to_owned())
            .bind(space.plugin().as_str().to_owned())
            .bind(space.thread().to_owned())
            .bind(prefix.max(after.unwrap_or("")).to_owned())
            .bind(after.map(str::to_owned))
            .bind(Timestamp::now().as_microsecond())
            .bind(i64::from(limit));
        let keys = self
            .readers
            .all_while(query, |columns| Ok(Some(columns.take::<String>()?).filter(|key| key.starts_with(prefix))));
        keys.await.map_err(while_doing("list state keys"))
    }

    async fn put_plugin(&self, _operator: Operator, plugin: &PluginVersion) -> Result<()> {
        let doing = "keep a plugin";
        let row = Row::plugin(plugin).map_err(while_doing(doing))?;
        self.write(doing, vec![row]).await
    }

    async fn plugins(&self, _operator: Operator) -> Result<Vec<PluginVersion>> {
        let query = sqlx::query("SELECT document FROM plugins ORDER BY position");
        self.readers.all(query, |columns| columns.document()).await.map_err(while_doing("list plugins"))
    }

    async fn grant(&self, scope: &Scope, plugin: &PluginName) -> Result<Option<Permissions>> {
        let query = sqlx::query("SELECT document FROM grants WHERE user = ?1 AND plugin = ?2");
        let query = query.bind(scope.user().as_str().to_owned()).bind(plugin.as_str().to_owned());
        self.readers.first(query, |columns| columns.document()).await.map_err(while_doing("read a grant"))
    }

    async fn put_grant(
        &self,
        _operator: Operator,
        user: &UserId,
        plugin: &PluginName,
        grant: &Permissions,
    ) -> Result<()> {
        let doing = "keep a grant";
        let row = Row::grant(user, plugin, grant).map_err(while_doing(doing))?;
        self.write(doing, vec![row]).await
    }

    async fn quotas(&self, _operator: Operator) -> Result<StoredQuotas> {
        let doing = "read quotas";
        let query = sqlx::query("SELECT name, document FROM tiers ORDER BY name");
        let tiers = self
            .readers
            .all(query, |columns| Ok((columns.parsed::<TierName>()?, QuotaEdit::stored(&columns.document()?))));
        let tiers = tiers.await.map_err(while_doing(doing))?;
        let query = sqlx::query("SELECT user, document FROM user_quotas ORDER BY user");
        let users = self
            .readers
            .all(query, |columns| Ok((columns.parsed::<UserId>()?, UserQuota::stored(&columns.document()?))));
        Ok((tiers, users.await.map_err(while_doing(doing))?))
    }

    async fn put_tier(&self, _operator: Operator, tier: &TierName, edit: &QuotaEdit) -> Result<()> {
        let doing = "keep a tier";
        let row = Row::tier(tier, edit).map_err(while_doing(doing))?;
        self.write(doing, vec![row]).await
    }

    async fn put_user_quota(&self, _operator: Operator, user: &UserId, quota: &UserQuota) -> Result<()> {
        let doing = "keep a user's quota";
        let row = Row::user_quota(user, quota).map_err(while_doing(doing))?;
        self.write(doing, vec![row]).await
    }

    async fn insert_key(&self, _operator: Operator, key: &ApiKey, once: Option<(&Scope, &Once)>) -> Result<Creation> {
        self.create("keep an API key", Creating::ApiKey, key.id.as_str(), vec![Row::key(key)], once).await
    }

    async fn keys_count(&self, _operator: Operator) -> Result<u64> {
        let query = sqlx::query("SELECT count(*) FROM keys");
        let count = self.readers.first(query, |columns| columns.unsigned()).await;
        Ok(count.map_err(while_doing("count the API keys"))?.unwrap_or(0))
    }

    async fn authenticate(&self, secret_digest: Digest) -> Result<Option<Identity>> {
        let query =
            sqlx::query("SELECT id, user, role FROM keys WHERE secret_digest = ?1").bind(secret_digest.to_string());
        self.readers.first(query, |columns| columns.identity()).await.map_err(while_doing("look up an API key"))
    }
}

/// The word for a role in storage.
const fn role_word(role: Role) -> &'static str {
    match role {
        Role::User => "user",
        Role::Operator => "operator",
    }
}
