//! A database with many runs, made by multiplying one run where it lies: submitting so many would take an hour.

use crate::{
    http::{Client, text},
    server::Setup,
};
use anyhow::Context as _;
use serde_json::json;
use sqlx::{
    AssertSqlSafe, ConnectOptions as _, Connection as _, Executor as _, Row as _, SqliteConnection,
    sqlite::SqliteConnectOptions,
};
use std::path::Path;

/// Starts a server, has it make one run, ends it, and multiplies the run.
///
/// # Errors
/// When any of it fails.
pub async fn prepare(setup: &Setup, guests: &Path, runs: u64) -> anyhow::Result<()> {
    let mut server = setup.start()?;
    setup.ready(&mut server).await?;
    let key = std::fs::read_to_string(setup.admin_key_file())?;
    let operator = Client::new(&setup.url(), key.trim());
    let echo = std::fs::read(guests.join("echo.wasm")).context("run `cargo xtask guests` first")?;
    operator.put("/v1/plugins/echo", "application/wasm", echo).await?;
    let made = operator.send(reqwest::Method::POST, "/v1/keys", Some(&json!({"user": "archive"}))).await?.json();
    let run = json!({"agent": "echo", "input": {"stored": "often"}});
    let run = operator.with_key(text(&made, "api_key")).submit_and_wait(&run).await?.json();
    let id = text(&run, "id").to_owned();
    server.stop().await?;
    let options = SqliteConnectOptions::new().filename(setup.data_dir.join("cofferdam.db"));
    let mut database = options.connect().await?;
    multiply(&mut database, &id, runs).await.context("cannot multiply a run; has the schema changed?")?;
    database.close().await?;
    Ok(())
}

/// Copies the run and its log, with ids from before it. Names no column but those that must differ, so that a new one
/// is copied as well.
async fn multiply(database: &mut SqliteConnection, id: &str, copies: u64) -> sqlx::Result<()> {
    let runs =
        columns(database, "runs", &[("number", "NULL"), ("id", "'run_' || printf('%08x', n) || substr(id, 13)")]);
    let runs = runs.await?;
    let events = columns(database, "events", &[("run", "copy.number")]).await?;
    let sql = format!(
        "PRAGMA foreign_keys = ON; BEGIN;
        WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < {copies})
        INSERT INTO runs ({names}) SELECT {values} FROM runs, numbers WHERE id = '{id}';
        INSERT INTO events ({event_names}) SELECT {event_values}
        FROM events JOIN runs first ON first.number = events.run AND first.id = '{id}'
            JOIN runs copy ON copy.user = first.user AND copy.id < first.id;
        COMMIT;",
        names = runs.0,
        values = runs.1,
        event_names = events.0,
        event_values = events.1,
    );
    database.execute(sqlx::raw_sql(AssertSqlSafe(sql))).await?;
    Ok(())
}

/// The columns of a table, and what to copy into each.
async fn columns(
    database: &mut SqliteConnection,
    table: &str,
    other: &[(&str, &str)],
) -> sqlx::Result<(String, String)> {
    let rows = sqlx::query(AssertSqlSafe(format!("SELECT name FROM pragma_table_info('{table}')")));
    let rows = rows.fetch_all(database).await?;
    let names = rows.iter().map(|row| row.try_get::<String, _>(0)).collect::<sqlx::Result<Vec<_>>>()?;
    let value = |name: &String| {
        let other = other.iter().find(|(column, _)| column == name).map(|(_, value)| (*value).to_owned());
        other.unwrap_or_else(|| format!("{table}.{name}"))
    };
    let values: Vec<_> = names.iter().map(value).collect();
    Ok((names.join(", "), values.join(", ")))
}
