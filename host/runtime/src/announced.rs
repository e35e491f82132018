//! The end of a run, for whoever waits for it here.

use cofferdam_core::run::RunView;
use std::sync::Arc;
use tokio::sync::SetOnce;

/// The end, to be announced once. Dropped before, whoever waits learns that nothing will be.
#[derive(Debug)]
pub struct Announcer(Announced);

/// The end, as it is or will be announced.
#[derive(Debug, Clone, Default)]
pub struct Announced(Arc<SetOnce<Option<RunView>>>);

/// Of one run.
pub fn announcement() -> (Announcer, Announced) {
    let announced = Announced::default();
    (Announcer(announced.clone()), announced)
}

impl Announcer {
    /// Announces the end.
    pub fn tell(&self, ended: RunView) {
        // A run ends once.
        let _ = self.0.0.set(Some(ended));
    }
}

impl Drop for Announcer {
    fn drop(&mut self) {
        // Fails where there was an end.
        let _ = self.0.0.set(None);
    }
}

impl Announced {
    /// Of a run that nothing executes here.
    pub fn never() -> Self {
        announcement().1
    }

    /// Waits for it. None if it will not be announced any more.
    pub async fn wait(&self) -> Option<&RunView> {
        self.0.wait().await.as_ref()
    }
}
