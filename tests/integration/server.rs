//! A server to test, and its clients.

use cofferdam_core::quota::Quota;
use cofferdam_server::{
    App,
    config::{Config, SocketTimes},
};
use reqwest::{Client, Method, Response, StatusCode, header::HeaderMap};
use serde_json::{Value, json};
use std::{
    future::Future,
    path::{Path, PathBuf},
    sync::{
        LazyLock, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tempfile::TempDir;

/// One async runtime for all tests, because the shared server lives on it.
static TOKIO: LazyLock<tokio::runtime::Runtime> =
    LazyLock::new(|| tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime"));

pub fn run<T>(test: impl Future<Output = T>) -> T {
    TOKIO.block_on(test)
}

/// Where `cargo xtask` puts the components that tests use.
pub fn guest_path(name: &str) -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("a target directory");
    target.join(format!("guests/{name}.wasm"))
}

pub fn guest(name: &str) -> Vec<u8> {
    let path = guest_path(name);
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}; run `cargo xtask guests` first", path.display()))
}

pub fn worker() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_cofferdam"))
}

pub fn config(data_dir: &Path, quota: Quota) -> Config {
    let free = "127.0.0.1:0".parse().expect("an address");
    Config {
        data_dir: Some(data_dir.to_owned()),
        listen: free,
        admin_listen: free,
        dev: true,
        drain_wait: Duration::from_secs(10),
        compile_worker: worker(),
        quota,
        // Each engine reserves address space for so many; many servers share this process.
        runs_live_max: 64,
        socket_times: SocketTimes::default(),
    }
}

/// Starts a server, also over the directory of one that has just ended.
pub async fn started(config: Config) -> App {
    let began = Instant::now();
    loop {
        match App::start(config.clone()).await {
            Ok(app) => return app,
            // A process that another test starts at this moment has all descriptors of this one until it runs its own
            // program, the lock on the directory with them. Servers that share no process do not meet this.
            Err(error)
                if error.to_string().contains("another server uses") && began.elapsed() < Duration::from_secs(2) =>
            {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            Err(error) => panic!("not started: {error}"),
        }
    }
}

pub struct Server {
    pub app: App,
    pub dir: TempDir,
    pub operator: User,
}

impl Server {
    pub async fn start() -> Self {
        Self::start_with(Quota::default()).await
    }

    /// With all agents that tests use pushed.
    pub async fn start_with(quota: Quota) -> Self {
        let server = Self::start_empty(tempfile::tempdir().expect("a directory"), quota).await;
        for name in ["echo", "probe", "hostile", "units"] {
            server.operator.push(name, guest(name)).await.is(StatusCode::CREATED);
        }
        server
    }

    pub async fn start_empty(dir: TempDir, quota: Quota) -> Self {
        let app = started(config(dir.path(), quota)).await;
        let operator = User::new("operator", &app.url(), app.admin_key().expect("a dev server"));
        Self { app, dir, operator }
    }

    /// Stops the server in good order, and starts another over the same data.
    pub async fn restart(self) -> Self {
        let Self { app, dir, .. } = self;
        app.shutdown().await;
        Self::start_empty(dir, Quota::default()).await
    }

    /// A new user, with nothing granted.
    pub async fn user(&self, name: &str) -> User {
        let made = self.operator.post("/v1/keys", &json!({ "user": name })).await.is(StatusCode::CREATED);
        User::new(name, &self.app.url(), made["api_key"].as_str().expect("a key"))
    }

    /// A user of a name that no other test has, who was granted all that `probe` and `hostile` ask for.
    pub async fn trusted(&self) -> User {
        let user = self.stranger().await;
        for agent in ["probe", "hostile"] {
            let grant = json!({
                "tools": ["*"], "state": "read_write", "workspace": "read_write", "agents": ["*"], "human": true,
            });
            self.grant(&user, agent, &grant).await;
        }
        user
    }

    /// A user of a name that no other test has, with nothing granted.
    pub async fn stranger(&self) -> User {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        self.user(&format!("user-{}", NEXT.fetch_add(1, Ordering::Relaxed))).await
    }

    pub async fn grant(&self, user: &User, agent: &str, grant: &Value) {
        let path = format!("/v1/users/{}/grants/{agent}", user.name);
        self.operator.send(Method::PUT, &path, Some(grant)).await.is(StatusCode::OK);
    }
}

/// The server that most tests share.
pub async fn shared() -> &'static Server {
    static SHARED: OnceLock<tokio::sync::OnceCell<Server>> = OnceLock::new();
    SHARED.get_or_init(tokio::sync::OnceCell::new).get_or_init(Server::start).await
}

/// A client with a key.
#[derive(Clone)]
pub struct User {
    pub name: String,
    pub key: String,
    url: String,
    client: Client,
}

/// An answer, read.
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub text: String,
}

impl Answer {
    pub async fn of(response: Response) -> Self {
        let (status, headers) = (response.status(), response.headers().clone());
        Self { status, headers, text: response.text().await.expect("a body") }
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|e| panic!("{e}: {}", self.text))
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// The body, if the status is this one.
    pub fn is(&self, status: StatusCode) -> Value {
        assert_eq!(self.status, status, "{}", self.text);
        self.json()
    }

    /// Checks that this is a problem document with this status and code, and gives it.
    pub fn problem(&self, status: u16, code: &str) -> Value {
        assert_eq!(self.status.as_u16(), status, "{}", self.text);
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{}", self.text);
        let problem = self.json();
        assert_eq!(problem["code"], code, "{problem}");
        assert_eq!(problem["status"], status);
        assert!(problem["detail"].as_str().is_some_and(|detail| !detail.is_empty()), "{problem}");
        problem
    }
}

impl User {
    pub fn new(name: &str, url: &str, key: &str) -> Self {
        Self { name: name.into(), key: key.into(), url: url.into(), client: Client::new() }
    }

    pub fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        self.client.request(method, format!("{}{path}", self.url)).bearer_auth(&self.key)
    }

    pub async fn send(&self, method: Method, path: &str, body: Option<&Value>) -> Answer {
        let request = self.request(method, path);
        let request = match body {
            Some(body) => request.json(body),
            None => request,
        };
        Answer::of(request.send().await.expect("answered")).await
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send(Method::GET, path, None).await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.send(Method::POST, path, Some(body)).await
    }

    pub async fn push(&self, name: &str, component: Vec<u8>) -> Answer {
        let request = self.request(Method::PUT, &format!("/v1/plugins/{name}"));
        let request = request.header("content-type", "application/wasm").body(component);
        Answer::of(request.send().await.expect("answered")).await
    }

    /// Submits a run without waiting, and gives its id.
    pub async fn submit(&self, body: &Value) -> String {
        let run = self.post("/v1/runs", body).await.is(StatusCode::ACCEPTED);
        run["id"].as_str().expect("an id").to_owned()
    }

    /// Submits a run and waits for its end.
    pub async fn finish(&self, body: &Value) -> Value {
        let request = self.request(Method::POST, "/v1/runs").header("prefer", "wait=60").json(body);
        Answer::of(request.send().await.expect("answered")).await.is(StatusCode::OK)
    }

    /// Lets the probe do something, and gives its output.
    pub async fn probe(&self, input: &Value) -> Value {
        let run = self.finish(&json!({"agent": "probe", "input": input})).await;
        assert_eq!(run["stop_reason"], "completed", "{run}");
        run["output"].clone()
    }

    /// Waits until a run has ended.
    pub async fn ended(&self, id: &str) -> Value {
        loop {
            let run = self.get(&format!("/v1/runs/{id}")).await.is(StatusCode::OK);
            if run["finished_at"].is_string() {
                return run;
            }
            // Following the stream is the wait: it ends when the run does.
            let stream =
                self.request(Method::GET, &format!("/v1/runs/{id}/events")).header("accept", "text/event-stream");
            let _ = stream.send().await.expect("answered").text().await;
        }
    }

    /// All events of a run that has ended.
    pub async fn events(&self, id: &str) -> Vec<Value> {
        let mut all = Vec::new();
        let mut after = 0;
        loop {
            let page = self.get(&format!("/v1/runs/{id}/events?after={after}")).await.is(StatusCode::OK);
            all.extend(page["events"].as_array().expect("events").iter().cloned());
            match page["next_after"].as_u64() {
                Some(next) => after = next,
                None => return all,
            }
        }
    }
}
