//! What the host costs: a run through the spine against bare wasmtime, in one process, in one run.
//!
//! The baseline opens a store, instantiates, calls and drops: same component, same pooling allocator, same fuel, no
//! epochs, imports that do nothing. It is measured beside the others, and the last lines are the ratios. What the spine with
//! storage in memory may cost against it is measured once more, in turns, and fails the benchmark beyond the target.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::cast_possible_truncation,
    reason = "a benchmark fails loudly, opens bare stores to compare with, and prints"
)]

use cofferdam_core::{
    identity::Operator,
    run::StopReason,
    storage::{MemoryStorage, Storage},
};
use cofferdam_server::storage::sqlite::SqliteStorage;
use criterion::Criterion;
use embedded::{Bare, Host, own_bytes};
use std::{
    path::Path,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

mod embedded;

const INPUT: &str = r#"{"question":"what does the host cost?","numbers":[1,2,3]}"#;

/// A component that `cargo xtask guests` built.
fn guest(name: &str) -> Vec<u8> {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("a target directory");
    let path = target.join(format!("guests/{name}.wasm"));
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}; run `cargo xtask bench`, which builds it", path.display()))
}

/// Accept, queue, admit, execute, close, in a task of its own, as the server does.
async fn accepted(host: &Host, agent: &str, input: &str) {
    let accepted = host.runtime.accept(&host.scope, Host::submission(agent, input)).await.expect("accepted");
    assert_eq!(accepted.ended().await.stop_reason, Some(StopReason::Completed));
}

/// Time per run of each row, over all of criterion's samples.
#[derive(Default)]
struct Rows(Mutex<Vec<(&'static str, Vec<f64>)>>);

impl Rows {
    fn add(&self, name: &'static str, runs: u64, took: Duration) {
        let mut rows = self.0.lock().expect("not poisoned");
        let per_run = took.as_secs_f64() * 1e6 / runs as f64;
        match rows.iter_mut().find(|(row, _)| *row == name) {
            Some((_, samples)) => samples.push(per_run),
            None => rows.push((name, vec![per_run])),
        }
    }

    fn print(&self) {
        let rows = self.0.lock().expect("not poisoned");
        let median = |samples: &[f64]| {
            let mut sorted = samples.to_vec();
            sorted.sort_by(f64::total_cmp);
            sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
        };
        let baseline = rows.first().map_or(f64::NAN, |(_, samples)| median(samples));
        println!("\n{:<44} {:>12} {:>8}", "per run, median of samples", "µs", "ratio");
        for (name, samples) in rows.iter() {
            let time = median(samples);
            println!("{name:<44} {time:>12.1} {:>8.2}", time / baseline);
        }
    }
}

/// What a run through the spine, with storage in memory, may cost against bare wasmtime.
const RATIO_MAX: f64 = 1.3;

/// How often the two are measured one after the other, and how many runs of each at once.
const ROUNDS: usize = 100;
const ROUND_RUNS: u32 = 500;

/// The spine against bare wasmtime, in turns, so that what else the machine does slows both: the median of the rounds.
async fn against_bare(bare: &Bare, host: &Host) {
    let mut ratios = Vec::new();
    for _ in 0..ROUNDS {
        let begun = Instant::now();
        for _ in 0..ROUND_RUNS {
            assert_eq!(bare.run(INPUT).await, INPUT);
        }
        let bare_took = begun.elapsed();
        let begun = Instant::now();
        for _ in 0..ROUND_RUNS {
            host.here("echo", INPUT).await;
        }
        ratios.push(begun.elapsed().as_secs_f64() / bare_took.as_secs_f64());
    }
    ratios.sort_by(f64::total_cmp);
    let ratio = ratios.get(ROUNDS / 2).copied().unwrap_or(f64::NAN);
    println!("\nspine, storage in memory, against bare wasmtime, in turns: {ratio:.2} (at most {RATIO_MAX})");
    assert!(
        ratio <= RATIO_MAX,
        "a run through the spine costs {ratio:.2} of bare wasmtime, at most {RATIO_MAX} is promised"
    );
}

/// What a live sandbox of a Rust agent may take of the host, in bytes.
const LIVE_BYTES_MAX: u64 = 100 << 10;

/// What a live guest costs: many that sleep past their first host call, against none.
async fn live_memory(host: &Host) {
    const GUESTS: u64 = 500;
    let sleep = r#"{"do":"sleep","ms":4000}"#;
    host.here("probe", r#"{"do":"sleep","ms":1}"#).await;
    let before = own_bytes();
    let mut runs = Vec::new();
    for n in 0..GUESTS {
        // Each user may have a few at once only.
        let scope = Operator::host().on_behalf_of(&format!("user-{n}").parse().expect("a user"));
        runs.push(host.runtime.accept(&scope, Host::submission("probe", sleep)).await.expect("accepted"));
    }
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(u64::from(host.runtime.runs_live()), GUESTS);
    let per_guest = own_bytes().saturating_sub(before) / GUESTS;
    for run in runs {
        assert_eq!(run.ended().await.stop_reason, Some(StopReason::Completed));
    }
    println!("live memory of a sleeping probe agent (of {GUESTS} at once): {} KiB each", per_guest / 1024);
    assert!(per_guest <= LIVE_BYTES_MAX, "a live sandbox has {per_guest} bytes, at most {LIVE_BYTES_MAX} are promised");
}

/// A host with the agents that are measured.
async fn host(dir: &Path, storage: Arc<dyn Storage>) -> Host {
    let host = Host::start(dir, storage).await;
    for name in ["echo", "probe"] {
        host.push(name, guest(name)).await;
    }
    host
}

fn main() {
    let tokio = tokio::runtime::Runtime::new().expect("a runtime");
    let (memory_dir, sqlite_dir) =
        (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
    let bare = Bare::new(&guest("echo"));
    let (memory, sqlite) = tokio.block_on(async {
        let sqlite = SqliteStorage::open(&sqlite_dir.path().join("bench.db")).await.expect("opened");
        (
            host(memory_dir.path(), Arc::new(MemoryStorage::default())).await,
            host(sqlite_dir.path(), Arc::new(sqlite)).await,
        )
    });
    // Before storage in memory holds the runs of everything else.
    tokio.block_on(against_bare(&bare, &memory));
    let rows = Rows::default();
    let mut criterion = Criterion::default().configure_from_args().measurement_time(Duration::from_secs(4));
    let tool = r#"{"do":"call","name":"file.list","args":{}}"#;
    let no_tool = r#"{"do":"context"}"#;
    macro_rules! row {
        ($name:literal, $work:expr) => {
            criterion.bench_function($name, |b| {
                b.iter_custom(|runs| {
                    let begun = Instant::now();
                    tokio.block_on(async {
                        for _ in 0..runs {
                            $work.await;
                        }
                    });
                    let took = begun.elapsed();
                    rows.add($name, runs, took);
                    took
                });
            });
        };
    }
    row!("bare wasmtime: open + call + drop", bare.run(INPUT));
    row!("spine, storage in memory", memory.here("echo", INPUT));
    row!("spine, SQLite", sqlite.here("echo", INPUT));
    row!("accept to end, storage in memory", accepted(&memory, "echo", INPUT));
    row!("accept to end, SQLite", accepted(&sqlite, "echo", INPUT));
    row!("probe without a tool call, in memory", memory.here("probe", no_tool));
    row!("probe with one tool call, in memory", memory.here("probe", tool));
    rows.print();
    tokio.block_on(live_memory(&memory));
    criterion.final_summary();
}
