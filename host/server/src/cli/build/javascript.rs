//! JavaScript and TypeScript: esbuild makes one module of the project and the SDK, and componentize-qjs a component of that,
//! both started by a program of the SDK's, which says what it did as JSON.

use super::toolchain;
use crate::cli::{
    kit,
    output::{note, printable, progress},
    project::Project,
};
use anyhow::{Context as _, bail};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// The versions of the toolchain, as npm keeps them.
const LOCK: &str = "sdk/javascript/toolchain/package-lock.json";

/// What the SDK's program says of a build.
#[derive(Deserialize)]
struct Said {
    component: Option<PathBuf>,
    #[serde(default)]
    warnings: Vec<Problem>,
    #[serde(default)]
    errors: Vec<Problem>,
}

/// Something in an author's file.
#[derive(Debug, Deserialize)]
struct Problem {
    file: Option<String>,
    line: Option<u64>,
    column: Option<u64>,
    text: String,
    next: Option<String>,
}

impl Problem {
    /// On one line, or two with what to do.
    fn shown(&self) -> String {
        let place = match (&self.file, self.line, self.column) {
            (Some(file), Some(line), Some(column)) => format!("{file}:{line}:{column}: "),
            (Some(file), Some(line), None) => format!("{file}:{line}: "),
            (Some(file), ..) => format!("{file}: "),
            (None, ..) => String::new(),
        };
        let next = self.next.as_ref().map(|next| format!("\n  next: {next}")).unwrap_or_default();
        let shown = format!("{place}{}{next}", self.text);
        shown.lines().map(printable).collect::<Vec<_>>().join("\n")
    }
}

/// Builds the project and gives its component.
pub(super) fn component(project: &Project, json: bool) -> anyhow::Result<PathBuf> {
    let toolchain = toolchain::installed(&toolchain_name()?, json, install)?;
    kit::unpack(&project.dir, "javascript")?;
    let folder = project.dir.join(kit::FOLDER);
    let sdk = folder.join("sdk/javascript");
    super::begins(project, "esbuild and componentize-qjs", json);
    let making = progress(format!("making {} a component", project.name), json);
    let built = Command::new("node")
        .arg(sdk.join("toolchain/build.mjs"))
        .arg("--project")
        .arg(&project.dir)
        .arg("--sdk")
        .arg(&sdk)
        .arg("--wit")
        .arg(folder.join("wit/agent.wit"))
        .arg("--toolchain")
        .arg(&toolchain)
        .stdin(Stdio::null())
        .output()
        .context("cannot start node: install Node.js 20 or newer, then run `cofferdam build` again")?;
    drop(making);
    let said: Option<Said> = serde_json::from_slice(&built.stdout).ok();
    match said {
        Some(Said { component: Some(file), warnings, .. }) if built.status.success() => {
            for problem in warnings {
                note(&format!("warning: {}", problem.shown()));
            }
            Ok(file)
        }
        Some(Said { errors, .. }) if !errors.is_empty() => {
            let errors: Vec<_> = errors.iter().map(Problem::shown).collect();
            bail!("{} cannot be built:\n{}", project.dir.display(), errors.join("\n"))
        }
        _ => {
            let words = String::from_utf8_lossy(&built.stderr);
            bail!(
                "the JavaScript toolchain failed ({}): run `cofferdam doctor --lang javascript`; it said\n{}",
                built.status,
                words.trim()
            )
        }
    }
}

/// The folder of the toolchain: another one for other versions.
pub(in crate::cli) fn toolchain_name() -> anyhow::Result<String> {
    let lock = kit::text(LOCK).context("the binary has no lock file of the JavaScript toolchain")?;
    let digest: String = Sha256::digest(lock.as_bytes()).iter().take(6).map(|byte| format!("{byte:02x}")).collect();
    Ok(format!("javascript-{digest}"))
}

/// Installs the toolchain into an empty folder.
fn install(folder: &Path) -> anyhow::Result<()> {
    for name in ["package.json", "package-lock.json"] {
        let text =
            kit::text(&format!("sdk/javascript/toolchain/{name}")).context("the binary lacks a toolchain file")?;
        kit::write_if_new(&folder.join(name), text.as_bytes())?;
    }
    let mut npm = Command::new("npm");
    npm.args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"]).current_dir(folder);
    toolchain::step("npm", &mut npm, "install Node.js 20 or newer with npm, and see that npm reaches its registry")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_is_told_with_its_place_and_the_next_step() {
        let problem = |text: &str| serde_json::from_str::<Problem>(text).expect("a problem").shown();
        assert_eq!(problem(r#"{"file":"a.js","line":2,"column":4,"text":"no"}"#), "a.js:2:4: no");
        assert_eq!(problem(r#"{"file":"a.js","text":"no","next":"do"}"#), "a.js: no\n  next: do");
        assert_eq!(problem(r#"{"text":"a\u001b[2J"}"#), "a\\u001b[2J");
    }
}
