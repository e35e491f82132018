//! The client's side of the API, for the verbs that talk to a server.

use super::failure::Failure;
use crate::{api::problem::ProblemBody, auth::Secret};
use cofferdam_core::ids::IdempotencyKey;
use reqwest::{Method, RequestBuilder, Response, StatusCode, Url, header};
use serde::Deserialize;
use std::{
    io::Read as _,
    path::{Path, PathBuf},
    time::Duration,
};

/// How long a server may take to accept a connection.
const CONNECT_MAX: Duration = Duration::from_secs(10);
/// The longest silence of a server: compiling a large plugin takes a minute or two, waiting for a run a minute.
const SILENCE_MAX: Duration = Duration::from_secs(300);
/// The largest answer that is read into memory, in bytes: a page of events can be a little over 4 MiB, a list of
/// plugins some more.
const ANSWER_BYTES_MAX: usize = 64 << 20;
/// The largest input that is read from a file or a pipe, in bytes; the server takes less.
pub(super) const INPUT_BYTES_MAX: u64 = 64 << 20;

/// How often a request that creates something is sent: once, once more where the connection broke, and again while the
/// server is still taking the first.
const ATTEMPTS_MAX: u32 = 4;
/// The pause between two of them.
const ATTEMPT_PAUSE: Duration = Duration::from_millis(500);

/// Which server, and who asks.
#[derive(Debug, clap::Args)]
pub(super) struct ClientArgs {
    /// The server.
    #[arg(long, global = true, value_name = "URL", env = "COFFERDAM_URL", default_value = "http://127.0.0.1:8080")]
    url: String,
    /// Your API key. Other users of this machine can see flags; prefer the variable.
    #[arg(long, global = true, value_name = "KEY", env = "COFFERDAM_API_KEY", hide_env_values = true)]
    key: Option<String>,
    /// An operator's key; where one is needed and none is given, the API key is tried.
    #[arg(long, global = true, value_name = "KEY", env = "COFFERDAM_ADMIN_KEY", hide_env_values = true)]
    admin_key: Option<String>,
}

/// Whose key a request shows.
#[derive(Debug, Clone, Copy)]
pub(super) enum As {
    User,
    Operator,
    /// Either will do; the user's if there is one.
    Anyone,
}

/// A server, as seen from here.
pub(super) struct Client {
    http: reqwest::Client,
    url: Url,
    key: Option<String>,
    admin_key: Option<String>,
}

impl Client {
    /// A client for what the command line names.
    pub fn new(args: ClientArgs) -> Result<Self, Failure> {
        let url = Url::parse(&args.url);
        let url = url.map_err(|error| {
            Failure::Usage(format!("{:?} is not a URL: {error}; write http://ADDRESS:PORT", args.url))
        })?;
        if url.scheme() != "http" {
            return Err(Failure::Usage(format!(
                "this client speaks http only, not {}; run it beside the server, or through a local proxy that adds TLS",
                url.scheme()
            )));
        }
        let Some(host) = url.host_str().filter(|_| !url.cannot_be_a_base()) else {
            return Err(Failure::Usage(format!("{:?} names no host; write http://ADDRESS:PORT", args.url)));
        };
        let mut http = reqwest::Client::builder().connect_timeout(CONNECT_MAX).read_timeout(SILENCE_MAX);
        if host == "localhost" || host.starts_with("127.") || host == "[::1]" {
            // A proxy of the environment's is not on the way to this machine.
            http = http.no_proxy();
        }
        let http = http.redirect(reqwest::redirect::Policy::none()).build();
        let http = http.map_err(|error| Failure::Host(format!("cannot make an HTTP client: {error}")))?;
        Ok(Self { http, url, key: args.key, admin_key: args.admin_key })
    }

    /// The server's address.
    pub const fn url(&self) -> &Url {
        &self.url
    }

    /// A request to a path given as its segments, which may hold any characters.
    pub fn request<'a>(
        &self,
        who: As,
        method: Method,
        segments: impl IntoIterator<Item = &'a str>,
    ) -> Result<RequestBuilder, Failure> {
        let mut url = self.url.clone();
        let mut path = url.path_segments_mut().map_err(|()| Failure::Usage("the URL has no path".into()))?;
        path.pop_if_empty();
        for segment in segments {
            // The URL's own rules would drop these, and the request would go elsewhere.
            if matches!(segment, "." | "..") {
                return Err(Failure::Usage("a path cannot have the parts `.` and `..`; name it from the top".into()));
            }
            path.push(segment);
        }
        drop(path);
        let (user, operator) = (self.key.as_ref(), self.admin_key.as_ref());
        let (key, variable) = match who {
            As::User => (user, "COFFERDAM_API_KEY"),
            As::Anyone => (user.or(operator), "COFFERDAM_API_KEY"),
            As::Operator => (operator.or(user), "COFFERDAM_ADMIN_KEY"),
        };
        let key = key.ok_or_else(|| {
            Failure::Usage(format!(
                "this needs a key: set {variable} (`cofferdam serve --dev` prints the keys it made)"
            ))
        })?;
        if Secret::parse(key).is_none() {
            return Err(Failure::Usage(format!("the key in {variable} is not one: a key is cof_ and 43 characters")));
        }
        Ok(self.http.request(method, url).bearer_auth(key))
    }

    /// Sends a request. Anything but success is a failure.
    pub async fn send(&self, request: RequestBuilder) -> Result<Response, Failure> {
        let response = request.send().await.map_err(|error| self.unreachable(&error))?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        let body = self.body(response).await?;
        Err(self.refusal(status, &body))
    }

    /// What an answer says that is not success.
    fn refusal(&self, status: StatusCode, body: &[u8]) -> Failure {
        match serde_json::from_slice::<ProblemBody>(body) {
            Ok(problem) => Failure::Refused(Box::new(problem)),
            Err(_) => Failure::Host(format!(
                "{} answered {status}, but not as a Cofferdam server would; check COFFERDAM_URL",
                self.url
            )),
        }
    }

    /// Sends a request and reads a JSON answer, as the server wrote it.
    pub async fn text(&self, request: RequestBuilder) -> Result<String, Failure> {
        let response = self.send(request).await?;
        if response.status() == StatusCode::NO_CONTENT {
            return Ok(String::new());
        }
        String::from_utf8(self.body(response).await?).map_err(|_| self.strange())
    }

    /// Sends a request that creates something, and reads its JSON answer. Where the connection breaks before there is an
    /// answer, it is sent once more: under its idempotency key the server creates nothing twice.
    pub async fn text_once(&self, request: RequestBuilder, key: &IdempotencyKey) -> Result<String, Failure> {
        let quoted = key.as_str().replace('\\', "\\\\").replace('"', "\\\"");
        let request = request.header("idempotency-key", format!("\"{quoted}\""));
        let mut broken = false;
        let mut attempts = 0;
        loop {
            attempts += 1;
            let again = request.try_clone().ok_or_else(|| Failure::Usage("the request cannot be repeated".into()))?;
            match self.attempt(again).await? {
                Attempt::Answered(text) => return Ok(text),
                Attempt::InFlight(refused) if attempts >= ATTEMPTS_MAX => return Err(refused),
                // The one before this is still being taken.
                Attempt::InFlight(_) => {}
                Attempt::Unknown { .. } if broken || attempts >= ATTEMPTS_MAX => return Err(self.not_known(key)),
                Attempt::Unknown { again: false } => return Err(self.not_known(key)),
                Attempt::Unknown { again: true } => broken = true,
                Attempt::NotReached(_) if broken => return Err(self.not_known(key)),
                Attempt::NotReached(failure) => return Err(failure),
            }
            tokio::time::sleep(ATTEMPT_PAUSE).await;
        }
    }

    async fn attempt(&self, request: RequestBuilder) -> Result<Attempt, Failure> {
        let unknown = |error: &reqwest::Error| Attempt::Unknown { again: !error.is_timeout() };
        let mut response = match request.send().await {
            Ok(response) => response,
            Err(error) if error.is_connect() || error.is_builder() => {
                return Ok(Attempt::NotReached(self.unreachable(&error)));
            }
            Err(error) => return Ok(unknown(&error)),
        };
        let status = response.status();
        let mut body = Vec::new();
        loop {
            match response.chunk().await {
                Ok(Some(piece)) => self.take(&mut body, &piece)?,
                Ok(None) => break,
                Err(error) => return Ok(unknown(&error)),
            }
        }
        if status.is_success() {
            return String::from_utf8(body).map(Attempt::Answered).map_err(|_| self.strange());
        }
        match self.refusal(status, &body) {
            Failure::Refused(problem) if problem.code == "idempotency_in_flight" => {
                Ok(Attempt::InFlight(Failure::Refused(problem)))
            }
            refused => Err(refused),
        }
    }

    fn not_known(&self, key: &IdempotencyKey) -> Failure {
        Failure::Host(format!(
            "the connection to {} broke before there was an answer, and whether the request was taken is not known; send it again with --idempotency-key '{key}', and nothing is done twice",
            self.url
        ))
    }

    /// Reads an answer.
    pub fn read<'a, T: Deserialize<'a>>(&self, text: &'a str) -> Result<T, Failure> {
        serde_json::from_str(text).map_err(|_| self.strange())
    }

    /// The body of an answer.
    pub async fn body(&self, mut response: Response) -> Result<Vec<u8>, Failure> {
        let mut body = Vec::new();
        while let Some(piece) = response.chunk().await.map_err(|error| self.unreachable(&error))? {
            self.take(&mut body, &piece)?;
        }
        Ok(body)
    }

    /// One more piece of an answer.
    fn take(&self, body: &mut Vec<u8>, piece: &[u8]) -> Result<(), Failure> {
        if body.len() + piece.len() > ANSWER_BYTES_MAX {
            return Err(Failure::Host(format!(
                "the answer of {} is larger than {ANSWER_BYTES_MAX} bytes; ask for less",
                self.url
            )));
        }
        body.extend_from_slice(piece);
        Ok(())
    }

    /// A server that could not be talked to.
    pub fn unreachable(&self, error: &reqwest::Error) -> Failure {
        let mut cause: &dyn std::error::Error = error;
        while let Some(source) = cause.source() {
            cause = source;
        }
        let next = if error.is_connect() {
            "start it with `cofferdam serve --dev`, or set COFFERDAM_URL to the url that it printed"
        } else {
            "look at the server's log, and try again"
        };
        Failure::Host(format!("cannot talk to {}: {cause}; {next}", self.url))
    }

    fn strange(&self) -> Failure {
        Failure::Host(format!(
            "{} answered what this client does not understand; is it as new as the server?",
            self.url
        ))
    }
}

/// What became of one attempt at a request that creates something.
enum Attempt {
    Answered(String),
    /// The connection broke, or fell silent, before there was a whole answer.
    Unknown {
        /// Whether trying again may be quick.
        again: bool,
    },
    /// The server has not seen it.
    NotReached(Failure),
    /// An earlier attempt is still being taken.
    InFlight(Failure),
}

/// A new idempotency key: 128 random bits.
pub(super) fn new_idempotency_key() -> Result<IdempotencyKey, Failure> {
    let mut bytes = [0_u8; 16];
    getrandom::fill(&mut bytes)
        .map_err(|error| Failure::Host(format!("the operating system gave no random numbers: {error}")))?;
    let key = format!("cli-{:032x}", u128::from_le_bytes(bytes)).parse::<IdempotencyKey>();
    key.map_err(|error| Failure::Host(error.to_string()))
}

/// A request with a JSON body.
pub(super) fn with_json(request: RequestBuilder, json: String) -> RequestBuilder {
    request.header(header::CONTENT_TYPE, "application/json").body(json)
}

/// The text that an argument gives: itself, a file's (`@FILE`), or that of standard input (`-`).
pub(super) fn text_argument(argument: &str) -> Result<String, Failure> {
    let bytes = match argument.strip_prefix('@') {
        Some(path) => file_bytes(Path::new(path))?,
        None if argument == "-" => {
            let mut bytes = Vec::new();
            let read = std::io::stdin().lock().take(INPUT_BYTES_MAX + 1).read_to_end(&mut bytes);
            read.map_err(|error| Failure::Usage(format!("cannot read standard input: {error}")))?;
            bounded(bytes, "standard input")?
        }
        None => return Ok(argument.to_owned()),
    };
    String::from_utf8(bytes).map_err(|_| Failure::Usage(format!("{argument} is not UTF-8 text; write JSON as UTF-8")))
}

/// The text of a JSON object that an argument gives, of which an example is known. What is in it is the server's to judge.
pub(super) fn object_argument(argument: &str, example: &str) -> Result<String, Failure> {
    let text = text_argument(argument)?;
    match serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(&text) {
        Ok(_) => Ok(text),
        Err(error) if error.is_data() => Err(Failure::Usage(format!("{argument} is no JSON object; write {example}"))),
        Err(error) => Err(Failure::Usage(format!("{argument} is not JSON: {error}; write {example}"))),
    }
}

/// The bytes of a component.
pub(super) fn component_bytes(path: &Path) -> Result<Vec<u8>, Failure> {
    let shown = path.display();
    if path.is_dir() {
        let next = format!("`cofferdam build {shown}` makes one of the project there, and prints its path");
        return Err(Failure::Usage(format!("{shown} is a folder, not a component: {next}")));
    }
    if !path.exists() {
        let next = "check the path, or make it with `cofferdam build`, which prints its path";
        return Err(Failure::Usage(format!("there is no component {shown}: {next}")));
    }
    file_bytes(path)
}

/// The bytes of a file.
pub(super) fn file_bytes(path: &Path) -> Result<Vec<u8>, Failure> {
    let shown: PathBuf = path.to_owned();
    let failed = |error| Failure::Usage(format!("cannot read {}: {error}; check the path", shown.display()));
    let mut bytes = Vec::new();
    std::fs::File::open(path).map_err(failed)?.take(INPUT_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
    bounded(bytes, &shown.display().to_string())
}

fn bounded(bytes: Vec<u8>, what: &str) -> Result<Vec<u8>, Failure> {
    if bytes.len() as u64 > INPUT_BYTES_MAX {
        return Err(Failure::Usage(format!("{what} is larger than {INPUT_BYTES_MAX} bytes, which no server takes")));
    }
    Ok(bytes)
}
