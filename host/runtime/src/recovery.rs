//! What a starting host does with what a stopped one left behind: queued runs wait again, in the order in which they
//! came, durable ones among them; the others that had begun are ended as what they are. Runs that wait are left to wait,
//! unless there is what they wait for.

use crate::{
    invoke::Ending,
    runtime::Runtime,
    sandbox::{OUTCOME_UNKNOWN, Stop},
};
use cofferdam_core::{
    identity::Operator,
    run::{Durability, RunStatus, StopReason},
    storage::{StorageError, UnfinishedRun},
    wait::WaitFor,
};
use jiff::Timestamp;
use tokio::task::JoinSet;

/// How many runs are ended at once. Storage commits together what is asked for at the same time, so that a thousand
/// runs cost some ten commits; more at once would only wait for its writer.
const ENDED_AT_ONCE_MAX: usize = 128;

/// Runs looked at in one go, of those that wait. Storage goes through all of them for each go.
const LOOKED_AT_ONCE: u32 = 8_192;

impl Runtime {
    /// Goes on with what a stopped host left behind. When this returns, every run has ended or waits for its turn.
    pub(crate) async fn recover(&self) -> Result<(), StorageError> {
        let unfinished = self.storage().unfinished_runs(Operator::host()).await?;
        let (mut ended, mut queued) = (0_usize, 0_usize);
        let mut endings = JoinSet::new();
        for run in unfinished {
            let Some(stop) = self.stop_of(&run) else {
                self.go_on_in_order(run).await;
                queued += 1;
                continue;
            };
            if endings.len() >= ENDED_AT_ONCE_MAX {
                let _ = endings.join_next().await;
            }
            let runtime = self.clone();
            endings.spawn(async move { runtime.end(run, stop).await });
            ended += 1;
        }
        while endings.join_next().await.is_some() {}
        // By now these are all in the queue, or wait, where a cancel reaches them.
        self.end_children_of_attempts().await?;
        // Also of those that have just ended. What these have started ends with them.
        self.end_orphans().await?;
        // Also those that wait for one that has just ended.
        for run in self.storage().waits().told(Operator::host()).await? {
            self.go_on_in_order(run).await;
            queued += 1;
        }
        if ended + queued > 0 {
            tracing::info!(ended, queued, "went on with the runs that the last host had not ended");
        }
        Ok(())
    }

    /// Ends what failed attempts have started, of all runs that wait for their next one. Some have just been put off; of others
    /// the last host was killed before it could.
    async fn end_children_of_attempts(&self) -> Result<(), StorageError> {
        let mut after = None;
        loop {
            // The pause before an attempt has an end, so these are among the runs that go on by themselves at some time.
            let waiting = self.storage().waits().due(Operator::host(), Timestamp::MAX, after, LOOKED_AT_ONCE).await?;
            let Some(last) = waiting.last() else { return Ok(()) };
            after = Some(last.id);
            for run in waiting.iter().filter(|run| run.retries.is_some()) {
                let scope = Operator::host().on_behalf_of(&run.user);
                let stored = self.storage().waits().waiting(&scope, run.id).await?;
                if stored.is_some_and(|stored| matches!(stored.wait.waits_for, WaitFor::Retry { .. })) {
                    self.end_children(&scope, run.id).await;
                }
            }
        }
    }

    /// Why a run cannot go on; none if it has not begun and nobody wants it stopped.
    fn stop_of(&self, run: &UnfinishedRun) -> Option<Stop> {
        let begun = run.status != RunStatus::Queued;
        if let Some(request) = &run.cancel {
            let when = if begun { ", while the host was stopping" } else { " before it began" };
            return Some(Stop::cancelled(request, when));
        }
        if !begun {
            let here = self.about(run).is_some();
            let gone = || Stop::new(StopReason::HostError, "the agent of this run is not on this host any more");
            return (!here).then(gone);
        }
        if run.durability == Durability::Durable {
            let here = self.about(run).is_some();
            return (!here)
                .then(|| Stop::new(StopReason::HostError, "the agent of this run is not on this host any more"));
        }
        if run.effects {
            return Some(Stop::new(StopReason::OutcomeUnknown, OUTCOME_UNKNOWN));
        }
        let message =
            "the host stopped while the run was executing; nothing outside the run was changed, submit it again";
        Some(Stop::new(StopReason::HostShutdown, message))
    }

    /// Ends a run, or puts it off until its next attempt.
    async fn end(&self, run: UnfinishedRun, stop: Stop) {
        let scope = Operator::host().on_behalf_of(&run.user);
        let journal = self.journal().reopen(scope.clone(), &run);
        if self.put_off_cut(&scope, &run, &journal, &stop).await {
            return;
        }
        let end = Ending::never_ran(run.started_at).with_children_of(self, &scope, run.id).await;
        end.close(&self.0.services.counts, &journal, Err(stop)).await;
    }
}
