//! `cargo xtask test`: what must hold before a change is merged, the quicker checks first.

use crate::crash;
use crate::guests;
use crate::step::{self, Step};
use crate::workspace::{GUEST_WORKSPACES, Workspace};
use anyhow::Context as _;
use std::path::{Path, PathBuf};

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
    step::run("python and javascript tests", &other_languages(workspace)?)?;
    guests::build_all(workspace)?;
    step::run("tests", &[Step::cargo(workspace, ["test", "--workspace"]).args(cargo_test)])?;
    // Whoever names a test does not mean this one.
    if cargo_test.is_empty() { step::run("crash", &crash::steps(workspace)?) } else { Ok(()) }
}

/// The unit tests of the SDKs and plugins that are not in Rust, by the languages' own means.
fn other_languages(workspace: &Workspace) -> anyhow::Result<Vec<Step>> {
    let mut folders = vec![workspace.root.join("guest-sdk/python"), workspace.root.join("guest-sdk/javascript")];
    folders.extend(workspace.guests()?);
    let mut steps = Vec::new();
    for folder in folders {
        if folder.join("pyproject.toml").is_file() && folder.join("tests/__init__.py").is_file() {
            let folder = workspace.shown(&folder);
            let step = Step::program(workspace, Path::new("python3"), ["-m", "unittest", "discover", "-q"]);
            // What Python would leave beside the sources is no part of them.
            steps.push(step.args(["-s", &folder, "-t", &folder]).env("PYTHONDONTWRITEBYTECODE", "1"));
        }
        let files = test_files(&folder.join("test"))?;
        if folder.join("package.json").is_file() && !files.is_empty() {
            let files = files.iter().map(|file| workspace.shown(file));
            steps.push(Step::program(workspace, Path::new("node"), ["--test"]).args(files));
        }
    }
    Ok(steps)
}

/// The test files of a folder for node, of which older versions know no patterns.
fn test_files(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let entries = std::fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?;
    let mut files = entries.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>()?;
    files.retain(|file| file.to_str().is_some_and(|file| file.ends_with(".test.js")));
    files.sort();
    Ok(files)
}
