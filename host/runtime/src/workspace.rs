//! A user's files: the only directory that a user's agents and the user themself can reach, through cap-std, so that no
//! path leads out of it, and within the user's quota of bytes and entries.

use bytes::Bytes;
use cap_std::{ambient_authority, fs::Dir};
use cofferdam_core::{fault::Fault, identity::Scope, ids::UserId, quota::Quota};
use serde::Serialize;
use std::{
    collections::HashMap,
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::Semaphore;

/// Entries shown of one directory. A larger one is cut, and says so.
pub const LISTED_MAX: usize = 1_000;
/// The longest path, in bytes.
const PATH_BYTES_MAX: usize = 1_024;
/// The deepest path, in names.
const PATH_DEPTH_MAX: usize = 32;
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
            Self::InvalidPath(_) | Self::NotAFile(_) | Self::NotADirectory(_) => Fault::Caller,
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
            Self::Full { .. } => "workspace_full",
            Self::Io(_) => "storage_failed",
        }
    }

    fn of(path: &str, error: io::Error) -> Self {
        // The path came from outside; an error repeats no more of it than a path can have.
        let path = shown(path);
        match error.kind() {
            io::ErrorKind::NotFound => Self::NotFound(path),
            io::ErrorKind::NotADirectory => Self::NotADirectory(path),
            io::ErrorKind::IsADirectory => Self::NotAFile(path),
            // What cap-std says of a path that leads out, through a link for example.
            io::ErrorKind::PermissionDenied | io::ErrorKind::InvalidInput | io::ErrorKind::InvalidFilename => {
                Self::InvalidPath(path)
            }
            _ => Self::Io(error),
        }
    }
}

fn shown(path: &str) -> String {
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
    bytes_max: u64,
    entries_max: u64,
    open: Mutex<HashMap<UserId, Arc<Shared>>>,
    turns: Arc<Semaphore>,
}

impl Workspaces {
    /// Below this root, each with the quota's bounds.
    #[must_use]
    pub fn new(root: WorkspaceRoot, quota: &Quota) -> Self {
        Self {
            root,
            bytes_max: quota.workspace_bytes,
            entries_max: quota.workspace_files,
            open: Mutex::new(HashMap::new()),
            turns: Arc::new(Semaphore::new(HOST_TURNS_MAX)),
        }
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
            path,
            bytes_max: self.bytes_max,
            entries_max: self.entries_max,
            held: Mutex::default(),
            turns: Semaphore::new(USER_TURNS_MAX),
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
    path: Option<PathBuf>,
    bytes_max: u64,
    entries_max: u64,
    /// Counted when the workspace is first used, and kept up to date by what is written through it. One write at a time:
    /// the lock is what makes the quota hold.
    held: Mutex<Option<Held>>,
    turns: Semaphore,
    host_turns: Arc<Semaphore>,
}

#[derive(Debug)]
struct Held {
    dir: Dir,
    bytes: u64,
    entries: u64,
}

impl Workspace {
    /// What a directory holds; the empty path is the workspace itself.
    ///
    /// # Errors
    /// When the path is not one, or is no directory.
    pub async fn list(&self, path: &str) -> Result<Listing, FileError> {
        let path = path.to_owned();
        self.blocking(move |shared| shared.list(&path)).await
    }

    /// A part of a file, at most 4 MiB of it.
    ///
    /// # Errors
    /// When the path is not one, or is no file.
    pub async fn read(&self, path: &str, offset: u64, length: u64) -> Result<Chunk, FileError> {
        let path = path.to_owned();
        self.blocking(move |shared| shared.read(&path, offset, length)).await
    }

    /// Replaces a file, or adds to its end, making directories on the way. Gives its size.
    ///
    /// # Errors
    /// When the path is not one or is a directory, or there is no room.
    pub async fn write(&self, path: &str, bytes: Bytes, append: bool) -> Result<u64, FileError> {
        let path = path.to_owned();
        self.blocking(move |shared| shared.write(&path, &bytes, append)).await
    }

    /// Removes a file or an empty directory.
    ///
    /// # Errors
    /// When the path is not one, there is nothing there, or the directory is not empty.
    pub async fn remove(&self, path: &str) -> Result<(), FileError> {
        let path = path.to_owned();
        self.blocking(move |shared| shared.remove(&path)).await
    }

    #[expect(clippy::disallowed_methods, reason = "files block; the work is bounded by the sizes above")]
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Shared) -> Result<T, FileError> + Send + 'static,
    ) -> Result<T, FileError> {
        let shared = self.0.clone();
        // The semaphores are never closed. The user's own comes first, so that one user's queue is not the host's.
        let _user = self.0.turns.acquire().await.map_err(|error| FileError::Io(io::Error::other(error)))?;
        let _host = self.0.host_turns.acquire().await.map_err(|error| FileError::Io(io::Error::other(error)))?;
        match tokio::task::spawn_blocking(move || work(&shared)).await {
            Ok(done) => done,
            Err(error) => Err(FileError::Io(io::Error::other(error))),
        }
    }
}

impl Shared {
    /// The open directory and what it holds, counted if it was not yet.
    fn held(&self) -> Result<(MutexGuard<'_, Option<Held>>, Dir), FileError> {
        let mut held = lock(&self.held);
        if held.is_none() {
            let path = self.path.as_ref().ok_or_else(|| FileError::NotFound(String::new()))?;
            std::fs::create_dir_all(path).map_err(FileError::Io)?;
            let dir = Dir::open_ambient_dir(path, ambient_authority()).map_err(FileError::Io)?;
            let (mut bytes, mut entries) = (0, 0);
            count(&dir, 0, self.entries_max, &mut bytes, &mut entries).map_err(FileError::Io)?;
            *held = Some(Held { dir, bytes, entries });
        }
        let dir = match held.as_ref() {
            Some(held) => held.dir.try_clone().map_err(FileError::Io)?,
            None => return Err(FileError::NotFound(String::new())),
        };
        Ok((held, dir))
    }

    fn list(&self, path: &str) -> Result<Listing, FileError> {
        let (held, dir) = self.held()?;
        drop(held);
        let of = |error| FileError::of(path, error);
        let dir = if path.is_empty() { dir } else { dir.open_dir(checked(path)?).map_err(of)? };
        // Names first, and of those the first by order, so that a large directory costs no more than its names.
        let mut names = Vec::new();
        for entry in dir.entries().map_err(of)? {
            // A name that is not text cannot be asked for through a text interface.
            if let Ok(name) = entry.map_err(of)?.file_name().into_string() {
                names.push(name);
                if names.len() >= 4 * LISTED_MAX {
                    keep_first(&mut names, LISTED_MAX + 1);
                }
            }
        }
        keep_first(&mut names, LISTED_MAX + 1);
        let truncated = names.len() > LISTED_MAX;
        names.truncate(LISTED_MAX);
        let entries = names.into_iter().filter_map(|name| entry(&dir, name)).collect();
        Ok(Listing { entries, truncated })
    }

    fn read(&self, path: &str, offset: u64, length: u64) -> Result<Chunk, FileError> {
        let (held, dir) = self.held()?;
        drop(held);
        let of = |error| FileError::of(path, error);
        let path_checked = checked(path)?;
        // Looked at before it is opened: opening a pipe waits for whoever writes into it.
        let metadata = dir.metadata(path_checked).map_err(of)?;
        if !metadata.is_file() {
            return Err(FileError::NotAFile(shown(path)));
        }
        let mut file = dir.open(path_checked).map_err(of)?;
        file.seek(SeekFrom::Start(offset)).map_err(of)?;
        let mut bytes = Vec::new();
        file.take(length.min(READ_BYTES_MAX)).read_to_end(&mut bytes).map_err(of)?;
        let (size, end) = (metadata.len(), offset.saturating_add(bytes.len() as u64));
        Ok(Chunk { bytes, size, next_offset: (end < size).then_some(end) })
    }

    fn write(&self, path: &str, bytes: &[u8], append: bool) -> Result<u64, FileError> {
        let path = checked(path)?;
        let text = path.to_string_lossy();
        let of = |error| FileError::of(&text, error);
        let (mut guard, dir) = self.held()?;
        let Some(held) = guard.as_mut() else { return Err(FileError::NotFound(String::new())) };
        let before = match dir.metadata(path) {
            Ok(metadata) if metadata.is_file() => Some(metadata.len()),
            Ok(_) => return Err(FileError::NotAFile(shown(&text))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(of(error)),
        };
        let kept = if append { before.unwrap_or(0) } else { 0 };
        let after = kept.saturating_add(bytes.len() as u64);
        let total = held.bytes.saturating_sub(before.unwrap_or(0)).saturating_add(after);
        if total > self.bytes_max {
            return Err(FileError::Full { limit: "bytes", max: self.bytes_max });
        }
        let missing = missing_parents(&dir, path);
        let entries = held.entries + u64::from(before.is_none()) + missing;
        if entries > self.entries_max {
            return Err(FileError::Full { limit: "entries", max: self.entries_max });
        }
        // Charged first: what a failure leaves behind is counted anew when the workspace is next opened.
        (held.bytes, held.entries) = (total, entries);
        let written = (|| {
            if missing > 0
                && let Some(parent) = path.parent()
            {
                dir.create_dir_all(parent)?;
            }
            let mut options = cap_std::fs::OpenOptions::new();
            options.write(true).create(true).append(append).truncate(!append);
            dir.open_with(path, &options)?.write_all(bytes)
        })();
        if let Err(error) = written {
            *guard = None;
            return Err(of(error));
        }
        Ok(after)
    }

    fn remove(&self, path: &str) -> Result<(), FileError> {
        let path = checked(path)?;
        let text = path.to_string_lossy();
        let of = |error| FileError::of(&text, error);
        let (mut guard, dir) = self.held()?;
        let Some(held) = guard.as_mut() else { return Err(FileError::NotFound(String::new())) };
        let metadata = dir.symlink_metadata(path).map_err(of)?;
        if metadata.is_dir() {
            dir.remove_dir(path).map_err(|error| match error.kind() {
                io::ErrorKind::DirectoryNotEmpty => FileError::NotAFile(shown(&text)),
                _ => of(error),
            })?;
        } else {
            dir.remove_file(path).map_err(of)?;
            held.bytes = held.bytes.saturating_sub(metadata.len());
        }
        held.entries = held.entries.saturating_sub(1);
        Ok(())
    }
}

/// Sorts, and keeps the first.
fn keep_first(names: &mut Vec<String>, count: usize) {
    names.sort_unstable();
    names.truncate(count);
}

/// What a name stands for; none if it went away, or is neither a file nor a directory.
fn entry(dir: &Dir, name: String) -> Option<Entry> {
    let metadata = dir.metadata(&name).ok()?;
    if metadata.is_file() {
        return Some(Entry { name, kind: EntryKind::File, bytes: metadata.len() });
    }
    metadata.is_dir().then_some(Entry { name, kind: EntryKind::Directory, bytes: 0 })
}

/// Adds up what a directory holds. Stops past the limit: then there is no room, however much more there is.
fn count(dir: &Dir, depth: usize, entries_max: u64, bytes: &mut u64, entries: &mut u64) -> io::Result<()> {
    if depth > PATH_DEPTH_MAX {
        return Ok(());
    }
    for entry in dir.entries()? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        *entries += 1;
        if *entries > entries_max {
            return Ok(());
        }
        if metadata.is_file() {
            *bytes = bytes.saturating_add(metadata.len());
        } else if metadata.is_dir() {
            count(&entry.open_dir()?, depth + 1, entries_max, bytes, entries)?;
        }
    }
    Ok(())
}

/// A path of plain names, so that what cap-std forbids at the system's edge is refused with a clear word first.
fn checked(path: &str) -> Result<&Path, FileError> {
    let names = path.split('/');
    let plain = |name: &str| !name.is_empty() && name != "." && name != ".." && !name.contains(['\0', '\\']);
    let valid = path.len() <= PATH_BYTES_MAX && names.clone().count() <= PATH_DEPTH_MAX && names.clone().all(plain);
    if valid { Ok(Path::new(path)) } else { Err(FileError::InvalidPath(shown(path))) }
}

/// How many directories have to be made for a path.
fn missing_parents(dir: &Dir, path: &Path) -> u64 {
    let parents = path.ancestors().skip(1).filter(|parent| !parent.as_os_str().is_empty());
    parents.take_while(|parent| !dir.exists(parent)).count() as u64
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use cofferdam_core::identity::Operator;

    fn workspace(root: &Path, quota: &Quota) -> Workspace {
        let workspaces = Workspaces::new(WorkspaceRoot::PerUser(root.to_owned()), quota);
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
