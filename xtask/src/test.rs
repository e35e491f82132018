//! `cargo xtask test`: what must hold before a change is merged, the quicker checks first.

use crate::crash;
use crate::guests;
use crate::step::{self, Step};
use crate::workspace::{GUEST_WORKSPACES, Workspace};

/// A part that can be run alone.
#[derive(Clone, Copy, PartialEq, clap::ValueEnum)]
pub enum Half {
    /// Format, lints and docs.
    Lints,
    /// The guests and the tests.
    Tests,
}

pub fn run(workspace: &Workspace, only: Option<Half>, cargo_test: &[String]) -> anyhow::Result<()> {
    // Both halves compile for it, and a missing target should be heard of at once.
    guests::ensure_target()?;
    if only != Some(Half::Tests) {
        lints(workspace)?;
    }
    if only != Some(Half::Lints) {
        tests(workspace, cargo_test)?;
    }
    Ok(())
}

fn lints(workspace: &Workspace) -> anyhow::Result<()> {
    let manifests = GUEST_WORKSPACES.map(|guests| format!("{guests}/Cargo.toml"));

    let mut fmt = vec![Step::cargo(workspace, ["fmt", "--all", "--check"])];
    fmt.extend(manifests.iter().map(|m| Step::cargo(workspace, ["fmt", "--all", "--check", "--manifest-path", m])));
    step::run("fmt", &fmt)?;

    let clippy = manifests.iter().map(|manifest| {
        workspace
            .guest_cargo(["clippy", "--manifest-path", manifest, "--workspace", "--target", guests::TARGET])
            .args(["--", "-D", "warnings"])
    });
    step::run("guest clippy", &clippy.collect::<Vec<_>>())?;

    let clippy = Step::cargo(workspace, ["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]);
    step::run("clippy", &[clippy])?;

    let doc = Step::cargo(workspace, ["doc", "--no-deps", "--workspace"]).env("RUSTDOCFLAGS", "-D warnings");
    step::run("doc", &[doc])
}

fn tests(workspace: &Workspace, cargo_test: &[String]) -> anyhow::Result<()> {
    // The plugins' own unit tests run on this machine, not in a sandbox. Test guests have none: they are the tests.
    let plugins = workspace.guest_cargo(["test", "--manifest-path", "plugins/Cargo.toml", "--workspace"]);
    step::run("plugin tests", &[plugins])?;
    guests::build_all(workspace)?;
    step::run("tests", &[Step::cargo(workspace, ["test", "--workspace"]).args(cargo_test)])?;
    // Whoever names a test does not mean this one.
    if cargo_test.is_empty() { step::run("crash", &crash::steps(workspace)?) } else { Ok(()) }
}
