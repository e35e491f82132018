//! What an author needs, from within the binary: the WIT, the SDKs and the templates. `cofferdam build` unpacks the first two
//! into a project, so that a project needs nothing but this binary and its language's own tools.

use anyhow::{Context as _, ensure};
use std::{borrow::Cow, collections::BTreeSet, fs, path::Path};

/// Files by their names in the kit, sorted.
static FILES: &[(&str, &[u8])] = include!(concat!(env!("OUT_DIR"), "/kit.rs"));

/// Where a project keeps what is unpacked and built, below its own folder.
pub(super) const FOLDER: &str = ".cofferdam";

/// The files below a folder of the kit, by their names there.
pub(super) fn below(folder: &str) -> impl Iterator<Item = (&'static str, &'static [u8])> {
    FILES.iter().filter_map(move |(name, bytes)| Some((name.strip_prefix(folder)?.strip_prefix('/')?, *bytes)))
}

/// A file of the kit as text.
pub(super) fn text(name: &str) -> Option<&'static str> {
    let (_, bytes) = FILES.iter().find(|(known, _)| *known == name)?;
    std::str::from_utf8(bytes).ok()
}

/// Unpacks the WIT and the SDK of a language into a project. What is there already and is the same is left alone, so that
/// nothing is built again for it; what the SDK does not have is removed. The project may be anybody's: nothing is written or
/// removed outside of its own folder.
pub(super) fn unpack(project: &Path, language: &str) -> anyhow::Result<()> {
    let folder = project.join(FOLDER);
    let sdk = format!("sdk/{language}");
    let build = folder.join("build");
    for own in [&folder, &folder.join("wit"), &folder.join("sdk"), &folder.join(&sdk), &build] {
        let is_link = fs::symlink_metadata(own).is_ok_and(|metadata| metadata.is_symlink());
        ensure!(
            !is_link,
            "{} is a symbolic link, and a build writes and removes files there: remove the link, then run this again",
            own.display()
        );
    }
    // Before anything is written: what is left leads nowhere else.
    remove_others(&build, &|_| true)?;
    for part in ["wit", sdk.as_str()] {
        let target = folder.join(part);
        let known: BTreeSet<_> = below(part).map(|(name, _)| target.join(name)).collect();
        remove_others(&target, &|file| known.contains(file))?;
        for (name, bytes) in below(part) {
            write_if_new(&target.join(name), &adapted(&sdk, part, name, bytes))?;
        }
    }
    // Whatever the project's own says: all of this can be made again.
    write_if_new(&folder.join(".gitignore"), b"*\n")
}

/// A file as it is in a project. The Rust crate names two places of this repository: the workspace whose lints it keeps, and
/// the WIT.
fn adapted(sdk: &str, part: &str, name: &str, bytes: &'static [u8]) -> Cow<'static, [u8]> {
    let text = std::str::from_utf8(bytes).ok().filter(|_| part == sdk && sdk == "sdk/rust");
    let replaced = match (text, name) {
        (Some(text), "Cargo.toml") => text.replace("\n[lints]\nworkspace = true\n", ""),
        (Some(text), "src/lib.rs") => text.replace("path: \"../wit\"", "path: \"../../wit\""),
        _ => return bytes.into(),
    };
    replaced.into_bytes().into()
}

/// Writes a file unless it has these bytes already, by rename, so that nobody reads half of it.
pub(super) fn write_if_new(file: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    // A link or a pipe is replaced, and not read.
    let is_file = fs::symlink_metadata(file).is_ok_and(|metadata| metadata.is_file());
    if is_file && fs::read(file).is_ok_and(|there| there == bytes) {
        return Ok(());
    }
    let cannot = || format!("cannot write {}: see that the folder can be written to", file.display());
    let folder = file.parent().with_context(cannot)?;
    fs::create_dir_all(folder).with_context(cannot)?;
    let mut arriving = tempfile::NamedTempFile::new_in(folder).with_context(cannot)?;
    std::io::Write::write_all(&mut arriving, bytes).with_context(cannot)?;
    let arrived = arriving.persist(file).with_context(cannot)?;
    // A temporary file is its owner's alone; these are as any other.
    let mut permissions = arrived.metadata().with_context(cannot)?.permissions();
    std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, 0o644);
    arrived.set_permissions(permissions).with_context(cannot)
}

/// Removes the files below a folder that are not kept, and whatever is neither a file nor a folder: a symbolic link is removed,
/// and never followed. Names that tools leave behind are theirs.
fn remove_others(folder: &Path, keeps: &dyn Fn(&Path) -> bool) -> anyhow::Result<()> {
    let Ok(entries) = fs::read_dir(folder) else { return Ok(()) };
    for entry in entries {
        let path = entry.with_context(|| format!("cannot list {}", folder.display()))?.path();
        let kind = fs::symlink_metadata(&path).with_context(|| format!("cannot look at {}", path.display()))?;
        if kind.is_dir() {
            if !path.ends_with("__pycache__") && !path.ends_with("node_modules") {
                remove_others(&path, keeps)?;
            }
        } else if !kind.is_file() || !keeps(&path) {
            fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_project_gets_the_wit_and_the_sdk_and_what_is_the_same_is_left_alone() {
        let dir = tempfile::tempdir().expect("a directory");
        unpack(dir.path(), "rust").expect("unpacked");
        let read = |name: &str| fs::read_to_string(dir.path().join(FOLDER).join(name)).expect(name);
        assert!(read("wit/agent.wit").starts_with("/// What an agent may ask"));
        let manifest = read("sdk/rust/Cargo.toml");
        assert!(manifest.contains("cofferdam-sdk") && !manifest.contains("workspace = true"), "{manifest}");
        assert_eq!(read("sdk/rust/src/lib.rs").matches("path: \"../../wit\"").count(), 2);

        let file = dir.path().join(".cofferdam/sdk/rust/src/lib.rs");
        let written = || file.metadata().expect("there").modified().expect("a time");
        let before = written();
        fs::write(dir.path().join(".cofferdam/sdk/rust/src/gone.rs"), "old").expect("written");
        fs::write(dir.path().join(".cofferdam/sdk/rust/src/agent.rs"), "changed").expect("written");
        unpack(dir.path(), "rust").expect("unpacked again");
        assert_eq!(written(), before);
        assert!(!dir.path().join(".cofferdam/sdk/rust/src/gone.rs").exists());
        assert!(read("sdk/rust/src/agent.rs").contains("trait Agent"));
    }

    #[test]
    fn a_link_in_a_project_is_removed_or_refused_and_never_followed() {
        use std::os::unix::fs::symlink;
        let (dir, other) = (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
        let precious = other.path().join("agent.wit");
        fs::write(&precious, "mine").expect("written");
        let folder = dir.path().join(FOLDER);
        for parent in ["wit", "sdk/rust", "build/deps"] {
            fs::create_dir_all(folder.join(parent)).expect("made");
        }
        for link in ["wit/x", "sdk/rust/src", "sdk/rust/node_modules", "build/deps/lib"] {
            symlink(other.path(), folder.join(link)).expect("linked");
        }
        for link in ["wit/agent.wit", "build/x.js", ".gitignore"] {
            symlink(&precious, folder.join(link)).expect("linked");
        }
        unpack(dir.path(), "rust").expect("unpacked");
        assert!(folder.join("sdk/rust/src/lib.rs").is_file() && !folder.join("wit/x").exists());
        assert!(!folder.join("build/x.js").exists() && !folder.join("build/deps/lib").exists());
        assert_eq!(fs::read_to_string(folder.join(".gitignore")).expect("there"), "*\n");

        for own in ["build", "sdk/rust", "sdk", "wit", ""] {
            let own = if own.is_empty() { folder.clone() } else { folder.join(own) };
            fs::remove_dir_all(&own).expect("removed");
            symlink(other.path(), &own).expect("linked");
            let refusal = unpack(dir.path(), "rust").expect_err("a link").to_string();
            assert!(refusal.contains("is a symbolic link") && refusal.contains("remove the link"), "{refusal}");
            fs::remove_file(&own).expect("removed");
            fs::create_dir(&own).expect("made");
        }
        assert_eq!(fs::read_to_string(&precious).expect("there"), "mine");
        assert_eq!(fs::read_dir(other.path()).expect("a folder").count(), 1);
    }

    /// What tools leave behind in a checkout must not get into the binary.
    #[test]
    fn the_kit_has_only_files_that_git_knows() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let Ok(listed) = std::process::Command::new("git").args(["ls-files", "-z"]).current_dir(&root).output() else {
            return;
        };
        if !listed.status.success() {
            return;
        }
        let listed = String::from_utf8(listed.stdout).expect("UTF-8");
        let listed: BTreeSet<_> = listed.split('\0').collect();
        for (name, _) in FILES {
            let path = match name.split_once('/').expect("a folder") {
                ("sdk", rest) => match rest.split_once('/').expect("a language") {
                    ("rust", rest) => format!("guest-sdk/{rest}"),
                    (language, rest) => format!("guest-sdk/{language}/{rest}"),
                },
                ("templates", rest) => format!("guest-sdk/templates/{rest}"),
                ("locks", _) => continue,
                _ => (*name).to_owned(),
            };
            assert!(listed.contains(path.as_str()), "{path} is in the binary, and git does not know it");
        }
    }
}
