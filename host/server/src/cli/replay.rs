//! `cofferdam replay`: execute a run that has ended again, and show the first difference.

use super::{
    client::{As, Client, ClientArgs, file_bytes},
    failure::Failure,
    output::{json_line, line, printable, progress},
};
use clap::Args;
use reqwest::{Method, header};
use serde::Deserialize;
use std::path::PathBuf;

#[derive(Debug, Args)]
pub(super) struct ReplayArgs {
    #[command(flatten)]
    client: ClientArgs,
    /// The run.
    id: String,
    /// Another build of the agent, instead of the one that the run had.
    #[arg(long, value_name = "FILE")]
    plugin: Option<PathBuf>,
}

#[derive(Deserialize)]
struct Replay {
    digest: String,
    reached: String,
    difference: Option<Difference>,
    calls: u64,
    events: u64,
    elapsed_us: u64,
}

#[derive(Deserialize)]
struct Difference {
    aspect: String,
    number: Option<u64>,
    recorded: Option<String>,
    now: Option<String>,
}

impl Difference {
    fn place(&self) -> String {
        let what = if self.aspect == "record" { "the record of call" } else { &self.aspect };
        self.number.map_or_else(|| what.to_owned(), |number| format!("{what} {number}"))
    }
}

pub(super) async fn run(args: ReplayArgs, json: bool) -> Result<(), Failure> {
    let client = Client::new(args.client)?;
    let request = client.request(As::User, Method::POST, ["v1", "runs", &args.id, "replay"])?;
    let request = match args.plugin {
        Some(file) => request.header(header::CONTENT_TYPE, "application/wasm").body(file_bytes(&file)?),
        None => request,
    };
    let replaying = progress(format!("replaying {}", args.id), json);
    let answer = client.text(request).await?;
    drop(replaying);
    let replay: Replay = client.read(&answer)?;
    if json {
        line(&json_line(&answer))?;
    } else {
        line(&shown(&replay))?;
    }
    match replay.difference {
        None => Ok(()),
        Some(_) => Err(Failure::Run),
    }
}

fn shown(replay: &Replay) -> String {
    let side = |side: &Option<String>| printable(side.as_deref().unwrap_or("(nothing)")).into_owned();
    let ms = replay.elapsed_us / 1_000;
    let with = format!("with {}, in {ms} ms", printable(&replay.digest));
    match &replay.difference {
        Some(difference) => format!(
            "differs   {} {with}\n  recorded  {}\n  now       {}",
            printable(&difference.place()),
            side(&difference.recorded),
            side(&difference.now)
        ),
        None => {
            let (calls, events) = (replay.calls, replay.events);
            let reached = if replay.reached == "end" { "to its end" } else { "to where it was stopped" };
            format!("same      {calls} calls of its record and {events} events of its own, {reached}, {with}")
        }
    }
}
