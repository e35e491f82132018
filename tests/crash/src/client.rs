//! The client: loads the server from many sides at once, and writes down what it acknowledges.

use crate::{
    acks::{Ack, Acks},
    collect::end_of,
    digest, durable,
    http::{Answer, Client, text},
    random::Random,
};
use anyhow::Context as _;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::{
    io::Read as _,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::task::{JoinSet, LocalSet};

/// Users who submit runs, and how many runs of each are followed at once: as many as a user may have at once, and some
/// that wait.
const USERS: u64 = 3;
const RUNS_AT_ONCE: u64 = 6;
/// How long after a connection that failed, or a refusal, the next is tried.
pub const AGAIN_AFTER: Duration = Duration::from_millis(20);
/// The pauses of those who put files, push components and make keys: each push costs a compile, and the runs are what
/// matters most.
const PUSH_EVERY: Duration = Duration::from_millis(700);
const PUT_EVERY: Duration = Duration::from_millis(60);
const KEY_EVERY: Duration = Duration::from_millis(100);
/// How long after the end a run is still followed, before what is missing is left to the checker.
pub const FOLLOW_AFTER_END_MAX: Duration = Duration::from_secs(100);

#[derive(clap::Args)]
pub struct Options {
    /// The server.
    #[arg(long)]
    url: String,
    /// The file with the operator's key.
    #[arg(long)]
    admin_key_file: PathBuf,
    /// Where the components are.
    #[arg(long)]
    guests: PathBuf,
    /// Where to write what was acknowledged.
    #[arg(long)]
    acks: PathBuf,
    #[arg(long)]
    seed: u64,
    /// Storage is made to fail: errors that say that they are errors are taken.
    #[arg(long)]
    faults: bool,
}

/// What all parts of the load share.
pub struct Load {
    pub operator: Client,
    echo: Vec<u8>,
    probe: Vec<u8>,
    effects: Vec<u8>,
    pub acks: Acks,
    pub seed: u64,
    faults: bool,
    ending: AtomicBool,
    /// So that no two inputs, files, users or components are the same.
    next: AtomicU64,
}

/// A user who submits runs.
#[derive(Clone)]
pub struct User {
    pub number: u64,
    pub name: String,
    pub client: Client,
}

/// Loads until standard input ends.
///
/// # Errors
/// When the acknowledgements cannot be written down.
pub async fn run(options: Options) -> anyhow::Result<()> {
    // One thread is enough for who mostly waits, and leaves the others to the server.
    LocalSet::new().run_until(load(options)).await
}

async fn load(options: Options) -> anyhow::Result<()> {
    let read = |path: PathBuf| std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()));
    let key = String::from_utf8(read(options.admin_key_file)?)?;
    let load = Arc::new(Load {
        operator: Client::new(&options.url, key.trim()),
        echo: read(options.guests.join("echo.wasm"))?,
        probe: read(options.guests.join("probe.wasm"))?,
        effects: read(options.guests.join("effects.wasm"))?,
        acks: Acks::create(&options.acks)?,
        seed: options.seed,
        faults: options.faults,
        ending: AtomicBool::new(false),
        next: AtomicU64::new(0),
    });
    let users = load.prepare().await?;
    let (durable, young) = (load.prepare_durable().await?, load.prepare_young().await?);
    // Whoever started this waits for the line before the first kill.
    println!("loading");

    let mut tasks = JoinSet::new();
    for (user, number) in users.iter().flat_map(|user| (0..RUNS_AT_ONCE).map(move |number| (user, number))) {
        tasks.spawn_local(load.clone().submit_and_follow(user.clone(), number));
    }
    for user in users {
        tasks.spawn_local(load.clone().put_files(user));
    }
    for (user, number) in durable.iter().flat_map(|user| (0..durable::RUNS_AT_ONCE).map(move |number| (user, number))) {
        tasks.spawn_local(load.clone().have_durable_runs(user.clone(), number));
    }
    tasks.spawn_local(load.clone().have_young_runs(young));
    tasks.spawn_local(load.clone().push_plugins());
    tasks.spawn_local(load.clone().make_keys());
    std::thread::Builder::new().name("end".into()).spawn(move || {
        // Whatever it says, it means the end.
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        load.ending.store(true, Ordering::Relaxed);
    })?;
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    Ok(())
}

impl Load {
    pub fn ending(&self) -> bool {
        self.ending.load(Ordering::Relaxed)
    }

    pub fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// The agents, the users, and what they are granted.
    async fn prepare(&self) -> anyhow::Result<Vec<User>> {
        for (name, bytes) in [("echo", &self.echo), ("probe", &self.probe), ("effects", &self.effects)] {
            anyhow::ensure!(self.push(name, bytes.clone()).await?, "{name} was not taken; is the machine busy?");
        }
        let mut users = Vec::new();
        for number in 0..USERS {
            let name = format!("user-{number}");
            let key = self.make_key(&name).await?.with_context(|| format!("no key for {name}"))?;
            let grant = json!({"tools": ["file.*"], "state": "read_write"});
            let granted =
                self.operator.send(Method::PUT, &format!("/v1/users/{name}/grants/probe"), Some(&grant)).await?;
            anyhow::ensure!(granted.status == StatusCode::OK, "no grant for {name}: {}", granted.status);
            users.push(User { number, name, client: self.operator.with_key(&key) });
        }
        Ok(users)
    }

    /// Writes down an answer that is not the one hoped for, and waits a moment.
    pub async fn other(&self, doing: &str, answer: reqwest::Result<Answer>) -> anyhow::Result<()> {
        if let Ok(answer) = answer {
            let code = answer.code().unwrap_or_default();
            let what = format!("{doing}: {} {code}", answer.status);
            match answer.status.as_u16() {
                // The queue is full, or there is no room to compile.
                429 | 503 if !code.is_empty() => {}
                500 | 503 if self.faults && !code.is_empty() => self.acks.record(&Ack::Refused { what }).await?,
                _ => {
                    let body = String::from_utf8_lossy(&answer.bytes).into_owned();
                    self.acks.record(&Ack::Surprise { what: format!("{what} {body}") }).await?;
                }
            }
        }
        tokio::time::sleep(AGAIN_AFTER).await;
        Ok(())
    }

    /// Submits runs of all kinds, one after another, and follows each to its end.
    async fn submit_and_follow(self: Arc<Self>, user: User, number: u64) -> anyhow::Result<()> {
        let mut random = Random::new(self.seed, user.number * RUNS_AT_ONCE + number);
        while !self.ending() {
            let token = format!("{}-{}", user.name, self.number());
            match random.between(0, 10) {
                0..3 => self.echo_and_wait(&user, &token).await?,
                3..5 => self.cancelled(&user, &token, random.between(0, 40)).await?,
                kind => {
                    let effect = (kind < 7).then(|| format!("effects/{token}"));
                    self.followed(&user, &token, effect, &mut random).await?;
                }
            }
        }
        Ok(())
    }

    /// A run whose end comes with the answer.
    async fn echo_and_wait(&self, user: &User, token: &str) -> anyhow::Result<()> {
        let input = json!({"token": token});
        let run = json!({"agent": "echo", "input": input});
        match user.client.submit_and_wait(&run).await {
            Ok(answer) if answer.status.is_success() => {
                let told = answer.json();
                let id = text(&told, "id").to_owned();
                let input = Some(digest(input.to_string().as_bytes()));
                let run = Ack::Run { user: user.name.clone(), run: id.clone(), input, effect: None };
                self.acks.record(&run).await?;
                match end_of(&told) {
                    Some(end) => self.acks.record(&Ack::End { run: id, end }).await,
                    None => Ok(()),
                }
            }
            other => self.other("submit and wait", other).await,
        }
    }

    /// Submits a run; gives its id if it was acknowledged.
    async fn submit(&self, user: &User, input: Value, effect: Option<String>) -> anyhow::Result<Option<String>> {
        let run = json!({"agent": "probe", "input": input});
        match user.client.send(Method::POST, "/v1/runs", Some(&run)).await {
            Ok(answer) if answer.status == StatusCode::ACCEPTED => {
                let id = text(&answer.json(), "id").to_owned();
                let run = Ack::Run { user: user.name.clone(), run: id.clone(), input: None, effect };
                self.acks.record(&run).await?;
                Ok(Some(id))
            }
            other => self.other("submit", other).await.map(|()| None),
        }
    }

    /// A run with events, pauses, state and perhaps a line in a file, followed to its end.
    async fn followed(
        &self,
        user: &User,
        token: &str,
        effect: Option<String>,
        random: &mut Random,
    ) -> anyhow::Result<()> {
        let mut steps = vec![json!({"do": "thinking", "text": token})];
        for step in 0..random.between(2, 12) {
            steps.push(json!({"do": "emit", "name": "step", "payload": {"token": token, "step": step}}));
            if random.between(0, 3) == 0 {
                steps.push(json!({"do": "sleep", "ms": random.between(1, 60)}));
            }
        }
        if let Some(path) = &effect {
            steps.push(json!({"do": "file_write", "path": path, "text": "once\n", "append": true}));
            steps.push(json!({"do": "state_set", "scope": "user", "key": token, "text": token}));
            steps.push(json!({"do": "sleep", "ms": random.between(1, 100)}));
        }
        let input = json!({"do": "seq", "steps": steps});
        let Some(run) = self.submit(user, input, effect).await? else { return Ok(()) };
        self.follow(user, &run, async |_| Ok(())).await?;
        self.read_end(user, &run).await
    }

    /// Follows a run to its last event, over as many connections as it takes. `each` gets every event, once.
    pub async fn follow(
        &self,
        user: &User,
        run: &str,
        mut each: impl AsyncFnMut(&Value) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let path = format!("/v1/runs/{run}/events");
        let (mut seq, mut ended) = (0, false);
        let mut given_up = None;
        while !ended {
            let from = seq;
            let status = user.client.follow(&path, from, async |frame| {
                let event: Value = serde_json::from_str(&frame.data)?;
                ended = ["agent_completed", "agent_error"].contains(&text(&event, "type"));
                seq = frame.id;
                let data = digest(frame.data.as_bytes());
                self.acks.record(&Ack::Event { run: run.to_owned(), seq: frame.id, data }).await?;
                each(&event).await
            });
            match status.await {
                Ok(StatusCode::NO_CONTENT) => break,
                Ok(StatusCode::OK) | Err(_) => {}
                Ok(StatusCode::TOO_MANY_REQUESTS) => {}
                Ok(status) if self.faults && status.is_server_error() => {}
                Ok(status) => {
                    let what = format!("the stream of {run} is answered {status}");
                    return self.acks.record(&Ack::Surprise { what }).await;
                }
            }
            if self.ending() && given_up.get_or_insert_with(Instant::now).elapsed() > FOLLOW_AFTER_END_MAX {
                break;
            }
            if !ended {
                tokio::time::sleep(AGAIN_AFTER).await;
            }
        }
        Ok(())
    }

    /// Reads a run whose last event was seen. What it says then, it must say for ever.
    pub async fn read_end(&self, user: &User, run: &str) -> anyhow::Result<()> {
        match user.client.get(&format!("/v1/runs/{run}")).await {
            Ok(answer) if answer.status == StatusCode::OK => match end_of(&answer.json()) {
                Some(end) => self.acks.record(&Ack::End { run: run.to_owned(), end }).await,
                None => {
                    let what = format!("run {run} goes on after its last event");
                    self.acks.record(&Ack::Surprise { what }).await
                }
            },
            other => self.other("read a run", other).await,
        }
    }

    /// A run that is cancelled after a moment.
    async fn cancelled(&self, user: &User, token: &str, after_ms: u64) -> anyhow::Result<()> {
        let steps = json!([{"do": "thinking", "text": token}, {"do": "sleep", "ms": 5_000}]);
        let Some(run) = self.submit(user, json!({"do": "seq", "steps": steps}), None).await? else { return Ok(()) };
        tokio::time::sleep(Duration::from_millis(after_ms)).await;
        self.cancel(user, &run).await.map(drop)
    }

    /// Asks a run to stop. Says whether that was acknowledged, or the run has ended.
    pub async fn cancel(&self, user: &User, run: &str) -> anyhow::Result<bool> {
        match user.client.send(Method::POST, &format!("/v1/runs/{run}/cancel"), None).await {
            // Accepted: on a disk that fails, the end takes longer than a cancel waits. Who asked stands all the same, and
            // so the run has to end as cancelled.
            Ok(answer) if [StatusCode::OK, StatusCode::ACCEPTED].contains(&answer.status) => {
                let told = answer.json();
                if answer.status == StatusCode::ACCEPTED && text(&told, "cancelled_by").is_empty() {
                    return self.other("cancel", Ok(answer)).await.map(|()| false);
                }
                let ended = answer.status == StatusCode::OK;
                let status = if ended { text(&told, "status") } else { "cancelled" }.to_owned();
                self.acks.record(&Ack::Cancel { run: run.to_owned(), status }).await?;
                if let Some(end) = end_of(&told) {
                    self.acks.record(&Ack::End { run: run.to_owned(), end }).await?;
                }
                Ok(true)
            }
            // A crash ended it first.
            Ok(answer) if answer.status == StatusCode::CONFLICT => Ok(true),
            other => self.other("cancel", other).await.map(|()| false),
        }
    }

    async fn put_files(self: Arc<Self>, user: User) -> anyhow::Result<()> {
        while !self.ending() {
            let path = format!("files/{}", self.number());
            let bytes = path.repeat(20).into_bytes();
            let file = digest(&bytes);
            match user.client.put(&format!("/v1/files/{path}"), "application/octet-stream", bytes).await {
                Ok(answer) if answer.status == StatusCode::OK => {
                    self.acks.record(&Ack::File { user: user.name.clone(), path, digest: file }).await?;
                }
                other => self.other("put a file", other).await?,
            }
            tokio::time::sleep(PUT_EVERY).await;
        }
        Ok(())
    }

    async fn push_plugins(self: Arc<Self>) -> anyhow::Result<()> {
        while !self.ending() {
            let number = self.number();
            self.push(&format!("pushed-{number}"), with_section(&self.echo, &format!("push {number}"))).await?;
            tokio::time::sleep(PUSH_EVERY).await;
        }
        Ok(())
    }

    /// Says whether it was taken.
    async fn push(&self, name: &str, bytes: Vec<u8>) -> anyhow::Result<bool> {
        let component = digest(&bytes);
        match self.operator.put(&format!("/v1/plugins/{name}"), "application/wasm", bytes).await {
            Ok(answer) if answer.status.is_success() => {
                self.acks.record(&Ack::Plugin { name: name.to_owned(), digest: component }).await?;
                Ok(true)
            }
            other => self.other("push a component", other).await.map(|()| false),
        }
    }

    async fn make_keys(self: Arc<Self>) -> anyhow::Result<()> {
        while !self.ending() {
            self.make_key(&format!("keyed-{}", self.number())).await?;
            tokio::time::sleep(KEY_EVERY).await;
        }
        Ok(())
    }

    pub async fn make_key(&self, user: &str) -> anyhow::Result<Option<String>> {
        match self.operator.send(Method::POST, "/v1/keys", Some(&json!({ "user": user }))).await {
            Ok(answer) if answer.status == StatusCode::CREATED => {
                let key = text(&answer.json(), "api_key").to_owned();
                self.acks.record(&Ack::Key { user: user.to_owned(), key: key.clone() }).await?;
                Ok(Some(key))
            }
            other => self.other("make a key", other).await.map(|()| None),
        }
    }
}

/// The same component with one more custom section, which is other bytes and so another component.
fn with_section(component: &[u8], name: &str) -> Vec<u8> {
    let mut bytes = component.to_vec();
    // A custom section is 0, its length, the length of its name, its name. Lengths below 128 are one byte.
    let length = u8::try_from(name.len()).unwrap_or(0).min(100);
    bytes.extend([0, length + 1, length]);
    bytes.extend(name.bytes().take(length.into()));
    bytes
}
