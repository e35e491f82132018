//! The disk that forgets, seen from outside the server: `powercut.c` keeps the shadows, this puts them in the files' place.

use anyhow::{Context as _, ensure};
use std::{
    fs::{self, File, OpenOptions},
    os::unix::fs::{FileExt as _, MetadataExt as _, symlink},
    path::{Path, PathBuf},
    process::Command,
    time::UNIX_EPOCH,
};

const SOURCE: &str = include_str!("../powercut.c");

/// Of what is written, so many in a thousand reach the disk before they are synced, at every second start. At the others
/// nothing does.
const EARLY_PERMILLE: u32 = 300;

/// Where `struct control` of `powercut.c` has its numbers.
const FAULT_AT: u64 = 0;
const FAULTS_MADE_AT: u64 = 8;
const SYNCS_AT: u64 = 16;
const UNSYNCED_BYTES_AT: u64 = 24;
const CONTROL_BYTES: u64 = 32;

/// A directory whose files forget what was not synced.
#[derive(Debug)]
pub struct Disk {
    dir: PathBuf,
    shadow: PathBuf,
    library: PathBuf,
}

/// How storage is made to fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    None,
    WriteFails,
    DiskFull,
    /// Half of a write is done, and the next finds the disk full.
    ShortWrite,
    /// The sync fails, and what it was for never reaches the disk; the file still shows it.
    SyncFails,
    /// The same, and the file shows again what the disk has.
    SyncFailsAndReverts,
}

/// What happened on a disk since it was last adopted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    pub faults_made: u64,
    pub syncs: u64,
    pub unsynced_bytes: u64,
}

impl Fault {
    pub const ALL: [Self; 5] =
        [Self::SyncFailsAndReverts, Self::WriteFails, Self::DiskFull, Self::ShortWrite, Self::SyncFails];

    const fn number(self) -> u32 {
        match self {
            Self::None => 0,
            Self::WriteFails => 1,
            Self::DiskFull => 2,
            Self::ShortWrite => 3,
            Self::SyncFails => 4,
            Self::SyncFailsAndReverts => 5,
        }
    }
}

impl Disk {
    /// Builds the library, and takes a directory over as it is: all of it counts as synced.
    ///
    /// # Errors
    /// When there is no C compiler, or the disk fails.
    pub fn over(dir: &Path, work: &Path) -> anyhow::Result<Self> {
        fs::create_dir_all(work)?;
        let (source, library) = (work.join("powercut.c"), work.join("powercut.so"));
        fs::write(&source, SOURCE)?;
        let mut cc = Command::new("cc");
        cc.args(["-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o"]).arg(&library).arg(&source);
        let built = cc.args(["-ldl", "-lpthread"]).status().context("cannot run `cc`; install a C compiler")?;
        ensure!(built.success(), "powercut.c does not compile: {built}");
        let disk = Self { dir: dir.canonicalize()?, shadow: work.canonicalize()?.join("shadow"), library };
        disk.adopt()?;
        Ok(disk)
    }

    /// What a process needs in its environment to write to this disk. Every second `start` writes early.
    #[must_use]
    pub fn env(&self, start: u64) -> Vec<(String, String)> {
        let path = |path: &Path| path.display().to_string();
        let early = if start.is_multiple_of(2) { 0 } else { EARLY_PERMILLE };
        let of = |(name, value): (&str, String)| (name.to_owned(), value);
        [
            ("LD_PRELOAD", path(&self.library)),
            ("POWERCUT_DIR", path(&self.dir)),
            ("POWERCUT_SHADOW", path(&self.shadow)),
            ("POWERCUT_EARLY_PERMILLE", early.to_string()),
        ]
        .map(of)
        .into()
    }

    /// From now on, so many in a thousand of what the fault is about fail.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn fail(&self, fault: Fault, permille: u32) -> anyhow::Result<()> {
        let control = OpenOptions::new().write(true).open(self.shadow.join("control"))?;
        let [a, b, c, d] = fault.number().to_ne_bytes();
        let [e, f, g, h] = permille.to_ne_bytes();
        control.write_all_at(&[a, b, c, d, e, f, g, h], FAULT_AT)?;
        Ok(())
    }

    /// What has happened so far.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn counts(&self) -> anyhow::Result<Counts> {
        let control = File::open(self.shadow.join("control"))?;
        let number = |at| {
            let mut bytes = [0; 8];
            control.read_exact_at(&mut bytes, at).map(|()| u64::from_ne_bytes(bytes))
        };
        Ok(Counts {
            faults_made: number(FAULTS_MADE_AT)?,
            syncs: number(SYNCS_AT)?,
            unsynced_bytes: number(UNSYNCED_BYTES_AT)?,
        })
    }

    /// Cuts the power, once the process that wrote is dead: what was not synced is gone.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn cut(&self) -> anyhow::Result<Counts> {
        let counts = self.counts()?;
        empty(&self.dir)?;
        self.restore(&fs::read_to_string(self.shadow.join("root"))?, &self.dir)?;
        self.adopt()?;
        Ok(counts)
    }

    /// Puts what is durable of a directory in its place. One that was itself never synced is empty.
    fn restore(&self, id: &str, to: &Path) -> anyhow::Result<()> {
        let kept = self.shadow.join("dirs").join(id);
        if !kept.exists() {
            return Ok(());
        }
        for entry in fs::read_dir(kept)? {
            let entry = entry?;
            let place = to.join(entry.file_name());
            if entry.file_type()?.is_symlink() {
                fs::create_dir(&place)?;
                self.restore(&fs::read_link(entry.path())?.display().to_string(), &place)?;
            } else {
                fs::copy(entry.path(), &place)?;
            }
        }
        Ok(())
    }

    /// Takes the directory as it is for what is durable.
    fn adopt(&self) -> anyhow::Result<()> {
        if self.shadow.exists() {
            fs::remove_dir_all(&self.shadow)?;
        }
        for part in ["files", "dirs", "pending"] {
            fs::create_dir_all(self.shadow.join(part))?;
        }
        File::create(self.shadow.join("control"))?.set_len(CONTROL_BYTES)?;
        fs::write(self.shadow.join("root"), id_of(&self.dir)?)?;
        self.adopt_dir(&self.dir)
    }

    fn adopt_dir(&self, dir: &Path) -> anyhow::Result<()> {
        let kept = self.shadow.join("dirs").join(id_of(dir)?);
        fs::create_dir(&kept)?;
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            let (path, name) = (entry.path(), kept.join(entry.file_name()));
            if entry.file_type()?.is_dir() {
                symlink(id_of(&path)?, name)?;
                self.adopt_dir(&path)?;
            } else if !entry.file_name().to_string_lossy().ends_with("-shm") {
                let content = self.shadow.join("files").join(id_of(&path)?);
                fs::copy(&path, &content)?;
                fs::hard_link(content, name)?;
            }
        }
        Ok(())
    }
}

/// What `powercut.c` names a file by: its number and the time of its birth.
fn id_of(path: &Path) -> anyhow::Result<String> {
    let metadata = fs::symlink_metadata(path)?;
    let born = metadata.created().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
    Ok(format!("{}-{}", metadata.ino(), born.as_nanos()))
}

/// Empties a directory that stays.
fn empty(dir: &Path) -> anyhow::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() { fs::remove_dir_all(entry.path())? } else { fs::remove_file(entry.path())? }
    }
    Ok(())
}
