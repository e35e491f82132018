//! Runs that fail are executed again, if that was asked for: as the same run, after a pause in which they hold nothing.

use crate::{
    idempotency::change_database,
    process::Process,
    server::{Server, User, guest, run, shared},
};
use cofferdam_core::quota::Quota;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::{collections::BTreeSet, path::Path, time::Duration};

async fn user(server: &Server) -> User {
    let user = server.stranger().await;
    let grant = json!({"tools": ["*"], "state": "read_write", "human": true, "agents": ["*"]});
    server.grant(&user, "probe", &grant).await;
    user
}

fn with(retries: &Value, steps: &[Value]) -> Value {
    json!({"agent": "probe", "retries": retries, "input": {"do": "seq", "steps": steps}})
}

/// Fails until the file is there.
fn needs(path: &str) -> Value {
    json!({"do": "must_call", "name": "file.read", "args": {"path": path}})
}

fn count(path: &str) -> Value {
    json!({"do": "file_write", "path": path, "text": "x\n", "append": true})
}

/// Uses what is not recorded: from here on the record keeps nothing, and not the numbers of calls either.
fn ends_the_record() -> Value {
    json!({"do": "std", "op": "write", "path": "/workspace/ended.txt", "text": "x"})
}

async fn put(user: &User, path: &str) {
    let sent = user.request(Method::PUT, &format!("/v1/files/{path}")).body("here").send().await.expect("sent");
    assert!(sent.status().is_success());
}

async fn lines(user: &User, path: &str) -> usize {
    user.get(&format!("/v1/files/{path}")).await.text.lines().count()
}

/// Waits until a run is as it should be, and gives it.
async fn until(user: &User, id: &str, is: impl Fn(&Value) -> bool) -> Value {
    let found = async {
        loop {
            let run = user.get(&format!("/v1/runs/{id}")).await.is(StatusCode::OK);
            if is(&run) {
                return run;
            }
            assert!(run["finished_at"].is_null(), "{run:#}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), found).await.expect("it comes to that")
}

fn waits_for_retry(run: &Value) -> bool {
    run["wait"]["for"] == "retry"
}

fn kinds(events: &[Value]) -> Vec<&str> {
    events.iter().filter_map(|event| event["type"].as_str()).collect()
}

#[test]
fn a_run_that_fails_is_executed_again_until_it_does_not() {
    run(async {
        let server = shared().await;
        let ann = user(server).await;
        let think = |text: &str| json!({"do": "thinking", "text": text});
        let random = json!({"do": "random", "bytes": 16});
        let steps = [think("begins"), random, count("attempts.txt"), needs("ready.txt"), think("ends")];
        let id = ann.submit(&with(&json!({"attempts": 10, "backoff_ms": 300}), &steps)).await;
        let run = until(&ann, &id, waits_for_retry).await;
        // It holds nothing meanwhile, and says what it waits for, and why.
        assert_eq!((&run["status"], &run["attempt"]), (&json!("waiting"), &json!(1)), "{run:#}");
        assert_eq!(run["retries"], json!({"attempts": 10, "backoff_ms": 300}), "{run:#}");
        let about = &run["wait"]["about"];
        assert_eq!((&about["attempt"], &about["stop_reason"]), (&json!(1), &json!("guest_error")), "{run:#}");
        assert!(about["message"].as_str().is_some_and(|text| text.contains("ready.txt")), "{run:#}");
        assert!(run["wait"]["until"].is_string() && run["usage"]["fuel"] == 0, "{run:#}");
        let now = ann.get("/v1/usage").await.is(StatusCode::OK);
        assert_eq!(now["now"]["runs_executing"], 0, "{now:#}");
        let run = until(&ann, &id, |run| run["attempt"] == 2 && waits_for_retry(run)).await;
        assert_eq!(run["wait"]["about"]["attempt"], 2, "{run:#}");
        put(&ann, "ready.txt").await;
        let done = ann.ended(&id).await;
        assert_eq!((&done["stop_reason"], &done["attempt"]), (&json!("completed"), &json!(3)), "{done:#}");
        // What an attempt has done stays done, and each is told.
        assert_eq!(lines(&ann, "attempts.txt").await, 3);
        let events = ann.events(&id).await;
        let failed = ["agent_thinking", "tool_executing", "tool_completed", "tool_executing", "tool_completed"];
        let expected: Vec<_> = ["agent_started"]
            .into_iter()
            .chain(failed)
            .chain(["run_waiting"])
            .chain(failed)
            .chain(["run_waiting"])
            .chain(failed)
            .chain(["agent_thinking", "agent_completed"])
            .collect();
        assert_eq!(kinds(&events), expected, "{events:#?}");
        assert!(events.iter().zip(1_u64..).all(|(event, seq)| event["seq"] == seq), "{events:#?}");
        assert_eq!(events.last().expect("the end")["payload"]["usage"], done["usage"]);
        // What it took is what its attempts took; each had random numbers of its own.
        assert_eq!(done["usage"]["tool_calls"], 6, "{done:#}");
        let journal = ann.get(&format!("/v1/runs/{id}/journal")).await.is(StatusCode::OK);
        let entries = journal["entries"].as_array().expect("entries");
        let of = |kind: &str| entries.iter().filter(|entry| entry["kind"] == kind).collect::<Vec<_>>();
        let attempts: Vec<_> = of("attempt").iter().map(|entry| entry["attempt"].clone()).collect();
        assert_eq!(attempts, [json!(2), json!(3)], "{entries:#?}");
        let seeds = of("seed");
        assert!(seeds.len() == 3 && seeds[0]["answer"] != seeds[1]["answer"], "{seeds:#?}");
        let calls: Vec<_> = of("started").iter().map(|entry| entry["call"].as_u64().expect("a number")).collect();
        assert!(calls.windows(2).all(|pair| pair[0] < pair[1]), "calls are numbered on: {calls:?}");
        // The last attempt is replayed, to its end.
        let found = ann.send(Method::POST, &format!("/v1/runs/{id}/replay"), None).await.is(StatusCode::OK);
        assert_eq!((&found["same"], &found["reached"]), (&json!(true), &json!("end")), "{found:#}");
        let (fuel, all) = (found["fuel"].as_u64().expect("fuel"), done["usage"]["fuel"].as_u64().expect("fuel"));
        assert!(fuel * 2 < all && all < fuel * 4, "{fuel} {all}");
    });
}

#[test]
fn the_last_attempt_ends_the_run_and_it_has_one_end() {
    run(async {
        let ann = user(shared().await).await;
        let retries = json!({"attempts": 3, "backoff_ms": 100});
        let done = ann.finish(&with(&retries, &[count("three.txt"), needs("never.txt")])).await;
        assert_eq!((&done["stop_reason"], &done["attempt"]), (&json!("guest_error"), &json!(3)), "{done:#}");
        assert_eq!(lines(&ann, "three.txt").await, 3);
        let events = ann.events(done["id"].as_str().expect("an id")).await;
        let of = |kind: &str| events.iter().filter(|event| event["type"] == kind).count();
        assert_eq!((of("run_waiting"), of("agent_error"), of("agent_started")), (2, 1, 1), "{events:#?}");
        let days = ann.get("/v1/usage").await.is(StatusCode::OK);
        assert_eq!(days["today"]["runs"], 1, "one run, whatever it took: {days:#}");
        // A run of which nothing was said is executed once, and so is one that is to be.
        for retries in [json!({"attempts": 1}), Value::Null] {
            let done = ann.finish(&with(&retries, &[needs("never.txt")])).await;
            assert_eq!((&done["stop_reason"], &done["attempt"]), (&json!("guest_error"), &json!(1)), "{done:#}");
        }
    });
}

#[test]
fn what_would_end_it_again_ends_it_at_once() {
    run(async {
        let server = shared().await;
        let ann = user(server).await;
        let retries = json!({"attempts": 5, "backoff_ms": 100});
        let call = json!({"do": "must_call", "name": "file.read", "args": {"path": "x"}});
        let bob = server.stranger().await;
        let sleeps = json!({"do": "sleep", "ms": 5_000});
        for (user, step, limits, reason) in [
            (&ann, json!({"do": "invalid", "text": "not this"}), json!({}), "guest_error"),
            (&bob, call, json!({}), "denied"),
            (&ann, sleeps, json!({"deadline_ms": 100}), "deadline"),
            (&ann, json!({"do": "random", "bytes": 60_000}), json!({"fuel": 100_000}), "out_of_fuel"),
        ] {
            let mut body = with(&retries, &[step]);
            body["limits"] = limits;
            let done = user.finish(&body).await;
            assert_eq!((&done["stop_reason"], &done["attempt"]), (&json!(reason), &json!(1)), "{done:#}");
            let events = user.events(done["id"].as_str().expect("an id")).await;
            assert!(!kinds(&events).contains(&"run_waiting"), "{events:#?}");
        }
        for retries in [
            json!({"attempts": 0}),
            json!({"attempts": 11}),
            json!({"attempts": 2, "backoff_ms": 99}),
            json!({"attempts": 2, "backoff_ms": 3_600_001}),
            json!({"attempts": 2, "factor": 3}),
            json!({"backoff_ms": 100}),
            json!(3),
        ] {
            let refused = ann.post("/v1/runs", &with(&retries, &[])).await.problem(422, "invalid_body");
            let field = refused["field"].as_str().expect("a field");
            assert!(field.starts_with("retries"), "{retries}: {refused}");
        }
    });
}

#[test]
fn a_run_between_two_attempts_can_be_cancelled_and_counts_among_those_that_wait() {
    run(async {
        let server = shared().await;
        let ann = user(server).await;
        let long = json!({"attempts": 2, "backoff_ms": 3_600_000});
        let id = ann.submit(&with(&long, &[count("once.txt"), needs("never.txt")])).await;
        until(&ann, &id, waits_for_retry).await;
        // There is no room for another that waits: it ends as it failed.
        let path = format!("/v1/users/{}/quota", ann.name);
        server.operator.send(Method::PUT, &path, Some(&json!({"runs_waiting": 1}))).await.is(StatusCode::OK);
        let done = ann.finish(&with(&json!({"attempts": 2, "backoff_ms": 100}), &[needs("never.txt")])).await;
        assert_eq!((&done["stop_reason"], &done["attempt"]), (&json!("guest_error"), &json!(1)), "{done:#}");
        let done = ann.post(&format!("/v1/runs/{id}/cancel"), &json!({})).await;
        assert!(done.status.is_success(), "{}", done.text);
        let done = ann.ended(&id).await;
        assert_eq!((&done["stop_reason"], &done["attempt"]), (&json!("cancelled"), &json!(1)), "{done:#}");
        assert_eq!((done["usage"]["tool_calls"].as_u64(), lines(&ann, "once.txt").await), (Some(2), 1), "{done:#}");
        // There is nothing of its second attempt, which a replay finds, too.
        let found = ann.send(Method::POST, &format!("/v1/runs/{id}/replay"), None).await.is(StatusCode::OK);
        assert_eq!(found["reached"], "where_it_was_stopped", "{found:#}");
    });
}

#[test]
fn what_an_attempt_started_ends_with_it_and_the_next_starts_its_own() {
    run(async {
        let ann = user(shared().await).await;
        let child =
            json!({"do": "spawn", "agent": "probe", "input": {"do": "sleep_until", "in_ms": 60_000}, "wait": false});
        let steps = [child, needs("family.txt")];
        let id = ann.submit(&with(&json!({"attempts": 9, "backoff_ms": 400}), &steps)).await;
        until(&ann, &id, waits_for_retry).await;
        put(&ann, "family.txt").await;
        let done = ann.ended(&id).await;
        assert_eq!((&done["stop_reason"], &done["attempt"]), (&json!("completed"), &json!(2)), "{done:#}");
        let runs = ann.get("/v1/runs?limit=100").await.is(StatusCode::OK);
        let runs = runs["runs"].as_array().expect("runs");
        let children: Vec<_> = runs.iter().filter(|run| run["parent_run_id"] == id.as_str()).collect();
        assert_eq!(children.len(), 2, "{runs:#?}");
        for child in children {
            let ended = ann.ended(child["id"].as_str().expect("an id")).await;
            assert_eq!((&ended["stop_reason"], &ended["cancelled_by"]), (&json!("cancelled"), &json!(id)), "{ended:#}");
        }
    });
}

#[test]
fn children_of_two_attempts_are_not_taken_for_each_other_also_where_the_record_has_ended() {
    run(async {
        // How often an attempt waits for each child: it cannot be put away, and one wait is short.
        const WAITS: usize = 20;
        let ann = shared().await.trusted().await;
        let letters = ["A", "B", "C", "D"];
        let specs = letters.map(|letter| json!({"agent": "echo", "input": letter}));
        let wait: Vec<_> = (0..letters.len()).flat_map(|index| [index; WAITS]).collect();
        let children = json!({"do": "children", "specs": specs, "wait": wait});
        let steps = [ends_the_record(), children, needs("third.txt")];
        let id = ann.submit(&with(&json!({"attempts": 9, "backoff_ms": 300}), &steps)).await;
        until(&ann, &id, |run| run["attempt"] == 2 && waits_for_retry(run)).await;
        put(&ann, "third.txt").await;
        let done = ann.ended(&id).await;
        assert_eq!((&done["stop_reason"], &done["attempt"]), (&json!("completed"), &json!(3)), "{done:#}");
        let answers = done["output"][1].as_array().expect("answers");
        let last: Vec<_> = answers.chunks(WAITS).map(|answers| &answers[WAITS - 1]["answer"]["ok"]).collect();
        assert_eq!(last, letters, "{answers:#?}");
        // Each attempt had four of its own.
        assert_eq!(done["children"], json!({"succeeded": 12, "failed": 0, "cancelled": 0}), "{done:#}");
    });
}

#[test]
fn a_pause_between_attempts_outlives_a_restart() {
    run(async {
        let server = Server::start_with(Quota::default()).await;
        let ann = user(&server).await;
        let id = ann.submit(&with(&json!({"attempts": 2, "backoff_ms": 1_500}), &[needs("ready.txt")])).await;
        until(&ann, &id, waits_for_retry).await;
        put(&ann, "ready.txt").await;
        let server = server.restart().await;
        let ann = User::new(&ann.name, &server.app.url(), &ann.key);
        until(&ann, &id, waits_for_retry).await;
        let done = ann.ended(&id).await;
        assert_eq!((&done["stop_reason"], &done["attempt"]), (&json!("completed"), &json!(2)), "{done:#}");
    });
}

async fn started(dir: &Path) -> (Process, User) {
    let server = Process::serve(dir).await;
    let operator = server.operator();
    for name in ["probe", "effects"] {
        operator.push(name, guest(name)).await;
    }
    let ann = server.dev();
    for (plugin, grant) in [
        ("probe", json!({"tools": ["*"], "state": "read_write", "workspace": "read_write"})),
        ("effects", json!({"workspace": "read_write"})),
    ] {
        let path = format!("/v1/users/{}/grants/{plugin}", ann.name);
        operator.send(Method::PUT, &path, Some(&grant)).await.is(StatusCode::OK);
    }
    (server, ann)
}

#[test]
fn the_command_line_asks_for_retries_and_shows_the_attempt() {
    run(async {
        let dir = tempfile::tempdir().expect("a directory");
        let (server, _) = started(dir.path()).await;
        let input = r#"{"do":"must_call","name":"file.read","args":{"path":"never.txt"}}"#;
        let submit = ["runs", "submit", "probe", "--input", input];
        let retried = [&submit[..], &["--retries", "1", "--backoff", "100ms", "--follow"]].concat();
        let shown = server.cofferdam(&retried).await;
        let text = String::from_utf8_lossy(&shown.stdout);
        assert_eq!(shown.status.code(), Some(1), "{text}");
        assert!(text.contains("run_waiting {\"for\":\"retry\"") && text.contains("\nattempt 2\n"), "{text}");
        for wrong in [&["--retries", "10"][..], &["--retries", "1", "--backoff", "2h"], &["--backoff", "5s"]] {
            let refused = server.cofferdam(&[&submit[..], wrong].concat()).await;
            assert_eq!(refused.status.code(), Some(2), "{wrong:?}");
        }
    });
}

#[test]
fn a_killed_host_is_one_attempt_of_an_ephemeral_run_and_none_of_a_durable_one() {
    run(async {
        let dir = tempfile::tempdir().expect("a directory");
        let (mut server, ann) = started(dir.path()).await;
        let retries = json!({"attempts": 3, "backoff_ms": 200});
        // Its first attempt fails, and the second is cut off in a call that has done its work.
        let put_file = |hold_ms: u64| {
            let args = json!({"dir": "puts", "attempts": "keys.txt", "hold_ms": hold_ms});
            json!({"do": "call", "name": "effects.put", "args": args})
        };
        let mut durable = with(&retries, &[count("begun.txt"), put_file(0), needs("ready.txt"), put_file(2_500)]);
        durable["durability"] = json!("durable");
        let durable = ann.submit(&durable).await;
        until(&ann, &durable, waits_for_retry).await;
        put(&ann, "ready.txt").await;
        let three = async {
            while lines(&ann, "keys.txt").await < 3 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), three).await.expect("it is under way");
        // It has changed nothing outside when it is cut off.
        let sleeps = ann.submit(&with(&retries, &[json!({"do": "sleep", "ms": 1_000})])).await;
        until(&ann, &sleeps, |run| run["status"] == "running").await;
        server.kill().await;
        let server = Process::serve(dir.path()).await;
        let ann = User::new(&ann.name, server.text("url"), &ann.key);
        let done = ann.ended(&durable).await;
        assert_eq!((&done["stop_reason"], &done["attempt"]), (&json!("completed"), &json!(2)), "{done:#}");
        // Two attempts began; the second made two calls, the last of them twice under one key.
        assert_eq!(lines(&ann, "begun.txt").await, 2);
        let keys = ann.get("/v1/files/keys.txt").await.text;
        let keys: Vec<_> = keys.lines().collect();
        assert_eq!(keys.len(), 4, "{keys:?}");
        assert!(keys[0] != keys[1] && keys[1] != keys[2] && keys[2] == keys[3], "{keys:?}");
        let found = ann.send(Method::POST, &format!("/v1/runs/{durable}/replay"), None).await.is(StatusCode::OK);
        assert_eq!((&found["same"], &found["reached"]), (&json!(true), &json!("end")), "{found:#}");
        let slept = ann.ended(&sleeps).await;
        assert_eq!((&slept["stop_reason"], &slept["attempt"]), (&json!("completed"), &json!(2)), "{slept:#}");
        let events = ann.events(&sleeps).await;
        assert_eq!(kinds(&events), ["agent_started", "run_waiting", "agent_completed"], "{events:#?}");
        assert_eq!(events[1]["payload"]["about"]["stop_reason"], "host_shutdown", "{events:#?}");
    });
}

#[test]
fn each_attempt_calls_tools_under_keys_of_its_own_also_where_the_record_has_ended() {
    run(async {
        let dir = tempfile::tempdir().expect("a directory");
        let (_server, ann) = started(dir.path()).await;
        let args = json!({"dir": "puts", "attempts": "keys.txt"});
        let put_file = json!({"do": "must_call", "name": "effects.put", "args": args});
        let steps = [ends_the_record(), put_file.clone(), put_file, needs("never.txt")];
        let done = ann.finish(&with(&json!({"attempts": 3, "backoff_ms": 100}), &steps)).await;
        assert_eq!((&done["stop_reason"], &done["attempt"]), (&json!("guest_error"), &json!(3)), "{done:#}");
        let keys = ann.get("/v1/files/keys.txt").await.text;
        let distinct: BTreeSet<_> = keys.lines().collect();
        assert_eq!((keys.lines().count(), distinct.len()), (6, 6), "{keys}");
    });
}

#[test]
fn what_an_attempt_started_ends_also_if_the_host_is_killed_before_it_could_ask() {
    run(async {
        let dir = tempfile::tempdir().expect("a directory");
        let (mut server, ann) = started(dir.path()).await;
        let id = ann.submit(&with(&json!({"attempts": 2, "backoff_ms": 3_600_000}), &[needs("never.txt")])).await;
        until(&ann, &id, waits_for_retry).await;
        let sleeps = json!({"agent": "probe", "input": {"do": "sleep_until", "in_ms": 600_000}});
        let child = ann.submit(&sleeps).await;
        until(&ann, &child, |run| run["status"] == "waiting").await;
        server.kill().await;
        // As a crash leaves it between the moment at which the run is put away and that at which its children are asked.
        let started_it = "UPDATE runs SET parent_id = (SELECT min(id) FROM runs) WHERE id = (SELECT max(id) FROM runs)";
        assert_eq!(change_database(dir.path(), &[started_it]).await, 1);
        let server = Process::serve(dir.path()).await;
        let ann = User::new(&ann.name, server.text("url"), &ann.key);
        let ended = ann.ended(&child).await;
        assert_eq!((&ended["stop_reason"], &ended["cancelled_by"]), (&json!("cancelled"), &json!(id)), "{ended:#}");
        until(&ann, &id, waits_for_retry).await;
    });
}
