//! `cofferdam inspect`: what a component is, as a server would find it: by the same gate and in the same compile worker.

use super::{
    build::digest,
    client::component_bytes,
    failure::Failure,
    locally::{self, Host},
    output::{json_line, line, printable, progress},
    project::checked_name,
};
use cofferdam_core::{
    Json,
    grant::Permissions,
    storage::{PluginKind, PluginVersion},
};
use cofferdam_runtime::imports_of;
use indicatif::BinaryBytes;
use serde::Serialize;
use serde_json::Value;
use std::path::PathBuf;

#[derive(Debug, clap::Args)]
pub(super) struct InspectArgs {
    /// The component, as `cofferdam build` made it.
    file: PathBuf,
}

/// What is printed with `--json`.
#[derive(Serialize)]
struct Inspected<'a> {
    world: &'static str,
    name: &'a str,
    version: &'a str,
    description: &'a str,
    digest: String,
    bytes: usize,
    imports: Vec<&'a str>,
    /// Those of them that have no function: nothing can be done with them.
    types_only_imports: Vec<&'a str>,
    needs: &'a Permissions,
    durable: bool,
    /// What `cofferdam grant set USER NAME` must be given, so that nothing that it asks for is denied.
    grant: Permissions,
    input_schema: &'a Option<Json>,
    output_schema: &'a Option<Json>,
    tools: Vec<Tool<'a>>,
}

#[derive(Serialize)]
struct Tool<'a> {
    name: &'a str,
    description: &'a str,
    input_schema: &'a Json,
    idempotent: bool,
}

pub(super) async fn run(args: InspectArgs, json: bool) -> Result<(), Failure> {
    super::serve::log_to_stderr("error")?;
    let bytes = component_bytes(&args.file)?;
    let host = Host::start(None, None).await?;
    let compiling = progress(format!("compiling {}", args.file.display()), json);
    let about = host.push(bytes.clone()).await?;
    drop(compiling);
    let imports = imports_of(&bytes).map_err(|error| locally::failure(error.into()))?;
    let inspected = Inspected {
        world: match about.kind {
            PluginKind::Agent => "agent",
            PluginKind::Tool => "tool",
        },
        name: &about.title,
        version: &about.version,
        description: &about.description,
        digest: digest(&bytes),
        bytes: bytes.len(),
        imports: imports.iter().map(|import| import.name.as_str()).collect(),
        types_only_imports: imports.iter().filter(|it| it.types_only).map(|import| import.name.as_str()).collect(),
        needs: &about.needs,
        durable: about.durable,
        // A grant that has what the needs have, and nothing else, lets all of it through.
        grant: about.needs.clone(),
        input_schema: &about.input_schema,
        output_schema: &about.output_schema,
        tools: tools(&about),
    };
    if json {
        let text = serde_json::to_string(&inspected).map_err(|error| Failure::Host(error.to_string()))?;
        return line(&json_line(&text));
    }
    print(&inspected)
}

fn tools(about: &PluginVersion) -> Vec<Tool<'_>> {
    let tools = about.tools.iter().map(|tool| Tool {
        name: &tool.name,
        description: &tool.description,
        input_schema: &tool.input_schema,
        idempotent: tool.idempotent,
    });
    tools.collect()
}

/// What an author looks for first comes first; imports come last, because they are many and the host's affair.
fn print(inspected: &Inspected<'_>) -> Result<(), Failure> {
    let Inspected { world, name, version, description, digest, bytes, needs, .. } = inspected;
    line(&format!("name          {}", printable(name)))?;
    line(&format!("world         {world}"))?;
    line(&format!("version       {}", printable(version)))?;
    // In Python it is the text of a class, with its line breaks.
    line(&format!("description   {}", printable(&description.split_whitespace().collect::<Vec<_>>().join(" "))))?;
    line(&format!("needs         {}", printable(&in_words(needs))))?;
    let grant = if inspected.grant == Permissions::none() {
        "it needs none".to_owned()
    } else {
        // As `cofferdam build` says it is pushed. What it calls itself is its own, and no name of a plugin perhaps.
        grant_command(if checked_name(name).is_ok() { name } else { "NAME" }, &inspected.grant)
    };
    line(&format!("grant         {grant}"))?;
    if inspected.durable {
        line("durable       its runs go on where they were when the host is started again")?;
    }
    line(&format!("bytes         {bytes} ({})", BinaryBytes(u64::try_from(*bytes).unwrap_or(u64::MAX))))?;
    line(&format!("digest        {digest}"))?;
    for (name, schema) in [("input schema ", inspected.input_schema), ("output schema", inspected.output_schema)] {
        if let Some(schema) = schema {
            line(&format!("{name} {}", json_line(schema.as_str())))?;
        }
    }
    for tool in &inspected.tools {
        let idempotent = if tool.idempotent { " (idempotent)" } else { "" };
        line(&format!("tool          {}{idempotent}: {}", printable(tool.name), printable(tool.description)))?;
        line(&format!("              {}", json_line(tool.input_schema.as_str())))?;
    }
    let types_only = &inspected.types_only_imports;
    for import in by_package(inspected.imports.iter().copied().filter(|import| !types_only.contains(import))) {
        line(&format!("import        {}", printable(&import)))?;
    }
    Ok(())
}

/// What a plugin asks for, without what it does not ask for.
fn in_words(needs: &Permissions) -> String {
    let Ok(Value::Object(parts)) = serde_json::to_value(needs) else { return String::new() };
    let words = parts.iter().filter_map(|(name, part)| match part {
        Value::Bool(true) => Some(name.clone()),
        Value::String(access) if access != "none" => Some(format!("{name} {access}")),
        Value::Array(of) if !of.is_empty() => {
            let of: Vec<_> = of.iter().filter_map(Value::as_str).collect();
            Some(format!("{name} {}", of.join(", ")))
        }
        _ => None,
    });
    let words: Vec<_> = words.collect();
    if words.is_empty() { "nothing".to_owned() } else { words.join("; ") }
}

/// A line for each package, with its interfaces: `wasi:io@0.2.6: poll, streams`.
fn by_package<'a>(imports: impl Iterator<Item = &'a str>) -> Vec<String> {
    let mut packages: Vec<(String, Vec<&str>)> = Vec::new();
    for import in imports {
        let (package, interface) = import.split_once('/').unwrap_or((import, ""));
        let (interface, version) = interface.split_once('@').unwrap_or((interface, ""));
        let package = if version.is_empty() { package.to_owned() } else { format!("{package}@{version}") };
        match packages.iter_mut().find(|(known, _)| *known == package) {
            Some((_, interfaces)) => interfaces.push(interface),
            None => packages.push((package, vec![interface])),
        }
    }
    let shown = packages.into_iter().map(|(package, interfaces)| match interfaces.as_slice() {
        [""] => package,
        interfaces => format!("{package}: {}", interfaces.join(", ")),
    });
    shown.collect()
}

/// What an operator types to grant a plugin something. No name in a grant has a character that a shell would take for another.
pub(super) fn grant_command(plugin: &str, grant: &Permissions) -> String {
    format!("cofferdam grant set USER {plugin} '{}'", Json::of(grant).as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn imports_of_one_package_are_one_line() {
        let imports = ["wasi:io/poll@0.2.6", "a:b/c", "wasi:io/streams@0.2.6", "wasi:io/poll@0.2.9", "run", "a:b/d"];
        assert_eq!(
            by_package(imports.into_iter()),
            ["wasi:io@0.2.6: poll, streams", "a:b: c, d", "wasi:io@0.2.9: poll", "run"]
        );
    }

    #[test]
    fn needs_are_told_in_words_and_what_is_not_needed_is_not() {
        assert_eq!(in_words(&Permissions::none()), "nothing");
        let needs = r#"{"tools":["file.read","file.write"],"state":"read_write","agents":["echo"],"human":true}"#;
        let words = in_words(&serde_json::from_str(needs).expect("permissions"));
        let mut words: Vec<_> = words.split("; ").collect();
        words.sort_unstable();
        assert_eq!(words, ["agents echo", "human", "state read_write", "tools file.read, file.write"]);
    }
}
