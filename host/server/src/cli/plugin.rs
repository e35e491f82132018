//! `cofferdam plugin`: push plugins and look at them.

use super::{
    client::{As, Client, ClientArgs, component_bytes},
    failure::Failure,
    inspect::grant_command,
    output::{json_line, line, note, printable, progress},
};
use clap::{Args, Subcommand};
use cofferdam_core::{Json, grant::Permissions};
use reqwest::{Method, StatusCode, header};
use serde::Deserialize;
use serde_json::value::RawValue;
use std::path::PathBuf;

#[derive(Debug, Args)]
pub(super) struct PluginArgs {
    #[command(flatten)]
    client: ClientArgs,
    #[command(subcommand)]
    verb: PluginVerb,
}

#[derive(Debug, Subcommand)]
enum PluginVerb {
    /// Push a component under a name. Needs an operator's key.
    Push {
        /// The name: 1 to 64 characters of a-z, 0-9 and '-', the first a letter. If it has a version already, this one is what
        /// it stands for from now on, and the other stays as NAME@DIGEST.
        name: String,
        /// The component, as `cofferdam build` made it.
        file: PathBuf,
    },
    /// Show all plugins, the newest version of each.
    List,
    /// Show a plugin with its schemas, its needs and its versions.
    Inspect {
        /// The plugin.
        name: String,
    },
}

#[derive(Deserialize)]
struct Plugin<'a> {
    name: String,
    digest: String,
    version: String,
    kind: String,
    title: String,
    description: String,
    needs: Permissions,
    durable: bool,
    #[serde(borrow)]
    input_schema: Option<&'a RawValue>,
    #[serde(borrow)]
    output_schema: Option<&'a RawValue>,
    #[serde(borrow)]
    tools: Vec<Tool<'a>>,
    bytes: u64,
    pushed_at: String,
}

#[derive(Deserialize)]
struct Tool<'a> {
    name: String,
    description: String,
    #[serde(borrow)]
    input_schema: &'a RawValue,
    idempotent: bool,
}

#[derive(Deserialize)]
struct PluginPage<'a> {
    #[serde(borrow)]
    plugins: Vec<Plugin<'a>>,
    next_after: Option<String>,
}

#[derive(Deserialize)]
struct PluginVersions<'a> {
    #[serde(borrow)]
    latest: Plugin<'a>,
    versions: Vec<Version>,
}

#[derive(Deserialize)]
struct Version {
    version: String,
    digest: String,
    pushed_at: String,
}

pub(super) async fn run(args: PluginArgs, json: bool) -> Result<(), Failure> {
    let client = Client::new(args.client)?;
    match args.verb {
        PluginVerb::Push { name, file } => push(&client, &name, file, json).await,
        PluginVerb::List => list(&client, json).await,
        PluginVerb::Inspect { name } => {
            let text = client.text(client.request(As::Anyone, Method::GET, ["v1", "plugins", &name])?).await?;
            if json { line(&json_line(&text)) } else { inspect(&client.read(&text)?) }
        }
    }
}

async fn push(client: &Client, name: &str, file: PathBuf, json: bool) -> Result<(), Failure> {
    let bytes = component_bytes(&file)?;
    // What the name stood for is for people, and only they pay for asking.
    let before = if json { None } else { latest(client, name).await? };
    let request = client.request(As::Operator, Method::PUT, ["v1", "plugins", name])?;
    let request = request.header(header::CONTENT_TYPE, "application/wasm").body(bytes);
    let compiling = progress(format!("compiling {name} on the server"), json);
    let response = client.send(request).await?;
    drop(compiling);
    let new = response.status() == StatusCode::CREATED;
    let text = String::from_utf8_lossy(&client.body(response).await?).into_owned();
    if json {
        return line(&json_line(&text));
    }
    let plugin: Plugin<'_> = client.read(&text)?;
    let said = if new { "pushed" } else { "was there already:" };
    line(&format!("{said} {} {} {}", printable(&plugin.name), printable(&plugin.version), printable(&plugin.digest)))?;
    let name = printable(&plugin.name);
    if let Some(before) = before.filter(|before| before.digest != plugin.digest) {
        let of = |version: &str, digest: &str| format!("{} {}", printable(version), printable(digest));
        let (was, is) = (of(&before.version, &before.digest), of(&plugin.version, &plugin.digest));
        note(&format!(
            "replaced {name} {was} → {is}; who asks for {name}@{} gets the one before",
            printable(&before.digest)
        ));
        if before.title != plugin.title {
            let (was, is) = (printable(&before.title), printable(&plugin.title));
            note(&format!(
                "note: the one before calls itself {was}, and this one {is}; if that was not meant, push the one before again, and this one under a name of its own"
            ));
        }
    }
    if plugin.needs != Permissions::none() {
        note(&format!("next: {}", grant_command(&name, &plugin.needs)));
    }
    if plugin.kind == "agent" {
        note(&format!("next: cofferdam runs submit {name} --input JSON"));
    }
    Ok(())
}

/// What a name stands for.
struct Latest {
    title: String,
    version: String,
    digest: String,
}

/// What a name stands for now, if for anything; whatever else is refused, the push is refused for.
async fn latest(client: &Client, name: &str) -> Result<Option<Latest>, Failure> {
    match client.text(client.request(As::Operator, Method::GET, ["v1", "plugins", name])?).await {
        Ok(text) => {
            let Plugin { title, version, digest, .. } = client.read::<PluginVersions<'_>>(&text)?.latest;
            Ok(Some(Latest { title, version, digest }))
        }
        Err(Failure::Refused(_)) => Ok(None),
        Err(failure) => Err(failure),
    }
}

/// Prints all pages, so that the list is whole.
async fn list(client: &Client, json: bool) -> Result<(), Failure> {
    let mut after: Option<String> = None;
    loop {
        let request = client.request(As::Anyone, Method::GET, ["v1", "plugins"])?;
        let query: Vec<_> = after.iter().map(|after| ("after", after)).collect();
        let text = client.text(request.query(&query)).await?;
        let page: PluginPage<'_> = client.read(&text)?;
        if json {
            line(&json_line(&text))?;
        } else {
            for plugin in &page.plugins {
                let parts = [&plugin.name, &plugin.version, &plugin.kind, &plugin.digest, &plugin.description];
                line(&parts.map(|part| printable(part)).join("  "))?;
            }
        }
        match page.next_after {
            Some(next) if after.as_ref() < Some(&next) => after = Some(next),
            _ => return Ok(()),
        }
    }
}

fn inspect(plugin: &PluginVersions<'_>) -> Result<(), Failure> {
    let latest = &plugin.latest;
    line(&format!("name          {}", printable(&latest.name)))?;
    line(&format!("title         {}", printable(&latest.title)))?;
    line(&format!("description   {}", printable(&latest.description)))?;
    line(&format!("kind          {}", printable(&latest.kind)))?;
    line(&format!("version       {}", printable(&latest.version)))?;
    line(&format!("digest        {}", printable(&latest.digest)))?;
    line(&format!("bytes         {}", latest.bytes))?;
    line(&format!("pushed at     {}", printable(&latest.pushed_at)))?;
    line(&format!("needs         {}", Json::of(&latest.needs).as_str()))?;
    if latest.durable {
        line("durable       its runs go on where they were when the host is started again")?;
    }
    for (name, schema) in [("input schema ", latest.input_schema), ("output schema", latest.output_schema)] {
        if let Some(schema) = schema {
            line(&format!("{name} {}", json_line(schema.get())))?;
        }
    }
    for tool in &latest.tools {
        let idempotent = if tool.idempotent { " (idempotent)" } else { "" };
        line(&format!("tool          {}{idempotent}: {}", printable(&tool.name), printable(&tool.description)))?;
        line(&format!("              {}", json_line(tool.input_schema.get())))?;
    }
    for version in &plugin.versions {
        let parts = [&version.version, &version.digest, &version.pushed_at];
        line(&format!("pushed        {}", parts.map(|part| printable(part)).join("  ")))?;
    }
    Ok(())
}
