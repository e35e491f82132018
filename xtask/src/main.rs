//! Developer commands of this repository: `cargo xtask demo`, `test`, `fuzz`, `crash`, `guests`, `bench`, `openapi`.

#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a developer's command talks to the terminal")]

mod bench;
mod crash;
mod demo;
mod fuzz;
mod guests;
mod openapi;
mod step;
mod test;
mod workspace;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

use crate::workspace::Workspace;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Developer commands of this repository")]
enum Task {
    /// Build the host and run the example agent on it, from upload to report.
    Demo {
        /// Run the agent on this CSV file instead of the ones that come with it.
        #[arg(long, value_name = "FILE.csv")]
        input: Option<PathBuf>,
    },
    /// Everything that must hold before a change is merged: format, lints, docs, tests.
    Test {
        /// Only this half of it.
        #[arg(long)]
        only: Option<test::Half>,
        /// Arguments for `cargo test`, after `--`: a test's name, for example.
        #[arg(last = true)]
        cargo_test: Vec<String>,
    },
    /// Push generated and changed components to a host, and compare what it says of them with the validator.
    Fuzz {
        /// How many.
        #[arg(long, value_name = "N")]
        count: u64,
        /// Where the generator begins; the same seed makes the same components.
        #[arg(long, value_name = "S")]
        seed: Option<u64>,
    },
    /// Kill a server at random moments under load, and compare what it then says with what it had acknowledged.
    Crash(crash::Options),
    /// Build every guest under `plugins` and `tests/guests` to `target/guests/NAME.wasm`.
    Guests,
    /// Run the benchmarks.
    Bench {
        /// Only this benchmark.
        #[arg(long, value_name = "NAME", default_value = "*")]
        bench: String,
        /// Arguments for the benchmark itself, after `--`: `--quick`, for example.
        #[arg(last = true)]
        harness: Vec<String>,
    },
    /// Write host/server/openapi.json anew from the code.
    Openapi,
}

fn main() -> ExitCode {
    let task = Task::parse();
    let done = Workspace::find().and_then(|workspace| match task {
        Task::Demo { input } => demo::run(&workspace, input.as_deref()),
        Task::Test { only, cargo_test } => test::run(&workspace, only, &cargo_test),
        Task::Fuzz { count, seed } => fuzz::run(&workspace, count, seed),
        Task::Crash(options) => crash::run(&workspace, &options),
        Task::Guests => guests::build_all(&workspace),
        Task::Bench { bench, harness } => bench::run(&workspace, &bench, &harness),
        Task::Openapi => openapi::run(&workspace),
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
