//! `cargo xtask guests`: every guest as a component, built the way an author builds one.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, ensure};
use serde_json::Value;

use crate::step::{Step, timed};
use crate::workspace::{GUEST_WORKSPACES, Profile, Workspace};

/// The target that makes components.
pub const TARGET: &str = "wasm32-wasip2";

/// Builds the host, then every guest with it.
pub fn build_all(workspace: &Workspace) -> anyhow::Result<()> {
    build_all_with(workspace, Profile::Dev)
}

pub fn build_all_with(workspace: &Workspace, profile: Profile) -> anyhow::Result<()> {
    let guests = workspace.guests()?;
    // Before the host, which takes minutes.
    ensure_target()?;
    let binary = workspace.build_host(profile)?;
    build(workspace, &binary, &guests).map(drop)
}

/// Makes sure that the target is there, or says what to run.
pub fn ensure_target() -> anyhow::Result<()> {
    // What the compiler says counts, not how it was installed; without rustup there may still be the target.
    let asked = Command::new("rustc").args(["--print", "target-libdir", "--target", TARGET]).output();
    let there = asked.is_ok_and(|asked| Path::new(String::from_utf8_lossy(&asked.stdout).trim()).is_dir());
    if there {
        return Ok(());
    }
    let added = Command::new("rustup").args(["target", "add", TARGET]).stdin(Stdio::null()).status();
    ensure!(
        added.is_ok_and(|status| status.success()),
        "the Rust target {TARGET} is missing and could not be added: run `rustup target add {TARGET}`, then this again"
    );
    Ok(())
}

/// Builds guests with the host's own `build` verb and puts each component where the tests look for it.
pub fn build(workspace: &Workspace, binary: &Path, guests: &[PathBuf]) -> anyhow::Result<Vec<PathBuf>> {
    let dir = workspace.guests_dir();
    timed("guests", || {
        std::fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let mut built = Vec::new();
        for guest in guests {
            let component = build_one(workspace, binary, guest)?;
            // One of two would silently stand for both.
            ensure!(!built.contains(&component), "two guests are named {}: rename one", component.display());
            built.push(component);
        }
        Ok(built)
    })
}

fn build_one(workspace: &Workspace, binary: &Path, guest: &Path) -> anyhow::Result<PathBuf> {
    let step = Step::cofferdam(workspace, binary, ["build", &workspace.shown(guest), "--json"])
        // Absolute, because cargo runs in the guest's folder.
        .quiet_env("CARGO_TARGET_DIR", workspace.guests_dir().display().to_string());
    println!("   {step}");
    let printed = step.output()?;
    let built: Value = serde_json::from_slice(&printed).with_context(|| format!("`{step}` did not print JSON"))?;
    let component =
        built.get("component").and_then(Value::as_str).with_context(|| format!("`{step}` printed no \"component\""))?;

    let name = name(guest).with_context(|| format!("{} has no name", guest.display()))?;
    let kept = workspace.guests_dir().join(name).with_extension("wasm");
    // By rename, so that a test that runs meanwhile never reads half a component.
    let arriving = kept.with_extension("wasm.part");
    std::fs::copy(component, &arriving)
        .with_context(|| format!("cannot copy {component} to {}", arriving.display()))?;
    std::fs::rename(&arriving, &kept).with_context(|| format!("cannot put {} in place", kept.display()))?;
    Ok(kept)
}

/// A guest is named after its folder; of several that belong together, after both.
fn name(guest: &Path) -> Option<String> {
    let name = guest.file_name()?.to_str()?;
    let above = guest.parent()?;
    let is_workspace = GUEST_WORKSPACES.iter().any(|workspace| above.ends_with(workspace));
    if is_workspace { Some(name.to_owned()) } else { Some(format!("{}-{name}", above.file_name()?.to_str()?)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_is_named_after_its_folder_and_of_several_after_both() {
        assert_eq!(name(Path::new("/x/plugins/echo")).as_deref(), Some("echo"));
        assert_eq!(name(Path::new("/x/tests/guests/conformance/rust")).as_deref(), Some("conformance-rust"));
    }
}
