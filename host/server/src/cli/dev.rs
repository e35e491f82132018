//! `cofferdam dev`: watches a project, and builds and runs it again at each change.

use super::{
    build,
    failure::Failure,
    output::note,
    project::Project,
    run::{self, Here},
    runs::LimitArgs,
    test,
};
use cofferdam_runtime::LocalWork;
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime},
};

/// How often the files are looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);

/// The most files that are watched: looking at them must not keep a processor busy.
const FILES_MAX: usize = 10_000;

/// Folders that hold nothing of an author's own.
const NOT_WATCHED: [&str; 8] =
    [".git", ".cofferdam", "target", "node_modules", "__pycache__", ".venv", "venv", ".mypy_cache"];

#[derive(Debug, clap::Args)]
pub(super) struct DevArgs {
    /// Folder of the project.
    #[arg(default_value = ".")]
    dir: PathBuf,
    /// Run it on this each time: JSON, or @FILE. Without it, the project's cases are run.
    #[arg(long, value_name = "JSON|@FILE")]
    input: Option<String>,
    /// Of a tool plugin: the tool to call, with the input as its arguments.
    #[arg(long, value_name = "NAME", requires = "input")]
    tool: Option<String>,
    /// The directory that the agent's file tools see. Without it they see an empty one.
    #[arg(long, value_name = "DIR", requires = "input")]
    workspace: Option<PathBuf>,
    /// What the agent may do: JSON, or @FILE. Without it, all that it needs.
    #[arg(long, value_name = "JSON|@FILE", requires = "input")]
    grant: Option<String>,
    /// What to answer when the agent asks people: JSON, once for each question, in order.
    #[arg(long, value_name = "JSON", requires = "input")]
    answer: Vec<String>,
    #[command(flatten)]
    limits: LimitArgs,
}

pub(super) async fn run(args: DevArgs, json: bool) -> Result<(), Failure> {
    super::serve::log_to_stderr("error")?;
    let project = Project::at(&args.dir).map_err(|error| Failure::Usage(format!("{error:#}")))?;
    // What stands on the command line itself is mended by no change of a file.
    let itself = |argument: &Option<String>| argument.clone().filter(|text| !text.starts_with('@') && text != "-");
    itself(&args.input).map(|input| run::input_argument(&input)).transpose()?;
    itself(&args.grant).map(|grant| run::grant_argument(&grant)).transpose()?;
    run::answers(&args.answer)?;
    loop {
        // Taken before the build, so that what is changed while it runs is built next.
        let before = Files::of(&project.dir)?;
        let cycle = async {
            let started = Instant::now();
            match once(&project.dir, &args, json).await {
                Ok(()) => note(&format!("ok after {} ms", started.elapsed().as_millis())),
                // A failure is what one wants to see here; the next change may mend it.
                Err(failure) => failure.print(json),
            }
            note(&format!("watching {}; Ctrl-C ends", project.dir.display()));
            before.changed(&project.dir).await
        };
        tokio::select! {
            // What was being built hears of it, too: the terminal tells the whole group.
            _ = tokio::signal::ctrl_c() => return Ok(()),
            changed = cycle => note(&format!("{} changed", changed?.display())),
        }
    }
}

/// Builds it, and runs it or its cases.
async fn once(dir: &Path, args: &DevArgs, json: bool) -> Result<(), Failure> {
    let dir_read = dir.to_owned();
    // In a thread of its own, so that Ctrl-C is heard meanwhile.
    #[expect(clippy::disallowed_methods, reason = "a build ends by itself, or with the process")]
    let built = tokio::task::spawn_blocking(move || build::build(&Project::at(&dir_read)?, json)).await;
    let built = built.map_err(|error| Failure::Host(error.to_string()))?;
    let built = built.map_err(|error| Failure::Build(format!("{error:#}")))?;
    let Some(input) = &args.input else { return test::built(dir, &built, json).await };
    let input = run::input_argument(input)?;
    let answers = run::answers(&args.answer)?;
    let limits = args.limits.asked();
    let here = Here {
        component: built.bytes,
        shown: built.file.display().to_string(),
        workspace: args.workspace.clone(),
        grant: args.grant.as_deref().map(run::grant_argument).transpose()?,
        grants_needs: true,
        work: LocalWork { input, tool: args.tool.clone(), limits, answers: Some(answers.unwrap_or_default()) },
    };
    run::here(here, json).await
}

/// The files of a project as they were.
#[derive(Debug, PartialEq)]
struct Files(BTreeMap<PathBuf, (Option<SystemTime>, u64)>);

impl Files {
    fn of(dir: &Path) -> Result<Self, Failure> {
        let (mut files, mut folders) = (BTreeMap::new(), vec![dir.to_owned()]);
        while let Some(folder) = folders.pop() {
            // A folder that went away meanwhile has no files.
            let Ok(entries) = fs::read_dir(&folder) else { continue };
            for entry in entries.filter_map(Result::ok) {
                // Of links, the link itself: what it leads to may be anything.
                let (Ok(metadata), path) = (entry.metadata(), entry.path()) else { continue };
                if metadata.is_dir() {
                    let name = entry.file_name();
                    if !NOT_WATCHED.iter().any(|other| name == *other) {
                        folders.push(path);
                    }
                    continue;
                }
                files.insert(path, (metadata.modified().ok(), metadata.len()));
                if files.len() > FILES_MAX {
                    let why = format!("{} has more than {FILES_MAX} files, which are too many to watch", dir.display());
                    return Err(Failure::Usage(format!("{why}; use `cofferdam test` instead")));
                }
            }
        }
        Ok(Self(files))
    }

    /// Waits until something is not as it was, and stays so for a moment: an editor writes in several steps. Says what.
    async fn changed(&self, dir: &Path) -> Result<PathBuf, Failure> {
        let mut seen: Option<Self> = None;
        loop {
            let now = Self::of(dir)?;
            if seen.as_ref() == Some(&now)
                && let Some(file) = self.first_change(&now)
            {
                return Ok(file.strip_prefix(dir).unwrap_or(file).to_owned());
            }
            seen = Some(now);
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }

    fn first_change<'a>(&'a self, now: &'a Self) -> Option<&'a Path> {
        let new = now.0.iter().find(|(file, how)| self.0.get(*file) != Some(how));
        let gone = || self.0.keys().find(|file| !now.0.contains_key(*file));
        new.map(|(file, _)| file).or_else(gone).map(PathBuf::as_path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_changes_is_told_and_what_tools_write_is_not_looked_at() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path();
        for folder in ["src", "target", ".cofferdam"] {
            fs::create_dir(path.join(folder)).expect("made");
        }
        fs::write(path.join("src/a.rs"), "1").expect("written");
        let before = Files::of(path).expect("files");
        fs::write(path.join("target/x"), "1").expect("written");
        fs::write(path.join(".cofferdam/x"), "1").expect("written");
        assert_eq!(Files::of(path).expect("files"), before);

        fs::write(path.join("src/a.rs"), "22").expect("written");
        assert_eq!(before.changed(path).await.expect("a change"), Path::new("src/a.rs"));
        let before = Files::of(path).expect("files");
        fs::remove_file(path.join("src/a.rs")).expect("removed");
        assert_eq!(before.changed(path).await.expect("a change"), Path::new("src/a.rs"));
    }
}
