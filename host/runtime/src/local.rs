//! A host without a server, for an author's own machine: the same engine, limits, meter and journal, with storage in memory.

use crate::{
    gate::{self, Import},
    invoke::Ending,
    registry::PushError,
    runtime::{AcceptError, Runtime, RuntimeConfig, StartError, Submission},
    sandbox::{Sandbox, Spent, Stop},
    stand_ins::{Nothing, StandIns},
    waiting::AnswerError,
    workspace::WorkspaceRoot,
};
use bytes::Bytes;
use cofferdam_core::{
    Json, UserExecutionContext,
    admission::{Refused, Want},
    clock,
    context::{Denied, Effect, StateSpace, StopSignal},
    event::{Envelope, Event},
    grant::{Access, Effective, Permissions},
    identity::{Operator, Scope},
    ids::{AgentRef, InvalidId, KeyId, Pick, PluginName, RequestId, RunId, ThreadId, UserId},
    quota::{LimitsAsked, LiveQuota, Quota},
    run::{Children, Durability, Priority, RunSpec, RunView, StopReason},
    storage::{
        Expected, MemoryStorage, PluginKind, PluginVersion, StateRefused, StateWrite, Storage as _, StorageError,
    },
};
use std::{
    collections::VecDeque,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

/// Events read from storage at once.
const EVENTS_AT_ONCE: u32 = 1_000;

/// Keys read from storage at once.
const KEYS_AT_ONCE: u32 = 1_000;

/// The longest wait that is waited for where answers are given beforehand: a try that takes longer is no use to its author.
const WAIT_MAX: Duration = Duration::from_secs(10);

/// What a local host is started with.
#[derive(Debug)]
pub struct LocalConfig {
    /// The directory that is the workspace; no files if there is none.
    pub workspace: Option<PathBuf>,
    /// The `cofferdam` binary, started as `cofferdam compile-worker`.
    pub compile_worker: PathBuf,
    /// Where artifacts are kept, so that the next start of a component takes milliseconds.
    pub cache_dir: PathBuf,
    /// What answers in the place of tools and agents, if something does.
    pub stand_ins: Option<Arc<dyn StandIns>>,
}

/// One run, or one call of a tool.
#[derive(Debug)]
pub struct LocalWork {
    /// The input, or the tool's arguments.
    pub input: Json,
    /// Of a tool plugin: which of its tools.
    pub tool: Option<String>,
    /// Lower limits than the defaults.
    pub limits: LimitsAsked,
    /// Answers to its questions, in order. When there are none left, or it waits for longer than ten seconds, it is
    /// cancelled. If not said, it waits as it would on a server.
    pub answers: Option<Vec<Json>>,
}

/// What came of it.
#[derive(Debug)]
pub struct LocalEnd {
    /// The run.
    pub view: RunView,
    /// Why it was cancelled here, if it was.
    pub gave_up: Option<String>,
}

/// A value of the plugin's state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalValue {
    /// Whether it is the thread's, and not the user's.
    pub of_thread: bool,
    /// Its key.
    pub key: String,
    /// The bytes.
    pub value: Vec<u8>,
}

/// Why nothing was run.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    /// The runtime does not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The component is not a plugin.
    #[error(transparent)]
    Push(#[from] PushError),
    /// The submission cannot be run.
    #[error(transparent)]
    Accept(#[from] AcceptError),
    /// A value cannot be set.
    #[error(transparent)]
    State(#[from] StateRefused),
    /// An answer does not fit its question.
    #[error("answer {number} is not taken: {error}")]
    Answer {
        /// Which one, from 1.
        number: usize,
        /// Why.
        error: AnswerError,
    },
    /// A tool plugin was to run, or an agent's tool to be called, or there is no such tool.
    #[error("{0}")]
    NoSuchTool(String),
    /// Storage in memory failed, which it does not.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// A fixed name is not valid, which it is.
    #[error(transparent)]
    Name(#[from] InvalidId),
    /// The host failed.
    #[error("the host failed: {0}")]
    Host(String),
}

/// A host for one plugin and one user.
pub struct Local {
    runtime: Runtime,
    storage: Arc<MemoryStorage>,
    user: UserId,
    name: PluginName,
    thread: ThreadId,
    by: KeyId,
}

impl Local {
    /// Starts it.
    ///
    /// # Errors
    /// When the machine or a directory cannot be used.
    pub async fn start(config: LocalConfig) -> Result<Self, LocalError> {
        let workspaces = config.workspace.map_or(WorkspaceRoot::Nowhere, WorkspaceRoot::Single);
        // The cache is shared with other processes, which may be running agents too; and with others of this one.
        let own = RunId::generate();
        let scratch_dir = config.cache_dir.join(format!("scratch-{}-{own}", std::process::id()));
        let config = RuntimeConfig {
            workspaces,
            scratch_dir,
            runs_live_max: 1,
            stand_ins: Some(config.stand_ins.unwrap_or_else(|| Arc::new(Nothing))),
            ..RuntimeConfig::new(config.cache_dir, config.compile_worker)
        };
        let storage = Arc::new(MemoryStorage::default());
        let runtime = Runtime::start(config, storage.clone()).await?;
        let (user, name, by) = ("local".parse()?, "agent".parse()?, "local".parse()?);
        Ok(Self { runtime, storage, user, name, thread: ThreadId::of_run(own), by })
    }

    /// Takes the plugin, by the same way as on a server, and says what it is.
    ///
    /// # Errors
    /// When it is not a plugin that this host can run.
    pub async fn push(&self, component: Vec<u8>) -> Result<PluginVersion, LocalError> {
        let bytes = Bytes::from(component);
        Ok(self.runtime.registry().push(Operator::host(), &self.user, self.name.clone(), bytes).await?.plugin)
    }

    /// Says what the plugin may do.
    ///
    /// # Errors
    /// Never: storage in memory does not fail.
    pub async fn grant(&self, permissions: Permissions) -> Result<(), LocalError> {
        Ok(self.runtime.put_grant(Operator::host(), &self.user, &self.name, permissions).await?)
    }

    /// Sets a value of the plugin's state.
    ///
    /// # Errors
    /// When the user's state would be full.
    pub async fn put_state(&self, value: LocalValue) -> Result<(), LocalError> {
        let write = StateWrite {
            key: value.key,
            value: value.value,
            expires_at: None,
            expected: Expected::Any,
            user_bytes_max: Quota::default().state_bytes,
            by: None,
        };
        self.storage.state_set(&self.space(value.of_thread)?, write).await?;
        Ok(())
    }

    /// All of the plugin's state.
    ///
    /// # Errors
    /// Never: storage in memory does not fail.
    pub async fn state(&self) -> Result<Vec<LocalValue>, LocalError> {
        let mut all = Vec::new();
        for of_thread in [false, true] {
            let space = self.space(of_thread)?;
            let mut after: Option<String> = None;
            loop {
                let keys = self.storage.state_keys(&space, "", after.as_deref(), KEYS_AT_ONCE).await?;
                let Some(last) = keys.last().cloned() else { break };
                for key in keys {
                    if let Some(entry) = self.storage.state_get(&space, &key).await? {
                        all.push(LocalValue { of_thread, key, value: entry.value });
                    }
                }
                after = Some(last);
            }
        }
        Ok(all)
    }

    fn space(&self, of_thread: bool) -> Result<StateSpace, LocalError> {
        let spec = self.spec(Json::empty_object(), LimitsAsked::default())?;
        let all = Permissions::new([], Access::ReadWrite);
        let ctx = UserExecutionContext::rest(spec, all, LiveQuota::fixed(Quota::default()), StopSignal::default());
        let permit =
            ctx.authorize(Effect::StateWrite).map_err(|denied: Denied| LocalError::Host(denied.to_string()))?;
        Ok(permit.state_space(of_thread))
    }

    fn spec(&self, input: Json, limits: LimitsAsked) -> Result<Arc<RunSpec>, LocalError> {
        let about = self.about()?;
        let limits = self.runtime.quotas().now(&self.user).narrow(limits).map_err(AcceptError::from)?;
        Ok(Arc::new(RunSpec {
            id: RunId::generate(),
            user: self.user.clone(),
            agent: self.name.clone(),
            digest: about.digest,
            request: RequestId::generate(),
            thread: self.thread.clone(),
            session: None,
            parent: None,
            metadata: Json::empty_object(),
            input,
            limits,
            priority: Priority::default(),
            durability: Durability::default(),
            retries: None,
            created_at: clock::now(),
        }))
    }

    fn about(&self) -> Result<Arc<PluginVersion>, LocalError> {
        let about = self.runtime.registry().versions(&self.name).pop();
        about.ok_or_else(|| LocalError::Host("the plugin was not pushed".into()))
    }

    fn scope(&self) -> Scope {
        Operator::host().on_behalf_of(&self.user)
    }

    /// Runs the plugin once, and shows its events as they come.
    ///
    /// # Errors
    /// When it cannot be run at all. A run that fails is a result.
    pub async fn run(
        &self,
        work: LocalWork,
        on_event: &mut (dyn FnMut(&Envelope) + Send),
    ) -> Result<LocalEnd, LocalError> {
        if let Some(tool) = work.tool {
            return self.call_tool(&tool, work.input, work.limits, on_event).await;
        }
        let about = self.about()?;
        if about.kind == PluginKind::Tool {
            let offered: Vec<_> = about.tools.iter().map(|offered| offered.name.as_str()).collect();
            return Err(LocalError::NoSuchTool(format!(
                "this is a tool plugin, whose tools agents call: give one of {} with --tool, or as \"tool\" in a case; the input is its arguments",
                offered.join(", ")
            )));
        }
        let submission = Submission {
            agent: AgentRef { name: self.name.clone(), pick: Pick::Latest },
            input: work.input,
            thread: Some(self.thread.clone()),
            session: None,
            metadata: None,
            limits: work.limits,
            priority: Priority::default(),
            durability: Durability::default(),
            retries: None,
            request: RequestId::generate(),
            once: None,
        };
        let (scope, mut person) = (self.scope(), work.answers.map(Person::with));
        let accepted = self.runtime.accept(&scope, submission).await?;
        let id = accepted.view.id;
        let mut following = self.runtime.journal().follow(id);
        let mut after = 0;
        loop {
            let events = self.storage.events(&scope, id, after, EVENTS_AT_ONCE).await?;
            for envelope in &events {
                on_event(envelope);
                after = envelope.seq;
            }
            match events.last().map(|envelope| &envelope.event) {
                Some(event) if event.is_terminal() => {
                    let ended = accepted.ended().await;
                    // A run that waited has ended in another execution.
                    let view = match ended.status.is_terminal() {
                        true => ended,
                        false => self.storage.run(&scope, id).await?.unwrap_or(ended),
                    };
                    return Ok(LocalEnd { view, gave_up: person.and_then(|person| person.gave_up) });
                }
                Some(Event::RunWaiting { waits_for, about, until, .. }) => {
                    if let Some(person) = &mut person {
                        self.attend(&scope, id, person, waits_for, about, until.as_deref()).await?;
                    }
                }
                Some(_) => {}
                None => {
                    following.changed().await;
                }
            }
        }
    }

    /// Does what a person would about a run that waits: gives the next answer, or gives up.
    async fn attend(
        &self,
        scope: &Scope,
        id: RunId,
        person: &mut Person,
        waits_for: &str,
        about: &Json,
        until: Option<&str>,
    ) -> Result<(), LocalError> {
        let asks = matches!(waits_for, "human" | "approval");
        if let Some(answer) = person.answers.pop_front_if(|_| asks) {
            person.given += 1;
            let answered = self.runtime.answer(scope, id, None, answer, &self.by).await;
            return match answered {
                Ok(_) => Ok(()),
                Err(error) => {
                    self.runtime.cancel(scope, id, &self.by).await?;
                    Err(LocalError::Answer { number: person.given, error })
                }
            };
        }
        let now = clock::now();
        let until = until.and_then(|until| until.parse::<jiff::Timestamp>().ok());
        let left = until.and_then(|until| Duration::try_from(until.duration_since(now)).ok());
        if left.is_some_and(|left| left <= WAIT_MAX) {
            return Ok(());
        }
        person.gave_up = Some(if asks {
            format!("it asks a person, and there is no answer left for {}", about.as_str())
        } else {
            format!("it waits for a {waits_for} for longer than {} s", WAIT_MAX.as_secs())
        });
        self.runtime.cancel(scope, id, &self.by).await?;
        Ok(())
    }

    /// Calls a tool of a tool plugin as a run of its own.
    async fn call_tool(
        &self,
        tool: &str,
        arguments: Json,
        limits: LimitsAsked,
        on_event: &mut (dyn FnMut(&Envelope) + Send),
    ) -> Result<LocalEnd, LocalError> {
        let (about, scope) = (self.about()?, self.scope());
        let known = about.tools.iter().any(|offered| offered.name == tool);
        if about.kind != PluginKind::Tool || !known {
            let offered: Vec<_> = about.tools.iter().map(|offered| offered.name.as_str()).collect();
            let why = match about.kind {
                PluginKind::Agent => {
                    format!("the plugin is an agent and has no tool {tool:?}; leave --tool out, or \"tool\" in a case")
                }
                PluginKind::Tool => format!("the plugin has no tool {tool:?}; give one of {}", offered.join(", ")),
            };
            return Err(LocalError::NoSuchTool(why));
        }
        let (inner, services) = (&self.runtime.0, self.runtime.0.services.clone());
        let spec = self.spec(arguments.clone(), limits)?;
        let want = Want { fuel: spec.limits.fuel, memory_bytes: spec.limits.memory_bytes, priority: spec.priority };
        let place = inner.admission.enqueue(&self.user, want).map_err(AcceptError::from)?;
        let slot = inner.admission.try_admit(place).map_err(|_| AcceptError::from(Refused::UserQueueFull(0)))?;
        self.storage.insert_run(&scope, &spec, None).await?;

        let host = |error: &dyn std::fmt::Display| LocalError::Host(error.to_string());
        let granted = services.grants.get(&scope, &self.name).await?.unwrap_or_default();
        let permissions = Effective::of(&about.needs, &granted);
        let (begun, started_at) = (Instant::now(), clock::now());
        let ctx = UserExecutionContext::rest(spec.clone(), permissions, slot.quota().clone(), StopSignal::default());
        let ctx = ctx.tried_alone(true);
        let journal = self.runtime.journal().open(&ctx, started_at, Duration::ZERO);
        let plugin = services.plugins.load(&about, &self.user).await.map_err(|error| host(&error))?;
        let own = ctx.tool(self.name.clone(), Effective::of(&about.needs, &granted), 1);
        let (memory, fuel) = (slot.memory().clone(), spec.limits.fuel);
        let sandbox = Sandbox::open(&services, plugin, Arc::new(own), Some(journal.clone()), None, memory, fuel);
        let sandbox = sandbox.map_err(|error| host(&error))?;
        let verb = tool.to_owned();
        let called = services.guests.run(async move { sandbox.call_tool(&verb, arguments.as_str()).await }).await;
        let (result, spent) = called.unwrap_or_else(|| {
            (Err(Stop::new(StopReason::HostError, "the host failed while it ran the tool")), Spent::default())
        });
        let result = result.and_then(|result| match result {
            Ok(answer) => Json::parse(answer)
                .map_err(|error| Stop::new(StopReason::InvalidOutput, format!("the tool's answer is {error}"))),
            Err(error) => {
                let failure = crate::dispatch::failure(&error);
                Err(Stop { code: failure.code, ..Stop::new(StopReason::GuestError, failure.message) })
            }
        });
        let end = Ending {
            executed: Some(begun.elapsed()),
            started_at: Some(started_at),
            spent,
            taken: Default::default(),
            peak_bytes: slot.memory().peak_bytes(),
            memory_byte_seconds: slot.memory().byte_seconds(),
            tool_calls: 0,
            children: Children::default(),
        };
        let end = end.close(&services.counts, &journal, result).await;
        for envelope in self.storage.events(&scope, spec.id, 0, EVENTS_AT_ONCE).await? {
            on_event(&envelope);
        }
        Ok(LocalEnd { view: RunView::queued(&spec).ended(&end), gave_up: None })
    }
}

/// Whoever answers, beforehand.
struct Person {
    answers: VecDeque<Json>,
    given: usize,
    gave_up: Option<String>,
}

impl Person {
    fn with(answers: Vec<Json>) -> Self {
        Self { answers: answers.into(), given: 0, gave_up: None }
    }
}

/// What a component imports, in its own order. For components that [`Local::push`] has taken.
///
/// # Errors
/// When the bytes cannot be read to their end, are not valid, or have too much of something.
pub fn imports_of(component: &[u8]) -> Result<Vec<Import>, PushError> {
    gate::check(component)?;
    Ok(gate::imports(component)?)
}
