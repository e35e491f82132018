//! The Cofferdam server: the only crate that knows HTTP, wire JSON and SQL.

use auth::{Secret, keep_key};
use cofferdam_core::{
    identity::{Operator, Role},
    ids::{InvalidId, UserId},
    storage::{Storage, StorageError},
};
use cofferdam_runtime::{Runtime, RuntimeConfig};
use config::Config;
use data_dir::{DataDir, DataDirError, DevKeys};
use listener::Ending;
use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use storage::SqliteStorage;
use tokio::{net::TcpListener, time::timeout};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

mod answer;
pub mod api;
pub mod auth;
pub mod cli;
pub mod config;
mod data_dir;
mod listener;
pub mod storage;
mod watch;

/// How long connections may take to end by themselves once the runs have.
const CLOSE_WAIT_MAX: Duration = Duration::from_secs(5);

/// A running server: everything it is made of, put together here and nowhere else.
pub struct App {
    address: SocketAddr,
    admin_address: SocketAddr,
    runtime: Runtime,
    /// The database, if it is ours to close.
    database: Option<Arc<SqliteStorage>>,
    dev_keys: Option<DevKeys>,
    admin_key_file: Option<PathBuf>,
    panics: Arc<AtomicU64>,
    drain_wait: Duration,
    ending: Ending,
    // Connections of a server that was dropped instead of shut down must not live on, and neither must its watch, which
    // would keep the engine and its address space.
    _abort: [DropGuard; 2],
    // Last, so that the directory outlives whatever has files open in it.
    data_dir: DataDir,
}

/// Why a server did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The data directory cannot be used.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// The database cannot be opened.
    #[error("cannot open the database in {path}: {source}")]
    Database {
        /// Where.
        path: PathBuf,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Storage failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The runtime did not start.
    #[error(transparent)]
    Runtime(#[from] cofferdam_runtime::StartError),
    /// An address cannot be listened on.
    #[error("cannot listen on {address}: {source}; is another server there? Give another address with {flag}")]
    Listen {
        /// Which address.
        address: SocketAddr,
        /// How another is given.
        flag: &'static str,
        /// Why.
        source: std::io::Error,
    },
    /// A fixed name that is not one.
    #[error(transparent)]
    Name(#[from] InvalidId),
}

impl App {
    /// Starts a server over the SQLite database in its data directory.
    ///
    /// # Errors
    /// When any part of it does not start. Nothing is left running then.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        let data_dir = DataDir::open(config.data_dir.as_deref())?;
        let path = data_dir.path().join("cofferdam.db");
        let storage = SqliteStorage::open(&path).await;
        let storage = storage.map_err(|source: StorageError| StartError::Database { path, source: source.source })?;
        let storage = Arc::new(storage);
        Self::over(config, data_dir, storage.clone(), Some(storage)).await
    }

    /// Starts a server over a storage of the caller's.
    ///
    /// # Errors
    /// When any part of it does not start.
    pub async fn start_over(config: Config, storage: Arc<dyn Storage>) -> Result<Self, StartError> {
        let data_dir = DataDir::open(config.data_dir.as_deref())?;
        Self::over(config, data_dir, storage, None).await
    }

    async fn over(
        config: Config,
        data_dir: DataDir,
        storage: Arc<dyn Storage>,
        database: Option<Arc<SqliteStorage>>,
    ) -> Result<Self, StartError> {
        // Bound first: an address that is taken must not leave anything behind.
        let (listener, address) = bind(config.listen, "--listen").await?;
        let (admin_listener, admin_address) = bind(config.admin_listen, "--admin-listen").await?;
        let (dev_keys, admin_key_file) = keys(&data_dir, &*storage, config.dev).await?;
        let runtime = RuntimeConfig {
            quota: config.quota,
            runs_live_max: config.runs_live_max,
            ..RuntimeConfig::new(data_dir.path(), config.compile_worker)
        };
        let host_secret = data_dir.host_secret()?;
        let runtime = Runtime::start(runtime, storage).await?;

        let ending =
            Ending { closing: CancellationToken::new(), aborting: CancellationToken::new(), tasks: TaskTracker::new() };
        let closing = ending.closing.clone();
        let commits = database.as_ref().map(|database| database.committed().clone());
        let api = Arc::new(api::Api::new(runtime.clone(), host_secret, closing, config.socket_times, commits));
        ending.tasks.spawn(watch::watch(api.clone(), ending.closing.clone()));
        ending.tasks.spawn(listener::serve(listener, api::public(api.clone()), ending.clone()));
        ending.tasks.spawn(listener::serve(admin_listener, api::admin(api.clone()), ending.clone()));
        Ok(Self {
            address,
            admin_address,
            runtime,
            database,
            dev_keys,
            admin_key_file,
            panics: api.panics.clone(),
            drain_wait: config.drain_wait,
            _abort: [ending.closing.clone().drop_guard(), ending.aborting.clone().drop_guard()],
            ending,
            data_dir,
        })
    }

    /// Where clients connect: `http://` and the address, without a slash at the end.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Where the platform looks after the host.
    #[must_use]
    pub fn admin_url(&self) -> String {
        format!("http://{}", self.admin_address)
    }

    /// The key of user `dev`, in development.
    #[must_use]
    pub fn api_key(&self) -> Option<&str> {
        self.dev_keys.as_ref().map(|keys| keys.api.reveal())
    }

    /// The operator's key, in development.
    #[must_use]
    pub fn admin_key(&self) -> Option<&str> {
        self.dev_keys.as_ref().map(|keys| keys.admin.reveal())
    }

    /// Where the operator's key was written, if this was the first start outside development.
    #[must_use]
    pub fn admin_key_file(&self) -> Option<&Path> {
        self.admin_key_file.as_deref()
    }

    /// Where everything is kept.
    #[must_use]
    pub fn data_dir(&self) -> &Path {
        self.data_dir.path()
    }

    /// What executes the runs.
    #[must_use]
    pub const fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    /// How many commits its database made since the start; 0 over a storage of the caller's.
    #[must_use]
    pub fn commits(&self) -> u64 {
        self.database.as_ref().map_or(0, |database| database.commits())
    }

    /// Requests that ended in a panic of the host. Must stay 0.
    #[must_use]
    pub fn panics(&self) -> u64 {
        self.panics.load(Ordering::Relaxed)
    }

    /// Ends the server in good order: refuses new runs and waits for the running ones, still answering, so that
    /// whoever follows a run sees its end; then closes the doors, the streams and the connections.
    pub async fn shutdown(self) {
        self.runtime.drain(self.drain_wait).await;
        self.ending.closing.cancel();
        self.ending.tasks.close();
        if timeout(CLOSE_WAIT_MAX, self.ending.tasks.wait()).await.is_err() {
            self.ending.aborting.cancel();
            self.ending.tasks.wait().await;
        }
        if let Some(database) = &self.database {
            database.close().await;
        }
    }
}

async fn bind(address: SocketAddr, flag: &'static str) -> Result<(TcpListener, SocketAddr), StartError> {
    let failed = |source| StartError::Listen { address, flag, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    Ok((listener, bound))
}

/// Makes sure that somebody can get in: ready-made keys in development, else an operator's key on the first start.
async fn keys(
    data_dir: &DataDir,
    storage: &dyn Storage,
    dev: bool,
) -> Result<(Option<DevKeys>, Option<PathBuf>), StartError> {
    // The server's own act: nobody else is there yet.
    let host = Operator::host();
    let operator: UserId = "operator".parse()?;
    if dev {
        let keys = data_dir.dev_keys()?;
        keep_key(storage, host, &keys.api, "dev".parse()?, Role::User).await?;
        keep_key(storage, host, &keys.admin, operator, Role::Operator).await?;
        return Ok((Some(keys), None));
    }
    if data_dir.dev_keys_file().exists() {
        tracing::warn!(file = %data_dir.dev_keys_file().display(), "this data directory was used with --dev; the keys in this file still work");
    }
    if storage.keys_count(host).await? > 0 {
        return Ok((None, None));
    }
    // Written before it is kept: a key that works but that nobody knows would lock everybody out.
    let secret: Secret = data_dir.admin_key()?;
    keep_key(storage, host, &secret, operator, Role::Operator).await?;
    Ok((None, Some(data_dir.admin_key_file())))
}
