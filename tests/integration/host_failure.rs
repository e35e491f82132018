//! When the host itself fails: a function of its own that panics ends the run it worked for, is counted, and harms
//! nothing else.

use crate::server::{guest, run, worker};
use async_trait::async_trait;
use cofferdam_core::{
    Json,
    context::StateSpace,
    grant::{Access, Permissions},
    identity::{Identity, Operator, Scope},
    ids::{Digest, PluginName, RequestId, RunId, UserId},
    quota::LimitsAsked,
    run::{RunEnd, RunSpec, RunView, StopReason},
    storage::{
        ApiKey, FeedEntry, FeedPlace, MemoryStorage, PluginVersion, RunBatch, RunQuery, StateEntry, StateRefused,
        StateWrite, Storage, StorageError, UnfinishedRun,
    },
};
use cofferdam_runtime::{Runtime, RuntimeConfig, Submission};
use std::sync::Arc;

type Kept<T> = Result<T, StorageError>;

/// A storage that panics when it is asked for the key `panic`, or for what the user `cursed` was granted.
struct Cursed(MemoryStorage);

#[async_trait]
impl Storage for Cursed {
    async fn insert_run(&self, scope: &Scope, spec: &RunSpec) -> Kept<()> {
        self.0.insert_run(scope, spec).await
    }
    async fn append(&self, scope: &Scope, batch: RunBatch) -> Kept<()> {
        self.0.append(scope, batch).await
    }
    async fn finish(&self, scope: &Scope, batch: RunBatch, end: RunEnd) -> Kept<()> {
        self.0.finish(scope, batch, end).await
    }
    async fn run(&self, scope: &Scope, id: RunId) -> Kept<Option<RunView>> {
        self.0.run(scope, id).await
    }
    async fn run_spec(&self, scope: &Scope, id: RunId) -> Kept<Option<RunSpec>> {
        self.0.run_spec(scope, id).await
    }
    async fn runs(&self, scope: &Scope, query: &RunQuery) -> Kept<Vec<RunView>> {
        self.0.runs(scope, query).await
    }
    async fn events(
        &self,
        scope: &Scope,
        id: RunId,
        after: u64,
        limit: u32,
    ) -> Kept<Vec<cofferdam_core::event::Envelope>> {
        self.0.events(scope, id, after, limit).await
    }
    async fn log_end(&self, scope: &Scope, id: RunId) -> Kept<u64> {
        self.0.log_end(scope, id).await
    }
    async fn feed(&self, scope: &Scope, after: FeedPlace, limit: u32) -> Kept<Vec<FeedEntry>> {
        self.0.feed(scope, after, limit).await
    }
    async fn feed_end(&self, scope: &Scope) -> Kept<FeedPlace> {
        self.0.feed_end(scope).await
    }
    async fn unfinished_runs(&self, operator: Operator) -> Kept<Vec<UnfinishedRun>> {
        self.0.unfinished_runs(operator).await
    }
    async fn state_get(&self, space: &StateSpace, key: &str) -> Kept<Option<StateEntry>> {
        assert_ne!(key, "panic", "told to panic");
        self.0.state_get(space, key).await
    }
    async fn state_set(&self, space: &StateSpace, write: StateWrite) -> Result<u64, StateRefused> {
        self.0.state_set(space, write).await
    }
    async fn state_delete(&self, space: &StateSpace, key: &str) -> Kept<bool> {
        self.0.state_delete(space, key).await
    }
    async fn state_keys(&self, space: &StateSpace, prefix: &str, after: Option<&str>, limit: u32) -> Kept<Vec<String>> {
        self.0.state_keys(space, prefix, after, limit).await
    }
    async fn put_plugin(&self, operator: Operator, plugin: &PluginVersion) -> Kept<()> {
        self.0.put_plugin(operator, plugin).await
    }
    async fn plugins(&self, operator: Operator) -> Kept<Vec<PluginVersion>> {
        self.0.plugins(operator).await
    }
    async fn grant(&self, scope: &Scope, plugin: &PluginName) -> Kept<Option<Permissions>> {
        assert_ne!(scope.user().as_str(), "cursed", "told to panic");
        self.0.grant(scope, plugin).await
    }
    async fn put_grant(&self, operator: Operator, user: &UserId, plugin: &PluginName, grant: &Permissions) -> Kept<()> {
        self.0.put_grant(operator, user, plugin, grant).await
    }
    async fn insert_key(&self, operator: Operator, key: &ApiKey) -> Kept<()> {
        self.0.insert_key(operator, key).await
    }
    async fn keys_count(&self, operator: Operator) -> Kept<u64> {
        self.0.keys_count(operator).await
    }
    async fn authenticate(&self, secret_digest: Digest) -> Kept<Option<Identity>> {
        self.0.authenticate(secret_digest).await
    }
}

async fn probe(runtime: &Runtime, user: &str, input: &str) -> RunView {
    let submission = Submission {
        agent: "probe".parse().expect("an agent"),
        input: Json::parse(input).expect("JSON"),
        thread: None,
        session: None,
        metadata: None,
        limits: LimitsAsked::default(),
        request: RequestId::generate(),
    };
    let scope = Operator::host().on_behalf_of(&user.parse().expect("a user"));
    runtime.accept(&scope, submission).await.expect("accepted").ended().await
}

#[test]
fn a_host_function_that_panics_ends_its_run_and_no_other_and_is_counted() {
    run(async {
        let dir = tempfile::tempdir().expect("a directory");
        let config = RuntimeConfig { runs_live_max: 16, ..RuntimeConfig::new(dir.path(), worker()) };
        let runtime = Runtime::start(config, Arc::new(Cursed(MemoryStorage::default()))).await.expect("started");
        let (operator, name): (_, PluginName) = (Operator::host(), "probe".parse().expect("a name"));
        runtime
            .registry()
            .push(operator, &"team".parse().expect("a user"), name.clone(), guest("probe").into())
            .await
            .expect("pushed");
        let all = Permissions::new(["*".parse().expect("a pattern")], Access::ReadWrite);
        for user in ["ann", "bob"] {
            let user = user.parse().expect("a user");
            runtime.put_grant(operator, &user, &name, all.clone()).await.expect("granted");
        }
        let (get, panic) =
            (r#"{"do":"state_get","scope":"user","key":"k"}"#, r#"{"do":"state_get","scope":"user","key":"panic"}"#);
        let beside = tokio::spawn({
            let runtime = runtime.clone();
            async move { probe(&runtime, "bob", r#"{"do":"sleep","ms":300}"#).await }
        });
        for n in 1..=20 {
            let failed = probe(&runtime, "ann", panic).await;
            assert_eq!(failed.stop_reason, Some(StopReason::HostError), "{failed:?}");
            assert!(failed.error.is_some_and(|error| !error.message.contains("told to panic")), "what it says is ours");
            assert_eq!(runtime.host_panics(), n);
            let next = probe(&runtime, "ann", get).await;
            assert_eq!(next.stop_reason, Some(StopReason::Completed), "{next:?}");
        }
        // Outside of any sandbox, while the run is prepared.
        let failed = probe(&runtime, "cursed", get).await;
        assert_eq!((failed.stop_reason, runtime.host_panics()), (Some(StopReason::HostError), 21));
        assert_eq!(beside.await.expect("not torn down").stop_reason, Some(StopReason::Completed));
        assert_eq!((runtime.runs_live(), runtime.runs_queued(), runtime.memory_bytes()), (0, 0, 0));
        assert!(runtime.storage().unfinished_runs(operator).await.expect("read").is_empty());
    });
}
