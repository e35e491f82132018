//! Python: componentize-py puts the project, the SDK and CPython into one component.

use super::toolchain;
use crate::cli::{
    kit,
    output::printable,
    project::{Project, World},
};
use anyhow::{Context as _, bail, ensure};
use serde::Deserialize;
use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// The version that the SDK was tried with.
const COMPONENTIZE_PY: &str = "0.25.1";

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
pub(super) fn component(project: &Project, code: &Code) -> anyhow::Result<PathBuf> {
    let toolchain = toolchain::installed(&toolchain_name(), install)?;
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
    let packages = packages(&toolchain, &build, &code.dependencies)?;
    let component = build.join(format!("{}.wasm", project.name));
    let arriving = build.join(format!("{}.wasm.new", project.name));

    let mut tool = Command::new(toolchain.join("bin/python"));
    tool.args([
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
    let built = tool.output().with_context(|| format!("cannot start Python: {INSTALL_PYTHON}"))?;
    if !built.status.success() {
        bail!("{} cannot be built:\n{}", project.dir.display(), what_it_said(&String::from_utf8_lossy(&built.stderr)));
    }
    fs::rename(&arriving, &component).with_context(|| format!("cannot put {} in place", component.display()))?;
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
    toolchain::step("python3", Command::new("python3").args(["-m", "venv"]).arg(folder), INSTALL_PYTHON)?;
    let mut pip = Command::new(folder.join("bin/python"));
    let package = format!("componentize-py=={COMPONENTIZE_PY}");
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", &package]);
    toolchain::step("pip", &mut pip, "see that pip reaches its package index, then run `cofferdam build` again")
}

/// The project's dependencies, as the environment that they are in. Only packages that are Python alone can be in a component.
fn packages(toolchain: &Path, build: &Path, dependencies: &[String]) -> anyhow::Result<PathBuf> {
    let own = |dependency: &&String| {
        let name: String = dependency.chars().take_while(|c| c.is_alphanumeric() || "-_.".contains(*c)).collect();
        name != SDK
    };
    let wanted: Vec<_> = dependencies.iter().filter(own).map(String::as_str).collect();
    for dependency in &wanted {
        // pip would take it for an option, or for a file of this machine.
        ensure!(
            dependency.starts_with(|c: char| c.is_ascii_alphanumeric()) && !dependency.contains(['/', '@']),
            "pyproject.toml: the dependency {dependency:?} is not a package of an index with a version: write \"name==1.2.3\""
        );
    }
    let folder = build.join("deps");
    let (packages, stamp) = (folder.join("lib/site-packages"), folder.join("installed"));
    let list = wanted.join("\n");
    if packages.is_dir() && fs::read_to_string(&stamp).is_ok_and(|installed| installed == list) {
        return Ok(folder);
    }
    if folder.exists() {
        fs::remove_dir_all(&folder).with_context(|| format!("cannot remove {}", folder.display()))?;
    }
    fs::create_dir_all(&packages).with_context(|| format!("cannot make {}", packages.display()))?;
    if !wanted.is_empty() {
        let mut pip = Command::new(toolchain.join("bin/python"));
        pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile", "--target"]);
        pip.arg(&packages).args([
            "--only-binary=:all:",
            "--platform",
            "any",
            "--implementation",
            "py",
            "--abi",
            "none",
        ]);
        pip.args(["--python-version", PYTHON]).args(&wanted);
        let next = "a component can have only packages that are written in Python alone (wheels `py3-none-any`), and they \
                    are fetched once; choose another package, or write that part yourself";
        toolchain::step("pip", &mut pip, next)?;
    }
    kit::write_if_new(&stamp, list.as_bytes())?;
    Ok(folder)
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
    fn dependencies_that_are_no_packages_of_an_index_are_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        for bad in ["--index-url=x", "-e .", "x @ file:///x", "./x"] {
            let refusal = packages(Path::new("/none"), dir.path(), &[bad.to_owned()]).expect_err(bad).to_string();
            assert!(refusal.contains("name==1.2.3"), "{refusal}");
        }
        assert!(packages(Path::new("/none"), dir.path(), &["cofferdam".to_owned()]).is_ok());
    }
}
