//! Where the server runs, and who loads it: the processes of the test, and the disk between two kills.

use crate::{
    powercut::Disk,
    server::{Server, Setup, fresh_dir},
};
use anyhow::{Context as _, bail, ensure};
use std::{
    path::Path,
    process::Stdio,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, ChildStdin, Command},
};

/// How long the client may take to come to its end once nothing is killed any more.
const CLIENT_END_MAX: Duration = Duration::from_secs(150);

/// The server's place: how it is started, and the disk that it writes to.
#[derive(Debug)]
pub struct Place {
    pub setup: Setup,
    /// None: a disk that keeps what was written when its writer is killed.
    pub disk: Option<Disk>,
    pub starts: u64,
    pub kills: u32,
    /// When the server was killed, in microseconds since 1970.
    pub killed_at_us: Vec<u64>,
    pub unsynced_bytes_lost: u64,
    pub faults_made: u64,
    pub syncs: u64,
}

impl Place {
    #[must_use]
    pub const fn new(setup: Setup) -> Self {
        Self {
            setup,
            disk: None,
            starts: 0,
            kills: 0,
            killed_at_us: Vec::new(),
            unsynced_bytes_lost: 0,
            faults_made: 0,
            syncs: 0,
        }
    }

    /// Makes the data directory anew, on a disk that forgets or on one that does not.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn renew(&mut self, forgets: bool, work: &Path) -> anyhow::Result<()> {
        let dir = fresh_dir(&self.setup.data_dir)?;
        self.disk = forgets.then(|| Disk::over(&dir, &work.join("disk"))).transpose()?;
        Ok(())
    }

    /// Starts the server; it is not ready yet.
    ///
    /// # Errors
    /// When the process does not start.
    pub fn start(&mut self) -> anyhow::Result<Server> {
        self.starts += 1;
        self.setup.env = self.disk.as_ref().map(|disk| disk.env(self.starts)).unwrap_or_default();
        self.setup.start()
    }

    /// Starts the server and waits until it is ready.
    ///
    /// # Errors
    /// When it does not become ready.
    pub async fn started(&mut self) -> anyhow::Result<(Server, Duration)> {
        let mut server = self.start()?;
        let ready = self.setup.ready(&mut server).await?;
        Ok((server, ready))
    }

    /// Kills the server, and the power with it where the disk forgets.
    ///
    /// # Errors
    /// When the system does not do it.
    pub fn kill(&mut self, server: Server) -> anyhow::Result<()> {
        self.kill_alone(server)?;
        if let Some(disk) = &self.disk {
            let counts = disk.cut().context("cutting the power")?;
            self.unsynced_bytes_lost += counts.unsynced_bytes;
            self.faults_made += counts.faults_made;
            self.syncs += counts.syncs;
        }
        Ok(())
    }

    /// Kills the server alone: the system still has what it wrote.
    ///
    /// # Errors
    /// When the system does not do it.
    pub fn kill_alone(&mut self, server: Server) -> anyhow::Result<()> {
        self.kills += 1;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.killed_at_us.push(u64::try_from(now.as_micros()).unwrap_or(u64::MAX));
        server.kill()
    }
}

/// The client's process.
pub struct Loading {
    child: Child,
    /// Closed to tell it that the end has come.
    stdin: ChildStdin,
}

impl Loading {
    /// Starts the client, and returns once it loads the server.
    ///
    /// # Errors
    /// When it does not begin.
    pub async fn start(setup: &Setup, guests: &Path, acks: &Path, seed: u64, faults: bool) -> anyhow::Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["load", "--url", &setup.url(), "--seed", &seed.to_string()]);
        command.arg("--admin-key-file").arg(setup.admin_key_file());
        command.arg("--guests").arg(guests).arg("--acks").arg(acks);
        if faults {
            command.arg("--faults");
        }
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true).spawn()?;
        let stdin = child.stdin.take().context("a pipe")?;
        let mut lines = BufReader::new(child.stdout.take().context("a pipe")?).lines();
        let line = lines.next_line().await?;
        ensure!(line.as_deref() == Some("loading"), "the client did not begin; see its message above");
        Ok(Self { child, stdin })
    }

    /// # Errors
    /// When the client has ended by itself.
    pub fn goes_on(&mut self) -> anyhow::Result<()> {
        ensure!(self.child.try_wait()?.is_none(), "the client has ended; see its message above");
        Ok(())
    }

    /// Tells the client to come to its end, and waits for it.
    ///
    /// # Errors
    /// When it failed, or does not come to its end.
    pub async fn end(self) -> anyhow::Result<()> {
        let Self { mut child, stdin } = self;
        drop(stdin);
        match tokio::time::timeout(CLIENT_END_MAX, child.wait()).await {
            Ok(status) => ensure!(status?.success(), "the client failed; see its message above"),
            Err(_) => bail!("the client does not come to its end: some run neither ends nor is refused"),
        }
        Ok(())
    }
}
