//! What the server has acknowledged, one line each in a file that is synced before the client goes on.

use crate::plan::Step;
use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::{
    fs::{File, OpenOptions},
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    thread,
};
use tokio::sync::{mpsc, oneshot};

/// How many acknowledgements share a sync of the file, so that the client is not slower than the server.
const SYNC_LINES_MAX: usize = 256;

/// Something that the server said, and must stand by.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "ack", rename_all = "snake_case")]
pub enum Ack {
    /// A key was made for a user.
    Key { user: String, key: String },
    /// A component was taken.
    Plugin { name: String, digest: String },
    /// A file was taken.
    File { user: String, path: String, digest: String },
    /// A run was accepted. `input` is the digest of what it got, for an agent that gives it back; `effect` the file in
    /// which it leaves one line.
    Run { user: String, run: String, input: Option<String>, effect: Option<String> },
    /// A durable run was accepted, with what it is to do, and whether that has no end, so that it is cancelled.
    Durable { user: String, run: String, plan: Vec<Step>, endless: bool },
    /// An answer to a durable run's question was taken.
    Answer { run: String, prompt: String, answer: Value },
    /// A run has ended whose user keeps only the youngest: it may be removed.
    Young { user: String, run: String },
    /// An event was seen on a stream.
    Event { run: String, seq: u64, data: String },
    /// A cancel was answered with a run that stands so.
    Cancel { run: String, status: String },
    /// A run was seen ended.
    End { run: String, end: End },
    /// An answer that neither the request nor a crash explains.
    Surprise { what: String },
    /// An error that says that it is one, while storage was made to fail.
    Refused { what: String },
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    pub status: String,
    pub stop_reason: String,
    /// The digest of the output, or the code of the error.
    pub outcome: String,
}

/// The file, open for appending.
#[derive(Clone)]
pub struct Acks(mpsc::Sender<(String, oneshot::Sender<()>)>);

impl Acks {
    /// # Errors
    /// When the file cannot be made.
    pub fn create(path: &Path) -> anyhow::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(path);
        let file = file.with_context(|| format!("cannot write {}", path.display()))?;
        let (sender, lines) = mpsc::channel(SYNC_LINES_MAX);
        thread::Builder::new().name("acks".into()).spawn(move || write_all(file, lines))?;
        Ok(Self(sender))
    }

    /// Returns once it is on disk.
    ///
    /// # Errors
    /// When the file cannot be written any more.
    pub async fn record(&self, ack: &Ack) -> anyhow::Result<()> {
        let line = serde_json::to_string(ack)?;
        let (written, on_disk) = oneshot::channel();
        self.0.send((line, written)).await.ok().context("the file of acknowledgements is gone")?;
        on_disk.await.context("the file of acknowledgements cannot be written")
    }
}

fn write_all(mut file: File, mut lines: mpsc::Receiver<(String, oneshot::Sender<()>)>) {
    while let Some(first) = lines.blocking_recv() {
        let mut waiting = vec![first];
        while let Some(more) = (waiting.len() < SYNC_LINES_MAX).then(|| lines.try_recv().ok()).flatten() {
            waiting.push(more);
        }
        let text: String = waiting.iter().map(|(line, _)| format!("{line}\n")).collect();
        // Whoever waits hears of a failure by the end of this thread.
        if file.write_all(text.as_bytes()).and_then(|()| file.sync_data()).is_err() {
            return;
        }
        for (_, written) in waiting {
            let _ = written.send(());
        }
    }
}

/// All acknowledgements in the order in which they came.
///
/// # Errors
/// When the file cannot be read.
pub fn read(path: &Path) -> anyhow::Result<Vec<Ack>> {
    let file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    BufReader::new(file).lines().map(|line| Ok(serde_json::from_str(&line?)?)).collect()
}
