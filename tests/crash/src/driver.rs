//! The driver: starts, kills, starts again, and has it checked.

use crate::{
    acks,
    check::{GuestFiles, Verdict, compare},
    collect::collect,
    random::Random,
    server::{Setup, free_port, fresh_dir},
    stored,
};
use anyhow::{Context as _, bail, ensure};
use serde::Serialize;
use std::{
    fmt,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, ChildStdin, Command},
};

/// How long a server is under load before it is killed.
const LOADED_MS: std::ops::Range<u64> = 20..1_300;
/// One kill in so many comes while the server is still starting, within so many milliseconds.
const EARLY_ONE_IN: u64 = 6;
const EARLY_MS: std::ops::Range<u64> = 1..250;
/// Of all kills, so many in a hundred come during the very first start, over an empty directory.
const FIRST_PERCENT: u32 = 20;
/// How long the client may take to come to its end once nothing is killed any more.
const CLIENT_END_MAX: Duration = Duration::from_secs(150);

#[derive(clap::Args)]
pub struct Options {
    /// The `cofferdam` binary.
    #[arg(long)]
    server: PathBuf,
    /// Where the components are that the test runs.
    #[arg(long)]
    guests: PathBuf,
    /// A directory for everything, made anew.
    #[arg(long)]
    work: PathBuf,
    /// How often the server is killed.
    #[arg(long, default_value_t = 50)]
    kills: u32,
    /// The same seed makes the same choices, at moments that the machine decides.
    #[arg(long)]
    seed: Option<u64>,
    /// How many finished runs the database has before the first kill.
    #[arg(long, default_value_t = 0)]
    stored_runs: u64,
    /// The longest that a restart may take until the server is ready, at the 99th percentile.
    #[arg(long, default_value_t = 2_000)]
    ready_p99_ms_max: u64,
    /// The result as JSON.
    #[arg(long)]
    json: bool,
}

/// What a whole test came to.
#[derive(Debug, Serialize)]
struct Report {
    seed: u64,
    kills: u32,
    stored_runs: u64,
    restarts: usize,
    ready_p50_ms: u64,
    ready_p99_ms: u64,
    panics: usize,
    seconds: u64,
    #[serde(flatten)]
    verdict: Verdict,
}

/// The client's process.
struct Loading {
    child: Child,
    /// Closed to tell it that the end has come.
    stdin: ChildStdin,
}

/// Runs the whole test. Says whether everything held.
///
/// # Errors
/// When the test itself could not be done, or the server does not start any more.
pub async fn run(options: Options) -> anyhow::Result<bool> {
    let began = Instant::now();
    let seed = options.seed.unwrap_or_else(from_the_clock);
    let mut random = Random::new(seed, 0);
    eprintln!("crash: {} kills, seed {seed}", options.kills);
    let work = fresh_dir(&options.work)?;
    let setup = Setup {
        binary: options.server.clone(),
        data_dir: work.join("data"),
        log: work.join("server.log"),
        port: free_port(random.next())?,
        admin_port: free_port(random.next())?,
        env: Vec::new(),
    };
    ensure!(setup.port != setup.admin_port, "the same port twice; try another seed");

    let first_kills = options.kills * FIRST_PERCENT / 100;
    for _ in 0..first_kills {
        kill_first_start(&setup, &mut random).await?;
    }
    fresh_dir(&setup.data_dir)?;
    if options.stored_runs > 0 {
        stored::prepare(&setup, &options.guests, options.stored_runs).await?;
    }

    let mut restarts = Vec::new();
    let acks_file = work.join("acks.jsonl");
    let mut server = setup.start()?;
    setup.ready(&mut server).await?;
    let mut loading = start_client(&options, &setup, &acks_file, seed).await?;
    for _ in first_kills..options.kills {
        let early = random.between(0, EARLY_ONE_IN) == 0;
        server = if early {
            server.kill()?;
            pause(&mut random, EARLY_MS).await;
            setup.start()?
        } else {
            pause(&mut random, LOADED_MS).await;
            server.kill()?;
            setup.start()?
        };
        if early {
            pause(&mut random, EARLY_MS).await;
            continue;
        }
        restarts.push(setup.ready(&mut server).await?);
        ensure!(loading.child.try_wait()?.is_none(), "the client has ended; see its message above");
    }
    // The last start is not killed any more.
    let ready = setup.ready(&mut server).await?;
    if ready < Duration::from_secs(1) {
        pause(&mut random, LOADED_MS).await;
    }
    loading.end().await?;

    let acks = acks::read(&acks_file)?;
    let snapshot = collect(&setup.url(), &acks).await.context("asking the server for what it has")?;
    let verdict = compare(&acks, &snapshot, GuestFiles::Kept);
    server.stop().await?;
    restarts.sort_unstable();
    let report = Report {
        seed,
        kills: options.kills,
        stored_runs: options.stored_runs,
        restarts: restarts.len(),
        ready_p50_ms: percentile_ms(&restarts, 50),
        ready_p99_ms: percentile_ms(&restarts, 99),
        panics: setup.panics()?,
        seconds: began.elapsed().as_secs(),
        verdict,
    };
    Ok(report.tell(&options, &work))
}

fn from_the_clock() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::from(now.subsec_nanos()) << 20 | now.as_secs() & 0xf_ffff
}

async fn pause(random: &mut Random, range_ms: std::ops::Range<u64>) {
    tokio::time::sleep(Duration::from_millis(random.between(range_ms.start, range_ms.end))).await;
}

/// The very first start makes files that a later one relies on: killed at any moment, the next must do.
async fn kill_first_start(setup: &Setup, random: &mut Random) -> anyhow::Result<()> {
    fresh_dir(&setup.data_dir)?;
    let server = setup.start()?;
    pause(random, EARLY_MS).await;
    server.kill()?;
    let mut server = setup.start()?;
    setup.ready(&mut server).await.context("a start after a first start that was killed")?;
    server.kill()
}

async fn start_client(options: &Options, setup: &Setup, acks: &Path, seed: u64) -> anyhow::Result<Loading> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["load", "--url", &setup.url(), "--seed", &seed.to_string()]);
    command.arg("--admin-key-file").arg(setup.admin_key_file());
    command.arg("--guests").arg(&options.guests).arg("--acks").arg(acks);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true).spawn()?;
    let stdin = child.stdin.take().context("a pipe")?;
    let mut lines = BufReader::new(child.stdout.take().context("a pipe")?).lines();
    let line = lines.next_line().await?;
    ensure!(line.as_deref() == Some("loading"), "the client did not begin; see its message above");
    Ok(Loading { child, stdin })
}

impl Loading {
    /// Tells the client to come to its end, and waits for it.
    async fn end(self) -> anyhow::Result<()> {
        let Self { mut child, stdin } = self;
        drop(stdin);
        match tokio::time::timeout(CLIENT_END_MAX, child.wait()).await {
            Ok(status) => ensure!(status?.success(), "the client failed; see its message above"),
            Err(_) => bail!("the client does not come to its end: some run neither ends nor is refused"),
        }
        Ok(())
    }
}

/// By nearest rank, rounded up to whole milliseconds.
fn percentile_ms(sorted: &[Duration], percent: usize) -> u64 {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    let at = sorted.get(rank - 1).copied().unwrap_or_default();
    u64::try_from(at.as_micros().div_ceil(1_000)).unwrap_or(u64::MAX)
}

impl Report {
    /// Prints the result, and says whether everything held.
    fn tell(&self, options: &Options, work: &Path) -> bool {
        let slow = self.ready_p99_ms > options.ready_p99_ms_max;
        let held = self.verdict.holds() && self.panics == 0 && !slow;
        for violation in &self.verdict.violations {
            eprintln!("crash: VIOLATION: {violation}");
        }
        if self.panics > 0 {
            eprintln!("crash: VIOLATION: the server's log speaks of {} panics", self.panics);
        }
        if slow {
            eprintln!(
                "crash: VIOLATION: ready after {} ms, at most {} ms",
                self.ready_p99_ms, options.ready_p99_ms_max
            );
        }
        if !held {
            eprintln!("crash: the server's log, its data and what was acknowledged are in {}", work.display());
        }
        if options.json {
            println!("{}", serde_json::to_string(self).unwrap_or_default());
        } else {
            println!("{self}");
        }
        held
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} kills (seed {}) in {} s; {}; restart to ready p50 {} ms, p99 {} ms over {} restarts with {} stored runs",
            self.kills,
            self.seed,
            self.seconds,
            self.verdict,
            self.ready_p50_ms,
            self.ready_p99_ms,
            self.restarts,
            self.stored_runs,
        )
    }
}
