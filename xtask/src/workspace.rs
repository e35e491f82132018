//! Where things are: the root, the target folder, the host's binary, the guests.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow};
use serde_json::Value;

use crate::step::{Step, timed};

/// The workspaces whose crates are compiled to components. They are apart from the host's because they are for another
/// target.
pub const GUEST_WORKSPACES: [&str; 2] = ["plugins", "tests/guests"];

pub struct Workspace {
    pub root: PathBuf,
    /// Cargo's target folder, wherever the user's environment and configuration put it.
    pub target: PathBuf,
}

/// How much optimizing the host's binary gets.
#[derive(Clone, Copy, PartialEq)]
pub enum Profile {
    Dev,
    Release,
}

impl Workspace {
    pub fn find() -> anyhow::Result<Self> {
        // A step that is not in a workspace yet: cargo looks upwards from the current folder, as it did to run us.
        let here = Workspace { root: std::env::current_dir()?, target: PathBuf::new() };
        let metadata = Step::cargo(&here, ["metadata", "--no-deps", "--format-version", "1"]).output()?;
        let metadata: Value = serde_json::from_slice(&metadata).context("`cargo metadata` did not print JSON")?;
        let path = |name: &str| {
            metadata
                .get(name)
                .and_then(Value::as_str)
                .map(PathBuf::from)
                .with_context(|| format!("`cargo metadata` names no {name}: run this from the repository's root"))
        };
        Ok(Workspace { root: path("workspace_root")?, target: path("target_directory")? })
    }

    /// A cargo command for a workspace of guests, with a target folder of its own beside the host's.
    pub fn guest_cargo<const N: usize>(&self, args: [&str; N]) -> Step {
        Step::cargo(self, args).env("CARGO_TARGET_DIR", self.shown(&self.guests_dir()))
    }

    /// Where the finished components are: `NAME.wasm`, for the tests, the benchmarks and the demo.
    pub fn guests_dir(&self) -> PathBuf {
        self.target.join("guests")
    }

    /// Builds the host and gives the path of its binary.
    pub fn build_host(&self, profile: Profile) -> anyhow::Result<PathBuf> {
        // Not `-p cofferdam-server`: the workspace's other members turn on features of shared dependencies, so cargo
        // would build the engine a second time for the tests.
        let mut step = Step::cargo(self, ["build", "--workspace", "--bin", "cofferdam"]);
        if profile == Profile::Release {
            step = step.args(["--release"]);
        }
        timed("host", || {
            println!("   {step}");
            if !self.target.join(if profile == Profile::Dev { "debug" } else { "release" }).join("cofferdam").exists() {
                println!("   (the first time it compiles the WebAssembly engine: some ten minutes on two cores)");
            }
            let messages = step
                .clone()
                .args(["--message-format=json-render-diagnostics"])
                .output()
                .with_context(|| format!("the host does not build; once it is mended, repeat it with: {step}"))?;
            executable(&String::from_utf8_lossy(&messages), "cofferdam")
                .ok_or_else(|| anyhow!("cargo did not say where it put the host's binary: run `{step}` and look"))
        })
    }

    /// Builds the crash test and gives the path of its binary.
    pub fn build_crash_test(&self) -> anyhow::Result<PathBuf> {
        let step = Step::cargo(self, ["build", "--workspace", "--bin", "crash"]);
        timed("crash test", || {
            println!("   {step}");
            let messages = step.clone().args(["--message-format=json-render-diagnostics"]).output()?;
            executable(&String::from_utf8_lossy(&messages), "crash")
                .ok_or_else(|| anyhow!("cargo did not say where it put the crash test: run `{step}` and look"))
        })
    }

    /// The folders of all guests, in whatever language.
    pub fn guests(&self) -> anyhow::Result<Vec<PathBuf>> {
        let mut guests = Vec::new();
        for workspace in GUEST_WORKSPACES {
            let dir = self.root.join(workspace);
            for folder in folders_in(&dir)? {
                if is_guest(&folder) {
                    guests.push(folder);
                } else if !folder.ends_with("target") {
                    // A folder of several that belong together.
                    guests.extend(folders_in(&folder)?.into_iter().filter(|folder| is_guest(folder)));
                }
            }
        }
        guests.sort();
        Ok(guests)
    }

    /// A path as it is shown: from the root where it lies under it, since that is where commands run.
    pub fn shown(&self, path: &Path) -> String {
        path.strip_prefix(&self.root).unwrap_or(path).display().to_string()
    }
}

/// Whether a folder holds a project that makes a component.
fn is_guest(folder: &Path) -> bool {
    let has = |name: &str| folder.join(name).is_file();
    (has("Cargo.toml") && folder.join("src").is_dir()) || has("pyproject.toml") || has("package.json")
}

fn folders_in(dir: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let cannot = || format!("cannot list {}", dir.display());
    let entries = std::fs::read_dir(dir).with_context(cannot)?;
    let paths = entries.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>().with_context(cannot)?;
    Ok(paths.into_iter().filter(|path| path.is_dir()).collect())
}

/// The binary of this name that cargo reports among its messages.
fn executable(messages: &str, binary: &str) -> Option<PathBuf> {
    messages
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|message| message.pointer("/target/name").is_some_and(|name| name == binary))
        .find_map(|message| message.get("executable")?.as_str().map(PathBuf::from))
}
