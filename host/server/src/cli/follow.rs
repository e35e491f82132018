//! Following a run, or all of them: events as they come, resumed where the connection broke off, also over a restart of
//! the server.

use super::{
    client::{As, Client},
    failure::Failure,
    output::{json_line, line, note, printable},
};
use cofferdam_core::run::Children;
use reqwest::{Method, RequestBuilder, Response, StatusCode, header};
use serde::Deserialize;
use serde_json::value::RawValue;
use std::time::{Duration, Instant};
use tokio::time::{sleep, timeout};

/// The longest silence on a stream; the server breaks it every 15 s.
const SILENCE_MAX: Duration = Duration::from_secs(45);
/// The pause before a stream that broke off is taken up again; it doubles while nothing is heard.
const RESUME_PAUSE: Duration = Duration::from_millis(200);
/// The longest such pause.
const RESUME_PAUSE_MAX: Duration = Duration::from_secs(5);
/// How long a server that was there may be gone: longer than a restart takes, with its drain.
const GONE_MAX: Duration = Duration::from_secs(120);
/// The most of an event's payload that is shown to a person, in characters; `--json` shows all of it.
const PAYLOAD_CHARS_SHOWN_MAX: usize = 400;

/// The largest frame, in bytes: an event's payload is at most 1 MiB before it is escaped.
const FRAME_BYTES_MAX: usize = 16 << 20;

/// An event as the server writes it.
#[derive(Deserialize)]
pub(super) struct Seen<'a> {
    seq: u64,
    run_id: String,
    #[serde(rename = "type")]
    kind: String,
    #[serde(borrow)]
    payload: &'a RawValue,
}

impl Seen<'_> {
    fn is_last(&self) -> bool {
        matches!(self.kind.as_str(), "agent_completed" | "agent_error")
    }

    /// The event on one line, for people.
    pub fn shown(&self) -> String {
        format!("{} {} {}", self.seq, printable(&self.kind), shortened(json_line(self.payload.get())))
    }

    /// The event on one line, with its run.
    pub fn shown_with_run(&self) -> String {
        format!("{} {}", printable(&self.run_id), self.shown())
    }
}

/// As much of a line as a person reads.
fn shortened(mut line: String) -> String {
    if let Some((end, _)) = line.char_indices().nth(PAYLOAD_CHARS_SHOWN_MAX) {
        let more = line.split_off(end).len();
        line.push_str(&format!("… ({more} bytes more; --json shows all)"));
    }
    line
}

/// What is followed, and how far it has been seen.
pub(super) enum Followed<'a> {
    /// A run, up to this event.
    Run(&'a str, u64),
    /// All runs, up to this cursor; from the first event without one.
    All(Option<String>),
}

impl Followed<'_> {
    fn request(&self, client: &Client) -> Result<RequestBuilder, Failure> {
        let request = match self {
            Self::Run(run, after) => {
                client.request(As::User, Method::GET, ["v1", "runs", run, "events"])?.query(&[("after", after)])
            }
            Self::All(after) => client.request(As::User, Method::GET, ["v1", "events"])?.query(&[("after", after)]),
        };
        Ok(request.header(header::ACCEPT, "text/event-stream"))
    }

    /// Prints what a frame holds. Says whether it is the last.
    fn take(&mut self, client: &Client, frame: &Frame, json: bool) -> Result<bool, Failure> {
        if frame.removed {
            let told = frame.data.as_deref().unwrap_or_default();
            if json { line(&json_line(told))? } else { note("some events that come here were removed with their runs") }
        }
        let data = frame.data.as_deref().filter(|_| !frame.removed);
        let seen = data.map(|data| Ok((data, client.read::<Seen<'_>>(data)?))).transpose()?;
        match (self, seen) {
            // The server's numbers only grow; one that does not would print an event twice.
            (Self::Run(_, after), Some((data, seen))) if seen.seq > *after => {
                *after = seen.seq;
                line(&if json { json_line(data) } else { seen.shown() })?;
                Ok(seen.is_last())
            }
            (Self::Run(..), _) => Ok(false),
            (Self::All(after), seen) => {
                if let Some((data, seen)) = seen {
                    let cursor = serde_json::Value::from(frame.id.as_deref());
                    let whole = || json_line(&format!("{{\"cursor\":{cursor},\"event\":{data}}}"));
                    line(&if json { whole() } else { seen.shown_with_run() })?;
                }
                if let Some(cursor) = &frame.id {
                    *after = Some(cursor.clone());
                }
                Ok(false)
            }
        }
    }

    /// How to go on by hand.
    fn next_step(&self) -> String {
        match self {
            Self::Run(run, after) => format!("cofferdam runs events {run} --follow --after {after}"),
            Self::All(None) => "cofferdam events --follow".into(),
            Self::All(Some(after)) => format!("cofferdam events --follow --after {}", printable(after)),
        }
    }
}

/// Prints events as they come, to the last one of a run. A server that does not answer the first time is a failure; one
/// that was there may go away and come back.
pub(super) async fn follow(client: &Client, mut followed: Followed<'_>, json: bool) -> Result<(), Failure> {
    let (mut heard, mut pause) = (None::<Instant>, RESUME_PAUSE);
    // What had been heard when the connection broke off last.
    let mut heard_then = None;
    loop {
        let broke_off = match client.send(followed.request(client)?).await {
            Ok(response) if response.status() == StatusCode::NO_CONTENT => return Ok(()),
            Ok(response) => {
                let heard = heard.get_or_insert_with(Instant::now);
                if one_stream(client, response, &mut followed, heard, json).await? {
                    return Ok(());
                }
                None
            }
            Err(failure) if heard.is_some() && failure.may_pass() => Some(failure),
            Err(failure) => return Err(failure),
        };
        let silence = heard.map_or(Duration::ZERO, |heard| heard.elapsed());
        if silence > GONE_MAX {
            return Err(broke_off.unwrap_or_else(|| {
                Failure::Host(format!("the stream keeps breaking off; go on with `{}`", followed.next_step()))
            }));
        }
        // Something was heard since the last pause, which begins them anew.
        let is_new = heard_then.replace(heard) != Some(heard);
        pause = if is_new { RESUME_PAUSE } else { pause.saturating_mul(2).min(RESUME_PAUSE_MAX) };
        if is_new && !json {
            note(&format!(
                "the connection to {} broke off; going on where it did if the server answers within {} s (Ctrl-C ends this)",
                client.url(),
                GONE_MAX.as_secs(),
            ));
        }
        sleep(pause).await;
    }
}

/// Prints the events of one connection. Says whether the last event of the run was among them.
async fn one_stream(
    client: &Client,
    mut response: Response,
    followed: &mut Followed<'_>,
    heard: &mut Instant,
    json: bool,
) -> Result<bool, Failure> {
    let mut unread: Vec<u8> = Vec::new();
    loop {
        // A connection that broke off and one that fell silent are taken up again alike.
        let Ok(Ok(Some(piece))) = timeout(SILENCE_MAX, response.chunk()).await else { return Ok(false) };
        *heard = Instant::now();
        // Only what is new, and the byte before it, can hold the empty line that ends a frame.
        let mut looked = unread.len().saturating_sub(1);
        unread.extend_from_slice(&piece);
        while let Some(end) = unread.get(looked..).and_then(|new| new.windows(2).position(|pair| pair == b"\n\n")) {
            let rest = unread.split_off(looked + end + 2);
            let frame = std::mem::replace(&mut unread, rest);
            looked = 0;
            if followed.take(client, &Frame::parse(&frame), json)? {
                return Ok(true);
            }
        }
        if unread.len() > FRAME_BYTES_MAX {
            return Err(Failure::Host("the server sent an event that is too large to be one".into()));
        }
    }
}

/// A frame of a stream; a heartbeat has neither part.
#[derive(Debug, Default, PartialEq, Eq)]
struct Frame {
    id: Option<String>,
    /// It says that something is missing here.
    removed: bool,
    data: Option<String>,
}

impl Frame {
    fn parse(frame: &[u8]) -> Self {
        let text = std::str::from_utf8(frame).unwrap_or_default();
        let field = |name| text.lines().filter_map(move |line| line.strip_prefix(name)).map(str::trim_start);
        let data: Vec<_> = field("data:").collect();
        let removed = field("event:").next() == Some("removed");
        Self { id: field("id:").next().map(str::to_owned), removed, data: (!data.is_empty()).then(|| data.join("\n")) }
    }
}

/// A run as the server writes it. The output stays as the agent wrote it.
#[derive(Deserialize)]
pub(super) struct RunSeen<'a> {
    pub id: String,
    agent: String,
    status: String,
    stop_reason: Option<String>,
    #[serde(borrow)]
    output: Option<&'a RawValue>,
    error: Option<ErrorSeen>,
    #[serde(borrow)]
    wait: Option<WaitSeen<'a>>,
    attempt: Option<u32>,
    cancelled_by: Option<String>,
    cancel_requested_at: Option<String>,
    #[serde(borrow)]
    usage: &'a RawValue,
    children: Option<Children>,
    #[serde(default)]
    partial_failure: bool,
    created_at: String,
}

#[derive(Deserialize)]
struct ErrorSeen {
    code: String,
    message: String,
}

/// For what a run waits; of a question, all that is needed to answer it.
#[derive(Deserialize)]
struct WaitSeen<'a> {
    #[serde(rename = "for")]
    waits_for: String,
    #[serde(borrow)]
    about: &'a RawValue,
    until: Option<String>,
}

impl WaitSeen<'_> {
    fn shown(&self) -> String {
        let until = self.until.as_ref().map_or_else(String::new, |until| format!(" until {}", printable(until)));
        format!("waits for {}{until} {}", printable(&self.waits_for), json_line(self.about.get()))
    }
}

impl RunSeen<'_> {
    /// A failure if the run has ended without an output.
    pub fn result(&self) -> Result<(), Failure> {
        if self.stop_reason.is_some() && self.status != "succeeded" { Err(Failure::Run) } else { Ok(()) }
    }

    /// The run on one line.
    pub fn short(&self) -> String {
        let reason = self.stop_reason.as_deref().unwrap_or("-");
        let parts = [&self.id, &self.status, reason, &self.agent, &self.created_at];
        parts.map(|part| printable(part)).join("  ")
    }

    /// The run on a few lines, for people.
    pub fn shown(&self) -> String {
        match self.output {
            Some(output) => format!("{}\noutput {}", self.outline(), json_line(output.get())),
            None => self.outline(),
        }
    }

    /// The run without its output.
    pub fn outline(&self) -> String {
        let mut lines = vec![match &self.stop_reason {
            Some(reason) => format!("run {} {} ({})", printable(&self.id), printable(&self.status), printable(reason)),
            None => format!("run {} {}", printable(&self.id), printable(&self.status)),
        }];
        if let Some(attempt) = self.attempt.filter(|attempt| *attempt > 1) {
            lines.push(format!("attempt {attempt}"));
        }
        if let Some(error) = &self.error {
            // Line breaks are the author's: of an account of where it failed, for instance.
            let message: Vec<_> = error.message.lines().map(printable).collect();
            lines.push(format!("error {}: {}", printable(&error.code), message.join("\n  ")));
        }
        lines.extend(self.wait.as_ref().map(WaitSeen::shown));
        if let (Some(by), Some(at)) = (&self.cancelled_by, &self.cancel_requested_at) {
            lines.push(format!("cancel asked for with {} at {}", printable(by), printable(at)));
        }
        if let Some(Children { succeeded, failed, cancelled }) = self.children {
            let partial = if self.partial_failure { ": a partial failure" } else { "" };
            lines.push(format!("children {succeeded} succeeded, {failed} failed, {cancelled} cancelled{partial}"));
        }
        if self.stop_reason.is_some() {
            lines.push(format!("usage {}", json_line(self.usage.get())));
        }
        lines.join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_gives_its_data_and_a_heartbeat_nothing() {
        let frame = |id: Option<&str>, data: Option<&str>| Frame {
            id: id.map(Into::into),
            removed: false,
            data: data.map(Into::into),
        };
        assert_eq!(Frame::parse(b"id: 1\nevent: log\ndata: {\"a\":1}\n\n"), frame(Some("1"), Some("{\"a\":1}")));
        assert_eq!(Frame::parse(b"data: {\ndata: }\n\n"), frame(None, Some("{\n}")));
        assert_eq!(Frame::parse(b"id: 1.2.ab\n\n"), frame(Some("1.2.ab"), None));
        assert_eq!(Frame::parse(b": heartbeat\n\n"), Frame::default());
        assert_eq!(Frame::parse(&[0xff, b'\n', b'\n']), Frame::default());
    }

    #[test]
    fn of_a_long_payload_is_shown_what_a_person_reads_and_how_much_is_left_out() {
        let text = |arguments: &str| {
            format!(
                r#"{{"seq":2,"run_id":"run_1","type":"tool_executing","payload":{{"call":1,"arguments":"{arguments}"}}}}"#
            )
        };
        let (short, long) = (text("ab"), text(&"é".repeat(4_000)));
        let shown = |text: &str| serde_json::from_str::<Seen<'_>>(text).expect("an event").shown();
        assert_eq!(shown(&short), r#"2 tool_executing {"call":1,"arguments":"ab"}"#);
        let line = shown(&long);
        let whole = r#"{"call":1,"arguments":""}"#.len() + 8_000;
        let left_out = whole
            - r#"{"call":1,"arguments":""#.len()
            - 2 * (PAYLOAD_CHARS_SHOWN_MAX - r#"{"call":1,"arguments":""#.len());
        assert!(line.ends_with(&format!("é… ({left_out} bytes more; --json shows all)")), "{line}");
        assert!(line.chars().count() < PAYLOAD_CHARS_SHOWN_MAX + 80, "{line}");
    }

    #[test]
    fn a_run_is_shown_with_how_it_ended() {
        let text = r#"{"id":"run_1","agent":"a","status":"failed","stop_reason":"trap","error":{"code":"trap","message":"\u001b[2J"},
            "usage":{"fuel":1},"created_at":"2020-01-01T00:00:00Z"}"#;
        let run: RunSeen<'_> = serde_json::from_str(text).expect("a run");
        assert_eq!(run.shown(), "run run_1 failed (trap)\nerror trap: \\u001b[2J\nusage {\"fuel\":1}");
        assert!(run.result().is_err());
    }

    #[test]
    fn a_run_whose_children_failed_says_so() {
        let text = r#"{"id":"run_1","agent":"a","status":"succeeded","stop_reason":"completed","attempt":2,
            "usage":{},"children":{"succeeded":2,"failed":1,"cancelled":0},"partial_failure":true,
            "created_at":"2020-01-01T00:00:00Z"}"#;
        let run: RunSeen<'_> = serde_json::from_str(text).expect("a run");
        let children = "children 2 succeeded, 1 failed, 0 cancelled: a partial failure";
        assert_eq!(run.shown(), format!("run run_1 succeeded (completed)\nattempt 2\n{children}\nusage {{}}"));
        assert!(run.result().is_ok());
    }

    #[test]
    fn a_run_that_waits_is_shown_with_what_it_waits_for() {
        let text = r#"{"id":"run_1","agent":"a","status":"waiting","usage":{},"created_at":"2020-01-01T00:00:00Z",
            "wait":{"for":"human","call":3,"about":{"prompt":"Which?"},"since":"2020-01-01T00:00:00Z","until":null}}"#;
        let run: RunSeen<'_> = serde_json::from_str(text).expect("a run");
        assert_eq!(run.shown(), "run run_1 waiting\nwaits for human {\"prompt\":\"Which?\"}");
    }
}
