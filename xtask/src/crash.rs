//! `cargo xtask crash`: the server is killed at random moments under load, and must stand by all that it acknowledged; what
//! durable runs do must be done once.

use crate::guests;
use crate::step::{self, Step};
use crate::workspace::{Profile, Workspace};

/// How often the server is killed within `cargo xtask test`.
const KILLS: u32 = 50;
/// The same with a power cut at each kill.
const POWER_CUTS: u32 = 30;
/// How many runs the database has before the first kill: a start must not take longer for what is long over.
const STORED_RUNS: u64 = 100_000;

#[derive(clap::Args)]
pub struct Options {
    /// How often the server is killed.
    #[arg(long, value_name = "N")]
    kills: Option<u32>,
    /// Where the random choices begin; printed by each run.
    #[arg(long, value_name = "S")]
    seed: Option<u64>,
    /// At each kill everything is lost that was written and not synced.
    #[arg(long)]
    power_cut: bool,
    /// The disk fails for a while, in several ways, and the server is killed in the middle of that, or goes on.
    #[arg(long, conflicts_with_all = ["power_cut", "kills"])]
    faults: bool,
    /// How many finished runs the database has before the first kill [default: 100000, with --power-cut 0].
    #[arg(long, value_name = "N")]
    stored_runs: Option<u64>,
    /// The result as JSON, on the last line.
    #[arg(long)]
    json: bool,
}

pub fn run(workspace: &Workspace, options: &Options) -> anyhow::Result<()> {
    guests::build_all(workspace)?;
    let drive = Drive::new(workspace)?;
    let mut step = if options.faults {
        drive.faults()
    } else if options.power_cut {
        drive.power_cuts(options.kills.unwrap_or(POWER_CUTS), options.stored_runs.unwrap_or(0))
    } else {
        drive.kills(options.kills.unwrap_or(KILLS), options.stored_runs.unwrap_or(STORED_RUNS))
    };
    if let Some(seed) = options.seed {
        step = step.args(["--seed", &seed.to_string()]);
    }
    if options.json {
        step = step.args(["--json"]);
    }
    step::run("crash", &[step])
}

/// What `cargo xtask test` runs, on guests that are built.
pub fn steps(workspace: &Workspace) -> anyhow::Result<Vec<Step>> {
    let drive = Drive::new(workspace)?;
    Ok(vec![drive.kills(KILLS, STORED_RUNS), drive.power_cuts(POWER_CUTS, 0), drive.faults()])
}

/// How the crash test is started.
struct Drive<'a> {
    workspace: &'a Workspace,
    binary: std::path::PathBuf,
    server: String,
}

impl<'a> Drive<'a> {
    fn new(workspace: &'a Workspace) -> anyhow::Result<Self> {
        let server = workspace.shown(&workspace.build_host(Profile::Dev)?);
        Ok(Self { workspace, binary: workspace.build_crash_test()?, server })
    }

    fn kills(&self, kills: u32, stored_runs: u64) -> Step {
        self.step("kills", kills, stored_runs)
    }

    fn power_cuts(&self, kills: u32, stored_runs: u64) -> Step {
        self.step("power-cuts", kills, stored_runs)
    }

    /// As often as there are faults and ways for them to end.
    fn faults(&self) -> Step {
        self.step("faults", 1, 0)
    }

    fn step(&self, mode: &str, kills: u32, stored_runs: u64) -> Step {
        let workspace = self.workspace;
        let work = workspace.shown(&workspace.target.join("crash").join(mode));
        let guests = workspace.shown(&workspace.guests_dir());
        Step::program(workspace, &self.binary, ["drive", "--server", &self.server, "--guests", &guests]).args([
            "--mode",
            mode,
            "--work",
            &work,
            "--kills",
            &kills.to_string(),
            "--stored-runs",
            &stored_runs.to_string(),
        ])
    }
}
