//! Rust: cargo makes the component.

use super::COMPONENT_PREAMBLE;
use crate::cli::{kit, project::Project};
use anyhow::{Context as _, bail, ensure};
use serde_json::Value;
use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// How a crate names the SDK that `cofferdam build` unpacks.
const UNPACKED: &str = ".cofferdam/sdk/rust";

/// The target whose linker makes a component, not a core module.
pub(crate) const TARGET: &str = "wasm32-wasip2";

/// Builds the crate and gives its component. What rustc has to say goes to standard error as it comes.
pub(super) fn component(project: &Project) -> anyhow::Result<PathBuf> {
    ensure_target(&project.dir)?;
    let manifest = project.dir.join("Cargo.toml");
    let text = std::fs::read_to_string(&manifest).with_context(|| format!("cannot read {}", manifest.display()))?;
    // A crate that has the SDK from elsewhere needs nothing of ours.
    if text.contains(UNPACKED) {
        kit::unpack(&project.dir, "rust")?;
    }
    let file = find_component(&compile(&project.dir)?, &manifest)?;
    let bytes =
        std::fs::read(&file).with_context(|| format!("cannot read {}: run `cofferdam build` again", file.display()))?;
    ensure!(
        bytes.starts_with(&COMPONENT_PREAMBLE),
        "{} is not a component: build it for {TARGET} with the linker that comes with that target \
         (look for a `linker` setting in .cargo/config.toml)",
        file.display()
    );
    Ok(file)
}

/// Whether the target is there, for the toolchain that compiles in a folder.
pub(crate) fn has_target(dir: &Path) -> anyhow::Result<bool> {
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
    Ok(Path::new(String::from_utf8_lossy(&asked.stdout).trim()).is_dir())
}

/// Puts the target's standard library in place if it is not there.
fn ensure_target(dir: &Path) -> anyhow::Result<()> {
    if has_target(dir)? {
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

/// Finds the component among cargo's messages. Only cargo knows where it is: the environment, its configuration and
/// the workspace all have a say in the target folder.
fn find_component(messages: &str, manifest: &Path) -> anyhow::Result<PathBuf> {
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
            return Ok(file.to_owned());
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

    fn find(messages: &[String]) -> Result<PathBuf, String> {
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
        assert_eq!(built, Ok(PathBuf::from("/out/word.wasm")));
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
}
