//! Cancelling: first it is durable who asked, then the run is stopped. So also a crash in between leaves a run that ends
//! as cancelled, at the next start. A run that has come to its end by itself ends as it does, and nothing is kept of a
//! request that was too late.

use crate::runtime::Runtime;
use cofferdam_core::{
    clock,
    context::StopCause,
    identity::Scope,
    ids::{KeyId, RunId},
    run::{CancelRequest, RunStatus, RunView},
    storage::StorageError,
};
use std::time::Duration;
use tokio::sync::oneshot;

/// How long a cancel waits for the run to end before it answers with the run as it stands.
const CANCEL_WAIT: Duration = Duration::from_millis(500);

impl Runtime {
    /// Asks a run to stop, and waits a moment for it. Gives the run as it then stands; none if the user has no such run.
    /// Whoever asks first stands; asking again changes nothing. A run that is not executing here any more, because the
    /// host is going away, ends as cancelled at the next start. A run without a request at the end of the wait was at its
    /// own end before it could be asked.
    ///
    /// # Errors
    /// When storage fails. Then the run goes on, or ends as cancelled.
    pub async fn cancel(&self, scope: &Scope, id: RunId, by: &KeyId) -> Result<Option<RunView>, StorageError> {
        let request = CancelRequest { by: by.clone(), at: clock::now() };
        let (runtime, own_scope) = (self.clone(), scope.clone());
        let (answer, answered) = oneshot::channel();
        // In a task of its own: a client that goes away must not leave a run that was asked to stop and goes on.
        self.spawn(async move {
            // Nobody waits any more: the run is stopped all the same.
            let _ = answer.send(runtime.request_and_stop(&own_scope, id, &request).await);
        });
        let stopped = answered.await.map_err(|gone| StorageError { doing: "cancel a run", source: gone.into() })?;
        stopped?;
        if let Some(live) = self.live_run(scope, id) {
            // Whether it has ended by then is read below.
            let _ = tokio::time::timeout(CANCEL_WAIT, live.ended.wait()).await;
        }
        self.storage().run(scope, id).await
    }

    /// Makes the request durable and stops the run for whoever asked first, unless the run has come to its end.
    pub(crate) async fn request_and_stop(
        &self,
        scope: &Scope,
        id: RunId,
        request: &CancelRequest,
    ) -> Result<(), StorageError> {
        let live = self.live_run(scope, id);
        // Held to the end of this: meanwhile the run does not end.
        let _asking = match live.as_ref().map(|live| live.stop.ask()) {
            Some(None) => return Ok(()),
            Some(Some(asking)) => Some(asking),
            // Nothing executes it: it has ended, or it is left to the next start.
            None => None,
        };
        self.storage().request_cancel(scope, id, request).await?;
        let view = self.storage().run(scope, id).await?.filter(|view| !view.status.is_terminal());
        let waits = view.as_ref().is_some_and(|view| view.status == RunStatus::Waiting);
        match (view.and_then(|view| view.cancel), live) {
            (Some(standing), Some(live)) => {
                live.stop.stop(StopCause::Cancelled(standing));
            }
            // What waits is brought back to its end.
            (Some(_), None) if waits => self.bring_back(scope, id).await?,
            _ => {}
        }
        Ok(())
    }
}
