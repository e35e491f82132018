//! When the host itself fails: a function of its own that panics ends the run it worked for, is counted, and harms
//! nothing else.

use crate::{
    server::{guest, run, worker},
    storage::Odd,
};
use cofferdam_core::{
    Json,
    grant::{Access, Permissions},
    identity::Operator,
    ids::{PluginName, RequestId},
    quota::LimitsAsked,
    run::{Durability, Priority, RunView, StopReason},
};
use cofferdam_runtime::{Runtime, RuntimeConfig, Submission};
use std::sync::Arc;

async fn probe(runtime: &Runtime, user: &str, input: &str) -> RunView {
    let submission = Submission {
        agent: "probe".parse().expect("an agent"),
        input: Json::parse(input).expect("JSON"),
        thread: None,
        session: None,
        metadata: None,
        limits: LimitsAsked::default(),
        priority: Priority::default(),
        durability: Durability::default(),
        retries: None,
        request: RequestId::generate(),
        once: None,
    };
    let scope = Operator::host().on_behalf_of(&user.parse().expect("a user"));
    runtime.accept(&scope, submission).await.expect("accepted").ended().await
}

#[test]
fn a_host_function_that_panics_ends_its_run_and_no_other_and_is_counted() {
    run(async {
        let dir = tempfile::tempdir().expect("a directory");
        let config = RuntimeConfig { runs_live_max: 16, ..RuntimeConfig::new(dir.path(), worker()) };
        let runtime = Runtime::start(config, Arc::new(Odd::default())).await.expect("started");
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
