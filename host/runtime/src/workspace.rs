//! A user's files: the only directory that a user's agents and the user themself can reach, through cap-std, so that no
//! path leads out of it, and within the user's quota of bytes and entries.

use crate::tree::{Room, Tree, Writing};
use bytes::Bytes;
use cofferdam_core::{fault::Fault, identity::Scope, ids::UserId, quota::Quotas};
use serde::Serialize;
use std::{
    collections::HashMap,
    io,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use tokio::sync::Semaphore;
use tokio_util::task::AbortOnDropHandle;

/// Entries shown of one directory. A larger one is cut, and says so.
pub const LISTED_MAX: usize = 1_000;
/// The longest path, in bytes.
pub(crate) const PATH_BYTES_MAX: usize = 1_024;
/// The deepest path, in names.
pub(crate) const PATH_DEPTH_MAX: usize = 32;
/// The most that one read gives, in bytes.
pub(crate) const READ_BYTES_MAX: u64 = 4 << 20;
/// File operations of one user under way at once; the others wait without holding a thread.
const USER_TURNS_MAX: usize = 4;
/// File operations of all users under way at once.
const HOST_TURNS_MAX: usize = 16;
/// How many users' workspaces are remembered, with what was counted in them, while nobody uses them.
const IDLE_MAX: usize = 1_024;

/// Why a file could not be had.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The path is not one.
    #[error(
        "{0:?} is not a path in the workspace: use names joined by '/', without '..' or a leading '/', at most {PATH_DEPTH_MAX} deep and {PATH_BYTES_MAX} bytes long"
    )]
    InvalidPath(String),
    /// There is nothing there.
    #[error("there is no {0:?} in the workspace")]
    NotFound(String),
    /// A directory, or something else that has no bytes.
    #[error("{0:?} is not a file")]
    NotAFile(String),
    /// There is something already.
    #[error("{0:?} is there already")]
    Exists(String),
    /// A directory that still has entries.
    #[error("{0:?} is not empty")]
    NotEmpty(String),
    /// A file where a directory was meant.
    #[error("{0:?} is not a directory")]
    NotADirectory(String),
    /// No room.
    #[error("the workspace would be over its {limit} of {max}; remove files first")]
    Full {
        /// `bytes` or `entries`.
        limit: &'static str,
        /// How many may be.
        max: u64,
    },
    /// The machine failed.
    #[error("the workspace cannot be reached")]
    Io(#[source] io::Error),
}

impl FileError {
    /// Who is to blame.
    #[must_use]
    pub const fn fault(&self) -> Fault {
        match self {
            Self::InvalidPath(_) | Self::NotAFile(_) | Self::NotADirectory(_) | Self::Exists(_) | Self::NotEmpty(_) => {
                Fault::Caller
            }
            Self::NotFound(_) => Fault::Absent,
            Self::Full { .. } => Fault::Exhausted,
            Self::Io(_) => Fault::Host,
        }
    }

    /// For programs.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::InvalidPath(_) => "invalid_path",
            Self::NotFound(_) => "not_found",
            Self::NotAFile(_) => "not_a_file",
            Self::NotADirectory(_) => "not_a_directory",
            Self::Exists(_) => "exists",
            Self::NotEmpty(_) => "not_empty",
            Self::Full { .. } => "workspace_full",
            Self::Io(_) => "storage_failed",
        }
    }

    pub(crate) fn of(path: &str, error: io::Error) -> Self {
        // The path came from outside; an error repeats no more of it than a path can have.
        let path = shown(path);
        match error.kind() {
            io::ErrorKind::NotFound => Self::NotFound(path),
            io::ErrorKind::NotADirectory => Self::NotADirectory(path),
            io::ErrorKind::IsADirectory => Self::NotAFile(path),
            io::ErrorKind::AlreadyExists => Self::Exists(path),
            io::ErrorKind::DirectoryNotEmpty => Self::NotEmpty(path),
            // What cap-std says of a path that leads out, through a link for example.
            io::ErrorKind::PermissionDenied | io::ErrorKind::InvalidInput | io::ErrorKind::InvalidFilename => {
                Self::InvalidPath(path)
            }
            _ => Self::Io(error),
        }
    }
}

/// How often at most the log says that files cannot be reached: guests can ask again thousands of times a second.
const FAILURES_LOGGED_EVERY: Duration = Duration::from_secs(1);

/// Says in the log that users' files cannot be reached, once in a while, with how often it was so.
pub(crate) fn log_failure(error: &io::Error) {
    static FAILURES: Failures = Failures(Mutex::new((None, 0)));
    if let Some(failures) = FAILURES.to_log(Instant::now()) {
        tracing::error!(%error, failures, "users' files cannot be reached");
    }
}

/// When a failure was logged last, and how many there have been since.
struct Failures(Mutex<(Option<Instant>, u64)>);

impl Failures {
    /// How many failures there are to tell of, if it is time to.
    fn to_log(&self, now: Instant) -> Option<u64> {
        let mut failures = lock(&self.0);
        failures.1 = failures.1.saturating_add(1);
        if failures.0.is_some_and(|last| now.saturating_duration_since(last) < FAILURES_LOGGED_EVERY) {
            return None;
        }
        failures.0 = Some(now);
        Some(std::mem::take(&mut failures.1))
    }
}

pub(crate) fn shown(path: &str) -> String {
    path.chars().take(PATH_BYTES_MAX).collect()
}

/// What a directory holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Listing {
    /// By name.
    pub entries: Vec<Entry>,
    /// Whether there is more than is shown.
    pub truncated: bool,
}

/// A file or directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// What it is.
    pub kind: EntryKind,
    /// A file's size; 0 for a directory.
    pub bytes: u64,
}

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum EntryKind {
    /// Has bytes.
    File,
    /// Has entries.
    Directory,
}

/// A part of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    /// The bytes.
    pub bytes: Vec<u8>,
    /// The size of the whole file.
    pub size: u64,
    /// Where the next part begins, if there is one.
    pub next_offset: Option<u64>,
}

/// Where workspaces are kept.
#[derive(Debug, Clone)]
pub enum WorkspaceRoot {
    /// Each user has a directory of their own below this one.
    PerUser(PathBuf),
    /// This directory is everybody's: for the `run` verb, which has one user.
    Single(PathBuf),
    /// There are no files.
    Nowhere,
}

/// The workspaces of all users.
#[derive(Debug)]
pub struct Workspaces {
    root: WorkspaceRoot,
    quotas: Arc<Quotas>,
    open: Mutex<HashMap<UserId, Arc<Shared>>>,
    turns: Arc<Semaphore>,
}

impl Workspaces {
    /// Below this root, each with its user's quota.
    #[must_use]
    pub fn new(root: WorkspaceRoot, quotas: Arc<Quotas>) -> Self {
        Self { root, quotas, open: Mutex::new(HashMap::new()), turns: Arc::new(Semaphore::new(HOST_TURNS_MAX)) }
    }

    /// One user's.
    #[must_use]
    pub fn of(&self, scope: &Scope) -> Workspace {
        let mut open = lock(&self.open);
        if let Some(shared) = open.get(scope.user()) {
            return Workspace(shared.clone());
        }
        if open.len() >= IDLE_MAX {
            open.retain(|_, shared| Arc::strong_count(shared) > 1);
        }
        let path = match &self.root {
            WorkspaceRoot::PerUser(root) => Some(root.join(scope.user().as_str())),
            WorkspaceRoot::Single(path) => Some(path.clone()),
            WorkspaceRoot::Nowhere => None,
        };
        let shared = Arc::new(Shared {
            tree: Arc::new(Tree::new(path, Room::workspace(self.quotas.of(scope.user())))),
            turns: Arc::new(Semaphore::new(USER_TURNS_MAX)),
            host_turns: self.turns.clone(),
        });
        open.insert(scope.user().clone(), shared.clone());
        Workspace(shared)
    }
}

/// One user's files. Every use of the same user's workspace shares one count of what is there.
#[derive(Debug, Clone)]
pub struct Workspace(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    tree: Arc<Tree>,
    turns: Arc<Semaphore>,
    host_turns: Arc<Semaphore>,
}

impl Workspace {
    /// What a directory holds; the empty path is the workspace itself.
    ///
    /// # Errors
    /// When the path is not one, or is no directory.
    pub async fn list(&self, path: &str) -> Result<Listing, FileError> {
        let path = path.to_owned();
        self.turn(move |tree| tree.list(&path)).await
    }

    /// What all of it takes of the user's quota: bytes and entries.
    ///
    /// # Errors
    /// When it cannot be counted.
    pub async fn held(&self) -> Result<(u64, u64), FileError> {
        self.turn(Tree::held_now).await
    }

    /// A part of a file, at most 4 MiB of it.
    ///
    /// # Errors
    /// When the path is not one, or is no file.
    pub async fn read(&self, path: &str, offset: u64, length: u64) -> Result<Chunk, FileError> {
        let path = path.to_owned();
        self.turn(move |tree| tree.read(&path, offset, length)).await
    }

    /// Replaces a file, or adds to its end, making directories on the way. Gives its size.
    ///
    /// # Errors
    /// When the path is not one or is a directory, or there is no room.
    pub async fn write(&self, path: &str, bytes: Bytes, append: bool) -> Result<u64, FileError> {
        let path = path.to_owned();
        let how = if append { Writing::Appended } else { Writing::Replaced };
        self.turn(move |tree| tree.write(&path, &bytes, how)).await
    }

    /// Writes a file in place of what was there, and returns once it is durable.
    ///
    /// # Errors
    /// As for [`write`](Self::write). Then the file may hold anything of what was written.
    pub async fn put(&self, path: &str, bytes: Bytes) -> Result<u64, FileError> {
        let path = path.to_owned();
        self.turn(move |tree| {
            let written = tree.write(&path, &bytes, Writing::Durable)?;
            tree.sync(&path)?;
            Ok(written)
        })
        .await
    }

    /// Removes a file or an empty directory, and returns once it is durably gone.
    ///
    /// # Errors
    /// When the path is not one, there is nothing there, or the directory is not empty.
    pub async fn remove(&self, path: &str) -> Result<(), FileError> {
        let path = path.to_owned();
        self.turn(move |tree| {
            tree.remove(&path)?;
            tree.sync(&path)
        })
        .await
    }

    /// The tree of files.
    pub(crate) fn tree(&self) -> &Arc<Tree> {
        &self.0.tree
    }

    /// Does something with these files when it is the user's turn, on a thread that may block.
    pub(crate) async fn turn<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Tree) -> Result<T, FileError> + Send + 'static,
    ) -> Result<T, FileError> {
        self.turn_with(self.0.tree.clone(), work).await
    }

    /// The same with other files of the same user's: a run's scratch. The turn lasts as long as the work does, also if
    /// nobody waits for it any more. A task of its own waits for it: a guest goes on only when it has a processor, and
    /// what was given to it before that would be kept from all others.
    #[expect(clippy::disallowed_methods, reason = "files block; the work is bounded by the sizes of one operation")]
    pub(crate) async fn turn_with<T: Send + 'static>(
        &self,
        tree: Arc<Tree>,
        work: impl FnOnce(&Tree) -> Result<T, FileError> + Send + 'static,
    ) -> Result<T, FileError> {
        let closed = |error| FileError::Io(io::Error::other(error));
        // The semaphores are never closed. The user's own comes first, so that one user's queue is not the host's.
        // As long as the work lasts, this is the user's one workspace, also if everybody else has let go of it: a second
        // one over the same directory would have books of its own.
        let remembered = self.clone();
        let turn = tokio::spawn(async move {
            let user = remembered.0.turns.clone().acquire_owned().await.map_err(closed)?;
            let host = remembered.0.host_turns.clone().acquire_owned().await.map_err(closed)?;
            let done = tokio::task::spawn_blocking(move || {
                let done = work(&tree);
                drop((user, host, remembered));
                done
            });
            done.await.unwrap_or_else(|error| Err(FileError::Io(io::Error::other(error))))
        });
        let done = AbortOnDropHandle::new(turn).await;
        done.unwrap_or_else(|error| Err(FileError::Io(io::Error::other(error))))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use cofferdam_core::{identity::Operator, quota::Quota};
    use std::path::Path;

    fn workspace(root: &Path, quota: &Quota) -> Workspace {
        let workspaces =
            Workspaces::new(WorkspaceRoot::PerUser(root.to_owned()), Arc::new(Quotas::same(quota.clone())));
        workspaces.of(&Operator::host().on_behalf_of(&"ann".parse().expect("a user id")))
    }

    #[tokio::test]
    async fn no_path_leads_out() {
        let root = tempfile::tempdir().expect("a directory");
        let files = workspace(root.path(), &Quota::default());
        files.write("a", Bytes::from_static(b"x"), false).await.expect("written");
        std::fs::write(root.path().join("secret"), "s").expect("written");
        std::os::unix::fs::symlink("../secret", root.path().join("ann/link")).expect("linked");
        std::os::unix::fs::symlink("..", root.path().join("ann/up")).expect("linked");
        let long = "a/".repeat(40) + "a";
        for path in
            ["", "..", "../secret", "/etc/passwd", "a/../../secret", "./a", "a//b", "a\0", "link", "up/secret", &long]
        {
            assert!(files.read(path, 0, 10).await.is_err(), "{path:?} was read");
            assert!(files.write(path, Bytes::from_static(b"x"), false).await.is_err(), "{path:?} was written");
            assert!(files.remove(path).await.is_err() || path == "link" || path == "up", "{path:?} was removed");
        }
        assert_eq!(std::fs::read_to_string(root.path().join("secret")).expect("still there"), "s");
    }

    #[tokio::test]
    async fn a_workspace_is_remembered_while_work_goes_on_in_it_that_nobody_waits_for() {
        let root = tempfile::tempdir().expect("a directory");
        let workspaces =
            Workspaces::new(WorkspaceRoot::PerUser(root.path().to_owned()), Arc::new(Quotas::same(Quota::default())));
        let of = |user: &str| workspaces.of(&Operator::host().on_behalf_of(&user.parse().expect("a user id")));
        let (goes_on, ends) = std::sync::mpsc::sync_channel::<()>(1);
        let (begun, begins) = tokio::sync::oneshot::channel();
        let files = of("ann");
        let (tree, address) = (files.tree().clone(), Arc::as_ptr(files.tree()));
        let work = move |_: &Tree| {
            let _ = begun.send(());
            let _ = ends.recv();
            Ok(())
        };
        {
            let mut work = Box::pin(files.turn_with(tree, work));
            tokio::select! {
                _ = &mut work => panic!("it goes on until it is told"),
                begun = begins => begun.expect("begun"),
            }
        }
        drop(files);
        for n in 0..2 * IDLE_MAX {
            of(&format!("user-{n}"));
        }
        assert_eq!(Arc::as_ptr(of("ann").tree()), address, "two have books of the same directory");
        goes_on.send(()).expect("heard");
    }

    #[tokio::test]
    async fn the_quota_counts_bytes_and_entries_and_gives_back() {
        let root = tempfile::tempdir().expect("a directory");
        let files = workspace(root.path(), &Quota { workspace_bytes: 10, workspace_files: 3, ..Quota::default() });
        let text = |n| Bytes::from("x".repeat(n));
        assert_eq!(files.write("d/a", text(6), false).await.expect("room"), 6);
        assert_eq!(files.write("d/a", text(4), true).await.expect("room"), 10);
        assert!(matches!(files.write("d/a", text(1), true).await, Err(FileError::Full { limit: "bytes", .. })));
        assert_eq!(files.write("d/a", text(5), false).await.expect("replaced"), 5);
        assert_eq!(files.write("b", text(5), false).await.expect("room"), 5);
        assert!(matches!(files.write("c", text(0), false).await, Err(FileError::Full { limit: "entries", .. })));
        files.remove("b").await.expect("removed");
        assert_eq!(files.write("c", text(5), false).await.expect("room again"), 5);
        drop(files);
        let again = workspace(root.path(), &Quota { workspace_bytes: 10, workspace_files: 3, ..Quota::default() });
        assert!(again.write("c", text(1), true).await.is_err(), "what was there is counted on opening");
    }

    #[test]
    fn failures_are_logged_once_in_a_while_with_their_number() {
        let (failures, now) = (Failures(Mutex::new((None, 0))), Instant::now());
        assert_eq!(failures.to_log(now), Some(1));
        for _ in 0..2_000 {
            assert_eq!(failures.to_log(now), None);
        }
        assert_eq!(failures.to_log(now + FAILURES_LOGGED_EVERY), Some(2_001));
    }

    #[tokio::test]
    async fn reads_come_in_parts_and_lists_in_order() {
        let root = tempfile::tempdir().expect("a directory");
        let files = workspace(root.path(), &Quota::default());
        files.write("b/x", Bytes::from_static(b"hello"), false).await.expect("written");
        files.write("a", Bytes::new(), false).await.expect("written");
        let part = files.read("b/x", 1, 3).await.expect("read");
        assert_eq!((part.bytes.as_slice(), part.size, part.next_offset), (&b"ell"[..], 5, Some(4)));
        assert_eq!(files.read("b/x", 9, 3).await.expect("read").next_offset, None);
        let names: Vec<_> =
            files.list("").await.expect("listed").entries.into_iter().map(|e| (e.name, e.kind)).collect();
        assert_eq!(names, [("a".to_owned(), EntryKind::File), ("b".to_owned(), EntryKind::Directory)]);
        assert!(matches!(files.list("a").await, Err(FileError::NotADirectory(_))));
        assert!(matches!(files.list("z").await, Err(FileError::NotFound(_))));
    }
}
