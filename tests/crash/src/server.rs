//! The server as a process: started, asked whether it is ready, killed.

use anyhow::{Context as _, bail};
use std::{
    fs::{File, OpenOptions},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// How long a start may take before the test gives up. What is asserted is far less.
const READY_MAX: Duration = Duration::from_secs(30);
/// How often a starting server is asked.
const ASK_EVERY: Duration = Duration::from_millis(2);
/// How long a server may take to end in good order.
const STOP_MAX: Duration = Duration::from_secs(60);
/// Where ports are looked for. Below those that the system gives to connections going out: while the server is down,
/// one of its own clients could be given the port it waits for.
const PORTS: std::ops::Range<u16> = 20_000..30_000;

/// How a server is started, again and again.
#[derive(Debug, Clone)]
pub struct Setup {
    pub binary: PathBuf,
    pub data_dir: PathBuf,
    /// Its standard error, over all starts.
    pub log: PathBuf,
    pub port: u16,
    pub admin_port: u16,
    /// Variables for the server alone.
    pub env: Vec<(String, String)>,
}

/// A server that runs. Killed when dropped.
pub struct Server {
    child: Child,
    started: Instant,
}

/// A port that nobody listens on.
///
/// # Errors
/// When there is none.
pub fn free_port(from: u64) -> anyhow::Result<u16> {
    let ports = PORTS.len() as u64;
    let tried = (0..ports).filter_map(|step| u16::try_from(u64::from(PORTS.start) + (from + step) % ports).ok());
    tried
        .into_iter()
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .context("no port is free; end what listens on the ports from 20000 on")
}

impl Setup {
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    #[must_use]
    pub fn admin_key_file(&self) -> PathBuf {
        self.data_dir.join("admin.key")
    }

    /// Starts the server; it is not ready yet.
    ///
    /// # Errors
    /// When the process does not start.
    pub fn start(&self) -> anyhow::Result<Server> {
        let log = OpenOptions::new().create(true).append(true).open(&self.log).context("cannot write the log")?;
        let mut command = Command::new(&self.binary);
        // What is set for a server in the developer's shell is not meant for this one.
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("COFFERDAM_")) {
            command.env_remove(name);
        }
        command.arg("serve").arg("--data-dir").arg(&self.data_dir);
        command.args(["--listen", &format!("127.0.0.1:{}", self.port)]);
        command.args(["--admin-listen", &format!("127.0.0.1:{}", self.admin_port)]);
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn();
        let child = child.with_context(|| format!("cannot start {}", self.binary.display()))?;
        Ok(Server { child, started: Instant::now() })
    }

    /// Waits until the server says that it is ready, and gives how long that took from its start.
    ///
    /// # Errors
    /// When it has ended, or is not ready in time.
    pub async fn ready(&self, server: &mut Server) -> anyhow::Result<Duration> {
        let url = format!("http://127.0.0.1:{}/readyz", self.admin_port);
        loop {
            if let Ok(answer) = reqwest::get(&url).await
                && answer.status().is_success()
            {
                return Ok(server.started.elapsed());
            }
            if let Some(status) = server.child.try_wait()? {
                bail!("the server ended ({status}) instead of being ready; its log is {}", self.log.display());
            }
            if server.started.elapsed() > READY_MAX {
                bail!("the server is not ready after {READY_MAX:?}; its log is {}", self.log.display());
            }
            tokio::time::sleep(ASK_EVERY).await;
        }
    }

    /// How many lines of the log speak of a panic.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn panics(&self) -> anyhow::Result<usize> {
        let text = std::fs::read(&self.log)?;
        Ok(String::from_utf8_lossy(&text).lines().filter(|line| line.contains("panicked")).count())
    }
}

impl Server {
    /// # Errors
    /// When it has ended by itself.
    pub fn goes_on(&mut self) -> anyhow::Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("the server has ended by itself: {status}"),
        }
    }

    /// SIGKILL: nothing of it runs on.
    ///
    /// # Errors
    /// When the system does not do it.
    pub fn kill(mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Asks it to end and waits for it.
    ///
    /// # Errors
    /// When it does not.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        let asked = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status();
        asked.context("cannot run `kill`")?;
        let began = Instant::now();
        while began.elapsed() < STOP_MAX {
            if let Some(status) = self.child.try_wait()? {
                anyhow::ensure!(status.success(), "the server ended with {status}");
                return Ok(());
            }
            tokio::time::sleep(ASK_EVERY).await;
        }
        bail!("the server does not end")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Makes a directory anew.
///
/// # Errors
/// When the disk fails.
pub fn fresh_dir(path: &Path) -> anyhow::Result<PathBuf> {
    if path.exists() {
        std::fs::remove_dir_all(path).with_context(|| format!("cannot remove {}", path.display()))?;
    }
    std::fs::create_dir_all(path).with_context(|| format!("cannot make {}", path.display()))?;
    // The server's own directory must be its own, and the path is compared with what the system says of open files.
    let path = path.canonicalize()?;
    File::open(&path)?.sync_all()?;
    Ok(path)
}
