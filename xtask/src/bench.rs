//! `cargo xtask bench`: the benchmarks, on guests that are up to date.

use crate::guests;
use crate::step::{self, Step};
use crate::workspace::{Profile, Workspace};

pub fn run(workspace: &Workspace, bench: &str, harness: &[String]) -> anyhow::Result<()> {
    // The release host, since the benchmarks link the same engine.
    guests::build_all_with(workspace, Profile::Release)?;
    let mut cargo = Step::cargo(workspace, ["bench", "--workspace", "--bench", bench]);
    if !harness.is_empty() {
        cargo = cargo.args(["--"]).args(harness);
    }
    step::run("bench", &[cargo])
}
