//! A directory tree with a quota: the only code that touches users' files. Bytes and entries are charged before anything
//! is written, under one lock, so that nothing gets around the quota by being quick; cap-std keeps every path inside.
//!
//! A file that a guest has open is a path and which file was there: nothing stays open on the host, so that no guest can
//! take its file descriptors, and whoever removes a file has freed its bytes. A disk gives the number of a file that is
//! gone to the next one, so the tree itself remembers which of the files that somebody has open were removed.

use crate::{
    disk::write_in_pieces,
    scratch::Departure,
    workspace::{
        Chunk, Entry, EntryKind, FileError, LISTED_MAX, Listing, PATH_BYTES_MAX, PATH_DEPTH_MAX, READ_BYTES_MAX, shown,
    },
};
use cap_std::{
    ambient_authority,
    fs::{Dir, File, FileType, Metadata, MetadataExt as _, OpenOptions},
};
use cofferdam_core::quota::{LiveQuota, Quota};
use std::{
    collections::HashMap,
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::SystemTime,
};

/// How much a tree may hold, as its user's quota is now.
#[derive(Debug)]
pub struct Room {
    quota: LiveQuota,
    bytes: fn(&Quota) -> u64,
    entries: fn(&Quota) -> u64,
}

impl Room {
    /// That of a user's workspace.
    #[must_use]
    pub const fn workspace(quota: LiveQuota) -> Self {
        Self { quota, bytes: |quota| quota.workspace_bytes, entries: |quota| quota.workspace_files }
    }

    /// That of a run's `/scratch`.
    #[must_use]
    pub const fn scratch(quota: LiveQuota) -> Self {
        Self { quota, bytes: |quota| quota.scratch_bytes, entries: |quota| quota.scratch_files }
    }

    fn bytes_max(&self) -> u64 {
        self.quota.get(self.bytes)
    }

    fn entries_max(&self) -> u64 {
        self.quota.get(self.entries)
    }
}

/// How a file is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Writing {
    /// In place of what is there.
    Replaced,
    /// After what is there.
    Appended,
    /// In place of what is there, and on the disk before anyone is told.
    Durable,
}

/// A directory tree on the host's disk, and what it may hold.
#[derive(Debug)]
pub struct Tree {
    path: Option<PathBuf>,
    room: Room,
    /// Counted when the tree is first used, and kept up to date by what is written through it. One change at a time: the
    /// lock is what makes the quota hold.
    held: Mutex<Option<Held>>,
    /// Files that somebody has open, by number. Changed only by who holds the lock above, but never forgotten as the books
    /// are.
    opened: Mutex<HashMap<u64, Weak<Opened>>>,
    /// Whether anything of it may be on the disk. Never unset: what it holds is forgotten after a failed write, and what
    /// is there stays.
    made: AtomicBool,
    /// For a tree that is removed from the disk when nobody uses it any more: tells who waits for it.
    departure: Option<Departure>,
}

impl Drop for Tree {
    /// Whoever lets go of a tree last may be a thread that must not block; removing takes as long as the entries that the
    /// quota allows.
    fn drop(&mut self) {
        let made = *self.made.get_mut();
        let Some(departure) = self.departure.take() else { return };
        let Some(path) = self.path.take().filter(|_| made) else { return };
        let remove = move || {
            if let Err(error) = std::fs::remove_dir_all(&path)
                && error.kind() != io::ErrorKind::NotFound
            {
                tracing::warn!(path = %path.display(), %error, "a scratch directory is left behind until the next start");
            }
            drop(departure);
        };
        match tokio::runtime::Handle::try_current() {
            Ok(handle) => drop(handle.spawn_blocking(remove)),
            Err(_) => remove(),
        }
    }
}

/// How many files that were open are remembered before those that nobody has open any more are forgotten.
const OPENED_KEPT: usize = 1_024;

/// A file that somebody has open, or several have.
#[derive(Debug)]
pub struct Opened {
    /// The disk's number of it.
    number: u64,
    /// Another file may have its number by now, and its path.
    gone: AtomicBool,
}

impl Opened {
    /// What no tree has: for a directory, which is its path and nothing else.
    pub const fn directory() -> Self {
        Self { number: 0, gone: AtomicBool::new(false) }
    }

    /// Whether this is the file that has this number now.
    pub fn is(&self, number: u64) -> bool {
        self.number == number && !self.gone.load(Ordering::Acquire)
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
    /// What it holds: bytes and entries. A tree that nobody has used yet is not made for the question.
    ///
    /// # Errors
    /// When it cannot be counted.
    pub fn held_now(&self) -> Result<(u64, u64), FileError> {
        if lock(&self.held).is_none() && self.path.as_ref().is_none_or(|path| !path.exists()) {
            return Ok((0, 0));
        }
        let (held, _) = self.held()?;
        Ok(held.as_ref().map_or((0, 0), |held| (held.bytes, held.entries)))
    }

    /// The open directory and what it holds, counted if it was not yet.
    fn held(&self) -> Result<(MutexGuard<'_, Option<Held>>, Dir), FileError> {
        let mut held = lock(&self.held);
        if held.is_none() {
            let path = self.path.as_ref().ok_or_else(|| FileError::NotFound(String::new()))?;
            self.made.store(true, Ordering::Relaxed);
            std::fs::create_dir_all(path).map_err(FileError::Io)?;
            let dir = Dir::open_ambient_dir(path, ambient_authority()).map_err(FileError::Io)?;
            let (mut bytes, mut entries) = (0, 0);
            count(&dir, 0, self.room.entries_max(), &mut bytes, &mut entries).map_err(FileError::Io)?;
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

    pub fn write(&self, path: &str, bytes: &[u8], how: Writing) -> Result<u64, FileError> {
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
        let append = how == Writing::Appended;
        let kept = if append { before.unwrap_or(0) } else { 0 };
        let after = kept.saturating_add(bytes.len() as u64);
        let total = held.bytes.saturating_sub(before.unwrap_or(0)).saturating_add(after);
        if total > self.room.bytes_max() {
            return Err(FileError::Full { limit: "bytes", max: self.room.bytes_max() });
        }
        let missing = missing_parents(&dir, path);
        let entries = held.entries + u64::from(before.is_none()) + missing;
        if entries > self.room.entries_max() {
            return Err(FileError::Full { limit: "entries", max: self.room.entries_max() });
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
            let mut file = dir.open_with(path, &options)?;
            match how {
                Writing::Durable => {
                    write_in_pieces(&mut file, kept, bytes)?;
                    // While it is open: an error that came meanwhile is told to who has the file open.
                    file.sync_data()?;
                }
                Writing::Replaced | Writing::Appended => file.write_all(bytes)?,
            }
            Ok(())
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
            self.is_gone(metadata.ino());
            held.bytes = held.bytes.saturating_sub(metadata.len());
        }
        held.entries = held.entries.saturating_sub(1);
        Ok(())
    }

    /// A tree at this path, which is made when it is first used; without a path there are no files.
    pub fn new(path: Option<PathBuf>, room: Room) -> Self {
        Self {
            path,
            room,
            held: Mutex::default(),
            opened: Mutex::default(),
            made: AtomicBool::default(),
            departure: None,
        }
    }

    /// A tree that is removed when nobody uses it any more.
    pub fn temporary(path: PathBuf, room: Room, departure: Departure) -> Self {
        Self {
            path: Some(path),
            room,
            held: Mutex::default(),
            opened: Mutex::default(),
            made: AtomicBool::default(),
            departure: Some(departure),
        }
    }

    /// What is at a path; the empty path is the tree itself.
    pub fn stat(&self, path: &str) -> Result<Node, FileError> {
        let (held, dir) = self.held()?;
        drop(held);
        node(&dir, path)
    }

    /// Opens what is at a path, or makes a file there.
    pub fn open(&self, path: &str, opening: Opening) -> Result<(Node, Arc<Opened>), FileError> {
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
                let made = node(&dir, path)?;
                return Ok((made, self.opened(made)));
            }
            Err(error) => return Err(error),
        };
        match there.kind {
            EntryKind::File if opening.directory => return Err(FileError::NotADirectory(shown(path))),
            EntryKind::Directory if opening.truncate || opening.create => return Err(FileError::NotAFile(shown(path))),
            _ => {}
        }
        if opening.truncate {
            let opened = self.opened(there);
            file(&dir, path, &opened, true)?.0.set_len(0).map_err(|error| FileError::of(path, error))?;
            held.bytes = held.bytes.saturating_sub(there.bytes);
            return Ok((Node { bytes: 0, ..there }, opened));
        }
        Ok((there, self.opened(there)))
    }

    /// The file that is at a path now, as who opens it has it. Asked under the lock of the books.
    fn opened(&self, there: Node) -> Arc<Opened> {
        if there.kind == EntryKind::Directory {
            return Arc::new(Opened::directory());
        }
        let mut all = lock(&self.opened);
        if let Some(opened) = all.get(&there.number).and_then(Weak::upgrade) {
            return opened;
        }
        // So seldom that it costs nothing, and so often that at most half of what is remembered is of no use.
        if all.len() >= OPENED_KEPT && all.len().is_power_of_two() {
            all.retain(|_, opened| opened.strong_count() > 0);
        }
        let opened = Arc::new(Opened { number: there.number, gone: AtomicBool::new(false) });
        all.insert(there.number, Arc::downgrade(&opened));
        opened
    }

    /// What was here is removed or replaced: whoever has it open has nothing any more. Said under the lock of the books.
    fn is_gone(&self, number: u64) {
        if let Some(opened) = lock(&self.opened).remove(&number).and_then(|opened| opened.upgrade()) {
            opened.gone.store(true, Ordering::Release);
        }
    }

    /// A part of an open file, and whether the file ends there.
    pub fn read_at(&self, path: &str, opened: &Opened, offset: u64, length: u64) -> Result<(Vec<u8>, bool), FileError> {
        let (held, dir) = self.held()?;
        drop(held);
        let of = |error| FileError::of(path, error);
        let (mut file, size) = file(&dir, path, opened, false)?;
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
    pub fn write_at(&self, path: &str, opened: &Opened, at: At, bytes: &[u8]) -> Result<u64, FileError> {
        let of = |error| FileError::of(path, error);
        let (mut guard, dir) = self.held()?;
        let Some(held) = guard.as_mut() else { return Err(FileError::NotFound(shown(path))) };
        let (mut file, size) = file(&dir, path, opened, true)?;
        let offset = match at {
            At::Offset(offset) => offset,
            At::End => size,
        };
        // Nothing makes no file longer, wherever it is written.
        if bytes.is_empty() {
            return Ok(offset);
        }
        let end = offset.checked_add(bytes.len() as u64).ok_or(self.full("bytes", self.room.bytes_max()))?;
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
    pub fn set_size(&self, path: &str, opened: &Opened, size: u64) -> Result<(), FileError> {
        let (mut guard, dir) = self.held()?;
        let Some(held) = guard.as_mut() else { return Err(FileError::NotFound(shown(path))) };
        let (file, before) = file(&dir, path, opened, true)?;
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
        self.is_gone(there.number);
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
            self.is_gone(replaced.number);
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
                if names.len() as u64 >= self.room.entries_max() {
                    return Err(self.full("entries", self.room.entries_max()));
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
        let total = held.bytes.checked_add(bytes).filter(|total| bytes == 0 || *total <= self.room.bytes_max());
        let total = total.ok_or(self.full("bytes", self.room.bytes_max()))?;
        if entries > 0 && held.entries + entries > self.room.entries_max() {
            return Err(self.full("entries", self.room.entries_max()));
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
fn file(dir: &Dir, path: &str, opened: &Opened, write: bool) -> Result<(File, u64), FileError> {
    let there = node(dir, path)?;
    if there.kind != EntryKind::File {
        return Err(FileError::NotAFile(shown(path)));
    }
    let of = |error| FileError::of(path, error);
    let file = dir.open_with(path, OpenOptions::new().read(!write).write(write)).map_err(of)?;
    let metadata = file.metadata().map_err(of)?;
    // Asked last: what is removed after this was there when it was opened.
    if !opened.is(metadata.ino()) {
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
mod tests;
