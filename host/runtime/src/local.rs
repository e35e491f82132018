//! One run without a server: the same engine, limits and journal, with storage in memory.

use crate::{
    registry::PushError,
    runtime::{AcceptError, Runtime, RuntimeConfig, StartError, Submission},
    workspace::WorkspaceRoot,
};
use bytes::Bytes;
use cofferdam_core::{
    Json,
    event::Envelope,
    grant::Permissions,
    identity::Operator,
    ids::{AgentRef, InvalidId, Pick, PluginName, RequestId, UserId},
    quota::LimitsAsked,
    run::{Durability, Priority, RunView},
    storage::{MemoryStorage, Storage as _, StorageError},
};
use std::{path::PathBuf, sync::Arc};

/// Events read from storage at once.
const EVENTS_AT_ONCE: u32 = 1_000;

/// What to run, and with what.
#[derive(Debug, Clone)]
pub struct LocalOptions {
    /// The component.
    pub component: Vec<u8>,
    /// The input.
    pub input: Json,
    /// The directory that is the workspace; no files if there is none.
    pub workspace: Option<PathBuf>,
    /// What is granted; nothing if not said.
    pub grant: Option<Permissions>,
    /// Lower limits than the defaults.
    pub limits: LimitsAsked,
    /// The `cofferdam` binary, started as `cofferdam compile-worker`.
    pub compile_worker: PathBuf,
    /// Where artifacts are kept, so that the next run starts at once.
    pub cache_dir: PathBuf,
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
    /// Storage in memory failed, which it does not.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// A fixed name is not valid, which it is.
    #[error(transparent)]
    Name(#[from] InvalidId),
}

/// Runs a component once, and shows its events as they come.
///
/// # Errors
/// When it cannot be run at all. A run that fails is a result.
pub async fn run_local(
    options: LocalOptions,
    on_event: &mut (dyn FnMut(&Envelope) + Send),
) -> Result<RunView, LocalError> {
    let workspaces = options.workspace.map_or(WorkspaceRoot::Nowhere, WorkspaceRoot::Single);
    // The cache is shared with other processes, which may be running agents too.
    let scratch_dir = options.cache_dir.join(format!("scratch-{}", std::process::id()));
    let config = RuntimeConfig {
        workspaces,
        scratch_dir,
        runs_live_max: 1,
        ..RuntimeConfig::new(options.cache_dir, options.compile_worker)
    };
    let storage = Arc::new(MemoryStorage::default());
    let runtime = Runtime::start(config, storage.clone()).await?;
    let (user, name): (UserId, PluginName) = ("local".parse()?, "agent".parse()?);
    let operator = Operator::host();
    runtime.registry().push(operator, &user, name.clone(), Bytes::from(options.component)).await?;
    runtime.put_grant(operator, &user, &name, options.grant.unwrap_or_default()).await?;
    let scope = operator.on_behalf_of(&user);
    let submission = Submission {
        agent: AgentRef { name, pick: Pick::Latest },
        input: options.input,
        thread: None,
        session: None,
        metadata: None,
        limits: options.limits,
        priority: Priority::default(),
        durability: Durability::default(),
        retries: None,
        request: RequestId::generate(),
        once: None,
    };
    let accepted = runtime.accept(&scope, submission).await?;
    let id = accepted.view.id;
    let mut following = runtime.journal().follow(id);
    let mut after = 0;
    loop {
        let events = storage.events(&scope, id, after, EVENTS_AT_ONCE).await?;
        for envelope in &events {
            on_event(envelope);
            after = envelope.seq;
        }
        if events.last().is_some_and(|envelope| envelope.event.is_terminal()) {
            let ended = accepted.ended().await;
            // A run that waited has ended in another execution.
            return Ok(if ended.status.is_terminal() {
                ended
            } else {
                storage.run(&scope, id).await?.unwrap_or(ended)
            });
        }
        if events.is_empty() {
            following.changed().await;
        }
    }
}
