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
    Json,
    grant::{Access, Permissions},
    identity::{Operator, Scope},
    ids::{RequestId, UserId},
    quota::LimitsAsked,
    run::{Durability, Priority, StopReason},
    storage::{MemoryStorage, Storage},
};
use cofferdam_runtime::{Runtime, RuntimeConfig, Submission};
use cofferdam_server::storage::sqlite::SqliteStorage;
use criterion::Criterion;
use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};
use wasmtime::{
    Config, Engine, InstanceAllocationStrategy, PoolingAllocationConfig, Store,
    component::{Component, Linker, ResourceTable},
};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};

mod bare {
    wasmtime::component::bindgen!({
        path: "../../wit",
        world: "agent",
        imports: { default: async },
        exports: { default: async },
    });
}

const INPUT: &str = r#"{"question":"what does the host cost?","numbers":[1,2,3]}"#;

fn guest(name: &str) -> Vec<u8> {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("a target directory");
    let path = target.join(format!("guests/{name}.wasm"));
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}; run `cargo xtask bench`, which builds it", path.display()))
}

/// The bare embedding.
struct Bare {
    engine: Engine,
    pre: bare::AgentPre<BareGuest>,
}

struct BareGuest {
    wasi: WasiCtx,
    table: ResourceTable,
}

impl WasiView for BareGuest {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

impl Bare {
    fn new(component: &[u8]) -> Self {
        let mut config = Config::new();
        let mut pool = PoolingAllocationConfig::new();
        pool.max_memory_size(256 << 20).linear_memory_keep_resident(0).table_keep_resident(0).table_elements(65_536);
        config
            .allocation_strategy(InstanceAllocationStrategy::Pooling(pool))
            .consume_fuel(true)
            .concurrency_support(false);
        let engine = Engine::new(&config).expect("an engine");
        let mut linker = Linker::new(&engine);
        // The bare embedding links what the agent can do as functions that do nothing.
        linker.allow_shadowing(true);
        wasmtime_wasi::p2::add_to_linker_async(&mut linker).expect("linked");
        let component = Component::from_binary(&engine, component).expect("compiled");
        let mut events = linker.instance("cofferdam:agent/events@0.1.0").expect("an instance");
        type Said = (Result<(), bare::cofferdam::agent::events::EventError>,);
        events
            .func_wrap_async("thinking", |_, (_text,): (String,)| Box::new(async { Ok((Ok(()),) as Said) }))
            .expect("linked");
        linker.define_unknown_imports_as_traps(&component).expect("linked");
        let pre = bare::AgentPre::new(linker.instantiate_pre(&component).expect("linked")).expect("an agent");
        Self { engine, pre }
    }

    async fn run(&self) {
        let guest = BareGuest { wasi: WasiCtx::builder().build(), table: ResourceTable::new() };
        let mut store = Store::new(&self.engine, guest);
        store.set_fuel(10_000_000_000).expect("fuel");
        let agent = self.pre.instantiate_async(&mut store).await.expect("instantiated");
        let output = agent.call_run(&mut store, &INPUT.to_owned()).await.expect("called").expect("succeeded");
        assert_eq!(output, INPUT);
    }
}

/// The host.
struct Host {
    runtime: Runtime,
    scope: Scope,
}

impl Host {
    async fn new(dir: &Path, storage: Arc<dyn Storage>) -> Self {
        let worker = PathBuf::from(env!("CARGO_BIN_EXE_cofferdam"));
        let runtime = Runtime::start(RuntimeConfig::new(dir.to_owned(), worker), storage).await.expect("started");
        let (operator, user) = (Operator::host(), "bench".parse::<UserId>().expect("a user"));
        for name in ["echo", "probe"] {
            let plugin = name.parse().expect("a name");
            runtime.registry().push(operator, &user, plugin, guest(name).into()).await.expect("pushed");
            let all = Permissions::new(["*".parse().expect("a pattern")], Access::ReadWrite);
            runtime.put_grant(operator, &user, &name.parse().expect("a name"), all).await.expect("granted");
        }
        Self { runtime, scope: operator.on_behalf_of(&user) }
    }

    fn submission(agent: &str, input: &str) -> Submission {
        Submission {
            agent: agent.parse().expect("an agent"),
            input: Json::parse(input).expect("JSON"),
            thread: None,
            session: None,
            metadata: None,
            limits: LimitsAsked::default(),
            priority: Priority::default(),
            durability: Durability::default(),
            retries: None,
            request: RequestId::generate(),
            once: None,
        }
    }

    /// Admit, execute, close, in the caller's task.
    async fn here(&self, agent: &str, input: &str) {
        let run = self.runtime.execute_here(&self.scope, Self::submission(agent, input)).await.expect("accepted");
        assert_eq!(run.stop_reason, Some(StopReason::Completed), "{:?}", run.error);
    }

    /// Accept, queue, admit, execute, close, in a task of its own, as the server does.
    async fn accepted(&self, agent: &str, input: &str) {
        let accepted = self.runtime.accept(&self.scope, Self::submission(agent, input)).await.expect("accepted");
        assert_eq!(accepted.ended().await.stop_reason, Some(StopReason::Completed));
    }
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
            bare.run().await;
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

/// Memory of this process that is its own, in bytes: a page that several mappings share counts once. In the plain resident
/// size, the kernel counts the pages around a guest's first look at its image once for each guest that maps them.
fn own_bytes() -> u64 {
    let rollup = std::fs::read_to_string("/proc/self/smaps_rollup").expect("a Linux that has it");
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:")).expect("a line");
    line.split_whitespace().next().and_then(|kib| kib.parse::<u64>().ok()).expect("a number") * 1024
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

fn main() {
    let tokio = tokio::runtime::Runtime::new().expect("a runtime");
    let (memory_dir, sqlite_dir) =
        (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
    let bare = Bare::new(&guest("echo"));
    let (memory, sqlite) = tokio.block_on(async {
        let sqlite = SqliteStorage::open(&sqlite_dir.path().join("bench.db")).await.expect("opened");
        (
            Host::new(memory_dir.path(), Arc::new(MemoryStorage::default())).await,
            Host::new(sqlite_dir.path(), Arc::new(sqlite)).await,
        )
    });
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
    row!("bare wasmtime: open + call + drop", bare.run());
    row!("spine, storage in memory", memory.here("echo", INPUT));
    row!("spine, SQLite", sqlite.here("echo", INPUT));
    row!("accept to end, storage in memory", memory.accepted("echo", INPUT));
    row!("accept to end, SQLite", sqlite.accepted("echo", INPUT));
    row!("probe without a tool call, in memory", memory.here("probe", no_tool));
    row!("probe with one tool call, in memory", memory.here("probe", tool));
    rows.print();
    tokio.block_on(against_bare(&bare, &memory));
    tokio.block_on(live_memory(&memory));
    criterion.final_summary();
}
