//! `cofferdam test`: runs the cases of a project, each in a sandbox of its own under the same engine, limits and meter as on a
//! server.

use super::{
    build,
    client::component_bytes,
    failure::Failure,
    locally::{self, file_of},
    output::{json_line, line, printable, progress},
    project::Project,
};
use case::{Case, Scripted};
use cofferdam_core::{Json, event::Envelope, grant::Permissions};
use cofferdam_runtime::{LocalError, LocalValue, LocalWork};
use compare::{Difference, Outcome, differences, shown};
use serde::Serialize;
use serde_json::Value;
use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

mod case;
mod compare;

#[derive(Debug, clap::Args)]
pub(super) struct TestArgs {
    /// Folder of the project. Its cases are the files tests/*.json.
    #[arg(default_value = ".")]
    dir: PathBuf,
    /// Only cases with this in their name.
    #[arg(long, value_name = "PART")]
    case: Option<String>,
    /// Test this component, and build nothing.
    #[arg(long, value_name = "FILE")]
    component: Option<PathBuf>,
}

/// What came of a case, as it is printed with `--json`.
#[derive(Debug, Serialize)]
struct Told {
    case: String,
    ok: bool,
    stop_reason: String,
    fuel: u64,
    memory_peak_bytes: u64,
    wall_ms: u64,
    host_calls: u64,
    differences: Vec<Difference>,
    /// What to do about it, if it is the case that is to be mended.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

pub(super) async fn run(args: TestArgs, json: bool) -> Result<(), Failure> {
    super::serve::log_to_stderr("error")?;
    if args.dir.is_file() {
        let why =
            "is a file: give the folder of the project, and its component, if nothing is to be built, as --component";
        return Err(Failure::Usage(format!("{} {why} FILE", args.dir.display())));
    }
    // Cases are read before anything is built: what cannot be read is wrong whatever the agent does.
    let read = || cases(&args.dir, args.case.as_deref());
    let (cases, component, shown) = if let Some(file) = &args.component {
        (read()?, component_bytes(file)?, file.display().to_string())
    } else {
        let project = || Project::at(&args.dir).map_err(|error| Failure::Usage(format!("{error:#}")));
        // That it is no project says more than that it has no cases.
        if !args.dir.join("tests").is_dir() {
            project()?;
        }
        let (cases, project) = (read()?, project()?);
        let built = build::build(&project, json).map_err(|error| Failure::Build(format!("{error:#}")))?;
        (cases, built.bytes, built.file.display().to_string())
    };
    all(&component, &shown, cases, json).await
}

/// Runs the cases of a project that has been built.
pub(super) async fn built(dir: &Path, built: &build::Built, json: bool) -> Result<(), Failure> {
    all(&built.bytes, &built.file.display().to_string(), cases(dir, None)?, json).await
}

/// Runs cases on a component, and prints what came of them.
async fn all(component: &[u8], file: &str, cases: Vec<(String, Case)>, json: bool) -> Result<(), Failure> {
    let (count, mut failed) = (cases.len(), 0_usize);
    for (name, case) in cases {
        let told = one(component, file, name, case, json).await?;
        failed += usize::from(!told.ok);
        if json {
            let text = serde_json::to_string(&told).map_err(|error| Failure::Host(error.to_string()))?;
            line(&json_line(&text))?;
        } else {
            print(&told)?;
        }
    }
    if !json {
        let cases = if count == 1 { "case" } else { "cases" };
        line(&format!("{count} {cases}, {failed} failed"))?;
    }
    if failed == 0 { Ok(()) } else { Err(Failure::Run) }
}

/// The cases of a project, by name.
fn cases(dir: &Path, part: Option<&str>) -> Result<Vec<(String, Case)>, Failure> {
    let folder = dir.join("tests");
    let Ok(entries) = fs::read_dir(&folder) else {
        let why = format!(
            "there is no folder {}; a case is a file tests/NAME.json, `cofferdam new` makes some",
            folder.display()
        );
        return Err(Failure::Usage(why));
    };
    let mut files: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "json"));
    files.sort();
    let (mut cases, mut names, mut refused) = (Vec::new(), Vec::new(), Vec::new());
    for file in files {
        let name = file.file_stem().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if part.is_none_or(|part| name.contains(part)) {
            match Case::read(&file) {
                Ok(case) => cases.push((name, case)),
                Err(error) => refused.push(format!("{error:#}")),
            }
        } else {
            names.push(name);
        }
    }
    // All at once, so that they are mended at once; those that can be read do not run beside them, lest the number of cases
    // that passed be taken for all.
    if !refused.is_empty() {
        return Err(Failure::Usage(refused.join("\n")));
    }
    if cases.is_empty() {
        let named = part.map(|part| format!(" with {part:?} in its name")).unwrap_or_default();
        let next = match names.is_empty() {
            true => "a case is a file NAME.json".to_owned(),
            false => format!("it has {}", names.join(", ")),
        };
        return Err(Failure::Usage(format!("{} has no case{named}: {next}", folder.display())));
    }
    Ok(cases)
}

/// Runs a case.
async fn one(component: &[u8], file: &str, name: String, mut case: Case, json: bool) -> Result<Told, Failure> {
    let stand_ins = Arc::new(Scripted::of(&mut case));
    let host = locally::Host::start(None, Some(stand_ins.clone())).await?;
    let compiling = progress(format!("compiling {file}"), json);
    let about = host.push(component.to_vec()).await?;
    drop(compiling);
    let _running = progress(format!("running {name}"), json);
    let grant = case.grant.clone().unwrap_or_else(|| about.needs.clone());
    host.local.grant(grant).await.map_err(locally::failure)?;
    for (path, text) in &case.files {
        let file = host.workspace.join(path);
        let written = file.parent().map_or(Ok(()), fs::create_dir_all).and_then(|()| fs::write(&file, text));
        written.map_err(|error| Failure::Host(format!("cannot write {}: {error}", file.display())))?;
    }
    for (key, value) in &case.state {
        let (scope, key) = key.split_once('/').unwrap_or_default();
        let value = LocalValue {
            of_thread: scope == "thread",
            key: key.to_owned(),
            value: Json::of(value).as_str().as_bytes().to_vec(),
        };
        host.local.put_state(value).await.map_err(locally::failure)?;
    }
    let work = LocalWork {
        input: Json::of(&case.input),
        tool: case.tool.clone(),
        limits: case.limits(),
        answers: Some(case.answers.iter().map(Json::of).collect()),
    };
    let mut events = Vec::new();
    let mut on_event = |envelope: &Envelope| {
        let text = serde_json::to_value(envelope).unwrap_or_default();
        let kind = text.get("type").and_then(Value::as_str).unwrap_or_default().to_owned();
        events.push((kind, text.get("payload").cloned().unwrap_or_default()));
    };
    let end = match host.local.run(work, &mut on_event).await {
        Ok(end) => end,
        Err(error @ (LocalError::Answer { .. } | LocalError::NoSuchTool(_) | LocalError::Accept(_))) => {
            return Err(Failure::Usage(format!("tests/{name}.json: {error}")));
        }
        Err(error) => return Err(locally::failure(error)),
    };
    let view = end.view;
    let mut outcome = Outcome {
        stop_reason: view.stop_reason.map(|reason| reason.as_str().to_owned()).unwrap_or_default(),
        output: view.output.as_ref().and_then(|output| output.read().ok()),
        error: view.error.as_ref().map(|error| (error.code.clone(), error.message.clone())),
        events,
        unexpected: stand_ins.unexpected(),
        ..Outcome::default()
    };
    outcome.unexpected.extend(end.gave_up);
    for path in case.expect.files.keys() {
        if let Some(text) = file_of(&host.workspace, path)? {
            outcome.files.insert(path.clone(), text);
        }
    }
    for LocalValue { of_thread, key, value } in host.local.state().await.map_err(locally::failure)? {
        let scope = if of_thread { "thread" } else { "user" };
        // A value that is no JSON is shown as the text that it is.
        let text = || Value::from(String::from_utf8_lossy(&value).into_owned());
        outcome.state.insert(format!("{scope}/{key}"), serde_json::from_slice(&value).unwrap_or_else(|_| text()));
    }
    let differences = differences(&case.expect, &outcome);
    let next = if differences.is_empty() { None } else { next_step(&name, &case, &about.needs, &outcome) };
    Ok(Told {
        case: name,
        ok: differences.is_empty(),
        stop_reason: outcome.stop_reason,
        fuel: view.usage.fuel,
        memory_peak_bytes: view.usage.memory_peak_bytes,
        wall_ms: view.usage.wall_ms,
        host_calls: view.usage.host_calls,
        differences,
        next,
    })
}

/// What to do about a case that fails because it grants less than the plugin needs, as far as that shows: in the run's end, in
/// what its tools were answered, or in its output.
fn next_step(name: &str, case: &Case, needs: &Permissions, outcome: &Outcome) -> Option<String> {
    // Where it was not declared, a larger grant is of no use.
    let denied = |text: &str| text.contains("declared but not granted; grant it with --grant");
    let shows = outcome.error.as_ref().is_some_and(|(_, message)| denied(message))
        || outcome.events.iter().map(|(_, payload)| payload).chain(&outcome.output).any(|it| denied(&it.to_string()));
    (shows && case.grant.as_ref().is_some_and(|grant| grant != needs)).then(|| {
        let all_of_it = Json::of(needs);
        format!(
            "it asks for more than \"grant\" in tests/{name}.json has; all that it needs is: \"grant\": {}",
            all_of_it.as_str()
        )
    })
}

fn print(told: &Told) -> Result<(), Failure> {
    let word = if told.ok { "ok  " } else { "FAIL" };
    let Told { case, fuel, memory_peak_bytes, wall_ms, .. } = told;
    let name = printable(case);
    line(&format!("{word}  {name:<32}  fuel {fuel:>12}  peak {memory_peak_bytes:>10} bytes  {wall_ms:>5} ms"))?;
    for text in shown(&told.differences) {
        line(&format!("      {}", printable(&text)))?;
    }
    if let Some(next) = &told.next {
        line(&format!("      next: {}", printable(next)))?;
    }
    Ok(())
}
