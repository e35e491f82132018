//! Small programs that write to a disk that forgets, so that it can be shown that it forgets.

use sqlx::{
    AssertSqlSafe, ConnectOptions as _, Connection as _, Executor as _, Row as _,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous},
};
use std::{
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
};

/// What the program does; afterwards it ends without a word to its files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Writing {
    /// `file` is written, synced, and written again. `nameless` is synced, but its directory, synced before, is not
    /// again. `dir/file` is synced with its directory, whose own name is not.
    OnceSynced,
    /// SQLite as the host uses it: every commit is synced.
    SqliteFull,
    /// SQLite as it must not be used: no commit is.
    SqliteOff,
}

#[derive(clap::Args)]
pub struct Options {
    #[arg(long)]
    writing: Writing,
    #[arg(long)]
    dir: PathBuf,
}

/// How many rows a database gets, each with a commit of its own.
pub const ROWS: i64 = 20;

/// Writes.
///
/// # Errors
/// When the disk fails.
pub async fn run(options: Options) -> anyhow::Result<()> {
    match options.writing {
        Writing::OnceSynced => once_synced(&options.dir),
        Writing::SqliteFull => rows(&options.dir, SqliteSynchronous::Full).await,
        Writing::SqliteOff => rows(&options.dir, SqliteSynchronous::Off).await,
    }
}

fn once_synced(dir: &Path) -> anyhow::Result<()> {
    let mut file = File::create_new(dir.join("file"))?;
    file.write_all(b"synced ")?;
    file.sync_all()?;
    File::open(dir)?.sync_all()?;
    file.write_all(b"not synced")?;
    let mut nameless = File::create_new(dir.join("nameless"))?;
    nameless.write_all(b"synced")?;
    nameless.sync_all()?;
    fs::create_dir(dir.join("dir"))?;
    let mut below = File::create_new(dir.join("dir/file"))?;
    below.write_all(b"synced")?;
    below.sync_all()?;
    File::open(dir.join("dir"))?.sync_all()?;
    Ok(())
}

async fn rows(dir: &Path, synchronous: SqliteSynchronous) -> anyhow::Result<()> {
    let options = SqliteConnectOptions::new().filename(dir.join("database")).create_if_missing(true);
    let options = options.journal_mode(SqliteJournalMode::Wal).synchronous(synchronous);
    let mut database = options.connect().await?;
    database.execute("CREATE TABLE numbers (number INTEGER)").await?;
    for number in 0..ROWS {
        database.execute(AssertSqlSafe(format!("INSERT INTO numbers VALUES ({number})"))).await?;
    }
    // Closing it in good order would sync.
    std::mem::forget(database);
    Ok(())
}

/// How many rows the database has; 0 if it is not one any more.
///
/// # Errors
/// When the disk fails.
pub async fn rows_kept(dir: &Path) -> anyhow::Result<i64> {
    let mut database =
        SqliteConnectOptions::new().filename(dir.join("database")).create_if_missing(true).connect().await?;
    let row = sqlx::query("SELECT count(*) FROM numbers").fetch_one(&mut database).await;
    let rows = row.and_then(|row| row.try_get(0)).unwrap_or(0);
    database.close().await?;
    Ok(rows)
}
