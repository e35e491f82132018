//! The runtime: takes submissions, keeps the books, starts and stops. What becomes of a run is in `invoke.rs`.

use crate::{
    announced::{Announced, announcement},
    artifact::Artifacts,
    backoff::{BackingOff, Backoff},
    children::TreeTurns,
    compile::{Compiler, WORKER_BASE_BYTES},
    counts::Counts,
    disk,
    engine::{EPOCH_TICK, Engine},
    guest_threads::{self, GuestThreads},
    invoke::{Executed, RunTask},
    meter::{HostMemory, half_of_machine},
    plugin::{Linkers, Plugins},
    pressure::{self, MemoryMark},
    recent::RecentActivity,
    registry::Registry,
    retention::Retention,
    scratch::Scratches,
    services::{DESCRIPTIONS_MAX, Grants, Seeds, Services, TOOL_SANDBOXES_MAX},
    stand_ins::StandIns,
    turn::WRITTEN_AT_ONCE,
    wait_places::WaitPlaces,
    waiting,
    workspace::{Workspace, WorkspaceRoot, Workspaces},
};
use cofferdam_core::{
    Json,
    admission::{Admission, Pressure, Refused, Standing, Want},
    clock,
    context::{ContextState, ContextStatus, StopCause, StopSignal},
    fault::Fault,
    grant::Permissions,
    idempotency::{Creating, Creation, InFlight, NotOnce, Once},
    identity::{Operator, Scope},
    ids::{AgentRef, PluginName, RequestId, RunId, SessionId, ThreadId, UserId},
    journal::Journal,
    pace::{Askers, Paces},
    quota::{
        LimitOutOfRange, LimitsAsked, METADATA_BYTES_MAX, Quota, Quotas, RUN_INPUT_BYTES_MAX, RUNS_LIVE_MAX,
        RUNS_QUEUED_MAX,
    },
    run::{Durability, Priority, Retries, RunSpec, RunStatus, RunView},
    storage::{PluginKind, PluginVersion, Storage, StorageError, UnfinishedRun},
    turns::{Turns, TurnsNow},
};
use jiff::Timestamp;
use std::{
    collections::{HashMap, hash_map::Entry},
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::sync::{Notify, Semaphore, oneshot};
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

/// Plugins that are loaded and that nobody uses may hold one part in so many of what guests may, beside that: what they
/// hold is read from disk again in milliseconds.
const LOADED_PART: u64 = 8;

/// The least that must be left of the disk when a run is taken, in bytes: what has begun has to come to its end, and be
/// kept.
const DISK_FREE_BYTES_MIN: u64 = 256 << 20;

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
    /// What users may take of whom nobody says otherwise.
    pub quota: Quota,
    /// Memory of all sandboxes together, in bytes.
    pub memory_bytes_max: u64,
    /// Runs executing at once, of all users.
    pub runs_live_max: u32,
    /// Runs waiting for a slot, of all users.
    pub runs_queued_max: u32,
    /// What must be left of the disk when a run is taken, in bytes.
    pub disk_free_bytes_min: u64,
    /// What answers in the place of tools and agents; a server has none.
    pub stand_ins: Option<Arc<dyn StandIns>>,
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
            memory_bytes_max: half_of_machine(),
            runs_live_max: RUNS_LIVE_MAX,
            runs_queued_max: RUNS_QUEUED_MAX,
            disk_free_bytes_min: DISK_FREE_BYTES_MIN,
            stand_ins: None,
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
    #[error("{0}: {source}", source = .0.source)]
    Storage(#[from] StorageError),
    /// There are no threads for guests.
    #[error("the host cannot start threads: {0}; raise its limit of processes")]
    Threads(std::io::Error),
    /// There are no random numbers.
    #[error("the operating system has no random numbers to give: {0}")]
    Random(getrandom::Error),
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
    /// Which of the user's own runs go first.
    pub priority: Priority,
    /// What becomes of it when the host goes away.
    pub durability: Durability,
    /// How often it is executed if it fails; once if nothing is said.
    pub retries: Option<Retries>,
    /// The request it came with.
    pub request: RequestId,
    /// What is remembered of the request, if it is to make its run once however often it comes.
    pub once: Option<Once>,
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
    #[error(
        "plugin {0:?} is a tool plugin: agents call its tools, it cannot be run by itself; to try one here and now, give `cofferdam run` its name as --tool"
    )]
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
    /// The request has an idempotency key that stands in the way.
    #[error(transparent)]
    Once(#[from] NotOnce),
    /// The host is going away.
    #[error("the host is stopping and takes no new runs; submit again when it is back")]
    Draining,
    /// There is hardly any disk left, which is for the runs that have begun.
    #[error(
        "the host's disk has {free} bytes left, and new runs are taken with at least {min}; the platform has to free some space, submit again then"
    )]
    DiskFull {
        /// How much is left.
        free: u64,
        /// How much there must be.
        min: u64,
    },
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
            Self::Once(error) => error.fault(),
            Self::Draining | Self::DiskFull { .. } | Self::Storage(_) => Fault::Host,
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
            Self::Once(error) => error.code(),
            Self::Draining => "draining",
            Self::DiskFull { .. } => "disk_full",
            Self::Storage(_) => "storage_failed",
        }
    }
}

/// What a run asks of the admission.
const fn want(spec: &RunSpec) -> Want {
    Want { fuel: spec.limits.fuel, memory_bytes: spec.limits.memory_bytes, priority: spec.priority }
}

/// A run that was accepted: it is durable, and will end whatever becomes of its client.
#[derive(Debug)]
pub struct Accepted {
    /// The run: queued, or as it stands if an earlier request had made it.
    pub view: RunView,
    /// Whether an earlier request with the same idempotency key had made it.
    pub replayed: bool,
    pub(crate) ended: Announced,
}

impl Accepted {
    /// Waits for the run's end. If the host goes away first, the run as it was accepted.
    pub async fn ended(&self) -> RunView {
        self.ended.wait().await.unwrap_or(&self.view).clone()
    }
}

/// What a user has under way.
#[derive(Debug, Clone, Copy)]
pub struct UnderWay {
    /// Runs that have a slot.
    pub runs_executing: u32,
    /// Runs that wait for one.
    pub runs_queued: u32,
    /// Runs that may execute at once as things are.
    pub runs_at_once: u32,
    /// Why these are not as many as the quota has, if they are not.
    pub narrowed_by: Option<Pressure>,
    /// Fuel that is left of this minute's.
    pub fuel_left_of_minute: u64,
    /// Memory that their sandboxes hold, in bytes.
    pub memory_bytes: u64,
    /// What the user's runs that ended in the last minute took in it, in hundredths of one processor.
    pub cpu_percent: f64,
}

/// A run that is queued or executing in this process.
#[derive(Debug, Clone)]
pub(crate) struct Live {
    user: UserId,
    pub stop: StopSignal,
    context: ContextState,
    pub ended: Announced,
}

/// The runtime: takes submissions, runs them, keeps the books.
#[derive(Clone)]
pub struct Runtime(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    pub services: Arc<Services>,
    registry: Registry,
    journal: Journal,
    pub admission: Admission,
    _tending: AbortOnDropHandle<()>,
    _watching: AbortOnDropHandle<()>,
    pub backoff: Backoff,
    pub retention: Retention,
    pub recent: RecentActivity,
    /// Told when a run begins to wait: it may be the next to go on.
    pub waits_changed: Arc<Notify>,
    waking: OnceLock<AbortOnDropHandle<()>>,
    /// Runs that were accepted earlier were by another host.
    pub started_at: Timestamp,
    data_dir: PathBuf,
    disk_free_bytes_min: u64,
    taking: InFlight,
    pub tree_turns: TreeTurns,
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
    #[expect(clippy::disallowed_methods, reason = "tasks of the host, which end with their handles")]
    pub async fn start(config: RuntimeConfig, storage: Arc<dyn Storage>) -> Result<Self, StartError> {
        let sandboxes_max = config.runs_live_max.saturating_add(TOOL_SANDBOXES_MAX + DESCRIPTIONS_MAX);
        let engine = Engine::new(sandboxes_max).map_err(StartError::Engine)?;
        let linkers = Linkers::new(engine.wasmtime()).map_err(StartError::Engine)?;
        let memory = Arc::new(HostMemory::new(config.memory_bytes_max, WORKER_BASE_BYTES));
        let loaded_bytes_max = config.memory_bytes_max / LOADED_PART;
        let counts = Arc::<Counts>::default();
        let compiler = Compiler::new(&config.compile_worker, memory.clone()).counted_by(counts.clone());
        let guests = GuestThreads::start().map_err(StartError::Threads)?;
        let artifacts = Artifacts::open(&config.data_dir, compiler, guests.aside()).map_err(StartError::DataDir)?;
        let known = storage.plugins(Operator::host()).await?;
        let (tiers, users) = storage.quotas(Operator::host()).await?;
        let quotas = Arc::new(Quotas::new(config.quota, tiers, users));
        let askers = Arc::<Askers>::default();
        let services = Arc::new(Services {
            plugins: Plugins::new(engine.wasmtime().clone(), linkers, artifacts, known, loaded_bytes_max),
            grants: Arc::new(Grants::new(storage.clone())),
            workspaces: Workspaces::new(config.workspaces, quotas.clone()),
            scratch: Scratches::open(config.scratch_dir).map_err(StartError::DataDir)?,
            memory,
            quotas,
            tool_sandboxes: Semaphore::new(TOOL_SANDBOXES_MAX as usize),
            descriptions: Semaphore::new(DESCRIPTIONS_MAX as usize),
            publishing: tokio::sync::Mutex::new(()),
            editing_quotas: tokio::sync::Mutex::new(()),
            guests,
            writing: Paces::new(WRITTEN_AT_ONCE, askers.clone()),
            askers,
            wait_places: WaitPlaces::default(),
            turns: Turns::new(u32::try_from(guest_threads::threads()).unwrap_or(u32::MAX)),
            seeds: Seeds::from_system().map_err(StartError::Random)?,
            host_panics: AtomicU64::new(0),
            sandboxes_open: AtomicU64::new(0),
            counts,
            engine,
            storage,
            stand_ins: config.stand_ins,
            runtime: OnceLock::new(),
        });
        let (quotas, memory, turns) = (services.quotas.clone(), services.memory.clone(), services.turns.clone());
        // How long a user who comes now waits: a tick of each of those who are before.
        let processors = u32::try_from(guest_threads::threads()).unwrap_or(u32::MAX);
        let processor_wait = move || EPOCH_TICK.saturating_mul(turns.now().users_waiting) / processors.max(1);
        let admission = Admission::new(quotas, memory, config.runs_live_max, config.runs_queued_max);
        let runtime = Self(Arc::new(Inner {
            registry: Registry::new(services.clone()),
            journal: Journal::new(services.storage.clone()).map_err(StartError::Threads)?,
            retention: Retention::new(services.storage.clone(), services.quotas.clone()),
            _tending: AbortOnDropHandle::new(tokio::spawn(admission.tend(processor_wait))),
            _watching: AbortOnDropHandle::new(tokio::spawn(pressure::watch(Arc::downgrade(&services)))),
            admission,
            backoff: Backoff::default(),
            recent: RecentActivity::new(Instant::now()),
            waits_changed: Arc::default(),
            waking: OnceLock::new(),
            data_dir: config.data_dir,
            disk_free_bytes_min: config.disk_free_bytes_min,
            started_at: clock::now(),
            taking: InFlight::default(),
            tree_turns: TreeTurns::default(),
            live: Mutex::default(),
            tasks: TaskTracker::new(),
            draining: AtomicBool::new(false),
            drained: tokio_util::sync::CancellationToken::new(),
            services,
        }));
        // Set once.
        let _ = runtime.0.services.runtime.set(Arc::downgrade(&runtime.0));
        runtime.recover().await?;
        let waking = waiting::watch_times(Arc::downgrade(&runtime.0), runtime.0.waits_changed.clone());
        // Set once.
        let _ = runtime.0.waking.set(AbortOnDropHandle::new(tokio::spawn(waking)));
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

    /// How a user stands with the host.
    #[must_use]
    pub fn standing(&self, user: &UserId) -> Standing {
        self.0.admission.standing(user)
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

    /// Who asks the host for something, which is told here: for a moment, guests that compute let others go first at each
    /// tick, and what others bring or write comes more slowly.
    #[must_use]
    pub fn askers(&self) -> &Arc<Askers> {
        &self.0.services.askers
    }

    /// How the guests' turns on the processors stand, and how long they are waited for.
    #[must_use]
    pub fn turns_now(&self) -> TurnsNow {
        self.0.services.turns.now()
    }

    /// Memory that all sandboxes hold now, in bytes.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        self.0.services.memory.bytes()
    }

    /// How much of the memory for guests is held now.
    #[must_use]
    pub fn memory_mark(&self) -> MemoryMark {
        self.0.services.memory_mark()
    }

    /// What the user has under way now.
    #[must_use]
    pub fn under_way(&self, scope: &Scope) -> UnderWay {
        let standing = self.standing(scope.user());
        UnderWay {
            runs_executing: standing.running,
            runs_queued: standing.queued,
            runs_at_once: standing.at_once,
            narrowed_by: standing.narrowed_by,
            fuel_left_of_minute: standing.fuel_left,
            memory_bytes: self.0.services.memory.bytes_of(scope.user()),
            cpu_percent: self.0.recent.cpu_percent(scope.user(), Instant::now()),
        }
    }

    /// Memory that all sandboxes may hold, in bytes.
    #[must_use]
    pub fn memory_bytes_max(&self) -> u64 {
        self.0.services.memory.bytes_max()
    }

    /// What was counted since the start, of all users together.
    #[must_use]
    pub fn counts(&self) -> &Counts {
        &self.0.services.counts
    }

    /// Plugins that are loaded now, and what their machine code and data hold together, in bytes.
    #[must_use]
    pub fn plugins_loaded(&self) -> (usize, u64) {
        self.0.services.plugins.loaded_now()
    }

    /// Sandboxes that exist now: those of runs, of their tools, and of plugins that are being described.
    #[must_use]
    pub fn sandboxes_open(&self) -> u64 {
        self.0.services.sandboxes_open.load(Ordering::Relaxed)
    }

    /// Host functions that panicked since the start, and commits of the journal. Anything but 0 is a bug of the host.
    #[must_use]
    pub fn host_panics(&self) -> u64 {
        self.0.services.host_panics.load(Ordering::Relaxed) + self.0.journal.panics()
    }

    /// Takes a run. When this returns, the run is durable and will end, whatever becomes of its client. A submission
    /// that is to be made once gives the run that an earlier one with its key made, also while the host takes no new
    /// ones; what was refused before made none, and is taken as if it came first.
    ///
    /// # Errors
    /// When the submission cannot be run, or there is no room for it. Then nothing was stored.
    pub async fn accept(&self, scope: &Scope, mut submission: Submission) -> Result<Accepted, AcceptError> {
        let once = submission.once.take();
        let mut taking = None;
        if let Some(once) = &once {
            let earlier = self.storage().earlier(scope, Creating::Run, once.key).await;
            if let Some(earlier) = earlier.map_err(AcceptError::Storage)? {
                return self.made_earlier(scope, once, &earlier).await;
            }
            taking = Some(self.0.taking.enter(scope.user(), Creating::Run, once)?);
        }
        let (about, spec) = self.prepare(scope, submission)?;
        if self.is_draining() {
            return Err(AcceptError::Draining);
        }
        let min = self.0.disk_free_bytes_min;
        if let Some(free) = disk::free_bytes(&self.0.data_dir).filter(|free| *free < min) {
            return Err(AcceptError::DiskFull { free, min });
        }
        let place = self.0.admission.enqueue(scope.user(), want(&spec))?;
        let (ending, ended) = announcement();
        let view = RunView::queued(&spec);
        let task = self.enter(scope.clone(), view.clone(), ended.clone());
        let (answer, answered) = oneshot::channel();
        let own_once = once.clone();
        // From here on in a task of its own: storing the run and running it must not be torn apart by a client that
        // goes away between the two.
        self.spawn(async move {
            let created = task.runtime.storage().insert_run(&task.scope, &spec, own_once.as_ref()).await;
            drop(taking);
            let made = matches!(created, Ok(Creation::Made));
            let _ = answer.send(created);
            if made {
                task.runtime.0.services.counts.accepted();
                let runtime = task.runtime.clone();
                runtime.spawn_run(async move { task.queue(place, Some(Arc::new(spec)), about, ending).await });
            }
        });
        match (answered.await, once) {
            (Ok(Ok(Creation::Stands(earlier))), Some(once)) => self.made_earlier(scope, &once, &earlier).await,
            (Ok(Ok(Creation::Full(until))), Some(once)) => Err(NotOnce::Full { max: once.user_keys_max, until }.into()),
            (Ok(Ok(_)), _) => Ok(Accepted { view, replayed: false, ended }),
            (Ok(Err(error)), _) => Err(AcceptError::Storage(error)),
            (Err(_), _) => Err(AcceptError::Draining),
        }
    }

    /// Takes a run and executes it in the caller's own task, without a queue: for a caller that owns the process, as a
    /// benchmark does. A caller that goes away takes the run with it, and an idempotency key is not looked at.
    ///
    /// # Errors
    /// When the submission cannot be run, or no slot is free now.
    pub async fn execute_here(&self, scope: &Scope, submission: Submission) -> Result<RunView, AcceptError> {
        let (about, spec) = self.prepare(scope, submission)?;
        let place = self.0.admission.enqueue(scope.user(), want(&spec))?;
        let slot = self.0.admission.try_admit(place).map_err(|_| Refused::UserQueueFull(0))?;
        self.storage().insert_run(scope, &spec, None).await.map_err(AcceptError::Storage)?;
        self.0.services.counts.accepted();
        let (_ending, ended) = announcement();
        let task = self.enter(scope.clone(), RunView::queued(&spec), ended);
        match task.execute(&slot, Arc::new(spec), &about).await {
            Executed::Ended(view) => Ok(*view),
            Executed::PutAway | Executed::Left => Ok(task.view.clone()),
        }
    }

    /// Checks a submission and settles what it will run with.
    fn prepare(&self, scope: &Scope, asked: Submission) -> Result<(Arc<PluginVersion>, RunSpec), AcceptError> {
        let about = self.0.services.plugins.find(&asked.agent).ok_or_else(|| self.unknown_agent(&asked.agent))?;
        if about.kind != PluginKind::Agent {
            return Err(AcceptError::NotAnAgent(about.name.clone()));
        }
        let bytes = asked.input.as_str().len();
        let quota = self.quotas().now(scope.user());
        let max = usize::try_from(quota.run_input_bytes).unwrap_or(RUN_INPUT_BYTES_MAX);
        if bytes > max {
            return Err(AcceptError::InputTooLarge { bytes, max });
        }
        let metadata = asked.metadata.unwrap_or_else(Json::empty_object);
        if metadata.as_str().len() > METADATA_BYTES_MAX || !metadata.as_str().trim_start().starts_with('{') {
            return Err(AcceptError::InvalidMetadata("must be a JSON object of at most 16 KiB"));
        }
        let limits = quota.narrow(asked.limits)?;
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
            priority: asked.priority,
            durability: if about.durable { Durability::Durable } else { asked.durability },
            retries: asked.retries,
            created_at: clock::now(),
        };
        Ok((about, spec))
    }

    pub(crate) fn unknown_agent(&self, asked: &AgentRef) -> AcceptError {
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

    /// Makes a run known as live, until the task is dropped.
    pub(crate) fn enter(&self, scope: Scope, view: RunView, ended: Announced) -> RunTask {
        let stop = StopSignal::default();
        let context = ContextState::default();
        let live = Live { user: view.user.clone(), stop: stop.clone(), context: context.clone(), ended };
        self.live().insert(view.id, live);
        RunTask { runtime: self.clone(), scope, id: view.id, view, before: None, stop, context }
    }

    /// The same for a run that storage knows, unless it is live.
    pub(crate) fn enter_once(&self, scope: Scope, run: &UnfinishedRun, ended: Announced) -> Option<RunTask> {
        let stop = StopSignal::default();
        let context = ContextState::default();
        let live = Live { user: run.user.clone(), stop: stop.clone(), context: context.clone(), ended };
        match self.live().entry(run.id) {
            Entry::Occupied(_) => return None,
            Entry::Vacant(place) => place.insert(live),
        };
        let (view, before) = (run.view(), Some(run.clone()));
        Some(RunTask { runtime: self.clone(), scope, id: run.id, view, before, stop, context })
    }

    /// Where a run's context stands.
    #[must_use]
    pub fn context_status(&self, run: &RunView) -> ContextStatus {
        match self.live().get(&run.id) {
            Some(live) => live.context.status(run.status),
            // One that is queued in storage and not here belongs to a host that is going away.
            None if run.status == RunStatus::Queued => ContextStatus::Initializing,
            None => ContextStatus::Cleaned,
        }
    }

    /// A run of the user's that is queued or executing in this process.
    pub(crate) fn live_run(&self, scope: &Scope, id: RunId) -> Option<Live> {
        self.live().get(&id).filter(|live| live.user == *scope.user()).cloned()
    }

    /// The one door to a run's task, which is on the guests' threads while a guest executes in it; the tracker is what drain waits for.
    pub(crate) fn spawn_run(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.0.services.guests.spawn_moving(self.0.tasks.track_future(work));
    }

    /// For what must not be torn apart by a client that goes away, and waits for storage only: it must not wait behind
    /// guests.
    #[expect(clippy::disallowed_methods, reason = "the tracker is what drain waits for")]
    pub(crate) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        tokio::spawn(self.0.tasks.track_future(work));
    }

    pub(crate) fn live(&self) -> MutexGuard<'_, HashMap<RunId, Live>> {
        self.0.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
