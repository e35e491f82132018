//! The driver: starts, kills, starts again, and has it checked.

use crate::{
    acks,
    check::{GuestFiles, Verdict, compare},
    collect::collect,
    faults,
    judge::Met,
    place::{Loading, Place},
    powercut::Disk,
    random::Random,
    server::{Server, Setup, free_port, fresh_dir},
    stored,
};
use anyhow::{Context as _, ensure};
use serde::Serialize;
use std::{
    fmt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// How long a server is under load before it is killed.
pub const LOADED_MS: std::ops::Range<u64> = 20..1_300;
/// After one kill in so many another comes while the server is still starting, within so many milliseconds.
const EARLY_ONE_IN: u64 = 6;
const EARLY_MS: std::ops::Range<u64> = 1..250;
/// So many kills have to meet durable runs in everything that they do.
const MET_KILLS_MIN: u32 = 20;
/// Of all kills, so many in a hundred come during the very first start, over an empty directory.
const FIRST_PERCENT: u32 = 20;

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
    /// What is done to the server.
    #[arg(long, default_value = "kills")]
    mode: Mode,
    /// How often the server is killed; with faults their number decides.
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

/// What is done to the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
enum Mode {
    /// It is killed; the system keeps what it wrote.
    Kills,
    /// At each kill everything is lost that was written and not synced.
    PowerCuts,
    /// Its disk fails, and it is killed in the middle of that, or goes on.
    Faults,
}

/// What a whole test came to.
#[derive(Debug, Serialize)]
struct Report {
    seed: u64,
    mode: Mode,
    kills: u32,
    /// Bytes that were written and never synced, over all kills.
    unsynced_bytes_lost: u64,
    /// Writes and syncs that were made to fail.
    faults_made: u64,
    /// The longest from the end of a fault until runs were taken and ended again, without a restart.
    recovered_max_ms: u64,
    stored_runs: u64,
    restarts: usize,
    ready_p50_ms: u64,
    ready_p99_ms: u64,
    panics: usize,
    seconds: u64,
    met: Met,
    #[serde(flatten)]
    verdict: Verdict,
}

/// Runs the whole test. Says whether everything held.
///
/// # Errors
/// When the test itself could not be done, or the server does not start any more.
pub async fn run(options: Options) -> anyhow::Result<bool> {
    let began = Instant::now();
    let seed = options.seed.unwrap_or_else(from_the_clock);
    let mut random = Random::new(seed, 0);
    eprintln!("crash: {:?}, seed {seed}", options.mode);
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
    let mut place = Place::new(setup);
    let forgets = options.mode != Mode::Kills;
    let first_kills = if options.mode == Mode::Faults { 0 } else { options.kills * FIRST_PERCENT / 100 };
    while place.kills < first_kills {
        place.renew(forgets, &work)?;
        kill_first_start(&mut place, &mut random).await?;
    }
    place.renew(false, &work)?;
    if options.stored_runs > 0 {
        stored::prepare(&place.setup, &options.guests, options.stored_runs).await?;
    }
    if forgets {
        place.disk = Some(Disk::over(&place.setup.data_dir, &work.join("disk"))?);
    }

    let (server, _) = place.started().await?;
    let acks_file = work.join("acks.jsonl");
    let faults = options.mode == Mode::Faults;
    let mut loading = Loading::start(&place.setup, &options.guests, &acks_file, seed, faults).await?;
    let (mut restarts, mut recovered) = (Vec::new(), Vec::new());
    let server = match options.mode {
        Mode::Faults => {
            faults::rounds(&mut place, server, &mut loading, &mut random, &mut restarts, &mut recovered).await?
        }
        // The last kill is for when the client has come to its end.
        _ => {
            kill_often(&mut place, server, options.kills.saturating_sub(1), &mut loading, &mut random, &mut restarts)
                .await?
        }
    };
    random.pause(LOADED_MS).await;
    loading.end().await?;
    place.kill(server)?;
    let (server, ready) = place.started().await?;
    restarts.push(ready);

    // A disk that nobody wrote to, or that never failed, would prove nothing.
    ensure!(
        !forgets || place.syncs > 0,
        "the server does not write to the disk that forgets; is it linked statically?"
    );
    ensure!(options.mode != Mode::Faults || place.faults_made > 0, "no write and no sync has failed");
    let acks = acks::read(&acks_file)?;
    let workspaces = place.setup.data_dir.join("workspaces");
    let snapshot = collect(&place.setup.url(), &acks, &workspaces).await;
    let snapshot = snapshot.context("asking the server for what it has")?;
    let guest_files = match options.mode {
        Mode::Kills => GuestFiles::Kept,
        Mode::PowerCuts => GuestFiles::MayBeMissing,
        Mode::Faults => GuestFiles::MayBeRefused,
    };
    let verdict = compare(&acks, &snapshot, guest_files);
    let met = Met::by(&place.killed_at_us, &acks, &snapshot);
    // What no kill has met was not tested.
    ensure!(options.kills < MET_KILLS_MIN || met.everything(), "the kills did not meet everything: {met:?}");
    server.stop().await?;
    restarts.sort_unstable();
    recovered.sort_unstable();
    let report = Report {
        seed,
        mode: options.mode,
        kills: place.kills,
        unsynced_bytes_lost: place.unsynced_bytes_lost,
        faults_made: place.faults_made,
        recovered_max_ms: percentile_ms(&recovered, 100),
        stored_runs: options.stored_runs,
        restarts: restarts.len(),
        ready_p50_ms: percentile_ms(&restarts, 50),
        ready_p99_ms: percentile_ms(&restarts, 99),
        panics: place.setup.panics()?,
        seconds: began.elapsed().as_secs(),
        met,
        verdict,
    };
    Ok(report.tell(&options, &work))
}

fn from_the_clock() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::from(now.subsec_nanos()) << 20 | now.as_secs() & 0xf_ffff
}

/// The very first start makes files that a later one relies on: killed at any moment, the next must do.
async fn kill_first_start(place: &mut Place, random: &mut Random) -> anyhow::Result<()> {
    let server = place.start()?;
    random.pause(EARLY_MS).await;
    place.kill(server)?;
    let (server, _) = place.started().await.context("a start after a first start that was killed")?;
    place.kill(server)
}

/// Kills the server until it was killed so often.
async fn kill_often(
    place: &mut Place,
    mut server: Server,
    kills: u32,
    loading: &mut Loading,
    random: &mut Random,
    restarts: &mut Vec<Duration>,
) -> anyhow::Result<Server> {
    while place.kills < kills {
        random.pause(LOADED_MS).await;
        loading.goes_on()?;
        server.goes_on()?;
        place.kill(server)?;
        server = place.start()?;
        if place.kills < kills && random.between(0, EARLY_ONE_IN) == 0 {
            random.pause(EARLY_MS).await;
            place.kill(server)?;
            server = place.start()?;
        }
        restarts.push(place.setup.ready(&mut server).await?);
    }
    Ok(server)
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
        match self.mode {
            Mode::Kills => write!(f, "{} kills", self.kills)?,
            Mode::PowerCuts => {
                write!(f, "{} power cuts, {} unsynced bytes gone", self.kills, self.unsynced_bytes_lost)?
            }
            Mode::Faults => write!(
                f,
                "{} writes and syncs failed, {} kills meanwhile and after, runs again after at most {} ms, {} refusals",
                self.faults_made, self.kills, self.recovered_max_ms, self.verdict.acknowledged.refusals
            )?,
        }
        write!(
            f,
            " (seed {}) in {} s; {}; {}; restart to ready p50 {} ms, p99 {} ms over {} restarts with {} stored runs",
            self.seed,
            self.seconds,
            self.verdict,
            self.met,
            self.ready_p50_ms,
            self.ready_p99_ms,
            self.restarts,
            self.stored_runs,
        )
    }
}
