//! `cofferdam run`: a component, here and now, under the same limits and rules as on a server.

use super::{
    client::{component_bytes, text_argument},
    failure::Failure,
    follow::{RunSeen, Seen},
    locally::{Host, failure},
    output::{json_line, line, note, progress},
    runs::LimitArgs,
    serve::log_to_stderr,
};
use crate::api::rest::runs::Run;
use cofferdam_core::{
    Json,
    context::ContextStatus,
    event::Envelope,
    grant::Permissions,
    run::{RunView, StopReason},
};
use cofferdam_runtime::{LocalEnd, LocalWork};
use std::path::PathBuf;

#[derive(Debug, clap::Args)]
pub(super) struct RunArgs {
    /// The component, as `cofferdam build` made it.
    file: PathBuf,
    /// What the agent gets: JSON, @FILE, or - for standard input.
    #[arg(long, value_name = "JSON|@FILE|-")]
    input: String,
    /// The directory that the agent's file tools see, if they are granted. Without it they see an empty one.
    #[arg(long, value_name = "DIR")]
    workspace: Option<PathBuf>,
    /// What the agent may do: {"tools": ["file.*"], "state": "read_write", "workspace": "read", "agents": ["echo"], "human": true}, or
    /// @FILE. Without it, nothing. Here there are only the tools file.*, it can start itself only, as "agent", and nobody
    /// answers its questions, unless --answer does: they expire. `cofferdam test` has cases in which others answer.
    #[arg(long, value_name = "JSON|@FILE")]
    grant: Option<String>,
    /// What to answer when the agent asks people: JSON, once for each question, in order.
    #[arg(long, value_name = "JSON")]
    answer: Vec<String>,
    /// Of a tool plugin: the tool to call, with the input as its arguments.
    #[arg(long, value_name = "NAME")]
    tool: Option<String>,
    #[command(flatten)]
    limits: LimitArgs,
}

pub(super) async fn run(args: RunArgs, json: bool) -> Result<(), Failure> {
    log_to_stderr("warn")?;
    let input = input_argument(&args.input)?;
    let grant = args.grant.as_deref().map(grant_argument).transpose()?;
    let (limits, answers) = (args.limits.asked(), answers(&args.answer)?);
    let here = Here {
        component: component_bytes(&args.file)?,
        shown: args.file.display().to_string(),
        workspace: args.workspace,
        grant,
        grants_needs: false,
        work: LocalWork { input, tool: args.tool, limits, answers },
    };
    self::here(here, json).await
}

/// One run of a component, here and now.
pub(super) struct Here {
    /// The component.
    pub component: Vec<u8>,
    /// What it is called in messages.
    pub shown: String,
    /// The directory that is the workspace; an empty one if not said.
    pub workspace: Option<PathBuf>,
    /// What is granted.
    pub grant: Option<Permissions>,
    /// Whether all that the plugin needs is granted, if nothing is said.
    pub grants_needs: bool,
    /// What is done.
    pub work: LocalWork,
}

/// Runs a component, prints its events as they come, and then the run.
pub(super) async fn here(here: Here, json: bool) -> Result<(), Failure> {
    if let Some(dir) = here.workspace.as_ref().filter(|dir| !dir.is_dir()) {
        return Err(Failure::Usage(format!("there is no directory {}; make it first", dir.display())));
    }
    let host = Host::start(here.workspace, None).await?;
    let mut on_event = |envelope: &Envelope| {
        let text = serde_json::to_string(envelope).unwrap_or_default();
        // Our own events always have this shape.
        if let (false, Ok(seen)) = (json, serde_json::from_str::<Seen<'_>>(&text)) {
            note(&seen.shown());
        }
    };
    let compiling = progress(format!("compiling {}", here.shown), json);
    let about = host.push(here.component).await?;
    drop(compiling);
    let if_not_said = || if here.grants_needs { about.needs.clone() } else { Permissions::none() };
    let grant = here.grant.unwrap_or_else(if_not_said);
    // As in a run on a server, what it needs and is not granted is denied.
    let all_of_it = (grant != about.needs).then(|| Json::of(&about.needs));
    host.local.grant(grant).await.map_err(failure)?;
    let LocalEnd { view, gave_up } = host.local.run(here.work, &mut on_event).await.map_err(failure)?;
    if let Some(why) = gave_up {
        note(&format!("cancelled: {why}; give one more with --answer"));
    }
    let next = if json { None } else { next_step(&view, &here.shown, all_of_it.as_ref()) };
    let ended = print(view, json);
    if let Some(next) = next {
        note(&format!("next: {next}"));
    }
    ended
}

/// What to do about a run that failed for something that its author can mend on the command line.
fn next_step(view: &RunView, component: &str, all_of_it: Option<&Json>) -> Option<String> {
    match (view.stop_reason?, view.error.as_ref()?.code.as_str()) {
        // Where it was not declared, a larger grant is of no use.
        (StopReason::Denied, _) if view.error.as_ref()?.message.contains("--grant '") => {
            Some(format!("it asks for more than it was granted; all of it is: --grant '{}'", all_of_it?.as_str()))
        }
        (_, "invalid_input") => Some(format!("`cofferdam inspect {component}` shows the schema of its input")),
        _ => None,
    }
}

/// An input of the command line.
pub(super) fn input_argument(argument: &str) -> Result<Json, Failure> {
    Json::parse(text_argument(argument)?)
        .map_err(|error| Failure::Usage(format!("--input is {error}; a text needs its own quotes: --input '\"text\"'")))
}

/// Answers to questions, of the command line.
pub(super) fn answers(texts: &[String]) -> Result<Option<Vec<Json>>, Failure> {
    let answers = texts
        .iter()
        .map(|text| Json::parse(text.as_str()).map_err(|error| Failure::Usage(format!("--answer {text} is {error}"))));
    let answers: Vec<_> = answers.collect::<Result<_, _>>()?;
    Ok((!answers.is_empty()).then_some(answers))
}

/// A grant of the command line.
pub(super) fn grant_argument(argument: &str) -> Result<Permissions, Failure> {
    let text = text_argument(argument)?;
    crate::api::parse_object(text.as_bytes()).map_err(|error| {
        Failure::Usage(format!("--grant is not one: {error}; write {{\"tools\": [\"file.*\"], \"state\": \"none\"}}"))
    })
}

fn print(view: RunView, json: bool) -> Result<(), Failure> {
    let output = view.output.clone();
    let text = serde_json::to_string(&Run::with(view, ContextStatus::Cleaned))
        .map_err(|error| Failure::Host(error.to_string()))?;
    let seen: RunSeen<'_> = serde_json::from_str(&text).map_err(|error| Failure::Host(error.to_string()))?;
    if json {
        line(&json_line(&text))?;
    } else {
        note(&seen.outline());
        if let Some(output) = output {
            line(&json_line(output.as_str()))?;
        }
    }
    seen.result()
}
