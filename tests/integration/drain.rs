//! A signal to a real server: what it acknowledged ends exactly once, by then or after the next start.

use crate::{
    process::Process,
    server::{Answer, User, guest, run},
};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// How long the drain waits for runs, and how long the whole end may take: after the wait, what still runs is stopped,
/// which takes no longer than a tick and a commit.
const DRAIN_WAIT: &str = "1s";
const END_MAX: Duration = Duration::from_secs(15);

/// Submits until the server refuses or is gone, and gives what was acknowledged.
async fn submit_until_refused(user: User) -> Vec<String> {
    let mut acknowledged = Vec::new();
    loop {
        let body = json!({"agent": "probe", "input": {"do": "sleep", "ms": 20}});
        let Ok(response) = user.request(Method::POST, "/v1/runs").json(&body).send().await else { break };
        let (status, Ok(text)) = (response.status(), response.text().await) else { break };
        match status {
            StatusCode::ACCEPTED => {
                let run: Value = serde_json::from_str(&text).expect("JSON");
                acknowledged.push(run["id"].as_str().expect("an id").to_owned());
            }
            // The queue is full: whoever waits for a run of theirs makes room for the next.
            StatusCode::TOO_MANY_REQUESTS => tokio::task::yield_now().await,
            StatusCode::SERVICE_UNAVAILABLE => break,
            other => panic!("{other}: {text}"),
        }
    }
    acknowledged
}

#[test]
fn a_signal_ends_or_hands_on_every_acknowledged_run_exactly_once() {
    run(async {
        for signal in ["TERM", "INT"] {
            let dir = tempfile::tempdir().expect("a directory");
            let server = Process::serve_with(dir.path(), &["--drain-wait", DRAIN_WAIT]).await;
            let (operator, dev) = (server.operator(), server.dev());
            operator.push("probe", guest("probe")).await.is(StatusCode::CREATED);
            let path = "/v1/users/dev/grants/probe";
            operator.send(Method::PUT, path, Some(&json!({"tools": ["*"]}))).await.is(StatusCode::OK);
            let sleep = |ms: u32| json!({"agent": "probe", "input": {"do": "sleep", "ms": ms}});
            let in_time = dev.submit(&sleep(600)).await;
            let too_long = dev.submit(&sleep(50_000)).await;
            let write = json!({"do": "file_write", "path": "a", "text": "b"});
            let steps = json!({"do": "seq", "steps": [write, {"do": "sleep", "ms": 50_000}]});
            let changed = dev.submit(&json!({"agent": "probe", "input": steps})).await;
            while dev.get("/v1/files/a").await.text != "b" {
                tokio::task::yield_now().await;
            }
            let submitting: Vec<_> = (0..4).map(|_| tokio::spawn(submit_until_refused(dev.clone()))).collect();
            while dev.get("/v1/runs?status=queued&limit=50").await.is(StatusCode::OK)["next_after"].is_null() {
                tokio::task::yield_now().await;
            }
            let begun = Instant::now();
            assert_eq!(server.end_by(signal).await, Some(0), "SIG{signal} ends it in good order");
            assert!(begun.elapsed() < END_MAX, "SIG{signal} took {:?}", begun.elapsed());
            let mut acknowledged = vec![in_time.clone(), too_long.clone(), changed.clone()];
            for submitted in submitting {
                acknowledged.extend(submitted.await.expect("no panic"));
            }

            let server = Process::serve(dir.path()).await;
            let dev = server.dev();
            for id in &acknowledged {
                let run = dev.ended(id).await;
                let expected = match id {
                    id if *id == too_long => "host_shutdown",
                    id if *id == changed => "outcome_unknown",
                    _ => "completed",
                };
                assert_eq!(run["stop_reason"], expected, "SIG{signal}: {run}");
                let events = dev.events(id).await;
                let seqs: Vec<_> = events.iter().map(|event| event["seq"].as_u64().expect("a number")).collect();
                assert_eq!(seqs, (1..=events.len() as u64).collect::<Vec<_>>(), "no holes, nothing twice");
                let of = |kinds: &[&str]| {
                    events.iter().filter(|event| kinds.contains(&event["type"].as_str().expect("a type"))).count()
                };
                assert_eq!((of(&["agent_started"]), of(&["agent_completed", "agent_error"])), (1, 1), "{events:?}");
            }
            assert_eq!(server.end_by("TERM").await, Some(0));
        }
    });
}

#[test]
fn a_submission_whose_connection_breaks_is_made_once_when_it_is_sent_again() {
    run(async {
        let dir = tempfile::tempdir().expect("a directory");
        let mut server = Process::serve(dir.path()).await;
        server.operator().push("echo", guest("echo")).await.is(StatusCode::CREATED);
        // Many are on their way when the server is killed; each client knows only that there was no answer.
        let sent: Vec<_> = (0..32)
            .map(|n| {
                let dev = server.dev();
                tokio::spawn(async move {
                    let body = json!({"agent": "echo", "input": n});
                    let request = dev.request(Method::POST, "/v1/runs").header("idempotency-key", format!("k{n}"));
                    let answered = request.json(&body).send().await;
                    match answered {
                        Ok(response) if response.status().is_success() => response.json::<Value>().await.ok(),
                        _ => None,
                    }
                })
            })
            .collect();
        while server.dev().get("/v1/runs?limit=1").await.is(StatusCode::OK)["runs"]
            .as_array()
            .is_some_and(Vec::is_empty)
        {
            tokio::task::yield_now().await;
        }
        server.kill().await;
        let server = Process::serve(dir.path()).await;
        let dev = server.dev();
        for (n, first) in sent.into_iter().enumerate() {
            let first = first.await.expect("no panic");
            let body = json!({"agent": "echo", "input": n});
            let request = dev.request(Method::POST, "/v1/runs").header("idempotency-key", format!("k{n}"));
            let again = Answer::of(request.json(&body).send().await.expect("answered")).await;
            assert!(again.status.is_success(), "{}", again.text);
            if let Some(first) = first {
                assert_eq!(again.json()["id"], first["id"], "what was acknowledged is not made again");
                assert_eq!(again.header("idempotent-replayed"), Some("true"));
            }
            dev.ended(again.json()["id"].as_str().expect("an id")).await;
        }
        let runs = dev.get("/v1/runs?limit=100").await.is(StatusCode::OK);
        let mut threads: Vec<_> = runs["runs"].as_array().expect("runs").iter().map(|run| run["id"].clone()).collect();
        threads.dedup();
        assert_eq!(threads.len(), 32, "each was made once");
    });
}

#[test]
fn a_server_whose_log_nobody_reads_any_more_ends_its_runs_in_good_order() {
    run(async {
        let dir = tempfile::tempdir().expect("a directory");
        // As with `cofferdam serve 2>&1 | tee log`, of which `tee` is gone first.
        let (reader, log) = std::io::pipe().expect("a pipe");
        let server = Process::serve_logging_to(dir.path(), &[], log.into()).await;
        drop(reader);
        server.operator().push("probe", guest("probe")).await.is(StatusCode::CREATED);
        let dev = server.dev();
        let id = dev.submit(&json!({"agent": "probe", "input": {"do": "sleep", "ms": 700}})).await;
        while dev.get(&format!("/v1/runs/{id}")).await.is(StatusCode::OK)["status"] != "running" {
            tokio::task::yield_now().await;
        }
        assert_eq!(server.end_by("TERM").await, Some(0), "it waited for its run");
        let server = Process::serve(dir.path()).await;
        let ended = server.dev().get(&format!("/v1/runs/{id}")).await.is(StatusCode::OK);
        assert_eq!(ended["stop_reason"], "completed", "{ended}");
        assert_eq!(server.end_by("TERM").await, Some(0));
    });
}
