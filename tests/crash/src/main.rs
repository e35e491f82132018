//! The command line of the crash test; `cargo xtask crash` runs it.

#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a developer's command talks to the terminal")]

use clap::Parser;
use crash::{client, driver, writer};
use std::process::ExitCode;

#[derive(Parser)]
enum Role {
    /// Starts a server, kills it again and again under load, and checks what it says in the end.
    Drive(driver::Options),
    /// Loads a server until standard input ends, and writes down what it acknowledges.
    Load(client::Options),
    /// Writes to a disk that forgets, for the test of that disk.
    #[command(hide = true)]
    Write(writer::Options),
}

fn main() -> ExitCode {
    let role = Role::parse();
    let done = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(anyhow::Error::from);
    let done = done.and_then(|threads| {
        threads.block_on(async {
            match role {
                Role::Drive(options) => driver::run(options).await,
                Role::Load(options) => client::run(options).await.map(|()| true),
                Role::Write(options) => writer::run(options).await.map(|()| true),
            }
        })
    });
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("crash: {error:#}");
            ExitCode::FAILURE
        }
    }
}
