//! What an author's folder is: a project in one of three languages, told by its manifest.

use super::build::python::Code;
use anyhow::{Context as _, bail, ensure};
use clap::ValueEnum;
use serde::Deserialize;
use std::{
    fmt, fs,
    path::{Path, PathBuf},
};

/// The languages that there are an SDK and a build for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Language {
    /// Rust, built by cargo.
    Rust,
    /// Python, built by componentize-py.
    Python,
    /// JavaScript or TypeScript, built by esbuild and jco.
    #[value(name = "javascript", alias = "typescript")]
    JavaScript,
}

impl Language {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Rust, Self::Python, Self::JavaScript];

    /// Its name on the command line and in the kit.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Rust => "rust",
            Self::Python => "python",
            Self::JavaScript => "javascript",
        }
    }

    /// The file that says what a project is.
    pub const fn manifest(self) -> &'static str {
        match self {
            Self::Rust => "Cargo.toml",
            Self::Python => "pyproject.toml",
            Self::JavaScript => "package.json",
        }
    }
}

impl fmt::Display for Language {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Rust => "Rust",
            Self::Python => "Python",
            Self::JavaScript => "JavaScript",
        })
    }
}

/// Which of the contract's two worlds a component is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum World {
    /// It runs.
    Agent,
    /// It offers tools.
    Tool,
}

impl World {
    /// Its name in the WIT.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Tool => "tool",
        }
    }
}

/// An author's project.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Project {
    /// Its folder, resolved.
    pub dir: PathBuf,
    /// Its name, as a plugin's would be written.
    pub name: String,
    /// In what it is written, with what its manifest says.
    pub source: Source,
}

/// Where a project's code is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Source {
    /// Cargo knows.
    Rust,
    /// In a module that its manifest names.
    Python(Code),
    /// In a file that its manifest names.
    JavaScript,
}

impl Project {
    /// Looks at a folder.
    pub fn at(dir: &Path) -> anyhow::Result<Self> {
        let dir = dir
            .canonicalize()
            .with_context(|| format!("there is no folder {}: give the folder of the project", dir.display()))?;
        for language in Language::ALL {
            let manifest = dir.join(language.manifest());
            if !manifest.is_file() {
                continue;
            }
            let text = fs::read_to_string(&manifest).with_context(|| format!("cannot read {}", manifest.display()))?;
            let found = match language {
                Language::Rust => Some(of_rust(&text, &manifest)?),
                Language::Python => of_python(&text, &manifest)?,
                Language::JavaScript => of_javascript(&text, &manifest)?,
            };
            if let Some((name, source)) = found {
                // Files are called after it.
                checked_name(&name).map_err(|error| anyhow::anyhow!("{}: {error}", manifest.display()))?;
                return Ok(Self { dir, name, source });
            }
        }
        bail!(
            "{} is no project: there is no Cargo.toml, no pyproject.toml with [tool.cofferdam] and no package.json with \
             \"cofferdam\" in it; `cofferdam new NAME` makes one",
            dir.display()
        )
    }

    /// In what it is written.
    #[cfg(test)]
    pub const fn language(&self) -> Language {
        match self.source {
            Source::Rust => Language::Rust,
            Source::Python(_) => Language::Python,
            Source::JavaScript => Language::JavaScript,
        }
    }
}

/// What a project may be called: what a plugin may be, so that it can be pushed under it.
pub(super) fn checked_name(name: &str) -> anyhow::Result<()> {
    let valid = name.len() <= 64
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
        && !name.ends_with('-');
    ensure!(
        valid,
        "{name:?} cannot be a project's name: write 1 to 64 characters of a-z, 0-9 and '-', the first a letter, the last not '-'"
    );
    Ok(())
}

#[derive(Deserialize)]
struct CargoToml {
    package: Option<CargoPackage>,
}

#[derive(Deserialize)]
struct CargoPackage {
    name: String,
}

fn of_rust(text: &str, manifest: &Path) -> anyhow::Result<(String, Source)> {
    let read: CargoToml = toml::from_str(text).map_err(|error| misread(manifest, text, &error))?;
    // Cargo says best what a manifest without a package is.
    let name = read.package.map_or_else(|| "agent".to_owned(), |package| package.name.replace('_', "-").to_lowercase());
    Ok((name, Source::Rust))
}

#[derive(Deserialize)]
struct PyProject {
    project: Option<PyPackage>,
    tool: Option<PyTools>,
}

#[derive(Default, Deserialize)]
struct PyPackage {
    name: Option<String>,
    version: Option<String>,
    #[serde(default)]
    dependencies: Vec<String>,
}

#[derive(Deserialize)]
struct PyTools {
    cofferdam: Option<PyCofferdam>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PyCofferdam {
    world: World,
    module: String,
}

/// None if the project is one of something else.
fn of_python(text: &str, manifest: &Path) -> anyhow::Result<Option<(String, Source)>> {
    let read: PyProject = toml::from_str(text).map_err(|error| misread(manifest, text, &error))?;
    let Some(PyCofferdam { world, module }) = read.tool.and_then(|tool| tool.cofferdam) else { return Ok(None) };
    let is_module = |part: &str| {
        !part.is_empty()
            && !part.starts_with(|c: char| c.is_ascii_digit())
            && part.chars().all(|c| c.is_alphanumeric() || c == '_')
    };
    ensure!(
        module.split('.').all(is_module),
        "{}: tool.cofferdam.module is {module:?}, which is no name of a module: write \"agent\" for agent.py",
        manifest.display()
    );
    // All that is in it would be in the component. Links within it are not followed: the tool shows the folder to a sandbox.
    ensure!(
        !leads_outside(manifest, "src"),
        "{}: src is a symbolic link that leads out of the project: put the folder itself there",
        manifest.display()
    );
    let project = read.project.unwrap_or_default();
    let name = project.name.unwrap_or_else(|| "agent".to_owned()).replace(['_', '.'], "-").to_lowercase();
    let version = project.version.unwrap_or_else(|| "0.1.0".to_owned());
    Ok(Some((name, Source::Python(Code { world, module, version, dependencies: project.dependencies }))))
}

#[derive(Deserialize)]
struct PackageJson {
    name: Option<String>,
    cofferdam: Option<JsCofferdam>,
}

/// What the SDK's own build reads; here it is looked at so that a mistake is told with its line.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct JsCofferdam {
    #[serde(rename = "world")]
    _world: World,
    main: String,
}

fn of_javascript(text: &str, manifest: &Path) -> anyhow::Result<Option<(String, Source)>> {
    let read: PackageJson = serde_json::from_str(text)
        .map_err(|error| anyhow::anyhow!("{}:{}: {error}", manifest.display(), error.line()))?;
    let Some(JsCofferdam { main, .. }) = read.cofferdam else { return Ok(None) };
    let inside = !Path::new(&main).is_absolute() && !main.split('/').any(|part| part == "..");
    ensure!(
        inside && !main.is_empty(),
        "{}: cofferdam.main is {main:?}, which is not a file inside the project: write \"src/agent.js\"",
        manifest.display()
    );
    // What is not there is told by the SDK's own build.
    ensure!(
        !leads_outside(manifest, &main),
        "{}: cofferdam.main is {main:?}, which a symbolic link leads out of the project: write the file itself there",
        manifest.display()
    );
    let name = read.name.unwrap_or_else(|| "agent".to_owned());
    // A scope is whose it is, not what it is.
    let own = name.strip_prefix('@').and_then(|scoped| scoped.split_once('/')).map_or(name.as_str(), |(_, own)| own);
    let name = own.replace(['_', '.'], "-").to_lowercase();
    Ok(Some((name, Source::JavaScript)))
}

/// Whether something beside a manifest is elsewhere, because of a link.
fn leads_outside(manifest: &Path, name: &str) -> bool {
    let place = manifest.parent().zip(manifest.with_file_name(name).canonicalize().ok());
    place.is_some_and(|(project, file)| !file.starts_with(project))
}

/// What cannot be read of a manifest, with its line.
fn misread(manifest: &Path, text: &str, error: &toml::de::Error) -> anyhow::Error {
    let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
    let line = before.matches('\n').count() + 1;
    anyhow::anyhow!("{}:{line}: {}", manifest.display(), error.message().trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn project(files: &[(&str, &str)]) -> Result<Project, String> {
        let dir = tempfile::tempdir().expect("a directory");
        for (name, text) in files {
            fs::write(dir.path().join(name), text).expect("written");
        }
        Project::at(dir.path()).map_err(|error| format!("{error:#}"))
    }

    #[test]
    fn a_folder_is_what_its_manifest_says() {
        let rust = project(&[("Cargo.toml", "[package]\nname = \"word_count\"\n")]).expect("Rust");
        assert_eq!((rust.name.as_str(), rust.source), ("word-count", Source::Rust));

        let python = "[project]\nname = \"word-count\"\ndependencies = [\"x==1\"]\n[tool.cofferdam]\nworld = \"agent\"\nmodule = \"agent\"\n";
        let python = project(&[("pyproject.toml", python)]).expect("Python");
        let code = Code {
            world: World::Agent,
            module: "agent".into(),
            version: "0.1.0".into(),
            dependencies: vec!["x==1".into()],
        };
        assert_eq!((python.name.as_str(), python.source), ("word-count", Source::Python(code)));

        let text = r#"{"name":"@ann/word-count","cofferdam":{"world":"tool","main":"src/tool.ts"}}"#;
        let javascript = project(&[("package.json", text)]).expect("JavaScript");
        assert_eq!((javascript.name.as_str(), javascript.source), ("word-count", Source::JavaScript));
    }

    #[test]
    fn what_is_no_project_is_told_how_to_become_one() {
        for files in [&[][..], &[("package.json", "{}")], &[("pyproject.toml", "[project]\nname = \"x\"\n")]] {
            let refusal = project(files).expect_err("no project");
            assert!(refusal.contains("`cofferdam new NAME` makes one"), "{refusal}");
        }
        let refusal = Project::at(Path::new("/no/such/folder")).expect_err("none").to_string();
        assert!(refusal.starts_with("there is no folder"), "{refusal}");
    }

    #[test]
    fn a_manifest_that_cannot_be_read_is_named_with_its_line() {
        for (name, text, says) in [
            ("Cargo.toml", "[package]\nname = \n", "Cargo.toml:2: "),
            ("pyproject.toml", "[tool.cofferdam]\nworld = \"robot\"\n", "pyproject.toml:2: unknown variant `robot`"),
            ("pyproject.toml", "[tool.cofferdam]\nworld = \"agent\"\nmodule = \"../x\"\n", "no name of a module"),
            ("package.json", "{\n \"cofferdam\": {\"world\": \"agent\"}}", "package.json:2: missing field `main`"),
            ("package.json", r#"{"cofferdam":{"world":"agent","main":"../x.js"}}"#, "not a file inside the project"),
            ("Cargo.toml", "[package]\nname = \"../x\"\n", "Cargo.toml: \"../x\" cannot be a project's name"),
            (
                "pyproject.toml",
                "[project]\nname = \"/tmp/x\"\n[tool.cofferdam]\nworld = \"agent\"\nmodule = \"agent\"\n",
                "pyproject.toml: \"/tmp/x\" cannot be a project's name",
            ),
            (
                "package.json",
                r#"{"name":"@a/../../x","cofferdam":{"world":"agent","main":"x.js"}}"#,
                "package.json: \"--/--/x\" cannot be a project's name",
            ),
        ] {
            let refusal = project(&[(name, text)]).expect_err(text);
            assert!(refusal.contains(says), "{text}: {refusal}");
        }
    }

    #[test]
    fn a_main_that_a_link_leads_out_of_the_project_is_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        let text = r#"{"name":"x","cofferdam":{"world":"agent","main":"agent.js"}}"#;
        fs::write(dir.path().join("package.json"), text).expect("written");
        std::os::unix::fs::symlink("/dev/null", dir.path().join("agent.js")).expect("linked");
        let refusal = Project::at(dir.path()).expect_err("outside").to_string();
        assert!(refusal.contains("leads out of the project"), "{refusal}");
        fs::remove_file(dir.path().join("agent.js")).expect("removed");
        fs::write(dir.path().join("agent.js"), "").expect("written");
        assert!(Project::at(dir.path()).is_ok());
    }

    #[test]
    fn a_source_folder_that_a_link_leads_out_of_the_project_is_refused() {
        let (dir, other) = (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
        let text = "[tool.cofferdam]\nworld = \"agent\"\nmodule = \"agent\"\n";
        fs::write(dir.path().join("pyproject.toml"), text).expect("written");
        std::os::unix::fs::symlink(other.path(), dir.path().join("src")).expect("linked");
        let refusal = Project::at(dir.path()).expect_err("outside").to_string();
        assert!(refusal.contains("leads out of the project"), "{refusal}");
        // Within the project it may lead where it likes.
        fs::remove_file(dir.path().join("src")).expect("removed");
        fs::create_dir(dir.path().join("code")).expect("made");
        std::os::unix::fs::symlink("code", dir.path().join("src")).expect("linked");
        assert!(Project::at(dir.path()).is_ok());
    }

    #[test]
    fn a_name_is_one_that_a_plugin_can_have() {
        for name in ["a", "word-count", "a1"] {
            assert!(checked_name(name).is_ok(), "{name}");
        }
        for name in ["", "Word", "1a", "-a", "a-", "a_b", "a/b", "..", &"a".repeat(65)] {
            assert!(checked_name(name).is_err(), "{name}");
        }
    }
}
