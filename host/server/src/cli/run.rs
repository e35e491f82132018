//! `cofferdam run`: a component, here and now, under the same limits and rules as on a server.

use super::{
    client::{file_bytes, text_argument},
    failure::Failure,
    follow::{RunSeen, Seen},
    output::{json_line, line, note, spinner},
    runs::LimitArgs,
    serve::log_to_stderr,
};
use crate::api::{problem::Problem, rest::runs::Run};
use cofferdam_core::{
    Json,
    context::ContextStatus,
    event::Envelope,
    grant::Permissions,
    run::{RunView, StopReason},
};
use cofferdam_runtime::{LocalError, LocalOptions, run_local};
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
    /// @FILE. Without it, nothing. Here it can start itself only, as "agent", and nobody
    /// answers its questions: they expire.
    #[arg(long, value_name = "JSON|@FILE")]
    grant: Option<String>,
    #[command(flatten)]
    limits: LimitArgs,
}

pub(super) async fn run(args: RunArgs, json: bool) -> Result<(), Failure> {
    log_to_stderr("warn")?;
    let input = Json::parse(text_argument(&args.input)?).map_err(|error| {
        Failure::Usage(format!("--input is {error}; a text needs its own quotes: --input '\"text\"'"))
    })?;
    let grant = args.grant.as_deref().map(grant_argument).transpose()?;
    let without_grant = grant.is_none();
    if let Some(dir) = args.workspace.as_ref().filter(|dir| !dir.is_dir()) {
        return Err(Failure::Usage(format!("there is no directory {}; make it first", dir.display())));
    }
    let worker = std::env::current_exe();
    let fresh = tempfile::tempdir().map_err(|error| Failure::Host(format!("cannot make a directory: {error}")))?;
    let cache = cache_dir().unwrap_or_else(|| fresh.path().to_owned());
    let options = LocalOptions {
        component: file_bytes(&args.file)?,
        input,
        workspace: Some(args.workspace.unwrap_or_else(|| fresh.path().join("workspace"))),
        grant,
        limits: args.limits.into(),
        compile_worker: worker
            .map_err(|error| Failure::Host(format!("cannot find the path of this binary: {error}")))?,
        cache_dir: cache.clone(),
    };
    let progress = spinner(format!("compiling {}", args.file.display()));
    let shown = progress.clone();
    let mut on_event = move |envelope: &Envelope| {
        shown.finish_and_clear();
        let text = serde_json::to_string(envelope).unwrap_or_default();
        // Our own events always have this shape.
        if let (false, Ok(seen)) = (json, serde_json::from_str::<Seen<'_>>(&text)) {
            note(&seen.shown());
        }
    };
    let ended = run_local(options, &mut on_event).await;
    progress.finish_and_clear();
    let view = ended.map_err(|error| match error {
        LocalError::Push(error) => Failure::Refused(Box::new(Problem::from(error).body())),
        LocalError::Accept(error) => Failure::Refused(Box::new(Problem::from(error).body())),
        LocalError::Start(_) | LocalError::Storage(_) | LocalError::Name(_) => Failure::Host(error.to_string()),
    })?;
    print(view, json, without_grant)
}

fn grant_argument(argument: &str) -> Result<Permissions, Failure> {
    let text = text_argument(argument)?;
    crate::api::parse_object(text.as_bytes()).map_err(|error| {
        Failure::Usage(format!("--grant is not one: {error}; write {{\"tools\": [\"file.*\"], \"state\": \"none\"}}"))
    })
}

fn print(view: RunView, json: bool, without_grant: bool) -> Result<(), Failure> {
    let denied = view.stop_reason == Some(StopReason::Denied);
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
    if denied && without_grant {
        note("next: nothing was granted; allow what it asks for, for example --grant '{\"tools\":[\"file.*\"]}'");
    }
    seen.result()
}

/// Where compiled components are kept, so that the second run of one starts at once: among the user's own caches. None
/// without a home: what is compiled is machine code, and must not be taken from where others can write.
fn cache_dir() -> Option<PathBuf> {
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
    let caches = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).filter(|dir| dir.is_absolute());
    Some(caches.or_else(home)?.join("cofferdam"))
}
