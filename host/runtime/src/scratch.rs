//! `/scratch`: for each run an empty directory of its own, made when it is first used, gone with the run.

use crate::tree::{Room, Tree};
use cofferdam_core::{ids::RunId, quota::LiveQuota};
use std::{
    collections::HashMap,
    io,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio_util::sync::CancellationToken;

/// How long a run that has ended keeps its slot for its scratch to be removed: some ten times what all of the entries that
/// there may be take. A disk that is slower than that must not hold up the host.
const REMOVAL_WAIT: Duration = Duration::from_secs(10);

/// The trees that are there, or are being removed, with what is told when one is gone.
type Trees = Arc<Mutex<HashMap<RunId, CancellationToken>>>;

/// Part of a tree: says, when it is dropped, that the tree is gone.
#[derive(Debug)]
pub struct Departure {
    trees: Trees,
    run: RunId,
}

impl Drop for Departure {
    fn drop(&mut self) {
        if let Some(gone) = lock(&self.trees).remove(&self.run) {
            gone.cancel();
        }
    }
}

/// Where the scratch of all runs is.
#[derive(Debug)]
pub struct Scratches {
    root: PathBuf,
    trees: Trees,
}

impl Scratches {
    /// Below this directory, which is emptied first of what a host that was killed left there.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn open(root: PathBuf) -> io::Result<Self> {
        match std::fs::remove_dir_all(&root) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        Ok(Self { root, trees: Arc::default() })
    }

    /// One run's. Asked for once in a run.
    #[must_use]
    pub fn of(&self, run: RunId, quota: LiveQuota) -> Arc<Tree> {
        lock(&self.trees).insert(run, CancellationToken::new());
        let departure = Departure { trees: self.trees.clone(), run };
        Arc::new(Tree::temporary(self.root.join(run.to_string()), Room::scratch(quota), departure))
    }

    /// Waits until nothing is left of a run's, after its sandbox is closed: who begins next must find the disk that the
    /// quotas promise.
    pub async fn gone(&self, run: RunId) {
        let Some(gone) = lock(&self.trees).get(&run).cloned() else { return };
        if tokio::time::timeout(REMOVAL_WAIT, gone.cancelled()).await.is_err() {
            tracing::warn!(%run, "a scratch directory is still being removed after its run has ended");
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
