//! Following a run: its events as they come, resumed where the connection broke off, and the run at its end.

use super::{
    client::{As, Client},
    failure::Failure,
    output::{json_line, line, printable},
};
use reqwest::{Method, Response, StatusCode, header};
use serde::Deserialize;
use serde_json::value::RawValue;
use std::time::Duration;
use tokio::time::{sleep, timeout};

/// The longest silence on a stream; the server breaks it every 15 s.
const SILENCE_MAX: Duration = Duration::from_secs(45);
/// How often a stream is taken up again without an event in between.
const RESUMES_MAX: u32 = 10;
/// The pause before it is.
const RESUME_PAUSE: Duration = Duration::from_millis(500);
/// The most of an event's payload that is shown to a person, in characters; `--json` shows all of it.
const PAYLOAD_CHARS_SHOWN_MAX: usize = 400;

/// The largest frame, in bytes: an event's payload is at most 1 MiB before it is escaped.
const FRAME_BYTES_MAX: usize = 16 << 20;

/// An event as the server writes it.
#[derive(Deserialize)]
pub(super) struct Seen<'a> {
    seq: u64,
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
}

/// As much of a line as a person reads.
fn shortened(mut line: String) -> String {
    if let Some((end, _)) = line.char_indices().nth(PAYLOAD_CHARS_SHOWN_MAX) {
        let more = line.split_off(end).len();
        line.push_str(&format!("… ({more} bytes more; --json shows all)"));
    }
    line
}

/// Prints a run's events after `after` until its last one.
pub(super) async fn events(client: &Client, run: &str, mut after: u64, json: bool) -> Result<(), Failure> {
    let mut resumes = 0;
    while resumes <= RESUMES_MAX {
        let request = client.request(As::User, Method::GET, ["v1", "runs", run, "events"])?;
        let request = request.query(&[("after", after)]).header(header::ACCEPT, "text/event-stream");
        let response = client.send(request).await?;
        if response.status() == StatusCode::NO_CONTENT {
            return Ok(());
        }
        let before = after;
        if one_stream(client, response, &mut after, json).await? {
            return Ok(());
        }
        resumes = if after > before { 0 } else { resumes + 1 };
        sleep(RESUME_PAUSE).await;
    }
    Err(Failure::Host(format!(
        "the stream of {run} broke off {RESUMES_MAX} times; read on with `cofferdam runs events {run} --after {after}`"
    )))
}

/// Prints the events of one connection. Says whether the last event of the run was among them.
async fn one_stream(client: &Client, mut response: Response, after: &mut u64, json: bool) -> Result<bool, Failure> {
    let mut unread: Vec<u8> = Vec::new();
    loop {
        // A connection that broke off and one that fell silent are taken up again alike.
        let Ok(Ok(Some(piece))) = timeout(SILENCE_MAX, response.chunk()).await else { return Ok(false) };
        // Only what is new, and the byte before it, can hold the empty line that ends a frame.
        let mut looked = unread.len().saturating_sub(1);
        unread.extend_from_slice(&piece);
        while let Some(end) = unread.get(looked..).and_then(|new| new.windows(2).position(|pair| pair == b"\n\n")) {
            let rest = unread.split_off(looked + end + 2);
            let frame = std::mem::replace(&mut unread, rest);
            looked = 0;
            let Some(data) = data(&frame) else { continue };
            let seen: Seen<'_> = client.read(&data)?;
            // The server's numbers only grow; one that does not would print an event twice.
            if seen.seq <= *after {
                continue;
            }
            *after = seen.seq;
            line(&if json { json_line(&data) } else { seen.shown() })?;
            if seen.is_last() {
                return Ok(true);
            }
        }
        if unread.len() > FRAME_BYTES_MAX {
            return Err(Failure::Host("the server sent an event that is too large to be one".into()));
        }
    }
}

/// The data of a frame; none for a heartbeat.
fn data(frame: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(frame).ok()?;
    let lines: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("data:")).map(str::trim_start).collect();
    if lines.is_empty() { None } else { Some(lines.join("\n")) }
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
    cancelled_by: Option<String>,
    cancel_requested_at: Option<String>,
    #[serde(borrow)]
    usage: &'a RawValue,
    created_at: String,
}

#[derive(Deserialize)]
struct ErrorSeen {
    code: String,
    message: String,
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
        if let Some(error) = &self.error {
            lines.push(format!("error {}: {}", printable(&error.code), printable(&error.message)));
        }
        if let (Some(by), Some(at)) = (&self.cancelled_by, &self.cancel_requested_at) {
            lines.push(format!("cancel asked for with {} at {}", printable(by), printable(at)));
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
        assert_eq!(data(b"id: 1\nevent: log\ndata: {\"a\":1}\n\n").as_deref(), Some("{\"a\":1}"));
        assert_eq!(data(b"data: {\ndata: }\n\n").as_deref(), Some("{\n}"));
        assert_eq!(data(b": heartbeat\n\n"), None);
        assert_eq!(data(&[0xff, b'\n', b'\n']), None);
    }

    #[test]
    fn a_run_is_shown_with_how_it_ended() {
        let text = r#"{"id":"run_1","agent":"a","status":"failed","stop_reason":"trap","error":{"code":"trap","message":"\u001b[2J"},
            "usage":{"fuel":1},"created_at":"2020-01-01T00:00:00Z"}"#;
        let run: RunSeen<'_> = serde_json::from_str(text).expect("a run");
        assert_eq!(run.shown(), "run run_1 failed (trap)\nerror trap: \\u001b[2J\nusage {\"fuel\":1}");
        assert!(run.result().is_err());
    }
}
