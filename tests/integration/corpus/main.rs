//! The corpus of hostile guests: what each tries, and that the host ends it in time, tells the truth about it, keeps
//! nothing of it, and goes on serving others meanwhile.
//!
//! The rows are in one file for each class. A row is a name, a guest and an end; what holds of every row is here. In a
//! process of its own, because the process's files, children and memory are counted, and its answers timed.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "tests: a surprise is a failure"
)]

mod abi;
mod calls;
mod component;
mod cpu;
mod crowd;
mod files;
mod load;
mod memory;
#[path = "../server.rs"]
#[allow(dead_code, reason = "shared with the other integration tests, which use all of it")]
mod server;
mod table;
mod upload;
mod wasi;

use cofferdam_core::{identity::Operator, ids::Digest, quota::Quota};
use futures_util::FutureExt as _;
use load::{Load, Process, Witness, resident_mib};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use server::{Answer, Server, User};
use std::{
    collections::BTreeMap,
    panic::AssertUnwindSafe,
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};
use table::{End, Guest, Scenario};

/// What the host may take to answer the cheapest question while hostile guests run, for all but one in a hundred.
const ANSWER_MAX: Duration = Duration::from_millis(50);
/// By how much the process may grow over the whole corpus, in MiB. Each of the guests that are uploaded stays loaded,
/// with its machine code and its types; the allocator keeps some of what large answers took.
const GROWTH_MIB_MAX: u64 = 96;
/// How long what a run held may take to come back after its end: a tool's sandbox is dropped by the next turn of the
/// async runtime, a connection by its peer.
const SETTLE_MAX: Duration = Duration::from_secs(1);
/// By how many files the process may differ from before, beside the one that each loaded plugin keeps open: the
/// connections of clients come and go.
const FILES_JITTER: usize = 8;

/// The corpus, by class.
fn classes() -> Vec<(&'static str, Vec<Scenario>)> {
    vec![
        ("upload", upload::scenarios()),
        ("cpu", cpu::scenarios()),
        ("memory", memory::scenarios()),
        ("abi", abi::scenarios()),
        ("host calls", calls::scenarios()),
        ("wasi", wasi::scenarios()),
        ("files", files::scenarios()),
        ("crowd", crowd::scenarios()),
    ]
}

/// What is told at the end.
#[derive(Default)]
struct Summary {
    classes: BTreeMap<&'static str, usize>,
    ends: BTreeMap<&'static str, usize>,
    worst_over_run: (u64, String),
    worst_cancel: (u64, String),
}

impl Summary {
    fn late(&mut self, name: &str, row: &Scenario, ms: u64) {
        let worst = if matches!(row.end, End::Cancelled) { &mut self.worst_cancel } else { &mut self.worst_over_run };
        if ms >= worst.0 {
            *worst = (ms, name.to_owned());
        }
    }
}

struct Corpus {
    server: Server,
    load: Load,
    witness: Witness,
    process: Process,
    /// Uploads that were taken since `process` was looked at. All of them stay loaded.
    taken: AtomicUsize,
}

#[test]
fn no_guest_of_the_corpus_outlasts_its_limits_or_disturbs_another() {
    // A name selects the rows that contain it, for whoever works on one of them.
    let only = std::env::var("CORPUS").unwrap_or_default();
    server::run(async {
        let server = Server::start_with(Quota {
            failures_in_a_row: u32::MAX,
            // Rows are timed, and not to wait for what the ones before have written.
            written_bytes_per_second: 16 << 30,
            ..Quota::default()
        })
        .await;
        let other = server.stranger().await;
        let load = Load::start(&other, server.app.url(), server.app.admin_url());
        // Not known before the warm-up.
        let process = Process { files: usize::MAX / 2, children: 0 };
        let mut corpus = Corpus { server, load, witness: Witness::start(), process, taken: AtomicUsize::new(0) };
        corpus.warm_up().await;
        let before = resident_mib();
        let begun = Instant::now();
        let (mut summary, mut failed) = (Summary::default(), Vec::new());
        for (class, scenarios) in classes() {
            for scenario in scenarios.iter().filter(|scenario| scenario.name.contains(&only)) {
                let checked = AssertUnwindSafe(corpus.check(class, scenario, &mut summary)).catch_unwind().await;
                // The others are looked at all the same: which rows fail together says more than the first of them.
                if checked.is_err() {
                    failed.push(format!("{class}: {}", scenario.name));
                }
            }
        }
        let (took, after) = (begun.elapsed(), resident_mib());
        let seen = corpus.load.end();
        let count: usize = summary.classes.values().sum();
        let p99 = seen.answers.per_mille(990);
        println!(
            "{count} hostile guests in {:.1} s: {:?}; ended as {:?}",
            took.as_secs_f64(),
            summary.classes,
            summary.ends
        );
        println!(
            "worst over-run {:?}; slowest cancel {:?}, in ms; the machine itself was late by {} ms at worst",
            summary.worst_over_run,
            summary.worst_cancel,
            corpus.witness.late_since(begun)
        );
        println!(
            "{} answers: p50 {:?}, p99 {p99:?}, max {:?}; {} ordinary runs: p50 {:?}, p99 {:?}, max {:?}",
            seen.answers.count(),
            seen.answers.per_mille(500),
            seen.answers.per_mille(1_000),
            seen.runs,
            seen.run_times.per_mille(500),
            seen.run_times.per_mille(990),
            seen.run_times.per_mille(1_000),
        );
        println!("resident memory: {before} MiB before, {after} MiB after");
        assert!(failed.is_empty(), "{} of {count} scenarios failed: {failed:#?}", failed.len());
        assert_eq!(seen.wrong, Vec::<String>::new(), "ordinary runs go on as if nobody else were there");
        if only.is_empty() {
            assert!(count >= 150, "{count} scenarios");
            assert!(p99 < ANSWER_MAX, "the host answered in {p99:?} (99 of 100)");
            assert!(after < before + GROWTH_MIB_MAX, "the process grew from {before} to {after} MiB");
        }
        corpus.server.app.shutdown().await;
    });
}

impl Corpus {
    /// The first runs of a process are not like the others: caches fill, threads and connections are opened.
    async fn warm_up(&mut self) {
        let rows = [
            table::wat("warms up", component::calm()).times(20).at_once(5),
            table::hostile("warms up", json!({"scenario": "grow"})),
            // The most that is in the air at once, so that the allocator has it: the clients are in this process too.
            table::hostile("warms up", json!({"scenario": "giant_output", "bytes": 4 << 20})).at_once(5),
            table::hostile("warms up", json!({"scenario": "event_flood", "count": 12, "bytes": 1 << 20})).at_once(5),
            table::hostile("warms up", json!({"scenario": "event_flood", "count": 1_000})).at_once(5),
        ];
        for row in &rows {
            self.check("warm-up", row, &mut Summary::default()).await;
        }
        self.load.warmed_up();
        self.process = Process::now();
        self.taken = AtomicUsize::new(0);
    }

    async fn check(&self, class: &'static str, row: &Scenario, summary: &mut Summary) {
        let name = format!("{class}: {}", row.name);
        *summary.classes.entry(class).or_default() += 1;
        *summary.ends.entry(row.end.word()).or_default() += 1;
        let agent = match (&row.guest, &row.end) {
            (Guest::Hostile, _) => Some("hostile".to_owned()),
            (Guest::Bytes(bytes), _) => self.upload(&name, bytes.clone(), row).await,
            (Guest::Core(core), _) => self.upload(&name, core.build(), row).await,
        };
        if let Some(agent) = agent {
            let user = self.user(&agent, row.granted).await;
            let body = json!({"agent": agent, "input": row.input, "limits": row.limits()});
            for _ in 0..row.times {
                let runs = (0..row.at_once).map(|_| run(&name, &user, &body, row, &self.witness));
                for late_ms in futures_util::future::join_all(runs).await {
                    summary.late(&name, row, late_ms);
                }
            }
        }
        self.settled(&name).await;
    }

    /// Uploads a component, and gives the name that it runs by if it is taken, as it should be.
    async fn upload(&self, name: &str, component: Vec<u8>, row: &Scenario) -> Option<String> {
        let digest = Digest::of(&component).to_string();
        let begun = Instant::now();
        let answer = self.server.operator.push("corpus", component).await;
        let End::Refused(code) = row.end else {
            assert!(answer.status.is_success(), "{name}: the upload was refused: {}", answer.text);
            self.taken.fetch_add(1, Ordering::Relaxed);
            return Some(format!("corpus@{digest}"));
        };
        let problem = answer.problem(422, code);
        let detail = problem["detail"].as_str().expect("a text");
        assert!(!detail.contains("limits."), "{name}: an upload has no limits to raise: {detail}");
        // Longest takes a guest that sleeps when it is asked what it is, which it may for 5 s.
        assert!(begun.elapsed() < Duration::from_secs(6), "{name}: refused after {:?}", begun.elapsed());
        None
    }

    /// A fresh user, so that what the host holds against a user of failing runs is not in the way. All of them come over
    /// the connections of one client.
    async fn user(&self, agent: &str, granted: bool) -> User {
        let fresh = self.server.stranger().await;
        let mut user = self.server.operator.clone();
        (user.name, user.key) = (fresh.name, fresh.key);
        if granted {
            let plugin = agent.split('@').next().unwrap_or(agent);
            let all = json!({"tools": ["*"], "state": "read_write", "workspace": "read_write"});
            self.server.grant(&user, plugin, &all).await;
        }
        user
    }

    /// Checks that nothing of a scenario is left.
    async fn settled(&self, name: &str) {
        let _quiet = self.load.quiet().await;
        let runtime = self.server.app.runtime();
        let begun = Instant::now();
        loop {
            let process = Process::now();
            let held = (runtime.runs_live(), runtime.runs_queued(), runtime.sandboxes_open(), runtime.memory_bytes());
            let plugins = self.taken.load(Ordering::Relaxed);
            let files_back = process.files <= self.process.files + plugins + FILES_JITTER;
            let scratch = std::fs::read_dir(self.server.dir.path().join("scratch")).map_or(0, Iterator::count);
            if held == (0, 0, 0, 0) && scratch == 0 && files_back && process.children == self.process.children {
                break;
            }
            assert!(
                begun.elapsed() < SETTLE_MAX,
                "{name}: left behind (runs, queued, sandboxes, bytes) {held:?}, {scratch} scratch directories, {process:?} instead of {:?} and {plugins} plugins",
                self.process
            );
            // A round trip through the host is the pause between two looks: it gives way to whatever still has to end.
            self.server.operator.get("/v1/plugins/echo").await.is(StatusCode::OK);
        }
        let unfinished = runtime.storage().unfinished_runs(Operator::host()).await.expect("storage answers");
        assert!(unfinished.is_empty(), "{name}: {unfinished:?}");
        assert_eq!((runtime.host_panics(), self.server.app.panics()), (0, 0), "{name}: the host panicked");
    }
}

/// Runs a guest, checks all that holds of every run, and gives how late its end was, in milliseconds.
async fn run(name: &str, user: &User, body: &Value, row: &Scenario, witness: &Witness) -> u64 {
    let begun = Instant::now();
    let (run, since_cancel) = match row.end {
        End::Cancelled => cancelled(user, body).await,
        _ => (user.finish(body).await, 0),
    };
    let reason = row.end.word();
    assert_eq!(run["stop_reason"], reason, "{name}: {run}");
    let usage = &run["usage"];
    for figure in ["fuel", "memory_peak_bytes", "wall_ms", "active_ms", "host_calls", "events"] {
        assert!(usage[figure].is_u64(), "{name}: {figure} is not told: {run}");
    }
    let wall = usage["wall_ms"].as_u64().expect("a number");
    let late_ms = wall.saturating_sub(row.deadline_ms).max(since_cancel);
    // What the machine gave to others meanwhile is not the host's.
    let machine_ms = witness.late_since(begun);
    let late_max = row.over_run_ms_max + machine_ms;
    assert!(late_ms <= late_max, "{name}: over {late_ms} ms too late, on a machine late by {machine_ms}: {run}");
    assert!(reason != "deadline" || wall >= row.deadline_ms, "{name}: ended before its deadline: {run}");
    let fuel_max = row.limits.get("fuel").and_then(Value::as_u64).unwrap_or(10_000_000_000);
    let fuel = usage["fuel"].as_u64().expect("a number");
    assert!(fuel <= fuel_max, "{name}: {run}");
    // Three kinds of guests may not get as far as their first instruction: one that begins with too much memory, one
    // that has hardly any time, and one that is cancelled at once.
    let begins = reason != "memory_limit" && reason != "cancelled" && row.deadline_ms >= 50;
    assert!(fuel > 0 || !begins, "{name}: {run}");
    let memory_max = row.limits.get("memory_bytes").and_then(Value::as_u64).unwrap_or(256 << 20);
    assert!(usage["memory_peak_bytes"].as_u64().expect("a number") <= memory_max, "{name}: {run}");
    if reason == "completed" {
        assert_eq!(run["error"], Value::Null, "{name}: {run}");
        assert!(!matches!(row.guest, Guest::Core(_)) || run["output"] == "ok", "{name}: {run}");
    } else {
        let message = run["error"]["message"].as_str().unwrap_or_default();
        assert!(!message.is_empty() && message.len() <= 5 << 10, "{name}: {run}");
    }
    let events = user.events(run["id"].as_str().expect("an id")).await;
    let numbers: Vec<_> = events.iter().map(|event| event["seq"].as_u64().expect("a number")).collect();
    assert!(numbers.iter().copied().eq(1..=events.len() as u64), "{name}: the log has a hole: {numbers:?}");
    let is_end = |event: &&Value| event["type"] == "agent_completed" || event["type"] == "agent_error";
    assert_eq!(events.iter().filter(is_end).count(), 1, "{name}: one terminal event");
    let last = &events.last().expect("an event")["payload"];
    assert_eq!((&last["usage"], events.len() as u64), (usage, usage["events"].as_u64().expect("a number")), "{name}");
    assert!(reason == "completed" || last["stop_reason"] == reason, "{name}: {last}");
    late_ms
}

/// Submits a run, cancels it once it has begun, and gives its end and how long that took in milliseconds.
async fn cancelled(user: &User, body: &Value) -> (Value, u64) {
    let id = user.submit(body).await;
    let stream = user.request(Method::GET, &format!("/v1/runs/{id}/events")).header("accept", "text/event-stream");
    let mut stream = stream.send().await.expect("answered");
    // The first event is that the run has begun.
    let begun = stream.chunk().await.expect("a stream").expect("an event");
    assert!(begun.windows(13).any(|word| word == b"agent_started"), "{begun:?}");
    drop(stream);
    let begun = Instant::now();
    let cancel = user.request(Method::POST, &format!("/v1/runs/{id}/cancel"));
    Answer::of(cancel.send().await.expect("answered")).await.is(StatusCode::OK);
    let run = user.ended(&id).await;
    (run, u64::try_from(begun.elapsed().as_millis()).expect("short"))
}
