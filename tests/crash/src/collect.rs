//! What the server says in the end: everything that was acknowledged, asked for again over HTTP.

use crate::{
    acks::{Ack, End},
    check::{EventKind, EventSeen, Outside, RunSeen, Snapshot},
    digest,
    durable::YOUNG_RUNS_STORED,
    http::{Answer, Client, text},
    plan::{self, APPENDS_FILE, ATTEMPTS_FILE, PUTS_DIR},
};
use anyhow::ensure;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use reqwest::StatusCode;
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::Path,
    time::{Duration, Instant},
};

/// How many questions are under way at once.
const QUESTIONS_MAX: usize = 8;
/// How long runs may take to end once nothing more is submitted: what is queued, and the longest deadline.
const RUNS_END_MAX: Duration = Duration::from_secs(120);
/// How often it is looked whether they have.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How many keys of the state one run reads.
const KEYS_AT_ONCE: usize = 200;
/// The largest pages there are.
const RUNS_PAGE: usize = 100;
const EVENTS_PAGE: usize = 1_000;

/// Asks for everything.
///
/// # Errors
/// When the server does not answer, which after the last kill nothing excuses.
pub async fn collect(url: &str, acks: &[Ack], workspaces: &Path) -> anyhow::Result<Snapshot> {
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
        // What is asked for below must not be removed meanwhile.
        while is_young(acks, user) && runs.len() > YOUNG_RUNS_STORED && began.elapsed() < RUNS_END_MAX {
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
    outside(&users, acks, workspaces, &mut seen).await?;
    if let Some(client) = users.values().next() {
        plugins(client, acks, &mut seen.plugins).await?;
    }
    Ok(seen)
}

/// A client for each user who has submitted or stored something.
fn users(url: &str, acks: &[Ack]) -> BTreeMap<String, Client> {
    let busy = acks.iter().filter_map(|ack| match ack {
        Ack::Run { user, .. } | Ack::File { user, .. } | Ack::Durable { user, .. } | Ack::Young { user, .. } => {
            Some(user)
        }
        _ => None,
    });
    let busy: BTreeSet<_> = busy.collect();
    let keys = acks.iter().filter_map(|ack| match ack {
        Ack::Key { user, key } if busy.contains(user) => Some((user.clone(), Client::new(url, key))),
        _ => None,
    });
    keys.collect()
}

/// Whether old runs of a user go.
fn is_young(acks: &[Ack], name: &str) -> bool {
    acks.iter().any(|ack| matches!(ack, Ack::Young { user, .. } if user == name))
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
            let (data, at_us) = (digest(frame.data.as_bytes()), micros_of(text(&event, "at")).unwrap_or_default());
            events.push(EventSeen { seq: frame.id, at_us, kind: kind_of(&event), data, stop_reason });
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
    let (user, parent) = (text(&run, "user").to_owned(), Some(text(&run, "parent_run_id").to_owned()));
    let output = run.get("output").cloned().unwrap_or_default();
    Ok((RunSeen { id, user, parent: parent.filter(|id| !id.is_empty()), output, end, events }, surprise))
}

fn kind_of(event: &Value) -> EventKind {
    let payload = event.get("payload").unwrap_or(&Value::Null);
    match text(event, "type") {
        "agent_thinking" => EventKind::Says(text(payload, "text").to_owned()),
        "run_waiting" => EventKind::Waits(text(payload, "for").to_owned()),
        "tool_executing" => EventKind::CallBegins,
        "tool_completed" => EventKind::CallEnds,
        _ => EventKind::Other,
    }
}

/// What durable runs left on the disk, read where it lies and not asked for, and the versions of what they set.
async fn outside(
    users: &BTreeMap<String, Client>,
    acks: &[Ack],
    workspaces: &Path,
    seen: &mut Snapshot,
) -> anyhow::Result<()> {
    let mut keys: BTreeMap<&String, Vec<String>> = BTreeMap::new();
    for ack in acks {
        if let Ack::Durable { user, plan, .. } = ack {
            keys.entry(user).or_default().extend(plan::keys(plan));
        }
    }
    for (user, keys) in keys {
        let workspace = workspaces.join(user);
        let lines = |name: &str| -> anyhow::Result<Vec<String>> {
            let bytes = fs::read(workspace.join(name)).or_else(nothing)?;
            Ok(String::from_utf8_lossy(&bytes).lines().map(str::to_owned).collect())
        };
        let mut there =
            Outside { attempts: lines(ATTEMPTS_FILE)?, appends: lines(APPENDS_FILE)?, ..Outside::default() };
        if let Ok(entries) = fs::read_dir(workspace.join(PUTS_DIR)) {
            for entry in entries {
                let entry = entry?;
                let content = String::from_utf8_lossy(&fs::read(entry.path())?).into_owned();
                there.puts.insert(entry.file_name().to_string_lossy().into_owned(), content);
            }
        }
        if let Some(client) = users.get(user) {
            for some in keys.chunks(KEYS_AT_ONCE) {
                let steps = some.iter().map(|key| json!({"do": "state_get", "scope": "user", "key": key}));
                let input = json!({"do": "seq", "steps": steps.collect::<Value>()});
                let answer = client.submit_and_wait(&json!({"agent": "probe", "input": input})).await?.json();
                ensure!(text(&answer, "stop_reason") == "completed", "the state of {user} is not read: {answer}");
                for (number, key) in some.iter().enumerate() {
                    let version = answer.pointer(&format!("/output/{number}/ok/version")).and_then(Value::as_u64);
                    there.versions.extend(version.map(|version| (key.clone(), version)));
                }
            }
        }
        seen.outside.insert(user.clone(), there);
    }
    Ok(())
}

/// A file that is not there has no lines.
fn nothing(error: io::Error) -> io::Result<Vec<u8>> {
    if error.kind() == io::ErrorKind::NotFound { Ok(Vec::new()) } else { Err(error) }
}

/// A time in RFC 3339, in UTC, as microseconds since 1970.
fn micros_of(time: &str) -> Option<u64> {
    let number = |from: usize, to: usize| time.get(from..to)?.parse::<u64>().ok();
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    let fraction = time.get(19..)?.strip_suffix('Z')?.trim_start_matches('.');
    let micros = format!("{fraction:0<6}").get(..6)?.parse::<u64>().ok()?;
    // Years that begin in March have their leap day last.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1 - 719_468;
    Some((((days * 24 + hour) * 60 + minute) * 60 + second) * 1_000_000 + micros)
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

/// Which components are there: by the digest, and agents able to run.
async fn plugins(client: &Client, acks: &[Ack], there: &mut BTreeSet<(String, String)>) -> anyhow::Result<()> {
    for ack in acks {
        let Ack::Plugin { name, digest } = ack else { continue };
        let run = json!({"agent": format!("{name}@sha256:{digest}"), "input": {"do": "echo", "value": digest}});
        let answer = client.submit_and_wait(&run).await?;
        // A tool plugin that is known is told apart from one that is not, and no more.
        let is_there = text(&answer.json(), "stop_reason") == "completed";
        if is_there || answer.code().as_deref() == Some("not_an_agent") {
            there.insert((name.clone(), digest.clone()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::micros_of;

    #[test]
    fn times_are_read_to_the_microsecond() {
        assert_eq!(micros_of("1970-01-01T00:00:00Z"), Some(0));
        assert_eq!(micros_of("2024-02-29T12:34:56.5Z"), Some(1_709_210_096_500_000));
        assert_eq!(micros_of("2026-11-25T04:32:13.000001Z"), Some(1_795_581_133_000_001));
        assert_eq!(micros_of("yesterday"), None);
    }
}
