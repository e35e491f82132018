//! Plugins: which are known by which name, and those that are loaded, ready to open a sandbox for.

use crate::{
    artifact::{ArtifactError, Artifacts},
    bindings::{agent::AgentPre, tool::ToolPre},
    imports,
    sandbox::Guest,
    wasi,
};
use cofferdam_core::{
    ids::{AgentRef, Digest, Pick, PluginName, UserId},
    storage::{PluginKind, PluginVersion},
};
use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError, RwLock},
};
use tokio::sync::OnceCell;
use wasmtime::component::{Component, Linker};

/// Plugins that stay loaded while nobody uses them. Each holds its machine code in memory.
const LOADED_MAX: usize = 256;

/// A plugin, ready to open a sandbox for.
pub struct Plugin {
    pub pre: Pre,
}

/// A component linked to the host, in one of the two worlds.
pub enum Pre {
    /// World `agent`.
    Agent(AgentPre<Guest>),
    /// World `tool`.
    Tool(ToolPre<Guest>),
}

/// What the host offers to either world.
pub struct Linkers {
    agent: Linker<Guest>,
    tool: Linker<Guest>,
}

impl Linkers {
    /// Defines all imports.
    ///
    /// # Errors
    /// When one is defined twice.
    pub fn new(engine: &wasmtime::Engine) -> wasmtime::Result<Self> {
        let mut tool = Linker::new(engine);
        wasi::link(&mut tool)?;
        imports::link(&mut tool)?;
        let mut agent = tool.clone();
        imports::tools::link(&mut agent)?;
        Ok(Self { agent, tool })
    }

    /// Links a component.
    ///
    /// # Errors
    /// When it imports what its world does not offer, or exports what its world does not ask for.
    pub fn link(&self, component: &Component, kind: PluginKind) -> wasmtime::Result<Plugin> {
        let pre = match kind {
            PluginKind::Agent => Pre::Agent(AgentPre::new(self.agent.instantiate_pre(component)?)?),
            PluginKind::Tool => Pre::Tool(ToolPre::new(self.tool.instantiate_pre(component)?)?),
        };
        Ok(Plugin { pre })
    }
}

/// Lets go of plugins that nobody uses until there is room for one more. Whatever is in use stays; of the rest any may
/// go, since it is quickly loaded again.
fn make_room(loaded: &mut HashMap<Digest, Loading>) {
    while loaded.len() >= LOADED_MAX {
        let idle = |loading: &Loading| {
            Arc::strong_count(loading) == 1 && loading.get().is_none_or(|plugin| Arc::strong_count(plugin) == 1)
        };
        let Some(gone) = loaded.iter().find(|(_, loading)| idle(loading)).map(|(digest, _)| *digest) else { return };
        loaded.remove(&gone);
    }
}

/// A version of a plugin, loaded by whoever asks first; the others wait.
type Loading = Arc<OnceCell<Arc<Plugin>>>;

/// All plugins of the host.
pub struct Plugins {
    engine: wasmtime::Engine,
    linkers: Linkers,
    artifacts: Artifacts,
    /// By name, the version pushed last at the end.
    known: RwLock<BTreeMap<PluginName, Vec<Arc<PluginVersion>>>>,
    loaded: Mutex<HashMap<Digest, Loading>>,
}

impl Plugins {
    /// With the versions that storage knows.
    pub fn new(engine: wasmtime::Engine, linkers: Linkers, artifacts: Artifacts, known: Vec<PluginVersion>) -> Self {
        let plugins = Self { engine, linkers, artifacts, known: RwLock::default(), loaded: Mutex::default() };
        for version in known {
            plugins.add(Arc::new(version), None);
        }
        plugins
    }

    pub const fn engine(&self) -> &wasmtime::Engine {
        &self.engine
    }

    pub const fn linkers(&self) -> &Linkers {
        &self.linkers
    }

    pub const fn artifacts(&self) -> &Artifacts {
        &self.artifacts
    }

    /// Makes a version the newest of its name, loaded if it is.
    pub fn add(&self, version: Arc<PluginVersion>, loaded: Option<Arc<Plugin>>) {
        if let Some(plugin) = loaded {
            let mut loaded = self.loaded();
            make_room(&mut loaded);
            loaded.insert(version.digest, Arc::new(OnceCell::new_with(Some(plugin))));
        }
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        let versions = known.entry(version.name.clone()).or_default();
        versions.retain(|old| old.digest != version.digest);
        versions.push(version);
    }

    /// The plugin of a version, for a user, in whose turn it is compiled if need be. If the one who compiles it goes
    /// away, the next who waits takes over.
    ///
    /// # Errors
    /// When its component is gone or does not compile any more.
    pub async fn load(&self, version: &PluginVersion, user: &UserId) -> Result<Arc<Plugin>, ArtifactError> {
        let loading = self.loading(version.digest);
        let plugin = loading.get_or_try_init(|| async {
            let component = self.artifacts.kept(&self.engine, user, version.digest).await?;
            let plugin = self.linkers.link(&component, version.kind);
            plugin.map(Arc::new).map_err(|error| ArtifactError::Engine(error.to_string()))
        });
        plugin.await.cloned()
    }

    fn loading(&self, digest: Digest) -> Loading {
        let mut loaded = self.loaded();
        if !loaded.contains_key(&digest) {
            make_room(&mut loaded);
        }
        loaded.entry(digest).or_default().clone()
    }

    fn loaded(&self) -> std::sync::MutexGuard<'_, HashMap<Digest, Loading>> {
        self.loaded.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The version that is meant.
    pub fn find(&self, agent: &AgentRef) -> Option<Arc<PluginVersion>> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let mut newest_first = known.get(&agent.name)?.iter().rev();
        let found = match &agent.pick {
            Pick::Latest => newest_first.next(),
            Pick::Version(version) => newest_first.find(|about| about.version == *version),
            Pick::Digest(digest) => newest_first.find(|about| about.digest == *digest),
        };
        found.cloned()
    }

    /// The newest version of a name.
    pub fn latest_of(&self, name: &PluginName) -> Option<Arc<PluginVersion>> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.get(name)?.last().cloned()
    }

    /// The newest version of each name, by name.
    pub fn latest(&self) -> Vec<Arc<PluginVersion>> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.values().filter_map(|versions| versions.last().cloned()).collect()
    }

    /// All versions of a name, the one pushed last at the end.
    pub fn versions(&self, name: &PluginName) -> Vec<Arc<PluginVersion>> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.get(name).cloned().unwrap_or_default()
    }

    /// Whether any version of any plugin has this digest.
    pub fn knows(&self, digest: Digest) -> bool {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.values().flatten().any(|version| version.digest == digest)
    }

    /// How many versions of all plugins there are.
    pub fn count(&self) -> usize {
        self.known.read().unwrap_or_else(PoisonError::into_inner).values().map(Vec::len).sum()
    }

    /// The name most like a text, if any is like it; only names of plugins of a kind, if one is given.
    pub fn nearest(&self, text: &str, kind: Option<PluginKind>) -> Option<PluginName> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let of_kind = known.iter().filter(|(_, versions)| {
            kind.is_none_or(|kind| versions.last().is_some_and(|version| version.kind == kind))
        });
        let rated = of_kind.map(|(name, _)| (strsim::jaro_winkler(name.as_str(), text), name));
        let (likeness, name) = rated.max_by(|a, b| a.0.total_cmp(&b.0))?;
        // Below this, two names have little in common but letters.
        (likeness > 0.7).then(|| name.clone())
    }
}
