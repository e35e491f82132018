//! `cargo xtask fuzz`: the test over generated uploads, with as many as one likes.

use crate::guests;
use crate::step::{self, Step};
use crate::workspace::Workspace;

pub fn run(workspace: &Workspace, count: u64, seed: Option<u64>) -> anyhow::Result<()> {
    // What is changed are real plugins.
    guests::build_all(workspace)?;
    let test = ["test", "--workspace", "--test", "integration", "--", "generated::", "--nocapture"];
    let mut fuzz = Step::cargo(workspace, test).env("COFFERDAM_FUZZ_COUNT", count.to_string());
    if let Some(seed) = seed {
        fuzz = fuzz.env("COFFERDAM_FUZZ_SEED", seed.to_string());
    }
    step::run("fuzz", &[fuzz])
}
