//! Runs that wait, in SQLite.

use super::{SqliteError, SqliteStorage, rows::unfinished_columns, while_doing, writes::Row};
use async_trait::async_trait;
use cofferdam_core::{
    Json,
    identity::{Operator, Scope},
    ids::RunId,
    run::Children,
    storage::{MadeBy, Result, UnfinishedRun, Waits},
    wait::{Answer, Answered, StoredWait},
};
use jiff::Timestamp;

/// What was being done when one of these failed.
const READING: &str = "read of runs that wait";

#[async_trait]
impl Waits for SqliteStorage {
    async fn waiting(&self, scope: &Scope, run: RunId) -> Result<Option<StoredWait>> {
        let query = sqlx::query(
            "SELECT document, answer FROM waits
            WHERE run = (SELECT number FROM runs WHERE user = ?1 AND id = ?2)",
        );
        let query = query.bind(scope.user().as_str().to_owned()).bind(run.to_string());
        let stored = self
            .readers
            .first(query, |columns| Ok(StoredWait { wait: columns.document()?, answer: columns.document_if_there()? }));
        stored.await.map_err(while_doing(READING))
    }

    async fn answer(&self, scope: &Scope, run: RunId, call: u64, answer: &Answer) -> Result<Answered> {
        let doing = "keep an answer";
        let document =
            serde_json::to_string(answer).map_err(|error| while_doing(doing)(SqliteError::Value(error.into())))?;
        self.write(doing, vec![Row::answer(scope, run, call, document)]).await?;
        // The run may have gone on with it by now, and come to another wait.
        Ok(match self.waiting(scope, run).await? {
            Some(stored) if stored.wait.call != call => Answered::NotWaiting,
            Some(StoredWait { answer: Some(stands), .. }) if stands == *answer => Answered::Taken,
            Some(StoredWait { answer: Some(_), .. }) => Answered::Already,
            Some(StoredWait { answer: None, .. }) | None => Answered::NotWaiting,
        })
    }

    async fn next_wake(&self, _operator: Operator) -> Result<Option<Timestamp>> {
        let query = sqlx::query("SELECT wake_at FROM waits WHERE wake_at IS NOT NULL ORDER BY wake_at LIMIT 1");
        self.readers.first(query, |columns| columns.time()).await.map_err(while_doing(READING))
    }

    async fn due(
        &self,
        _operator: Operator,
        now: Timestamp,
        after: Option<RunId>,
        limit: u32,
    ) -> Result<Vec<UnfinishedRun>> {
        let query = sqlx::query(concat!(
            "SELECT ",
            unfinished_columns!(),
            " FROM waits JOIN runs ON runs.number = waits.run LEFT JOIN cancels ON cancels.run = runs.number
            WHERE wake_at IS NOT NULL AND wake_at <= ?1 AND status = 'waiting' AND id > ?2 ORDER BY id LIMIT ?3",
        ));
        let after = after.map(|after| after.to_string()).unwrap_or_default();
        let query = query.bind(now.as_microsecond()).bind(after).bind(limit);
        self.readers.all(query, |columns| columns.unfinished_run()).await.map_err(while_doing(READING))
    }

    async fn told(&self, _operator: Operator) -> Result<Vec<UnfinishedRun>> {
        let query = sqlx::query(concat!(
            "SELECT ",
            unfinished_columns!(),
            " FROM waits JOIN runs ON runs.number = waits.run LEFT JOIN cancels ON cancels.run = runs.number
            WHERE status = 'waiting' AND (
                answer IS NOT NULL OR asked_by IS NOT NULL
                OR child IS NOT NULL AND NOT EXISTS (
                    SELECT 1 FROM runs AS child_run WHERE child_run.user = runs.user AND child_run.id = waits.child
                        AND child_run.finished_at IS NULL
                )
            ) ORDER BY id",
        ));
        self.readers.all(query, |columns| columns.unfinished_run()).await.map_err(while_doing(READING))
    }

    async fn orphans(&self, _operator: Operator) -> Result<Vec<UnfinishedRun>> {
        let query = sqlx::query(concat!(
            "SELECT ",
            unfinished_columns!(),
            " FROM runs LEFT JOIN cancels ON cancels.run = runs.number
            WHERE finished_at IS NULL AND parent_id IS NOT NULL AND NOT EXISTS (
                SELECT 1 FROM runs AS parent_run WHERE parent_run.user = runs.user AND parent_run.id = runs.parent_id
                    AND parent_run.finished_at IS NULL
            ) ORDER BY id",
        ));
        self.readers.all(query, |columns| columns.unfinished_run()).await.map_err(while_doing(READING))
    }

    async fn unfinished(&self, scope: &Scope, run: RunId) -> Result<Option<UnfinishedRun>> {
        let query = sqlx::query(concat!(
            "SELECT ",
            unfinished_columns!(),
            " FROM runs LEFT JOIN cancels ON cancels.run = runs.number
            WHERE user = ?1 AND id = ?2 AND finished_at IS NULL",
        ));
        let query = query.bind(scope.user().as_str().to_owned()).bind(run.to_string());
        self.readers.first(query, |columns| columns.unfinished_run()).await.map_err(while_doing(READING))
    }

    async fn waiting_runs(&self, scope: &Scope, but_for: &[RunId]) -> Result<u64> {
        let query = sqlx::query(
            "SELECT count(*) FROM waits JOIN runs ON runs.number = waits.run
            WHERE waits.user = ?1 AND status = 'waiting' AND runs.id NOT IN (SELECT value FROM json_each(?2))",
        );
        let but_for: Vec<_> = but_for.iter().map(ToString::to_string).collect();
        let query = query.bind(scope.user().as_str().to_owned()).bind(Json::of(&but_for).as_str().to_owned());
        let count = self.readers.first(query, |columns| columns.unsigned()).await;
        Ok(count.map_err(while_doing(READING))?.unwrap_or(0))
    }

    async fn parent_of(&self, scope: &Scope, child: RunId) -> Result<Option<UnfinishedRun>> {
        let query = sqlx::query(concat!(
            "SELECT ",
            unfinished_columns!(),
            " FROM waits JOIN runs ON runs.number = waits.run LEFT JOIN cancels ON cancels.run = runs.number
            WHERE waits.child = ?2 AND runs.user = ?1 AND status = 'waiting'",
        ));
        let query = query.bind(scope.user().as_str().to_owned()).bind(child.to_string());
        self.readers.first(query, |columns| columns.unfinished_run()).await.map_err(while_doing(READING))
    }

    async fn children(&self, scope: &Scope, parent: RunId) -> Result<Vec<RunId>> {
        let query = sqlx::query("SELECT id FROM runs WHERE parent_id = ?2 AND user = ?1 ORDER BY number");
        let query = query.bind(scope.user().as_str().to_owned()).bind(parent.to_string());
        self.readers.all(query, |columns| columns.parsed()).await.map_err(while_doing("list the children of a run"))
    }

    async fn children_ended(&self, scope: &Scope, parent: RunId) -> Result<Children> {
        let query = sqlx::query(
            "SELECT json_array(
                count(*) FILTER (WHERE status = 'succeeded'), count(*) FILTER (WHERE status = 'failed'),
                count(*) FILTER (WHERE status NOT IN ('succeeded', 'failed'))
            ) FROM runs WHERE parent_id = ?2 AND user = ?1",
        );
        let query = query.bind(scope.user().as_str().to_owned()).bind(parent.to_string());
        let counted = self.readers.first(query, |columns| columns.children()).await;
        Ok(counted.map_err(while_doing("count the children of a run"))?.unwrap_or_default())
    }

    async fn state_change(&self, scope: &Scope, by: MadeBy) -> Result<Option<u64>> {
        let query = sqlx::query(
            "SELECT outcome FROM state_changes
            WHERE run = (SELECT number FROM runs WHERE user = ?1 AND id = ?2) AND call = ?3
                AND coalesce(attempt, ?4) = ?4",
        );
        let query = query
            .bind(scope.user().as_str().to_owned())
            .bind(by.run.to_string())
            .bind(i64::try_from(by.call).unwrap_or(i64::MAX))
            .bind(by.attempt);
        self.readers.first(query, |columns| columns.unsigned()).await.map_err(while_doing("read of a change of state"))
    }
}
