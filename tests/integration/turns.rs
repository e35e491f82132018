//! Whose guests run while more want to than there are processors: shares of users, priorities of one user, and that who
//! waits for a turn can still be stopped.

use crate::server::{Server, User, run};
use cofferdam_core::quota::Quota;
use reqwest::StatusCode;
use serde_json::{Value, json};

/// Guests that run at once, at most.
fn processors() -> u32 {
    std::thread::available_parallelism().map_or(1, |threads| u32::try_from(threads.get()).expect("a few"))
}

/// A server on which one user can have several guests for each processor.
async fn crowded() -> Server {
    let quota = Quota {
        runs_at_once: 8 * processors(),
        failures_in_a_row: u32::MAX,
        // So much that their deadline ends those that spin.
        fuel_per_run: u64::MAX >> 1,
        ..Quota::default()
    };
    Server::start_with(quota).await
}

fn spin(priority: &str, deadline_ms: u64) -> Value {
    let limits = json!({"deadline_ms": deadline_ms});
    json!({"agent": "hostile", "input": {"scenario": "spin"}, "priority": priority, "limits": limits})
}

async fn spinning(user: &User, runs: u32, priority: &str, deadline_ms: u64) -> Vec<String> {
    let mut ids = Vec::new();
    for _ in 0..runs {
        ids.push(user.submit(&spin(priority, deadline_ms)).await);
    }
    ids
}

/// How many times as long as it was executing the one run of the user's took that has so much to compute.
async fn stretched(user: &User, priority: &str) -> f64 {
    let input = json!({"scenario": "burn", "rounds": 500_000_000});
    let run = user.finish(&json!({"agent": "hostile", "input": input, "priority": priority})).await;
    assert_eq!(run["stop_reason"], "completed", "{run}");
    let ms = |of: &str| run["usage"][of].as_f64().expect("a number");
    assert!(ms("active_ms") > 100.0, "it has something to compute: {run}");
    ms("wall_ms") / ms("active_ms")
}

async fn cancelled(user: &User, runs: &[String]) {
    for id in runs {
        user.post(&format!("/v1/runs/{id}/cancel"), &json!({})).await;
        assert_eq!(user.ended(id).await["stop_reason"], "cancelled");
    }
}

/// Waits until so many of the server's guests have or want a turn.
async fn wanting(server: &Server, guests: u32) {
    loop {
        let now = server.app.runtime().turns_now();
        if now.running + now.waiting >= guests {
            return;
        }
        tokio::task::yield_now().await;
    }
}

#[test]
fn a_user_with_one_run_has_a_users_share_beside_one_with_many() {
    run(async {
        let server = crowded().await;
        let (ann, bob) = (server.trusted().await, server.trusted().await);
        let many = spinning(&ann, 8 * processors(), "high", 60_000).await;
        wanting(&server, 8 * processors()).await;
        // Half of all processors are bob's; going round all runs, his would take some nine times as long as alone.
        let stretched = stretched(&bob, "low").await;
        assert!(stretched < 4.0, "{stretched:.1} times as long");
        cancelled(&ann, &many).await;
        let now = server.app.runtime().turns_now();
        assert_eq!((now.running, now.waiting), (0, 0));
    });
}

#[test]
fn a_run_of_high_priority_overtakes_the_users_own_and_nobody_elses() {
    run(async {
        let server = crowded().await;
        let (ann, bob) = (server.trusted().await, server.trusted().await);
        let low = spinning(&ann, 7 * processors(), "low", 60_000).await;
        wanting(&server, 7 * processors()).await;
        let stretched_high = stretched(&ann, "high").await;
        assert!(stretched_high < 4.0, "{stretched_high:.1} times as long");
        let high = spinning(&ann, processors(), "high", 60_000).await;
        wanting(&server, 8 * processors()).await;
        let stretched_other = stretched(&bob, "low").await;
        assert!(stretched_other < 4.0, "{stretched_other:.1} times as long");
        cancelled(&ann, &high).await;
        cancelled(&ann, &low).await;
    });
}

#[test]
fn a_guest_that_waits_for_its_turn_can_be_cancelled_and_meets_its_deadline() {
    run(async {
        let server = crowded().await;
        let ann = server.trusted().await;
        // These take all turns for as long as they spin, and the others wait behind them.
        let high = spinning(&ann, 2 * processors(), "high", 60_000).await;
        wanting(&server, 2 * processors()).await;
        let low = spinning(&ann, 4 * processors(), "low", 60_000).await;
        let late = ann.submit(&spin("low", 300)).await;
        wanting(&server, 6 * processors()).await;
        assert_eq!(server.app.runtime().turns_now().running, processors());
        let late = ann.ended(&late).await;
        assert_eq!(late["stop_reason"], "deadline", "{late}");
        let ms = |of: &str| late["usage"][of].as_u64().expect("a number");
        assert!(ms("wall_ms") < 3_000, "it did not wait for those that go first: {late}");
        assert!(ms("active_ms") < 100, "it had hardly a turn: {late}");
        cancelled(&ann, &low).await;
        cancelled(&ann, &high).await;
        let now = server.app.runtime().turns_now();
        assert_eq!((now.running, now.waiting, server.app.runtime().sandboxes_open()), (0, 0, 0));
    });
}

#[test]
fn tools_run_in_their_callers_turns_also_where_there_are_not_enough() {
    run(async {
        let server = crowded().await;
        let (ann, bob) = (server.trusted().await, server.trusted().await);
        let others = spinning(&bob, 2 * processors(), "high", 60_000).await;
        wanting(&server, 2 * processors()).await;
        let call = json!({"name": "units.convert", "args": {"value": 1, "from": "km", "to": "m"}});
        let one = json!({"do": "call", "name": call["name"], "args": call["args"]});
        let beside = json!({"do": "parallel", "calls": vec![call; 8]});
        let seq = json!({"do": "seq", "steps": [one, beside, one]});
        let outputs = ann.probe(&seq).await;
        assert_eq!(outputs.as_array().map(Vec::len), Some(3), "{outputs}");
        assert!(!outputs.to_string().contains("error"), "{outputs}");
        cancelled(&bob, &others).await;
    });
}

#[test]
fn a_priority_is_told_kept_over_a_restart_and_one_of_three_words() {
    run(async {
        let server = Server::start_with(Quota { runs_at_once: 1, ..Quota::default() }).await;
        let ann = server.user("ann").await;
        let echo = |priority: &str| json!({"agent": "echo", "input": 1, "priority": priority});
        for priority in ["high", "normal", "low"] {
            assert_eq!(ann.finish(&echo(priority)).await["priority"], priority);
        }
        assert_eq!(ann.finish(&json!({"agent": "echo", "input": 1, "priority": null})).await["priority"], "normal");
        for bad in [json!("highest"), json!("HIGH"), json!(1), json!(["low"]), json!("")] {
            let body = json!({"agent": "echo", "input": 1, "priority": bad});
            let problem = ann.post("/v1/runs", &body).await.problem(422, "invalid_body");
            assert!(problem.to_string().contains("priority"), "{problem}");
        }
        let listed = ann.get("/v1/runs").await.is(StatusCode::OK);
        let listed: Vec<_> = listed["runs"].as_array().expect("runs").iter().map(|run| &run["priority"]).collect();
        assert_eq!(listed, ["normal", "low", "normal", "high"]);

        let first = ann.submit(&json!({"agent": "hostile", "input": {"scenario": "spin"}})).await;
        let queued = ann.submit(&echo("low")).await;
        let Server { app, dir, .. } = server;
        app.shutdown().await;
        let server = Server::start_empty(dir, Quota::default()).await;
        let ann = User::new("ann", &server.app.url(), &ann.key);
        assert_eq!(ann.ended(&first).await["priority"], "normal");
        let run = ann.ended(&queued).await;
        assert_eq!((&run["priority"], &run["stop_reason"]), (&json!("low"), &json!("completed")));
    });
}
