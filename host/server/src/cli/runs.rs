//! `cofferdam runs`: submit runs, follow them, look at them, cancel them.

use super::{
    client::{As, Client, ClientArgs, new_idempotency_key, text_argument, with_json},
    failure::Failure,
    follow::{Followed, RunSeen, Seen, follow},
    output::{json_line, line, note, printable},
};
use clap::{Args, Subcommand};
use cofferdam_core::{
    ids::IdempotencyKey,
    quota::LimitsAsked,
    run::{ATTEMPTS_MAX, BACKOFF_MS, Durability, Priority, Retries},
};
use jiff::SignedDuration;
use reqwest::Method;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

#[derive(Debug, Args)]
pub(super) struct RunsArgs {
    #[command(flatten)]
    client: ClientArgs,
    #[command(subcommand)]
    verb: RunsVerb,
}

#[derive(Debug, Subcommand)]
enum RunsVerb {
    /// Submit a run.
    Submit(SubmitArgs),
    /// Show a run.
    Get {
        /// The run.
        id: String,
    },
    /// Show your runs, newest first.
    List(ListArgs),
    /// Show a run's events. That they were shown is exit code 0, however the run ended; `runs submit --follow` tells that.
    Events {
        /// The run.
        id: String,
        /// Print events as they come, until the run has ended.
        #[arg(long)]
        follow: bool,
        /// Only events after this one.
        #[arg(long, value_name = "SEQ", default_value_t = 0)]
        after: u64,
    },
    /// Show what a run's agent asked the host, and what it learned. Its numbers count all calls, those of the events
    /// `tool_executing` and `tool_completed` only tool calls.
    Journal {
        /// The run.
        id: String,
    },
    /// Answer the question that a run waits with.
    Input {
        /// The run.
        id: String,
        /// The answer: JSON, @FILE, or - for standard input.
        #[arg(long, value_name = "JSON|@FILE|-")]
        answer: String,
        /// Which question: the call that the run waits with, as its event `run_waiting` and its journal number it. If not said, the one that it waits with now.
        #[arg(long, value_name = "NUMBER")]
        call: Option<u64>,
    },
    /// Ask a run to stop.
    Cancel {
        /// The run.
        id: String,
    },
}

#[derive(Debug, Args)]
struct SubmitArgs {
    /// Which agent: name, name@version or name@sha256:DIGEST.
    agent: String,
    /// What the agent gets: JSON, @FILE, or - for standard input.
    #[arg(long, value_name = "JSON|@FILE|-")]
    input: String,
    /// The conversation that the run belongs to.
    #[arg(long, value_name = "ID")]
    thread: Option<String>,
    /// Your own data, which the agent can read: a JSON object, or @FILE.
    #[arg(long, value_name = "JSON|@FILE")]
    metadata: Option<String>,
    #[command(flatten)]
    limits: LimitArgs,
    /// Which of your own runs go first where they cannot all run: high, normal (if not said), low.
    #[arg(long, value_name = "PRIORITY")]
    priority: Option<Priority>,
    /// If the host goes away while the run executes, it goes on where it was.
    #[arg(long)]
    durable: bool,
    /// If it fails, execute it again, at most so often (1 to 9), by its own fault or the host's: not what a limit, a refusal
    /// or you have ended.
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..=i64::from(ATTEMPTS_MAX) - 1))]
    retries: Option<u32>,
    /// How long to wait before it is executed again, 1s if not said: 100ms to 1h. Doubles each time.
    #[arg(long, value_name = "DURATION", requires = "retries", value_parser = backoff_ms)]
    backoff: Option<u64>,
    /// Print events as they come, then the run.
    #[arg(long)]
    follow: bool,
    /// Wait up to so many seconds for the end of the run; the server waits 60 at most.
    #[arg(long, value_name = "SECONDS", conflicts_with = "follow")]
    wait: Option<u64>,
    /// Submitted again with the same key, the run is not made again but shown. Without it, the run gets a key of its own,
    /// under which it is sent once more if the connection breaks.
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<IdempotencyKey>,
}

/// Limits lower than one's own.
#[derive(Debug, Args)]
pub(super) struct LimitArgs {
    /// At most so much fuel: about one unit per WebAssembly instruction.
    #[arg(long, value_name = "UNITS")]
    pub fuel: Option<u64>,
    /// At most so much memory.
    #[arg(long, value_name = "BYTES")]
    pub memory_bytes: Option<u64>,
    /// At most so long.
    #[arg(long, value_name = "MS")]
    pub deadline_ms: Option<u64>,
}

#[derive(Debug, Args)]
struct ListArgs {
    /// How many: 1 to 100.
    #[arg(long)]
    limit: Option<u32>,
    /// Where the last page ended.
    #[arg(long, value_name = "CURSOR")]
    after: Option<String>,
    /// Only runs that stand so: queued, running, waiting, succeeded, failed, cancelled.
    #[arg(long)]
    status: Option<String>,
    /// Only runs of this agent.
    #[arg(long)]
    agent: Option<String>,
    /// Only runs of this thread.
    #[arg(long, value_name = "ID")]
    thread: Option<String>,
}

pub(super) async fn run(args: RunsArgs, json: bool) -> Result<(), Failure> {
    let client = Client::new(args.client)?;
    match args.verb {
        RunsVerb::Submit(args) => submit(&client, args, json).await,
        RunsVerb::Get { id } => show(&client, &get(&client, &id).await?, json),
        RunsVerb::List(args) => list(&client, args, json).await,
        RunsVerb::Events { id, follow: true, after } => follow(&client, Followed::Run(&id, after), json).await,
        RunsVerb::Events { id, follow: false, after } => events(&client, &id, after, json).await,
        RunsVerb::Journal { id } => journal(&client, &id, json).await,
        RunsVerb::Input { id, answer, call } => {
            let input = Input { answer: json_argument("answer", &answer)?, call };
            let body = serde_json::to_string(&input).map_err(|error| Failure::Usage(error.to_string()))?;
            let request = with_json(client.request(As::User, Method::POST, ["v1", "runs", &id, "input"])?, body);
            show(&client, &client.text(request).await?, json)
        }
        RunsVerb::Cancel { id } => {
            let request = client.request(As::User, Method::POST, ["v1", "runs", &id, "cancel"])?;
            show(&client, &client.text(request).await?, json)
        }
    }
}

/// An answer, as it was written.
#[derive(Serialize)]
struct Input {
    answer: Box<RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    call: Option<u64>,
}

/// What the server is asked for. Input and metadata are passed on as they were written.
#[derive(Serialize)]
struct Submission {
    agent: String,
    input: Box<RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    thread_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<Box<RawValue>>,
    limits: LimitsAsked,
    #[serde(skip_serializing_if = "Option::is_none")]
    priority: Option<Priority>,
    #[serde(skip_serializing_if = "Option::is_none")]
    durability: Option<Durability>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retries: Option<Retries>,
}

/// A pause as it is written for people, in milliseconds.
fn backoff_ms(text: &str) -> Result<u64, String> {
    let pause = text.parse::<SignedDuration>().map_err(|error| format!("{error}; write it as 500ms, 5s or 2m"))?;
    let ms = u64::try_from(pause.as_millis()).map_err(|_| "a pause is not negative".to_owned())?;
    Retries::new(ATTEMPTS_MAX, ms).map(Retries::backoff_ms).map_err(|error| error.to_string())
}

impl LimitArgs {
    /// What is asked for.
    pub const fn asked(&self) -> LimitsAsked {
        LimitsAsked { fuel: self.fuel, memory_bytes: self.memory_bytes, deadline_ms: self.deadline_ms }
    }
}

/// An argument that is JSON.
fn json_argument(name: &str, argument: &str) -> Result<Box<RawValue>, Failure> {
    RawValue::from_string(text_argument(argument)?).map_err(|error| {
        Failure::Usage(format!("--{name} is not JSON: {error}; a text needs its own quotes: --{name} '\"text\"'"))
    })
}

async fn submit(client: &Client, args: SubmitArgs, json: bool) -> Result<(), Failure> {
    // The first attempt is none that is made again.
    let retries = args.retries.map(|retries| Retries::new(retries + 1, args.backoff.unwrap_or(BACKOFF_MS)));
    let submission = Submission {
        input: json_argument("input", &args.input)?,
        metadata: args.metadata.as_deref().map(|metadata| json_argument("metadata", metadata)).transpose()?,
        agent: args.agent,
        thread_id: args.thread,
        limits: args.limits.asked(),
        priority: args.priority,
        durability: args.durable.then_some(Durability::Durable),
        retries: retries.transpose().map_err(|error| Failure::Usage(error.to_string()))?,
    };
    let body = serde_json::to_string(&submission).map_err(|error| Failure::Usage(error.to_string()))?;
    let mut request = with_json(client.request(As::User, Method::POST, ["v1", "runs"])?, body);
    if let Some(seconds) = args.wait {
        request = request.header("prefer", format!("wait={seconds}"));
    }
    let key = args.idempotency_key.map_or_else(new_idempotency_key, Ok)?;
    let submitted = client.text_once(request, &key).await?;
    let run: RunSeen<'_> = client.read(&submitted)?;
    if !args.follow {
        show(client, &submitted, json)?;
        return run.result();
    }
    if !json {
        line(&run.shown())?;
    }
    follow(client, Followed::Run(&run.id, 0), json).await?;
    let ended = get(client, &run.id).await?;
    show(client, &ended, json)?;
    client.read::<RunSeen<'_>>(&ended)?.result()
}

async fn get(client: &Client, id: &str) -> Result<String, Failure> {
    client.text(client.request(As::User, Method::GET, ["v1", "runs", id])?).await
}

fn show(client: &Client, run: &str, json: bool) -> Result<(), Failure> {
    line(&if json { json_line(run) } else { client.read::<RunSeen<'_>>(run)?.shown() })
}

#[derive(Deserialize)]
struct RunPage<'a> {
    #[serde(borrow)]
    runs: Vec<RunSeen<'a>>,
    next_after: Option<String>,
}

async fn list(client: &Client, args: ListArgs, json: bool) -> Result<(), Failure> {
    let limit = args.limit.map(|limit| limit.to_string());
    let query = [
        ("limit", limit),
        ("after", args.after),
        ("status", args.status),
        ("agent", args.agent),
        ("thread_id", args.thread),
    ];
    let query: Vec<_> = query.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
    let text = client.text(client.request(As::User, Method::GET, ["v1", "runs"])?.query(&query)).await?;
    if json {
        return line(&json_line(&text));
    }
    let page: RunPage<'_> = client.read(&text)?;
    for run in &page.runs {
        line(&run.short())?;
    }
    if let Some(cursor) = page.next_after {
        note(&format!("more: --after {}", printable(&cursor)));
    }
    Ok(())
}

#[derive(Deserialize)]
struct EventPage<'a> {
    #[serde(borrow)]
    events: Vec<&'a RawValue>,
    next_after: Option<u64>,
}

/// Prints the events that are there now, a page at a time.
async fn events(client: &Client, id: &str, mut after: u64, json: bool) -> Result<(), Failure> {
    loop {
        let request = client.request(As::User, Method::GET, ["v1", "runs", id, "events"])?;
        let text = client.text(request.query(&[("after", after)])).await?;
        let page: EventPage<'_> = client.read(&text)?;
        for event in &page.events {
            line(&if json { json_line(event.get()) } else { client.read::<Seen<'_>>(event.get())?.shown() })?;
        }
        match page.next_after {
            Some(next) if next > after => after = next,
            _ => return Ok(()),
        }
    }
}

#[derive(Deserialize)]
struct JournalPage<'a> {
    #[serde(borrow)]
    entries: Vec<&'a RawValue>,
    next_after: Option<u64>,
}

#[derive(Deserialize)]
struct EntrySeen {
    kind: String,
    call: Option<u64>,
    of: Option<u64>,
    asked: Option<String>,
    answer_bytes: Option<u64>,
    why: Option<String>,
    events: Option<u64>,
    attempt: Option<u32>,
    took: Option<TookSeen>,
}

#[derive(Deserialize)]
struct TookSeen {
    host_calls: u64,
    events: u64,
    event_bytes: u64,
    log_bytes: u64,
}

impl EntrySeen {
    fn shown(&self) -> String {
        let call = self.call.map_or_else(String::new, |call| call.to_string());
        let mut shown = format!("{call:>6}  {:<10}", self.kind);
        if let Some(text) = self.asked.as_deref().map(plainly).or_else(|| self.why.clone()) {
            shown.push(' ');
            shown.push_str(&printable(&text));
        }
        if let Some(of) = self.of {
            shown.push_str(&format!(" the answer of {of}"));
        }
        if let Some(bytes) = self.answer_bytes {
            shown.push_str(&format!("  → {bytes} bytes"));
        }
        if let Some(events) = self.events {
            shown.push_str(&format!(" {events} events of the agent's own, up to here"));
        }
        if let Some(attempt) = self.attempt {
            shown.push_str(&format!(" {attempt} begins, and knows nothing of what is before"));
        }
        if let Some(TookSeen { host_calls, events, event_bytes, log_bytes }) = &self.took {
            shown.push_str(&format!(
                " took {host_calls} host calls, {events} events of {event_bytes} bytes, {log_bytes} bytes of log lines, up to here"
            ));
        }
        shown
    }
}

/// A call for people to read. The record has an argument that may be left out as Rust writes it, `Some(5)` or `None`, and is
/// compared with others as it stands; here it is `5` or `-`. Texts are in quotes, and stay as they are.
fn plainly(asked: &str) -> String {
    let mut in_text = false;
    let words = asked.split(' ').map(|word| {
        let plain = match word {
            _ if in_text => word,
            "None" => "-",
            other => other.strip_prefix("Some(").and_then(|rest| rest.strip_suffix(')')).unwrap_or(other),
        };
        let mut escaped = false;
        for character in word.chars() {
            in_text ^= character == '"' && !escaped;
            escaped = character == '\\' && !escaped;
        }
        plain
    });
    words.collect::<Vec<_>>().join(" ")
}

/// Prints the record of a run, a page at a time.
async fn journal(client: &Client, id: &str, json: bool) -> Result<(), Failure> {
    let mut after = 0;
    loop {
        let request = client.request(As::User, Method::GET, ["v1", "runs", id, "journal"])?;
        let text = client.text(request.query(&[("after", after)])).await?;
        let page: JournalPage<'_> = client.read(&text)?;
        for entry in &page.entries {
            line(&if json { json_line(entry.get()) } else { client.read::<EntrySeen>(entry.get())?.shown() })?;
        }
        match page.next_after {
            Some(next) if next > after => after = next,
            _ => return Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_entry_is_a_line_that_says_what_it_is() {
        for (entry, line) in [
            (r#"{"kind":"seed","answer":"AAA=","answer_bytes":2}"#, "        seed        → 2 bytes"),
            (
                r#"{"kind":"call","call":1,"asked":"a \u001b","answer_bytes":0}"#,
                "     1  call       a \\u001b  → 0 bytes",
            ),
            (
                r#"{"kind":"started","call":2,"asked":"human.ask \"Some(1) None \\\"\" None None Some(5) \"\\\\\" Some(6)"}"#,
                r#"     2  started    human.ask "Some(1) None \"" - - 5 "\\" 6"#,
            ),
            (r#"{"kind":"observed","call":2,"of":1}"#, "     2  observed   the answer of 1"),
            (r#"{"kind":"incomplete","call":3,"why":"full"}"#, "     3  incomplete full"),
            (r#"{"kind":"said","events":4}"#, "        said       4 events of the agent's own, up to here"),
            (r#"{"kind":"attempt","attempt":2}"#, "        attempt    2 begins, and knows nothing of what is before"),
            (
                r#"{"kind":"tools","took":{"host_calls":1,"events":2,"event_bytes":3,"log_bytes":4}}"#,
                "        tools      took 1 host calls, 2 events of 3 bytes, 4 bytes of log lines, up to here",
            ),
        ] {
            let seen: EntrySeen = serde_json::from_str(entry).expect("an entry");
            assert_eq!(seen.shown(), line);
        }
    }

    #[test]
    fn a_pause_is_written_for_people_and_is_in_range() {
        for (text, ms) in [("100ms", 100), ("5s", 5_000), ("2m", 120_000), ("1h", 3_600_000), ("1m 30s", 90_000)] {
            assert_eq!(backoff_ms(text), Ok(ms), "{text}");
        }
        for text in ["", "5", "99ms", "61m", "-5s", "soon"] {
            assert!(backoff_ms(text).is_err(), "{text}");
        }
    }
}
