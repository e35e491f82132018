//! A server that stops and starts again: what was promised is kept.

use crate::server::{Server, User, config, run};
use cofferdam_core::quota::Quota;
use cofferdam_server::App;
use reqwest::StatusCode;
use serde_json::{Value, json};
use std::time::Duration;

#[test]
fn everything_is_kept_across_a_restart() {
    run(async {
        let server = Server::start_with(Quota::default()).await;
        let ann = server.trusted().await;
        let before = ann.finish(&json!({"agent": "echo", "input": [1, "two"]})).await;
        let id = before["id"].as_str().expect("an id");
        let events = ann.events(id).await;
        ann.probe(&json!({"do": "state_set", "scope": "user", "key": "k", "text": "kept"})).await;
        ann.probe(&json!({"do": "file_write", "path": "kept.txt", "text": "kept"})).await;
        let admin_key = server.operator.key.clone();

        let server = server.restart().await;
        assert_eq!(server.operator.key, admin_key, "the ready-made keys stay the same");
        let ann = User::new(&ann.name, &server.app.url(), &ann.key);
        assert_eq!(ann.get(&format!("/v1/runs/{id}")).await.is(StatusCode::OK), before);
        assert_eq!(ann.events(id).await, events);
        let state = ann.probe(&json!({"do": "state_get", "scope": "user", "key": "k"})).await;
        assert_eq!(state["ok"]["text"], "kept", "plugins, grants and state are there: {state}");
        assert_eq!(ann.get("/v1/files/kept.txt").await.text, "kept");
    });
}

#[test]
fn drain_finishes_what_runs_refuses_what_comes_and_keeps_what_is_queued() {
    run(async {
        let server = Server::start_with(Quota { runs_at_once: 1, ..Quota::default() }).await;
        let ann = server.trusted().await;
        let running = ann.submit(&json!({"agent": "probe", "input": {"do": "sleep", "ms": 600}})).await;
        let queued = ann.submit(&json!({"agent": "echo", "input": "queued"})).await;
        while ann.get(&format!("/v1/runs/{running}")).await.is(StatusCode::OK)["status"] != "running" {
            tokio::task::yield_now().await;
        }
        let Server { app, dir, .. } = server;
        let admin = app.admin_url();
        let stopping = tokio::spawn(app.shutdown());
        let ready = async || reqwest::get(format!("{admin}/readyz")).await.map(|answer| answer.status());
        while ready().await.is_ok_and(|status| status == StatusCode::OK) {
            tokio::task::yield_now().await;
        }
        let refused = ann.post("/v1/runs", &json!({"agent": "echo", "input": 1})).await;
        refused.problem(503, "draining");
        stopping.await.expect("stopped");

        let server = Server::start_empty(dir, Quota::default()).await;
        let ann = User::new(&ann.name, &server.app.url(), &ann.key);
        assert_eq!(ann.ended(&running).await["stop_reason"], "completed", "what ran was finished");
        let queued = ann.ended(&queued).await;
        assert_eq!((&queued["stop_reason"], &queued["output"]), (&json!("completed"), &json!("queued")));
    });
}

#[test]
fn runs_that_outlast_the_drain_end_as_host_shutdown() {
    run(async {
        let dir = tempfile::tempdir().expect("a directory");
        let config = cofferdam_server::config::Config {
            drain_wait: Duration::from_millis(200),
            ..config(dir.path(), Quota::default())
        };
        let app = App::start(config).await.expect("started");
        let operator = User::new("operator", &app.url(), app.admin_key().expect("a key"));
        operator.push("probe", crate::server::guest("probe")).await.is(StatusCode::CREATED);
        let dev = User::new("dev", &app.url(), app.api_key().expect("a key"));
        let path = "/v1/users/dev/grants/probe";
        operator.send(reqwest::Method::PUT, path, Some(&json!({"tools": ["*"]}))).await.is(StatusCode::OK);
        let sleep = json!({"do": "sleep", "ms": 50_000});
        let id = dev.submit(&json!({"agent": "probe", "input": sleep})).await;
        let write = json!({"do": "file_write", "path": "a", "text": "b"});
        let changed = dev.submit(&json!({"agent": "probe", "input": {"do": "seq", "steps": [write, sleep]}})).await;
        while dev.get(&format!("/v1/runs/{id}")).await.is(StatusCode::OK)["status"] != "running"
            || dev.get("/v1/files/a").await.text != "b"
        {
            tokio::task::yield_now().await;
        }
        app.shutdown().await;
        let server = Server::start_empty(dir, Quota::default()).await;
        let dev = User::new("dev", &server.app.url(), server.app.api_key().expect("a key"));
        let run = dev.get(&format!("/v1/runs/{id}")).await.is(StatusCode::OK);
        assert_eq!((&run["status"], &run["stop_reason"]), (&json!("failed"), &json!("host_shutdown")), "{run}");
        let events = dev.events(&id).await;
        assert_eq!(events.last().map(|event| event["type"].clone()), Some(json!("agent_error")));
        let changed = dev.get(&format!("/v1/runs/{changed}")).await.is(StatusCode::OK);
        assert_eq!(changed["stop_reason"], "outcome_unknown", "nobody is told to submit it again: {changed}");
    });
}

#[test]
fn a_killed_server_tells_what_became_of_each_run() {
    run(async {
        let dir = tempfile::tempdir().expect("a directory");
        let mut killed = crate::process::Process::serve(dir.path()).await;
        let (operator, dev) = (killed.operator(), killed.dev());
        operator.push("probe", crate::server::guest("probe")).await.is(StatusCode::CREATED);
        let path = "/v1/users/dev/grants/probe";
        let all = json!({"tools": ["*"], "state": "read_write"});
        operator.send(reqwest::Method::PUT, path, Some(&all)).await.is(StatusCode::OK);
        let sleep = json!({"do": "sleep", "ms": 50_000});
        let write = json!({"do": "file_write", "path": "a", "text": "b"});
        let harmless = dev.submit(&json!({"agent": "probe", "input": sleep})).await;
        let changed = dev.submit(&json!({"agent": "probe", "input": {"do": "seq", "steps": [write, sleep]}})).await;
        let mut queued = Vec::new();
        for n in 0..8 {
            queued.push(
                dev.submit(
                    &json!({"agent": "probe", "input": {"do": "seq", "steps": [{"do": "sleep", "ms": 50 * n}]}}),
                )
                .await,
            );
        }
        while dev.get("/v1/files/a").await.text != "b"
            || dev.get(&format!("/v1/runs/{harmless}")).await.is(StatusCode::OK)["status"] != "running"
        {
            tokio::task::yield_now().await;
        }
        killed.kill().await;

        let server = Server::start_empty(dir, Quota::default()).await;
        let dev = User::new("dev", &server.app.url(), server.app.api_key().expect("a key"));
        let reason = async |id: &str| dev.ended(id).await["stop_reason"].clone();
        assert_eq!(reason(&harmless).await, "host_shutdown");
        assert_eq!(reason(&changed).await, "outcome_unknown");
        for id in &queued {
            let reason = reason(id).await;
            assert!([json!("completed"), json!("host_shutdown")].contains(&reason), "{reason}");
            let events = dev.events(id).await;
            let seqs: Vec<_> = events.iter().map(|event| event["seq"].as_u64().expect("a number")).collect();
            assert_eq!(seqs, (1..=events.len() as u64).collect::<Vec<_>>(), "no holes, nothing twice");
            let ends = events.iter().filter(|event| event["priority"] == 1 && event["type"] != "agent_started").count();
            assert_eq!(ends, 1);
        }
        let runs = dev.get("/v1/runs").await.is(StatusCode::OK);
        assert_eq!(runs["runs"].as_array().map(Vec::len), Some(10), "none is lost, none is there twice");
        assert_eq!(runs["next_after"], Value::Null);
    });
}

#[test]
fn a_data_directory_has_one_server() {
    run(async {
        let server = Server::start_empty(tempfile::tempdir().expect("a directory"), Quota::default()).await;
        let error = App::start(config(server.dir.path(), Quota::default())).await.err().expect("refused");
        assert!(error.to_string().contains("another"), "{error}");
    });
}
