//! What an agent costs in each language: its author from nothing to the first run that has finished, and the host for a small
//! run, for loading its machine code, and for a guest that lives.
//!
//! An author's commands are those of `cofferdam`, in a folder of their own. What begins cold has neither a toolchain nor
//! anything that cargo has built, and fetches both; what begins warm has them, and builds again after a change.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::cast_precision_loss,
    clippy::indexing_slicing,
    reason = "a benchmark fails loudly, opens bare stores to compare with, and prints"
)]

mod embedded;
#[allow(dead_code, reason = "shared with benchmarks that tell percentiles")]
mod figures;

use cofferdam_core::{
    identity::Operator,
    run::StopReason,
    storage::{MemoryStorage, Storage},
};
use embedded::{Bare, Host, own_bytes};
use figures::{asked, row};
use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};
use tempfile::TempDir;

/// A language: its name, where the agent of a new project is, and an agent that waits for so long in short pieces, without
/// being put away, and then returns what it was given. Without a wait it asks the host for nothing.
struct Language {
    name: &'static str,
    file: &'static str,
    waits: &'static str,
    /// Runs that are measured one after the other, and rounds of it.
    runs: u32,
    rounds: usize,
}

const LANGUAGES: [Language; 3] = [
    Language {
        name: "rust",
        file: "src/lib.rs",
        waits: r#"
use cofferdam_sdk::{Agent, Context, Error, export_agent};
use std::time::Duration;

#[derive(serde::Deserialize, schemars::JsonSchema)]
struct Input {
    ms: u64,
}

struct Waits;

impl Agent for Waits {
    type Input = Input;
    type Output = u64;
    const DESCRIPTION: &'static str = "Waits.";

    fn run(ctx: &Context, input: Input) -> Result<u64, Error> {
        let mut left = input.ms;
        while left > 0 {
            let piece = left.min(500);
            ctx.sleep(Duration::from_millis(piece))?;
            left -= piece;
        }
        Ok(input.ms)
    }
}

export_agent!(Waits);
"#,
        runs: 500,
        rounds: 50,
    },
    Language {
        name: "python",
        file: "src/agent.py",
        waits: r#"
import time
from dataclasses import dataclass

from cofferdam import Context, agent


@dataclass
class Input:
    ms: int


@agent()
def run(ctx: Context, input: Input) -> int:
    """Waits."""
    left = input.ms
    while left > 0:
        piece = min(left, 500)
        ctx.sleep_until(time.time() + piece / 1000)
        left -= piece
    return input.ms
"#,
        runs: 10,
        rounds: 20,
    },
    Language {
        name: "javascript",
        file: "src/agent.js",
        waits: r#"
import { agent, s } from "cofferdam-sdk";

export default agent(
  { description: "Waits.", input: s.object({ ms: s.integer() }), output: s.integer() },
  (ctx, { ms }) => {
    for (let left = ms; left > 0; left -= 500) ctx.sleepUntil(Date.now() + Math.min(left, 500));
    return ms;
  },
);
"#,
        runs: 50,
        rounds: 20,
    },
];

/// Guests that live at the same time.
const LIVE: u64 = 50;
/// How often machine code is loaded.
const LOADS: usize = 10;

/// A project, with where its tools are.
struct Author {
    dir: TempDir,
    toolchains: Option<PathBuf>,
    target: PathBuf,
}

impl Author {
    /// With the toolchains of this machine, or with none.
    fn new(is_cold: bool) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let shared = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("a target directory").join("author");
        let target = if is_cold { dir.path().join("target") } else { shared };
        Self { toolchains: is_cold.then(|| dir.path().join("toolchains")), target, dir }
    }

    fn project(&self, language: &Language) -> PathBuf {
        self.dir.path().join(format!("bench-{}", language.name))
    }

    /// What a command of `cofferdam` prints.
    fn cofferdam(&self, dir: &Path, args: &[&str]) -> String {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cofferdam"));
        command.args(args).current_dir(dir).env("CARGO_TARGET_DIR", &self.target).stdin(Stdio::null());
        if let Some(toolchains) = &self.toolchains {
            command.env("COFFERDAM_TOOLCHAINS", toolchains);
        }
        let output = command.output().expect("run");
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("UTF-8")
    }

    fn build(&self, language: &Language) -> PathBuf {
        let built = self.cofferdam(&self.project(language), &["build", "--json"]);
        let built: serde_json::Value = serde_json::from_str(&built).expect("JSON");
        PathBuf::from(built["component"].as_str().expect("a component"))
    }

    fn run(&self, component: &Path, input: &str) {
        let component = component.to_str().expect("UTF-8");
        let run = self.cofferdam(
            self.dir.path(),
            &["run", component, "--input", input, "--grant", r#"{"state":"read_write"}"#, "--json"],
        );
        assert!(run.contains(r#""stop_reason":"completed""#), "{run}");
    }

    /// From `new` to the end of the first run.
    fn first_run(&self, language: &Language) -> Duration {
        let begun = Instant::now();
        let name = format!("bench-{}", language.name);
        self.cofferdam(self.dir.path(), &["new", &name, "--lang", language.name]);
        self.run(&self.build(language), r#"{"name":"Ada"}"#);
        begun.elapsed()
    }

    /// From a change of the agent to the end of its run; and the component.
    fn changed(&self, language: &Language) -> (Duration, Vec<u8>) {
        std::fs::write(self.project(language).join(language.file), language.waits).expect("written");
        let begun = Instant::now();
        let component = self.build(language);
        self.run(&component, r#"{"ms":0}"#);
        (begun.elapsed(), std::fs::read(component).expect("a component"))
    }
}

/// The author's time, and the component.
fn author(language: &Language) -> Vec<u8> {
    let warm = Author::new(false);
    let first = warm.first_run(language);
    let (changed, component) = warm.changed(language);
    if asked("author") {
        let cold = Author::new(true).first_run(language);
        row("  new to the first finished run, cold", cold.as_secs_f64(), "s", None);
        row("  new to the first finished run, warm", first.as_secs_f64(), "s", None);
        row("  a change to its finished run", changed.as_secs_f64(), "s", None);
        row("  the component", component.len() as f64 / f64::from(1 << 20), "MiB", None);
    }
    component
}

const NO_WAIT: &str = r#"{"ms":0}"#;

/// Open, call and drop, bare and through the spine, in turns; the medians.
async fn runs(language: &Language, component: &[u8], host: &Host) {
    let bare = Bare::new(component);
    let (mut bare_us, mut ratios) = (Vec::new(), Vec::new());
    for _ in 0..language.rounds {
        let begun = Instant::now();
        for _ in 0..language.runs {
            assert_eq!(bare.run(NO_WAIT).await, "0");
        }
        let bare_took = begun.elapsed().as_secs_f64();
        let begun = Instant::now();
        for _ in 0..language.runs {
            host.here(language.name, NO_WAIT).await;
        }
        ratios.push(begun.elapsed().as_secs_f64() / bare_took);
        bare_us.push(bare_took * 1e6 / f64::from(language.runs));
    }
    let (bare, ratio) = (median(&mut bare_us), median(&mut ratios));
    row("  open, call and drop, bare wasmtime", bare, "µs", None);
    row("  the same through the spine, storage in memory", bare * ratio, "µs", None);
    row("  the spine against bare wasmtime", ratio, "x", None);
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// The first run after a start, which loads the machine code, against the second.
async fn load(language: &Language, dir: &Path, storage: &Arc<dyn Storage>) {
    let mut times = Vec::new();
    for _ in 0..LOADS {
        let host = Host::start(dir, storage.clone()).await;
        let begun = Instant::now();
        host.here(language.name, NO_WAIT).await;
        let first = begun.elapsed();
        host.here(language.name, NO_WAIT).await;
        let second = begun.elapsed().saturating_sub(first);
        times.push(first.saturating_sub(second).as_secs_f64() * 1e3);
    }
    row("  loading its machine code", median(&mut times), "ms", None);
}

/// What a guest takes of the host that has begun and waits, of many at once.
async fn live(language: &Language, host: &Host) {
    let before = own_bytes();
    let mut runs = Vec::new();
    for n in 0..LIVE {
        // Each user may have a few at once only.
        let user = format!("user-{n}").parse().expect("a user");
        let scope = Operator::host().on_behalf_of(&user);
        runs.push(host.runtime.accept(&scope, Host::submission(language.name, r#"{"ms":5000}"#)).await.expect("taken"));
    }
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(host.runtime.sandboxes_open(), LIVE, "all of them live");
    let each = own_bytes().saturating_sub(before) as f64 / LIVE as f64 / 1024.0;
    for run in runs {
        assert_eq!(run.ended().await.stop_reason, Some(StopReason::Completed));
    }
    row("  memory for each live guest", each, "KiB", None);
}

fn main() {
    let tokio = tokio::runtime::Runtime::new().expect("a runtime");
    for language in &LANGUAGES {
        println!("\n{}", language.name);
        let component = author(language);
        tokio.block_on(async {
            let dir = tempfile::tempdir().expect("a directory");
            let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::default());
            let host = Host::start(dir.path(), storage.clone()).await;
            let begun = Instant::now();
            host.push(language.name, component.clone()).await;
            row("  a push, compiled", begun.elapsed().as_secs_f64(), "s", None);
            if asked("runs") {
                runs(language, &component, &host).await;
            }
            if asked("live") {
                live(language, &host).await;
            }
            drop(host);
            if asked("load") {
                load(language, dir.path(), &storage).await;
            }
        });
    }
}
