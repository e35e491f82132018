//! `cofferdam build`: turns an author's project into a component and says where it is.

use super::{
    output::{note, printable},
    project::{Project, Source},
};
use anyhow::Context as _;
use sha2::{Digest as _, Sha256};
use std::{fs, io::Write as _, path::PathBuf};

pub(super) mod javascript;
pub(super) mod python;
pub(super) mod rust;
pub(super) mod toolchain;

/// How a component starts: the magic number, then version 13 in layer 1. A core module is version 1 in layer 0.
const COMPONENT_PREAMBLE: [u8; 8] = *b"\0asm\x0d\0\x01\0";

/// Compile a project to a WebAssembly component.
#[derive(Debug, clap::Args)]
pub struct BuildArgs {
    /// Folder of the project: the one with its Cargo.toml, pyproject.toml or package.json.
    #[arg(default_value = ".")]
    dir: PathBuf,
    /// Print one JSON line: the project's name, the component's path, its digest and its size in bytes.
    #[arg(long)]
    json: bool,
}

/// What a build made.
#[derive(Debug)]
pub(super) struct Built {
    /// The component.
    pub file: PathBuf,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// The project's name, as a plugin's would be written.
    pub name: String,
}

/// Builds the project and prints its component. What its compiler has to say goes to standard error as it comes.
pub fn run(args: &BuildArgs) -> anyhow::Result<()> {
    let Built { file, bytes, name } = build(&Project::at(&args.dir)?, args.json)?;
    let digest = digest(&bytes);
    let mut out = std::io::stdout().lock();
    if args.json {
        writeln!(
            out,
            "{}",
            serde_json::json!({ "name": name, "component": file, "digest": digest, "bytes": bytes.len() })
        )?;
    } else {
        writeln!(out, "component  {}", file.display())?;
        writeln!(out, "digest     {digest}")?;
        writeln!(out, "bytes      {}", bytes.len())?;
        writeln!(out, "next       cofferdam plugin push {name} {}", file.display())?;
    }
    Ok(())
}

/// Builds a project. What takes its time is told, unless only programs read it.
pub(super) fn build(project: &Project, json: bool) -> anyhow::Result<Built> {
    let file = match &project.source {
        // Cargo tells by itself.
        Source::Rust => rust::component(project)?,
        Source::Python(code) => python::component(project, code, json)?,
        Source::JavaScript => javascript::component(project, json)?,
    };
    let bytes = fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
    Ok(Built { file, bytes, name: project.name.clone() })
}

/// Says what a build begins to do, as cargo does by itself; not where only programs read it.
fn begins(project: &Project, with: &str, json: bool) {
    if !json {
        note(&printable(&format!("making {} a component with {with}", project.name)));
    }
}

/// The name the host will know these bytes by.
pub(super) fn digest(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_lower_case_hexadecimal_with_its_algorithm() {
        assert_eq!(digest(b""), "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    }

    #[test]
    fn a_folder_that_is_not_there_is_refused_before_anything_runs() {
        let dir = std::env::temp_dir().join("no-such-folder");
        let refusal = run(&BuildArgs { dir, json: true }).unwrap_err().to_string();
        assert!(refusal.starts_with("there is no folder"), "{refusal}");
    }
}
