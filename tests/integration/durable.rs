//! Durable runs: a host that is killed goes on with them where they were, and what they did outside is done once.

use crate::{
    idempotency::change_database,
    process::Process,
    server::{User, guest, run},
};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::{path::Path, time::Duration};

/// How long a call stays under way whose host is killed meanwhile, in milliseconds.
const UNTIL_KILLED_MS: u64 = 60_000;

async fn started(dir: &Path) -> (Process, User) {
    let server = Process::serve(dir).await;
    let operator = server.operator();
    for name in ["probe", "echo", "effects"] {
        operator.push(name, guest(name)).await;
    }
    let ann = server.dev();
    for (plugin, grant) in [
        (
            "probe",
            json!({"tools": ["*"], "state": "read_write", "workspace": "read_write", "human": true, "agents": ["*"]}),
        ),
        ("effects", json!({"workspace": "read_write"})),
    ] {
        let path = format!("/v1/users/{}/grants/{plugin}", ann.name);
        operator.send(Method::PUT, &path, Some(&grant)).await.is(StatusCode::OK);
    }
    (server, ann)
}

fn durable(steps: &[Value]) -> Value {
    json!({"agent": "probe", "durability": "durable", "input": {"do": "seq", "steps": steps}})
}

fn call(tool: &str, args: &Value) -> Value {
    json!({"do": "call", "name": tool, "args": args})
}

async fn file(user: &User, path: &str) -> String {
    user.get(&format!("/v1/files/{path}")).await.text
}

/// Waits until a file is there, and something in it: the work of a call is done, and the call goes on.
async fn is_there(user: &User, path: &str) {
    let there = async {
        loop {
            let answer = user.get(path).await;
            // A file is made before it is written to.
            if answer.status.is_success() && !answer.text.is_empty() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), there).await.expect("it is there");
}

/// Waits until so many events of this kind, among the first of the run, are told, and with them the record of what came before.
async fn are_told(user: &User, id: &str, kind: &str, times: usize) {
    let told = async {
        loop {
            let page = user.get(&format!("/v1/runs/{id}/events")).await.is(StatusCode::OK);
            let events = page["events"].as_array().expect("events");
            if events.iter().filter(|event| event["type"] == kind).count() >= times {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), told).await.expect("they are told");
}

#[test]
fn a_killed_host_goes_on_where_a_durable_run_was_and_does_nothing_twice() {
    run(async {
        let dir = tempfile::tempdir().expect("a directory");
        let (mut server, ann) = started(dir.path()).await;
        let think = |text: &str| json!({"do": "thinking", "text": text});
        let id = ann
            .submit(&durable(&[
                think("one"),
                json!({"do": "state_set", "scope": "user", "key": "k", "text": "v"}),
                json!({"do": "random", "bytes": 16}),
                json!({"do": "std", "op": "write", "path": "/scratch/x", "text": "kept"}),
                json!({"do": "file_write", "path": "done.txt", "text": "a line\n", "append": true}),
                think("two"),
                // Its work is done at once, and then it stays under way: here the host is killed.
                call(
                    "effects.put",
                    &json!({"dir": "puts", "attempts": "attempts.txt", "hold_first_ms": UNTIL_KILLED_MS}),
                ),
                think("three"),
                json!({"do": "std", "op": "read", "path": "/scratch/x"}),
                json!({"do": "state_get", "scope": "user", "key": "k"}),
            ]))
            .await;
        is_there(&ann, "/v1/files/attempts.txt").await;
        server.kill().await;
        let (server, ann) = (Process::serve(dir.path()).await, ann);
        let ann = User::new(&ann.name, server.text("url"), &ann.key);
        let done = ann.ended(&id).await;
        assert_eq!(done["stop_reason"], "completed", "{done:#}");
        let output = &done["output"];
        assert_eq!(
            (&output[8]["ok"], &output[9]["ok"]["text"], &output[9]["ok"]["version"]),
            (&json!("kept"), &json!("v"), &json!(1)),
            "{output:#}"
        );
        // An idempotent tool was called again under the same key, and everything else was done once.
        let attempts = file(&ann, "attempts.txt").await;
        let keys: Vec<_> = attempts.lines().collect();
        assert_eq!(keys.len(), 2, "{attempts}");
        assert_eq!((keys[0], Some(keys[0])), (keys[1], output[6]["ok"]["key"].as_str()), "{output:#}");
        assert_eq!(file(&ann, "done.txt").await, "a line\n");
        // Nothing is told twice, and nothing is missing.
        let events = ann.events(&id).await;
        assert!(events.iter().zip(1_u64..).all(|(event, seq)| event["seq"] == seq), "{events:#?}");
        let kinds: Vec<_> = events.iter().filter_map(|event| event["type"].as_str()).collect();
        let expected = [
            "agent_started",
            "agent_thinking",
            "tool_executing",
            "tool_completed",
            "agent_thinking",
            "tool_executing",
            "tool_completed",
            "agent_thinking",
            "agent_completed",
        ];
        assert_eq!(kinds, expected, "{events:#?}");
        let found = ann.send(Method::POST, &format!("/v1/runs/{id}/replay"), None).await.is(StatusCode::OK);
        assert_eq!((&found["same"], &found["fuel"]), (&json!(true), &done["usage"]["fuel"]), "{found:#}");
    });
}

#[test]
fn what_tools_took_of_a_durable_runs_budgets_is_not_given_anew_after_a_kill() {
    run(async {
        let dir = tempfile::tempdir().expect("a directory");
        let (mut server, ann) = started(dir.path()).await;
        let path = format!("/v1/users/{}/quota", ann.name);
        let narrow = json!({"events_per_run": 40});
        server.operator().send(Method::PUT, &path, Some(&narrow)).await.is(StatusCode::OK);
        let prints = call("effects.put", &json!({"prints": 15}));
        let holds = |file: &str, ms: u64| call("effects.put", &json!({"attempts": file, "hold_first_ms": ms}));
        let steps = |files: [&str; 2], ms| {
            let [one, two] = files.map(|file| holds(file, ms));
            [prints.clone(), one, prints.clone(), two, prints.clone(), json!({"do": "budget"})]
        };
        let id = ann.submit(&durable(&steps(["a", "b"], 0))).await;
        let never_cut = ann.ended(&id).await;
        let id = ann.submit(&durable(&steps(["one", "two"], UNTIL_KILLED_MS))).await;
        let mut ann = ann;
        for file in ["one", "two"] {
            is_there(&ann, &format!("/v1/files/{file}")).await;
            // What came before the call is in the record: a tool whose end is not would be called again, and print again.
            let calls = if file == "one" { 2 } else { 4 };
            are_told(&ann, &id, "tool_executing", calls).await;
            server.kill().await;
            server = Process::serve(dir.path()).await;
            ann = User::new(&ann.name, server.text("url"), &ann.key);
        }
        let done = ann.ended(&id).await;
        assert_eq!((&done["stop_reason"], &never_cut["stop_reason"]), (&json!("completed"), &json!("completed")));
        let answers = done["output"].as_array().expect("answers");
        assert!(answers[..5].iter().all(|answer| answer["ok"]["key"].is_string()), "{done:#}");
        for attempts in ["one", "two"] {
            assert_eq!(file(&ann, attempts).await.lines().count(), 2, "{attempts}");
        }
        let events = ann.events(&id).await;
        let lines = events.iter().filter(|event| event["type"] == "log").count();
        assert_eq!((lines, &done["output"][5]["events"]), (40, &json!(0)), "{done:#}");
        assert_eq!(done["usage"]["host_calls"], never_cut["usage"]["host_calls"]);
        // The record says what they took, and is read past it.
        let journal = ann.get(&format!("/v1/runs/{id}/journal")).await.is(StatusCode::OK);
        let entries = journal["entries"].as_array().expect("entries");
        let took = entries.iter().rfind(|entry| entry["kind"] == "tools").expect("they took something");
        assert_eq!(took["took"]["events"], 40, "{took}");
        let same = ann.send(Method::POST, &format!("/v1/runs/{id}/replay"), None).await.is(StatusCode::OK);
        assert_eq!(same["same"], true, "{same:#}");
    });
}

#[test]
fn a_tool_that_may_have_done_its_work_and_must_not_do_it_twice_has_an_unknown_outcome() {
    run(async {
        let dir = tempfile::tempdir().expect("a directory");
        let (mut server, ann) = started(dir.path()).await;
        let append = json!({"path": "lines.txt", "hold_ms": UNTIL_KILLED_MS});
        let id = ann.submit(&durable(&[call("effects.append", &append), call("file.list", &json!({}))])).await;
        let ephemeral = ann
            .submit(&json!({"agent": "probe", "input": call("effects.append", &json!({"path": "other.txt", "hold_ms": UNTIL_KILLED_MS}))}))
            .await;
        is_there(&ann, "/v1/files/lines.txt").await;
        is_there(&ann, "/v1/files/other.txt").await;
        server.kill().await;
        let server = Process::serve(dir.path()).await;
        let ann = User::new(&ann.name, server.text("url"), &ann.key);
        let done = ann.ended(&id).await;
        assert_eq!(done["stop_reason"], "completed", "{done:#}");
        assert_eq!(done["output"][0]["error"]["kind"], "outcome_unknown", "{done:#}");
        assert_eq!(file(&ann, "lines.txt").await.lines().count(), 1);
        let events = ann.events(&id).await;
        let failed = events.iter().find(|event| event["type"] == "tool_completed").expect("it ended");
        assert_eq!(failed["payload"]["error"]["code"], "outcome_unknown", "{failed}");
        // One that is not durable ends as it did before.
        assert_eq!(ann.ended(&ephemeral).await["stop_reason"], "outcome_unknown");
    });
}

#[test]
fn a_sleep_that_had_begun_when_its_host_was_killed_goes_on_as_long_as_it_may_then() {
    run(async {
        let dir = tempfile::tempdir().expect("a directory");
        let (mut server, ann) = started(dir.path()).await;
        let budget = json!({"do": "budget"});
        let id = ann.submit(&durable(&[json!({"do": "sleep_until", "in_ms": 6_000}), budget])).await;
        runs_when(&ann, |runs| runs.iter().any(|run| run["status"] == "waiting")).await;
        // What is left of it is more than a wait may take by now.
        let (path, narrow) = (format!("/v1/users/{}/quota", ann.name), json!({"wait_ms": 1_000}));
        server.operator().send(Method::PUT, &path, Some(&narrow)).await.is(StatusCode::OK);
        server.kill().await;
        // As a host leaves it that is killed in the call: it has begun, and that the run waits is not written.
        let forget = [
            "DELETE FROM events WHERE seq = (SELECT max(seq_to) FROM feed)",
            "DELETE FROM feed WHERE seq_to = (SELECT max(seq_to) FROM feed)",
            "DELETE FROM waits",
            "UPDATE runs SET status = 'running'",
        ];
        assert!(change_database(dir.path(), &forget).await >= 3);
        let server = Process::serve(dir.path()).await;
        let ann = User::new(&ann.name, server.text("url"), &ann.key);
        let done = ann.ended(&id).await;
        assert_eq!((&done["stop_reason"], &done["output"][0]), (&json!("completed"), &json!({"ok": null})), "{done:#}");
        let same = ann.send(Method::POST, &format!("/v1/runs/{id}/replay"), None).await.is(StatusCode::OK);
        assert_eq!(same["same"], true, "{same:#}");
    });
}

#[test]
fn a_parent_and_its_children_go_on_after_a_kill_and_each_child_is_there_once() {
    run(async {
        let dir = tempfile::tempdir().expect("a directory");
        let (mut server, ann) = started(dir.path()).await;
        let child = |ms: u64| {
            json!({"agent": "probe", "input": {"do": "seq", "steps": [
                call("effects.put", &json!({"dir": "puts", "hold_ms": 20})), {"do": "sleep_until", "in_ms": ms},
            ]}})
        };
        let family = json!({"do": "children", "specs": [child(1_200), child(1_500), child(10)]});
        let id = ann.submit(&durable(&[family])).await;
        is_there(&ann, "/v1/files?path=puts").await;
        server.kill().await;
        let mut server = Process::serve(dir.path()).await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        server.kill().await;
        let server = Process::serve(dir.path()).await;
        let ann = User::new(&ann.name, server.text("url"), &ann.key);
        let done = ann.ended(&id).await;
        assert_eq!(done["stop_reason"], "completed", "{done:#}");
        let answers = done["output"][0].as_array().expect("answers");
        assert!(answers.len() == 3 && answers.iter().all(|answer| answer["answer"]["ok"].is_array()), "{done:#}");
        let runs = ann.get("/v1/runs?limit=100").await.is(StatusCode::OK);
        let children = runs["runs"].as_array().expect("runs").iter().filter(|run| run["parent_run_id"] == id.as_str());
        let children: Vec<_> = children.collect();
        assert!(children.len() == 3 && children.iter().all(|run| run["durability"] == "durable"), "{runs:#}");
        let puts = ann.get("/v1/files?path=puts").await.is(StatusCode::OK);
        assert_eq!(puts["entries"].as_array().map(Vec::len), Some(3), "{puts:#}");
    });
}

#[test]
fn a_server_that_stops_in_good_order_leaves_durable_runs_to_the_next() {
    run(async {
        let dir = tempfile::tempdir().expect("a directory");
        let server = Process::serve_with(dir.path(), &["--drain-wait", "1s"]).await;
        let operator = server.operator();
        operator.push("probe", guest("probe")).await;
        let ann = server.dev();
        let id =
            ann.submit(&durable(&[json!({"do": "thinking", "text": "x"}), json!({"do": "sleep", "ms": 2_000})])).await;
        while ann.get(&format!("/v1/runs/{id}")).await.is(StatusCode::OK)["status"] != "running" {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        server.end_by("TERM").await;
        let server = Process::serve(dir.path()).await;
        let ann = User::new(&ann.name, server.text("url"), &ann.key);
        assert_eq!(ann.ended(&id).await["stop_reason"], "completed");
    });
}

/// Waits until a user's runs are as they should be, and gives them.
async fn runs_when(user: &User, are: impl Fn(&[Value]) -> bool) -> Vec<Value> {
    let found = async {
        loop {
            let runs = user.get("/v1/runs?limit=100").await.is(StatusCode::OK);
            let runs = runs["runs"].as_array().expect("runs").clone();
            if are(&runs) {
                break runs;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), found).await.expect("the runs are as they should be")
}

#[test]
fn a_child_that_is_started_again_by_the_same_call_is_not_executed_again() {
    run(async {
        let dir = tempfile::tempdir().expect("a directory");
        let (mut server, ann) = started(dir.path()).await;
        let set = json!({"do": "state_set", "scope": "user", "key": "k", "text": "v"});
        let child = json!({"do": "spawn", "agent": "probe", "input": set, "wait": false});
        // It fills its tree, in which there is no room for another.
        let path = format!("/v1/users/{}/quota", ann.name);
        let one = json!({"descendants_per_run": 1});
        server.operator().send(Method::PUT, &path, Some(&one)).await.is(StatusCode::OK);
        let id = ann.submit(&durable(&[child, json!({"do": "sleep", "ms": 1_500})])).await;
        let is_child = |run: &Value| run["parent_run_id"] == id.as_str();
        let runs = runs_when(&ann, |runs| runs.iter().any(|run| is_child(run) && run["status"] == "succeeded")).await;
        let child = runs.iter().find(|run| is_child(run)).expect("a child").clone();
        server.kill().await;
        // As a host leaves it that is killed in the call: it has begun, and its answer is not recorded. The answer has
        // mostly not come to the disk yet; if it has, it is in a later chunk.
        let forget = "DELETE FROM records WHERE chunk > 1 AND run = (SELECT number FROM runs WHERE parent_id IS NULL)";
        change_database(dir.path(), &[forget]).await;
        let server = Process::serve(dir.path()).await;
        let ann = User::new(&ann.name, server.text("url"), &ann.key);
        let done = ann.ended(&id).await;
        assert_eq!((&done["stop_reason"], &done["output"][0]["id"]), (&json!("completed"), &child["id"]), "{done:#}");
        let read = json!({"do": "state_get", "scope": "user", "key": "k"});
        let read = ann.finish(&json!({"agent": "probe", "input": read})).await;
        assert_eq!(read["output"]["ok"]["version"], 1, "it was executed once: {read:#}");
    });
}

#[test]
fn a_child_whose_parent_has_ended_ends_with_the_next_start_if_the_host_was_killed_in_between() {
    run(async {
        let dir = tempfile::tempdir().expect("a directory");
        let (mut server, ann) = started(dir.path()).await;
        let sleeps = json!({"do": "sleep_until", "in_ms": 3_600_000});
        let id = ann.submit(&durable(&[json!({"do": "spawn", "agent": "probe", "input": sleeps})])).await;
        let all_wait = |runs: &[Value]| runs.len() == 2 && runs.iter().all(|run| run["status"] == "waiting");
        let runs = runs_when(&ann, all_wait).await;
        let child = runs.iter().find(|run| run["parent_run_id"] == id.as_str()).expect("a child");
        server.kill().await;
        // The parent's end is durable, and nobody has asked its child to stop yet.
        let end = "UPDATE runs SET status = 'cancelled', stop_reason = 'cancelled', finished_at = started_at + 1000
            WHERE parent_id IS NULL";
        assert_eq!(change_database(dir.path(), &[end]).await, 1);
        let server = Process::serve(dir.path()).await;
        let ann = User::new(&ann.name, server.text("url"), &ann.key);
        let ended = ann.ended(child["id"].as_str().expect("an id")).await;
        assert_eq!((&ended["stop_reason"], &ended["cancelled_by"]), (&json!("cancelled"), &json!(id)), "{ended:#}");
    });
}

/// Waits until a run has a sandbox, or has ended, and gives it.
async fn executes(user: &User, id: &str) -> Value {
    let executes = async {
        loop {
            let run = user.get(&format!("/v1/runs/{id}")).await.is(StatusCode::OK);
            if run["context_status"] == "executing" || !run["finished_at"].is_null() {
                break run;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), executes).await.expect("it is executed")
}

#[test]
fn a_run_with_which_the_host_ends_each_time_is_set_aside_and_the_others_go_on() {
    run(async {
        const STARTS_MAX: usize = 5;
        let dir = tempfile::tempdir().expect("a directory");
        let (server, ann) = started(dir.path()).await;
        let again = |server: &Process| User::new(&ann.name, server.text("url"), &ann.key);
        // As far as anybody can see, the host ends because of it: it is executed each time, and comes no further.
        let think = json!({"do": "thinking", "text": "x"});
        let guilty = ann.submit(&durable(&[think.clone(), json!({"do": "sleep", "ms": 50_000})])).await;
        // One that waits is not executed, and one that comes further is not the cause.
        let waits = ann.submit(&durable(&[think.clone(), json!({"do": "ask", "prompt": "?"})])).await;
        executes(&ann, &guilty).await;
        let mut server = server;
        // A host that stops in good order has not ended because of anybody.
        for _ in 0..=STARTS_MAX {
            server.end_by("TERM").await;
            server = Process::serve_with(dir.path(), &["--drain-wait", "100ms"]).await;
            executes(&again(&server), &guilty).await;
        }
        let steps: Vec<_> = (0..150).flat_map(|_| [think.clone(), json!({"do": "sleep", "ms": 60})]).collect();
        let innocent = again(&server).submit(&durable(&steps)).await;
        let mut kills = 0;
        let done = loop {
            let ann = again(&server);
            let run = executes(&ann, &guilty).await;
            if !run["finished_at"].is_null() {
                break run;
            }
            assert!(kills < STARTS_MAX, "it is started again and again: {run:#}");
            let said = async || {
                let page = ann.get(&format!("/v1/runs/{innocent}/events?limit=1000")).await.is(StatusCode::OK);
                page["events"].as_array().map_or(0, Vec::len)
            };
            let before = said().await;
            while said().await == before
                && ann.get(&format!("/v1/runs/{innocent}")).await.json()["finished_at"].is_null()
            {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            server.kill().await;
            kills += 1;
            server = Process::serve(dir.path()).await;
        };
        assert_eq!(kills, STARTS_MAX, "{done:#}");
        assert_eq!((&done["status"], &done["error"]["code"]), (&json!("failed"), &json!("host_error")), "{done:#}");
        let message = done["error"]["message"].as_str().expect("a message");
        assert!(message.contains("5 times in a row") && message.contains("not executed again"), "{message}");
        let ann = again(&server);
        assert_eq!(ann.ended(&innocent).await["stop_reason"], "completed");
        ann.post(&format!("/v1/runs/{waits}/input"), &json!({"answer": 7})).await.is(StatusCode::OK);
        assert_eq!(ann.ended(&waits).await["output"][1], json!({"ok": 7}));
    });
}

#[test]
fn a_child_that_was_removed_is_told_to_the_parent_that_waits_for_it() {
    run(async {
        let dir = tempfile::tempdir().expect("a directory");
        let (mut server, ann) = started(dir.path()).await;
        let sleeps = json!({"do": "sleep_until", "in_ms": 3_600_000});
        let child = json!({"do": "spawn", "agent": "probe", "input": sleeps});
        let id = ann.submit(&durable(&[child, json!({"do": "thinking", "text": "goes on"})])).await;
        runs_when(&ann, |runs| runs.len() == 2 && runs.iter().all(|run| run["status"] == "waiting")).await;
        server.kill().await;
        // Retention leaves it there. What may remove it all the same is an operator, or a backup that is older.
        assert_eq!(change_database(dir.path(), &["DELETE FROM runs WHERE parent_id IS NOT NULL"]).await, 1);
        let server = Process::serve(dir.path()).await;
        let ann = User::new(&ann.name, server.text("url"), &ann.key);
        let done = ann.ended(&id).await;
        assert_eq!(done["stop_reason"], "completed", "{done:#}");
        let error = &done["output"][0]["answer"]["error"]["wait"];
        assert_eq!(error["kind"], "unavailable", "{done:#}");
        assert!(error["text"].as_str().is_some_and(|text| text.contains("not on this host any more")), "{done:#}");
        // It is told the same when it is looked at again.
        let found = ann.send(Method::POST, &format!("/v1/runs/{id}/replay"), None).await.is(StatusCode::OK);
        assert_eq!((&found["same"], &found["reached"]), (&json!(true), &json!("end")), "{found:#}");
    });
}
