//! A server as its users start it, in a process of its own.

use crate::server::{User, worker};
use serde_json::Value;
use std::{
    path::Path,
    process::{Output, Stdio},
};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command},
};

/// A server in a process of its own.
pub struct Process {
    child: Child,
    ready: Value,
}

impl Process {
    pub async fn serve(data_dir: &Path) -> Self {
        Self::serve_with(data_dir, &[]).await
    }

    pub async fn serve_at(data_dir: &Path, address: &str) -> Self {
        Self::serve_with(data_dir, &["--listen", address]).await
    }

    pub async fn serve_with(data_dir: &Path, flags: &[&str]) -> Self {
        Self::serve_logging_to(data_dir, flags, Stdio::null()).await
    }

    pub async fn serve_logging_to(data_dir: &Path, flags: &[&str], log: Stdio) -> Self {
        let mut child = Command::new(worker())
            .args(["serve", "--dev", "--json", "--data-dir"])
            .arg(data_dir)
            .args(flags)
            .stdout(Stdio::piped())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .expect("started");
        let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        let line = lines.next_line().await.expect("a line").expect("the server says that it is ready");
        Self { child, ready: serde_json::from_str(&line).expect("JSON") }
    }

    pub fn text(&self, name: &str) -> &str {
        self.ready[name].as_str().unwrap_or_else(|| panic!("no {name} in {}", self.ready))
    }

    pub fn operator(&self) -> User {
        User::new("operator", self.text("url"), self.text("admin_key"))
    }

    pub fn dev(&self) -> User {
        User::new("dev", self.text("url"), self.text("api_key"))
    }

    pub fn id(&self) -> u32 {
        self.child.id().expect("alive")
    }

    pub async fn kill(&mut self) {
        self.child.kill().await.expect("killed");
    }

    /// Asks it to stop, and gives its exit code.
    pub async fn terminate(self) -> Option<i32> {
        self.end_by("TERM").await
    }

    /// Sends it a signal, and gives its exit code.
    pub async fn end_by(mut self, signal: &str) -> Option<i32> {
        let id = self.child.id().expect("alive").to_string();
        Command::new("kill").args([&format!("-{signal}"), &id]).status().await.expect("signalled");
        self.child.wait().await.expect("ended").code()
    }

    /// A verb, against this server.
    pub async fn cofferdam(&self, args: &[&str]) -> Output {
        self.command(args).output().await.expect("run")
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(worker());
        command.args(args).env("COFFERDAM_URL", self.text("url")).env("COFFERDAM_API_KEY", self.text("api_key"));
        command.env("COFFERDAM_ADMIN_KEY", self.text("admin_key"));
        command
    }
}
