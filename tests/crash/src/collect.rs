//! What the server says in the end: everything that was acknowledged, asked for again over HTTP.

use crate::{
    acks::{Ack, End},
    check::{EventSeen, RunSeen, Snapshot},
    digest,
    http::{Answer, Client, text},
};
use anyhow::ensure;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use reqwest::StatusCode;
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

/// How many questions are under way at once.
const QUESTIONS_MAX: usize = 8;
/// How long runs may take to end once nothing more is submitted: what is queued, and the longest deadline.
const RUNS_END_MAX: Duration = Duration::from_secs(120);
/// How often it is looked whether they have.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// The largest pages there are.
const RUNS_PAGE: usize = 100;
const EVENTS_PAGE: usize = 1_000;

/// Asks for everything.
///
/// # Errors
/// When the server does not answer, which after the last kill nothing excuses.
pub async fn collect(url: &str, acks: &[Ack]) -> anyhow::Result<Snapshot> {
    let users = users(url, acks);
    let mut seen = Snapshot::default();
    let began = Instant::now();
    for (user, client) in &users {
        let mut runs = match listed(client).await {
            Ok(runs) => runs,
            // With the key, all of the user's runs are lost; the comparison counts them.
            Err(error) => {
                seen.surprises.push(format!("the runs of {user}: {error:#}"));
                continue;
            }
        };
        while runs.iter().any(|run| end_of(run).is_none()) && began.elapsed() < RUNS_END_MAX {
            tokio::time::sleep(LOOK_EVERY).await;
            runs = listed(client).await?;
        }
        let asked = runs.iter().map(|run| run_seen(client, text(run, "id").to_owned()));
        let mut answers = stream::iter(asked).buffer_unordered(QUESTIONS_MAX);
        while let Some((run, surprise)) = answers.try_next().await? {
            seen.runs.push(run);
            seen.surprises.extend(surprise);
        }
    }
    seen.surprises.extend(keys(url, acks, &mut seen.keys).await?);
    files(&users, acks, &mut seen).await?;
    if let Some(client) = users.values().next() {
        plugins(client, acks, &mut seen.plugins).await?;
    }
    Ok(seen)
}

/// A client for each user who has submitted or stored something.
fn users(url: &str, acks: &[Ack]) -> BTreeMap<String, Client> {
    let busy = acks.iter().filter_map(|ack| match ack {
        Ack::Run { user, .. } | Ack::File { user, .. } => Some(user),
        _ => None,
    });
    let busy: BTreeSet<_> = busy.collect();
    let keys = acks.iter().filter_map(|ack| match ack {
        Ack::Key { user, key } if busy.contains(user) => Some((user.clone(), Client::new(url, key))),
        _ => None,
    });
    keys.collect()
}

/// An answer that must be there.
fn found(answer: Answer, what: &str) -> anyhow::Result<Value> {
    ensure!(answer.status == StatusCode::OK, "{what}: {} {}", answer.status, String::from_utf8_lossy(&answer.bytes));
    Ok(answer.json())
}

/// All runs of a user, page after page.
async fn listed(client: &Client) -> anyhow::Result<Vec<Value>> {
    let mut runs = Vec::new();
    let mut path = format!("/v1/runs?limit={RUNS_PAGE}");
    loop {
        let mut page = found(client.get(&path).await?, "a page of runs")?;
        if let Some(Value::Array(some)) = page.get_mut("runs").map(Value::take) {
            runs.extend(some);
        }
        match text(&page, "next_after") {
            "" => return Ok(runs),
            after => path = format!("/v1/runs?limit={RUNS_PAGE}&after={after}"),
        }
    }
}

/// How a run ended, as it is told; none if it has not.
#[must_use]
pub fn end_of(run: &Value) -> Option<End> {
    let (status, stop_reason) = (text(run, "status"), text(run, "stop_reason"));
    let outcome = match run.get("output") {
        Some(output) => digest(output.to_string().as_bytes()),
        None => run.get("error").map(|error| text(error, "code").to_owned()).unwrap_or_default(),
    };
    let ended = ["succeeded", "failed", "cancelled"].contains(&status);
    ended.then(|| End { status: status.into(), stop_reason: stop_reason.into(), outcome })
}

/// A run with its log, which is read twice: as a stream, whose bytes are compared with what was seen then, and in
/// pages, which must say the same.
async fn run_seen(client: &Client, id: String) -> anyhow::Result<(RunSeen, Option<String>)> {
    let run = found(client.get(&format!("/v1/runs/{id}")).await?, "a run")?;
    let end = end_of(&run);
    let mut events = Vec::new();
    let mut streamed = Vec::new();
    if end.is_some() {
        let path = format!("/v1/runs/{id}/events");
        let status = client.follow(&path, 0, async |frame| {
            let event: Value = serde_json::from_str(&frame.data)?;
            let payload = event.get("payload").unwrap_or(&Value::Null);
            let is_end = ["agent_completed", "agent_error"].contains(&text(&event, "type"));
            let stop_reason = is_end.then(|| text(payload, "stop_reason").to_owned());
            events.push(EventSeen { seq: frame.id, data: digest(frame.data.as_bytes()), stop_reason });
            streamed.push(event);
            Ok(())
        });
        let status = status.await?;
        ensure!(status == StatusCode::OK, "the stream of {id} is answered {status}");
    }
    let mut paged = Vec::new();
    let mut after = 0;
    while end.is_some() {
        let page = client.get(&format!("/v1/runs/{id}/events?limit={EVENTS_PAGE}&after={after}")).await?;
        let mut page = found(page, "a page of events")?;
        if let Some(Value::Array(some)) = page.get_mut("events").map(Value::take) {
            paged.extend(some);
        }
        match page.get("next_after").and_then(Value::as_u64) {
            // A log without a last event would be asked for for ever.
            Some(next) if next > after => after = next,
            _ => break,
        }
    }
    let surprise = (paged != streamed).then(|| format!("the pages of {id} do not say what its stream says"));
    Ok((RunSeen { id, end, events }, surprise))
}

/// Which keys open.
async fn keys(url: &str, acks: &[Ack], open: &mut BTreeSet<String>) -> anyhow::Result<Vec<String>> {
    let keys = acks.iter().filter_map(|ack| match ack {
        Ack::Key { user, key } => Some((user, key)),
        _ => None,
    });
    let client = Client::new(url, "");
    let asked = keys.map(|(user, key)| {
        let client = client.with_key(key);
        async move { anyhow::Ok((user, key, listed_first(&client).await?)) }
    });
    let mut surprises = Vec::new();
    let mut answers = stream::iter(asked).buffer_unordered(QUESTIONS_MAX);
    while let Some((user, key, status)) = answers.try_next().await? {
        match status {
            StatusCode::OK => drop(open.insert(key.clone())),
            StatusCode::UNAUTHORIZED => {}
            other => surprises.push(format!("a key of {user} is answered {other}")),
        }
    }
    Ok(surprises)
}

async fn listed_first(client: &Client) -> anyhow::Result<StatusCode> {
    Ok(client.get("/v1/runs?limit=1").await?.status)
}

/// What the files hold that were put, and those in which runs leave a line.
async fn files(users: &BTreeMap<String, Client>, acks: &[Ack], seen: &mut Snapshot) -> anyhow::Result<()> {
    for ack in acks {
        let (user, path) = match ack {
            Ack::File { user, path, .. } | Ack::Run { user, effect: Some(path), .. } => (user, path),
            _ => continue,
        };
        let Some(client) = users.get(user) else { continue };
        let answer = client.get(&format!("/v1/files/{path}")).await?;
        let place = (user.clone(), path.clone());
        match (answer.status, ack) {
            (StatusCode::OK, Ack::File { .. }) => drop(seen.files.insert(place, digest(&answer.bytes))),
            (StatusCode::OK, _) => {
                let lines = answer.bytes.iter().filter(|byte| **byte == b'\n').count();
                seen.effects.insert(place, lines);
            }
            (StatusCode::NOT_FOUND, _) => {}
            (other, _) => seen.surprises.push(format!("file {path} of {user} is answered {other}")),
        }
    }
    Ok(())
}

/// Which components are there: by the digest, and able to run.
async fn plugins(client: &Client, acks: &[Ack], there: &mut BTreeSet<(String, String)>) -> anyhow::Result<()> {
    for ack in acks {
        let Ack::Plugin { name, digest } = ack else { continue };
        let run = json!({"agent": format!("{name}@sha256:{digest}"), "input": {"do": "echo", "value": digest}});
        let answer = client.submit_and_wait(&run).await?;
        if text(&answer.json(), "stop_reason") == "completed" {
            there.insert((name.clone(), digest.clone()));
        }
    }
    Ok(())
}
