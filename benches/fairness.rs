//! Who gets how much where more is wanted than there is: what fifty users notice of one that takes all it can, whether CPU
//! time is shared by weight, what a thousand live guests cost, what a turn costs that nobody contends for, and what admission
//! and a run cost as users become more.
//!
//! Over a real server on loopback, with real components and a real client in the same process, so that every figure holds
//! the client's own work, too. Figures that have a target stand beside it, and fail the benchmark beyond it.

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

#[path = "../tests/integration/server.rs"]
#[allow(dead_code, reason = "shared with the integration tests, which use all of it")]
mod server;

use cofferdam_core::{
    admission::{Admission, Want},
    memory::HostMemory,
    quota::{Quota, Quotas},
    run::Priority,
    turns::{Turns, WEIGHT_DEFAULT},
};
use figures::{asked, percentile, row};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use server::{Server, User, config, guest, run, started};
use std::{
    future::poll_fn,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

/// Users that behave, and how often each of them submits a small run: together several hundred in a second.
const NORMAL_USERS: usize = 50;
const SUBMITTED_EVERY: Duration = Duration::from_millis(100);
/// How long they are watched, alone and beside the hostile user.
const WATCHED: Duration = Duration::from_secs(8);
/// How often, alone and beside a user who does everything: the machine has better and worse moments.
const ROUNDS: usize = 3;
/// Guests of each of the two users that share by weight.
const SPINNING: usize = 4;
/// How long they spin, in milliseconds.
const SPINNING_MS: u64 = 10_000;
/// Users with a live guest each, all at the same time.
const LIVE_USERS: usize = 1_000;
/// Small runs beside them.
const SMALL_RUNS: usize = 500;
/// Turns that are timed at once.
const TURNS: u32 = 200_000;
/// Users among whom the same number of runs is admitted and executed.
const FEW_USERS: usize = 10;
const MANY_USERS: usize = 10_000;
/// Runs that are admitted in one repetition, and their repetitions.
const ADMITTED: usize = 20_000;
const REPETITIONS: usize = 10;

/// Memory of this process that is its own, in bytes: a page that several mappings share counts once.
fn own_bytes() -> u64 {
    let rollup = std::fs::read_to_string("/proc/self/smaps_rollup").expect("a Linux that has it");
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:")).expect("a line");
    line.split_whitespace().next().and_then(|kib| kib.parse::<u64>().ok()).expect("a number") * 1024
}

fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// A server with room for so many runs at once.
async fn server_with(runs_live_max: u32, quota: Quota) -> Server {
    let dir = tempfile::tempdir().expect("a directory");
    let app = started(cofferdam_server::config::Config { runs_live_max, ..config(dir.path(), quota) }).await;
    let operator = User::new("operator", &app.url(), app.admin_key().expect("a dev server"));
    let server = Server { app, dir, operator };
    for name in ["echo", "probe", "hostile"] {
        server.operator.push(name, guest(name)).await.is(StatusCode::CREATED);
    }
    server
}

/// What is wanted of a guest here, and not more.
fn small() -> Value {
    json!({"agent": "echo", "input": {"question": "how long does it take?"}})
}

/// From the request of a small run to its result.
async fn small_run(user: &User) -> Duration {
    let begun = Instant::now();
    let run = user.finish(&small()).await;
    assert_eq!(run["stop_reason"], "completed", "{run}");
    begun.elapsed()
}

/// The normal users, for a while: how long each of their runs took, and how many a second there were.
async fn normal_users(users: &[User]) -> (Vec<Duration>, f64) {
    let begun = Instant::now();
    let watched: Vec<_> = users
        .iter()
        .enumerate()
        .map(|(n, user)| {
            let user = user.clone();
            tokio::spawn(async move {
                // They do not all come at the same moment.
                let offset = SUBMITTED_EVERY.mul_f64(n as f64 / NORMAL_USERS as f64);
                let mut every = tokio::time::interval_at(tokio::time::Instant::now() + offset, SUBMITTED_EVERY);
                every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
                let mut times = Vec::new();
                while begun.elapsed() < WATCHED {
                    every.tick().await;
                    times.push(small_run(&user).await);
                }
                times
            })
        })
        .collect();
    let mut times = Vec::new();
    for user in watched {
        times.extend(user.await.expect("not panicked"));
    }
    let per_second = times.len() as f64 / begun.elapsed().as_secs_f64();
    (times, per_second)
}

/// What the hostile user does: one thing after another, to see which costs what, and then all at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Doing {
    Spinning,
    Flooding,
    SendingFiles,
    SendingComponents,
    Everything,
}

impl Doing {
    fn includes(self, part: Self) -> bool {
        self == part || self == Self::Everything
    }
}

/// One user's guests that spin and flood, files and components sent without a pause, until this is stopped. The user's own
/// client gives way to everything else, as if it were on another machine: what is measured is what the host does for it.
struct Hostile {
    stop: Arc<AtomicBool>,
    client: tokio::runtime::Runtime,
    tasks: Vec<tokio::task::JoinHandle<u64>>,
}

impl Hostile {
    async fn start(server: &Server, doing: Doing) -> Self {
        let mallory = server.trusted().await;
        let made = server.operator.post("/v1/keys", &json!({"user": mallory.name, "role": "operator"})).await;
        let key = made.is(StatusCode::CREATED)["api_key"].as_str().expect("a key").to_owned();
        let author = User::new(&mallory.name, &server.app.url(), &key);
        let stop = Arc::new(AtomicBool::new(false));
        let gives_way = || rustix::process::setpriority_process(None, 19).expect("a thread may give way");
        let client = tokio::runtime::Builder::new_multi_thread().on_thread_start(gives_way).enable_all().build();
        let client = client.expect("threads");
        let mut tasks = Vec::new();
        let scenarios = [
            (Doing::Spinning, json!({"scenario": "spin"})),
            (Doing::Spinning, json!({"scenario": "spin"})),
            (Doing::Spinning, json!({"scenario": "spin_in_host_calls"})),
            (Doing::Flooding, json!({"scenario": "event_flood", "count": 9_000, "bytes": 1_000})),
            (Doing::Flooding, json!({"scenario": "disk_fill"})),
        ];
        for (_, input) in scenarios.into_iter().filter(|(part, _)| doing.includes(*part)) {
            let (mallory, stop) = (mallory.clone(), stop.clone());
            tasks.push(client.spawn(async move {
                let mut runs = 0;
                while !stop.load(Ordering::Relaxed) {
                    let limits = json!({"deadline_ms": 2_000});
                    let body = json!({"agent": "hostile", "input": input, "limits": limits});
                    let request = mallory.request(Method::POST, "/v1/runs").header("prefer", "wait=10").json(&body);
                    let answer = request.send().await.expect("answered");
                    assert!(!answer.status().is_server_error(), "{}", answer.status());
                    let _ = answer.bytes().await.expect("a body");
                    runs += 1;
                }
                runs
            }));
        }
        let (files, stopped) = (mallory.clone(), stop.clone());
        if doing.includes(Doing::SendingFiles) {
            tasks.push(client.spawn(async move {
                let bytes = vec![7_u8; 4 << 20];
                let mut sent = 0;
                while !stopped.load(Ordering::Relaxed) {
                    let request = files.request(Method::PUT, "/v1/files/again.bin").body(bytes.clone());
                    let _ = request.send().await.expect("answered").bytes().await.expect("a body");
                    sent += 1;
                }
                sent
            }));
        }
        let (component, stopped) = (guest("probe"), stop.clone());
        if doing.includes(Doing::SendingComponents) {
            tasks.push(client.spawn(async move {
                let mut sent = 0;
                while !stopped.load(Ordering::Relaxed) {
                    let pushed = author.push("again", fresh(&component)).await;
                    assert!(!pushed.status.is_server_error(), "{}", pushed.text);
                    sent += 1;
                }
                sent
            }));
        }
        Self { stop, client, tasks }
    }

    async fn end(self) -> Vec<u64> {
        self.stop.store(true, Ordering::Relaxed);
        let mut done = Vec::new();
        for task in self.tasks {
            done.push(task.await.expect("not panicked"));
        }
        self.client.shutdown_background();
        done
    }
}

/// A component that no host has seen yet: the same, with a number in a custom section.
fn fresh(component: &[u8]) -> Vec<u8> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed).to_le_bytes();
    let mut bytes = component.to_vec();
    wasm_encoder::Encode::encode(&wasm_encoder::ComponentSectionId::CoreCustom, &mut bytes);
    let section = wasm_encoder::CustomSection { name: "number".into(), data: (&number[..]).into() };
    wasm_encoder::Encode::encode(&section, &mut bytes);
    bytes
}

/// The normal users beside a hostile one, as the normal ones alone.
async fn beside(server: &Server, users: &[User], doing: Doing) -> (Vec<Duration>, f64) {
    let hostile = Hostile::start(server, doing).await;
    let (mut times, rate) = normal_users(users).await;
    let waits = server.app.runtime().turns_now().wait_p99.as_secs_f64() * 1e3;
    let done = hostile.end().await;
    let (p50, p99) = (percentile(&mut times, 50), percentile(&mut times, 99));
    println!(
        "  beside {doing:?} {done:?}: p50 {p50:.2} ms, p99 {p99:.2} ms, {rate:.0}/s; turns are waited for {waits:.2} ms"
    );
    (times, rate)
}

/// Fifty users, alone and beside one that takes all it can.
async fn one_against_fifty(server: &Server) {
    let mut users = Vec::new();
    for _ in 0..NORMAL_USERS {
        users.push(server.stranger().await);
    }
    // Nobody's first run.
    normal_users(&users[..5]).await;
    println!("{NORMAL_USERS} users' small runs");
    // Of all rounds together. First those alone: what a hostile user has written is on its way to the disk for a while.
    let (mut alone, mut all) = ((Vec::new(), 0.0), (Vec::new(), 0.0));
    for _ in 0..ROUNDS {
        let (mut times, rate) = normal_users(&users).await;
        let (p50, p99) = (percentile(&mut times, 50), percentile(&mut times, 99));
        println!("  alone: p50 {p50:.2} ms, p99 {p99:.2} ms, {rate:.0}/s");
        alone.0.extend(times);
        alone.1 += rate;
    }
    for doing in [Doing::Spinning, Doing::Flooding, Doing::SendingFiles, Doing::SendingComponents] {
        beside(server, &users, doing).await;
    }
    for _ in 0..ROUNDS {
        let (times, rate) = beside(server, &users, Doing::Everything).await;
        all.0.extend(times);
        all.1 += rate;
    }
    let ratio = percentile(&mut all.0, 99) / percentile(&mut alone.0, 99);
    row("p99 beside a user who does all of it, against alone", ratio, "x", Some(2.0));
    row("what is lost of the runs a second", 100.0 * (1.0 - all.1 / alone.1), "%", Some(20.0));
}

/// Gives a user a weight, by a tier that has it.
async fn weigh(server: &Server, user: &User, weight: u32) -> bool {
    let tier = format!("weight-{weight}");
    let (of_tier, of_user) = (format!("/v1/tiers/{tier}"), format!("/v1/users/{}/quota", user.name));
    let made = server.operator.send(Method::PUT, &of_tier, Some(&json!({"cpu_weight": weight}))).await;
    let put = server.operator.send(Method::PUT, &of_user, Some(&json!({"tier": tier}))).await;
    made.status.is_success() && put.status.is_success()
}

/// The CPU time of two users of weights 100 and 300 whose guests spin, in milliseconds, over the server.
async fn by_weight_over_http(server: &Server) -> Option<[f64; 2]> {
    let users = [server.trusted().await, server.trusted().await];
    if !weigh(server, &users[1], 3 * WEIGHT_DEFAULT).await {
        return None;
    }
    let mut runs = Vec::new();
    for _ in 0..SPINNING {
        for (n, user) in users.iter().enumerate() {
            let limits = json!({"deadline_ms": SPINNING_MS});
            let body = json!({"agent": "hostile", "input": {"scenario": "spin"}, "limits": limits});
            runs.push((n, user.submit(&body).await));
        }
    }
    let mut active = [0.0; 2];
    for (n, id) in runs {
        active[n] += users[n].ended(&id).await["usage"]["active_ms"].as_f64().expect("a number");
    }
    Some(active)
}

/// The same without a server: tasks that compute in turns, on as many threads as there are processors.
fn by_weight_in_the_library() -> [f64; 2] {
    let threads = tokio::runtime::Builder::new_multi_thread().worker_threads(processors()).build().expect("threads");
    let turns = Turns::new(processors() as u32);
    let until = Instant::now() + Duration::from_millis(SPINNING_MS);
    let guests: Vec<_> = [1, 3]
        .into_iter()
        .enumerate()
        .flat_map(|(n, times)| (0..SPINNING).map(move |_| (n, times)))
        .map(|(n, times)| {
            let user = format!("user-{n}").parse().expect("a user");
            let mut turn = turns.enter(&user, times * WEIGHT_DEFAULT, Priority::Normal);
            let spinning = threads.spawn(async move {
                let mut spent = Duration::ZERO;
                while Instant::now() < until {
                    poll_fn(|cx| turn.poll(cx.waker())).await;
                    let begun = Instant::now();
                    while begun.elapsed() < Duration::from_millis(1) {
                        std::hint::spin_loop();
                    }
                    spent += begun.elapsed();
                    let mut yielded = false;
                    poll_fn(|cx| {
                        if std::mem::replace(&mut yielded, true) {
                            return Poll::Ready(());
                        }
                        turn.tick(begun.elapsed(), cx.waker()).into_iter().for_each(Waker::wake);
                        Poll::Pending
                    })
                    .await;
                }
                spent
            });
            (n, spinning)
        })
        .collect();
    let mut active = [0.0; 2];
    for (n, spinning) in guests {
        active[n] += threads.block_on(spinning).expect("not panicked").as_secs_f64() * 1e3;
    }
    active
}

fn by_weight(what: &str, [one, three]: [f64; 2]) {
    println!("weights 100 and 300, {what}: {one:.0} ms and {three:.0} ms");
    row("  what the second is off three times the first", 100.0 * (three / one / 3.0 - 1.0).abs(), "%", Some(10.0));
}

/// A thousand users, each with a guest that sleeps after its first call of the host.
async fn a_thousand_live(server: &Server) {
    let ann = server.stranger().await;
    let mut users = Vec::new();
    for _ in 0..LIVE_USERS {
        users.push(server.stranger().await);
    }
    let mut alone = Vec::new();
    for _ in 0..SMALL_RUNS {
        alone.push(small_run(&ann).await);
    }
    let before = own_bytes();
    let steps = json!([{"do": "thinking", "text": "awake"}, {"do": "sleep", "ms": 55_000}]);
    let mut ids = Vec::new();
    for user in &users {
        let body = json!({"agent": "probe", "input": {"do": "seq", "steps": steps}});
        ids.push(user.submit(&body).await);
    }
    for (user, id) in users.iter().zip(&ids) {
        while user.get(&format!("/v1/runs/{id}/events?after=1")).await.json()["events"] == json!([]) {}
    }
    let runtime = server.app.runtime();
    assert_eq!((runtime.runs_live() as usize, runtime.sandboxes_open() as usize), (LIVE_USERS, LIVE_USERS));
    let each = own_bytes().saturating_sub(before) as f64 / LIVE_USERS as f64 / 1024.0;
    row(&format!("memory for each of {LIVE_USERS} users with a live guest"), each, "KiB", None);
    let mut beside = Vec::new();
    for _ in 0..SMALL_RUNS {
        beside.push(small_run(&ann).await);
    }
    assert_eq!(runtime.runs_live() as usize, LIVE_USERS, "all of them are still there");
    row("a small run, alone, p99", percentile(&mut alone, 99), "ms", None);
    row(&format!("a small run beside {LIVE_USERS} live guests, p99"), percentile(&mut beside, 99), "ms", None);
    for (user, id) in users.iter().zip(&ids) {
        user.post(&format!("/v1/runs/{id}/cancel"), &json!({})).await;
    }
    assert_eq!(server.app.runtime().host_panics(), 0);
}

/// A thousand users, each with a guest that takes and writes to all the memory that it is given, all at the same time.
async fn a_thousand_greedy(server: &Server) {
    let mut users = Vec::new();
    for _ in 0..LIVE_USERS {
        users.push(server.trusted().await);
    }
    let mut ids = Vec::new();
    for user in &users {
        let body = json!({"agent": "hostile", "input": {"scenario": "grow_until_abort"}});
        ids.push(user.submit(&body).await);
    }
    let (mut reasons, mut held_max, mut own_max) = (std::collections::BTreeMap::<String, u32>::new(), 0, 0);
    let runtime = server.app.runtime();
    for (user, id) in users.iter().zip(&ids) {
        held_max = held_max.max(runtime.memory_bytes());
        own_max = own_max.max(own_bytes());
        let run = user.ended(id).await;
        *reasons.entry(run["stop_reason"].as_str().expect("a reason").to_owned()).or_default() += 1;
    }
    let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
    println!("{LIVE_USERS} guests that take all memory they are given ended as {reasons:?}");
    row("  of the memory for guests they held at most", gib(held_max), "GiB", Some(gib(runtime.memory_bytes_max())));
    row("  memory of this process at most", gib(own_max), "GiB", None);
    assert_eq!(runtime.host_panics(), 0);
    // The host is whole.
    small_run(&users[0]).await;
}

/// A turn that is free, taken and given back.
fn one_turn() {
    let turns = Turns::new(1);
    let mut turn = turns.enter(&"ann".parse().expect("a user"), WEIGHT_DEFAULT, Priority::Normal);
    let cx = Context::from_waker(Waker::noop());
    // The best of some: what else the machine does only adds.
    let mut nanos = f64::INFINITY;
    for _ in 0..10 {
        let begun = Instant::now();
        for n in 0..TURNS {
            assert!(turn.poll(cx.waker()).is_ready());
            assert!(turn.give_back(Duration::from_nanos(u64::from(n % 1_000))).is_none());
        }
        nanos = nanos.min(begun.elapsed().as_secs_f64() * 1e9 / f64::from(TURNS));
    }
    // Without optimization it says nothing.
    row("a turn that is free, taken and given back", nanos, "ns", (!cfg!(debug_assertions)).then_some(100.0));
}

/// From a run that is submitted to its slot with memory and fuel, and back, in nanoseconds, by the number of users that
/// submit in turn; and what a user leaves in admission, in bytes.
fn admission(users: usize) -> (f64, f64) {
    let names: Vec<_> = (0..users).map(|n| format!("user-{n}").parse().expect("a user")).collect();
    let memory = Arc::new(HostMemory::new(16 << 30, 0));
    let quotas = Arc::new(Quotas::same(Quota { fuel_per_minute: u64::MAX >> 1, ..Quota::default() }));
    let before = own_bytes();
    let admission = Admission::new(quotas, memory, 1_024, 1_024);
    let want = Want { fuel: 1_000_000, memory_bytes: 256 << 20, priority: Priority::Normal };
    let admit = |n: usize| {
        let place = admission.enqueue(&names[n % users], want).expect("a place");
        admission.try_admit(place).expect("a slot").used(20_000, Duration::from_micros(20));
    };
    // Nobody's first run.
    (0..users).for_each(admit);
    let bytes = own_bytes().saturating_sub(before) as f64 / users as f64;
    // The best of some: what else the machine does only adds.
    let mut nanos = f64::INFINITY;
    for _ in 0..REPETITIONS {
        let begun = Instant::now();
        (0..ADMITTED).for_each(admit);
        nanos = nanos.min(begun.elapsed().as_secs_f64() * 1e9 / ADMITTED as f64);
    }
    (nanos, bytes)
}

/// Small runs one after the other, each of another user, as long as there are others: milliseconds at the median.
async fn runs_of(users: &[User]) -> f64 {
    let mut times = Vec::new();
    for n in 0..MANY_USERS {
        times.push(small_run(&users[n % users.len()]).await);
    }
    percentile(&mut times, 50)
}

/// The same number of runs by few and by many users.
async fn growth(server: &Server) {
    let (few, _) = admission(FEW_USERS);
    let (many, bytes) = admission(MANY_USERS);
    row(&format!("admission of a run, {FEW_USERS} users"), few, "ns", None);
    row(&format!("admission of a run, {MANY_USERS} users"), many, "ns", None);
    row(&format!("  what each of {MANY_USERS} users leaves there"), bytes, "bytes", None);
    let before = own_bytes();
    let mut users = Vec::new();
    for _ in 0..MANY_USERS {
        users.push(server.stranger().await);
    }
    let keys = own_bytes().saturating_sub(before) as f64 / 1024.0 / MANY_USERS as f64;
    // What a client holds of each user is small beside what the server does, and is in the figure.
    row(&format!("memory for each of {MANY_USERS} users with a key"), keys, "KiB", None);
    let few = runs_of(&users[..FEW_USERS]).await;
    let before = own_bytes();
    let many = runs_of(&users).await;
    let each = own_bytes().saturating_sub(before) as f64 / 1024.0 / MANY_USERS as f64;
    row(&format!("memory for each of {MANY_USERS} users, idle after a run"), each, "KiB", Some(50.0));
    row(&format!("a small run, {FEW_USERS} users, p50"), few, "ms", None);
    row(&format!("a small run, {MANY_USERS} users, p50, against that"), many / few, "x", Some(1.5));
}

fn main() {
    println!();
    if asked("turn") {
        one_turn();
    }
    if asked("weights") {
        by_weight("in the library", by_weight_in_the_library());
    }
    run(async {
        let quota = Quota { failures_in_a_row: u32::MAX, fuel_per_run: u64::MAX >> 1, ..Quota::default() };
        let server = server_with(1_024, quota).await;
        if asked("weights") {
            let active = by_weight_over_http(&server).await.expect("weights are given");
            by_weight("over a server", active);
        }
        if asked("growth") {
            growth(&server).await;
        }
        if asked("live") {
            a_thousand_live(&server).await;
        }
        if asked("greedy") {
            a_thousand_greedy(&server).await;
        }
        if asked("hostile") {
            one_against_fifty(&server).await;
        }
        assert_eq!((server.app.runtime().host_panics(), server.app.panics()), (0, 0));
    });
}
