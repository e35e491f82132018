//! Runs that a run started: how they begin, and that they end with it.

use crate::{
    bindings::agents::SpawnError,
    invoke::Ending,
    runtime::{AcceptError, Runtime},
    sandbox::Stop,
    stand_ins::{AGENTS_HERE, StandIns},
};
use cofferdam_core::{
    Json, UserExecutionContext, clock,
    identity::{Operator, Scope},
    ids::{AgentRef, Digest, KeyId, RequestId, RunId},
    quota::LimitsAsked,
    run::{CancelRequest, Children, Durability, RunError, RunSpec, RunStatus, RunView},
    storage::{PluginKind, StorageError, UnfinishedRun},
    wait::WaitFor,
};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};
use tokio::sync::{OwnedMutexGuard, oneshot};

/// How many runs deep a tree is looked through upwards; no quota allows deeper ones.
const DEPTH_MAX: u32 = 64;

/// The shortest and the longest wait before storage is asked again that failed.
const LOOK_WAIT: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));

/// Whose turn it is to add a run to a tree, for each tree of which somebody does: never more than there are runs that execute.
#[derive(Default)]
pub struct TreeTurns(Mutex<HashMap<RunId, Weak<tokio::sync::Mutex<()>>>>);

impl TreeTurns {
    /// Waits for the turn in the tree of this root.
    async fn of(&self, root: RunId) -> OwnedMutexGuard<()> {
        let turns = {
            let mut trees = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            trees.retain(|_, turns| turns.strong_count() > 0);
            match trees.get(&root).and_then(Weak::upgrade) {
                Some(turns) => turns,
                None => {
                    let turns = Arc::<tokio::sync::Mutex<()>>::default();
                    trees.insert(root, Arc::downgrade(&turns));
                    turns
                }
            }
        };
        turns.lock_owned().await
    }
}

/// Why a tree takes no more runs.
pub fn tree_is_full(max: u32) -> String {
    format!("the tree of this run has {max} children and their children, which is as many as it may")
}

impl Runtime {
    /// Starts a child of a run, as a call of it. Started again by the same call of the same attempt, it is the same child.
    pub(crate) async fn start_child(
        &self,
        parent: &UserExecutionContext,
        call: u64,
        agent: AgentRef,
        input: Json,
        limits: LimitsAsked,
    ) -> Result<RunId, SpawnError> {
        let unavailable = |why: String| SpawnError::Unavailable(why);
        let own = parent.spec();
        let id = parent.child(call);
        let scope = parent.scope();
        // Made by the same call before, it may have ended, and executed as a new run it would do everything twice. Whoever
        // brought the parent back has brought back the child, too.
        let before = self.storage().run(&scope, id).await;
        if before.map_err(|error| unavailable(format!("the child could not be looked up: {error}")))?.is_some() {
            return Ok(id);
        }
        if let Some(stand_ins) = self.0.services.stand_ins.clone().filter(|it| it.has_agent(agent.name.as_str())) {
            let ended = self.stand_in_child(parent, id, &agent, input, &*stand_ins).await;
            return ended.map(|()| id).map_err(|error| unavailable(format!("the child could not be stored: {error}")));
        }
        let about = self.0.services.plugins.find(&agent);
        let about = about.ok_or_else(|| {
            let why = self.unknown_agent(&agent).to_string();
            let alone = self.0.services.stand_ins.is_some();
            SpawnError::UnknownAgent(if alone { format!("{why}; {AGENTS_HERE}") } else { why })
        })?;
        if about.kind != PluginKind::Agent {
            return Err(SpawnError::Invalid(AcceptError::NotAnAgent(about.name.clone()).to_string()));
        }
        let quota = parent.quota();
        // What is left to the parent can be less than a run of its own could ask for; it is not refused for that.
        let asked = LimitsAsked { fuel: limits.fuel.map(|fuel| fuel.max(1)), ..limits };
        let limits = quota.narrow(asked).map_err(|error| SpawnError::Invalid(error.to_string()))?;
        let spec = RunSpec {
            id,
            user: own.user.clone(),
            agent: about.name.clone(),
            digest: about.digest,
            request: RequestId::generate(),
            thread: own.thread.clone(),
            session: own.session.clone(),
            parent: Some(own.id),
            metadata: own.metadata.clone(),
            input,
            limits,
            priority: own.priority,
            durability: if about.durable { Durability::Durable } else { own.durability },
            // Its parent sees how it failed, and can start it again.
            retries: None,
            created_at: clock::now(),
        };
        let root = self.root_of(&scope, own).await;
        let (root, _) = root.map_err(|error| unavailable(format!("the child's tree could not be read: {error}")))?;
        let (answer, answered) = oneshot::channel();
        let (runtime, attempt, max) = (self.clone(), parent.attempt(), quota.descendants_per_run);
        // In a task of its own: a parent that ends in the middle leaves no child that nobody has counted.
        self.spawn(async move {
            // Whoever asked may have gone away.
            let _ = answer.send(runtime.add_to_tree(&scope, root, &spec, attempt, max).await);
        });
        match answered.await {
            Ok(Ok(true)) => Ok(id),
            Ok(Ok(false)) => Err(SpawnError::TooMany(tree_is_full(max))),
            Ok(Err(error)) => Err(unavailable(format!("the child could not be stored: {error}"))),
            Err(_) => Err(unavailable("the host is going away".into())),
        }
    }

    /// Makes a child, if its tree has room for one more run: one of a tree at a time, so that it never has more than it may.
    /// Says whether it has.
    async fn add_to_tree(
        &self,
        scope: &Scope,
        root: RunId,
        spec: &RunSpec,
        attempt: u32,
        max: u32,
    ) -> Result<bool, StorageError> {
        let _turn = self.0.tree_turns.of(root).await;
        if self.descendants(scope, root, max).await? >= max {
            return Ok(false);
        }
        self.storage().insert_run(scope, spec, None).await?;
        self.0.services.counts.accepted();
        self.go_on(UnfinishedRun::queued(&RunView::queued(spec)));
        // One that has ended meanwhile has asked only those to stop that it found.
        if let Some(parent) = spec.parent
            && self.attempt_is_over(scope, parent, attempt).await?
        {
            self.cancel_child(scope, parent, spec.id).await?;
        }
        Ok(true)
    }

    /// Whether a run has ended, or this attempt at it has failed.
    async fn attempt_is_over(&self, scope: &Scope, id: RunId, attempt: u32) -> Result<bool, StorageError> {
        let waits = self.storage().waits();
        let Some(run) = waits.unfinished(scope, id).await? else { return Ok(true) };
        let failed = match waits.waiting(scope, id).await?.map(|stored| stored.wait.waits_for) {
            Some(WaitFor::Retry { attempt, .. }) if run.status == RunStatus::Waiting => attempt,
            _ => run.attempt.saturating_sub(1),
        };
        Ok(failed >= attempt)
    }

    /// A child that nothing executes: it ends at once, with what stands in for its agent.
    async fn stand_in_child(
        &self,
        parent: &UserExecutionContext,
        id: RunId,
        agent: &AgentRef,
        input: Json,
        stand_ins: &dyn StandIns,
    ) -> Result<(), StorageError> {
        let (own, scope) = (parent.spec(), parent.scope());
        let answer = stand_ins.run(agent.name.as_str(), &input);
        let spec = RunSpec {
            id,
            agent: agent.name.clone(),
            digest: Digest::of(agent.name.as_str().as_bytes()),
            request: RequestId::generate(),
            parent: Some(own.id),
            input,
            created_at: clock::now(),
            ..RunSpec::clone(own)
        };
        self.storage().insert_run(&scope, &spec, None).await?;
        let result = answer.map_err(|(reason, RunError { code, message })| Stop { code, ..Stop::new(reason, message) });
        let journal = self.journal().reopen(scope, &UnfinishedRun::queued(&RunView::queued(&spec)));
        Ending::never_ran(None).close(&self.0.services.counts, &journal, result).await;
        Ok(())
    }

    /// A run of the user's, if it ends within a time.
    pub(crate) async fn ended_within(
        &self,
        scope: &Scope,
        id: RunId,
        wait: Duration,
    ) -> Result<Option<RunView>, StorageError> {
        if let Some(live) = self.live_run(scope, id) {
            // Whether it has ended by then is read below.
            let _ = tokio::time::timeout(wait, live.ended.wait()).await;
        }
        Ok(self.storage().run(scope, id).await?.filter(|run| run.status.is_terminal()))
    }

    /// Fuel that a run that has ended took together with all that it started. Of what has not ended it is all that it may
    /// take, what it lent to others included.
    pub(crate) async fn fuel_of_family(&self, scope: &Scope, run: &RunView) -> Result<u64, StorageError> {
        let (storage, mut fuel) = (self.storage(), run.usage.fuel);
        let mut below = storage.waits().children(scope, run.id).await?;
        while let Some(id) = below.pop() {
            let ended = storage.run(scope, id).await?.filter(|run| run.status.is_terminal());
            let taken = match ended {
                Some(run) => {
                    below.extend(storage.waits().children(scope, id).await?);
                    run.usage.fuel
                }
                None => storage.run_spec(scope, id).await?.map_or(0, |spec| spec.limits.fuel),
            };
            fuel = fuel.saturating_add(taken);
        }
        Ok(fuel)
    }

    /// What became of the runs that a run started which ends now. Tries until storage says it, as the end itself does.
    pub(crate) async fn children_ended(&self, scope: &Scope, parent: RunId) -> Children {
        let mut wait = LOOK_WAIT.0;
        loop {
            match self.storage().waits().children_ended(scope, parent).await {
                Ok(children) => return children,
                Err(error) => {
                    tracing::error!(run = %parent, %error, source = ?error.source, "a run's children cannot be counted; trying again");
                }
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(LOOK_WAIT.1);
        }
    }

    /// The run at the root of a run's tree, and how deep the run is in it.
    pub(crate) async fn root_of(&self, scope: &Scope, run: &RunSpec) -> Result<(RunId, u32), StorageError> {
        let (mut root, mut depth, mut parent) = (run.id, 0, run.parent);
        while let Some(above) = parent.filter(|_| depth < DEPTH_MAX) {
            (root, depth) = (above, depth + 1);
            parent = self.storage().run(scope, above).await?.and_then(|run| run.parent_run_id);
        }
        Ok((root, depth))
    }

    /// How many runs are below a run; counted to a little more than a bound.
    pub(crate) async fn descendants(&self, scope: &Scope, root: RunId, max: u32) -> Result<u32, StorageError> {
        let (mut descendants, mut level) = (0, vec![root]);
        while let Some(run) = level.pop() {
            let children = self.storage().waits().children(scope, run).await?;
            descendants += u32::try_from(children.len()).unwrap_or(u32::MAX);
            if descendants >= max {
                break;
            }
            level.extend(children);
        }
        Ok(descendants)
    }

    /// Asks a child to stop, in its parent's name.
    pub(crate) async fn cancel_child(&self, scope: &Scope, parent: RunId, child: RunId) -> Result<(), StorageError> {
        let by = parent.to_string().parse::<KeyId>();
        let by = by.map_err(|error| StorageError { doing: "cancel a child", source: error.into() })?;
        let request = CancelRequest { by, at: clock::now() };
        self.request_and_stop(scope, child, &request).await
    }

    /// Asks the children to stop whose parents have ended, which a host that was killed in between could not.
    pub(crate) async fn end_orphans(&self) -> Result<(), StorageError> {
        for child in self.storage().waits().orphans(Operator::host()).await? {
            if let Some(parent) = child.parent {
                self.cancel_child(&Operator::host().on_behalf_of(&child.user), parent, child.id).await?;
            }
        }
        Ok(())
    }

    /// Ends what a run that has ended, or an attempt at it, has started and that has not.
    pub(crate) async fn end_children(&self, scope: &Scope, parent: RunId) {
        let ended = async {
            for child in self.storage().waits().children(scope, parent).await? {
                self.cancel_child(scope, parent, child).await?;
            }
            Ok::<_, StorageError>(())
        };
        if let Err(error) = ended.await {
            tracing::error!(run = %parent, %error, "the children of a run are not all asked to stop");
        }
    }
}
