//! What it costs that runs outlive their host: durable calls against ephemeral ones, bringing back a run with a long record,
//! a hundred thousand runs that wait, and a replay against the original.
//!
//! Over a real server on loopback, with real components and a real client.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::indexing_slicing,
    reason = "a benchmark fails loudly, and prints"
)]

mod figures;

use cofferdam_core::{
    Json, clock,
    identity::Operator,
    ids::{AgentRef, Digest, Pick, RequestId, RunId, ThreadId, UserId},
    quota::{Quota, RunLimits},
    run::{Durability, Priority, RunSpec},
    storage::RunBatch,
    wait::{TakenBefore, Wait, WaitFor},
};
use cofferdam_server::{
    App,
    config::{Config, SocketTimes},
};
use figures::{asked, percentile, row};
use jiff::ToSpan as _;
use reqwest::{Client, Method};
use serde_json::{Value, json};
use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// Calls of a run in which they are counted, and runs of each kind.
const CALLS: usize = 400;
const RUNS: usize = 7;
/// Entries in the record of the run that is brought back, about.
const RECORDS: usize = 10_000;
/// Runs that wait at the same time.
const WAITING: usize = 100_000;
/// How often each thing is asked for while they wait.
const ASKED: usize = 200;

fn guest(name: &str) -> Vec<u8> {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("a target directory");
    let path = target.join(format!("guests/{name}.wasm"));
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}; run `cargo xtask bench`, which builds it", path.display()))
}

struct Server {
    app: App,
    url: String,
    client: Client,
    key: String,
    _dir: tempfile::TempDir,
}

impl Server {
    async fn start() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let free = "127.0.0.1:0".parse().expect("an address");
        let most = Quota {
            host_calls_per_run: 100_000_000,
            record_bytes_per_run: 1 << 30,
            runs_waiting: 1_000_000,
            ..Quota::default()
        };
        let config = Config {
            data_dir: Some(dir.path().to_owned()),
            listen: free,
            admin_listen: free,
            dev: true,
            drain_wait: Duration::from_secs(10),
            compile_worker: PathBuf::from(env!("CARGO_BIN_EXE_cofferdam")),
            quota: most,
            runs_live_max: 64,
            socket_times: SocketTimes::default(),
        };
        let app = App::start(config).await.expect("started");
        let (url, operator) = (app.url(), app.admin_key().expect("a dev server").to_owned());
        let key = app.api_key().expect("a dev server").to_owned();
        let server = Self { app, url, client: Client::new(), key, _dir: dir };
        for name in ["probe", "echo"] {
            let request = server.client.put(format!("{}/v1/plugins/{name}", server.url)).bearer_auth(&operator);
            let request = request.header("content-type", "application/wasm").body(guest(name));
            assert!(request.send().await.expect("answered").status().is_success());
        }
        let grant = json!({"tools": ["*"], "state": "read_write", "human": true});
        let request = server.client.put(format!("{}/v1/users/dev/grants/probe", server.url)).bearer_auth(&operator);
        assert!(request.json(&grant).send().await.expect("answered").status().is_success());
        server
    }

    async fn send(&self, method: Method, path: &str, body: Option<&Value>) -> Value {
        let request = self.client.request(method, format!("{}{path}", self.url)).bearer_auth(&self.key);
        let request = match body {
            Some(body) => request.header("prefer", "wait=60").json(body),
            None => request,
        };
        let answer = request.send().await.expect("answered");
        assert!(answer.status().is_success(), "{path}: {}", answer.text().await.expect("a body"));
        answer.json().await.expect("JSON")
    }

    async fn run(&self, durability: &str, steps: &[Value]) -> Value {
        let body = json!({"agent": "probe", "durability": durability, "input": {"do": "seq", "steps": steps}});
        let run = self.send(Method::POST, "/v1/runs", Some(&body)).await;
        assert_eq!(run["stop_reason"], "completed", "{run}");
        run
    }

    async fn wait_for(&self, id: &str, status: &str) -> Value {
        loop {
            let run = self.send(Method::GET, &format!("/v1/runs/{id}"), None).await;
            if run["status"] == status {
                return run;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or("0");
    line.split_whitespace().next().and_then(|kib| kib.parse().ok()).unwrap_or(0)
}

/// A run of so many calls, durable and not, one after the other.
async fn calls(server: &Server) {
    for (name, step) in [
        ("state.get", json!({"do": "state_get", "scope": "user", "key": "k"})),
        ("state.set", json!({"do": "state_set", "scope": "user", "key": "k", "text": "v"})),
        ("file.write", json!({"do": "file_write", "path": "a.txt", "text": "v"})),
        ("events.thinking", json!({"do": "thinking", "text": "well"})),
    ] {
        let steps = vec![step; CALLS];
        let mut medians = [0.0; 2];
        for (durability, median) in ["ephemeral", "durable"].iter().zip(&mut medians) {
            let mut times = Vec::new();
            for _ in 0..RUNS {
                let begun = Instant::now();
                server.run(durability, &steps).await;
                times.push(begun.elapsed() / CALLS as u32);
            }
            *median = percentile(&mut times, 50) * 1e3;
        }
        let [ephemeral, durable] = medians;
        println!("{name}: {ephemeral:.0} us a call, durable {durable:.0} us");
        row(&format!("{name}, durable against ephemeral"), durable / ephemeral, "x", None);
    }
}

/// A run with a long record asks a person, is brought back, and is replayed.
async fn long_record(server: &Server) {
    let mut steps = vec![json!({"do": "state_get", "scope": "user", "key": "k"}); RECORDS];
    steps.push(json!({"do": "ask", "prompt": "go on?"}));
    let body = json!({"agent": "probe", "durability": "durable", "input": {"do": "seq", "steps": steps}});
    let client = server.client.post(format!("{}/v1/runs", server.url)).bearer_auth(&server.key).json(&body);
    let begun = Instant::now();
    let id: Value = client.send().await.expect("answered").json().await.expect("JSON");
    let id = id["id"].as_str().expect("an id").to_owned();
    server.wait_for(&id, "waiting").await;
    println!("{RECORDS} calls, until the run waits: {:.0} ms", begun.elapsed().as_secs_f64() * 1e3);
    let begun = Instant::now();
    server.send(Method::POST, &format!("/v1/runs/{id}/input"), Some(&json!({"answer": true}))).await;
    let run = server.wait_for(&id, "succeeded").await;
    row(
        &format!("a run of {RECORDS} records, from its answer to its end"),
        begun.elapsed().as_secs_f64() * 1e3,
        "ms",
        None,
    );
    let plain = server.run("ephemeral", &steps[..RECORDS]).await;
    for run in [run, plain] {
        let id = run["id"].as_str().expect("an id");
        let replay = server.send(Method::POST, &format!("/v1/runs/{id}/replay"), None).await;
        assert_eq!(replay["same"], true, "{replay}");
        let (replayed, original) = (
            replay["elapsed_us"].as_f64().expect("a number") / 1e3,
            run["usage"]["wall_ms"].as_f64().expect("a number"),
        );
        println!("{} calls, replayed: {replayed:.0} ms; the original: {original:.0} ms", replay["calls"]);
        row("speed of a replay against the original", original / replayed, "x", None);
    }
}

fn waiting_run(user: &UserId, digest: Digest) -> RunSpec {
    let id = RunId::generate();
    RunSpec {
        id,
        user: user.clone(),
        agent: "echo".parse().expect("a name"),
        digest,
        request: RequestId::generate(),
        thread: ThreadId::of_run(id),
        session: None,
        parent: None,
        metadata: Json::empty_object(),
        input: Json::parse("1").expect("JSON"),
        limits: RunLimits { fuel: 1_000_000_000, memory_bytes: 64 << 20, deadline_ms: 60_000 },
        priority: Priority::Normal,
        durability: Durability::Ephemeral,
        retries: None,
        created_at: clock::now(),
    }
}

/// Many runs that wait: what they hold, and how soon one of them is found.
async fn many_wait(server: &Server) {
    let storage = server.app.runtime().storage().clone();
    let user: UserId = "dev".parse().expect("a user");
    let scope = Operator::host().on_behalf_of(&user);
    let agent = AgentRef { name: "echo".parse().expect("a name"), pick: Pick::Latest };
    let digest = server.app.runtime().registry().versions(&agent.name).last().expect("it was pushed").digest;
    let before = resident_kib();
    let begun = Instant::now();
    let mut inserting = tokio::task::JoinSet::new();
    for part in 0..100 {
        let (storage, scope, user) = (storage.clone(), scope.clone(), user.clone());
        inserting.spawn(async move {
            for n in 0..WAITING / 100 {
                let spec = waiting_run(&user, digest);
                storage.insert_run(&scope, &spec, None).await.expect("kept");
                let far = clock::now().checked_add(24.hours()).expect("a time");
                let schema = Json::parse("true").expect("JSON");
                let waits_for = WaitFor::Human { prompt: format!("go on, {part} {n}?"), schema, default: None };
                let taken = TakenBefore::default();
                let wait = Wait { call: 1, waits_for, since: clock::now(), until: Some(far), taken, told: None };
                let (events, chunks) = (Vec::new(), Vec::new());
                let started_at = Some(clock::now());
                let (effects, attempt, start, wait) = (false, None, None, Some(wait));
                let batch = RunBatch { run: spec.id, started_at, attempt, effects, events, chunks, wait, start };
                storage.append(&scope, batch).await.expect("kept");
            }
        });
    }
    while let Some(inserted) = inserting.join_next().await {
        inserted.expect("kept");
    }
    println!("{WAITING} runs that wait, kept in {:.1} s", begun.elapsed().as_secs_f64());
    let grown = resident_kib().saturating_sub(before) as f64;
    row("resident memory of the host for each run that waits", grown * 1024.0 / WAITING as f64, "bytes", Some(200.0));
    let mut times = Vec::new();
    let mut page = json!(null);
    for _ in 0..ASKED {
        let begun = Instant::now();
        page = server.send(Method::GET, "/v1/runs?status=waiting&limit=100", None).await;
        times.push(begun.elapsed());
    }
    println!("a page of 100 of them: p50 {:.2} ms", percentile(&mut times, 50));
    row("a page of 100 of the runs that wait, p99", percentile(&mut times, 99), "ms", None);
    let (mut answers, mut ends) = (Vec::new(), Vec::new());
    for waiting in page["runs"].as_array().expect("runs") {
        let id = waiting["id"].as_str().expect("an id");
        let begun = Instant::now();
        server.send(Method::POST, &format!("/v1/runs/{id}/input"), Some(&json!({"answer": true}))).await;
        answers.push(begun.elapsed());
        server.wait_for(id, "succeeded").await;
        ends.push(begun.elapsed());
    }
    println!(
        "answer to one of them: p50 {:.2} ms, to its end {:.2} ms",
        percentile(&mut answers, 50),
        percentile(&mut ends, 50)
    );
    row("answer to one of the runs that wait, p99", percentile(&mut answers, 99), "ms", None);
    let mut late = Vec::new();
    for _ in 0..20 {
        let body = json!({"agent": "probe", "input": {"do": "sleep_until", "in_ms": 1_500}});
        let run = server.send(Method::POST, "/v1/runs", Some(&body)).await;
        assert_eq!(run["stop_reason"], "completed", "{run}");
        let at = |name: &str| run[name].as_str().expect("a time").parse::<jiff::Timestamp>().expect("a time");
        let took = Duration::try_from(at("finished_at").duration_since(at("started_at"))).expect("forwards");
        late.push(took.checked_sub(Duration::from_millis(1_500)).expect("it has slept"));
    }
    println!("a sleep of 1.5 s beside them: late by p50 {:.1} ms", percentile(&mut late, 50));
    row("a sleep of 1.5 s beside them: late by, p99", percentile(&mut late, 99), "ms", None);
}

fn main() {
    let tokio = tokio::runtime::Runtime::new().expect("a runtime");
    tokio.block_on(async {
        let server = Server::start().await;
        println!();
        if asked("calls") {
            calls(&server).await;
        }
        if asked("long_record") {
            long_record(&server).await;
        }
        if asked("many_wait") {
            many_wait(&server).await;
        }
        assert_eq!((server.app.runtime().host_panics(), server.app.panics()), (0, 0));
    });
}
