//! The way in for plugins: gate, compile, link, describe, keep.

use crate::{
    artifact::ArtifactError,
    bindings,
    compile::CompileError,
    dispatch::FILE_FAMILY,
    engine::{MEMORIES_MAX, MEMORY_BYTES_MAX, TABLE_ELEMENTS_MAX, TABLES_MAX},
    gate::{self, GateError},
    guest_threads::Aside,
    meter::Refusal,
    plugin::{Plugin, Plugins},
    sandbox::{Sandbox, Stop},
    schema,
    services::Services,
};
use bytes::Bytes;
use cofferdam_core::{
    Json, UserExecutionContext, clock,
    context::DESCRIPTION_LIMITS,
    fault::Fault,
    grant::{AGENT_PATTERNS_MAX, Access, AgentPattern, Permissions, TOOL_PATTERNS_MAX, ToolPattern, is_tool_verb},
    identity::Operator,
    ids::{Digest, PluginName, UserId, is_version},
    quota::{PLUGIN_BYTES_MAX, PLUGIN_DESCRIPTIONS_BYTES_MAX, PLUGIN_VERSIONS_MAX},
    run::StopReason,
    storage::{PluginKind, PluginVersion, StorageError, ToolDescription},
};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};
use wasmtime::component::{Component, types::ComponentItem};

/// The longest description, in bytes.
const DESCRIPTION_BYTES_MAX: usize = 4 << 10;
/// All that a plugin says of itself, in bytes: every page that lists it and every agent that asks for tools has a copy.
const DESCRIBED_BYTES_MAX: usize = 256 << 10;
/// The longest name that a plugin gives itself, in characters.
const TITLE_CHARS_MAX: usize = 64;
/// The most tools that a tool plugin offers.
const TOOLS_MAX: usize = 64;
/// How a component begins: the magic number, and version 13 in layer 1. A core module has version 1 in layer 0.
const COMPONENT_PREAMBLE: &[u8] = b"\0asm\x0d\0\x01\0";

/// Why a plugin is not taken. Nothing of it was kept.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    /// Too many bytes.
    #[error("the component has {bytes} bytes, at most {max} are allowed; build it in release mode and strip it")]
    TooLarge {
        /// How many it has.
        bytes: usize,
        /// How many it may have.
        max: usize,
    },
    /// Not a component.
    #[error("{0}")]
    NotAComponent(String),
    /// It cannot be read to its end, or has too much of something.
    #[error(transparent)]
    Structure(#[from] GateError),
    /// It imports what the host does not offer.
    #[error("the component imports what this host does not offer: {}; agents may import cofferdam:agent/* and WASI 0.2 without sockets, so leave out what opens connections (std::net, and crates that use it)", .0.join(", "))]
    UnknownImports(Vec<String>),
    /// Not of either world.
    #[error("the component is of neither world of cofferdam:agent@0.1.0: {0}")]
    WrongWorld(String),
    /// It asks for more than any sandbox has.
    #[error("the component needs {what}, at most {max} are allowed in one sandbox")]
    TooManyResources {
        /// How many of what.
        what: String,
        /// How many there may be.
        max: u64,
    },
    /// Its modules ask for more than a sandbox has, each for itself.
    #[error(
        "the component needs more than one sandbox has: {0}; declare smaller memories and tables, and let them grow"
    )]
    BeyondSandbox(String),
    /// It does not compile.
    #[error("the component does not compile: {0}")]
    Compile(String),
    /// The compiler met a limit.
    #[error("{0}")]
    CompileLimit(String),
    /// The host has no memory to compile it in now.
    #[error("{0}")]
    NoRoom(String),
    /// The host has no memory to ask it in now.
    #[error(
        "the host has no memory left for the plugin to describe itself in, because runs hold it; push it again when fewer are under way"
    )]
    NoRoomToDescribe,
    /// The user has as many compiles waiting as may be.
    #[error("{0}; push again when those are answered")]
    TooManyCompiles(String),
    /// It did not say what it is.
    #[error("the plugin failed to describe itself ({}): {}", .0.reason.as_str(), .0.message)]
    Describe(Stop),
    /// What it said of itself cannot be.
    #[error("the plugin's description of itself is not valid: {field} {problem}")]
    Description {
        /// Where.
        field: String,
        /// What.
        problem: String,
    },
    /// The name is the host's own.
    #[error("the name {0:?} belongs to the host's own tools; push the plugin under another")]
    ReservedName(PluginName),
    /// The name is taken by a plugin of the other world.
    #[error(
        "{name:?} is {}, and a name stays what it is: grants and state were given to it as that; push this component, {}, under another name",
        kind_words(*.is), kind_words(*.pushed)
    )]
    OtherKind {
        /// The name.
        name: PluginName,
        /// What it is.
        is: PluginKind,
        /// What was pushed.
        pushed: PluginKind,
    },
    /// The host has as many as it may.
    #[error("this host keeps {0} plugin versions, which is as many as it may")]
    Full(usize),
    /// What plugins say of themselves has filled the host.
    #[error(
        "what the plugins of this host say of themselves has {0} bytes together, which is as many as it may; push plugins with shorter descriptions and schemas"
    )]
    FullOfDescriptions(usize),
    /// The host failed.
    #[error("the host cannot keep the plugin: {0}")]
    Host(String),
}

impl PushError {
    /// Who is to blame.
    #[must_use]
    pub const fn fault(&self) -> Fault {
        match self {
            Self::Host(_) => Fault::Host,
            Self::Full(_)
            | Self::FullOfDescriptions(_)
            | Self::NoRoom(_)
            | Self::NoRoomToDescribe
            | Self::TooManyCompiles(_) => Fault::Exhausted,
            _ => Fault::Caller,
        }
    }

    /// For programs.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::TooLarge { .. } => "too_large",
            Self::NotAComponent(_) => "not_a_component",
            Self::Structure(GateError::Malformed(_)) => "malformed",
            Self::Structure(GateError::TooMany { .. }) => "too_complex",
            Self::UnknownImports(_) => "unknown_imports",
            Self::WrongWorld(_) => "wrong_world",
            Self::TooManyResources { .. } | Self::BeyondSandbox(_) => "too_many_resources",
            Self::Compile(_) => "compile_failed",
            Self::CompileLimit(_) => "compile_limit",
            Self::NoRoom(_) => "no_room_to_compile",
            Self::NoRoomToDescribe => "no_room_to_describe",
            Self::TooManyCompiles(_) => "too_many_compiles",
            Self::Describe(_) => "describe_failed",
            Self::Description { .. } => "invalid_description",
            Self::ReservedName(_) => "reserved_name",
            Self::OtherKind { .. } => "other_kind",
            Self::Full(_) | Self::FullOfDescriptions(_) => "too_many_plugins",
            Self::Host(_) => "storage_failed",
        }
    }

    fn storage(error: StorageError) -> Self {
        tracing::error!(error = %error, source = ?error.source, "a plugin is not kept");
        Self::Host(error.to_string())
    }
}

impl From<ArtifactError> for PushError {
    fn from(error: ArtifactError) -> Self {
        match error {
            ArtifactError::Compile(CompileError::Invalid(why)) => Self::Compile(why),
            ArtifactError::Compile(crashed @ CompileError::Crashed(_)) => Self::Compile(crashed.to_string()),
            ArtifactError::TooLarge(why) => Self::BeyondSandbox(why),
            ArtifactError::Compile(limit @ CompileError::Limit { .. }) => Self::CompileLimit(limit.to_string()),
            ArtifactError::Compile(busy @ CompileError::NoRoom { .. }) => Self::NoRoom(busy.to_string()),
            ArtifactError::Compile(busy @ CompileError::TooMany) => Self::TooManyCompiles(busy.to_string()),
            ArtifactError::Structure(error) => Self::Structure(error),
            other => {
                tracing::error!(error = %other, "a plugin cannot be compiled");
                Self::Host("the compile worker or the component store failed; see the host's log".into())
            }
        }
    }
}

/// A plugin that was taken.
#[derive(Debug, Clone)]
pub struct Pushed {
    /// What it is.
    pub plugin: PluginVersion,
    /// Whether it is a new version; otherwise these bytes were here under this name already.
    pub new: bool,
}

/// All plugins of the host, for whoever manages them.
pub struct Registry {
    services: Arc<Services>,
    /// How many pushes of each component are under way.
    pushing: Arc<Mutex<HashMap<Digest, u32>>>,
}

/// A push under way. When the last one of a component ends and it has not become a plugin, nothing is kept of it: that
/// is so whether it was refused, or whoever pushed it went away.
struct Pushing {
    services: Arc<Services>,
    pushing: Arc<Mutex<HashMap<Digest, u32>>>,
    digest: Digest,
}

impl Drop for Pushing {
    fn drop(&mut self) {
        // Held until the files are gone, so that a push which begins now finds none, and not some that are removed later.
        let mut pushing = self.pushing.lock().unwrap_or_else(PoisonError::into_inner);
        let others = pushing.get_mut(&self.digest).map_or(0, |count| {
            *count -= 1;
            *count
        });
        if others == 0 {
            pushing.remove(&self.digest);
            if !self.services.plugins.knows(self.digest) {
                self.services.plugins.artifacts().forget(self.digest);
            }
        }
    }
}

impl Registry {
    pub(crate) fn new(services: Arc<Services>) -> Self {
        Self { services, pushing: Arc::default() }
    }

    fn begin(&self, digest: Digest) -> Arc<Pushing> {
        *self.pushing.lock().unwrap_or_else(PoisonError::into_inner).entry(digest).or_default() += 1;
        Arc::new(Pushing { services: self.services.clone(), pushing: self.pushing.clone(), digest })
    }

    /// Takes a plugin: checks it, compiles it in the turn of whoever pushes it, asks it what it is, keeps it, and makes it
    /// the newest of its name. Whoever drops this before it is kept ends all of it.
    ///
    /// # Errors
    /// When it is not a plugin that this host can run.
    pub async fn push(
        &self,
        operator: Operator,
        by: &UserId,
        name: PluginName,
        bytes: Bytes,
    ) -> Result<Pushed, PushError> {
        let plugins = &self.services.plugins;
        if name.as_str() == FILE_FAMILY {
            return Err(PushError::ReservedName(name));
        }
        recognize(&bytes)?;
        let digest = inspect(self.services.guests.aside(), bytes.clone()).await?;
        let pushing = self.begin(digest);
        let known = plugins.versions(&name).into_iter().find(|version| version.digest == digest);
        let (version, plugin) = match known {
            Some(known) => (PluginVersion { pushed_at: clock::now(), ..PluginVersion::clone(&known) }, None),
            None => {
                // Before it is compiled; and again when it is published, after all that came in meanwhile.
                has_room(plugins, 0)?;
                let (mut version, plugin) = self.examine(by, name, digest, &bytes, pushing.clone()).await?;
                version.bytes = bytes.len() as u64;
                (version, Some(plugin))
            }
        };
        self.publish(operator, version, plugin, bytes, pushing).await
    }

    /// An agent that is to be looked at and not kept, compiled in the turn of whoever brings it. Nothing of it executes here.
    ///
    /// # Errors
    /// When it is not an agent that this host can run.
    pub(crate) async fn agent_not_kept(&self, by: &UserId, bytes: Bytes) -> Result<(Digest, Arc<Plugin>), PushError> {
        let plugins = &self.services.plugins;
        recognize(&bytes)?;
        let digest = inspect(self.services.guests.aside(), bytes.clone()).await?;
        let pushing = self.begin(digest);
        let component = plugins.artifacts().compiled(plugins.engine(), by, digest, bytes, pushing.clone()).await?;
        let kind = check(plugins.engine(), &component)?;
        if kind != PluginKind::Agent {
            return Err(PushError::WrongWorld("it is a tool plugin, and an agent is asked for".into()));
        }
        let linked = plugins.linkers().link(&component, kind);
        linked.map(|plugin| (digest, Arc::new(plugin))).map_err(|error| PushError::WrongWorld(format!("{error:#}")))
    }

    /// Compiles a component, links it, and asks it what it is.
    async fn examine(
        &self,
        by: &UserId,
        name: PluginName,
        digest: Digest,
        bytes: &Bytes,
        pushing: Arc<Pushing>,
    ) -> Result<(PluginVersion, Arc<Plugin>), PushError> {
        let plugins = &self.services.plugins;
        let component = plugins.artifacts().compiled(plugins.engine(), by, digest, bytes.clone(), pushing).await?;
        let kind = check(plugins.engine(), &component)?;
        // Before anything of it is asked what it is; and again when it is published, after who else was quicker.
        keeps_its_kind(plugins, &name, kind)?;
        let linked = plugins.linkers().link(&component, kind);
        let plugin = Arc::new(linked.map_err(|error| PushError::WrongWorld(format!("{error:#}")))?);
        let version = self.describe(name, digest, kind, plugin.clone()).await?;
        let bytes = version.described_bytes();
        if bytes > DESCRIBED_BYTES_MAX {
            let problem = format!(
                "has {bytes} bytes, at most {DESCRIBED_BYTES_MAX} are allowed; shorten descriptions and schemas, or split it into several plugins"
            );
            return Err(invalid("all of it together", problem));
        }
        Ok((version, plugin))
    }

    /// Makes a version the newest of its name, on disk, in storage and then in memory: one at a time, and to the end even
    /// if the client goes away.
    #[expect(
        clippy::disallowed_methods,
        reason = "storage and memory must not be torn apart by a client that goes away"
    )]
    async fn publish(
        &self,
        operator: Operator,
        version: PluginVersion,
        plugin: Option<Arc<Plugin>>,
        bytes: Bytes,
        pushing: Arc<Pushing>,
    ) -> Result<Pushed, PushError> {
        let services = self.services.clone();
        let published = tokio::spawn(async move {
            let _under_way = pushing;
            // Also for bytes that were here before: whoever pushes them again may be mending the store.
            services.plugins.artifacts().keep(version.digest, bytes).await?;
            let _one_at_a_time = services.publishing.lock().await;
            keeps_its_kind(&services.plugins, &version.name, version.kind)?;
            let versions = services.plugins.versions(&version.name);
            let new = !versions.iter().any(|known| known.digest == version.digest);
            if new {
                has_room(&services.plugins, version.described_bytes())?;
            }
            services.storage.put_plugin(operator, &version).await.map_err(PushError::storage)?;
            services.plugins.add(Arc::new(version.clone()), plugin);
            Ok(Pushed { plugin: version, new })
        });
        published.await.map_err(|error| PushError::Host(error.to_string()))?
    }

    /// All versions of a plugin, the one pushed last at the end; none if the name is unknown.
    #[must_use]
    pub fn versions(&self, name: &PluginName) -> Vec<Arc<PluginVersion>> {
        self.services.plugins.versions(name)
    }

    /// The newest version of each plugin, by name: those after a name, at most so many, and at most so many bytes of what
    /// they say of themselves, but at least one. Says whether there are more.
    #[must_use]
    pub fn page(&self, after: Option<&PluginName>, max: usize, bytes_max: usize) -> (Vec<Arc<PluginVersion>>, bool) {
        self.services.plugins.page(after, max, bytes_max)
    }

    /// The name most like a text, if any is like it.
    #[must_use]
    pub fn nearest(&self, text: &str) -> Option<PluginName> {
        self.services.plugins.nearest(text, None)
    }

    /// Asks a plugin what it is, with nothing granted and small limits.
    async fn describe(
        &self,
        name: PluginName,
        digest: Digest,
        kind: PluginKind,
        plugin: Arc<Plugin>,
    ) -> Result<PluginVersion, PushError> {
        // The semaphore is never closed. The time to describe itself begins after this.
        let _slot = self.services.descriptions.acquire().await.map_err(|error| PushError::Host(error.to_string()))?;
        let ctx = UserExecutionContext::description(digest).map_err(|error| PushError::Host(error.to_string()))?;
        let memory = self.services.memory.description(DESCRIPTION_LIMITS.memory_bytes);
        let of_stop = |stop: Stop| match (stop.reason, memory.refused()) {
            (StopReason::MemoryLimit, Some(Refusal::Host)) => PushError::NoRoomToDescribe,
            (StopReason::HostError, _) => PushError::Host(stop.message),
            _ => PushError::Describe(stop),
        };
        let fuel = DESCRIPTION_LIMITS.fuel;
        let sandbox = Sandbox::open(&self.services, plugin, Arc::new(ctx), None, None, memory.clone(), fuel)
            .map_err(|error| PushError::Host(error.to_string()))?;
        let about = |title, version, description, needs| -> Result<PluginVersion, PushError> {
            Ok(PluginVersion {
                name,
                digest,
                kind,
                title: checked_title(title)?,
                version: checked_version(version)?,
                description: bounded("description", description, DESCRIPTION_BYTES_MAX)?,
                needs,
                durable: false,
                input_schema: None,
                output_schema: None,
                tools: Vec::new(),
                bytes: 0,
                pushed_at: clock::now(),
            })
        };
        let (guests, ended) = (&self.services.guests, || PushError::Host("the host is going away".into()));
        match kind {
            PluginKind::Agent => {
                let said = guests.run(sandbox.describe_agent()).await.ok_or_else(ended)?.map_err(of_stop)?;
                // What people have answered is not to be lost with the host. But a durable run has no workspace.
                let asks = said.needs.human && matches!(said.needs.workspace, bindings::types::Access::None);
                let durable = said.needs.durable || asks;
                let mut about = about(said.name, said.version, said.description, checked_needs(said.needs)?)?;
                about.durable = durable;
                about.input_schema = Some(schema("input-schema", said.input_schema)?);
                about.output_schema = Some(schema("output-schema", said.output_schema)?);
                Ok(about)
            }
            PluginKind::Tool => {
                let said = guests.run(sandbox.describe_tool()).await.ok_or_else(ended)?.map_err(of_stop)?;
                let durable = said.needs.durable;
                let needs = checked_needs(said.needs)?;
                if !needs.tools().is_empty() {
                    return Err(invalid("needs.tools", "must be empty: a tool plugin calls no other tools"));
                }
                if !needs.agents().is_empty() {
                    return Err(invalid("needs.agents", "must be empty: a tool plugin starts no agents"));
                }
                if needs.human() {
                    return Err(invalid("needs.human", "must be false: a tool plugin asks no people"));
                }
                if durable {
                    return Err(invalid("needs.durable", "must be false: a tool plugin has no runs of its own"));
                }
                let mut about = about(said.name, said.version, said.description, needs)?;
                about.tools = checked_tools(said.tools)?;
                Ok(about)
            }
        }
    }
}

/// Reads the bytes through: their structure, and their digest.
async fn inspect(aside: Aside, bytes: Bytes) -> Result<Digest, PushError> {
    // 64 MiB take a while to read.
    let inspected = aside.run(move || {
        gate::check(&bytes)?;
        Ok(Digest::of(&bytes))
    });
    inspected.await.map_err(|error| PushError::Host(error.to_string()))?
}

/// What can be said of the bytes by how they begin.
fn recognize(bytes: &[u8]) -> Result<(), PushError> {
    if bytes.len() > PLUGIN_BYTES_MAX {
        return Err(PushError::TooLarge { bytes: bytes.len(), max: PLUGIN_BYTES_MAX });
    }
    if bytes.starts_with(COMPONENT_PREAMBLE) {
        return Ok(());
    }
    let what = if wasmtime::Engine::detect_precompiled(bytes).is_some() {
        "these bytes are precompiled machine code; push the component itself"
    } else if bytes.starts_with(b"\0asm\x01\0\0\0") {
        "these bytes are a core WebAssembly module, not a component; build for the target wasm32-wasip2, as `cofferdam build` does"
    } else if bytes.starts_with(b"\0asm") {
        "these bytes are WebAssembly of a version that this host does not know"
    } else if bytes.is_empty() {
        "there are no bytes"
    } else {
        "these bytes are not WebAssembly: they do not begin with its magic number; `cofferdam build DIR` makes a component and prints where it is"
    };
    Err(PushError::NotAComponent(what.into()))
}

/// Whether the host offers what the component imports, and which world it is of.
fn check(engine: &wasmtime::Engine, component: &Component) -> Result<PluginKind, PushError> {
    let component_type = component.component_type();
    let unknown: Vec<_> = component_type
        .imports(engine)
        .map(|(name, _)| name)
        .filter(|name| !is_offered(name))
        // What is repeated of a stranger's names is bounded.
        .take(32)
        .map(|name| name.chars().filter(|c| !c.is_control()).take(128).collect())
        .collect();
    if !unknown.is_empty() {
        return Err(PushError::UnknownImports(unknown));
    }
    let exports = |name| {
        component_type.get_export(engine, name).is_some_and(|item| matches!(item.ty, ComponentItem::ComponentFunc(_)))
    };
    let kind = match (exports("describe"), exports("run"), exports("call")) {
        (true, true, false) => PluginKind::Agent,
        (true, false, true) => PluginKind::Tool,
        (false, ..) => return Err(PushError::WrongWorld("it exports no function \"describe\"; a Rust crate exports it by export_agent!(YourType) or export_tool!(YourType)".into())),
        (true, false, false) => {
            return Err(PushError::WrongWorld("it exports neither \"run\" (an agent) nor \"call\" (a tool)".into()));
        }
        (true, true, true) => return Err(PushError::WrongWorld("it exports both \"run\" and \"call\"".into())),
    };
    // Said before the linker says it, and better: a tool that called tools could wait for a sandbox that only the callers
    // above it hold, or call itself for ever.
    if kind == PluginKind::Tool && component_type.imports(engine).any(|(name, _)| name.starts_with(TOOLS)) {
        return Err(PushError::WrongWorld(format!(
            "it is a tool plugin and imports {TOOLS}: a tool calls no other tools, nor itself; let the agent call both, and hand the answer of one to the other"
        )));
    }
    if kind == PluginKind::Tool && component_type.imports(engine).any(|(name, _)| name.starts_with(HUMAN)) {
        return Err(PushError::WrongWorld(format!(
            "it is a tool plugin and imports {HUMAN}: a tool cannot wait for people; let the agent ask, and hand the answer to the tool"
        )));
    }
    let too_many = |what: String, max| Err(PushError::TooManyResources { what, max });
    match component.resources_required() {
        None => return Err(PushError::WrongWorld("it imports core modules".into())),
        Some(needs) if needs.num_memories > MEMORIES_MAX => {
            return too_many(format!("{} memories", needs.num_memories), MEMORIES_MAX.into());
        }
        Some(needs) if needs.num_tables > TABLES_MAX => {
            return too_many(format!("{} tables", needs.num_tables), TABLES_MAX.into());
        }
        Some(needs) if needs.max_initial_table_size.unwrap_or(0) > TABLE_ELEMENTS_MAX as u64 => {
            let elements = needs.max_initial_table_size.unwrap_or(0);
            return too_many(format!("a table of {elements} elements"), TABLE_ELEMENTS_MAX as u64);
        }
        Some(needs) if needs.max_initial_memory_size.unwrap_or(0) > (MEMORY_BYTES_MAX >> 16) as u64 => {
            let pages = needs.max_initial_memory_size.unwrap_or(0);
            return too_many(format!("a memory of {pages} pages"), (MEMORY_BYTES_MAX >> 16) as u64);
        }
        Some(_) => {}
    }
    Ok(kind)
}

/// An interface that only agents may import.
const TOOLS: &str = "cofferdam:agent/tools@0.1.0";
/// Another.
const HUMAN: &str = "cofferdam:agent/human@0.1.0";

/// Whether an import has a name that the host knows. Whether it also has the right type is for the linker to say.
fn is_offered(name: &str) -> bool {
    const OFFERED: [&str; 24] = [
        "cofferdam:agent/types@0.1.0",
        "cofferdam:agent/context@0.1.0",
        "cofferdam:agent/events@0.1.0",
        TOOLS,
        "cofferdam:agent/state@0.1.0",
        HUMAN,
        "cofferdam:agent/agents@0.1.0",
        "cofferdam:agent/tool-plugins@0.1.0",
        "wasi:cli/environment@0.2",
        "wasi:cli/exit@0.2",
        "wasi:cli/stdin@0.2",
        "wasi:cli/stdout@0.2",
        "wasi:cli/stderr@0.2",
        "wasi:cli/terminal-",
        "wasi:clocks/monotonic-clock@0.2",
        "wasi:clocks/wall-clock@0.2",
        "wasi:filesystem/types@0.2",
        "wasi:filesystem/preopens@0.2",
        "wasi:io/error@0.2",
        "wasi:io/poll@0.2",
        "wasi:io/streams@0.2",
        "wasi:random/random@0.2",
        "wasi:random/insecure@0.2",
        "wasi:random/insecure-seed@0.2",
    ];
    OFFERED.iter().any(|offered| name.starts_with(offered))
}

/// Whether one more version, which says so much of itself, may be kept.
fn has_room(plugins: &Plugins, bytes: usize) -> Result<(), PushError> {
    let (versions, described_bytes) = plugins.held();
    if versions >= PLUGIN_VERSIONS_MAX {
        return Err(PushError::Full(PLUGIN_VERSIONS_MAX));
    }
    if described_bytes.saturating_add(bytes) > PLUGIN_DESCRIPTIONS_BYTES_MAX {
        return Err(PushError::FullOfDescriptions(PLUGIN_DESCRIPTIONS_BYTES_MAX));
    }
    Ok(())
}

/// A name is an agent's or a tool plugin's, for ever.
fn keeps_its_kind(plugins: &Plugins, name: &PluginName, pushed: PluginKind) -> Result<(), PushError> {
    match plugins.latest_of(name) {
        Some(latest) if latest.kind != pushed => {
            Err(PushError::OtherKind { name: name.clone(), is: latest.kind, pushed })
        }
        _ => Ok(()),
    }
}

const fn kind_words(kind: PluginKind) -> &'static str {
    match kind {
        PluginKind::Agent => "an agent",
        PluginKind::Tool => "a tool plugin",
    }
}

fn invalid(field: impl Into<String>, problem: impl Into<String>) -> PushError {
    PushError::Description { field: field.into(), problem: problem.into() }
}

fn bounded(field: &str, text: String, bytes_max: usize) -> Result<String, PushError> {
    if text.len() > bytes_max {
        return Err(invalid(field, format!("has {} bytes, at most {bytes_max} are allowed", text.len())));
    }
    Ok(text)
}

fn checked_title(title: String) -> Result<String, PushError> {
    let valid = (1..=TITLE_CHARS_MAX).contains(&title.chars().count()) && !title.chars().any(char::is_control);
    if valid { Ok(title) } else { Err(invalid("name", format!("must be 1 to {TITLE_CHARS_MAX} printable characters"))) }
}

fn checked_version(version: String) -> Result<String, PushError> {
    if is_version(&version) {
        Ok(version)
    } else {
        Err(invalid("version", "must be 1 to 64 characters of A-Z, a-z, 0-9, '.', '-', '+' and '_'"))
    }
}

fn schema(field: &str, text: String) -> Result<Json, PushError> {
    schema::checked(text).map_err(|error| invalid(field, error.to_string()))
}

fn checked_needs(needs: bindings::types::Needs) -> Result<Permissions, PushError> {
    if needs.tools.len() > TOOL_PATTERNS_MAX {
        return Err(invalid(
            "needs.tools",
            format!("has {} entries, at most {TOOL_PATTERNS_MAX} are allowed", needs.tools.len()),
        ));
    }
    let tools = needs.tools.iter().map(|text| text.parse::<ToolPattern>());
    let tools = tools.collect::<Result<Vec<_>, _>>().map_err(|e| invalid("needs.tools", e.to_string()))?;
    if needs.agents.len() > AGENT_PATTERNS_MAX {
        return Err(invalid(
            "needs.agents",
            format!("has {} entries, at most {AGENT_PATTERNS_MAX} are allowed", needs.agents.len()),
        ));
    }
    let agents = needs.agents.iter().map(|text| text.parse::<AgentPattern>());
    let agents = agents.collect::<Result<Vec<_>, _>>().map_err(|e| invalid("needs.agents", e.to_string()))?;
    let access = |access| match access {
        bindings::types::Access::None => Access::None,
        bindings::types::Access::Read => Access::Read,
        bindings::types::Access::ReadWrite => Access::ReadWrite,
    };
    let permissions = Permissions::new(tools, access(needs.state)).with_workspace(access(needs.workspace));
    Ok(permissions.with_agents(agents).with_human(needs.human))
}

fn checked_tools(tools: Vec<bindings::types::Tool>) -> Result<Vec<ToolDescription>, PushError> {
    if !(1..=TOOLS_MAX).contains(&tools.len()) {
        return Err(invalid("tools", format!("has {} entries, but must have 1 to {TOOLS_MAX}", tools.len())));
    }
    let mut checked: Vec<ToolDescription> = Vec::new();
    for (i, tool) in tools.into_iter().enumerate() {
        let field = |name: &str| format!("tools[{i}].{name}");
        if !is_tool_verb(&tool.name) {
            return Err(invalid(field("name"), "must be 1 to 64 characters of a-z, 0-9, '_' and '-'"));
        }
        if checked.iter().any(|other| other.name == tool.name) {
            return Err(invalid(field("name"), format!("{:?} is there twice", tool.name)));
        }
        checked.push(ToolDescription {
            description: bounded(&field("description"), tool.description, DESCRIPTION_BYTES_MAX)?,
            input_schema: schema(&field("input-schema"), tool.input_schema)?,
            idempotent: tool.idempotent,
            name: tool.name,
        });
    }
    Ok(checked)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_a_component_is_told_what_it_is() {
        let word = |bytes: &[u8]| recognize(bytes).expect_err("refused").to_string();
        assert!(word(b"").contains("no bytes"));
        assert!(word(b"(component)").contains("not WebAssembly"));
        assert!(word(b"\0asm\x01\0\0\0").contains("core WebAssembly module"));
        assert!(word(b"\0asm\x09\0\0\0").contains("version"));
        assert!(recognize(COMPONENT_PREAMBLE).is_ok());
    }

    #[test]
    fn sockets_and_strangers_are_not_offered() {
        for name in ["wasi:sockets/tcp@0.2.0", "wasi:http/types@0.2.0", "example:missing/nothing", "run", ""] {
            assert!(!is_offered(name), "{name} is offered");
        }
    }
}
