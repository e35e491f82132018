//! `cargo xtask crash`: the server is killed at random moments under load, and must stand by all that it acknowledged.

use crate::guests;
use crate::step::{self, Step};
use crate::workspace::{Profile, Workspace};

/// How often the server is killed within `cargo xtask test`.
const KILLS: u32 = 50;
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
    /// How many finished runs the database has before the first kill.
    #[arg(long, value_name = "N", default_value_t = STORED_RUNS)]
    stored_runs: u64,
    /// The result as JSON, on the last line.
    #[arg(long)]
    json: bool,
}

pub fn run(workspace: &Workspace, options: &Options) -> anyhow::Result<()> {
    guests::build_all(workspace)?;
    let drive = Drive::new(workspace)?;
    let mut step = drive.step("kills", options.kills.unwrap_or(KILLS), options.stored_runs);
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
    Ok(vec![drive.step("kills", KILLS, STORED_RUNS)])
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

    fn step(&self, kind: &str, kills: u32, stored_runs: u64) -> Step {
        let workspace = self.workspace;
        let work = workspace.shown(&workspace.target.join("crash").join(kind));
        let guests = workspace.shown(&workspace.guests_dir());
        Step::program(workspace, &self.binary, ["drive", "--server", &self.server, "--guests", &guests]).args([
            "--work",
            &work,
            "--kills",
            &kills.to_string(),
            "--stored-runs",
            &stored_runs.to_string(),
        ])
    }
}
