//! The seam to durable storage. Every method takes the right to act first, so that a query without a tenant does not
//! type-check; what an implementation must promise beyond its types is checked by `conformance`.

use crate::{
    Json,
    context::StateSpace,
    event::{Envelope, Event},
    grant::Permissions,
    idempotency::{Creating, Creation, Earlier, Once},
    identity::{Identity, Operator, Role, Scope},
    ids::{Digest, KeyId, PluginName, RunId, ThreadId, TierName, UserId},
    quota::{QuotaEdit, UserQuota},
    record::RecordChunk,
    run::{CancelRequest, Children, Durability, Priority, Retries, RunEnd, RunSpec, RunStatus, RunView, Usage},
    usage::{Day, UsageSum},
    wait::Wait,
};
use async_trait::async_trait;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub mod conformance;
mod memory;
mod waits;

pub use memory::MemoryStorage;
pub use waits::Waits;

/// Storage could not do what it was asked. Nothing of a failed write is to be relied on, and writing it again is safe.
#[derive(Debug, thiserror::Error)]
#[error("storage failed to {doing}")]
pub struct StorageError {
    /// What it was doing.
    pub doing: &'static str,
    /// Why it failed.
    #[source]
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

/// Results of storage.
pub type Result<T, E = StorageError> = std::result::Result<T, E>;

/// Events of one run to add to its log, with what else is true once they are there.
#[derive(Debug, Clone, PartialEq)]
pub struct RunBatch {
    /// The run.
    pub run: RunId,
    /// Set once the run has been admitted: it is `running` from here on.
    pub started_at: Option<Timestamp>,
    /// Set where another attempt at the run begins: which one.
    pub attempt: Option<u32>,
    /// Whether the run is about to change something outside itself.
    pub effects: bool,
    /// In order of `seq`, without holes.
    pub events: Vec<Envelope>,
    /// Of the record of its calls, in order of their numbers, without holes.
    pub chunks: Vec<RecordChunk>,
    /// Set where the run is put away: it is `waiting` from here on.
    pub wait: Option<Wait>,
    /// Set where it is executed from here on, by a host that did not accept it, or is left by it.
    pub start: Option<Start>,
}

/// What a host does with a run that an earlier one accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// It is executed from this moment on, which no other start of it has.
    At(Timestamp),
    /// It is left to the next host in good order.
    Left,
}

/// A place in the feed of all of a user's runs. Places only grow, and none ever means two events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct FeedPlace {
    /// The commit, counted for each user, from 1. Commits may be missing where runs were removed.
    pub position: u64,
    /// The event within it: the number in its run's log.
    pub seq: u64,
}

/// An event with its place in the feed of its user.
#[derive(Debug, Clone, PartialEq)]
pub struct FeedEntry {
    /// The place.
    pub place: FeedPlace,
    /// Whether it is the last event of its commit. Commits are counted without holes, so that whoever has read one to its
    /// last event sees from the number of the next whether any were removed between them.
    pub ends_commit: bool,
    /// The event.
    pub envelope: Envelope,
}

/// Which runs to list, newest first.
#[derive(Debug, Clone, Default)]
pub struct RunQuery {
    /// Only runs older than this one.
    pub before: Option<RunId>,
    /// Only runs that stand so.
    pub status: Option<RunStatus>,
    /// Only runs of this agent.
    pub agent: Option<PluginName>,
    /// Only runs of this thread.
    pub thread: Option<ThreadId>,
    /// At most so many.
    pub limit: u32,
}

/// A run that had not ended when the host stopped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnfinishedRun {
    /// The run.
    pub id: RunId,
    /// For whom.
    pub user: UserId,
    /// The name that the agent was asked for by.
    pub agent: PluginName,
    /// The component that this name meant when the run was accepted.
    pub digest: Digest,
    /// The conversation it belongs to.
    pub thread: ThreadId,
    /// Which of the user's own runs go first.
    pub priority: Priority,
    /// What becomes of it when its host goes away.
    pub durability: Durability,
    /// How often it is executed if it fails; once if nothing is said.
    pub retries: Option<Retries>,
    /// Which attempt it is at; 1 unless it was executed again.
    pub attempt: u32,
    /// The run that started it, if one did.
    pub parent: Option<RunId>,
    /// When it was accepted.
    pub created_at: Timestamp,
    /// `queued`, `running` or `waiting`.
    pub status: RunStatus,
    /// Who asked it to stop, if somebody did.
    pub cancel: Option<CancelRequest>,
    /// Whether it may have changed something outside itself.
    pub effects: bool,
    /// The last event in its log; 0 if there is none.
    pub last_seq: u64,
    /// When it was admitted, if it was.
    pub started_at: Option<Timestamp>,
    /// How often it was [started](Start) since anything was added to its log or its record, and not left in good order.
    pub starts: u32,
}

/// What a user's finished runs take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct History {
    /// How many there are.
    pub runs: u64,
    /// Their inputs, outputs, metadata, events and records together, in bytes, and [`RUN_OVERHEAD_BYTES`] for each.
    pub bytes: u64,
}

/// What was set of the quotas of tiers, and of users.
pub type StoredQuotas = (Vec<(TierName, QuotaEdit)>, Vec<(UserId, UserQuota)>);

/// What a run counts beside its texts, its events and its record.
pub const RUN_OVERHEAD_BYTES: u64 = 1_000;

/// What an event counts beside its payload.
pub const EVENT_OVERHEAD_BYTES: u64 = 20;

/// How many runs one call of [`Storage::prune`] or [`Storage::prune_before`] removes at most, so that nobody waits long
/// for it.
pub const PRUNED_AT_ONCE_MAX: u32 = 8;

/// A value in a user's state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateEntry {
    /// The bytes.
    pub value: Vec<u8>,
    /// Grows with every change of the key.
    pub version: u64,
}

/// What must hold for a state key to be set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    /// Nothing.
    Any,
    /// The key has this version.
    Version(u64),
    /// The key is absent.
    Absent,
}

/// The call of a durable run by which a change of state is made. Calls of two attempts can have the same number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MadeBy {
    /// The run.
    pub run: RunId,
    /// Which attempt at it, from 1.
    pub attempt: u32,
    /// Number of the call in its record.
    pub call: u64,
}

/// A state key to be set.
#[derive(Debug, Clone)]
pub struct StateWrite {
    /// Which key.
    pub key: String,
    /// To what.
    pub value: Vec<u8>,
    /// When it vanishes, if it does.
    pub expires_at: Option<Timestamp>,
    /// Under which condition.
    pub expected: Expected,
    /// What the user's keys and values together, in all plugins, may come to, in bytes, with
    /// [`STATE_KEY_OVERHEAD_BYTES`](crate::quota::STATE_KEY_OVERHEAD_BYTES) for each key.
    pub user_bytes_max: u64,
    /// By which call of a durable run, for which [`Waits::state_change`] keeps what came of it.
    pub by: Option<MadeBy>,
}

/// Why a state key was not set. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum StateRefused {
    /// The user's keys and values would be over the limit.
    #[error("the user's state would be over {0} bytes")]
    Full(u64),
    /// The key has another version than expected; none if it is absent.
    #[error("the key has another version")]
    Conflict(Option<u64>),
    /// Storage failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// What kind of plugin a component is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PluginKind {
    /// Of world `agent`.
    Agent,
    /// Of world `tool`.
    Tool,
}

/// A tool that a tool plugin offers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToolDescription {
    /// The tool's own name, without the plugin's.
    pub name: String,
    /// What it does.
    pub description: String,
    /// JSON Schema of the arguments.
    pub input_schema: Json,
    /// Whether a second call with the same arguments, of which nobody knows whether the first one came to its end, does no
    /// harm.
    #[serde(default)]
    pub idempotent: bool,
}

/// A version of a plugin: the component, and what it said of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PluginVersion {
    /// The name it was pushed under.
    pub name: PluginName,
    /// What it is.
    pub digest: Digest,
    /// Its world.
    pub kind: PluginKind,
    /// Its own name for itself.
    pub title: String,
    /// The author's version.
    pub version: String,
    /// What it does.
    pub description: String,
    /// What it asks to be granted.
    pub needs: Permissions,
    /// An agent's runs are to be durable: it said so.
    #[serde(default)]
    pub durable: bool,
    /// JSON Schema of an agent's input.
    pub input_schema: Option<Json>,
    /// JSON Schema of an agent's output.
    pub output_schema: Option<Json>,
    /// A tool plugin's tools.
    pub tools: Vec<ToolDescription>,
    /// The component's size.
    pub bytes: u64,
    /// When it was pushed last.
    pub pushed_at: Timestamp,
}

impl PluginVersion {
    /// How many bytes it says of itself, in descriptions, schemas, needs and names.
    #[must_use]
    pub fn described_bytes(&self) -> usize {
        let schema = |schema: &Option<Json>| schema.as_ref().map_or(0, |schema| schema.as_str().len());
        let tool = |tool: &ToolDescription| tool.name.len() + tool.description.len() + tool.input_schema.as_str().len();
        let tools = self.needs.tools().iter().map(|pattern| pattern.as_str().len());
        let agents = self.needs.agents().iter().map(|pattern| pattern.as_str().len());
        self.title.len()
            + self.version.len()
            + self.description.len()
            + tools.chain(agents).sum::<usize>()
            + schema(&self.input_schema)
            + schema(&self.output_schema)
            + self.tools.iter().map(tool).sum::<usize>()
    }
}

/// An API key. The secret itself is kept by its owner only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiKey {
    /// The key's public name.
    pub id: KeyId,
    /// Whom it stands for.
    pub user: UserId,
    /// What it may do.
    pub role: Role,
    /// SHA-256 of the secret.
    pub secret_digest: Digest,
    /// When it was made.
    pub created_at: Timestamp,
}

/// Durable storage. A write has happened, and survives a crash, when its future is ready with `Ok`.
#[async_trait]
pub trait Storage: Send + Sync + 'static {
    /// Keeps a new run as `queued`, and in the same step the record of the request that made it, if that is to be made
    /// once: then also of two requests at the same time one makes its run, and the other learns of it.
    async fn insert_run(&self, scope: &Scope, spec: &RunSpec, once: Option<&Once>) -> Result<Creation>;

    /// What an earlier request of this caller made under this key; none if there was none, or it is forgotten.
    async fn earlier(&self, scope: &Scope, creating: Creating, key: Digest) -> Result<Option<Earlier>>;

    /// Keeps that somebody asked a run to stop. A run that has ended, or was asked before, is left as it is.
    async fn request_cancel(&self, scope: &Scope, id: RunId, request: &CancelRequest) -> Result<()>;

    /// Adds events to a run's log, and chunks to its record. What is there already is left as it is; a run that has ended
    /// is too.
    async fn append(&self, scope: &Scope, batch: RunBatch) -> Result<()>;

    /// Adds the last events of a run and ends it, in one step. A run that has ended is left as it is. Who asked it to stop is
    /// forgotten unless it ends as cancelled.
    async fn finish(&self, scope: &Scope, batch: RunBatch, end: RunEnd) -> Result<()>;

    /// One run; none if there is none or it is another user's.
    async fn run(&self, scope: &Scope, id: RunId) -> Result<Option<RunView>>;

    /// What is needed to execute a run.
    async fn run_spec(&self, scope: &Scope, id: RunId) -> Result<Option<RunSpec>>;

    /// Runs, newest first, without their outputs.
    async fn runs(&self, scope: &Scope, query: &RunQuery) -> Result<Vec<RunView>>;

    /// Events of a run after `after`, in order, at most `limit` and at most about 1 MiB of them, but at least one if
    /// there is one.
    async fn events(&self, scope: &Scope, id: RunId, after: u64, limit: u32) -> Result<Vec<Envelope>>;

    /// Chunks of a run's record after number `after`, in order, at most about 1 MiB of them, but at least one if there is
    /// one.
    async fn record(&self, scope: &Scope, id: RunId, after: u64) -> Result<Vec<RecordChunk>>;

    /// The number of a run's last event; 0 if it has none, or is not the user's.
    async fn log_end(&self, scope: &Scope, id: RunId) -> Result<u64>;

    /// Events of all of the user's runs after `after`, in the order in which they were committed, and within a run in
    /// the order of its log; bounded as [`events`](Self::events) is.
    async fn feed(&self, scope: &Scope, after: FeedPlace, limit: u32) -> Result<Vec<FeedEntry>>;

    /// Where the user's feed ends: the place of its last event, or the beginning if there is none.
    async fn feed_end(&self, scope: &Scope) -> Result<FeedPlace>;

    /// What there is to know of runs that wait.
    fn waits(&self) -> &dyn Waits;

    /// Runs that have not ended and do not wait, oldest first.
    async fn unfinished_runs(&self, operator: Operator) -> Result<Vec<UnfinishedRun>>;

    /// What the user's finished runs take.
    async fn history(&self, scope: &Scope) -> Result<History>;

    /// Whether those of the user's finished runs that have to stay, because a run that has not ended started them or one that
    /// they are below, take at least so many bytes.
    async fn stays_at_least(&self, scope: &Scope, bytes: u64) -> Result<bool>;

    /// Users with finished runs, in byte order, after `after`, at most `limit`, and when the oldest run of each finished.
    async fn oldest_finishes(
        &self,
        operator: Operator,
        after: Option<&UserId>,
        limit: u32,
    ) -> Result<Vec<(UserId, Timestamp)>>;

    /// Removes the user's oldest finished runs, with their events and records, while there is more than `keep`. Removes
    /// [`PRUNED_AT_ONCE_MAX`] at most. A run has up to 140 MiB: whoever writes meanwhile does not wait for all of one that
    /// goes. From the first moment on, nothing shows or counts it; when this is answered without an error, nothing of it is
    /// left.
    async fn prune(&self, operator: Operator, user: &UserId, keep: History) -> Result<()>;

    /// Removes those of the user's oldest runs that had finished before, as [`prune`](Self::prune) does; looks at
    /// [`PRUNED_AT_ONCE_MAX`] of them.
    async fn prune_before(&self, operator: Operator, user: &UserId, before: Timestamp) -> Result<()>;

    /// What the user's runs took that ended on these days, the last one included. What they were is of no account: runs
    /// that were removed count as before.
    async fn usage(&self, scope: &Scope, first: Day, last: Day) -> Result<UsageSum>;

    /// The first day of which anybody's usage is kept; none if there is none.
    async fn oldest_usage(&self, operator: Operator) -> Result<Option<Day>>;

    /// Forgets the usage of days before this one, of whichever user, the oldest first;
    /// [`USAGE_DAYS_PRUNED_AT_ONCE_MAX`](crate::usage::USAGE_DAYS_PRUNED_AT_ONCE_MAX) at most.
    async fn prune_usage(&self, operator: Operator, before: Day) -> Result<()>;

    /// What the user's state takes of its quota, in bytes.
    async fn state_bytes(&self, scope: &Scope) -> Result<u64>;

    /// A value of the user's state; none if it is absent or has vanished.
    async fn state_get(&self, space: &StateSpace, key: &str) -> Result<Option<StateEntry>>;

    /// Sets a key and gives its new version, in one step with its conditions.
    async fn state_set(&self, space: &StateSpace, write: StateWrite) -> Result<u64, StateRefused>;

    /// Removes a key. Says whether it was there. Of a durable run, also by which call.
    async fn state_delete(&self, space: &StateSpace, key: &str, by: Option<MadeBy>) -> Result<bool>;

    /// Keys that start with `prefix`, in byte order, after `after`, at most `limit`.
    async fn state_keys(
        &self,
        space: &StateSpace,
        prefix: &str,
        after: Option<&str>,
        limit: u32,
    ) -> Result<Vec<String>>;

    /// Keeps a version of a plugin; the newest by that name from here on. A digest that is there under that name
    /// already becomes the newest again.
    async fn put_plugin(&self, operator: Operator, plugin: &PluginVersion) -> Result<()>;

    /// All versions of all plugins, the one pushed last at the end.
    async fn plugins(&self, operator: Operator) -> Result<Vec<PluginVersion>>;

    /// What the user was granted for a plugin; none if nothing was ever said.
    async fn grant(&self, scope: &Scope, plugin: &PluginName) -> Result<Option<Permissions>>;

    /// Grants a user something for a plugin, in place of what was granted before.
    async fn put_grant(
        &self,
        operator: Operator,
        user: &UserId,
        plugin: &PluginName,
        grant: &Permissions,
    ) -> Result<()>;

    /// What was set of the quotas of tiers and users.
    async fn quotas(&self, operator: Operator) -> Result<StoredQuotas>;

    /// Keeps what is set of a tier's quota, in place of what was.
    async fn put_tier(&self, operator: Operator, tier: &TierName, edit: &QuotaEdit) -> Result<()>;

    /// Keeps what is set of a user's quota, in place of what was.
    async fn put_user_quota(&self, operator: Operator, user: &UserId, quota: &UserQuota) -> Result<()>;

    /// Keeps a new key, and in the same step the record of the request that made it, if that is to be made once; the
    /// scope is that of the operator whose request it is.
    async fn insert_key(&self, operator: Operator, key: &ApiKey, once: Option<(&Scope, &Once)>) -> Result<Creation>;

    /// How many keys there are.
    async fn keys_count(&self, operator: Operator) -> Result<u64>;

    /// Whom the key with this secret stands for. The only question asked before there is an identity.
    async fn authenticate(&self, secret_digest: Digest) -> Result<Option<Identity>>;
}

/// How many bytes of events, or of a record, one page holds, about.
pub const EVENTS_PAGE_BYTES_MAX: usize = 1 << 20;

impl UnfinishedRun {
    /// A run that has not begun.
    #[must_use]
    pub fn queued(view: &RunView) -> Self {
        Self {
            id: view.id,
            user: view.user.clone(),
            agent: view.agent.clone(),
            digest: view.digest,
            thread: view.thread_id.clone(),
            priority: view.priority,
            durability: view.durability,
            retries: view.retries,
            attempt: view.attempt,
            parent: view.parent_run_id,
            created_at: view.created_at,
            status: RunStatus::Queued,
            cancel: view.cancel.clone(),
            effects: false,
            last_seq: 0,
            started_at: None,
            starts: 0,
        }
    }

    /// The run as its user reads it.
    #[must_use]
    pub fn view(&self) -> RunView {
        RunView {
            id: self.id,
            agent: self.agent.clone(),
            digest: self.digest,
            user: self.user.clone(),
            thread_id: self.thread.clone(),
            priority: self.priority,
            durability: self.durability,
            retries: self.retries,
            attempt: self.attempt,
            parent_run_id: self.parent,
            status: self.status,
            wait: None,
            stop_reason: None,
            output: None,
            error: None,
            cancel: self.cancel.clone(),
            usage: Usage::default(),
            children: Children::default(),
            created_at: self.created_at,
            started_at: self.started_at,
            finished_at: None,
        }
    }
}

impl RunBatch {
    /// The number of the last event, if there is one.
    #[must_use]
    pub fn last_seq(&self) -> Option<u64> {
        self.events.last().map(|envelope| envelope.seq)
    }

    /// The same, and this event behind the others.
    #[must_use]
    pub fn with(&self, last: &Envelope) -> Self {
        // Room for exactly these: storage in memory keeps them as they come.
        let mut events = Vec::with_capacity(self.events.len() + 1);
        events.extend(self.events.iter().chain([last]).cloned());
        Self {
            run: self.run,
            started_at: self.started_at,
            attempt: self.attempt,
            effects: self.effects,
            events,
            chunks: self.chunks.clone(),
            wait: self.wait.clone(),
            start: self.start,
        }
    }

    /// Whether the log ends with these events.
    #[must_use]
    pub fn is_terminal(&self) -> bool {
        self.events.last().is_some_and(|envelope| Event::is_terminal(&envelope.event))
    }
}
