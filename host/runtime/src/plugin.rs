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
    ops::{Bound, ControlFlow},
    sync::{Arc, Mutex, PoisonError, RwLock},
};
use tokio::sync::OnceCell;
use wasmtime::component::{Component, Linker};

/// Plugins that stay loaded while nobody uses them. Each holds its machine code in memory, and its data.
const LOADED_MAX: usize = 256;

/// A plugin, ready to open a sandbox for.
pub struct Plugin {
    pub pre: Pre,
    /// What it holds in memory, in bytes, about: its machine code and its data, and not what sandboxes have of their own.
    pub bytes: u64,
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
        imports::link_agent(&mut agent)?;
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
        let image = component.image_range();
        Ok(Plugin { pre, bytes: image.end.addr().saturating_sub(image.start.addr()) as u64 })
    }
}

/// A version of a plugin, loaded by whoever asks first; the others wait.
type Loading = Arc<OnceCell<Arc<Plugin>>>;

/// The plugins that are loaded, and when each was asked for last.
#[derive(Default)]
struct Loaded {
    plugins: HashMap<Digest, (Loading, u64)>,
    /// Counts the times that any was asked for.
    asked: u64,
}

impl Loaded {
    fn bytes(&self) -> u64 {
        self.plugins.values().filter_map(|(loading, _)| loading.get()).map(|plugin| plugin.bytes).sum()
    }

    /// Lets go of plugins that nobody uses, those first that were asked for longest ago, until no more are left than these.
    /// Whatever is in use stays: its runs hold it in any case.
    fn shrink(&mut self, count_max: usize, bytes_max: u64) {
        let idle = |loading: &Loading| {
            Arc::strong_count(loading) == 1 && loading.get().is_none_or(|plugin| Arc::strong_count(plugin) == 1)
        };
        let mut bytes = self.bytes();
        while self.plugins.len() > count_max || bytes > bytes_max {
            let unused = self.plugins.iter().filter(|(_, (loading, _))| idle(loading));
            let Some(gone) = unused.min_by_key(|(_, (_, asked))| *asked).map(|(digest, _)| *digest) else { return };
            let gone = self.plugins.remove(&gone).and_then(|(loading, _)| loading.get().map(|plugin| plugin.bytes));
            bytes = bytes.saturating_sub(gone.unwrap_or(0));
        }
    }

    fn enter(&mut self, digest: Digest, loading: Option<Loading>) -> Loading {
        if !self.plugins.contains_key(&digest) {
            self.shrink(LOADED_MAX - 1, u64::MAX);
        }
        self.asked += 1;
        let (there, asked) = self.plugins.entry(digest).or_default();
        *asked = self.asked;
        if let Some(loading) = loading {
            *there = loading;
        }
        there.clone()
    }
}

/// All plugins of the host.
pub struct Plugins {
    engine: wasmtime::Engine,
    linkers: Linkers,
    artifacts: Artifacts,
    /// By name, the version pushed last at the end.
    known: RwLock<BTreeMap<PluginName, Vec<Arc<PluginVersion>>>>,
    loaded: Mutex<Loaded>,
    /// What plugins that are loaded may hold together while nobody uses them, in bytes.
    loaded_bytes_max: u64,
}

impl Plugins {
    /// Lets go of all plugins that nobody uses: memory is short, and they are read from disk again in milliseconds.
    pub fn release_idle(&self) {
        self.loaded.lock().unwrap_or_else(PoisonError::into_inner).shrink(0, 0);
    }

    /// With the versions that storage knows.
    pub fn new(
        engine: wasmtime::Engine,
        linkers: Linkers,
        artifacts: Artifacts,
        known: Vec<PluginVersion>,
        loaded_bytes_max: u64,
    ) -> Self {
        let (loaded, none) = (Mutex::default(), RwLock::default());
        let plugins = Self { engine, linkers, artifacts, known: none, loaded, loaded_bytes_max };
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
            loaded.enter(version.digest, Some(Arc::new(OnceCell::new_with(Some(plugin)))));
            loaded.shrink(LOADED_MAX, self.loaded_bytes_max);
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
        let loading = self.loaded().enter(version.digest, None);
        let was_there = loading.initialized();
        let plugin = loading.get_or_try_init(|| async {
            let component = self.artifacts.kept(&self.engine, user, version.digest).await?;
            let plugin = self.linkers.link(&component, version.kind);
            plugin.map(Arc::new).map_err(|error| ArtifactError::Engine(error.to_string()))
        });
        let plugin = plugin.await.cloned();
        // How much it takes is known only now; it is in use, and so are those of others who wait here.
        if !was_there {
            self.loaded().shrink(LOADED_MAX, self.loaded_bytes_max);
        }
        plugin
    }

    /// How many plugins are loaded, and how many bytes they hold together.
    pub fn loaded_now(&self) -> (usize, u64) {
        let loaded = self.loaded();
        (loaded.plugins.len(), loaded.bytes())
    }

    fn loaded(&self) -> std::sync::MutexGuard<'_, Loaded> {
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

    /// The newest version of each name after one, by name: so many, with so many bytes of description, but at least one.
    /// Says whether there are more.
    pub fn page(&self, after: Option<&PluginName>, max: usize, bytes_max: usize) -> (Vec<Arc<PluginVersion>>, bool) {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let (mut page, mut bytes) = (Vec::new(), 0_usize);
        for latest in known.range((from, Bound::Unbounded)).filter_map(|(_, versions)| versions.last()) {
            bytes = bytes.saturating_add(latest.described_bytes());
            if page.len() >= max || !page.is_empty() && bytes > bytes_max {
                return (page, true);
            }
            page.push(latest.clone());
        }
        (page, false)
    }

    /// Shows the newest version of each tool plugin, by name, until it is enough. Nothing is copied, so whoever asks for
    /// names takes no memory for schemas; what is shown is looked at under a lock, and not for long.
    pub fn each_tool_plugin(&self, mut show: impl FnMut(&PluginVersion) -> ControlFlow<()>) {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        for latest in known.values().filter_map(|versions| versions.last()) {
            if latest.kind == PluginKind::Tool && show(latest).is_break() {
                return;
            }
        }
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

    /// How many versions of all plugins there are, and how many bytes they say of themselves together.
    pub fn held(&self) -> (usize, usize) {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let versions = known.values().flatten();
        versions.fold((0, 0), |(count, bytes), version| (count + 1, bytes.saturating_add(version.described_bytes())))
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
