//! `cofferdam build`: turns an agent's crate into a component and says where it is.

use std::ffi::OsString;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail, ensure};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

/// The target whose linker makes a component, not a core module.
const TARGET: &str = "wasm32-wasip2";

/// How a component starts: the magic number, then version 13 in layer 1. A core module is version 1 in layer 0.
const COMPONENT_PREAMBLE: [u8; 8] = *b"\0asm\x0d\0\x01\0";

/// Compile an agent or tool crate to a WebAssembly component.
#[derive(Debug, clap::Args)]
pub struct BuildArgs {
    /// Folder of the crate: the one with its Cargo.toml.
    #[arg(default_value = ".")]
    dir: PathBuf,
    /// Print one JSON line: the component's path, its digest and its size in bytes.
    #[arg(long)]
    json: bool,
}

/// Builds the crate and prints its component. What rustc has to say goes to standard error as it comes.
pub fn run(args: BuildArgs) -> anyhow::Result<()> {
    let dir = args
        .dir
        .canonicalize()
        .with_context(|| format!("there is no folder {}: give the folder of the agent's crate", args.dir.display()))?;
    let manifest = dir.join("Cargo.toml");
    ensure!(
        manifest.is_file(),
        "{} has no Cargo.toml: give the folder of the agent's crate; the README shows one",
        dir.display()
    );

    ensure_target(&dir)?;
    let built = find_component(&compile(&dir)?, &manifest)?;
    let bytes = std::fs::read(&built.file)
        .with_context(|| format!("cannot read {}: run `cofferdam build` again", built.file.display()))?;
    ensure!(
        bytes.starts_with(&COMPONENT_PREAMBLE),
        "{} is not a component: build it for {TARGET} with the linker that comes with that target \
         (look for a `linker` setting in .cargo/config.toml)",
        built.file.display()
    );
    let digest = digest(&bytes);

    let mut out = std::io::stdout().lock();
    if args.json {
        writeln!(out, "{}", serde_json::json!({ "component": built.file, "digest": digest, "bytes": bytes.len() }))?;
    } else {
        writeln!(out, "component  {}", built.file.display())?;
        writeln!(out, "digest     {digest}")?;
        writeln!(out, "bytes      {}", bytes.len())?;
        writeln!(out, "next       cofferdam plugin push {} {}", built.name, built.file.display())?;
    }
    Ok(())
}

/// Puts the target's standard library in place if it is not there.
fn ensure_target(dir: &Path) -> anyhow::Result<()> {
    // Asking rustc instead of rustup works for every toolchain, and in `dir` it is the toolchain that will compile.
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| OsString::from("rustc"));
    let asked = Command::new(rustc)
        .args(["--print", "target-libdir", "--target", TARGET])
        .current_dir(dir)
        .stderr(Stdio::inherit())
        .output()
        .context("cannot start rustc: install Rust with rustup, then run `cofferdam build` again")?;
    ensure!(
        asked.status.success(),
        "rustc does not run in {}: its message is above; if the toolchain is missing, run `rustup toolchain install` there",
        dir.display()
    );
    if Path::new(String::from_utf8_lossy(&asked.stdout).trim()).is_dir() {
        return Ok(());
    }

    // Standard output carries only the result, so rustup gets none of it.
    let added = Command::new("rustup")
        .args(["target", "add", TARGET])
        .current_dir(dir)
        .stdout(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    ensure!(
        added,
        "the Rust target {TARGET} is missing and could not be added: run `rustup target add {TARGET}` in {}, \
         then `cofferdam build` again",
        dir.display()
    );
    Ok(())
}

/// Runs cargo and gives its messages, one JSON text a line.
fn compile(dir: &Path) -> anyhow::Result<String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    let output = Command::new(cargo)
        .args(["build", "--release", "--target", TARGET, "--message-format=json-render-diagnostics"])
        .current_dir(dir)
        .stderr(Stdio::inherit())
        .output()
        .context("cannot start cargo: install Rust with rustup, then run `cofferdam build` again")?;
    ensure!(
        output.status.success(),
        "cargo could not build {}: mend what it says above, then run `cofferdam build` again",
        dir.display()
    );
    String::from_utf8(output.stdout)
        .context("cargo's messages are not UTF-8: rename the folders on the crate's path that are not")
}

/// What a build made.
#[derive(Debug, PartialEq)]
struct Built {
    file: PathBuf,
    /// The library's name as a plugin's name would be written.
    name: String,
}

/// Finds the component among cargo's messages. Only cargo knows where it is: the environment, its configuration and
/// the workspace all have a say in the target folder.
fn find_component(messages: &str, manifest: &Path) -> anyhow::Result<Built> {
    let mut seen = false;
    // Lines that are not JSON are a build script's own output.
    for message in messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
        let text = |pointer: &str| message.pointer(pointer).and_then(Value::as_str);
        let texts = |pointer: &str| {
            message.pointer(pointer).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str)
        };
        let is_ours = text("/manifest_path").is_some_and(|path| names_file(Path::new(path), manifest));
        if text("/reason") != Some("compiler-artifact") || !is_ours {
            continue;
        }
        seen = true;
        if !texts("/target/kind").any(|kind| kind == "cdylib") {
            continue;
        }
        let wasm = texts("/filenames").map(Path::new).find(|file| file.extension().is_some_and(|e| e == "wasm"));
        if let Some(file) = wasm {
            let name = text("/target/name").unwrap_or("NAME").replace('_', "-");
            return Ok(Built { file: file.to_owned(), name });
        }
    }
    if seen {
        bail!(
            "the crate of {} makes no component: add `crate-type = [\"cdylib\"]` under [lib] in it",
            manifest.display()
        );
    }
    bail!(
        "{} is a workspace, not a crate: run `cofferdam build` on the folder of one of its members",
        manifest.display()
    );
}

/// Whether a path as cargo wrote it is the manifest. Cargo does not resolve the symbolic links between a workspace
/// and its members, so the text may differ.
fn names_file(path: &Path, manifest: &Path) -> bool {
    path == manifest || path.canonicalize().is_ok_and(|resolved| resolved == manifest)
}

/// The name the host will know these bytes by.
fn digest(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn artifact(manifest: &str, kinds: &[&str], files: &[&str]) -> String {
        serde_json::json!({
            "reason": "compiler-artifact",
            "manifest_path": manifest,
            "target": { "kind": kinds, "name": "word_count" },
            "filenames": files,
        })
        .to_string()
    }

    fn find(messages: &[String]) -> Result<Built, String> {
        find_component(&messages.join("\n"), Path::new("/agents/word-count/Cargo.toml")).map_err(|e| e.to_string())
    }

    #[test]
    fn the_component_is_the_crates_own_cdylib_wherever_cargo_put_it() {
        let built = find(&[
            artifact("/registry/serde/Cargo.toml", &["lib"], &["/out/libserde.rlib"]),
            artifact("/agents/other/Cargo.toml", &["cdylib"], &["/out/other.wasm"]),
            artifact("/agents/word-count/Cargo.toml", &["custom-build"], &["/out/build-script-build"]),
            artifact("/agents/word-count/Cargo.toml", &["cdylib", "rlib"], &["/out/libword.rlib", "/out/word.wasm"]),
            r#"{"reason":"build-finished","success":true}"#.to_owned(),
        ]);
        assert_eq!(built, Ok(Built { file: PathBuf::from("/out/word.wasm"), name: "word-count".to_owned() }));
    }

    #[test]
    fn lines_that_are_not_cargos_are_passed_over() {
        let built = find(&[
            "hello from a build script".to_owned(),
            "[1, 2]".to_owned(),
            "{".to_owned(),
            r#"{"reason":"compiler-artifact"}"#.to_owned(),
            artifact("/agents/word-count/Cargo.toml", &["cdylib"], &["/out/word.wasm"]),
        ]);
        assert!(built.is_ok(), "{built:?}");
    }

    #[test]
    fn a_crate_without_a_cdylib_is_told_what_to_add() {
        let refusal = find(&[artifact("/agents/word-count/Cargo.toml", &["lib"], &["/out/libword.rlib"])]).unwrap_err();
        assert!(refusal.contains(r#"crate-type = ["cdylib"]"#), "{refusal}");
    }

    #[test]
    fn a_cdylib_that_is_not_wasm_is_not_a_component() {
        let refusal =
            find(&[artifact("/agents/word-count/Cargo.toml", &["cdylib"], &["/out/libword.so"])]).unwrap_err();
        assert!(refusal.contains("makes no component"), "{refusal}");
    }

    #[test]
    fn a_workspace_is_told_to_name_a_member() {
        let refusal = find(&[artifact("/agents/other/Cargo.toml", &["cdylib"], &["/out/other.wasm"])]).unwrap_err();
        assert!(refusal.contains("one of its members"), "{refusal}");
        assert_eq!(find(&[]).unwrap_err(), refusal);
    }

    #[test]
    fn a_digest_is_lower_case_hexadecimal_with_its_algorithm() {
        assert_eq!(digest(b""), "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    }

    #[test]
    fn a_folder_without_a_manifest_is_refused_before_anything_runs() {
        let dir = std::env::temp_dir();
        let refusal = run(BuildArgs { dir: dir.join("no-such-folder"), json: true }).unwrap_err().to_string();
        assert!(refusal.starts_with("there is no folder"), "{refusal}");
    }
}
