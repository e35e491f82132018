//! `cofferdam new`: a project that builds, tests and runs, from a template.

use super::{
    failure::Failure,
    kit,
    output::{json_line, line},
    project::{Language, checked_name},
};
use anyhow::{Context as _, ensure};
use clap::ValueEnum;
use std::{
    fs,
    path::{Path, PathBuf},
};

/// What stands for the project's name in a template.
const NAME: &str = "__name__";
/// The same as a name in a programming language, with `_` for `-`.
const MODULE: &str = "__module__";

/// What a new project does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Template {
    /// An agent that greets, and counts in its state how often.
    Basic,
    /// An agent that checks a CSV file of the user's, sums up its columns and writes a report.
    Data,
    /// An agent that starts others, waits for them, and tells what failed.
    Collaborative,
    /// A plugin that offers a tool to agents.
    Tool,
}

impl Template {
    /// Its name on the command line and in the kit.
    const fn as_str(self) -> &'static str {
        match self {
            Self::Basic => "basic",
            Self::Data => "data",
            Self::Collaborative => "collaborative",
            Self::Tool => "tool",
        }
    }
}

#[derive(Debug, clap::Args)]
pub(super) struct NewArgs {
    /// The project's name: 1 to 64 characters of a-z, 0-9 and '-', the first a letter, the last not '-'. A plugin is pushed
    /// under it. Also the folder that is made, unless --dir says another.
    name: String,
    /// In which language.
    #[arg(long, value_name = "LANGUAGE", default_value = "rust")]
    lang: Language,
    /// What it does to begin with.
    #[arg(long, default_value = "basic")]
    template: Template,
    /// The folder, which must be empty or not there.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

pub(super) fn run(args: NewArgs, json: bool) -> Result<(), Failure> {
    checked_name(&args.name).map_err(|error| Failure::Usage(format!("{error:#}")))?;
    let dir = args.dir.unwrap_or_else(|| PathBuf::from(&args.name));
    make(&dir, &args.name, args.lang, args.template).map_err(|error| Failure::Usage(format!("{error:#}")))?;
    if json {
        let made = serde_json::json!({
            "dir": dir, "name": args.name, "lang": args.lang.as_str(), "template": args.template.as_str(),
        });
        return line(&json_line(&made.to_string()));
    }
    let (lang, template) = (args.lang, args.template.as_str());
    line(&format!("made {} ({lang}, {template}); what next, also in its README.md:", dir.display()))?;
    for next in [format!("cd {}", dir.display()), "cofferdam test".into(), "cofferdam dev".into()] {
        line(&format!("  {next}"))?;
    }
    Ok(())
}

/// Writes the files of a template.
fn make(dir: &Path, name: &str, language: Language, template: Template) -> anyhow::Result<()> {
    let occupied = fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some());
    ensure!(!occupied && !dir.is_file(), "{} is there already: choose another name, or --dir DIR", dir.display());
    let folder = format!("templates/{}/{}", language.as_str(), template.as_str());
    let mut files: Vec<(String, String)> = Vec::new();
    for (file, bytes) in kit::below(&folder) {
        let text = std::str::from_utf8(bytes).with_context(|| format!("{folder}/{file} is not a text"))?;
        files.push((file.to_owned(), text.to_owned()));
    }
    ensure!(!files.is_empty(), "there is no template {} for {language} in this binary", template.as_str());
    if language == Language::Rust {
        // The versions that the host's own plugins are built with. Cargo leaves out what the project does not need, and
        // fetches nothing that another project of this binary has fetched.
        let lock = kit::text("locks/rust").context("the binary has no lock file for Rust")?;
        files.push(("Cargo.lock".to_owned(), lock.to_owned()));
    }
    let module = name.replace('-', "_");
    let named = |text: &str| text.replace(NAME, name).replace(MODULE, &module);
    for (file, text) in files {
        kit::write_if_new(&dir.join(named(&file)), named(&text).as_bytes())?;
    }
    // What a build would do, so that an editor finds the SDK at once.
    kit::unpack(dir, language.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_template_of_every_language_is_there_with_its_readme_tests_and_names() {
        for language in Language::ALL {
            for template in Template::value_variants() {
                let dir = tempfile::tempdir().expect("a directory");
                make(dir.path(), "my-agent", language, *template).expect("made");
                let mut files = vec![dir.path().to_owned()];
                let (mut texts, mut cases) = (0, 0);
                while let Some(path) = files.pop() {
                    if path.ends_with(kit::FOLDER) {
                        continue;
                    }
                    if path.is_dir() {
                        files.extend(fs::read_dir(&path).expect("a folder").map(|entry| entry.expect("one").path()));
                        continue;
                    }
                    let text = fs::read_to_string(&path).expect("a text");
                    assert!(!text.contains("__name__") && !text.contains("__module__"), "{}", path.display());
                    texts += 1;
                    cases += usize::from(path.parent().is_some_and(|parent| parent.ends_with("tests")));
                }
                assert!(texts >= 5 && cases >= 2, "{language} {template:?}: {texts} files, {cases} cases");
                assert!(dir.path().join("README.md").is_file() && dir.path().join(".gitignore").is_file());
                let project = crate::cli::project::Project::at(dir.path()).expect("a project");
                assert_eq!((project.name.as_str(), project.language()), ("my-agent", language));
            }
        }
    }

    #[test]
    fn a_folder_with_something_in_it_is_left_alone() {
        let dir = tempfile::tempdir().expect("a directory");
        fs::write(dir.path().join("mine.txt"), "mine").expect("written");
        let refusal = make(dir.path(), "x", Language::Rust, Template::Basic).expect_err("occupied").to_string();
        assert!(refusal.contains("is there already"), "{refusal}");
        assert_eq!(fs::read_dir(dir.path()).expect("a folder").count(), 1);
    }
}
