//! `/scratch`: for each run an empty directory of its own, made when it is first used, gone with the run.

use crate::tree::Tree;
use cofferdam_core::{ids::RunId, quota::Quota};
use std::{io, path::PathBuf, sync::Arc};

/// Where the scratch of all runs is.
#[derive(Debug)]
pub struct Scratches {
    root: PathBuf,
    bytes_max: u64,
    entries_max: u64,
}

impl Scratches {
    /// Below this directory, which is emptied first of what a host that was killed left there.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn open(root: PathBuf, quota: &Quota) -> io::Result<Self> {
        match std::fs::remove_dir_all(&root) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        Ok(Self { root, bytes_max: quota.scratch_bytes, entries_max: quota.scratch_files })
    }

    /// One run's.
    #[must_use]
    pub fn of(&self, run: RunId) -> Arc<Tree> {
        Arc::new(Tree::temporary(self.root.join(run.to_string()), self.bytes_max, self.entries_max))
    }
}
