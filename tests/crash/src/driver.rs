//! The driver: starts, kills, starts again, and has it checked.

use crate::{
    acks,
    check::{GuestFiles, Verdict, compare},
    collect::collect,
    powercut::Disk,
    random::Random,
    server::{Server, Setup, free_port, fresh_dir},
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
/// After one kill in so many another comes while the server is still starting, within so many milliseconds.
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
    /// At each kill everything is lost that was written and not synced.
    #[arg(long)]
    power_cut: bool,
    /// The result as JSON.
    #[arg(long)]
    json: bool,
}

/// What a whole test came to.
#[derive(Debug, Serialize)]
struct Report {
    seed: u64,
    kills: u32,
    power_cut: bool,
    /// Bytes that were written and never synced, over all kills.
    unsynced_bytes_lost: u64,
    stored_runs: u64,
    restarts: usize,
    ready_p50_ms: u64,
    ready_p99_ms: u64,
    panics: usize,
    seconds: u64,
    #[serde(flatten)]
    verdict: Verdict,
}

/// The server's place: how it is started, and the disk that it writes to.
struct Place {
    setup: Setup,
    /// None: a disk that keeps what was written when its writer is killed.
    disk: Option<Disk>,
    starts: u64,
    kills: u32,
    unsynced_bytes_lost: u64,
}

impl Place {
    /// Makes the data directory anew.
    fn renew(&mut self, power_cut: bool, work: &Path) -> anyhow::Result<()> {
        let dir = fresh_dir(&self.setup.data_dir)?;
        self.disk = power_cut.then(|| Disk::over(&dir, &work.join("disk"))).transpose()?;
        Ok(())
    }

    fn start(&mut self) -> anyhow::Result<Server> {
        self.starts += 1;
        self.setup.env = self.disk.as_ref().map(|disk| disk.env(self.starts)).unwrap_or_default();
        self.setup.start()
    }

    fn kill(&mut self, server: Server) -> anyhow::Result<()> {
        server.kill()?;
        self.kills += 1;
        if let Some(disk) = &self.disk {
            self.unsynced_bytes_lost += disk.cut().context("cutting the power")?.unsynced_bytes;
        }
        Ok(())
    }
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
    let mut place = Place { setup, disk: None, starts: 0, kills: 0, unsynced_bytes_lost: 0 };

    let mut restarts = Vec::new();
    while place.kills < options.kills * FIRST_PERCENT / 100 {
        place.renew(options.power_cut, &work)?;
        kill_first_start(&mut place, &mut random).await?;
    }
    place.renew(false, &work)?;
    if options.stored_runs > 0 {
        stored::prepare(&place.setup, &options.guests, options.stored_runs).await?;
    }
    if options.power_cut {
        place.disk = Some(Disk::over(&place.setup.data_dir, &work.join("disk"))?);
    }

    let acks_file = work.join("acks.jsonl");
    let mut server = place.start()?;
    place.setup.ready(&mut server).await?;
    let mut loading = start_client(&options, &place.setup, &acks_file, seed).await?;
    // The last kill is for when the client has come to its end.
    while place.kills + 1 < options.kills {
        pause(&mut random, LOADED_MS).await;
        ensure!(loading.child.try_wait()?.is_none(), "the client has ended; see its message above");
        place.kill(server)?;
        server = place.start()?;
        if place.kills + 1 < options.kills && random.between(0, EARLY_ONE_IN) == 0 {
            pause(&mut random, EARLY_MS).await;
            place.kill(server)?;
            server = place.start()?;
        }
        restarts.push(place.setup.ready(&mut server).await?);
    }
    pause(&mut random, LOADED_MS).await;
    loading.end().await?;
    place.kill(server)?;
    let mut server = place.start()?;
    restarts.push(place.setup.ready(&mut server).await?);

    let acks = acks::read(&acks_file)?;
    let snapshot = collect(&place.setup.url(), &acks).await.context("asking the server for what it has")?;
    let guest_files = if options.power_cut { GuestFiles::MayBeMissing } else { GuestFiles::Kept };
    let verdict = compare(&acks, &snapshot, guest_files);
    server.stop().await?;
    restarts.sort_unstable();
    let report = Report {
        seed,
        kills: place.kills,
        power_cut: options.power_cut,
        unsynced_bytes_lost: place.unsynced_bytes_lost,
        stored_runs: options.stored_runs,
        restarts: restarts.len(),
        ready_p50_ms: percentile_ms(&restarts, 50),
        ready_p99_ms: percentile_ms(&restarts, 99),
        panics: place.setup.panics()?,
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
async fn kill_first_start(place: &mut Place, random: &mut Random) -> anyhow::Result<()> {
    let server = place.start()?;
    pause(random, EARLY_MS).await;
    place.kill(server)?;
    let mut server = place.start()?;
    place.setup.ready(&mut server).await.context("a start after a first start that was killed")?;
    place.kill(server)
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
            "{} {} (seed {}) in {} s, {} unsynced bytes gone; {}; restart to ready p50 {} ms, p99 {} ms over {} restarts with {} stored runs",
            self.kills,
            if self.power_cut { "power cuts" } else { "kills" },
            self.seed,
            self.seconds,
            self.unsynced_bytes_lost,
            self.verdict,
            self.ready_p50_ms,
            self.ready_p99_ms,
            self.restarts,
            self.stored_runs,
        )
    }
}
