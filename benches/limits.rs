//! How well the limits hold while they are met: how soon a cancelled guest has stopped, what uploads cost beside hostile
//! ones, whether hostile uploads leave anything in the host's memory.
//!
//! Over a real server on loopback, with real components and a real client. Each figure stands beside its target; a figure
//! beyond its target fails the benchmark.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::cast_possible_truncation,
    clippy::indexing_slicing,
    reason = "a benchmark fails loudly, and prints"
)]

mod figures;

use cofferdam_core::quota::Quota;
use cofferdam_server::{
    App,
    config::{Config, SocketTimes},
};
use figures::{asked, percentile, row};
use reqwest::{Client, Method, StatusCode};
use serde_json::{Value, json};
use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use wasm_encoder::{
    CodeSection, Component, CustomSection, Function, FunctionSection, Module, ModuleSection, TypeSection, ValType,
};

/// Guests that are cancelled, of each kind.
const CANCELS: usize = 200;
/// Uploads measured, without and with hostile ones beside them.
const UPLOADS: usize = 60;
/// Hostile uploads over which the host's memory is watched.
const BOMBS: u64 = 100;

fn guest(name: &str) -> Vec<u8> {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("a target directory");
    let path = target.join(format!("guests/{name}.wasm"));
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}; run `cargo xtask bench`, which builds it", path.display()))
}

/// A component that no host has seen yet: the same, with a number in a custom section.
fn fresh(component: &[u8]) -> Vec<u8> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed).to_le_bytes();
    let mut bytes = component.to_vec();
    wasm_encoder::Encode::encode(&wasm_encoder::ComponentSectionId::CoreCustom, &mut bytes);
    wasm_encoder::Encode::encode(&CustomSection { name: "number".into(), data: (&number[..]).into() }, &mut bytes);
    bytes
}

/// Small to send and slow to compile: functions that move values among many locals, over and over.
fn bomb() -> Vec<u8> {
    let (mut types, mut declared, mut code) = (TypeSection::new(), FunctionSection::new(), CodeSection::new());
    types.ty().function([], []);
    for _ in 0..8 {
        declared.function(0);
        let mut body = Function::new([(2_000, ValType::I64)]);
        let mut at = 1_u32;
        for _ in 0..20_000 {
            at = at.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let (from, to) = ((at >> 8) % 2_000, (at >> 20) % 2_000);
            body.instructions().block(wasm_encoder::BlockType::Empty).local_get(from).local_get(to).i64_add();
            body.instructions().local_tee(to).i32_wrap_i64().br_if(0).end();
        }
        body.instructions().end();
        code.function(&body);
    }
    let mut module = Module::new();
    module.section(&types).section(&declared).section(&code);
    let mut component = Component::new();
    component.section(&ModuleSection(&module));
    component.finish()
}

struct Server {
    app: App,
    url: String,
    client: Client,
    operator: String,
    _dir: tempfile::TempDir,
}

impl Server {
    async fn start() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let free = "127.0.0.1:0".parse().expect("an address");
        let config = Config {
            data_dir: Some(dir.path().to_owned()),
            listen: free,
            admin_listen: free,
            dev: true,
            drain_wait: Duration::from_secs(10),
            compile_worker: PathBuf::from(env!("CARGO_BIN_EXE_cofferdam")),
            quota: Quota { failures_in_a_row: u32::MAX, ..Quota::default() },
            runs_live_max: 64,
            socket_times: SocketTimes::default(),
        };
        let app = App::start(config).await.expect("started");
        let (url, operator) = (app.url(), app.admin_key().expect("a dev server").to_owned());
        Self { app, url, client: Client::new(), operator, _dir: dir }
    }

    async fn send(&self, key: &str, method: Method, path: &str, body: &Value) -> Value {
        let request = self.client.request(method, format!("{}{path}", self.url)).bearer_auth(key).json(body);
        let answer = request.send().await.expect("answered");
        assert!(answer.status().is_success(), "{path}: {}", answer.text().await.expect("a body"));
        answer.json().await.expect("JSON")
    }

    async fn key(&self, body: &Value) -> String {
        let made = self.send(&self.operator, Method::POST, "/v1/keys", body).await;
        made["api_key"].as_str().expect("a key").to_owned()
    }

    /// Pushes a component, and gives the status and how long it took.
    async fn push(&self, key: &str, name: &str, component: Vec<u8>) -> (StatusCode, Duration) {
        let begun = Instant::now();
        let request = self.client.put(format!("{}/v1/plugins/{name}", self.url)).bearer_auth(key);
        let request = request.header("content-type", "application/wasm").body(component);
        let answer = request.send().await.expect("answered");
        let status = answer.status();
        let _ = answer.bytes().await.expect("a body");
        (status, begun.elapsed())
    }
}

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or("0");
    line.split_whitespace().next().and_then(|kib| kib.parse().ok()).unwrap_or(0)
}

/// From the client's cancel to the end of the run, as the client sees it.
async fn cancels(server: &Server) {
    server.push(&server.operator, "hostile", guest("hostile")).await;
    let ann = server.key(&json!({"user": "ann"})).await;
    for scenario in ["spin", "spin_in_host_calls", "sleep_long"] {
        let mut times = Vec::new();
        for _ in 0..CANCELS {
            let body = json!({"agent": "hostile", "input": {"scenario": scenario}});
            let id = server.send(&ann, Method::POST, "/v1/runs", &body).await["id"].as_str().expect("an id").to_owned();
            // What is cancelled has begun.
            while server.send_get(&ann, &id).await["status"] == "queued" {}
            let begun = Instant::now();
            let ended = server.send(&ann, Method::POST, &format!("/v1/runs/{id}/cancel"), &json!({})).await;
            times.push(begun.elapsed());
            assert_eq!(ended["stop_reason"], "cancelled", "{ended}");
        }
        println!("cancel to stopped, {scenario}: p50 {:.1} ms", percentile(&mut times, 50));
        row(&format!("cancel to stopped, {scenario}, p99 of {CANCELS}"), percentile(&mut times, 99), "ms", Some(50.0));
    }
}

impl Server {
    async fn send_get(&self, key: &str, id: &str) -> Value {
        let request = self.client.get(format!("{}/v1/runs/{id}", self.url)).bearer_auth(key);
        request.send().await.expect("answered").json().await.expect("JSON")
    }

    async fn uploads(&self, key: &str) -> Vec<Duration> {
        let component = guest("probe");
        let mut times = Vec::new();
        for _ in 0..UPLOADS {
            let (status, took) = self.push(key, "normal", fresh(&component)).await;
            assert_eq!(status, StatusCode::CREATED);
            times.push(took);
        }
        times
    }
}

/// One author's uploads, alone and while another sends what is slow to compile.
async fn uploads(server: Arc<Server>) {
    let author = server.key(&json!({"user": "author", "role": "operator"})).await;
    let attacker = server.key(&json!({"user": "attacker", "role": "operator"})).await;
    server.uploads(&author).await;
    let mut alone = server.uploads(&author).await;
    let bomb = bomb();
    let (status, took) = server.push(&attacker, "bomb", fresh(&bomb)).await;
    println!("a bomb has {} KiB, and ends as {status} after {:.0} ms", bomb.len() >> 10, took.as_secs_f64() * 1e3);
    let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let bombers: Vec<_> = (0..4)
        .map(|_| {
            let (server, attacker, bomb) = (server.clone(), attacker.clone(), bomb.clone());
            let (stop, sent) = (stop.clone(), sent.clone());
            tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    let (status, _) = server.push(&attacker, "bomb", fresh(&bomb)).await;
                    assert_ne!(status, StatusCode::INTERNAL_SERVER_ERROR);
                    sent.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    let mut beside = server.uploads(&author).await;
    let before = (resident_kib(), sent.load(Ordering::Relaxed));
    while sent.load(Ordering::Relaxed) < before.1 + BOMBS {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let after = resident_kib();
    stop.store(true, Ordering::Relaxed);
    for bomber in bombers {
        bomber.await.expect("not panicked");
    }
    let (alone_p99, beside_p99) = (percentile(&mut alone, 99), percentile(&mut beside, 99));
    println!("upload of a 580 KB agent, alone: p50 {:.0} ms, p99 {alone_p99:.0} ms", percentile(&mut alone, 50));
    println!("upload beside bombs: p50 {:.0} ms, p99 {beside_p99:.0} ms", percentile(&mut beside, 50));
    row("upload beside bombs against alone, p99", beside_p99 / alone_p99, "x", Some(3.0));
    let grown = after.saturating_sub(before.0) as f64 / 1024.0;
    println!("resident memory before {BOMBS} bombs: {} MiB, after: {} MiB", before.0 >> 10, after >> 10);
    row("growth of the host's resident memory over the bombs", grown, "MiB", Some(16.0));
}

fn main() {
    let tokio = tokio::runtime::Runtime::new().expect("a runtime");
    tokio.block_on(async {
        let server = Arc::new(Server::start().await);
        println!();
        if asked("cancels") {
            cancels(&server).await;
        }
        if asked("uploads") {
            uploads(server.clone()).await;
        }
        assert_eq!((server.app.runtime().host_panics(), server.app.panics()), (0, 0));
    });
}
