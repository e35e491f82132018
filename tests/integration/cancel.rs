//! Cancelling: exactly once, with who asked, and kept whatever becomes of the host.

use crate::{
    idempotency::change_database,
    server::{Server, User, run},
};
use cofferdam_core::quota::Quota;
use reqwest::StatusCode;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// A second key of the user's, and the public names of both.
async fn second_key(server: &Server, user: &User) -> (User, String) {
    let made = server.operator.post("/v1/keys", &json!({"user": user.name})).await.is(StatusCode::CREATED);
    let name = made["id"].as_str().expect("an id").to_owned();
    (User::new(&user.name, &server.app.url(), made["api_key"].as_str().expect("a key")), name)
}

/// The last event of a run, which is its only terminal one.
async fn terminal(user: &User, id: &str) -> Value {
    let events = user.events(id).await;
    let seqs: Vec<_> = events.iter().map(|event| event["seq"].as_u64().expect("a number")).collect();
    assert_eq!(seqs, (1..=events.len() as u64).collect::<Vec<_>>(), "no holes, nothing twice");
    let is_end = |event: &&Value| event["type"] == "agent_error" || event["type"] == "agent_completed";
    assert_eq!(events.iter().filter(is_end).count(), 1, "{events:?}");
    events.last().expect("an event").clone()
}

async fn running(user: &User, id: &str) {
    while user.get(&format!("/v1/runs/{id}")).await.is(StatusCode::OK)["status"] != "running" {
        tokio::task::yield_now().await;
    }
}

#[test]
fn a_cancelled_run_says_who_asked_and_when_and_asks_once() {
    run(async {
        let server = Server::start_with(Quota::default()).await;
        let ann = server.trusted().await;
        let (other, other_name) = second_key(&server, &ann).await;
        let sleep = json!({"agent": "probe", "input": {"do": "sleep", "ms": 50_000}});
        let id = ann.submit(&sleep).await;
        let before = ann.get(&format!("/v1/runs/{id}")).await.is(StatusCode::OK);
        assert_eq!((&before["cancelled_by"], &before["cancel_requested_at"]), (&Value::Null, &Value::Null));
        let cancelled = other.post(&format!("/v1/runs/{id}/cancel"), &json!({})).await.is(StatusCode::OK);
        assert_eq!((&cancelled["status"], &cancelled["stop_reason"]), (&json!("cancelled"), &json!("cancelled")));
        assert_eq!(cancelled["cancelled_by"], other_name.as_str());
        assert!(cancelled["cancel_requested_at"].as_str() <= cancelled["finished_at"].as_str(), "{cancelled}");
        assert_eq!(ann.get(&format!("/v1/runs/{id}")).await.is(StatusCode::OK), cancelled);
        let end = terminal(&ann, &id).await;
        assert_eq!(end["type"], "agent_error");
        assert_eq!(end["payload"]["stop_reason"], "cancelled");
        assert_eq!(end["payload"]["cancelled_by"], other_name.as_str());
        ann.post(&format!("/v1/runs/{id}/cancel"), &json!({})).await.problem(409, "already_ended");
        assert_eq!(ann.get(&format!("/v1/runs/{id}")).await.is(StatusCode::OK), cancelled, "the first asker stands");

        // Several who ask at once are all answered with the run, and with the same asker.
        for _ in 0..10 {
            let id = ann.submit(&sleep).await;
            let path = format!("/v1/runs/{id}/cancel");
            let nothing = json!({});
            let (a, b, c) =
                tokio::join!(ann.post(&path, &nothing), other.post(&path, &nothing), ann.post(&path, &nothing));
            let stands = ann.ended(&id).await;
            assert_eq!(stands["stop_reason"], "cancelled");
            for answer in [a, b, c] {
                if answer.status == StatusCode::CONFLICT {
                    // It looked when the run had ended.
                    answer.problem(409, "already_ended");
                } else {
                    let mut told = answer.is(StatusCode::OK);
                    // What it held may still be on its way back.
                    told["context_status"] = stands["context_status"].clone();
                    assert_eq!(told, stands);
                }
            }
            assert_eq!(terminal(&ann, &id).await["payload"]["cancelled_by"], stands["cancelled_by"]);
        }
        let done = ann.finish(&json!({"agent": "echo", "input": 1})).await;
        let id = done["id"].as_str().expect("an id");
        ann.post(&format!("/v1/runs/{id}/cancel"), &json!({})).await.problem(409, "already_ended");
        assert_eq!(ann.get(&format!("/v1/runs/{id}")).await.is(StatusCode::OK)["cancelled_by"], Value::Null);
    });
}

#[test]
fn a_queued_run_that_is_cancelled_while_the_host_drains_ends_as_cancelled_at_the_next_start() {
    run(async {
        let server = Server::start_with(Quota { runs_at_once: 1, ..Quota::default() }).await;
        let ann = server.trusted().await;
        let (other, other_name) = second_key(&server, &ann).await;
        let long = ann.submit(&json!({"agent": "probe", "input": {"do": "sleep", "ms": 1_500}})).await;
        running(&ann, &long).await;
        let cancelled = ann.submit(&json!({"agent": "echo", "input": 1})).await;
        let left = ann.submit(&json!({"agent": "echo", "input": 2})).await;
        let Server { app, dir, .. } = server;
        let admin = app.admin_url();
        let stopping = tokio::spawn(app.shutdown());
        while reqwest::get(format!("{admin}/readyz")).await.is_ok_and(|answer| answer.status() == StatusCode::OK) {
            tokio::task::yield_now().await;
        }
        let path = format!("/v1/runs/{cancelled}/cancel");
        let first = other.post(&path, &json!({})).await.is(StatusCode::ACCEPTED);
        assert_eq!((&first["status"], &first["cancelled_by"]), (&json!("queued"), &json!(other_name)));
        let second = ann.post(&path, &json!({})).await;
        assert_eq!(second.is(StatusCode::ACCEPTED), first, "asking again changes nothing");
        stopping.await.expect("stopped");

        let server = Server::start_empty(dir, Quota::default()).await;
        let ann = User::new(&ann.name, &server.app.url(), &ann.key);
        let ended = ann.get(&format!("/v1/runs/{cancelled}")).await.is(StatusCode::OK);
        assert_eq!((&ended["status"], &ended["stop_reason"]), (&json!("cancelled"), &json!("cancelled")), "{ended}");
        assert_eq!(ended["cancelled_by"], other_name.as_str());
        assert_eq!(ended["cancel_requested_at"], first["cancel_requested_at"]);
        assert_eq!(ended["started_at"], Value::Null, "it never began");
        assert_eq!(terminal(&ann, &cancelled).await["payload"]["cancelled_by"], other_name.as_str());
        assert_eq!(ann.ended(&left).await["stop_reason"], "completed", "its neighbour was not cancelled");
        assert_eq!(ann.ended(&long).await["stop_reason"], "completed");
    });
}

#[test]
fn a_cancel_that_was_kept_before_a_crash_is_honoured_after_it() {
    run(async {
        let dir = tempfile::tempdir().expect("a directory");
        let mut killed = crate::process::Process::serve(dir.path()).await;
        let (operator, dev) = (killed.operator(), killed.dev());
        operator.push("probe", crate::server::guest("probe")).await.is(StatusCode::CREATED);
        let path = "/v1/users/dev/grants/probe";
        let all = json!({"tools": ["*"], "state": "read_write"});
        operator.send(reqwest::Method::PUT, path, Some(&all)).await.is(StatusCode::OK);
        // One that waits, one that has changed something and then waits, and so many more that the last one is queued.
        let sleep = json!({"do": "sleep", "ms": 50_000});
        let write = json!({"do": "file_write", "path": "a", "text": "b"});
        let harmless = dev.submit(&json!({"agent": "probe", "input": sleep})).await;
        let changed = dev.submit(&json!({"agent": "probe", "input": {"do": "seq", "steps": [write, sleep]}})).await;
        for _ in 0..3 {
            dev.submit(&json!({"agent": "probe", "input": sleep})).await;
        }
        let queued = dev.submit(&json!({"agent": "probe", "input": {"do": "echo", "value": 1}})).await;
        while dev.get("/v1/files/a").await.text != "b" {
            tokio::task::yield_now().await;
        }
        running(&dev, &harmless).await;
        killed.kill().await;
        // As a crash leaves it between the moment at which the request is durable and that at which the run stops.
        let asked = "INSERT INTO cancels (run, asked_by, asked_at)
            SELECT number, 'key_crashed', 1790000000000000 FROM runs ORDER BY id LIMIT 2";
        let queued_too = "INSERT INTO cancels (run, asked_by, asked_at)
            SELECT number, 'key_crashed', 1790000000000000 FROM runs ORDER BY id DESC LIMIT 1";
        change_database(dir.path(), &[asked, queued_too]).await;

        let server = Server::start_empty(dir, Quota::default()).await;
        let dev = User::new("dev", &server.app.url(), server.app.api_key().expect("a key"));
        for id in [&harmless, &changed, &queued] {
            let run = dev.get(&format!("/v1/runs/{id}")).await.is(StatusCode::OK);
            assert_eq!((&run["status"], &run["stop_reason"]), (&json!("cancelled"), &json!("cancelled")), "{run}");
            assert_eq!(run["cancelled_by"], "key_crashed");
            assert_eq!(terminal(&dev, id).await["payload"]["cancelled_by"], "key_crashed");
        }
    });
}

#[test]
fn a_cancel_at_the_moment_of_the_end_is_honoured_or_refused_and_leaves_no_trace_then() {
    run(async {
        let server = Server::start_with(Quota::default()).await;
        let ann = server.trusted().await;
        let steps: Vec<_> = (0..300).map(|_| json!({"do": "thinking", "text": "t"})).collect();
        let body = json!({"agent": "probe", "input": {"do": "seq", "steps": steps}});
        let (mut honoured, mut refused) = (0, 0);
        // The moment is sought from both sides: later after a cancel that was in time, earlier after one that was not.
        let mut wait_us = 0_u64;
        for _ in 0..400 {
            let id = ann.submit(&body).await;
            let submitted = Instant::now();
            while submitted.elapsed() < Duration::from_micros(wait_us) {
                tokio::task::yield_now().await;
            }
            let answer = ann.post(&format!("/v1/runs/{id}/cancel"), &json!({})).await;
            let run = ann.ended(&id).await;
            if answer.status == StatusCode::CONFLICT {
                answer.problem(409, "already_ended");
                assert_eq!((&run["status"], &run["cancelled_by"]), (&json!("succeeded"), &Value::Null), "{run}");
                refused += 1;
                wait_us = wait_us.saturating_sub(500);
            } else {
                assert!(answer.status.is_success(), "{}", answer.text);
                assert_eq!(run["status"], "cancelled", "answered {}: {}", answer.status, answer.text);
                assert_eq!(terminal(&ann, &id).await["payload"]["cancelled_by"], run["cancelled_by"]);
                honoured += 1;
                wait_us += 500;
            }
        }
        assert!(honoured > 0 && refused > 0, "{honoured} were honoured, {refused} refused");
    });
}
