//! A command line that can be shown, run, and repeated by hand.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Instant;

use anyhow::{Context as _, bail, ensure};

use crate::workspace::Workspace;

/// One command, run in the workspace's root.
#[derive(Clone)]
pub struct Step {
    /// The program as a person would type it.
    shown: String,
    program: PathBuf,
    args: Vec<String>,
    env: Vec<(String, String)>,
    /// Variables for the program that are no part of what a person would type.
    quiet_env: Vec<(String, String)>,
    unset: Vec<String>,
    root: PathBuf,
    target: PathBuf,
}

impl Step {
    /// A cargo command: the cargo that runs this program.
    pub fn cargo<const N: usize>(workspace: &Workspace, args: [&str; N]) -> Self {
        let program = std::env::var_os("CARGO").map_or_else(|| PathBuf::from("cargo"), PathBuf::from);
        Self::new(workspace, "cargo".to_owned(), program, args)
    }

    /// A command of the host's own binary.
    pub fn cofferdam<const N: usize>(workspace: &Workspace, binary: &Path, args: [&str; N]) -> Self {
        Self::new(workspace, "cofferdam".to_owned(), binary.to_owned(), args)
    }

    /// A command of another binary of this workspace.
    pub fn program<const N: usize>(workspace: &Workspace, binary: &Path, args: [&str; N]) -> Self {
        Self::new(workspace, workspace.shown(binary), binary.to_owned(), args)
    }

    fn new<const N: usize>(workspace: &Workspace, shown: String, program: PathBuf, args: [&str; N]) -> Self {
        Step {
            shown,
            program,
            args: args.map(str::to_owned).to_vec(),
            env: Vec::new(),
            quiet_env: Vec::new(),
            unset: Vec::new(),
            root: workspace.root.clone(),
            target: workspace.target.clone(),
        }
    }

    pub fn args(mut self, args: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    pub fn env(mut self, name: &str, value: impl Into<String>) -> Self {
        self.env.push((name.to_owned(), value.into()));
        self
    }

    pub fn quiet_env(mut self, name: &str, value: impl Into<String>) -> Self {
        self.quiet_env.push((name.to_owned(), value.into()));
        self
    }

    pub fn unset(mut self, name: String) -> Self {
        self.unset.push(name);
        self
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.args).current_dir(&self.root);
        // `cargo run` describes this package in the environment. Build scripts that watch these names would run
        // again, and all that depends on them, whenever a build is started from here and not by hand.
        for (name, _) in std::env::vars_os() {
            let described = name.to_str().is_some_and(|name| {
                name.starts_with("CARGO_PKG_") || name == "CARGO_MANIFEST_DIR" || name == "CARGO_MANIFEST_PATH"
            });
            if described {
                command.env_remove(name);
            }
        }
        // What the user set may be relative to the folder they are in, which need not be the root.
        if std::env::var_os("CARGO_TARGET_DIR").is_some() && self.target.is_absolute() {
            command.env("CARGO_TARGET_DIR", &self.target);
        }
        for name in &self.unset {
            command.env_remove(name);
        }
        command.envs(self.env.iter().chain(&self.quiet_env).map(|(name, value)| (name, value)));
        command
    }

    fn started(&self, command: &mut Command) -> anyhow::Result<Child> {
        command
            .spawn()
            .with_context(|| format!("cannot start {}: is it there, and on the PATH?", self.program.display()))
    }

    /// Starts it, with its standard output for the caller to read and its standard error in a file, if one is given.
    pub fn spawn(&self, stderr: Option<std::fs::File>) -> anyhow::Result<Child> {
        let stderr = stderr.map_or_else(Stdio::inherit, Stdio::from);
        self.started(self.command().stdin(Stdio::null()).stdout(Stdio::piped()).stderr(stderr))
    }

    /// Runs it on the terminal.
    pub fn status(&self) -> anyhow::Result<ExitStatus> {
        Ok(self.started(self.command().stdin(Stdio::null()))?.wait()?)
    }

    /// Runs it and gives what it printed to standard output.
    pub fn output(&self) -> anyhow::Result<Vec<u8>> {
        let output = self.spawn(None)?.wait_with_output()?;
        ensure!(output.status.success(), "`{self}` failed ({}): see its message above", output.status);
        Ok(output.stdout)
    }
}

/// As a POSIX shell takes it.
impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, value) in &self.env {
            write!(f, "{name}={} ", quoted(value))?;
        }
        f.write_str(&self.shown)?;
        for arg in &self.args {
            write!(f, " {}", quoted(arg))?;
        }
        Ok(())
    }
}

fn quoted(word: &str) -> String {
    let plain = !word.is_empty() && word.chars().all(|c| c.is_ascii_alphanumeric() || "-_./=:,+@%".contains(c));
    if plain { word.to_owned() } else { format!("'{}'", word.replace('\'', r"'\''")) }
}

/// Runs commands one after the other under one name, says how long they took, and stops at the first that fails with
/// the line that repeats it.
pub fn run(name: &str, steps: &[Step]) -> anyhow::Result<()> {
    timed(name, || {
        for step in steps {
            println!("   {step}");
            let status = step.status()?;
            if !status.success() {
                bail!("`{name}` failed ({status}); once it is mended, repeat it with: {step}");
            }
        }
        Ok(())
    })
}

/// Does some work under a name and says how long it took.
pub fn timed<T>(name: &str, work: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
    println!("== {name}");
    let start = Instant::now();
    let result = work();
    let verdict = if result.is_ok() { "done" } else { "failed" };
    println!("== {name}: {verdict} in {:.1} s", start.elapsed().as_secs_f64());
    result
}

#[cfg(test)]
mod tests {
    use super::quoted;

    #[test]
    fn a_word_is_quoted_only_where_a_shell_would_read_it_otherwise() {
        assert_eq!(quoted("plugins/echo"), "plugins/echo");
        assert_eq!(quoted("-D warnings"), "'-D warnings'");
        assert_eq!(quoted(r#"{"a":1}"#), r#"'{"a":1}'"#);
        assert_eq!(quoted("*"), "'*'");
        assert_eq!(quoted(""), "''");
        assert_eq!(quoted("it's"), r"'it'\''s'");
    }
}
