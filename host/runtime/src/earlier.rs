//! A submission that came before: it gets the run that was made then.

use crate::{
    announced::Announced,
    runtime::{AcceptError, Accepted, Runtime},
};
use cofferdam_core::{
    idempotency::{Earlier, NotOnce, Once},
    identity::Scope,
    ids::RunId,
    storage::StorageError,
};

impl Runtime {
    /// The run that an earlier submission made, as it stands now.
    pub(crate) async fn made_earlier(
        &self,
        scope: &Scope,
        once: &Once,
        earlier: &Earlier,
    ) -> Result<Accepted, AcceptError> {
        if earlier.body != once.body {
            return Err(NotOnce::Reused.into());
        }
        let id = earlier.id.parse::<RunId>().map_err(|error| {
            AcceptError::Storage(StorageError { doing: "read what an idempotency key made", source: error.into() })
        })?;
        // Looked for before the run is read: one that ends between the two has then ended where it is read.
        let live = self.live_run(scope, id);
        let view = self.storage().run(scope, id).await.map_err(AcceptError::Storage)?.ok_or(NotOnce::Gone)?;
        let ended = live.map_or_else(Announced::never, |live| live.ended);
        Ok(Accepted { view, replayed: true, ended })
    }
}
