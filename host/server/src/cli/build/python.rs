//! Python: componentize-py puts the project, the SDK and CPython into one component.

use super::toolchain;
use crate::cli::{
    kit,
    output::{printable, progress},
    project::{Project, World},
};
use anyhow::{Context as _, bail, ensure};
use serde::Deserialize;
use std::{
    collections::BTreeMap,
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// The version that the SDK was tried with.
const COMPONENTIZE_PY: &str = "0.25.1";

/// Every Python is started with it: without it, modules of the folder that one is in come before Python's own, and that folder
/// may be anybody's project.
pub(in crate::cli) const ISOLATED: &str = "-I";

/// Starts the tool by Python itself: the script that pip installs has the path of the folder in it that it was made in.
const START: &str =
    "import sys; from componentize_py import script; sys.argv[0] = 'componentize-py'; sys.exit(script())";

/// What stands before what the SDK says of an error, in one line of JSON.
const SAID: &str = "cofferdam-build-error ";

/// Whose own dependency it may be, for editors; a build brings it.
const SDK: &str = "cofferdam";

/// Which Python is in the component.
const PYTHON: &str = "3.14";

const INSTALL_PYTHON: &str =
    "install Python 3.10 or newer with its modules venv and pip, then run `cofferdam build` again";

/// What a project's manifest says of its Python.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::cli) struct Code {
    /// What the component is to be.
    pub world: World,
    /// The module that holds the agent or the tools.
    pub module: String,
    /// The author's version.
    pub version: String,
    /// What it depends on, as pip writes it.
    pub dependencies: Vec<String>,
}

/// An error, as the SDK says it.
#[derive(Deserialize)]
struct Said {
    file: Option<String>,
    line: Option<u64>,
    message: String,
}

/// Builds the project and gives its component.
pub(super) fn component(project: &Project, code: &Code, json: bool) -> anyhow::Result<PathBuf> {
    let toolchain = toolchain::installed(&toolchain_name(), json, install)?;
    kit::unpack(&project.dir, "python")?;
    let build = project.dir.join(kit::FOLDER).join("build");
    let source = if project.dir.join("src").is_dir() { "src" } else { "" };
    let export = match code.world {
        World::Agent => "export_agent",
        World::Tool => "export_tool",
    };
    // Texts are escaped as in JSON, which Python reads the same.
    let text = |text: &str| serde_json::Value::from(text).to_string();
    let entry = format!(
        "from cofferdam.component import {export}\n\nWitWorld = {export}({}, name={}, version={}, source={})\n",
        text(&code.module),
        text(&project.name),
        text(&code.version),
        text(source)
    );
    // Alone in its folder: the tool takes whatever is beside it.
    kit::write_if_new(&build.join("entry/cofferdam_entry.py"), entry.as_bytes())?;
    let fetching = progress(format!("putting the packages of {} in place", project.name), json);
    let packages = packages(&toolchain, &project.dir, &build, &code.dependencies)?;
    drop(fetching);
    let component = build.join(format!("{}.wasm", project.name));
    let arriving = build.join(format!("{}.wasm.new", project.name));
    let sealed = build.join(format!("{}.wasm.sealed", project.name));

    let mut tool = Command::new(toolchain.join("bin/python"));
    tool.args([
        ISOLATED,
        "-c",
        START,
        "-q",
        "-d",
        ".cofferdam/wit",
        "-w",
        code.world.as_str(),
        "componentize",
        "cofferdam_entry",
    ]);
    for folder in [".cofferdam/build/entry", if source.is_empty() { "." } else { source }, ".cofferdam/sdk/python"] {
        tool.args(["-p", folder]);
    }
    tool.arg("-o").arg(&arriving).current_dir(&project.dir).stdin(Stdio::null());
    // Nothing of the author's shell is to decide what is in the component.
    tool.env_clear().env("VIRTUAL_ENV", packages);
    tool.envs(["PATH", "HOME", "TMPDIR"].into_iter().filter_map(|name| Some((name, env::var_os(name)?))));
    super::begins(project, "componentize-py", json);
    let _making = progress(format!("making {} a component", project.name), json);
    let built = tool.output().with_context(|| format!("cannot start Python: {INSTALL_PYTHON}"))?;
    if !built.status.success() {
        bail!("{} cannot be built:\n{}", project.dir.display(), what_it_said(&String::from_utf8_lossy(&built.stderr)));
    }
    // CPython's C library imports sockets, which no agent has.
    let mut seal = Command::new(toolchain.join("bin/python"));
    let script = project.dir.join(kit::FOLDER).join("sdk/python/tools/without_sockets.py");
    seal.arg(ISOLATED).arg(script).arg(&arriving).arg(&sealed);
    toolchain::step("the step that takes sockets out", &mut seal, "run `cofferdam doctor --lang python`")?;
    fs::remove_file(&arriving).with_context(|| format!("cannot remove {}", arriving.display()))?;
    fs::rename(&sealed, &component).with_context(|| format!("cannot put {} in place", component.display()))?;
    Ok(component)
}

/// What is wrong in the author's files, or what the tool says if it is something else.
fn what_it_said(stderr: &str) -> String {
    let said = stderr.lines().find_map(|line| serde_json::from_str::<Said>(line.split_once(SAID)?.1).ok());
    let shown = match said {
        Some(Said { file: Some(file), line: Some(line), message }) => format!("{file}:{line}: {message}"),
        Some(Said { file: Some(file), line: None, message }) => format!("{file}: {message}"),
        Some(Said { file: None, message, .. }) => message,
        None => {
            let words = stderr.split("Stack backtrace:").next().unwrap_or_default().trim();
            format!("componentize-py failed: run `cofferdam doctor --lang python`; it said\n{words}")
        }
    };
    shown.lines().map(printable).collect::<Vec<_>>().join("\n")
}

/// The folder of the toolchain.
pub(in crate::cli) fn toolchain_name() -> String {
    format!("componentize-py-{COMPONENTIZE_PY}")
}

/// Installs the toolchain into an empty folder.
fn install(folder: &Path) -> anyhow::Result<()> {
    let mut venv = Command::new("python3");
    toolchain::step("python3", venv.args([ISOLATED, "-m", "venv"]).arg(folder), INSTALL_PYTHON)?;
    let mut pip = Command::new(folder.join("bin/python"));
    let package = format!("componentize-py=={COMPONENTIZE_PY}");
    pip.args([ISOLATED, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", &package]);
    toolchain::step("pip", &mut pip, "see that pip reaches its package index, then run `cofferdam build` again")
}

/// Where the versions and digests of a project's packages are kept, for git.
const LOCK: &str = "requirements.lock";

/// pip takes only packages that are Python alone: nothing else can be in a component.
const PURE: [&str; 9] =
    ["--only-binary=:all:", "--platform", "any", "--implementation", "py", "--abi", "none", "--python-version", PYTHON];

const PURE_NEXT: &str = "see `dependencies` of pyproject.toml: a component can have only packages that are there as Python alone \
                         (wheels `py3-none-any`), and pip has to reach its package index for them once";

/// What pip says that it would install.
#[derive(Deserialize)]
struct Report {
    install: Vec<Resolved>,
}

#[derive(Deserialize)]
struct Resolved {
    metadata: Metadata,
    download_info: Download,
}

#[derive(Deserialize)]
struct Metadata {
    name: String,
    version: String,
}

#[derive(Deserialize)]
struct Download {
    archive_info: Archive,
}

#[derive(Deserialize)]
struct Archive {
    hashes: BTreeMap<String, String>,
}

/// The project's dependencies, as the environment that they are in.
fn packages(toolchain: &Path, project: &Path, build: &Path, dependencies: &[String]) -> anyhow::Result<PathBuf> {
    let own = |dependency: &&String| {
        let name: String = dependency.chars().take_while(|c| c.is_alphanumeric() || "-_.".contains(*c)).collect();
        name != SDK
    };
    let mut wanted: Vec<_> = dependencies.iter().filter(own).map(String::as_str).collect();
    wanted.sort_unstable();
    for dependency in &wanted {
        // pip would take it for an option, or for a file of this machine.
        ensure!(
            dependency.starts_with(|c: char| c.is_ascii_alphanumeric()) && !dependency.contains(['/', '@']),
            "pyproject.toml: the dependency {dependency:?} is not a package of an index with a version: write \"name==1.2.3\""
        );
    }
    let folder = build.join("deps");
    let (site, installed) = (folder.join("lib/site-packages"), folder.join(".lock"));
    let lock = if wanted.is_empty() { String::new() } else { locked(toolchain, project, build, &wanted)? };
    if site.is_dir() && fs::read_to_string(&installed).unwrap_or_default() == lock {
        return Ok(folder);
    }
    if folder.exists() {
        fs::remove_dir_all(&folder).with_context(|| format!("cannot remove {}", folder.display()))?;
    }
    fs::create_dir_all(&site).with_context(|| format!("cannot make {}", site.display()))?;
    if !wanted.is_empty() {
        let mut install = pip(toolchain);
        install.args(["--no-deps", "--require-hashes", "--no-compile"]).args(PURE).arg("--target").arg(&site);
        install.arg("-r").arg(project.join(LOCK));
        toolchain::step("pip", &mut install, PURE_NEXT)?;
        kit::write_if_new(&installed, lock.as_bytes())?;
    }
    Ok(folder)
}

fn pip(toolchain: &Path) -> Command {
    let mut pip = Command::new(toolchain.join("bin/python"));
    // Where no file of a project is taken for the package that is called like it.
    pip.current_dir(toolchain);
    pip.args([ISOLATED, "-m", "pip", "--disable-pip-version-check", "--isolated", "install", "-q"]);
    pip
}

/// The lock file of the project, made if it is not there or its dependencies are others.
fn locked(toolchain: &Path, project: &Path, build: &Path, wanted: &[&str]) -> anyhow::Result<String> {
    let file = project.join(LOCK);
    let first = format!("# from: {}", super::digest(wanted.join("\n").as_bytes()));
    let there = if file.is_file() { fs::read_to_string(&file).unwrap_or_default() } else { String::new() };
    let mut lines = there.lines();
    if lines.next() == Some(first.as_str()) && lines.all(is_locked) {
        return Ok(there);
    }
    fs::create_dir_all(build).with_context(|| format!("cannot make {}", build.display()))?;
    let report = build.join("report.json");
    let mut resolve = pip(toolchain);
    // pip asks for a target, and writes nothing there.
    resolve.args(["--dry-run", "--ignore-installed"]).args(PURE).arg("--target").arg(build.join("nowhere"));
    resolve.arg("--report").arg(&report).args(wanted);
    toolchain::step("pip", &mut resolve, PURE_NEXT)?;
    let read = fs::read_to_string(&report).with_context(|| format!("cannot read {}", report.display()))?;
    let read: Report = serde_json::from_str(&read).context("pip's report is not what this version reads")?;
    let lines = read.install.iter().map(|Resolved { metadata: Metadata { name, version }, download_info }| {
        let digest = download_info.archive_info.hashes.get("sha256");
        let digest = digest.with_context(|| format!("pip names no digest of {name}"))?;
        Ok(format!("{name}=={version} --hash=sha256:{digest}"))
    });
    let mut lines = lines.collect::<anyhow::Result<Vec<_>>>()?;
    lines.sort();
    let lock = format!("{first}\n{}\n", lines.join("\n"));
    kit::write_if_new(&file, lock.as_bytes())?;
    Ok(lock)
}

/// Whether a line is one that [`locked`] writes. pip would take others for options, or for packages of elsewhere whose build runs
/// here.
fn is_locked(line: &str) -> bool {
    let plain = |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.+!".contains(c));
    let parts =
        line.split_once(" --hash=sha256:").and_then(|(package, digest)| Some((package.split_once("==")?, digest)));
    parts.is_some_and(|((name, version), digest)| {
        let begins = name.starts_with(|c: char| c.is_ascii_alphanumeric());
        begins && plain(name) && plain(version) && digest.chars().all(|c| c.is_ascii_hexdigit())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_told_with_file_and_line_and_one_of_the_tool_in_its_words() {
        let said = r#"noise
AssertionError: cofferdam-build-error {"kind":"syntax","file":"src/agent.py","line":3,"message":"expected ':'"}
more"#;
        assert_eq!(what_it_said(said), "src/agent.py:3: expected ':'");
        assert_eq!(
            what_it_said(r#"cofferdam-build-error {"kind":"agent","file":null,"line":null,"message":"m"}"#),
            "m"
        );
        let other = what_it_said("Error: no\n\nStack backtrace:\n 0: x");
        assert!(other.ends_with("Error: no") && other.contains("cofferdam doctor"), "{other}");
    }

    #[test]
    fn a_lock_file_has_packages_and_nothing_that_pip_would_do_more_for() {
        assert!(is_locked("typing_extensions==4.12.2+x --hash=sha256:0123abcd"));
        for bad in [
            "--no-binary :all:",
            "x @ https://x.test/x.tar.gz --hash=sha256:00",
            "./x==1 --hash=sha256:00",
            "-r==1 --hash=sha256:00",
            "x==1",
            "x==1 --hash=sha256:00 --config-settings=a",
        ] {
            assert!(!is_locked(bad), "{bad}");
        }
    }

    #[test]
    fn dependencies_that_are_no_packages_of_an_index_are_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        for bad in ["--index-url=x", "-e .", "x @ file:///x", "./x"] {
            let refusal =
                packages(Path::new("/none"), dir.path(), dir.path(), &[bad.to_owned()]).expect_err(bad).to_string();
            assert!(refusal.contains("name==1.2.3"), "{refusal}");
        }
        assert!(packages(Path::new("/none"), dir.path(), dir.path(), &["cofferdam".to_owned()]).is_ok());
    }
}
