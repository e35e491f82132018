//! What is kept of finished runs has limits, at which the oldest go; a run that has not ended never does.

use crate::{
    idempotency::change_database,
    server::{Answer, Server, User, run, worker},
    sockets::Ws,
};
use cofferdam_core::{
    Json,
    identity::Operator,
    ids::RequestId,
    quota::{LimitsAsked, Quota},
    run::{Durability, Priority},
    storage::MemoryStorage,
};
use cofferdam_runtime::{AcceptError, Runtime, RuntimeConfig, Submission};
use reqwest::{Method, StatusCode};
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
fn a_run_that_goes_on_keeps_no_more_of_its_children_than_may_be_kept() {
    run(async {
        let server = Server::start_with(Quota { history_bytes: 65_536, ..Quota::default() }).await;
        let ann = server.trusted().await;
        // Each leaves its input, its output and its events, 41 to 43 KB.
        let child = json!({"do": "spawn", "agent": "echo", "input": "x".repeat(20_000)});
        let family = json!({"agent": "probe", "input": {"do": "seq", "steps": [child, child, child, {"do": "ask", "prompt": "?"}]}});
        let waiting = ann.submit(&family).await;
        while ann.get(&format!("/v1/runs/{waiting}")).await.is(StatusCode::OK)["status"] != "waiting" {
            tokio::task::yield_now().await;
        }
        assert_eq!(settled(&ann, 3).await.len(), 3, "the run and two children");
        // What others of the user's leave goes, and does not make room.
        echo(&ann, &json!("y".repeat(20_000))).await;
        let other = ann.finish(&json!({"agent": "probe", "input": child})).await;
        assert_eq!(other["output"]["error"]["kind"], "too_many", "{other}");
        let why = other["output"]["error"]["text"].as_str().expect("a text");
        assert!(why.contains("take 65536 bytes, which is as much as may be kept"), "{why}");
        // Once the run has ended, all of it goes.
        ann.post(&format!("/v1/runs/{waiting}/input"), &json!({"answer": "go on"})).await.is(StatusCode::OK);
        let done = ann.ended(&waiting).await;
        assert_eq!(done["stop_reason"], "completed", "{done}");
        assert!(done["output"][1]["answer"]["ok"].is_string(), "{done}");
        assert_eq!(done["output"][2]["error"]["kind"], "too_many", "{done}");
        let child = async {
            loop {
                let other = ann.finish(&json!({"agent": "probe", "input": child})).await;
                if other["output"]["answer"]["ok"].is_string() {
                    break;
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(10), child).await.expect("there is room again");
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
            durability: Durability::default(),
            retries: None,
            request: RequestId::generate(),
            once: None,
        };
        let refused = runtime.accept(&scope, submission).await.expect_err("there is no room");
        assert!(matches!(refused, AcceptError::DiskFull { .. }), "{refused}");
        assert!(refused.to_string().contains("free some space"), "{refused}");
        assert_eq!(runtime.runs_queued(), 0);
    });
}

/// A run with 30 MB of events, more than connections hold on their way, that has ended; the last event of a page in its
/// middle is beside it, as the cursor of the feed.
async fn long_log(user: &User) -> (String, String) {
    let flood = json!({"agent": "hostile", "input": {"scenario": "event_flood", "count": 6_000, "bytes": 5_000}});
    let run = user.finish(&flood).await;
    assert_eq!(run["stop_reason"], "completed", "{run}");
    let page = user.get("/v1/events?limit=10").await.is(StatusCode::OK);
    (run["id"].as_str().expect("an id").to_owned(), page["next_after"].as_str().expect("a cursor").to_owned())
}

async fn removed(user: &User, id: &str) {
    while user.get(&format!("/v1/runs/{id}")).await.status != StatusCode::NOT_FOUND {
        tokio::task::yield_now().await;
    }
}

#[test]
fn whoever_follows_a_run_that_is_removed_is_told_and_does_not_take_it_for_its_end() {
    run(async {
        let server = Server::start_with(Quota { runs_stored: 1, ..Quota::default() }).await;
        let ann = server.trusted().await;
        let (id, cursor) = long_log(&ann).await;
        let follow = async |path: &str| {
            let request = ann.request(Method::GET, path).header("accept", "text/event-stream");
            let mut stream = request.send().await.expect("answered");
            assert_eq!(stream.status(), StatusCode::OK);
            let begun = stream.chunk().await.expect("a stream").expect("events");
            (stream, String::from_utf8_lossy(&begun).into_owned())
        };
        let path = format!("/v1/runs/{id}/events");
        let ((mut of_run, mut run_text), (mut of_all, mut all_text)) =
            (follow(&path).await, follow("/v1/events").await);
        let newer = echo(&ann, &json!("newer")).await;
        removed(&ann, &id).await;

        // The stream of the run breaks off, and going on with it says why.
        let broken = loop {
            match of_run.chunk().await {
                Ok(Some(chunk)) => run_text.push_str(&String::from_utf8_lossy(&chunk)),
                Ok(None) => break false,
                Err(_) => break true,
            }
        };
        assert!(!run_text.contains("agent_completed"), "the test needs a reader that is behind");
        assert!(broken, "a stream that ends in good order has had its last event");
        let last = run_text.lines().filter_map(|line| line.strip_prefix("id: ")).next_back().expect("an id").to_owned();
        let request = ann.request(Method::GET, &path).header("accept", "text/event-stream");
        let resumed = request.header("last-event-id", &last).send().await.expect("answered");
        Answer::of(resumed).await.problem(404, "unknown_run");

        // The stream of all runs says where something is missing, and goes on.
        let is_newer = format!("\"run_id\":\"{newer}\"");
        while !all_text.contains(&is_newer) {
            let chunk = of_all.chunk().await.expect("a stream").expect("more to come");
            all_text.push_str(&String::from_utf8_lossy(&chunk));
        }
        let frames: Vec<_> = all_text.split("\n\n").collect();
        let first = frames.iter().position(|frame| frame.contains(&is_newer)).expect("there");
        assert!(frames[first - 1].contains("event: removed\n"), "{}", frames[first - 1]);
        assert_eq!(all_text.matches("event: removed\n").count(), 1);

        // So do pages, to whoever had read up to somewhere; whoever begins is given what there is.
        let page = ann.get(&format!("/v1/events?after={cursor}")).await.is(StatusCode::OK);
        let told = |page: &Value| -> Vec<_> {
            let events = page["events"].as_array().expect("events").iter();
            events.map(|event| (event["event"]["run_id"].clone(), event["removed_before"].clone())).collect()
        };
        let fresh = ann.get("/v1/events").await.is(StatusCode::OK);
        assert_eq!(told(&page)[0], (json!(newer), json!(true)), "{page}");
        assert!(told(&page)[1..].iter().chain(&told(&fresh)).all(|(_, removed)| removed.is_null()));
    });
}

/// Checks that a run is nowhere to be found and nothing can be done with it, and that the user has only the two others, which
/// ran before and after it; `cursor` is where the one before ended.
async fn is_nowhere(server: &Server, user: &User, id: &str, [older, newer]: [&str; 2], cursor: &str) {
    let path = format!("/v1/runs/{id}");
    for of in ["", "/events", "/events?after=1", "/journal"] {
        user.get(&format!("{path}{of}")).await.problem(404, "unknown_run");
    }
    let stream = user.request(Method::GET, &format!("{path}/events")).header("accept", "text/event-stream");
    Answer::of(stream.send().await.expect("answered")).await.problem(404, "unknown_run");
    for (of, body) in [("/cancel", json!({})), ("/input", json!({"answer": 1})), ("/replay", json!({}))] {
        user.post(&format!("{path}{of}"), &body).await.problem(404, "unknown_run");
    }
    let mut ws = Ws::open(user, &server.app.url()).await;
    let refused = ws.ask(&json!({"type": "subscribe", "run": id}), "error").await;
    assert_eq!(refused["problem"]["code"], "unknown_run", "{refused}");
    assert_eq!(kept(user).await, [newer, older]);
    for after in [String::new(), format!("&after={cursor}")] {
        let page = user.get(&format!("/v1/events?limit=1000{after}")).await.is(StatusCode::OK);
        let events = page["events"].as_array().expect("events");
        let told: Vec<_> = events.iter().map(|event| event["event"]["run_id"].as_str().expect("an id")).collect();
        let first = told.iter().position(|run| *run == newer).expect("the newer one");
        assert!(
            told[..first].iter().all(|run| *run == older) && told[first..].iter().all(|run| *run == newer),
            "{page}"
        );
        assert_eq!((after.is_empty(), &events[first]["removed_before"]), (first > 0, &json!(true)), "{page}");
    }
}

#[test]
fn a_large_run_is_nowhere_while_it_is_being_removed_and_its_rest_goes_after_a_restart() {
    run(async {
        let server = Server::start_with(Quota::default()).await;
        let ann = server.trusted().await;
        let body = json!({"agent": "echo", "input": "x".repeat(100_000)});
        let submit = async |user: &User| {
            let request = user.request(Method::POST, "/v1/runs").header("idempotency-key", "k").json(&body);
            Answer::of(request.send().await.expect("answered")).await
        };
        let older = echo(&ann, &json!("older")).await;
        let cursor = ann.get("/v1/events?limit=1000").await.is(StatusCode::OK);
        let cursor = cursor["next_after"].as_str().expect("a cursor").to_owned();
        let large = submit(&ann).await.is(StatusCode::ACCEPTED)["id"].as_str().expect("an id").to_owned();
        ann.ended(&large).await;
        let newer = echo(&ann, &json!("newer")).await;
        let usage = ann.get("/v1/usage").await.is(StatusCode::OK);

        // As the first commit leaves it, and no host that would go on.
        let hide = "INSERT INTO going (run) SELECT min(number) FROM runs WHERE length(input) > 65536";
        assert_eq!(change_database(server.dir.path(), &[hide]).await, 1);
        is_nowhere(&server, &ann, &large, [&older, &newer], &cursor).await;
        submit(&ann).await.problem(410, "idempotency_result_gone");
        let now = ann.get("/v1/usage").await.is(StatusCode::OK);
        assert_eq!(now["last_30_days"], usage["last_30_days"], "what it took is counted");
        let kept = now["now"]["storage"]["history_bytes"].as_u64().expect("bytes");
        assert!(kept < 10_000 && now["now"]["storage"]["history_runs"] == 2, "{now}");

        // The next host goes on, and it is as it was.
        let server = server.restart().await;
        let ann = User::new(&ann.name, &server.app.url(), &ann.key);
        let rest_gone = async {
            while change_database(server.dir.path(), &["UPDATE going SET run = run"]).await > 0 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), rest_gone).await.expect("the rest goes");
        let others = change_database(server.dir.path(), &["UPDATE runs SET user = user"]).await;
        assert_eq!(others, 2, "runs that are there");
        is_nowhere(&server, &ann, &large, [&older, &newer], &cursor).await;
    });
}
