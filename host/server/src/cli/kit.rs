//! What an author needs, from within the binary: the WIT, the SDKs and the templates. `cofferdam build` unpacks the first two
//! into a project, so that a project needs nothing but this binary and its language's own tools.

use anyhow::Context as _;
use std::{
    borrow::Cow,
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

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
/// nothing is built again for it; what the SDK does not have is removed.
pub(super) fn unpack(project: &Path, language: &str) -> anyhow::Result<()> {
    let folder = project.join(FOLDER);
    let sdk = format!("sdk/{language}");
    for part in ["wit", sdk.as_str()] {
        let target = folder.join(part);
        let mut known = BTreeSet::new();
        for (name, bytes) in below(part) {
            let file = target.join(name);
            write_if_new(&file, &adapted(&sdk, part, name, bytes))?;
            known.insert(file);
        }
        remove_others(&target, &known)?;
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
    if fs::read(file).is_ok_and(|there| there == bytes) {
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

/// Removes the files below a folder that are not known. Names that tools leave behind are theirs.
fn remove_others(folder: &Path, known: &BTreeSet<PathBuf>) -> anyhow::Result<()> {
    let Ok(entries) = fs::read_dir(folder) else { return Ok(()) };
    for entry in entries {
        let path = entry.with_context(|| format!("cannot list {}", folder.display()))?.path();
        if path.is_dir() {
            if !path.ends_with("__pycache__") && !path.ends_with("node_modules") {
                remove_others(&path, known)?;
            }
        } else if !known.contains(&path) {
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
