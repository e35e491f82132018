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
use serde::Serialize;
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
    imports: Vec<String>,
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
        imports,
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

fn print(inspected: &Inspected<'_>) -> Result<(), Failure> {
    let Inspected { world, name, version, description, digest, bytes, imports, needs, .. } = inspected;
    line(&format!("name          {}", printable(name)))?;
    line(&format!("world         {world}"))?;
    line(&format!("version       {}", printable(version)))?;
    line(&format!("description   {}", printable(description)))?;
    line(&format!("bytes         {bytes}"))?;
    line(&format!("digest        {digest}"))?;
    line(&format!("needs         {}", Json::of(needs).as_str()))?;
    if inspected.durable {
        line("durable       its runs go on where they were when the host is started again")?;
    }
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
    let grant = if inspected.grant == Permissions::none() {
        "it needs none".to_owned()
    } else {
        // As `cofferdam build` says it is pushed. What it calls itself is its own, and no name of a plugin perhaps.
        grant_command(if checked_name(name).is_ok() { name } else { "NAME" }, &inspected.grant)
    };
    line(&format!("grant         {grant}"))?;
    // Last, because they are many and the host's affair.
    for import in imports {
        line(&format!("import        {}", printable(import)))?;
    }
    Ok(())
}

/// What an operator types to grant a plugin something. No name in a grant has a character that a shell would take for another.
pub(super) fn grant_command(plugin: &str, grant: &Permissions) -> String {
    format!("cofferdam grant set USER {plugin} '{}'", Json::of(grant).as_str())
}
