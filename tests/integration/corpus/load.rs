//! What goes on beside the hostile guests: another user's ordinary runs, and somebody who asks whether the host is well.

use crate::server::User;
use serde_json::json;
use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

/// How often the host is asked whether it lives.
const PROBE_EVERY: Duration = Duration::from_millis(10);
/// How often an ordinary run is submitted.
const RUN_EVERY: Duration = Duration::from_millis(50);

/// The load. On a thread of its own, so that what is measured is the host and not how long the client waits for one of
/// the host's threads.
pub struct Load {
    shared: Arc<Shared>,
    thread: JoinHandle<()>,
}

#[derive(Default)]
struct Shared {
    over: AtomicBool,
    /// Held while an ordinary run is under way: who holds it knows that there is none.
    turn: tokio::sync::Mutex<()>,
    runs: AtomicU64,
    wrong: Mutex<Vec<String>>,
    answers: Mutex<Vec<Duration>>,
    run_times: Mutex<Vec<Duration>>,
}

/// What the load saw.
pub struct Seen {
    pub runs: u64,
    pub wrong: Vec<String>,
    pub answers: Times,
    pub run_times: Times,
}

/// Times in order.
pub struct Times(Vec<Duration>);

impl Times {
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// The time that so many in a thousand do not exceed.
    pub fn per_mille(&self, part: usize) -> Duration {
        let last = self.0.len().checked_sub(1).expect("something was measured");
        self.0[last * part / 1_000]
    }
}

impl Load {
    pub fn start(user: &User, url: String, admin_url: String) -> Self {
        let shared = Arc::new(Shared::default());
        let seen = shared.clone();
        let (name, key) = (user.name.clone(), user.key.clone());
        let work = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            // A client's connections belong to the runtime that they were made on.
            let user = User::new(&name, &url, &key);
            runtime.block_on(async { tokio::join!(runs(&seen, &user), probes(&seen, &admin_url)) });
        };
        let thread = std::thread::Builder::new().name("load".into()).spawn(work).expect("a thread");
        Self { shared, thread }
    }

    /// Waits until no ordinary run is under way, and keeps it so while the guard is held.
    pub async fn quiet(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.shared.turn.lock().await
    }

    /// Forgets what was measured so far: the first requests of a process are not like the others.
    pub fn warmed_up(&self) {
        take(&self.shared.answers);
        take(&self.shared.run_times);
    }

    pub fn end(self) -> Seen {
        self.shared.over.store(true, Ordering::Relaxed);
        self.thread.join().expect("the load did not panic");
        let times = |times| {
            let mut times = take(times);
            times.sort();
            Times(times)
        };
        Seen {
            runs: self.shared.runs.load(Ordering::Relaxed),
            wrong: take(&self.shared.wrong),
            answers: times(&self.shared.answers),
            run_times: times(&self.shared.run_times),
        }
    }
}

fn take<T>(kept: &Mutex<Vec<T>>) -> Vec<T> {
    std::mem::take(&mut *kept.lock().unwrap_or_else(PoisonError::into_inner))
}

fn keep<T>(kept: &Mutex<Vec<T>>, one: T) {
    kept.lock().unwrap_or_else(PoisonError::into_inner).push(one);
}

/// Ordinary runs at a steady rate, each checked.
async fn runs(shared: &Shared, user: &User) {
    let mut ticks = tokio::time::interval(RUN_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while !shared.over.load(Ordering::Relaxed) {
        ticks.tick().await;
        let _turn = shared.turn.lock().await;
        let number = shared.runs.fetch_add(1, Ordering::Relaxed);
        let input = json!({"ordinary": number});
        let begun = Instant::now();
        let run = user.finish(&json!({"agent": "echo", "input": input})).await;
        keep(&shared.run_times, begun.elapsed());
        if run["stop_reason"] != "completed" || run["output"] != input {
            keep(&shared.wrong, run.to_string());
        }
    }
}

/// The cheapest question that there is, at a steady rate.
async fn probes(shared: &Shared, admin_url: &str) {
    let client = reqwest::Client::new();
    let url = format!("{admin_url}/livez");
    let mut ticks = tokio::time::interval(PROBE_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while !shared.over.load(Ordering::Relaxed) {
        ticks.tick().await;
        let begun = Instant::now();
        let answer = client.get(&url).send().await.expect("answered");
        let text = answer.text().await.expect("a body");
        keep(&shared.answers, begun.elapsed());
        if text != "live\n" {
            keep(&shared.wrong, text);
        }
    }
}

/// A thread that asks for nothing but to be woken in time, and says how late it was: so late is the machine, on which
/// others compile.
pub struct Witness(Arc<Woken>);

#[derive(Default)]
struct Woken {
    over: AtomicBool,
    /// When it was woken too late, and by how much.
    late: Mutex<Vec<(Instant, Duration)>>,
}

/// How long the witness sleeps.
const NAP: Duration = Duration::from_millis(5);

impl Witness {
    pub fn start() -> Self {
        let woken = Arc::new(Woken::default());
        let witness = woken.clone();
        let work = move || {
            while !witness.over.load(Ordering::Relaxed) {
                let begun = Instant::now();
                std::thread::sleep(NAP);
                let late = begun.elapsed().saturating_sub(NAP);
                if late > NAP {
                    keep(&witness.late, (Instant::now(), late));
                }
            }
        };
        std::thread::Builder::new().name("witness".into()).spawn(work).expect("a thread");
        Self(woken)
    }

    /// By how many milliseconds it was late at worst, since then.
    pub fn late_since(&self, since: Instant) -> u64 {
        let late = self.0.late.lock().unwrap_or_else(PoisonError::into_inner);
        let worst = late.iter().filter(|(woken, _)| *woken >= since).map(|(_, late)| *late).max();
        u64::try_from(worst.unwrap_or_default().as_millis()).expect("short")
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        self.0.over.store(true, Ordering::Relaxed);
    }
}

/// What this process holds of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Process {
    pub files: usize,
    pub children: usize,
}

impl Process {
    pub fn now() -> Self {
        let files = std::fs::read_dir("/proc/self/fd").expect("a list of files").count();
        let threads = std::fs::read_dir("/proc/self/task").expect("a list of threads");
        let children = threads.flatten().map(|thread| {
            // A thread that ends meanwhile has no children.
            let text = std::fs::read_to_string(thread.path().join("children")).unwrap_or_default();
            text.split_whitespace().count()
        });
        Self { files, children: children.sum() }
    }
}

/// Memory of this process that is in the machine's, in MiB.
pub fn resident_mib() -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").expect("a status");
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a figure");
    line.split_whitespace().next().and_then(|kib| kib.parse::<u64>().ok()).expect("a number") >> 10
}
