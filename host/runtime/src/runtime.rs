//! The runtime: takes submissions, keeps the books, starts and stops. What becomes of a run is in `invoke.rs`.

use crate::{
    artifact::Artifacts,
    backoff::{BackingOff, Backoff},
    compile::Compiler,
    engine::Engine,
    invoke::{Ending, RunTask},
    meter::HostMemory,
    plugin::{Linkers, Plugins},
    registry::Registry,
    sandbox::{OUTCOME_UNKNOWN, Spent, Stop},
    scratch::Scratches,
    services::{Grants, Services, TOOL_SANDBOXES_MAX},
    workspace::{Workspace, WorkspaceRoot, Workspaces},
};
use cofferdam_core::{
    Json, clock,
    context::{StopCause, StopSignal},
    fault::Fault,
    grant::Permissions,
    identity::{Operator, Scope},
    ids::{AgentRef, PluginName, RequestId, RunId, SessionId, ThreadId, UserId},
    journal::Journal,
    quota::{
        Admission, LimitOutOfRange, LimitsAsked, METADATA_BYTES_MAX, Quota, RUN_INPUT_BYTES_MAX, RUNS_LIVE_MAX,
        RUNS_QUEUED_MAX, Refused,
    },
    run::{RunSpec, RunStatus, RunView, StopReason},
    storage::{PluginKind, PluginVersion, Storage, StorageError, UnfinishedRun},
};
use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::sync::{Semaphore, oneshot, watch};
use tokio_util::task::TaskTracker;

/// Sandboxes for plugins that are being described, at once. Slots of the pool beside those of runs and tools.
const DESCRIPTIONS_MAX: u32 = 16;

/// How long a cancel waits for the run to end before it answers with the run as it stands.
const CANCEL_WAIT: Duration = Duration::from_millis(500);

/// What a runtime is started with.
#[derive(Debug, Clone)]
pub struct RuntimeConfig {
    /// Components, artifacts and the secret are kept below it.
    pub data_dir: PathBuf,
    /// Where users' files are.
    pub workspaces: WorkspaceRoot,
    /// Where runs' scratch is. What is there is removed at start.
    pub scratch_dir: PathBuf,
    /// The `cofferdam` binary, started as `cofferdam compile-worker`.
    pub compile_worker: PathBuf,
    /// What each user may take.
    pub quota: Quota,
    /// Memory of all sandboxes together, in bytes.
    pub memory_bytes_max: u64,
    /// Runs executing at once, of all users.
    pub runs_live_max: u32,
    /// Runs waiting for a slot, of all users.
    pub runs_queued_max: u32,
}

impl RuntimeConfig {
    /// The defaults, below one directory.
    #[must_use]
    pub fn new(data_dir: impl Into<PathBuf>, compile_worker: impl Into<PathBuf>) -> Self {
        let (data_dir, compile_worker) = (data_dir.into(), compile_worker.into());
        let workspaces = WorkspaceRoot::PerUser(data_dir.join("workspaces"));
        let scratch_dir = data_dir.join("scratch");
        let quota = Quota::default();
        Self {
            data_dir,
            workspaces,
            scratch_dir,
            compile_worker,
            quota,
            memory_bytes_max: HostMemory::half_of_machine(),
            runs_live_max: RUNS_LIVE_MAX,
            runs_queued_max: RUNS_QUEUED_MAX,
        }
    }
}

/// Why a runtime does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The sandbox engine does not.
    #[error("the sandbox engine does not start on this machine: {0}")]
    Engine(wasmtime::Error),
    /// The data directory cannot be used.
    #[error("the data directory cannot be used: {0}")]
    DataDir(std::io::Error),
    /// Storage cannot be read.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// A run that somebody wants.
#[derive(Debug, Clone)]
pub struct Submission {
    /// Of which agent.
    pub agent: AgentRef,
    /// On what.
    pub input: Json,
    /// In which conversation; one of its own if not said.
    pub thread: Option<ThreadId>,
    /// Over which lasting connection, if one.
    pub session: Option<SessionId>,
    /// The client's own data: a JSON object.
    pub metadata: Option<Json>,
    /// Lower limits than the user's own.
    pub limits: LimitsAsked,
    /// The request it came with.
    pub request: RequestId,
}

/// Why a submission is not taken. Nothing was stored.
#[derive(Debug, thiserror::Error)]
pub enum AcceptError {
    /// There is no such agent.
    #[error("there is no agent {asked:?}{}", .nearest.as_ref().map_or_else(String::new, |name| format!("; the nearest name is {name:?}")))]
    UnknownAgent {
        /// What was asked for.
        asked: String,
        /// The name most like it.
        nearest: Option<String>,
    },
    /// The plugin offers tools, it does not run.
    #[error("plugin {0:?} is a tool plugin: agents call its tools, it cannot be run by itself")]
    NotAnAgent(PluginName),
    /// The metadata is not what it must be.
    #[error("metadata {0}")]
    InvalidMetadata(&'static str),
    /// The input is too large.
    #[error(
        "the input has {bytes} bytes, at most {max} are allowed; put large data into the workspace and name the file"
    )]
    InputTooLarge {
        /// How many it has.
        bytes: usize,
        /// How many it may have.
        max: usize,
    },
    /// A limit is out of range.
    #[error(transparent)]
    Limits(#[from] LimitOutOfRange),
    /// No room in the queue.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The plugin keeps failing for this user.
    #[error(transparent)]
    BackingOff(#[from] BackingOff),
    /// The host is going away.
    #[error("the host is stopping and takes no new runs; submit again when it is back")]
    Draining,
    /// The run could not be made durable.
    #[error(
        "the run could not be stored and is not started; a restart of the host may still bring it up, so look at your runs before you submit it again"
    )]
    Storage(#[source] StorageError),
}

impl AcceptError {
    /// Who is to blame.
    #[must_use]
    pub const fn fault(&self) -> Fault {
        match self {
            Self::UnknownAgent { .. } => Fault::Absent,
            Self::NotAnAgent(_) | Self::InvalidMetadata(_) | Self::InputTooLarge { .. } | Self::Limits(_) => {
                Fault::Caller
            }
            Self::Refused(_) | Self::BackingOff(_) => Fault::Exhausted,
            Self::Draining | Self::Storage(_) => Fault::Host,
        }
    }

    /// For programs.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::UnknownAgent { .. } => "unknown_agent",
            Self::NotAnAgent(_) => "not_an_agent",
            Self::InvalidMetadata(_) => "invalid_metadata",
            Self::InputTooLarge { .. } => "input_too_large",
            Self::Limits(_) => "limit_out_of_range",
            Self::Refused(_) => "queue_full",
            Self::BackingOff(_) => "backing_off",
            Self::Draining => "draining",
            Self::Storage(_) => "storage_failed",
        }
    }
}

/// A run that was accepted: it is durable, and will end whatever becomes of its client.
#[derive(Debug)]
pub struct Accepted {
    /// The run, queued.
    pub view: RunView,
    ended: watch::Receiver<Option<RunView>>,
}

impl Accepted {
    /// Waits for the run's end. If the host goes away first, the run as it was accepted.
    pub async fn ended(&self) -> RunView {
        let mut ended = self.ended.clone();
        let view = match ended.wait_for(Option::is_some).await {
            Ok(view) => view.clone(),
            Err(_) => None,
        };
        view.unwrap_or_else(|| self.view.clone())
    }
}

/// A run that is queued or executing in this process.
#[derive(Debug, Clone)]
pub(crate) struct Live {
    user: UserId,
    stop: StopSignal,
    ended: watch::Receiver<Option<RunView>>,
}

/// The runtime: takes submissions, runs them, keeps the books.
#[derive(Clone)]
pub struct Runtime(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    pub services: Arc<Services>,
    registry: Registry,
    journal: Journal,
    pub admission: Admission,
    pub backoff: Backoff,
    live: Mutex<HashMap<RunId, Live>>,
    tasks: TaskTracker,
    draining: AtomicBool,
    pub drained: tokio_util::sync::CancellationToken,
}

impl Runtime {
    /// Starts a runtime over a storage, and goes on with what a stopped one left behind: queued runs run, interrupted
    /// runs are ended as what they are.
    ///
    /// # Errors
    /// When the machine, the directory or storage cannot be used.
    pub async fn start(config: RuntimeConfig, storage: Arc<dyn Storage>) -> Result<Self, StartError> {
        let sandboxes_max = config.runs_live_max.saturating_add(TOOL_SANDBOXES_MAX + DESCRIPTIONS_MAX);
        let engine = Engine::new(sandboxes_max).map_err(StartError::Engine)?;
        let linkers = Linkers::new(engine.wasmtime()).map_err(StartError::Engine)?;
        let memory = Arc::new(HostMemory::new(config.memory_bytes_max, config.quota.memory_bytes_per_user));
        let compiler = Compiler::new(&config.compile_worker, memory.clone());
        let artifacts = Artifacts::open(&config.data_dir, compiler).map_err(StartError::DataDir)?;
        let known = storage.plugins(Operator::host()).await?;
        let services = Arc::new(Services {
            plugins: Plugins::new(engine.wasmtime().clone(), linkers, artifacts, known),
            grants: Arc::new(Grants::new(storage.clone())),
            workspaces: Workspaces::new(config.workspaces, &config.quota),
            scratch: Scratches::open(config.scratch_dir, &config.quota).map_err(StartError::DataDir)?,
            memory,
            tool_sandboxes: Semaphore::new(TOOL_SANDBOXES_MAX as usize),
            publishing: tokio::sync::Mutex::new(()),
            host_panics: AtomicU64::new(0),
            sandboxes_open: AtomicU64::new(0),
            engine,
            storage,
        });
        let runtime = Self(Arc::new(Inner {
            registry: Registry::new(services.clone()),
            journal: Journal::new(services.storage.clone()),
            admission: Admission::new(config.quota, config.runs_live_max, config.runs_queued_max),
            backoff: Backoff::default(),
            live: Mutex::default(),
            tasks: TaskTracker::new(),
            draining: AtomicBool::new(false),
            drained: tokio_util::sync::CancellationToken::new(),
            services,
        }));
        runtime.recover().await?;
        Ok(runtime)
    }

    /// The storage beneath.
    #[must_use]
    pub fn storage(&self) -> &Arc<dyn Storage> {
        &self.0.services.storage
    }

    /// The journal of all runs.
    #[must_use]
    pub fn journal(&self) -> &Journal {
        &self.0.journal
    }

    /// The plugins.
    #[must_use]
    pub fn registry(&self) -> &Registry {
        &self.0.registry
    }

    /// What each user may take.
    #[must_use]
    pub fn quota(&self) -> &Quota {
        self.0.admission.quota()
    }

    /// The user's files.
    #[must_use]
    pub fn workspace(&self, scope: &Scope) -> Workspace {
        self.0.services.workspaces.of(scope)
    }

    /// What the user was granted for a plugin; none if nothing was ever said.
    ///
    /// # Errors
    /// When storage fails.
    pub async fn grant(&self, scope: &Scope, plugin: &PluginName) -> Result<Option<Permissions>, StorageError> {
        self.0.services.grants.get(scope, plugin).await
    }

    /// Grants a user something for a plugin, in place of what was granted before. Live at the next admission.
    ///
    /// # Errors
    /// When storage fails.
    pub async fn put_grant(
        &self,
        operator: Operator,
        user: &UserId,
        plugin: &PluginName,
        grant: Permissions,
    ) -> Result<(), StorageError> {
        self.0.services.grants.put(operator, user, plugin, grant).await
    }

    /// Runs executing now, of all users.
    #[must_use]
    pub fn runs_live(&self) -> u32 {
        self.0.admission.live()
    }

    /// Runs waiting for a slot now, of all users.
    #[must_use]
    pub fn runs_queued(&self) -> u32 {
        self.0.admission.queued()
    }

    /// Memory that all sandboxes hold now, in bytes.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        self.0.services.memory.bytes()
    }

    /// Sandboxes that exist now: those of runs, of their tools, and of plugins that are being described.
    #[must_use]
    pub fn sandboxes_open(&self) -> u64 {
        self.0.services.sandboxes_open.load(Ordering::Relaxed)
    }

    /// Host functions that panicked since the start. Anything but 0 is a bug of the host.
    #[must_use]
    pub fn host_panics(&self) -> u64 {
        self.0.services.host_panics.load(Ordering::Relaxed)
    }

    /// Takes a run. When this returns, the run is durable and will end, whatever becomes of its client.
    ///
    /// # Errors
    /// When the submission cannot be run, or there is no room for it. Then nothing was stored.
    pub async fn accept(&self, scope: &Scope, submission: Submission) -> Result<Accepted, AcceptError> {
        let (about, spec) = self.prepare(scope, submission)?;
        if self.is_draining() {
            return Err(AcceptError::Draining);
        }
        let place = self.0.admission.enqueue(scope.user())?;
        let (ending, ended) = watch::channel(None);
        let task = self.enter(scope.clone(), &spec, StopSignal::default(), ended.clone());
        let (answer, answered) = oneshot::channel();
        let view = RunView::queued(&spec);
        // From here on in a task of its own: storing the run and running it must not be torn apart by a client that
        // goes away between the two.
        self.spawn(async move {
            if let Err(error) = task.runtime.storage().insert_run(&task.scope, &spec).await {
                let _ = answer.send(Err(error));
                return;
            }
            let _ = answer.send(Ok(()));
            task.queue(place, Some(Arc::new(spec)), about, ending).await;
        });
        match answered.await {
            Ok(Ok(())) => Ok(Accepted { view, ended }),
            Ok(Err(error)) => Err(AcceptError::Storage(error)),
            Err(_) => Err(AcceptError::Draining),
        }
    }

    /// Takes a run and executes it in the caller's own task, without a queue: for a caller that owns the process, as a
    /// benchmark does. A caller that goes away takes the run with it.
    ///
    /// # Errors
    /// When the submission cannot be run, or no slot is free now.
    pub async fn execute_here(&self, scope: &Scope, submission: Submission) -> Result<RunView, AcceptError> {
        let (about, spec) = self.prepare(scope, submission)?;
        let place = self.0.admission.enqueue(scope.user())?;
        let slot = self.0.admission.try_admit(place).map_err(|_| Refused::UserQueueFull(0))?;
        self.storage().insert_run(scope, &spec).await.map_err(AcceptError::Storage)?;
        let (_ending, ended) = watch::channel(None);
        let task = self.enter(scope.clone(), &spec, StopSignal::default(), ended);
        Ok(task.execute(&slot, Arc::new(spec), &about).await)
    }

    /// Checks a submission and settles what it will run with.
    fn prepare(&self, scope: &Scope, asked: Submission) -> Result<(Arc<PluginVersion>, RunSpec), AcceptError> {
        let about = self.0.services.plugins.find(&asked.agent).ok_or_else(|| self.unknown_agent(&asked.agent))?;
        if about.kind != PluginKind::Agent {
            return Err(AcceptError::NotAnAgent(about.name.clone()));
        }
        let bytes = asked.input.as_str().len();
        if bytes > RUN_INPUT_BYTES_MAX {
            return Err(AcceptError::InputTooLarge { bytes, max: RUN_INPUT_BYTES_MAX });
        }
        let metadata = asked.metadata.unwrap_or_else(Json::empty_object);
        if metadata.as_str().len() > METADATA_BYTES_MAX || !metadata.as_str().trim_start().starts_with('{') {
            return Err(AcceptError::InvalidMetadata("must be a JSON object of at most 16 KiB"));
        }
        let limits = self.quota().narrow(asked.limits)?;
        self.0.backoff.check(scope.user(), about.digest, Instant::now())?;
        let id = RunId::generate();
        let spec = RunSpec {
            id,
            user: scope.user().clone(),
            agent: about.name.clone(),
            digest: about.digest,
            request: asked.request,
            thread: asked.thread.unwrap_or_else(|| ThreadId::of_run(id)),
            session: asked.session,
            parent: None,
            metadata,
            input: asked.input,
            limits,
            created_at: clock::now(),
        };
        Ok((about, spec))
    }

    fn unknown_agent(&self, asked: &AgentRef) -> AcceptError {
        let plugins = &self.0.services.plugins;
        let known = plugins.latest_of(&asked.name);
        let nearest = match &known {
            // The name is right, the version is not.
            Some(about) => Some(format!("{}@{}", about.name, about.version)),
            None => plugins.nearest(asked.name.as_str(), Some(PluginKind::Agent)).map(|name| name.to_string()),
        };
        let asked = match &asked.pick {
            cofferdam_core::ids::Pick::Latest => asked.name.to_string(),
            cofferdam_core::ids::Pick::Version(version) => format!("{}@{version}", asked.name),
            cofferdam_core::ids::Pick::Digest(digest) => format!("{}@{digest}", asked.name),
        };
        AcceptError::UnknownAgent { asked, nearest }
    }

    /// Asks a run to stop, and waits a moment for it. Gives the run as it then stands; none if the user has no such run.
    ///
    /// # Errors
    /// When storage fails.
    pub async fn cancel(&self, scope: &Scope, id: RunId) -> Result<Option<RunView>, StorageError> {
        let live = self.live().get(&id).filter(|live| live.user == *scope.user()).cloned();
        if let Some(mut live) = live {
            live.stop.stop(StopCause::Cancelled);
            if let Ok(Ok(view)) = tokio::time::timeout(CANCEL_WAIT, live.ended.wait_for(Option::is_some)).await {
                return Ok(view.clone());
            }
        }
        self.storage().run(scope, id).await
    }

    /// Whether the host is going away.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.0.draining.load(Ordering::Acquire)
    }

    /// Takes no more runs, waits for those that execute, stops those that take longer. What is queued stays queued, for
    /// the next start.
    pub async fn drain(&self, wait: Duration) {
        self.0.draining.store(true, Ordering::Release);
        self.0.drained.cancel();
        self.0.tasks.close();
        if tokio::time::timeout(wait, self.0.tasks.wait()).await.is_err() {
            for live in self.live().values() {
                live.stop.stop(StopCause::HostShutdown);
            }
            // What is left now ends within a tick, and then waits for storage only.
            if tokio::time::timeout(Duration::from_secs(5), self.0.tasks.wait()).await.is_err() {
                tracing::error!("some runs could not be ended in time; they are ended at the next start");
            }
        }
    }

    /// Goes on with what a stopped host left behind.
    async fn recover(&self) -> Result<(), StorageError> {
        for run in self.storage().unfinished_runs(Operator::host()).await? {
            let scope = Operator::host().on_behalf_of(&run.user);
            if run.status == RunStatus::Queued {
                self.resume_queued(scope, run).await?;
            } else {
                let reason = if run.effects { StopReason::OutcomeUnknown } else { StopReason::HostShutdown };
                let message = match reason {
                    StopReason::OutcomeUnknown => OUTCOME_UNKNOWN,
                    _ => {
                        "the host stopped while the run was executing; nothing outside the run was changed, submit it again"
                    }
                };
                let journal = self.journal().reopen(scope, &run);
                let end = Ending { started: None, started_at: run.started_at, spent: Spent::default(), peak_bytes: 0 };
                end.close(&journal, Err(Stop::new(reason, message))).await;
            }
        }
        Ok(())
    }

    async fn resume_queued(&self, scope: Scope, run: UnfinishedRun) -> Result<(), StorageError> {
        let Some(spec) = self.storage().run_spec(&scope, run.id).await? else { return Ok(()) };
        let agent = AgentRef { name: spec.agent.clone(), pick: cofferdam_core::ids::Pick::Digest(spec.digest) };
        let Some(about) = self.0.services.plugins.find(&agent) else {
            let journal = self.journal().reopen(scope, &run);
            let stop = Stop::new(StopReason::HostError, "the agent of this run is not on this host any more");
            let end = Ending { started: None, started_at: None, spent: Spent::default(), peak_bytes: 0 };
            end.close(&journal, Err(stop)).await;
            return Ok(());
        };
        let (ending, ended) = watch::channel(None);
        let place = self.0.admission.enqueue_again(scope.user());
        let task = self.enter(scope, &spec, StopSignal::default(), ended);
        // The input is read again when its turn comes: a long queue must not fill memory.
        self.spawn(async move { task.queue(place, None, about, ending).await });
        Ok(())
    }

    /// Makes a run known as live, until the task is dropped.
    fn enter(
        &self,
        scope: Scope,
        spec: &RunSpec,
        stop: StopSignal,
        ended: watch::Receiver<Option<RunView>>,
    ) -> RunTask {
        let live = Live { user: spec.user.clone(), stop: stop.clone(), ended };
        self.live().insert(spec.id, live);
        RunTask { runtime: self.clone(), scope, id: spec.id, view: RunView::queued(spec), stop }
    }

    #[expect(clippy::disallowed_methods, reason = "the one door to a run's task; the tracker is what drain waits for")]
    fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        tokio::spawn(self.0.tasks.track_future(work));
    }

    pub(crate) fn live(&self) -> MutexGuard<'_, HashMap<RunId, Live>> {
        self.0.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
