//! `cargo xtask demo`: the example agent, from upload to report, with the commands a user would type.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use serde_json::{Value, json};

use crate::guests;
use crate::step::Step;
use crate::workspace::{Profile, Workspace};

/// How long the server may take to be ready: it only opens a database and two sockets.
const READY_MAX: Duration = Duration::from_secs(60);
/// How long the server may take to end: it waits for runs, of which there are none left.
const STOP_MAX: Duration = Duration::from_secs(30);
const REPORT_LINES_MAX: usize = 40;

pub fn run(workspace: &Workspace, input: Option<&Path>) -> anyhow::Result<()> {
    let plugins = workspace.root.join("plugins");
    let data = data_sets(&plugins.join("analyst/data"), input)?;

    guests::ensure_target()?;
    let binary = workspace.build_host(Profile::Dev)?;
    let built = guests::build(workspace, &binary, &["echo", "team", "analyst"].map(|name| plugins.join(name)))?;
    let analyst = built.last().context("the analyst was built")?;

    let dir = workspace.target.join("demo");
    if dir.exists() {
        std::fs::remove_dir_all(&dir)
            .with_context(|| format!("cannot remove what the last demo left: {}", dir.display()))?;
    }
    std::fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;

    let server = Server::start(workspace, &binary, &dir)?;
    let user = User { workspace, binary: &binary, server: &server };
    user.demonstrate(&data, analyst, &dir)
        .with_context(|| format!("the demo failed (the server's log is {})", workspace.shown(&server.log)))?;
    println!("\n$ kill -TERM {}   # the server drains and ends", server.child.id());
    server.stop()?;
    println!("\nThe demo worked. What it left is in {}: the report, the server's data and log.", workspace.shown(&dir));
    Ok(())
}

/// The files the agent is to look at.
fn data_sets(shipped: &Path, input: Option<&Path>) -> anyhow::Result<Vec<PathBuf>> {
    if let Some(file) = input {
        // Before anything is built, and absolute, because commands run in the repository's root.
        let file =
            file.canonicalize().with_context(|| format!("there is no file {}: give a CSV file", file.display()))?;
        return Ok(vec![file]);
    }
    let entries = std::fs::read_dir(shipped)
        .with_context(|| format!("cannot list {}: give a file with --input FILE.csv", shipped.display()))?;
    let mut files = entries.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>()?;
    files.retain(|file| file.extension().is_some_and(|extension| extension == "csv"));
    files.sort();
    ensure!(!files.is_empty(), "{} has no CSV file: give one with --input FILE.csv", shipped.display());
    Ok(files)
}

/// A development server for as long as this value lives.
struct Server {
    child: Child,
    log: PathBuf,
    url: String,
    api_key: String,
    admin_key: String,
}

impl Server {
    fn start(workspace: &Workspace, binary: &Path, dir: &Path) -> anyhow::Result<Self> {
        let log = dir.join("server.log");
        let data = workspace.shown(&dir.join("data"));
        let step =
            without_settings(Step::cofferdam(workspace, binary, ["serve", "--dev", "--json", "--data-dir", &data]));
        println!("\n$ {step} 2> {} &", workspace.shown(&log));
        let stderr = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        // In the guard from here on: whatever fails below, the process does not outlive us.
        let empty = String::new;
        let child = step.spawn(Some(stderr))?;
        let mut server = Server { child, log, url: empty(), api_key: empty(), admin_key: empty() };

        let ready = server.ready_line()?;
        println!("{}", without_keys(&ready));
        let field = |name: &str| {
            ready
                .get(name)
                .and_then(Value::as_str)
                .map(str::to_owned)
                .with_context(|| format!("the server's first line has no \"{name}\""))
        };
        server.url = field("url")?;
        server.api_key = field("api_key")?;
        server.admin_key = field("admin_key")?;
        Ok(server)
    }

    /// The one line the server prints once it answers.
    fn ready_line(&mut self) -> anyhow::Result<Value> {
        let stdout = self.child.stdout.take().context("the server's standard output is piped")?;
        let (sender, receiver) = mpsc::sync_channel(1);
        std::thread::spawn(move || {
            // To the end, so that the server never blocks on a full pipe; only the first line is waited for.
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let _ = sender.try_send(line);
            }
        });
        match receiver.recv_timeout(READY_MAX) {
            Ok(line) => serde_json::from_str(&line).with_context(|| {
                format!("the server's first line is not JSON: {line:?}; `serve --json` must print it")
            }),
            Err(mpsc::RecvTimeoutError::Timeout) => {
                bail!("the server was not ready after {READY_MAX:?}; it said:\n{}", self.log_tail())
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                bail!("the server ended before it was ready; it said:\n{}", self.log_tail())
            }
        }
    }

    /// Stops the server as an init system would, and insists that it ends well.
    fn stop(mut self) -> anyhow::Result<()> {
        // The shell's own `kill`: small container images have no other.
        let pid = self.child.id().to_string();
        let told = Command::new("sh").args(["-c", r#"kill -TERM "$0""#, &pid]).status()?;
        ensure!(
            told.success(),
            "could not signal the server (process {pid}): did it end early? See {}",
            self.log.display()
        );
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait()? {
                ensure!(status.success(), "the server did not end well ({status}); it said:\n{}", self.log_tail());
                return Ok(());
            }
            ensure!(
                start.elapsed() < STOP_MAX,
                "the server was still there {STOP_MAX:?} after SIGTERM; it said:\n{}",
                self.log_tail()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The last lines of the server's log.
    fn log_tail(&self) -> String {
        let log = std::fs::read(&self.log).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<_> = log.lines().collect();
        let start = lines.len().saturating_sub(20);
        lines.get(start..).unwrap_or_default().join("\n")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // After `stop` both do nothing: the child has been waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A user at a terminal.
struct User<'a> {
    workspace: &'a Workspace,
    binary: &'a Path,
    server: &'a Server,
}

impl User<'_> {
    fn demonstrate(&self, data: &[PathBuf], analyst: &Path, dir: &Path) -> anyhow::Result<()> {
        println!("$ export COFFERDAM_URL={} COFFERDAM_API_KEY=... COFFERDAM_ADMIN_KEY=...", self.server.url);

        let mut names = Vec::new();
        for file in data {
            let name = file.file_name().and_then(|name| name.to_str());
            let name = name.with_context(|| format!("{} has no UTF-8 name: rename it", file.display()))?;
            self.types(self.cofferdam(["files", "put", &self.workspace.shown(file), name]))?;
            names.push(name);
        }
        self.types(self.cofferdam(["plugin", "push", "analyst", &self.workspace.shown(analyst)]))?;
        self.types(self.cofferdam(["grant", "set", "dev", "analyst", r#"{"tools":["file.*"]}"#]))?;

        // One table by its name; several, as every table of the workspace.
        let input = match names.as_slice() {
            [name] => json!({ "path": name }),
            _ => json!({}),
        };
        let input = input.to_string();
        self.types(self.cofferdam(["runs", "submit", "analyst", "--input", &input, "--follow"]))?;
        self.reads_report(dir)
    }

    fn reads_report(&self, dir: &Path) -> anyhow::Result<()> {
        let step = self.cofferdam(["files", "get", "report.md", "-"]);
        println!("\n$ {step}");
        let report = step.output()?;
        ensure!(!report.is_empty(), "the agent's report is empty: see what the run said above");
        let file = dir.join("report.md");
        std::fs::write(&file, &report).with_context(|| format!("cannot write {}", file.display()))?;

        let report = String::from_utf8_lossy(&report);
        for line in report.lines().take(REPORT_LINES_MAX) {
            println!("{line}");
        }
        let left = report.lines().count().saturating_sub(REPORT_LINES_MAX);
        if left > 0 {
            println!("... {left} more lines in {}", self.workspace.shown(&file));
        }
        Ok(())
    }

    fn cofferdam<const N: usize>(&self, args: [&str; N]) -> Step {
        without_settings(Step::cofferdam(self.workspace, self.binary, args))
            .quiet_env("COFFERDAM_URL", &self.server.url)
            .quiet_env("COFFERDAM_API_KEY", &self.server.api_key)
            .quiet_env("COFFERDAM_ADMIN_KEY", &self.server.admin_key)
    }

    /// Shows a command, runs it, shows each line of its output as it comes, and gives the whole.
    fn types(&self, step: Step) -> anyhow::Result<()> {
        println!("\n$ {step}");
        let mut child = step.spawn(None)?;
        let stdout = child.stdout.take().context("the command's standard output is piped")?;
        for line in BufReader::new(stdout).lines() {
            let line = line.with_context(|| format!("`{step}` printed what is not UTF-8"))?;
            println!("{line}");
            std::io::stdout().flush()?;
        }
        let status = child.wait()?;
        ensure!(status.success(), "`{step}` failed ({status}): see its message above");
        Ok(())
    }
}

/// Takes the user's own settings out of a command, which might point it at a server that is not the demo's.
fn without_settings(step: Step) -> Step {
    let set = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    set.filter(|name| name.starts_with("COFFERDAM_")).fold(step, |step, name| step.unset(name))
}

/// The server's first line without what opens its door, for the terminal and the logs it may end in.
fn without_keys(ready: &Value) -> Value {
    let mut shown = ready.clone();
    for (name, value) in shown.as_object_mut().into_iter().flatten() {
        if name.ends_with("_key") {
            *value = json!("...");
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_not_shown() {
        let ready = json!({ "url": "http://127.0.0.1:1", "api_key": "a", "admin_key": "b" });
        assert_eq!(without_keys(&ready), json!({ "url": "http://127.0.0.1:1", "api_key": "...", "admin_key": "..." }));
    }
}
