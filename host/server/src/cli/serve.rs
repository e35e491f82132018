//! `cofferdam serve`: the server, from its start to its end.

use super::{
    failure::Failure,
    output::{line, note},
};
use crate::{
    App,
    config::{Config, ServeArgs},
};
use serde::Serialize;
use std::{io::IsTerminal as _, time::Duration};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// How long threads that are in the middle of something may keep the process at its end.
const THREADS_END_MAX: Duration = Duration::from_millis(200);

/// Logs to standard error, so that standard output carries results only.
pub(super) fn log_to_stderr(default: &str) -> Result<(), Failure> {
    let asked = std::env::var("COFFERDAM_LOG").unwrap_or_else(|_| default.to_owned());
    let filter = EnvFilter::builder().parse(&asked).map_err(|error| {
        Failure::Usage(format!("COFFERDAM_LOG is {asked:?}: {error}; write a level, such as info, or target=level"))
    })?;
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        // A line that cannot be written, because the reader of the log is gone or its disk is full, would otherwise be told
        // with `eprintln!`, which then panics: in whichever part of the host had something to say.
        .log_internal_errors(false)
        .finish();
    tracing::subscriber::set_global_default(subscriber).map_err(|error| Failure::Host(error.to_string()))
}

pub(super) fn run(args: ServeArgs, json: bool) -> Result<(), Failure> {
    let config = Config::from_args(args).map_err(|error| Failure::Usage(error.to_string()))?;
    log_to_stderr("info")?;
    let threads = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let threads = threads.map_err(|error| Failure::Host(format!("cannot start threads: {error}")))?;
    let served = threads.block_on(serve(config, json));
    threads.shutdown_timeout(THREADS_END_MAX);
    served
}

async fn serve(config: Config, json: bool) -> Result<(), Failure> {
    // Listened for before the server starts, so that a signal during the start ends it in good order, too.
    let listen = |kind| signal(kind).map_err(|error| Failure::Host(format!("cannot listen for signals: {error}")));
    let (mut terminate, mut interrupt) = (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
    let fresh = config.dev && config.data_dir.is_none();
    raise_file_limit();
    let app = App::start(config).await.map_err(|error| Failure::Host(error.to_string()))?;
    if fresh {
        note(&format!(
            "everything is kept in {} and removed at the end; keep it with --data-dir DIR",
            app.data_dir().display()
        ));
    }
    if let Some(file) = app.admin_key_file() {
        note(&format!("the operator's key is in {}; `cofferdam key create USER` makes keys with it", file.display()));
    }
    say_ready(&app, json)?;

    either(&mut terminate, &mut interrupt).await;
    tracing::info!("ending: waiting for running runs; a second signal ends at once");
    tokio::select! {
        () = app.shutdown() => Ok(()),
        () = either(&mut terminate, &mut interrupt) => Err(Failure::Host("ended at once; runs that had not ended are settled at the next start".into())),
    }
}

async fn either(terminate: &mut Signal, interrupt: &mut Signal) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

/// What whoever started the server needs to know.
#[derive(Serialize)]
struct Ready<'a> {
    url: String,
    admin_url: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    api_key: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    admin_key: Option<&'a str>,
}

/// Says that the server answers, and where.
fn say_ready(app: &App, json: bool) -> Result<(), Failure> {
    let ready =
        Ready { url: app.url(), admin_url: app.admin_url(), api_key: app.api_key(), admin_key: app.admin_key() };
    if json {
        return line(&serde_json::to_string(&ready).map_err(|error| Failure::Host(error.to_string()))?);
    }
    // Lines for a shell.
    line(&format!("export COFFERDAM_URL={}", ready.url))?;
    let keys = [("COFFERDAM_API_KEY", ready.api_key), ("COFFERDAM_ADMIN_KEY", ready.admin_key)];
    for (name, key) in keys.into_iter().filter_map(|(name, key)| Some((name, key?))) {
        line(&format!("export {name}={key}"))?;
    }
    line(&format!("# {url}/livez and {url}/readyz say how it is", url = ready.admin_url))
}

/// The soft limit on open files is often 1,024, for the sake of old programs; a server may have all that it is allowed.
fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    // Where it cannot be raised, the listeners take fewer connections.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}
