//! A directory tree with a quota: the only code that touches users' files. Bytes and entries are charged before anything
//! is written, under one lock, so that nothing gets around the quota by being quick; cap-std keeps every path inside.
//!
//! A file that a guest has open is a path and the number of the file that was there: nothing stays open on the host, so
//! that no guest can take its file descriptors, and whoever removes a file has freed its bytes.

use crate::workspace::{
    Chunk, Entry, EntryKind, FileError, LISTED_MAX, Listing, PATH_BYTES_MAX, PATH_DEPTH_MAX, READ_BYTES_MAX, shown,
};
use cap_std::{
    ambient_authority,
    fs::{Dir, File, FileType, Metadata, MetadataExt as _, OpenOptions},
};
use std::{
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

/// A directory tree on the host's disk, and what it may hold.
#[derive(Debug)]
pub struct Tree {
    path: Option<PathBuf>,
    bytes_max: u64,
    entries_max: u64,
    /// Counted when the tree is first used, and kept up to date by what is written through it. One change at a time: the
    /// lock is what makes the quota hold.
    held: Mutex<Option<Held>>,
    /// Removed from the disk when nobody uses it any more.
    is_temporary: bool,
}

impl Drop for Tree {
    /// Whoever lets go of a tree last may be a thread that must not block; removing takes as long as the entries that the
    /// quota allows.
    fn drop(&mut self) {
        let made = self.held.get_mut().unwrap_or_else(PoisonError::into_inner).take().is_some();
        let Some(path) = self.path.take().filter(|_| made && self.is_temporary) else { return };
        let remove = move || {
            if let Err(error) = std::fs::remove_dir_all(&path) {
                tracing::warn!(path = %path.display(), %error, "a scratch directory is left behind until the next start");
            }
        };
        match tokio::runtime::Handle::try_current() {
            Ok(handle) => drop(handle.spawn_blocking(remove)),
            Err(_) => remove(),
        }
    }
}

#[derive(Debug)]
struct Held {
    dir: Dir,
    bytes: u64,
    entries: u64,
}

/// What is at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Node {
    pub kind: EntryKind,
    /// A file's size; 0 for a directory.
    pub bytes: u64,
    /// Tells a file from another that later has its path.
    pub number: u64,
    pub modified: Option<SystemTime>,
}

/// How a path is opened.
#[derive(Debug, Clone, Copy, Default)]
pub struct Opening {
    /// Make a file if there is nothing.
    pub create: bool,
    /// With `create`: there must be nothing.
    pub exclusive: bool,
    /// Empty the file.
    pub truncate: bool,
    /// There must be a directory.
    pub directory: bool,
}

/// Where bytes are written.
#[derive(Debug, Clone, Copy)]
pub enum At {
    /// From this offset on.
    Offset(u64),
    /// At the end of the file, wherever that is by then.
    End,
}

impl Tree {
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

    pub fn list(&self, path: &str) -> Result<Listing, FileError> {
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

    pub fn read(&self, path: &str, offset: u64, length: u64) -> Result<Chunk, FileError> {
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

    pub fn write(&self, path: &str, bytes: &[u8], append: bool) -> Result<u64, FileError> {
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

    /// Makes durable what is at a path, or that nothing is there any more: the file, and the names on the way to it.
    pub fn sync(&self, path: &str) -> Result<(), FileError> {
        let path = checked(path)?;
        let (held, dir) = self.held()?;
        drop(held);
        let synced = || {
            // Only files are opened: opening a pipe waits for whoever writes into it.
            if dir.symlink_metadata(path).is_ok_and(|metadata| metadata.is_file()) {
                sync_opened(dir.open(path))?;
            }
            for parent in path.ancestors().skip(1) {
                sync_opened(dir.open(if parent.as_os_str().is_empty() { Path::new(".") } else { parent }))?;
            }
            // The tree itself was made when it was first used, and the directory of all trees with it.
            let above = self.path.iter().flat_map(|path| path.ancestors().skip(1).take(2));
            for dir in above.filter(|dir| !dir.as_os_str().is_empty()) {
                std::fs::File::open(dir)?.sync_all()?;
            }
            Ok(())
        };
        synced().map_err(|error| FileError::of(&path.to_string_lossy(), error))
    }

    pub fn remove(&self, path: &str) -> Result<(), FileError> {
        let path = checked(path)?;
        let text = path.to_string_lossy();
        let of = |error| FileError::of(&text, error);
        let (mut guard, dir) = self.held()?;
        let Some(held) = guard.as_mut() else { return Err(FileError::NotFound(String::new())) };
        let metadata = dir.symlink_metadata(path).map_err(of)?;
        if metadata.is_dir() {
            dir.remove_dir(path).map_err(of)?;
        } else {
            dir.remove_file(path).map_err(of)?;
            held.bytes = held.bytes.saturating_sub(metadata.len());
        }
        held.entries = held.entries.saturating_sub(1);
        Ok(())
    }

    /// A tree at this path, which is made when it is first used; without a path there are no files.
    pub const fn new(path: Option<PathBuf>, bytes_max: u64, entries_max: u64) -> Self {
        Self { path, bytes_max, entries_max, held: Mutex::new(None), is_temporary: false }
    }

    /// A tree that is removed when nobody uses it any more.
    pub const fn temporary(path: PathBuf, bytes_max: u64, entries_max: u64) -> Self {
        Self { path: Some(path), bytes_max, entries_max, held: Mutex::new(None), is_temporary: true }
    }

    /// What is at a path; the empty path is the tree itself.
    pub fn stat(&self, path: &str) -> Result<Node, FileError> {
        let (held, dir) = self.held()?;
        drop(held);
        node(&dir, path)
    }

    /// Opens what is at a path, or makes a file there.
    pub fn open(&self, path: &str, opening: Opening) -> Result<Node, FileError> {
        let (mut guard, dir) = self.held()?;
        let Some(held) = guard.as_mut() else { return Err(FileError::NotFound(shown(path))) };
        let there = match node(&dir, path) {
            Ok(_) if opening.create && opening.exclusive => return Err(FileError::Exists(shown(path))),
            Ok(there) => there,
            Err(FileError::NotFound(_)) if opening.create && !opening.directory => {
                checked(path)?;
                self.charge(held, 0, 1)?;
                let made = dir.open_with(path, OpenOptions::new().write(true).create_new(true));
                if let Err(error) = made {
                    held.entries -= 1;
                    return Err(FileError::of(path, error));
                }
                return node(&dir, path);
            }
            Err(error) => return Err(error),
        };
        match there.kind {
            EntryKind::File if opening.directory => return Err(FileError::NotADirectory(shown(path))),
            EntryKind::Directory if opening.truncate || opening.create => return Err(FileError::NotAFile(shown(path))),
            _ => {}
        }
        if opening.truncate {
            file(&dir, path, there.number, true)?.0.set_len(0).map_err(|error| FileError::of(path, error))?;
            held.bytes = held.bytes.saturating_sub(there.bytes);
            return Ok(Node { bytes: 0, ..there });
        }
        Ok(there)
    }

    /// A part of an open file, and whether the file ends there.
    pub fn read_at(&self, path: &str, number: u64, offset: u64, length: u64) -> Result<(Vec<u8>, bool), FileError> {
        let (held, dir) = self.held()?;
        drop(held);
        let of = |error| FileError::of(path, error);
        let (mut file, size) = file(&dir, path, number, false)?;
        let mut bytes = Vec::new();
        if offset < size {
            file.seek(SeekFrom::Start(offset)).map_err(of)?;
            file.take(length).read_to_end(&mut bytes).map_err(of)?;
        }
        let end = offset.saturating_add(bytes.len() as u64) >= size;
        Ok((bytes, end))
    }

    /// Writes into an open file, and gives the offset after what was written. What lies between the file's end and the
    /// offset becomes part of the file, and is charged as if it had been written.
    pub fn write_at(&self, path: &str, number: u64, at: At, bytes: &[u8]) -> Result<u64, FileError> {
        let of = |error| FileError::of(path, error);
        let (mut guard, dir) = self.held()?;
        let Some(held) = guard.as_mut() else { return Err(FileError::NotFound(shown(path))) };
        let (mut file, size) = file(&dir, path, number, true)?;
        let offset = match at {
            At::Offset(offset) => offset,
            At::End => size,
        };
        let end = offset.checked_add(bytes.len() as u64).ok_or(self.full("bytes", self.bytes_max))?;
        self.charge(held, end.saturating_sub(size), 0)?;
        let written = file.seek(SeekFrom::Start(offset)).and_then(|_| file.write_all(bytes));
        if let Err(error) = written {
            // What a failure leaves behind is counted anew.
            *guard = None;
            return Err(of(error));
        }
        Ok(end)
    }

    /// Cuts an open file, or fills it up with zeros, which are charged.
    pub fn set_size(&self, path: &str, number: u64, size: u64) -> Result<(), FileError> {
        let (mut guard, dir) = self.held()?;
        let Some(held) = guard.as_mut() else { return Err(FileError::NotFound(shown(path))) };
        let (file, before) = file(&dir, path, number, true)?;
        self.charge(held, size.saturating_sub(before), 0)?;
        if let Err(error) = file.set_len(size) {
            *guard = None;
            return Err(FileError::of(path, error));
        }
        held.bytes = held.bytes.saturating_sub(before.saturating_sub(size));
        Ok(())
    }

    /// Makes a directory.
    pub fn make_dir(&self, path: &str) -> Result<(), FileError> {
        let (mut guard, dir) = self.held()?;
        let Some(held) = guard.as_mut() else { return Err(FileError::NotFound(shown(path))) };
        checked(path)?;
        match node(&dir, path) {
            Ok(_) => return Err(FileError::Exists(shown(path))),
            Err(FileError::NotFound(_)) => {}
            Err(error) => return Err(error),
        }
        self.charge(held, 0, 1)?;
        dir.create_dir(path).map_err(|error| {
            held.entries -= 1;
            FileError::of(path, error)
        })
    }

    /// Removes what is of this kind: a file, or an empty directory.
    pub fn remove_kind(&self, path: &str, kind: EntryKind) -> Result<(), FileError> {
        let (mut guard, dir) = self.held()?;
        let Some(held) = guard.as_mut() else { return Err(FileError::NotFound(shown(path))) };
        checked(path)?;
        let there = node(&dir, path)?;
        let removed = match (there.kind, kind) {
            (EntryKind::File, EntryKind::File) => dir.remove_file(path),
            (EntryKind::Directory, EntryKind::Directory) => dir.remove_dir(path),
            (EntryKind::Directory, EntryKind::File) => return Err(FileError::NotAFile(shown(path))),
            (EntryKind::File, EntryKind::Directory) => return Err(FileError::NotADirectory(shown(path))),
        };
        removed.map_err(|error| FileError::of(path, error))?;
        held.bytes = held.bytes.saturating_sub(there.bytes);
        held.entries = held.entries.saturating_sub(1);
        Ok(())
    }

    /// Moves a file or directory within the tree. A file, or an empty directory, that is there gives way to its own kind.
    pub fn rename(&self, from: &str, to: &str) -> Result<(), FileError> {
        let (mut guard, dir) = self.held()?;
        let Some(held) = guard.as_mut() else { return Err(FileError::NotFound(shown(from))) };
        checked(from)?;
        checked(to)?;
        let moved = node(&dir, from)?;
        if from == to {
            return Ok(());
        }
        let replaced = match node(&dir, to) {
            Ok(there) => Some(there),
            Err(FileError::NotFound(_)) => None,
            Err(error) => return Err(error),
        };
        match (moved.kind, replaced.map(|there| there.kind)) {
            (EntryKind::File, Some(EntryKind::Directory)) => return Err(FileError::NotAFile(shown(to))),
            (EntryKind::Directory, Some(EntryKind::File)) => return Err(FileError::NotADirectory(shown(to))),
            _ => {}
        }
        if moved.kind == EntryKind::Directory {
            let below =
                dir.open_dir(from).and_then(|below| depth(&below)).map_err(|error| FileError::of(from, error))?;
            // Deeper than any path can say, nothing could be counted or removed any more.
            if to.split('/').count() + below > PATH_DEPTH_MAX {
                return Err(FileError::InvalidPath(shown(to)));
            }
        }
        dir.rename(from, &dir, to).map_err(|error| FileError::of(to, error))?;
        if let Some(replaced) = replaced {
            held.bytes = held.bytes.saturating_sub(replaced.bytes);
            held.entries = held.entries.saturating_sub(1);
        }
        Ok(())
    }

    /// All names of a directory with what they are, sorted. A directory with more entries than the tree may hold, which
    /// an operator can have filled, is refused.
    pub fn names(&self, path: &str) -> Result<Vec<(String, EntryKind)>, FileError> {
        let (held, dir) = self.held()?;
        drop(held);
        let of = |error| FileError::of(path, error);
        let dir = if path.is_empty() { dir } else { dir.open_dir(checked(path)?).map_err(of)? };
        let mut names = Vec::new();
        for entry in dir.entries().map_err(of)? {
            let entry = entry.map_err(of)?;
            let Some(kind) = kind(entry.file_type().map_err(of)?) else { continue };
            if let Ok(name) = entry.file_name().into_string() {
                if names.len() as u64 >= self.entries_max {
                    return Err(self.full("entries", self.entries_max));
                }
                names.push((name, kind));
            }
        }
        names.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        Ok(names)
    }

    const fn full(&self, limit: &'static str, max: u64) -> FileError {
        FileError::Full { limit, max }
    }

    /// Takes so much of the quota, or nothing.
    fn charge(&self, held: &mut Held, bytes: u64, entries: u64) -> Result<(), FileError> {
        let total = held.bytes.checked_add(bytes).filter(|total| bytes == 0 || *total <= self.bytes_max);
        let total = total.ok_or(self.full("bytes", self.bytes_max))?;
        if entries > 0 && held.entries + entries > self.entries_max {
            return Err(self.full("entries", self.entries_max));
        }
        held.bytes = total;
        held.entries += entries;
        Ok(())
    }
}

/// What a file's type is here. Links, pipes, sockets and devices, which only an operator can have put there, are nothing.
fn kind(of: FileType) -> Option<EntryKind> {
    if of.is_file() { Some(EntryKind::File) } else { of.is_dir().then_some(EntryKind::Directory) }
}

/// What is at a path, without following a link at its end.
fn node(dir: &Dir, path: &str) -> Result<Node, FileError> {
    let metadata = if path.is_empty() { dir.dir_metadata() } else { dir.symlink_metadata(checked(path)?) };
    of_metadata(path, &metadata.map_err(|error| FileError::of(path, error))?)
}

fn of_metadata(path: &str, metadata: &Metadata) -> Result<Node, FileError> {
    let kind = kind(metadata.file_type()).ok_or_else(|| FileError::InvalidPath(shown(path)))?;
    Ok(Node {
        kind,
        bytes: if kind == EntryKind::File { metadata.len() } else { 0 },
        number: metadata.ino(),
        modified: metadata.modified().ok().map(cap_std::time::SystemTime::into_std),
    })
}

/// The file that was at a path when it was opened, and its size. Looked at before it is opened, because opening a pipe
/// waits for whoever writes into it.
fn file(dir: &Dir, path: &str, number: u64, write: bool) -> Result<(File, u64), FileError> {
    let there = node(dir, path)?;
    if there.kind != EntryKind::File {
        return Err(FileError::NotAFile(shown(path)));
    }
    let of = |error| FileError::of(path, error);
    let file = dir.open_with(path, OpenOptions::new().read(!write).write(write)).map_err(of)?;
    let metadata = file.metadata().map_err(of)?;
    if metadata.ino() != number {
        return Err(FileError::NotFound(shown(path)));
    }
    Ok((file, metadata.len()))
}

/// How many levels of entries there are below a directory.
fn depth(dir: &Dir) -> io::Result<usize> {
    let mut deepest = 0;
    for entry in dir.entries()? {
        let entry = entry?;
        let below = if entry.file_type()?.is_dir() { depth(&entry.open_dir()?)? } else { 0 };
        deepest = deepest.max(below + 1);
    }
    Ok(deepest)
}

/// A path as a guest says it from one of its directories, as a path from the tree's root; empty for the root itself. By
/// names alone: there are no links for guests, so `..` means the same to the disk.
pub fn joined(from: &str, path: &str) -> Result<String, FileError> {
    if path.len() > PATH_BYTES_MAX || path.starts_with('/') || path.contains('\0') {
        return Err(FileError::InvalidPath(shown(path)));
    }
    let mut names: Vec<&str> = from.split('/').filter(|name| !name.is_empty()).collect();
    for name in path.split('/') {
        match name {
            "" | "." => {}
            ".." => {
                names.pop().ok_or_else(|| FileError::InvalidPath(shown(path)))?;
            }
            name => names.push(name),
        }
    }
    let joined = names.join("/");
    if !joined.is_empty() {
        checked(&joined)?;
    }
    Ok(joined)
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

/// What is gone by now needs no sync: whoever removed it says so to the directory.
fn sync_opened(opened: io::Result<File>) -> io::Result<()> {
    match opened {
        Ok(file) => file.sync_all(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
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

    const CREATE: Opening = Opening { create: true, exclusive: false, truncate: false, directory: false };

    fn tree(bytes_max: u64, entries_max: u64) -> (tempfile::TempDir, Tree) {
        let root = tempfile::tempdir().expect("a directory");
        let tree = Tree::new(Some(root.path().join("tree")), bytes_max, entries_max);
        (root, tree)
    }

    fn held(tree: &Tree) -> (u64, u64) {
        let held = lock(&tree.held);
        held.as_ref().map_or((0, 0), |held| (held.bytes, held.entries))
    }

    /// What is really there, as it is counted when a tree is first used.
    fn counted(tree: &Tree) -> (u64, u64) {
        *lock(&tree.held) = None;
        drop(tree.held().expect("counted"));
        held(tree)
    }

    #[test]
    fn every_way_to_write_is_charged_before_it_happens() {
        let (_root, tree) = tree(100, 4);
        let file = tree.open("a", CREATE).expect("made").number;
        assert_eq!(tree.write_at("a", file, At::Offset(0), &[1; 60]).expect("room"), 60);
        assert_eq!(tree.write_at("a", file, At::End, &[2; 40]).expect("room"), 100);
        assert!(matches!(tree.write_at("a", file, At::End, b"x"), Err(FileError::Full { limit: "bytes", max: 100 })));
        assert!(tree.write_at("a", file, At::Offset(100), b"x").is_err(), "and so is an offset");
        assert!(tree.write_at("a", file, At::Offset(u64::MAX), b"x").is_err(), "also one beyond all numbers");
        assert_eq!(tree.write_at("a", file, At::Offset(0), &[3; 100]).expect("in place"), 100);
        assert!(tree.set_size("a", file, 101).is_err());
        tree.set_size("a", file, 10).expect("shorter");
        // A hole is charged as what it says it is.
        assert_eq!(tree.write_at("a", file, At::Offset(98), b"xx").expect("room"), 100);
        assert!(tree.set_size("a", file, u64::MAX).is_err());
        assert_eq!(held(&tree), (100, 1));
        tree.make_dir("d").expect("room");
        tree.open("d/b", CREATE).expect("room");
        tree.open("d/c", CREATE).expect("room");
        assert!(matches!(tree.make_dir("e"), Err(FileError::Full { limit: "entries", max: 4 })));
        assert!(matches!(tree.open("e", CREATE), Err(FileError::Full { limit: "entries", max: 4 })));
        tree.rename("a", "d/b").expect("replaced");
        assert_eq!(held(&tree), (100, 3));
        tree.open("d/b", Opening { truncate: true, ..CREATE }).expect("emptied");
        assert_eq!(held(&tree), (0, 3));
        assert_eq!(counted(&tree), (0, 3));
    }

    #[test]
    fn an_open_file_that_is_removed_or_replaced_is_gone_and_its_bytes_are_free() {
        let (_root, tree) = tree(100, 10);
        for _ in 0..50 {
            let file = tree.open("a", CREATE).expect("room").number;
            tree.write_at("a", file, At::Offset(0), &[1; 100]).expect("room again");
            tree.remove_kind("a", EntryKind::File).expect("removed");
            assert!(matches!(tree.write_at("a", file, At::Offset(0), b"x"), Err(FileError::NotFound(_))));
        }
        let (old, new) =
            (tree.open("old", CREATE).expect("made").number, tree.open("new", CREATE).expect("made").number);
        tree.rename("new", "old").expect("replaced");
        assert!(tree.read_at("old", old, 0, 1).is_err(), "it is another file now");
        assert_eq!(tree.read_at("old", new, 0, 1).expect("moved"), (Vec::new(), true));
        assert_eq!((held(&tree), counted(&tree)), ((0, 1), (0, 1)));
    }

    #[test]
    fn two_that_write_at_once_never_share_the_last_bytes() {
        let (_root, tree) = tree(10_000, 200);
        std::thread::scope(|scope| {
            for writer in 0..4 {
                let tree = &tree;
                scope.spawn(move || {
                    for n in 0..40 {
                        let path = format!("{writer}-{n}");
                        let file = tree.open(&path, CREATE).expect("entries are enough").number;
                        while tree.write_at(&path, file, At::End, &[0; 70]).is_ok()
                            && tree.stat(&path).expect("there").bytes < 350
                        {}
                        if n % 3 == 0 {
                            tree.remove_kind(&path, EntryKind::File).expect("removed");
                        }
                    }
                });
            }
        });
        let (bytes, entries) = held(&tree);
        assert!(bytes <= 10_000 && bytes > 9_000, "{bytes}");
        assert_eq!(counted(&tree), (bytes, entries), "the books say what is there");
    }

    #[test]
    fn what_an_operator_planted_leads_nowhere_and_blocks_nobody() {
        let (root, tree) = tree(100, 20);
        tree.make_dir("d").expect("made");
        let secret = root.path().join("secret");
        std::fs::write(&secret, "s").expect("written");
        let at = |name: &str| root.path().join("tree").join(name);
        std::os::unix::fs::symlink("../secret", at("out")).expect("linked");
        std::os::unix::fs::symlink("..", at("up")).expect("linked");
        std::os::unix::fs::symlink("up", at("chain")).expect("linked");
        std::os::unix::fs::symlink("d", at("within")).expect("linked");
        let pipe = std::process::Command::new("mkfifo").arg(at("pipe")).status().expect("started");
        assert!(pipe.success());
        for path in ["out", "up/secret", "chain/secret", "within", "pipe"] {
            assert!(tree.open(path, CREATE).is_err(), "{path} was opened");
            assert!(tree.open(path, Opening { truncate: true, ..Opening::default() }).is_err(), "{path} was emptied");
            assert!(tree.stat(path).is_err(), "{path} was looked at");
            assert!(tree.rename(path, "moved").is_err(), "{path} was moved");
            assert!(tree.remove_kind(path, EntryKind::File).is_err(), "{path} was removed");
            assert!(tree.make_dir(&format!("{path}/x")).is_err() || path == "within", "{path} was entered");
        }
        assert_eq!(tree.names("").expect("listed"), [("d".to_owned(), EntryKind::Directory)]);
        assert_eq!(std::fs::read_to_string(secret).expect("still there"), "s");
    }

    #[test]
    fn paths_are_joined_by_their_names_and_never_lead_out() {
        for (from, path, joined_to) in [
            ("", "a", "a"),
            ("", ".", ""),
            ("a", "..", ""),
            ("a/b", "../c", "a/c"),
            ("a", "./b//c/", "a/b/c"),
            ("", "", ""),
        ] {
            assert_eq!(joined(from, path).expect("inside"), joined_to, "{path} from {from}");
        }
        let deep = "a/".repeat(PATH_DEPTH_MAX);
        for (from, path) in [
            ("", ".."),
            ("a", "../.."),
            ("", "/etc"),
            ("", "a\0b"),
            ("", "a\\b"),
            ("x", &*deep),
            ("", &"a".repeat(PATH_BYTES_MAX + 1)),
        ] {
            assert!(joined(from, path).is_err(), "{path} from {from} was taken");
        }
    }

    #[test]
    fn no_directory_is_moved_to_where_no_path_reaches() {
        let (_root, tree) = tree(0, 100);
        let mut path = String::new();
        for n in 0..PATH_DEPTH_MAX {
            path = if n == 0 { "d".into() } else { format!("{path}/d") };
            tree.make_dir(&path).expect("as deep as may be");
        }
        tree.make_dir("e").expect("made");
        assert!(matches!(tree.rename("d", "e/d"), Err(FileError::InvalidPath(_))));
        tree.rename("d", "f").expect("as deep as before");
        assert!(tree.rename("f", "f/d/x").is_err(), "into itself");
        assert_eq!(counted(&tree), (0, PATH_DEPTH_MAX as u64 + 1));
    }
}
