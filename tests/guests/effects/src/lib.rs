//! Does things that can be counted from outside: a tool plugin with one tool that may be called twice, and one that may
//! not.
//!
//! Both write below `/workspace`, so whoever reads the user's files sees how often a call had an effect. Both can stay under
//! way after they have written, so that a host can be killed when the work is done and nobody knows it yet.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cofferdam_sdk::{Access, Tool, ToolContext, ToolError, ToolPlugin, export_tool};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What to append.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Append {
    /// The file, in the user's workspace.
    path: String,
    /// The line, by default the call's idempotency key.
    #[serde(default)]
    line: Option<String>,
    /// How long the call stays under way after it has written.
    #[serde(default)]
    hold_ms: u64,
}

/// What to put.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Put {
    /// The directory, in the user's workspace, for a file that is named by the call's idempotency key. It is made if it is
    /// not there.
    #[serde(default)]
    dir: Option<String>,
    /// A file, in the user's workspace, to which each attempt appends the key.
    #[serde(default)]
    attempts: Option<String>,
    /// Lines that it prints.
    #[serde(default)]
    prints: u32,
    /// How long each attempt stays under way after it has written.
    #[serde(default)]
    hold_ms: u64,
    /// How much longer the first attempt does, by the lines of `attempts`.
    #[serde(default)]
    hold_first_ms: u64,
}

/// What a call knows of itself.
#[derive(Serialize, JsonSchema)]
struct Done {
    /// Its idempotency key.
    key: String,
    /// The run that it was made for.
    run_id: String,
}

fn append(ctx: &ToolContext, Append { path, line, hold_ms }: Append) -> Result<Done, ToolError> {
    let key = key(ctx)?;
    append_line(&in_workspace(&path), line.as_deref().unwrap_or(&key))?;
    Ok(done(ctx, key, hold_ms))
}

fn put(ctx: &ToolContext, put: Put) -> Result<Done, ToolError> {
    let Put { dir, attempts, prints, hold_ms, hold_first_ms } = put;
    let key = key(ctx)?;
    for line in 0..prints {
        println!("line {line}");
    }
    let mut is_first = false;
    if let Some(attempts) = attempts.map(|path| in_workspace(&path)) {
        append_line(&attempts, &key)?;
        is_first = fs::read_to_string(&attempts).map_err(failed)?.lines().filter(|line| *line == key).count() == 1;
    }
    if let Some(dir) = dir.map(|path| in_workspace(&path)) {
        fs::create_dir_all(&dir).and_then(|()| fs::write(dir.join(&key), &key)).map_err(failed)?;
    }
    Ok(done(ctx, key, if is_first { hold_ms + hold_first_ms } else { hold_ms }))
}

fn key(ctx: &ToolContext) -> Result<String, ToolError> {
    let key = ctx.idempotency_key().map(str::to_owned);
    key.ok_or_else(|| ToolError::Failed("the call has no idempotency key".to_owned()))
}

fn in_workspace(path: &str) -> PathBuf {
    Path::new("/workspace").join(path)
}

fn append_line(path: &Path, line: &str) -> Result<(), ToolError> {
    let file = OpenOptions::new().append(true).create(true).open(path);
    // In one piece, so that what others append stands before or after it.
    file.and_then(|mut file| file.write_all(format!("{line}\n").as_bytes())).map_err(failed)
}

fn failed(error: std::io::Error) -> ToolError {
    ToolError::Failed(error.to_string())
}

fn done(ctx: &ToolContext, key: String, hold_ms: u64) -> Done {
    std::thread::sleep(Duration::from_millis(hold_ms));
    Done { key, run_id: ctx.run_id().to_owned() }
}

struct Effects;

impl ToolPlugin for Effects {
    const DESCRIPTION: &'static str = "Does things that can be counted from outside.";

    fn workspace() -> Access {
        Access::ReadWrite
    }

    fn tools() -> Vec<Tool> {
        vec![
            Tool::new("append", "Appends a line to a file; a second call appends a second line.", append),
            Tool::new("put", "Writes a file that is named by the call's idempotency key.", put).idempotent(),
        ]
    }
}

export_tool!(Effects);
