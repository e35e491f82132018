//! The part of storage that is about runs that wait. However many there are, none of them is in memory.

use super::{MadeBy, Result, UnfinishedRun};
use crate::{
    identity::{Operator, Scope},
    ids::RunId,
    run::Children,
    wait::{Answer, Answered, StoredWait},
};
use async_trait::async_trait;
use jiff::Timestamp;

/// Runs that wait. That one does is written by [`Storage::append`](super::Storage::append), in one step with its log; that
/// it does not any more, by the batch that says that it is running again, or by its end.
#[async_trait]
pub trait Waits: Send + Sync {
    /// The wait that a run came to last; none if it never did, or has ended.
    async fn waiting(&self, scope: &Scope, run: RunId) -> Result<Option<StoredWait>>;

    /// Keeps the answer to the question of a call. The first one stands.
    async fn answer(&self, scope: &Scope, run: RunId, call: u64, answer: &Answer) -> Result<Answered>;

    /// When the next run goes on by itself; none if no run does.
    async fn next_wake(&self, operator: Operator) -> Result<Option<Timestamp>>;

    /// Runs that go on by themselves by now, oldest first, those after one, at most `limit`.
    async fn due(
        &self,
        operator: Operator,
        now: Timestamp,
        after: Option<RunId>,
        limit: u32,
    ) -> Result<Vec<UnfinishedRun>>;

    /// Runs that have what they wait for, or were asked to stop, and still wait: a host that was killed could not tell them.
    async fn told(&self, operator: Operator) -> Result<Vec<UnfinishedRun>>;

    /// Runs that have not ended, though the run that started them has: a host that was killed could not ask them to stop.
    async fn orphans(&self, operator: Operator) -> Result<Vec<UnfinishedRun>>;

    /// One run that has not ended; none if there is none, or it is another user's.
    async fn unfinished(&self, scope: &Scope, run: RunId) -> Result<Option<UnfinishedRun>>;

    /// How many of the user's runs wait, but for these.
    async fn waiting_runs(&self, scope: &Scope, but_for: &[RunId]) -> Result<u64>;

    /// The run that waits for this child, if one does.
    async fn parent_of(&self, scope: &Scope, child: RunId) -> Result<Option<UnfinishedRun>>;

    /// The runs that this one started, the first one first, those of them included that have ended.
    async fn children(&self, scope: &Scope, parent: RunId) -> Result<Vec<RunId>>;

    /// What became of the runs that this one started, if it ended now.
    async fn children_ended(&self, scope: &Scope, parent: RunId) -> Result<Children>;

    /// What a change of state by this call came to, if it was made: the key's new version, or whether it was there. Kept for
    /// runs that are durable, until their next change.
    async fn state_change(&self, scope: &Scope, by: MadeBy) -> Result<Option<u64>>;
}
