//! What every sandbox of the host shares: the engine, storage, plugins, grants, files.

use crate::{
    counts::Counts,
    engine::Engine,
    guest_threads::GuestThreads,
    meter::HostMemory,
    plugin::Plugins,
    runtime::{Inner, Runtime},
    sandbox::HostFailure,
    scratch::Scratches,
    stand_ins::StandIns,
    wait_places::WaitPlaces,
    workspace::Workspaces,
};
use chacha20::{
    ChaCha20Rng,
    rand_core::{Rng as _, SeedableRng as _},
};
use cofferdam_core::{
    grant::Permissions,
    identity::{Operator, Scope},
    ids::{PluginName, UserId},
    pace::{Askers, Paces},
    quota::Quotas,
    storage::{Storage, StorageError},
    turns::Turns,
};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, OnceLock, PoisonError, Weak, atomic::AtomicU64},
};
use tokio::sync::Semaphore;

/// Sandboxes that tool plugins run in, at once, on the whole host. They have slots of their own in the pool, so that
/// tools cannot take the slots that runs were admitted to.
pub const TOOL_SANDBOXES_MAX: u32 = 128;

/// Sandboxes for plugins that say what they are, at once. Slots of the pool beside those of runs and tools; one more push
/// waits, at most as long as the others may take.
pub const DESCRIPTIONS_MAX: u32 = 16;

/// How many grants are remembered, to spare storage the question at each run.
const GRANTS_REMEMBERED_MAX: usize = 10_000;

/// What every sandbox of the host shares.
pub struct Services {
    pub engine: Engine,
    pub storage: Arc<dyn Storage>,
    pub plugins: Plugins,
    pub grants: Arc<Grants>,
    pub workspaces: Workspaces,
    pub scratch: Scratches,
    pub memory: Arc<HostMemory>,
    pub quotas: Arc<Quotas>,
    pub tool_sandboxes: Semaphore,
    pub descriptions: Semaphore,
    /// Held while a plugin version is published, so that what memory knows is in the order in which storage was told.
    pub publishing: tokio::sync::Mutex<()>,
    /// Held while a quota is changed, so that what memory knows is in the order in which storage was told.
    pub editing_quotas: tokio::sync::Mutex<()>,
    /// Where guests execute.
    pub guests: GuestThreads,
    /// Whose guest does.
    pub turns: Arc<Turns>,
    /// Who asks the host for something at present.
    pub askers: Arc<Askers>,
    /// How fast users' runs write.
    pub writing: Paces,
    /// Places among users' runs that wait.
    pub wait_places: WaitPlaces,
    /// Seeds of guests' random numbers.
    pub seeds: Seeds,
    /// Host functions that panicked. Must stay 0.
    pub host_panics: AtomicU64,
    /// Stores that exist now: those of runs, of their tools, and of plugins that are being described.
    pub sandboxes_open: AtomicU64,
    /// What was counted since the start.
    pub counts: Arc<Counts>,
    /// What answers in the place of tools and agents, where an author tries an agent alone.
    pub stand_ins: Option<Arc<dyn StandIns>>,
    /// The runtime above, for agents that start others.
    pub runtime: OnceLock<Weak<Inner>>,
}

impl Services {
    /// The runtime above.
    ///
    /// # Errors
    /// When the host is going away.
    pub fn runtime(&self) -> wasmtime::Result<Runtime> {
        let runtime = self.runtime.get().and_then(Weak::upgrade);
        runtime.map(Runtime).ok_or_else(|| HostFailure::new("the host is going away").into())
    }
}

/// Where the seeds of guests' random numbers come from: a generator that the operating system's numbers have seeded once,
/// so that a run costs no system call for its seed, and none can fail.
pub struct Seeds(Mutex<ChaCha20Rng>);

impl Seeds {
    /// Seeded by the operating system.
    ///
    /// # Errors
    /// When it has no random numbers to give.
    pub fn from_system() -> Result<Self, getrandom::Error> {
        let mut seed = [0_u8; 32];
        getrandom::fill(&mut seed)?;
        Ok(Self(Mutex::new(ChaCha20Rng::from_seed(seed))))
    }

    /// The next one.
    pub fn next(&self) -> [u8; 32] {
        let mut seed = [0_u8; 32];
        self.0.lock().unwrap_or_else(PoisonError::into_inner).fill_bytes(&mut seed);
        seed
    }
}

/// Grants, remembered from storage. This process is storage's only writer, so what is remembered is what is stored.
pub struct Grants {
    storage: Arc<dyn Storage>,
    remembered: Mutex<HashMap<(UserId, PluginName), Option<Permissions>>>,
    /// One grant at a time is stored and remembered, so that both know the same one last.
    granting: tokio::sync::Mutex<()>,
}

impl Grants {
    /// Over this storage.
    pub fn new(storage: Arc<dyn Storage>) -> Self {
        Self { storage, remembered: Mutex::default(), granting: tokio::sync::Mutex::new(()) }
    }

    /// What the user was granted for a plugin; none if nothing was ever said.
    ///
    /// # Errors
    /// When storage fails.
    pub async fn get(&self, scope: &Scope, plugin: &PluginName) -> Result<Option<Permissions>, StorageError> {
        let key = (scope.user().clone(), plugin.clone());
        if let Some(grant) = self.remembered().get(&key) {
            return Ok(grant.clone());
        }
        let grant = self.storage.grant(scope, plugin).await?;
        let mut remembered = self.remembered();
        if remembered.len() >= GRANTS_REMEMBERED_MAX {
            remembered.clear();
        }
        // A grant that was put while storage was asked is the newer one.
        Ok(remembered.entry(key).or_insert(grant).clone())
    }

    /// Grants a user something for a plugin, in place of what was granted before. Runs that are executing keep what
    /// they were admitted with.
    ///
    /// # Errors
    /// When storage fails.
    #[expect(
        clippy::disallowed_methods,
        reason = "storing and remembering must not be torn apart by a client that goes away"
    )]
    pub async fn put(
        self: &Arc<Self>,
        operator: Operator,
        user: &UserId,
        plugin: &PluginName,
        grant: Permissions,
    ) -> Result<(), StorageError> {
        let (grants, user, plugin) = (self.clone(), user.clone(), plugin.clone());
        let put = tokio::spawn(async move {
            let _one_at_a_time = grants.granting.lock().await;
            grants.storage.put_grant(operator, &user, &plugin, &grant).await?;
            grants.remembered().insert((user, plugin), Some(grant));
            Ok(())
        });
        put.await.map_err(|error| StorageError { doing: "store a grant", source: error.into() })?
    }

    fn remembered(&self) -> std::sync::MutexGuard<'_, HashMap<(UserId, PluginName), Option<Permissions>>> {
        self.remembered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
