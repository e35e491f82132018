//! When the host itself fails: a function of its own that panics ends the run it worked for, is counted, and harms
//! nothing else.

use crate::{
    server::{guest, run, worker},
    storage::Odd,
};
use cofferdam_core::{
    Json,
    event::Event,
    grant::{Access, Permissions},
    identity::Operator,
    ids::{PluginName, RequestId},
    quota::LimitsAsked,
    run::{Durability, Priority, RunView, StopReason},
};
use cofferdam_runtime::{Runtime, RuntimeConfig, Submission};
use std::{
    path::Path,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

async fn probe(runtime: &Runtime, user: &str, input: &str) -> RunView {
    let scope = Operator::host().on_behalf_of(&user.parse().expect("a user"));
    let accepted = runtime.accept(&scope, submission(input, Durability::Ephemeral)).await.expect("accepted");
    accepted.ended().await
}

fn submission(input: &str, durability: Durability) -> Submission {
    Submission {
        agent: "probe".parse().expect("an agent"),
        input: Json::parse(input).expect("JSON"),
        thread: None,
        session: None,
        metadata: None,
        limits: LimitsAsked::default(),
        priority: Priority::default(),
        durability,
        retries: None,
        request: RequestId::generate(),
        once: None,
    }
}

/// A runtime over a storage, with the probe, which may do everything for these users.
async fn started(dir: &Path, storage: Arc<Odd>, users: &[&str]) -> Runtime {
    let config = RuntimeConfig { runs_live_max: 16, ..RuntimeConfig::new(dir, worker()) };
    let runtime = Runtime::start(config, storage).await.expect("started");
    let (operator, name): (_, PluginName) = (Operator::host(), "probe".parse().expect("a name"));
    let team = "team".parse().expect("a user");
    runtime.registry().push(operator, &team, name.clone(), guest("probe").into()).await.expect("pushed");
    let all = Permissions::new(["*".parse().expect("a pattern")], Access::ReadWrite);
    for user in users {
        let user = user.parse().expect("a user");
        runtime.put_grant(operator, &user, &name, all.clone()).await.expect("granted");
    }
    runtime
}

#[test]
fn a_host_function_that_panics_ends_its_run_and_no_other_and_is_counted() {
    run(async {
        let dir = tempfile::tempdir().expect("a directory");
        let operator = Operator::host();
        let runtime = started(dir.path(), Arc::default(), &["ann", "bob"]).await;
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

#[test]
fn a_durable_run_is_put_away_when_storage_fails_it_for_a_moment_and_goes_on() {
    run(async {
        let dir = tempfile::tempdir().expect("a directory");
        let odd = Arc::<Odd>::default();
        let runtime = started(dir.path(), odd.clone(), &["unlucky"]).await;
        let unlucky = Operator::host().on_behalf_of(&"unlucky".parse().expect("a user"));
        let steps = r#"{"do":"seq","steps":[{"do":"thinking","text":"before"},
            {"do":"state_set","scope":"user","key":"k","text":"v"},{"do":"thinking","text":"after"}]}"#;
        // One that is not durable ends, as it would with its host.
        odd.effects_fail.store(1_000, Ordering::SeqCst);
        let failed = probe(&runtime, "unlucky", steps).await;
        assert_eq!(failed.stop_reason, Some(StopReason::HostError), "{failed:?}");
        // The commit before the change, and when the run is put away, and is looked at again: each fails at first.
        odd.effects_fail.store(3, Ordering::SeqCst);
        odd.records_fail.store(2, Ordering::SeqCst);
        let accepted = runtime.accept(&unlucky, submission(steps, Durability::Durable)).await.expect("accepted");
        let ended = async {
            loop {
                let run = runtime.storage().run(&unlucky, accepted.view.id).await.expect("reads").expect("it is there");
                if run.status.is_terminal() {
                    return run;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let done = tokio::time::timeout(Duration::from_secs(30), ended).await.expect("it ends");
        assert_eq!(done.stop_reason, Some(StopReason::Completed), "{done:?}");
        let left = (odd.effects_fail.load(Ordering::SeqCst), odd.records_fail.load(Ordering::SeqCst));
        assert_eq!(left, (0, 0), "all of it came to pass");
        let output = done.output.expect("an output");
        assert!(output.as_str().contains(r#"{"ok":1}"#), "the change was made once: {}", output.as_str());
        let events = runtime.storage().events(&unlucky, done.id, 0, 100).await.expect("reads");
        let kinds: Vec<_> = events.iter().map(|envelope| envelope.event.type_name()).collect();
        let expected = ["agent_started", "agent_thinking", "run_waiting", "agent_thinking", "agent_completed"];
        assert_eq!(kinds, expected, "{events:#?}");
        assert!(
            matches!(&events[2].event, Event::RunWaiting { waits_for, .. } if waits_for == "storage"),
            "{events:#?}"
        );
    });
}
