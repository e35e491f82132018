//! The server's directory: its own alone, readable by its own user alone, and the keys kept in it.

use crate::auth::{HostSecret, Secret};
use serde::{Deserialize, Serialize};
use std::{
    fs::{DirBuilder, File, OpenOptions, TryLockError},
    io::{self, Write as _},
    os::unix::{
        ffi::OsStrExt as _,
        fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    },
    path::{Path, PathBuf},
    time::Duration,
};
use tempfile::TempDir;

/// What the names of directories begin with that are made for one server, and go with it.
const FRESH: &str = "cofferdam-";

/// An empty file that says so in them. Anybody may name a directory like one, and keep what is in it.
const FRESH_MARK: &str = "goes-with-its-server";

/// How old a lock is before its directory can be one that is left: before that, a server may be about to take it.
const LEFT_AFTER: Duration = Duration::from_secs(60);

/// A data directory that no other server uses.
#[derive(Debug)]
pub(crate) struct DataDir {
    path: PathBuf,
    // Held as long as the server lives; the system lets go of it however the server ends.
    _lock: File,
    // Removed on drop.
    _fresh: Option<TempDir>,
}

/// Why a directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// The directory or a file in it failed.
    #[error("cannot {doing} {path}: {source}; check that the directory exists or can be made, and is writable")]
    Failed {
        /// What was tried.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// Another server is there.
    #[error("another server uses the data directory {0}; stop it, or give this one its own with --data-dir")]
    InUse(PathBuf),
    /// A key file that has no keys in it.
    #[error("{0} does not hold a key; restore it from a backup, or remove it to have a new key made")]
    NoKey(PathBuf),
    /// No random numbers for a key.
    #[error("the operating system gave no random numbers for a key: {0}")]
    NoRandom(#[from] getrandom::Error),
}

impl DataDir {
    /// Makes the directory if it is not there, and takes it for this server.
    pub fn open(path: Option<&Path>) -> Result<Self, DataDirError> {
        let (path, fresh) = match path {
            // Who names a directory keeps it, also one that a server was killed in.
            Some(path) => match std::fs::remove_file(path.join(FRESH_MARK)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(failed("keep", path)(error));
                }
                _ => (path.to_owned(), None),
            },
            None => {
                remove_left(&std::env::temp_dir());
                let fresh = tempfile::Builder::new().prefix(FRESH).tempdir();
                let fresh = fresh.map_err(failed("make a directory in", &std::env::temp_dir()))?;
                File::create(fresh.path().join(FRESH_MARK)).map_err(failed("mark", fresh.path()))?;
                (fresh.path().to_owned(), Some(fresh))
            }
        };
        DirBuilder::new().recursive(true).mode(0o700).create(&path).map_err(failed("make", &path))?;
        // Runs outlive the directory that the server was started in.
        let path = path.canonicalize().map_err(failed("find", &path))?;
        let file = path.join("lock");
        let lock = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&file);
        let lock = lock.map_err(failed("open", &file))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path, _lock: lock, _fresh: fresh }),
            Err(TryLockError::WouldBlock) => Err(DataDirError::InUse(path)),
            Err(TryLockError::Error(source)) => Err(failed("lock", &file)(source)),
        }
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the operator's key is written on the first start.
    pub fn admin_key_file(&self) -> PathBuf {
        self.path.join("admin.key")
    }

    /// Where the keys of a development server are.
    pub fn dev_keys_file(&self) -> PathBuf {
        self.path.join("dev-keys.json")
    }

    /// The operator's key, made if there is none.
    pub fn admin_key(&self) -> Result<Secret, DataDirError> {
        let file = self.admin_key_file();
        if let Some(text) = read(&file)? {
            return Secret::parse(text.trim()).ok_or(DataDirError::NoKey(file));
        }
        let secret = Secret::generate()?;
        write(&file, &format!("{}\n", secret.reveal()))?;
        Ok(secret)
    }

    /// What this host alone knows, made if there is none.
    pub fn host_secret(&self) -> Result<HostSecret, DataDirError> {
        let file = self.path.join("host.key");
        if let Some(text) = read(&file)? {
            return HostSecret::parse(text.trim()).ok_or(DataDirError::NoKey(file));
        }
        let secret = HostSecret::generate()?;
        write(&file, &format!("{}\n", secret.reveal()))?;
        Ok(secret)
    }

    /// The keys of a development server, made if there are none, so that they are the same after a restart.
    pub fn dev_keys(&self) -> Result<DevKeys, DataDirError> {
        let file = self.dev_keys_file();
        if let Some(text) = read(&file)? {
            let keys = serde_json::from_str::<KeyTexts>(&text).ok();
            let keys = keys.and_then(|keys| {
                Some(DevKeys { api: Secret::parse(&keys.api_key)?, admin: Secret::parse(&keys.admin_key)? })
            });
            return keys.ok_or(DataDirError::NoKey(file));
        }
        let keys = DevKeys { api: Secret::generate()?, admin: Secret::generate()? };
        let texts = KeyTexts { api_key: keys.api.reveal().into(), admin_key: keys.admin.reveal().into() };
        write(&file, &serde_json::to_string(&texts).unwrap_or_default())?;
        Ok(keys)
    }
}

/// Removes what servers have left that were killed, as far as it is this user's own.
fn remove_left(temp: &Path) {
    // What cannot be read or removed is no reason not to start.
    let Ok(entries) = std::fs::read_dir(temp) else { return };
    let own = rustix::process::geteuid().as_raw();
    for entry in
        entries.filter_map(Result::ok).filter(|entry| entry.file_name().as_bytes().starts_with(FRESH.as_bytes()))
    {
        // Of a link, the link itself.
        let is_own = entry.metadata().is_ok_and(|metadata| metadata.is_dir() && metadata.uid() == own);
        let is_marked = || entry.path().join(FRESH_MARK).is_file();
        let Some(lock) = (is_own && is_marked()).then(|| File::open(entry.path().join("lock")).ok()).flatten() else {
            continue;
        };
        let is_old = || lock.metadata()?.modified()?.elapsed().map_err(io::Error::other);
        if is_old().is_ok_and(|age| age > LEFT_AFTER) && lock.try_lock().is_ok() {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

/// The keys of a development server.
#[derive(Debug, Clone)]
pub(crate) struct DevKeys {
    /// Of user `dev`.
    pub api: Secret,
    /// Of the operator.
    pub admin: Secret,
}

#[derive(Serialize, Deserialize)]
struct KeyTexts {
    api_key: String,
    admin_key: String,
}

fn failed(doing: &'static str, path: &Path) -> impl Fn(io::Error) -> DataDirError {
    let path = path.to_owned();
    move |source| DataDirError::Failed { doing, path: path.clone(), source }
}

fn read(file: &Path) -> Result<Option<String>, DataDirError> {
    match std::fs::read_to_string(file) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed("read", file)(error)),
    }
}

/// Writes a file that only its owner can read, whole or not at all.
fn write(file: &Path, text: &str) -> Result<(), DataDirError> {
    let dir = file.parent().unwrap_or(Path::new("."));
    // A temporary file is made with mode 0600.
    let mut new = tempfile::NamedTempFile::new_in(dir).map_err(failed("write in", dir))?;
    new.write_all(text.as_bytes()).and_then(|()| new.as_file().sync_all()).map_err(failed("write", file))?;
    new.persist(file).map_err(|error| failed("write", file)(error.error))?;
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(failed("save", dir))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_directory_serves_one_server_at_a_time() {
        let temp = tempfile::tempdir().expect("a directory");
        let path = temp.path().join("a/b");
        let first = DataDir::open(Some(&path)).expect("opened");
        assert!(matches!(DataDir::open(Some(&path)), Err(DataDirError::InUse(_))));
        drop(first);
        assert!(DataDir::open(Some(&path)).is_ok());
    }

    #[test]
    fn keys_are_the_same_after_a_restart_and_nobody_elses_to_read() {
        let temp = tempfile::tempdir().expect("a directory");
        let keys = |()| {
            let dir = DataDir::open(Some(temp.path())).expect("opened");
            for file in [dir.admin_key_file(), dir.dev_keys_file(), temp.path().join("host.key")]
                .iter()
                .filter(|file| file.exists())
            {
                let mode = file.metadata().expect("there").permissions().mode();
                assert_eq!(mode & 0o777, 0o600);
            }
            let dev = dir.dev_keys().expect("keys");
            (dir.admin_key().expect("a key"), dev.api, dev.admin, dir.host_secret().expect("a secret").reveal())
        };
        assert!(keys(()) == keys(()));
        std::fs::write(temp.path().join("admin.key"), "cof_short").expect("written");
        let dir = DataDir::open(Some(temp.path())).expect("opened");
        assert!(matches!(dir.admin_key(), Err(DataDirError::NoKey(_))));
    }

    #[test]
    fn a_fresh_directory_is_gone_afterwards() {
        let dir = DataDir::open(None).expect("opened");
        let path = dir.path().to_owned();
        assert!(path.exists());
        drop(dir);
        assert!(!path.exists());
    }

    #[test]
    fn what_killed_servers_have_left_is_removed_and_nothing_else() {
        let temp = tempfile::tempdir().expect("a directory");
        let left = |name: &str, age: Duration| {
            let dir = temp.path().join(name);
            std::fs::create_dir(&dir).expect("made");
            File::create(dir.join(FRESH_MARK)).expect("made");
            let lock = File::create(dir.join("lock")).expect("made");
            lock.set_modified(std::time::SystemTime::now() - age).expect("set");
            (dir, lock)
        };
        let (killed, _) = left("cofferdam-killed", 2 * LEFT_AFTER);
        let (new, _) = left("cofferdam-new", Duration::ZERO);
        let (other, _) = left("other", 2 * LEFT_AFTER);
        let (lives, lock) = left("cofferdam-lives", 2 * LEFT_AFTER);
        lock.try_lock().expect("locked");
        let (named, _) = left("cofferdam-named", 2 * LEFT_AFTER);
        drop(DataDir::open(Some(&named)).expect("opened"));
        File::open(named.join("lock"))
            .and_then(|lock| lock.set_modified(std::time::SystemTime::UNIX_EPOCH))
            .expect("set");
        std::os::unix::fs::symlink(&other, temp.path().join("cofferdam-link")).expect("made");
        remove_left(temp.path());
        assert!(!killed.exists());
        assert!(new.exists() && other.exists() && lives.exists() && named.exists());
    }
}
