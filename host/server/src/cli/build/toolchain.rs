//! The tools that make components of Python and JavaScript, at the versions that this binary was tried with. Installed when they
//! are missing, below one folder, by rename: what is there is whole.

use crate::cli::output::{note, progress};
use anyhow::{Context as _, bail, ensure};
use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// Names another folder for toolchains.
const FOLDER_VARIABLE: &str = "COFFERDAM_TOOLCHAINS";

/// Where toolchains are kept.
pub(in crate::cli) fn folder() -> anyhow::Result<PathBuf> {
    if let Some(dir) = env::var_os(FOLDER_VARIABLE).filter(|dir| !dir.is_empty()) {
        let dir = PathBuf::from(dir);
        ensure!(dir.is_absolute(), "{FOLDER_VARIABLE} is {}, but must be an absolute path", dir.display());
        return Ok(dir);
    }
    let caches = crate::cli::locally::cache_dir();
    let caches = caches.with_context(|| format!("there is no home to install toolchains in: set {FOLDER_VARIABLE}"))?;
    Ok(caches.join("toolchains"))
}

/// A toolchain of this name, installed by `make` into the folder that it is given if it is not there.
pub(super) fn installed(
    name: &str,
    json: bool,
    make: impl FnOnce(&Path) -> anyhow::Result<()>,
) -> anyhow::Result<PathBuf> {
    let folder = folder()?;
    let whole = folder.join(name);
    if whole.is_dir() {
        return Ok(whole);
    }
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    // One installs it, and the other builds that begin meanwhile wait: it is hundreds of megabytes of network and disk.
    let lock = folder.join(format!(".{name}.lock"));
    let cannot_lock = || format!("cannot lock {}", lock.display());
    let held = fs::File::create(&lock).with_context(cannot_lock)?;
    held.lock().with_context(cannot_lock)?;
    if whole.is_dir() {
        return Ok(whole);
    }
    let arriving = tempfile::Builder::new().prefix(".arriving-").tempdir_in(&folder);
    let arriving = arriving.with_context(|| format!("cannot write to {}", folder.display()))?;
    note(&format!("installing {name} into {} (once)", folder.display()));
    let installing = progress(format!("installing {name}"), json);
    make(arriving.path())?;
    drop(installing);
    match fs::rename(arriving.path(), &whole) {
        Ok(()) => {
            // It is not there any more under the name that would be removed.
            let _ = arriving.keep();
            Ok(whole)
        }
        Err(error) => Err(error).with_context(|| format!("cannot put {} in place", whole.display())),
    }
}

/// Runs a step of an installation. What it prints goes to standard error, because standard output carries only results.
pub(super) fn step(program: &str, command: &mut Command, next: &str) -> anyhow::Result<()> {
    let printed = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).output();
    let printed = match printed {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => bail!("{program} is not installed: {next}"),
        printed => printed.with_context(|| format!("cannot start {program}"))?,
    };
    if printed.status.success() {
        return Ok(());
    }
    let said = [printed.stdout, printed.stderr].concat();
    let said = String::from_utf8_lossy(&said).trim().to_owned();
    bail!("{program} failed ({}): {next}\n{said}", printed.status)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_that_fails_says_what_it_printed_and_what_to_do() {
        let failed =
            step("sh", Command::new("sh").args(["-c", "echo why; exit 3"]), "do this").unwrap_err().to_string();
        assert!(failed.contains("do this") && failed.contains("why"), "{failed}");
        let missing = step("no-such", &mut Command::new("no-such-program"), "install it").unwrap_err().to_string();
        assert_eq!(missing, "no-such is not installed: install it");
    }
}
