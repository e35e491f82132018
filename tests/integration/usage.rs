//! What a user has and has taken: exact, also over a killed server, and nobody else's to read.

use crate::{
    process::Process,
    server::{Server, User, run, shared},
};
use cofferdam_core::quota::Quota;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

async fn usage(user: &User) -> Value {
    user.get(&format!("/v1/users/{}/usage", user.name)).await.is(StatusCode::OK)
}

/// What these runs say they took, added up as usage has it.
fn sum(runs: &[Value]) -> Value {
    let figure = |name: &str| runs.iter().map(|run| run["usage"][name].as_u64().expect(name)).sum::<u64>();
    let mut ends = serde_json::Map::new();
    for run in runs {
        let reason = run["stop_reason"].as_str().expect("it has ended");
        let before = ends.get(reason).and_then(Value::as_u64).unwrap_or(0);
        ends.insert(reason.to_owned(), json!(before + 1));
    }
    json!({
        "runs": runs.len(), "runs_by_stop_reason": ends, "fuel": figure("fuel"), "active_ms": figure("active_ms"),
        "memory_byte_seconds": figure("memory_byte_seconds"), "events": figure("events"),
        "tool_calls": figure("tool_calls"), "host_calls": figure("host_calls"),
    })
}

/// The sums of a period; around midnight, those of the month.
fn period(usage: &Value) -> Value {
    let (today, mut month) = (usage["today"].clone(), usage["last_30_days"].clone());
    assert_eq!(today["last_day"], month["last_day"]);
    if today["runs"] == month["runs"] {
        let same = |name: &str| assert_eq!(today[name], month[name], "{name}");
        ["fuel", "events", "runs_by_stop_reason", "memory_byte_seconds"].into_iter().for_each(same);
    }
    let fields = month.as_object_mut().expect("an object");
    fields.remove("first_day");
    fields.remove("last_day");
    month
}

#[test]
fn usage_is_the_sum_of_what_runs_took_and_removing_runs_does_not_change_it() {
    run(async {
        let server = Server::start_with(Quota { runs_stored: 2, ..Quota::default() }).await;
        let ann = server.trusted().await;
        assert_eq!(period(&usage(&ann).await), sum(&[]));
        let mut runs = vec![
            ann.finish(&json!({"agent": "echo", "input": [1]})).await,
            ann.finish(&json!({"agent": "hostile", "input": {"scenario": "spin"}, "limits": {"fuel": 1_000_000}}))
                .await,
        ];
        let write = json!({"do": "file_write", "path": "a", "text": "four"});
        let convert = json!({"do": "call", "name": "units.convert", "args": {"value": 1.0, "from": "km", "to": "m"}});
        let steps = json!({"do": "seq", "steps": [write, convert, {"do": "sleep", "ms": 40}]});
        runs.push(ann.finish(&json!({"agent": "probe", "input": steps})).await);
        let last = &runs[2]["usage"];
        assert_eq!(last["tool_calls"], 2, "{last}");
        // It held at least a megabyte for at least 40 ms, and never more than its peak.
        let (taken, peak) =
            (last["memory_byte_seconds"].as_u64().unwrap(), last["memory_peak_bytes"].as_u64().unwrap());
        let wall_ms = last["wall_ms"].as_u64().unwrap();
        assert!((1_000_000 * 40 / 1_000..=peak * (wall_ms + 1) / 1_000).contains(&taken), "{last}");
        let events = ann.events(runs[2]["id"].as_str().expect("an id")).await;
        assert_eq!(events.last().map(|end| end["payload"]["usage"].clone()).as_ref(), Some(last));

        let all = usage(&ann).await;
        assert_eq!(period(&all), sum(&runs));
        let (now, resources) = (&all["now"], &all["resources"]);
        assert_eq!(
            (&now["runs_executing"], &now["runs_queued"], &now["memory_bytes"]),
            (&json!(0), &json!(0), &json!(0))
        );
        assert_eq!((&now["storage"]["workspace_bytes"], &now["storage"]["workspace_entries"]), (&json!(4), &json!(1)));
        assert_eq!((&resources["score"], &resources["healthy"]), (&json!(100), &json!(true)), "{resources}");
        assert!(resources["cpu_percent"].as_f64().is_some_and(|percent| percent > 0.0), "{resources}");

        while usage(&ann).await["now"]["storage"]["history_runs"] != 2 {
            tokio::task::yield_now().await;
        }
        assert_eq!(period(&usage(&ann).await), sum(&runs), "a run that was removed counts as before");

        // What goes on now is seen now.
        let sleep = json!({"agent": "probe", "input": {"do": "sleep", "ms": 30_000}});
        let mut under_way = Vec::new();
        for _ in 0..7 {
            under_way.push(ann.submit(&sleep).await);
        }
        let now = loop {
            let now = usage(&ann).await["now"].clone();
            if now["runs_executing"] == 5 && now["memory_bytes"].as_u64().is_some_and(|bytes| bytes >= 5 << 16) {
                break now;
            }
            tokio::task::yield_now().await;
        };
        assert_eq!(now["runs_queued"], 2, "{now}");
        for id in under_way {
            ann.post(&format!("/v1/runs/{id}/cancel"), &json!({})).await;
            runs.push(ann.ended(&id).await);
        }
        let ended = period(&usage(&ann).await);
        assert_eq!(ended, sum(&runs));
        assert_eq!(ended["runs_by_stop_reason"]["cancelled"], 7);
        let server = server.restart().await;
        let ann = User::new(&ann.name, &server.app.url(), &ann.key);
        assert_eq!(period(&usage(&ann).await), ended);
    });
}

#[test]
fn usage_is_exact_over_a_server_that_is_killed() {
    run(async {
        let dir = tempfile::tempdir().expect("a directory");
        let mut killed = Process::serve(dir.path()).await;
        let (operator, dev) = (killed.operator(), killed.dev());
        operator.push("echo", crate::server::guest("echo")).await.is(StatusCode::CREATED);
        let mut ids = Vec::new();
        for n in 0..40 {
            ids.push(dev.submit(&json!({"agent": "echo", "input": n})).await);
        }
        dev.ended(&ids[0]).await;
        killed.kill().await;
        // What it had acknowledged as ended is counted with it, what it had not is counted when it ends.
        let server = Server::start_empty(dir, Quota::default()).await;
        let dev = User::new("dev", &server.app.url(), server.app.api_key().expect("a key"));
        let mut runs = Vec::new();
        for id in &ids {
            runs.push(dev.ended(id).await);
        }
        assert_eq!(period(&usage(&dev).await), sum(&runs));
        assert_eq!(dev.get("/v1/usage").await.is(StatusCode::OK)["user"], "dev");
    });
}

#[test]
fn usage_is_for_its_user_and_for_operators_and_asking_leaves_nothing() {
    run(async {
        let server = shared().await;
        let (ann, bob) = (server.stranger().await, server.stranger().await);
        let path = format!("/v1/users/{}/usage", ann.name);
        assert_eq!(ann.get(&path).await.is(StatusCode::OK)["user"], json!(ann.name));
        assert_eq!(server.operator.get(&path).await.is(StatusCode::OK)["user"], json!(ann.name));
        let of_another = bob.get(&path).await;
        of_another.problem(404, "unknown_user");
        assert_eq!(bob.get("/v1/users/nobody-at-all/usage").await.text, of_another.text, "there or not");
        assert_eq!(bob.get(&format!("/v1/users/{}/grants/probe", ann.name)).await.text, of_another.text);
        server.operator.get("/v1/users/NOT%20AN%20ID/usage").await.problem(422, "invalid_id");
        server.operator.get("/v1/usage").await.problem(403, "user_needed");
        ann.send(Method::PUT, &path, Some(&json!({}))).await.problem(405, "method_not_allowed");
        server.operator.get("/v1/users/nobody-at-all/usage").await.is(StatusCode::OK);
        assert!(!server.dir.path().join("workspaces/nobody-at-all").exists(), "a question makes no directory");
    });
}

#[test]
fn the_command_line_shows_usage() {
    run(async {
        let server = shared().await;
        let ann = server.stranger().await;
        let shown = async |args: &[&str], variable: &str, key: &str| {
            let mut command = tokio::process::Command::new(crate::server::worker());
            command.args(args).env("COFFERDAM_URL", server.app.url()).env(variable, key);
            let output = command.output().await.expect("started");
            assert!(output.status.success(), "{output:?}");
            String::from_utf8(output.stdout).expect("a text")
        };
        let own = shown(&["usage"], "COFFERDAM_API_KEY", &ann.key).await;
        assert!(own.starts_with(&format!("user {}\n", ann.name)) && own.contains("storage.state_bytes"), "{own}");
        let operators = shown(&["usage", &ann.name, "--json"], "COFFERDAM_ADMIN_KEY", &server.operator.key).await;
        let document: Value = serde_json::from_str(&operators).expect("JSON on one line");
        assert_eq!(document["last_30_days"]["runs"], 0, "{document}");
    });
}
