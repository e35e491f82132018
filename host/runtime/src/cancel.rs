//! Cancelling: first it is durable who asked, then the run is stopped. So also a crash in between leaves a run that ends
//! as cancelled, at the next start.

use crate::runtime::Runtime;
use cofferdam_core::{
    clock,
    context::StopCause,
    identity::Scope,
    ids::{KeyId, RunId},
    run::{CancelRequest, RunView},
    storage::StorageError,
};
use std::time::Duration;
use tokio::sync::oneshot;

/// How long a cancel waits for the run to end before it answers with the run as it stands.
const CANCEL_WAIT: Duration = Duration::from_millis(500);

impl Runtime {
    /// Asks a run to stop, and waits a moment for it. Gives the run as it then stands; none if the user has no such run.
    /// Whoever asks first stands; asking again changes nothing. A run that is not executing here any more, because the
    /// host is going away, ends as cancelled at the next start.
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
        if let Some(mut live) = stopped?.and_then(|_| self.live_run(scope, id)) {
            // Whether it has ended by then is read below.
            let _ = tokio::time::timeout(CANCEL_WAIT, live.ended.wait_for(Option::is_some)).await;
        }
        self.storage().run(scope, id).await
    }

    /// Makes the request durable and stops the run for whoever asked first. Gives who that was, if the run has not ended.
    async fn request_and_stop(
        &self,
        scope: &Scope,
        id: RunId,
        request: &CancelRequest,
    ) -> Result<Option<CancelRequest>, StorageError> {
        self.storage().request_cancel(scope, id, request).await?;
        let view = self.storage().run(scope, id).await?.filter(|view| !view.status.is_terminal());
        let standing = view.and_then(|view| view.cancel);
        if let (Some(standing), Some(live)) = (&standing, self.live_run(scope, id)) {
            live.stop.stop(StopCause::Cancelled(standing.clone()));
        }
        Ok(standing)
    }
}
