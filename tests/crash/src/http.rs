//! HTTP as any client would speak it.

use anyhow::Context as _;
use futures_util::StreamExt as _;
use reqwest::{Method, StatusCode};
use serde_json::Value;
use std::time::Duration;

/// No answer takes longer, those that wait for a run included.
const ANSWER_MAX: Duration = Duration::from_secs(30);
/// A stream sends a heartbeat every 15 s; a longer silence is a server that is gone.
const STREAM_SILENCE_MAX: Duration = Duration::from_secs(20);

/// A client with a key.
#[derive(Debug, Clone)]
pub struct Client {
    url: String,
    key: String,
    http: reqwest::Client,
}

/// An answer, read to its end.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub bytes: Vec<u8>,
}

/// A frame of a stream of server-sent events.
#[derive(Debug, PartialEq, Eq)]
pub struct Frame {
    pub id: u64,
    pub data: String,
}

impl Client {
    #[must_use]
    pub fn new(url: &str, key: &str) -> Self {
        Self { url: url.to_owned(), key: key.to_owned(), http: reqwest::Client::new() }
    }

    #[must_use]
    pub fn with_key(&self, key: &str) -> Self {
        Self { key: key.to_owned(), ..self.clone() }
    }

    fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        self.http.request(method, format!("{}{path}", self.url)).bearer_auth(&self.key)
    }

    /// # Errors
    /// When no whole answer comes, and nobody knows what became of the request.
    pub async fn send(&self, method: Method, path: &str, body: Option<&Value>) -> reqwest::Result<Answer> {
        let request = self.request(method, path);
        answer(match body {
            Some(body) => request.json(body),
            None => request,
        })
        .await
    }

    /// Submits a run and waits a moment for its end.
    ///
    /// # Errors
    /// When no whole answer comes.
    pub async fn submit_and_wait(&self, body: &Value) -> reqwest::Result<Answer> {
        let request = self.request(Method::POST, "/v1/runs").header("Prefer", "wait=10").json(body);
        answer(request).await
    }

    /// Submits a run under a key: sent again, it is the same run.
    ///
    /// # Errors
    /// When no whole answer comes, and nobody knows whether there is a run.
    pub async fn submit_as(&self, key: &str, body: &Value) -> reqwest::Result<Answer> {
        answer(self.request(Method::POST, "/v1/runs").header("Idempotency-Key", key).json(body)).await
    }

    /// Answers a question of a run.
    ///
    /// # Errors
    /// When no whole answer comes, and nobody knows whether the question is answered.
    pub async fn answer(&self, run: &str, call: u64, value: &Value) -> reqwest::Result<Answer> {
        let body = serde_json::json!({"call": call, "answer": value});
        self.send(Method::POST, &format!("/v1/runs/{run}/input"), Some(&body)).await
    }

    /// # Errors
    /// When no whole answer comes.
    pub async fn put(&self, path: &str, media_type: &str, bytes: Vec<u8>) -> reqwest::Result<Answer> {
        let request = self.request(Method::PUT, path).header("Content-Type", media_type).body(bytes);
        answer(request).await
    }

    /// # Errors
    /// When no whole answer comes.
    pub async fn get(&self, path: &str) -> reqwest::Result<Answer> {
        self.send(Method::GET, path, None).await
    }

    /// Follows a stream from after `seq`, until it ends, breaks off, or `each` has had enough. Gives the status.
    ///
    /// # Errors
    /// When there was no answer, or `each` failed. A stream that breaks off is no error: it is resumed.
    pub async fn follow(
        &self,
        path: &str,
        seq: u64,
        mut each: impl AsyncFnMut(Frame) -> anyhow::Result<()>,
    ) -> anyhow::Result<StatusCode> {
        let request = self.request(Method::GET, path).header("Accept", "text/event-stream");
        let response = tokio::time::timeout(ANSWER_MAX, request.header("Last-Event-ID", seq.to_string()).send());
        let response = response.await.context("no answer in time")??;
        let status = response.status();
        let mut chunks = response.bytes_stream();
        let mut text = Vec::new();
        while let Ok(Some(Ok(chunk))) = tokio::time::timeout(STREAM_SILENCE_MAX, chunks.next()).await {
            text.extend_from_slice(&chunk);
            while let Some(end) = text.windows(2).position(|two| two == b"\n\n") {
                let frame: Vec<u8> = text.drain(..end + 2).collect();
                if let Some(frame) = frame_of(&String::from_utf8_lossy(&frame)) {
                    each(frame).await?;
                }
            }
        }
        Ok(status)
    }
}

async fn answer(request: reqwest::RequestBuilder) -> reqwest::Result<Answer> {
    let response = request.timeout(ANSWER_MAX).send().await?;
    Ok(Answer { status: response.status(), bytes: response.bytes().await?.to_vec() })
}

/// What a frame says; nothing if it is a comment.
fn frame_of(text: &str) -> Option<Frame> {
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    Some(Frame { id: field("id")?.parse().ok()?, data: field("data")?.to_owned() })
}

impl Answer {
    /// The body as JSON; null if it is none.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.bytes).unwrap_or_default()
    }

    /// The error's code, if this is a problem document.
    #[must_use]
    pub fn code(&self) -> Option<String> {
        Some(self.json().get("code")?.as_str()?.to_owned())
    }
}

/// A text in an answer; empty if it is not there.
#[must_use]
pub fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value.get(name).and_then(Value::as_str).unwrap_or_default()
}
