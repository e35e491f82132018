//! What users may take: each limit can be set over HTTP while the host runs, is met by a guest, and only ever narrows.

use crate::server::{Server, User, run};
use cofferdam_core::{
    Json, clock,
    identity::Operator,
    ids::{Digest, RequestId, RunId, ThreadId, UserId},
    quota::{LimitsAsked, Quota},
    run::{Children, Durability, Priority, RunEnd, RunSpec, StopReason, Usage},
    storage::RunBatch,
};
use jiff::ToSpan as _;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

async fn set(server: &Server, user: &User, quota: &Value) -> Value {
    let path = format!("/v1/users/{}/quota", user.name);
    server.operator.send(Method::PUT, &path, Some(quota)).await.is(StatusCode::OK)
}

async fn hostile(user: &User, input: Value, limits: Value) -> Value {
    user.finish(&json!({"agent": "hostile", "input": input, "limits": limits})).await
}

/// What the probe's last step came to.
async fn last_of(user: &User, steps: &[Value]) -> Value {
    let output = user.probe(&json!({"do": "seq", "steps": steps})).await;
    output.as_array().and_then(|outputs| outputs.last()).expect("an output").clone()
}

/// A run that stays for a while, once it executes.
async fn staying(user: &User) -> String {
    let id = user.submit(&json!({"agent": "probe", "input": {"do": "sleep", "ms": 30_000}})).await;
    while user.get(&format!("/v1/runs/{id}")).await.is(StatusCode::OK)["status"] == "queued" {
        tokio::task::yield_now().await;
    }
    id
}

async fn cancel(user: &User, id: &str) {
    user.post(&format!("/v1/runs/{id}/cancel"), &json!({})).await;
    user.ended(id).await;
}

async fn kept(user: &User, count: usize) {
    let settled = async {
        while user.get("/v1/runs?limit=100").await.is(StatusCode::OK)["runs"].as_array().map(Vec::len) != Some(count) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), settled).await.expect("old runs go");
}

fn told(value: &Value, word: &str) {
    assert!(value.to_string().contains(word), "{word}: {value}");
}

/// Begins with an edit of one limit over HTTP, and ends with a guest, or a client, that meets it.
async fn is_met(server: &Server, name: &str) {
    let user = server.trusted().await;
    let none = json!({});
    let to = async |value: u64| set(server, &user, &json!({ name: value })).await;
    match name {
        "fuel_per_run" => {
            to(1_000_000).await;
            let run = hostile(&user, json!({"scenario": "spin"}), none).await;
            assert_eq!(
                (&run["stop_reason"], run["usage"]["fuel"].as_u64() <= Some(1_000_000)),
                (&json!("out_of_fuel"), true)
            );
        }
        "fuel_per_minute" => {
            set(server, &user, &json!({ name: 10_000_000, "queue_wait_ms": 100 })).await;
            let run = hostile(&user, json!({"scenario": "spin"}), json!({"fuel": 30_000_000})).await;
            assert_eq!(run["stop_reason"], "out_of_fuel", "{run}");
            let run = user.finish(&json!({"agent": "echo", "input": 1})).await;
            assert_eq!(run["stop_reason"], "quota", "{run}");
            told(&run["error"], "fuel_per_minute");
        }
        "memory_bytes_per_context" | "memory_bytes_per_user" => {
            to(4 << 20).await;
            let run = hostile(&user, json!({"scenario": "grow", "step_bytes": 65_536}), none).await;
            let peak = run["usage"]["memory_peak_bytes"].as_u64().expect("a number");
            assert!(peak <= 4 << 20 && peak > (4 << 20) - (2 << 16), "{peak}");
        }
        "deadline_ms" => {
            to(100).await;
            let run = hostile(&user, json!({"scenario": "sleep_long"}), none).await;
            assert_eq!(run["stop_reason"], "deadline", "{run}");
        }
        "cpu_weight" => weight_is_met(server).await,
        "runs_at_once" => {
            to(1).await;
            let first = staying(&user).await;
            let second = user.submit(&json!({"agent": "echo", "input": 1})).await;
            let status = user.get(&format!("/v1/runs/{second}")).await.json();
            assert_eq!(status["status"], "queued", "{status}");
            cancel(&user, &first).await;
            assert_eq!(user.ended(&second).await["stop_reason"], "completed");
        }
        "runs_queued" => {
            set(server, &user, &json!({"runs_at_once": 1, name: 1})).await;
            let first = staying(&user).await;
            let second = user.submit(&json!({"agent": "echo", "input": 1})).await;
            let third = user.post("/v1/runs", &json!({"agent": "echo", "input": 1})).await;
            third.problem(429, "queue_full");
            assert_eq!(third.header("retry-after"), Some("1"));
            assert_eq!(third.header("ratelimit"), Some("\"runs_queued\";r=0;t=1"));
            assert_eq!(third.header("ratelimit-policy"), Some("\"runs_queued\";q=1"));
            cancel(&user, &first).await;
            assert_eq!(user.ended(&second).await["stop_reason"], "completed");
        }
        "queue_wait_ms" => {
            set(server, &user, &json!({"runs_at_once": 1, name: 50})).await;
            let first = staying(&user).await;
            let run = user.finish(&json!({"agent": "echo", "input": 1})).await;
            assert_eq!(run["stop_reason"], "quota", "{run}");
            told(&run["error"], "50 ms for a slot");
            cancel(&user, &first).await;
        }
        "tool_calls_per_run" => {
            to(2).await;
            let call = json!({"do": "call", "name": "file.list", "args": {"path": ""}});
            told(&last_of(&user, &[call.clone(), call.clone(), call]).await, "has made 2 tool calls");
        }
        "tool_calls_in_flight" => {
            to(1).await;
            let call = json!({"name": "file.list", "args": {"path": ""}});
            told(&user.probe(&json!({"do": "parallel", "calls": [call, call]})).await, "1 tool calls are under way");
        }
        "host_calls_per_run" => {
            to(100).await;
            let run = hostile(&user, json!({"scenario": "spin_in_host_calls"}), none).await;
            assert_eq!(run["stop_reason"], "quota", "{run}");
            told(&run["error"], "100 host calls");
        }
        "events_per_run" => {
            to(2).await;
            let thinking = json!({"do": "thinking", "text": "x"});
            let third = last_of(&user, &[thinking.clone(), thinking.clone(), thinking]).await;
            assert_eq!(third["error"], json!({"kind": "too_many", "limit": 2}));
        }
        "event_bytes_per_run" => {
            to(1_024).await;
            let thinking = json!({"do": "thinking", "text": "x".repeat(600)});
            told(&last_of(&user, &[thinking.clone(), thinking]).await, "1024");
        }
        "log_bytes_per_run" => {
            to(1_024).await;
            let line = json!({"do": "log", "level": "info", "text": "x".repeat(600)});
            told(&last_of(&user, &[line.clone(), line]).await, "1024");
        }
        "record_bytes_per_run" => {
            to(1_024).await;
            let steps: Vec<_> = (0..20).map(|_| json!({"do": "random", "bytes": 256})).collect();
            let write = json!({"do": "state_set", "scope": "user", "key": "k", "text": "x".repeat(2_000)});
            let input =
                json!({"do": "seq", "steps": [write, {"do": "state_get", "scope": "user", "key": "k"}, steps[0]]});
            let run = user.finish(&json!({"agent": "probe", "input": input})).await;
            assert_eq!(run["stop_reason"], "completed", "{run}");
            let id = run["id"].as_str().expect("an id");
            told(&user.get(&format!("/v1/runs/{id}/journal")).await.is(StatusCode::OK), "incomplete");
        }
        "state_bytes" => {
            to(1_024).await;
            let set = json!({"do": "state_set", "scope": "user", "key": "k", "zeros": 2_000});
            assert_eq!(user.probe(&set).await["error"], json!({"kind": "full", "limit": 1_024}));
        }
        "workspace_bytes" => {
            to(4_096).await;
            told(&user.probe(&json!({"do": "file_write", "path": "a", "text": "x".repeat(5_000)})).await, "4096");
            let put = user.request(Method::PUT, "/v1/files/a").body(vec![0; 5_000]).send().await.expect("answered");
            assert_eq!(put.status(), StatusCode::TOO_MANY_REQUESTS);
        }
        "workspace_files" => {
            to(1).await;
            let write = |path| json!({"do": "file_write", "path": path, "text": "x"});
            told(&last_of(&user, &[write("a"), write("b")]).await, "entries");
        }
        "scratch_bytes" => {
            to(4_096).await;
            let write = json!({"do": "std", "op": "write", "path": "/scratch/a", "text": "x".repeat(5_000)});
            told(&user.probe(&write).await, "error");
        }
        "scratch_files" => {
            to(1).await;
            let write = |path| json!({"do": "std", "op": "write", "path": path, "text": "x"});
            let both = user.probe(&json!({"do": "seq", "steps": [write("/scratch/a"), write("/scratch/b")]})).await;
            assert!(!both[0].to_string().contains("error") && both[1].to_string().contains("error"), "{both}");
        }
        "runs_stored" => {
            for n in 0..3 {
                user.finish(&json!({"agent": "echo", "input": n})).await;
            }
            to(1).await;
            kept(&user, 1).await;
        }
        "history_bytes" => {
            for _ in 0..3 {
                user.finish(&json!({"agent": "echo", "input": "x".repeat(20_000)})).await;
            }
            to(65_536).await;
            kept(&user, 1).await;
        }
        "history_days" => {
            ended_days_ago(server, &user, 2).await;
            user.finish(&json!({"agent": "echo", "input": 1})).await;
            kept(&user, 2).await;
            to(1).await;
            kept(&user, 1).await;
        }
        "failures_in_a_row" => {
            to(1).await;
            hostile(&user, json!({"scenario": "trap"}), none).await;
            let again = user.post("/v1/runs", &json!({"agent": "hostile", "input": {"scenario": "trap"}})).await;
            again.problem(429, "backing_off");
        }
        "run_input_bytes" => {
            to(1_024).await;
            let large = user.post("/v1/runs", &json!({"agent": "echo", "input": "x".repeat(2_000)})).await;
            told(&large.problem(413, "input_too_large"), "at most 1024");
        }
        "run_output_bytes" => {
            to(1_024).await;
            let run = hostile(&user, json!({"scenario": "giant_output", "bytes": 1_025}), none).await;
            assert_eq!(run["stop_reason"], "output_too_large", "{run}");
            told(&run["error"], "at most 1024");
        }
        "runs_waiting" => {
            to(1).await;
            let ask = json!({"do": "ask", "prompt": "?"});
            let first = user.submit(&json!({"agent": "probe", "input": ask})).await;
            while user.get(&format!("/v1/runs/{first}")).await.is(StatusCode::OK)["status"] != "waiting" {
                tokio::task::yield_now().await;
            }
            told(&last_of(&user, &[ask]).await, "1 runs of this user wait");
            cancel(&user, &first).await;
        }
        "wait_ms" => {
            to(1_000).await;
            told(&last_of(&user, &[json!({"do": "sleep_until", "in_ms": 5_000})]).await, "1000 ms");
        }
        "children_per_run" | "descendants_per_run" => {
            to(1).await;
            let child = json!({"do": "spawn", "agent": "echo", "input": 1});
            told(&last_of(&user, &[child.clone(), child]).await, "too_many");
        }
        "child_depth" => {
            to(1).await;
            let child = json!({"do": "spawn", "agent": "echo", "input": 1});
            told(&last_of(&user, &[json!({"do": "spawn", "agent": "probe", "input": child})]).await, "too_many");
        }
        "body_bytes_per_second" => {
            to(65_536).await;
            let begun = std::time::Instant::now();
            // Also where each comes after the one before has been answered.
            for bytes in [65_536, 16_384, 16_384, 16_384, 16_384] {
                let put = user.request(Method::PUT, "/v1/files/slow").body(vec![b'x'; bytes]);
                assert_eq!(put.send().await.expect("answered").status(), StatusCode::OK);
            }
            assert!(begun.elapsed() > Duration::from_millis(1_900), "{:?}", begun.elapsed());
        }
        "written_bytes_per_second" => {
            let text = "x".repeat(30_000);
            let key = |todo: &str| json!({"do": todo, "scope": "user", "key": "k", "text": text});
            let steps = [
                json!({"do": "thinking", "text": text}),
                key("state_set"),
                // The answer is in the record.
                json!({"do": "state_get", "scope": "user", "key": "k"}),
                json!({"do": "file_write", "path": "f", "text": text}),
                json!({"do": "std", "op": "write", "path": "/scratch/f", "text": text}),
            ];
            for step in steps {
                let user = server.trusted().await;
                let took = async || {
                    let begun = std::time::Instant::now();
                    last_of(&user, &[vec![key("state_set")], vec![step.clone(); 5]].concat()).await;
                    begun.elapsed()
                };
                let quick = took().await;
                set(server, &user, &json!({"written_bytes_per_second": 65_536})).await;
                let slow = took().await;
                assert!(slow > quick + Duration::from_millis(1_000), "{step}: {quick:?}, {slow:?}");
            }
            // What a run learns last it waits for, too, and leaves that to no other.
            let user = server.trusted().await;
            let large = json!({"do": "state_set", "scope": "user", "key": "k", "zeros": 200_000});
            last_of(&user, &[large]).await;
            set(server, &user, &json!({"written_bytes_per_second": 65_536})).await;
            let get = json!({"agent": "probe", "input": {"do": "state_get", "scope": "user", "key": "k"}});
            let run = user.finish(&get).await;
            assert!(run["usage"]["wall_ms"].as_u64() > Some(1_500), "{run}");
        }
        "sockets_at_once" => {
            to(1).await;
            let open = crate::sockets::Ws::open(&user, &server.app.url()).await;
            told(&crate::sockets::handshake(&user, "/v1/ws").await.problem(429, "too_many_sockets"), "1 sockets");
            drop(open);
        }
        other => panic!("nobody has written how a guest meets {other}"),
    }
}

/// Of two users who want as much, the one of a tenth of the weight is done last, though they came first.
async fn weight_is_met(server: &Server) {
    let (ann, bob) = (server.trusted().await, server.trusted().await);
    set(server, &bob, &json!({"cpu_weight": 10})).await;
    let burn = json!({"agent": "hostile", "input": {"scenario": "burn", "rounds": 200_000_000}});
    let (mut anns, mut bobs) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        bobs.push(bob.submit(&burn).await);
    }
    for _ in 0..3 {
        anns.push(ann.submit(&burn).await);
    }
    let finished = async |user: &User, ids: &[String]| {
        let mut times = Vec::new();
        for id in ids {
            let run = user.ended(id).await;
            assert_eq!(run["stop_reason"], "completed", "{run}");
            times.push(run["finished_at"].as_str().and_then(|at| at.parse::<jiff::Timestamp>().ok()).expect("a time"));
        }
        times
    };
    let (anns, bobs) = (finished(&ann, &anns).await, finished(&bob, &bobs).await);
    assert!(anns.iter().max() < bobs.iter().max(), "{anns:?} against {bobs:?} at a tenth of the weight");
}

/// A run of the user's that ended so many days ago.
async fn ended_days_ago(server: &Server, user: &User, days: i64) {
    let storage = server.app.runtime().storage();
    let owner: UserId = user.name.parse().expect("a user id");
    let scope = Operator::host().on_behalf_of(&owner);
    let (id, then) = (RunId::generate(), clock::now().checked_sub((days * 24).hours()).expect("a time"));
    let spec = RunSpec {
        id,
        user: owner,
        agent: "echo".parse().expect("a name"),
        digest: Digest::of(b""),
        request: RequestId::generate(),
        thread: ThreadId::of_run(id),
        session: None,
        parent: None,
        metadata: Json::empty_object(),
        input: Json::empty_object(),
        limits: Quota::default().narrow(LimitsAsked::default()).expect("the defaults"),
        priority: Priority::Normal,
        durability: Durability::Ephemeral,
        retries: None,
        created_at: then,
    };
    storage.insert_run(&scope, &spec, None).await.expect("kept");
    let batch = RunBatch {
        run: id,
        started_at: Some(then),
        attempt: None,
        effects: false,
        events: Vec::new(),
        chunks: Vec::new(),
        wait: None,
        start: None,
    };
    let end = RunEnd {
        stop_reason: StopReason::Completed,
        output: None,
        error: None,
        usage: Usage::default(),
        children: Children::default(),
        started_at: Some(then),
        finished_at: then,
    };
    storage.finish(&scope, batch, end).await.expect("kept");
}

#[test]
fn every_limit_that_can_be_set_is_met_by_a_guest() {
    // Destructured without a rest, so that a limit cannot be added without somebody looking here.
    let Quota {
        fuel_per_run: _,
        fuel_per_minute: _,
        memory_bytes_per_context: _,
        memory_bytes_per_user: _,
        deadline_ms: _,
        cpu_weight: _,
        runs_at_once: _,
        runs_queued: _,
        queue_wait_ms: _,
        children_per_run: _,
        descendants_per_run: _,
        child_depth: _,
        runs_waiting: _,
        wait_ms: _,
        tool_calls_per_run: _,
        tool_calls_in_flight: _,
        host_calls_per_run: _,
        events_per_run: _,
        event_bytes_per_run: _,
        log_bytes_per_run: _,
        record_bytes_per_run: _,
        state_bytes: _,
        workspace_bytes: _,
        workspace_files: _,
        scratch_bytes: _,
        scratch_files: _,
        runs_stored: _,
        history_bytes: _,
        history_days: _,
        failures_in_a_row: _,
        run_input_bytes: _,
        run_output_bytes: _,
        sockets_at_once: _,
        body_bytes_per_second: _,
        written_bytes_per_second: _,
    } = Quota::default();
    run(async {
        let server = Server::start().await;
        for row in Quota::ROWS {
            is_met(&server, row.name).await;
        }
        assert_eq!((server.app.runtime().host_panics(), server.app.panics()), (0, 0));
        assert_eq!(server.app.runtime().memory_bytes(), 0);
    });
}

#[test]
fn a_cut_reaches_runs_that_execute() {
    run(async {
        let server = Server::start().await;
        for (cut, input, end, word) in [
            (json!({"deadline_ms": 100}), json!({"scenario": "sleep_long"}), "deadline", "100 ms"),
            (json!({"fuel_per_run": 100_000}), json!({"scenario": "spin"}), "out_of_fuel", "lowered to 100000"),
            (json!({"host_calls_per_run": 100}), json!({"scenario": "spin_in_host_calls"}), "quota", "host calls"),
        ] {
            let ann = server.trusted().await;
            let id = ann.submit(&json!({"agent": "hostile", "input": input})).await;
            while ann.get(&format!("/v1/runs/{id}")).await.is(StatusCode::OK)["status"] == "queued" {
                tokio::task::yield_now().await;
            }
            set(&server, &ann, &cut).await;
            let run = tokio::time::timeout(Duration::from_secs(5), ann.ended(&id)).await.expect("it ends");
            assert_eq!(run["stop_reason"], end, "{cut}: {run}");
            told(&run["error"], word);
        }
    });
}

#[test]
fn who_writes_while_others_are_served_waits_and_is_given_that_time() {
    run(async {
        let server = Server::start().await;
        let (ann, bob) = (server.trusted().await, server.trusted().await);
        set(&server, &ann, &json!({"written_bytes_per_second": 8 << 20})).await;
        let write = json!({"do": "file_write", "path": "f", "text": "x".repeat(100_000)});
        let body = json!({
            "agent": "probe", "input": {"do": "seq", "steps": vec![write; 40]}, "limits": {"deadline_ms": 1_500}
        });
        // It writes 4 MB. An eighth of its pace is 1 MiB a second, of which one is for nothing.
        let asks = async {
            loop {
                bob.get("/v1/runs?limit=1").await.is(StatusCode::OK);
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let begun = std::time::Instant::now();
        let run = tokio::select! {
            run = ann.finish(&body) => run,
            () = asks => unreachable!("he asks without end"),
        };
        assert_eq!(run["stop_reason"], "completed", "{run}");
        assert!(begun.elapsed() > Duration::from_millis(1_600), "it did not wait: {:?}", begun.elapsed());
        assert!(run["usage"]["wall_ms"].as_u64() < Some(1_500), "{run}");
    });
}

#[test]
fn a_thousand_submissions_at_once_never_run_a_sixth() {
    run(async {
        let server = Arc::new(Server::start().await);
        server
            .operator
            .send(Method::PUT, "/v1/tiers/bulk", Some(&json!({"runs_queued": 1_000})))
            .await
            .is(StatusCode::OK);
        let ann = server.trusted().await;
        set(&server, &ann, &json!({"tier": "bulk"})).await;
        let done = Arc::new(AtomicBool::new(false));
        let watch = {
            let (server, done) = (server.clone(), done.clone());
            std::thread::spawn(move || {
                let mut most = 0;
                while !done.load(Ordering::Relaxed) {
                    most = most.max(server.app.runtime().runs_live());
                    std::thread::yield_now();
                }
                most
            })
        };
        let mut clients = tokio::task::JoinSet::new();
        for _ in 0..50 {
            let ann = ann.clone();
            clients.spawn(async move {
                let mut ids = Vec::new();
                for n in 0..20 {
                    ids.push(ann.submit(&json!({"agent": "echo", "input": n})).await);
                }
                for id in ids {
                    assert_eq!(ann.ended(&id).await["stop_reason"], "completed");
                }
            });
        }
        while let Some(client) = clients.join_next().await {
            client.expect("not panicked");
        }
        done.store(true, Ordering::Relaxed);
        let most = watch.join().expect("not panicked");
        assert!((1..=5).contains(&most), "{most} runs were live at once");
        assert_eq!((server.app.runtime().runs_live(), server.app.runtime().runs_queued()), (0, 0));
    });
}

#[test]
fn quotas_narrow_from_host_to_tier_to_user_and_outlive_a_restart() {
    run(async {
        let server = Server::start().await;
        let ann = server.trusted().await;
        let path = format!("/v1/users/{}/quota", ann.name);
        let of = async |server: &Server| server.operator.get(&path).await.is(StatusCode::OK);
        assert_eq!(of(&server).await["effective"]["runs_at_once"], 5);
        let tier = json!({"runs_at_once": 20, "cpu_weight": 300});
        let made = server.operator.send(Method::PUT, "/v1/tiers/pro", Some(&tier)).await.is(StatusCode::OK);
        assert_eq!((&made["runs_at_once"], &made["effective"]["runs_at_once"]), (&json!(20), &json!(20)));
        let put = set(&server, &ann, &json!({"tier": "pro", "runs_at_once": 10})).await;
        assert_eq!(
            (&put["tier"], &put["runs_at_once"], &put["effective"]["cpu_weight"]),
            (&json!("pro"), &json!(10), &json!(300))
        );
        // What was read can be sent back as it is.
        assert_eq!(set(&server, &ann, &put).await, put);
        // The user reads their own, and nobody else's.
        assert_eq!(ann.get(&path).await.is(StatusCode::OK), put);
        ann.get("/v1/users/somebody/quota").await.problem(404, "unknown_user");
        let server = server.restart().await;
        assert_eq!(of(&server).await, put);
        server.operator.send(Method::PUT, "/v1/tiers/pro", Some(&json!({"runs_at_once": 2}))).await.is(StatusCode::OK);
        assert_eq!(of(&server).await["effective"]["runs_at_once"], 2, "a cut of the tier cuts its users");
    });
}

#[test]
fn what_cannot_be_set_is_refused_with_field_value_and_range() {
    run(async {
        let server = Server::start().await;
        let ann = server.user("ann").await;
        let refused = async |quota: Value, status, code| {
            let answer = server.operator.send(Method::PUT, "/v1/users/ann/quota", Some(&quota)).await;
            answer.problem(status, code)
        };
        for row in Quota::ROWS {
            let name = row.name;
            for value in [0, row.floor - 1, row.default + 1, u64::MAX] {
                let problem = refused(json!({ name: value }), 422, "limit_out_of_range").await;
                assert_eq!(problem["field"], name, "{problem}");
                for part in [value.to_string(), format!("from {} to {}", row.floor, row.default)] {
                    told(&problem["detail"], &part);
                }
            }
            let tier = json!({ name: row.ceiling.saturating_add(1) });
            let over = server.operator.send(Method::PUT, "/v1/tiers/pro", Some(&tier)).await;
            told(&over.problem(422, "limit_out_of_range")["detail"], &row.ceiling.to_string());
            for value in [json!("5"), json!(null), json!(1.5), json!(-1), json!({})] {
                assert_eq!(refused(json!({ name: value }), 422, "invalid_limit").await["field"], name);
            }
        }
        told(&refused(json!({"fuel_per_runs": 1}), 422, "unknown_limit").await["detail"], "did you mean");
        told(&refused(json!({"tier": "gold"}), 422, "unknown_tier").await["detail"], "the tiers are default");
        refused(json!({"tier": "No Tier"}), 422, "invalid_id").await;
        refused(json!([1]), 422, "invalid_body").await;
        server.operator.get("/v1/tiers/gold").await.problem(404, "unknown_tier");
        // Nobody edits their own.
        let own = ann.send(Method::PUT, "/v1/users/ann/quota", Some(&json!({"runs_at_once": 1}))).await;
        own.problem(403, "operator_needed");
        ann.send(Method::PUT, "/v1/tiers/default", Some(&json!({"runs_at_once": 1})))
            .await
            .problem(403, "operator_needed");
        ann.get("/v1/tiers/default").await.problem(403, "operator_needed");
        assert_eq!(
            ann.get("/v1/users/ann/quota").await.json()["effective"],
            json!(Quota::default()),
            "nothing was set"
        );
    });
}

#[test]
fn a_change_by_who_has_not_seen_what_stands_is_refused() {
    run(async {
        let server = Server::start().await;
        for (path, change) in [
            ("/v1/users/ann/quota", json!({"runs_at_once": 2})),
            ("/v1/tiers/default", json!({"runs_queued": 50})),
            ("/v1/tiers/default", json!({})),
        ] {
            let put = async |tag: Option<&str>| {
                let request = server.operator.request(Method::PUT, path).json(&change);
                let request = match tag {
                    Some(tag) => request.header("if-match", tag),
                    None => request,
                };
                crate::server::Answer::of(request.send().await.expect("answered")).await
            };
            let seen = server.operator.get(path).await;
            let tag = seen.header("etag").expect("a version").to_owned();
            put(Some("\"0\"")).await.problem(412, "quota_changed");
            assert_eq!(server.operator.get(path).await.header("etag"), Some(tag.as_str()), "nothing was changed");
            let changed = put(Some(&tag)).await;
            changed.is(StatusCode::OK);
            assert_eq!(server.operator.get(path).await.header("etag"), changed.header("etag"));
            put(Some(&tag)).await.problem(412, "quota_changed");
            put(None).await.is(StatusCode::OK);
        }
        // Of two who have seen the same, one changes it.
        let tag = server.operator.get("/v1/users/bob/quota").await.header("etag").expect("a version").to_owned();
        let change = async |n: u32| {
            let request = server.operator.request(Method::PUT, "/v1/users/bob/quota").header("if-match", &tag);
            request.json(&json!({"runs_at_once": n})).send().await.expect("answered").status()
        };
        let mut both: [_; 2] = tokio::join!(change(1), change(2)).into();
        both.sort_unstable();
        assert_eq!(both, [StatusCode::OK, StatusCode::PRECONDITION_FAILED]);
    });
}

#[test]
fn a_runs_context_says_what_it_waits_for_and_what_becomes_of_it() {
    run(async {
        let server = Server::start().await;
        let ann = server.trusted().await;
        set(&server, &ann, &json!({"runs_at_once": 1, "fuel_per_minute": 100_000_000})).await;
        let status =
            async |id: &str| ann.get(&format!("/v1/runs/{id}")).await.is(StatusCode::OK)["context_status"].clone();
        let until = async |id: &str, wanted: &str| {
            let reached = async {
                while status(id).await != wanted {
                    tokio::task::yield_now().await;
                }
            };
            tokio::time::timeout(Duration::from_secs(10), reached).await.expect(wanted);
        };
        let first = staying(&ann).await;
        until(&first, "executing").await;
        let second = ann.submit(&json!({"agent": "echo", "input": 1})).await;
        until(&second, "initializing").await;
        cancel(&ann, &first).await;
        ann.ended(&second).await;
        until(&first, "cleaned").await;
        until(&second, "cleaned").await;
        // All of a minute's fuel is used up, and the next run waits for what comes.
        let spins = json!({"agent": "hostile", "input": {"scenario": "spin"}, "limits": {"fuel": 99_000_000}});
        assert_eq!(ann.finish(&spins).await["stop_reason"], "out_of_fuel");
        let waits = ann.submit(&json!({"agent": "echo", "input": 1, "limits": {"fuel": 50_000_000}})).await;
        until(&waits, "throttled").await;
        cancel(&ann, &waits).await;
        until(&waits, "cleaned").await;
        // One that wants less begins with the fuel that comes meanwhile, and says how long it waited for it.
        let begins = ann.submit(&json!({"agent": "echo", "input": 1, "limits": {"fuel": 5_000_000}})).await;
        until(&begins, "throttled").await;
        assert_eq!(ann.ended(&begins).await["stop_reason"], "completed");
        let events = ann.get(&format!("/v1/runs/{begins}/events")).await.json();
        let started = &events["events"][0];
        assert!(
            started["type"] == "agent_started" && started["payload"]["throttled_ms"].as_u64() > Some(0),
            "{started}"
        );
    });
}
