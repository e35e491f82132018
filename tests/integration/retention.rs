//! What is kept of finished runs has limits, at which the oldest go; a run that has not ended never does.

use crate::server::{Server, User, run, worker};
use cofferdam_core::{
    Json,
    identity::Operator,
    ids::RequestId,
    quota::{LimitsAsked, Quota},
    run::Priority,
    storage::MemoryStorage,
};
use cofferdam_runtime::{AcceptError, Runtime, RuntimeConfig, Submission};
use reqwest::StatusCode;
use serde_json::{Value, json};
use std::{sync::Arc, time::Duration};

async fn kept(user: &User) -> Vec<String> {
    let page = user.get("/v1/runs?limit=100").await.is(StatusCode::OK);
    let runs = page["runs"].as_array().expect("runs").iter();
    runs.map(|run| run["id"].as_str().expect("an id").to_owned()).collect()
}

/// Waits until so many runs are kept.
async fn settled(user: &User, count: usize) -> Vec<String> {
    let settled = async {
        loop {
            let kept = kept(user).await;
            if kept.len() <= count {
                return kept;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), settled).await.expect("old runs go")
}

async fn echo(user: &User, input: &Value) -> String {
    let run = user.finish(&json!({"agent": "echo", "input": input})).await;
    assert_eq!(run["stop_reason"], "completed", "{run}");
    run["id"].as_str().expect("an id").to_owned()
}

#[test]
fn the_oldest_finished_runs_go_when_there_are_too_many_and_a_live_one_stays() {
    run(async {
        let server = Server::start_with(Quota { runs_stored: 3, ..Quota::default() }).await;
        let ann = server.trusted().await;
        let live = ann.submit(&json!({"agent": "probe", "input": {"do": "sleep", "ms": 30_000}})).await;
        let mut ids = Vec::new();
        for n in 0..8 {
            ids.push(echo(&ann, &json!(n)).await);
        }
        // The newest first, and the live one is the oldest of all.
        let kept = settled(&ann, 4).await;
        assert_eq!(kept, [ids[7].clone(), ids[6].clone(), ids[5].clone(), live.clone()]);
        ann.get(&format!("/v1/runs/{}", ids[0])).await.problem(404, "unknown_run");
        ann.get(&format!("/v1/runs/{}/events", ids[0])).await.problem(404, "unknown_run");
        // Another user's runs are another's.
        let bob = server.trusted().await;
        let his = echo(&bob, &json!(1)).await;
        assert_eq!(settled(&bob, 1).await, [his]);
        ann.post(&format!("/v1/runs/{live}/cancel"), &json!({})).await.is(StatusCode::OK);
        assert_eq!(settled(&ann, 3).await.len(), 3);
    });
}

#[test]
fn what_finished_runs_take_together_has_a_limit() {
    run(async {
        let server = Server::start_with(Quota { history_bytes: 1 << 20, ..Quota::default() }).await;
        let ann = server.trusted().await;
        let input = json!("x".repeat(100_000));
        for _ in 0..12 {
            // Its input, its output and its events: about 200 KB.
            echo(&ann, &input).await;
        }
        let kept = settled(&ann, 5).await;
        assert!((4..=5).contains(&kept.len()), "{} runs", kept.len());
    });
}

#[test]
fn a_host_whose_disk_is_nearly_full_takes_no_new_runs_and_says_why() {
    run(async {
        let dir = tempfile::tempdir().expect("a directory");
        let config = RuntimeConfig {
            disk_free_bytes_min: u64::MAX,
            runs_live_max: 4,
            ..RuntimeConfig::new(dir.path(), worker())
        };
        let runtime = Runtime::start(config, Arc::new(MemoryStorage::default())).await.expect("started");
        runtime
            .registry()
            .push(
                Operator::host(),
                &"operator".parse().expect("a user"),
                "echo".parse().expect("a name"),
                crate::server::guest("echo").into(),
            )
            .await
            .expect("pushed");
        let scope = Operator::host().on_behalf_of(&"ann".parse().expect("a user"));
        let submission = Submission {
            agent: "echo".parse().expect("an agent"),
            input: Json::empty_object(),
            thread: None,
            session: None,
            metadata: None,
            limits: LimitsAsked::default(),
            priority: Priority::default(),
            request: RequestId::generate(),
            once: None,
        };
        let refused = runtime.accept(&scope, submission).await.expect_err("there is no room");
        assert!(matches!(refused, AcceptError::DiskFull { .. }), "{refused}");
        assert!(refused.to_string().contains("free some space"), "{refused}");
        assert_eq!(runtime.runs_queued(), 0);
    });
}
