//! The one writer: a thread that commits together what many callers asked for.
//!
//! The price of a write is the disk's answer to a commit, and the way to the connection's own thread and back, which
//! each statement goes once. Both are paid once for all that was waiting: everything that is written is a row, and a
//! commit is one `INSERT` of rows into the view `writes` (see the schema). The thread is not one of those that execute
//! guests, so that a busy guest does not hold up storage.

use super::{
    SqliteError, connect_to_write,
    once::Create,
    readers::{Paused, Readers},
    state::{DeleteState, SetState},
    writes::{ROW_COLUMNS, Row},
};
use cofferdam_core::{idempotency::Creation, ids::UserId, latency::Latencies, storage::StateRefused};
use futures_util::{FutureExt as _, future::BoxFuture};
use sqlx::{
    AssertSqlSafe, Connection as _, Executor as _, SqlSafeStr as _, SqlStr,
    sqlite::{SqliteArguments, SqliteConnectOptions, SqliteConnection},
};
use std::{
    collections::{HashMap, VecDeque},
    future::pending,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Instant,
};
use tokio::sync::{mpsc, oneshot};

#[cfg(test)]
mod tests;

/// How many writes wait for the writer; whoever asks for one more waits for room. The callers hold what they want to
/// write in any case, so this bounds how long a write waits, not the memory.
const WRITES_QUEUED_MAX: usize = 1024;

/// How many writes share a commit. Many more would make the first of them wait for the last.
const COMMIT_WRITES_MAX: usize = 128;

/// How many bytes share a commit, about: a millisecond or two, which is what a small write waits for the others. A single
/// write may be larger, and is then by itself.
const COMMIT_BYTES_MAX: usize = 64 << 10;

/// The largest write that is small, in bytes. These go first and by themselves, so that one user's floods of events and
/// records do not stand before everybody's next run.
const SMALL_BYTES_MAX: usize = 8 << 10;

/// How many commits a write lets others go first.
const PASSED_OVER_MAX: u32 = 8;

/// How many pages the write-ahead log grows to before they are moved into the database although somebody waits (4 MiB).
/// Every commit that comes meanwhile waits for it, 4 to 8 ms; with half as many, 16 users had up to a tenth fewer small runs a
/// second.
const WAL_PAGES: usize = 1024;

/// How many are moved when nobody waits (1 MiB). What comes meanwhile waits a millisecond or two.
const WAL_PAGES_IDLE: usize = WAL_PAGES / 4;

/// After how many commits the writer looks how long the log is: a few microseconds, and a commit is a few pages mostly.
const COMMITS_UNTIL_LOOK: u32 = 8;

/// How many rows an `INSERT` takes. Those that are not used are null, so a few sizes do, each prepared once.
const INSERT_ROWS: [usize; 9] = [1, 2, 4, 8, 16, 32, 64, 128, COMMIT_ROWS_MAX];

/// How many rows share a commit. A single write may have more; then it takes more than one `INSERT`.
const COMMIT_ROWS_MAX: usize = 256;

/// The way to the writer. The thread ends when this is dropped.
pub(super) struct Writer {
    queue: mpsc::Sender<Write>,
    commits: Arc<Commits>,
}

/// What was committed since the start.
#[derive(Debug, Default)]
pub(crate) struct Commits {
    /// How long commits took, failed ones included.
    pub latency: Latencies,
    /// How many failed.
    pub failed: AtomicU64,
}

/// What somebody wants written, and who waits for it.
struct Write {
    bytes: usize,
    change: Change,
    /// Commits since it came in which others were written before it.
    passed_over: u32,
}

enum Change {
    Rows(Vec<Row>, Pending<()>),
    Create(Box<Create>, Pending<Creation>),
    /// Runs to remove, or a piece of those that are being removed.
    Remove(Option<Row>, Pending<()>),
    SetState(SetState, Pending<Result<u64, StateRefused>>),
    DeleteState(DeleteState, Pending<bool>),
    /// Nothing more will be asked for; the answer comes when the file is closed.
    Close(oneshot::Sender<()>),
}

type Reply<T> = Result<T, Arc<SqliteError>>;

/// Somebody who waits, and what to tell them once it is durable. They may have gone away; the write happens anyway.
struct Pending<T> {
    outcome: Option<T>,
    reply: oneshot::Sender<Reply<T>>,
}

impl Pending<()> {
    /// For what is to be done though nobody waits for it.
    fn of_nobody() -> Self {
        Self { outcome: Some(()), reply: oneshot::channel().0 }
    }
}

impl<T> Pending<T> {
    fn answer<C>(self, committed: &Reply<C>) {
        let answer = match (committed, self.outcome) {
            (Ok(_), Some(outcome)) => Ok(outcome),
            (Ok(_), None) => Err(Arc::new(SqliteError::Closed)),
            (Err(error), _) => Err(error.clone()),
        };
        // Nobody waits any more: that is theirs to decide.
        let _ = self.reply.send(answer);
    }
}

impl Writer {
    /// Starts the thread with its connection. With a rest, something is being removed since the last start, and goes on.
    pub(super) fn start(
        options: SqliteConnectOptions,
        connection: SqliteConnection,
        readers: Arc<Readers>,
        rest: bool,
    ) -> Result<Self, SqliteError> {
        let runtime = tokio::runtime::Builder::new_current_thread().build().map_err(SqliteError::Thread)?;
        let (sender, queue) = mpsc::channel(WRITES_QUEUED_MAX);
        let commits = Arc::<Commits>::default();
        let pause = Pause { readers, asked: None };
        let inserts = Inserts::prepare();
        let file = File {
            options,
            connection: Some(connection),
            pause,
            inserts,
            commits: commits.clone(),
            wal_pages: 0,
            until_look: 0,
        };
        let waiting = rest.then(|| Write::rest(Pending::of_nobody())).into_iter().collect();
        thread::Builder::new()
            .name("storage-writer".into())
            .spawn(move || runtime.block_on(write_all(file, queue, waiting)))
            .map_err(SqliteError::Thread)?;
        Ok(Self { queue: sender, commits })
    }

    /// What was committed.
    pub(super) const fn commits(&self) -> &Arc<Commits> {
        &self.commits
    }

    /// Writes these rows, all or none.
    pub(super) async fn write(&self, rows: Vec<Row>) -> Reply<()> {
        let bytes = rows.iter().map(Row::bytes).sum();
        self.ask(bytes, |pending| Change::Rows(rows, Pending { outcome: Some(()), ..pending })).await
    }

    /// Writes something that is to be created once, unless it was.
    pub(super) async fn create(&self, create: Create) -> Reply<Creation> {
        let bytes = create.rows.iter().map(Row::bytes).sum();
        self.ask(bytes, |pending| Change::Create(Box::new(create), pending)).await
    }

    /// Removes runs, large ones in pieces between which others write. Answers when nothing is left of any that is being
    /// removed.
    pub(super) async fn remove(&self, which: Row) -> Reply<()> {
        self.ask(which.bytes(), |pending| Change::Remove(Some(which), Pending { outcome: Some(()), ..pending })).await
    }

    /// Sets a state key under its conditions.
    pub(super) async fn set_state(&self, set: SetState) -> Reply<Result<u64, StateRefused>> {
        self.ask(set.value.len(), |pending| Change::SetState(set, pending)).await
    }

    /// Removes a state key. Says whether it was there.
    pub(super) async fn delete_state(&self, key: DeleteState) -> Reply<bool> {
        self.ask(0, |pending| Change::DeleteState(key, pending)).await
    }

    /// Waits until all that was asked for is written and the file is closed.
    pub(super) async fn close(&self) {
        let (reply, closed) = oneshot::channel();
        if self.queue.send(Write { bytes: 0, change: Change::Close(reply), passed_over: 0 }).await.is_ok() {
            // An error means that the thread has ended, and with it the connection.
            let _ = closed.await;
        }
    }

    async fn ask<T>(&self, bytes: usize, change: impl FnOnce(Pending<T>) -> Change) -> Reply<T> {
        let closed = || Arc::new(SqliteError::Closed);
        let (reply, answer) = oneshot::channel();
        let write = Write { bytes, change: change(Pending { outcome: None, reply }), passed_over: 0 };
        self.queue.send(write).await.map_err(|_| closed())?;
        answer.await.map_err(|_| closed())?
    }
}

/// Writes until there is nobody left to ask for it.
async fn write_all(mut file: File, mut queue: mpsc::Receiver<Write>, mut waiting: VecDeque<Write>) {
    let mut closed = None;
    // What waited too long goes first in every other commit: much of it may have come together.
    let mut overdue_first = true;
    // Something may be left of what was to be removed, and nobody asks for it any more.
    let mut rest_failed = false;
    loop {
        if waiting.is_empty() {
            tokio::select! {
                biased;
                write = queue.recv() => match write {
                    Some(write) => waiting.push_back(write),
                    None => break,
                },
                paused = file.pause.comes_if_asked() => {
                    file.move_wal(paused).await;
                    continue;
                }
            }
        }
        while waiting.len() < WRITES_QUEUED_MAX
            && let Ok(write) = queue.try_recv()
        {
            waiting.push_back(write);
        }
        if let Some(reply) = take_close(&mut waiting) {
            queue.close();
            closed = Some(reply);
        }
        let mut batch = Batch::default();
        overdue_first = !batch.fill(&mut waiting, overdue_first);
        if batch.writes.is_empty() {
            continue;
        }
        let committed = file.commit(&mut batch).await.map_err(Arc::new);
        match &committed {
            Ok(_) if std::mem::take(&mut rest_failed) => waiting.push_back(Write::rest(Pending::of_nobody())),
            Ok(_) => {}
            Err(_) => rest_failed |= batch.writes.iter().any(|write| matches!(write.change, Change::Remove(..))),
        }
        for write in batch.writes.into_iter().rev() {
            match write.answer(&committed) {
                // What is left of a run that is being removed is left there at the end.
                Some(Write { change: Change::Remove(_, pending), .. }) if queue.is_closed() => {
                    pending.answer::<()>(&Err(Arc::new(SqliteError::Closed)));
                }
                // First in the next commit: what could not be decided yet, and, of what is large, the rest of what is being
                // removed. Others' large writes come in between once they are overdue, so that nobody writes much faster
                // than is removed.
                Some(again) => waiting.push_front(again),
                None => {}
            }
        }
        // After the answers, which need not wait for it.
        file.look_at_wal().await;
        let is_idle = waiting.is_empty() && queue.is_empty();
        let is_due = file.wal_pages >= if is_idle { WAL_PAGES_IDLE } else { WAL_PAGES };
        // What is to be written next need not wait for reads under way. Once new ones wait, it is done as soon as it can be.
        if (is_due || file.pause.is_asked())
            && let Some(paused) = file.pause.comes().now_or_never()
        {
            file.move_wal(paused).await;
        }
    }
    file.close().await;
    if let Some(reply) = closed {
        // The one who closes may have gone away.
        let _ = reply.send(());
    }
}

/// What is committed together.
#[derive(Default)]
struct Batch {
    writes: Vec<Write>,
    bytes: usize,
    rows: usize,
}

/// Takes the wish to close out of what waits.
fn take_close(waiting: &mut VecDeque<Write>) -> Option<oneshot::Sender<()>> {
    let at = waiting.iter().position(|write| matches!(write.change, Change::Close(_)))?;
    match waiting.remove(at)?.change {
        Change::Close(reply) => Some(reply),
        _ => None,
    }
}

impl Batch {
    /// Takes what is to be written next: what has let others go first for too long, and what is small; if there is none of
    /// that, the rest; all in the order in which it came. Writes that wait at the same time are of callers that do not wait for
    /// one another, so but for changes of state any order of them is one in which they could have come. Says whether something was overdue.
    fn fill(&mut self, waiting: &mut VecDeque<Write>, overdue_first: bool) -> bool {
        let overdue = waiting.iter().position(|write| overdue_first && write.passed_over >= PASSED_OVER_MAX);
        let overdue = overdue.and_then(|at| waiting.remove(at)).map(|write| waiting.extend(self.take(write)));
        self.fill_with(waiting, SMALL_BYTES_MAX);
        if self.writes.is_empty() {
            self.fill_with(waiting, usize::MAX);
        }
        for write in waiting {
            write.passed_over += 1;
        }
        overdue.is_some()
    }

    /// Takes writes of at most so many bytes, as far as there is room. A user's changes of state are not taken before earlier
    /// ones: that of a run which was ended has nobody who waits for it.
    fn fill_with(&mut self, waiting: &mut VecDeque<Write>, bytes_max: usize) {
        let mut changes_left = Vec::new();
        for _ in 0..waiting.len() {
            let Some(write) = waiting.pop_front() else { break };
            let user = write.state_user().cloned();
            let may_come = write.bytes <= bytes_max && user.as_ref().is_none_or(|user| !changes_left.contains(user));
            if let Some(left) = if may_come { self.take(write) } else { Some(write) } {
                waiting.push_back(left);
                changes_left.extend(user);
            }
        }
    }

    /// Takes a write, or gives it back if there is no room for it.
    fn take(&mut self, write: Write) -> Option<Write> {
        let rows = write.rows();
        let room = self.writes.len() < COMMIT_WRITES_MAX
            && self.bytes + write.bytes <= COMMIT_BYTES_MAX
            && self.rows + rows <= COMMIT_ROWS_MAX;
        // The conditions of a state write are checked against what is committed, so there is one per user at a time.
        let decided = write.state_user().is_none_or(|user| self.writes.iter().all(|w| w.state_user() != Some(user)))
            // And for something that is created once, there is one per key.
            && write.create().is_none_or(|new| self.writes.iter().filter_map(Write::create).all(|w| !w.is_again(new)));
        if !(self.writes.is_empty() || room && decided) {
            return Some(write);
        }
        self.bytes += write.bytes;
        self.rows += rows;
        self.writes.push(write);
        None
    }
}

impl Write {
    /// The next piece of what is being removed, which changes about as much as a full commit.
    const fn rest(pending: Pending<()>) -> Self {
        Self { bytes: COMMIT_BYTES_MAX, change: Change::Remove(None, pending), passed_over: 0 }
    }

    /// How many rows it may come to.
    fn rows(&self) -> usize {
        match &self.change {
            Change::Rows(rows, _) => rows.len(),
            // The sweep and the record.
            Change::Create(create, _) => create.rows.len() + 2,
            // The sweep, the key, and by which call.
            Change::SetState(..) => 3,
            Change::DeleteState(..) => 2,
            Change::Remove(..) => 1,
            Change::Close(_) => 0,
        }
    }

    fn state_user(&self) -> Option<&UserId> {
        match &self.change {
            Change::SetState(SetState { key, .. }, _) | Change::DeleteState(DeleteState { key, .. }, _) => {
                Some(&key.user)
            }
            Change::Rows(..) | Change::Create(..) | Change::Remove(..) | Change::Close(_) => None,
        }
    }

    fn create(&self) -> Option<&Create> {
        match &self.change {
            Change::Create(create, _) => Some(create),
            _ => None,
        }
    }

    /// The rows to write, after a look at what its conditions are about.
    async fn decide(
        &mut self,
        connection: &mut SqliteConnection,
        added: &mut HashMap<UserId, u64>,
        rows: &mut Vec<Row>,
    ) -> Result<(), SqliteError> {
        match &mut self.change {
            Change::Rows(own, _) => rows.append(own),
            Change::Remove(which, _) => rows.push(which.take().unwrap_or_else(Row::rest)),
            Change::Create(create, pending) => {
                pending.outcome = Some(create.decide(connection, added, rows).await?);
            }
            Change::SetState(set, pending) => pending.outcome = set.decide(connection, rows).await?,
            Change::DeleteState(key, pending) => pending.outcome = Some(key.decide(connection, rows).await?),
            Change::Close(_) => {}
        }
        Ok(())
    }

    /// Tells the one who waits. Gives the write back if it needs another commit: what was committed says whether there is a
    /// rest of what is being removed.
    fn answer(self, committed: &Reply<bool>) -> Option<Self> {
        match self.change {
            Change::SetState(_, Pending { outcome: None, .. }) if committed.is_ok() => return Some(self),
            Change::Remove(_, pending) if matches!(committed, Ok(true)) => return Some(Self::rest(pending)),
            Change::Rows(_, pending) | Change::Remove(_, pending) => pending.answer(committed),
            Change::Create(_, pending) => pending.answer(committed),
            Change::SetState(_, pending) => pending.answer(committed),
            Change::DeleteState(_, pending) => pending.answer(committed),
            Change::Close(_) => {}
        }
        None
    }
}

/// The file, open for writing.
struct File {
    options: SqliteConnectOptions,
    /// None after an error that says nothing about the state of the connection.
    connection: Option<SqliteConnection>,
    pause: Pause,
    inserts: Inserts,
    commits: Arc<Commits>,
    /// Pages in the write-ahead log that are not in the database, as the last look found.
    wal_pages: usize,
    /// Commits until the next look.
    until_look: u32,
}

/// The wish that nobody reads for a while. There is one at a time, so that it cannot wait for another.
struct Pause {
    readers: Arc<Readers>,
    /// The wish, if somebody has it: new reads wait.
    asked: Option<BoxFuture<'static, Option<Paused>>>,
}

impl Pause {
    /// Asks, unless that was done, and waits for the reads under way. Dropped before, the wish stands and new reads wait.
    async fn comes(&mut self) -> Option<Paused> {
        let paused = self.asked.get_or_insert_with(|| self.readers.clone().pause().boxed()).await;
        self.asked = None;
        paused
    }

    const fn is_asked(&self) -> bool {
        self.asked.is_some()
    }

    /// Waits without end if nobody has asked.
    async fn comes_if_asked(&mut self) -> Option<Paused> {
        if self.asked.is_none() {
            pending::<()>().await;
        }
        self.comes().await
    }
}

/// An `INSERT` of each of the numbers of rows.
struct Inserts {
    plain: [SqlStr; INSERT_ROWS.len()],
    /// Those that also say of each row whether there is, behind it, a rest of what is being removed.
    telling: [SqlStr; INSERT_ROWS.len()],
}

impl Inserts {
    fn prepare() -> Self {
        // That it names a column of the row has it looked for with each of them, and not once before the first.
        let telling = " RETURNING EXISTS (SELECT 1 FROM going WHERE writes.kind IS NOT NULL)";
        let [plain, telling] = ["", telling].map(|end| INSERT_ROWS.map(|rows| insert_statement(rows, end)));
        Self { plain, telling }
    }
}

/// An `INSERT` of this many rows.
fn insert_statement(rows: usize, end: &str) -> SqlStr {
    let row = format!("({})", ["?"; ROW_COLUMNS].join(","));
    AssertSqlSafe(format!("INSERT INTO writes VALUES {}{end}", vec![row; rows].join(","))).into_sql_str()
}

impl File {
    /// Makes all of it durable, or nothing. Of a batch that removes something, says whether there is a rest.
    async fn commit(&mut self, batch: &mut Batch) -> Result<bool, SqliteError> {
        let connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.connect().await?,
        };
        let connection = self.connection.insert(connection);
        let begun = Instant::now();
        let done = write(connection, &self.inserts, batch).await;
        self.commits.latency.took(begun.elapsed());
        if done.is_err() {
            self.commits.failed.fetch_add(1, Ordering::Relaxed);
            // One `INSERT` that failed has left nothing behind, but several may have left a transaction open, and other
            // errors anything. A new connection is cheap beside the error. Before anyone is told: a write that failed should
            // be gone, and not come back with a crash.
            self.open_again().await;
        }
        done
    }

    /// Moves the write-ahead log into the database, so that it begins anew. Nobody may read meanwhile: SQLite moves what a
    /// reader that began earlier allows, takes that for done without a sync, and would not write it anew after one that
    /// fails.
    async fn move_wal(&mut self, paused: Option<Paused>) {
        let Some(connection) = &mut self.connection else { return };
        if let Some(paused) = &paused {
            paused.nobody_reads().await;
        }
        let moved = wal_pages(connection, "PRAGMA wal_checkpoint(PASSIVE)").await;
        drop(paused);
        match moved {
            Ok(left) => {
                if left > 0 {
                    tracing::warn!(
                        pages = left,
                        "another process reads the database, and keeps the write-ahead log from being moved"
                    );
                }
                // Not at once again.
                (self.wal_pages, self.until_look) = (0, COMMITS_UNTIL_LOOK);
            }
            // All that was acknowledged is in the log. What the system shows of a file that it could not sync is not to be
            // relied on.
            Err(error) => {
                tracing::error!(%error, "the write-ahead log was not moved into the database; trying again");
                self.open_again().await;
            }
        }
    }

    /// Looks every few commits how long the log is.
    async fn look_at_wal(&mut self) {
        self.until_look = self.until_look.saturating_sub(1);
        if self.until_look == 0
            && let Some(connection) = &mut self.connection
        {
            self.until_look = COMMITS_UNTIL_LOOK;
            // What is wrong with the file, the next commit finds.
            self.wal_pages = wal_pages(connection, "PRAGMA wal_checkpoint(NOOP)").await.unwrap_or(self.wal_pages);
        }
    }

    /// Opens the file again after an error. While the disk still fails, the next commit tries once more.
    async fn open_again(&mut self) {
        if let Some(connection) = self.connection.take() {
            // The error to tell is the first.
            let _ = connection.close().await;
            self.connection = self.connect().await.ok();
        }
    }

    async fn connect(&mut self) -> Result<SqliteConnection, SqliteError> {
        let paused = self.pause.comes().await;
        if let Some(paused) = &paused {
            paused.nobody_reads().await;
        }
        connect_to_write(&self.options).await.inspect(|_| self.wal_pages = 0)
    }

    async fn close(self) {
        if let Some(connection) = self.connection
            && let Err(error) = connection.close().await
        {
            // All that was acknowledged is in the write-ahead log; the next start moves it into the database.
            tracing::warn!(%error, "the database was not closed in order");
        }
    }
}

/// How many pages of the write-ahead log are not in the database after this.
async fn wal_pages(connection: &mut SqliteConnection, checkpoint: &'static str) -> Result<usize, SqliteError> {
    let (_, log, moved) = sqlx::query_as::<_, (i64, i64, i64)>(checkpoint).fetch_one(connection).await?;
    Ok(usize::try_from(log.saturating_sub(moved)).unwrap_or_default())
}

async fn write(connection: &mut SqliteConnection, inserts: &Inserts, batch: &mut Batch) -> Result<bool, SqliteError> {
    let removes = batch.writes.iter().any(|write| matches!(write.change, Change::Remove(..)));
    let inserts = if removes { &inserts.telling } else { &inserts.plain };
    let mut rest = false;
    let mut rows = Vec::with_capacity(batch.rows);
    // Idempotency keys that each user gets in this commit.
    let mut added = HashMap::new();
    for write in &mut batch.writes {
        write.decide(connection, &mut added, &mut rows).await?;
    }
    // A statement alone is its own transaction.
    let alone = rows.len() <= COMMIT_ROWS_MAX;
    if !alone {
        connection.execute("BEGIN IMMEDIATE").await?;
    }
    let mut rows = rows.into_iter();
    while rows.len() > 0 {
        let sizes = || INSERT_ROWS.iter().zip(inserts);
        let Some((size, insert)) = sizes().find(|(size, _)| **size >= rows.len()).or_else(|| sizes().next_back())
        else {
            break;
        };
        let mut arguments = SqliteArguments::default();
        for row in rows.by_ref().take(*size) {
            row.bind(&mut arguments).map_err(SqliteError::Value)?;
        }
        if removes {
            let told = sqlx::query_scalar_with::<_, bool, _>(insert.clone(), arguments);
            rest |= told.fetch_all(&mut *connection).await?.contains(&true);
        } else {
            sqlx::query_with(insert.clone(), arguments).execute(&mut *connection).await?;
        }
    }
    if !alone {
        connection.execute("COMMIT").await?;
    }
    Ok(rest)
}
