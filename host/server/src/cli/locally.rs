//! A host here and now, for the verbs that run or look at a component without a server.

use super::failure::Failure;
use crate::api::problem::Problem;
use cofferdam_core::storage::PluginVersion;
use cofferdam_runtime::{Local, LocalConfig, LocalError, StandIns};
use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};
use tempfile::TempDir;

/// A host for one component, with what it keeps.
pub(super) struct Host {
    /// The host.
    pub local: Local,
    /// The directory that is the workspace.
    pub workspace: PathBuf,
    _fresh: TempDir,
}

impl Host {
    /// Starts it, over a workspace or an empty one.
    pub async fn start(workspace: Option<PathBuf>, stand_ins: Option<Arc<dyn StandIns>>) -> Result<Self, Failure> {
        let host = |error: io::Error| Failure::Host(format!("cannot make a directory: {error}"));
        let fresh = tempfile::tempdir().map_err(host)?;
        let workspace = workspace.unwrap_or_else(|| fresh.path().join("workspace"));
        fs::create_dir_all(&workspace).map_err(host)?;
        let worker = std::env::current_exe();
        let config = LocalConfig {
            workspace: Some(workspace.clone()),
            compile_worker: worker
                .map_err(|error| Failure::Host(format!("cannot find the path of this binary: {error}")))?,
            cache_dir: cache_dir().unwrap_or_else(|| fresh.path().to_owned()),
            stand_ins,
        };
        let local = Local::start(config).await.map_err(failure)?;
        Ok(Self { local, workspace, _fresh: fresh })
    }

    /// Takes a component by the same way as a server.
    pub async fn push(&self, component: Vec<u8>) -> Result<PluginVersion, Failure> {
        self.local.push(component).await.map_err(failure)
    }
}

/// Why it came to nothing.
pub(super) fn failure(error: LocalError) -> Failure {
    match error {
        LocalError::Push(error) => Failure::Refused(Box::new(Problem::from(error).body())),
        LocalError::Accept(error) => Failure::Refused(Box::new(Problem::from(error).body())),
        LocalError::Answer { .. } | LocalError::NoSuchTool(_) => Failure::Usage(error.to_string()),
        LocalError::Start(_)
        | LocalError::State(_)
        | LocalError::Storage(_)
        | LocalError::Name(_)
        | LocalError::Host(_) => Failure::Host(error.to_string()),
    }
}

/// A file of a workspace, as text; none if it is not there.
pub(super) fn file_of(workspace: &Path, path: &str) -> Result<Option<String>, Failure> {
    match fs::read(workspace.join(path)) {
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Failure::Host(format!("cannot read {path} of the workspace: {error}"))),
    }
}

/// Where what can be made again is kept: among the user's own caches. None without a home: what is compiled is machine code,
/// and must not be taken from where others can write.
pub(super) fn cache_dir() -> Option<PathBuf> {
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
    let caches = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).filter(|dir| dir.is_absolute());
    Some(caches.or_else(home)?.join("cofferdam"))
}
