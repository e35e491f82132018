//! `cofferdam files`: the workspace on the server.

use super::{
    client::{As, Client, ClientArgs, file_bytes},
    failure::Failure,
    output::{bytes, json_line, line, printable},
};
use clap::{Args, Subcommand};
use reqwest::{Method, header};
use serde::Deserialize;
use std::{
    io::Write as _,
    path::{Path, PathBuf},
};

#[derive(Debug, Args)]
pub(super) struct FilesArgs {
    #[command(flatten)]
    client: ClientArgs,
    #[command(subcommand)]
    verb: FilesVerb,
}

#[derive(Debug, Subcommand)]
enum FilesVerb {
    /// Copy a file into the workspace.
    Put {
        /// The file here.
        local: PathBuf,
        /// Its path in the workspace.
        remote: String,
    },
    /// Copy a file out of the workspace.
    Get {
        /// Its path in the workspace.
        remote: String,
        /// Where it goes; - for standard output.
        local: PathBuf,
    },
    /// Show a directory of the workspace.
    List {
        /// The directory; the workspace itself if not said.
        #[arg(default_value = "")]
        dir: String,
    },
    /// Remove a file of the workspace.
    Rm {
        /// Its path in the workspace.
        remote: String,
    },
}

#[derive(Deserialize)]
struct Listing {
    entries: Vec<Entry>,
    truncated: bool,
}

#[derive(Deserialize)]
struct Entry {
    name: String,
    kind: String,
    bytes: u64,
}

pub(super) async fn run(args: FilesArgs, json: bool) -> Result<(), Failure> {
    let client = Client::new(args.client)?;
    match args.verb {
        FilesVerb::Put { local, remote } => {
            let request = client.request(As::User, Method::PUT, segments(&remote))?;
            let request = request.header(header::CONTENT_TYPE, "application/octet-stream").body(file_bytes(&local)?);
            let text = client.text(request).await?;
            if json {
                return line(&json_line(&text));
            }
            line(&format!("put {} as {}", local.display(), printable(&remote)))
        }
        FilesVerb::Get { remote, local } => get(&client, &remote, &local).await,
        FilesVerb::List { dir } => {
            let request = client.request(As::User, Method::GET, ["v1", "files"])?;
            let text = client.text(request.query(&[("path", &dir)])).await?;
            if json {
                return line(&json_line(&text));
            }
            let listing: Listing = client.read(&text)?;
            for entry in &listing.entries {
                let slash = if entry.kind == "directory" { "/" } else { "" };
                line(&format!("{:>12}  {}{slash}", entry.bytes, printable(&entry.name)))?;
            }
            if listing.truncated { line("... and more") } else { Ok(()) }
        }
        FilesVerb::Rm { remote } => {
            client.text(client.request(As::User, Method::DELETE, segments(&remote))?).await?;
            Ok(())
        }
    }
}

/// The segments of a file's URL.
fn segments(remote: &str) -> impl Iterator<Item = &str> {
    ["v1", "files"].into_iter().chain(remote.split('/'))
}

/// Copies a file out, a piece at a time, and leaves nothing behind that is not the whole of it.
async fn get(client: &Client, remote: &str, local: &Path) -> Result<(), Failure> {
    let mut response = client.send(client.request(As::User, Method::GET, segments(remote))?).await?;
    if local == Path::new("-") {
        while let Some(piece) = response.chunk().await.map_err(|error| client.unreachable(&error))? {
            bytes(&piece)?;
        }
        return Ok(());
    }
    let failed =
        |error: std::io::Error| Failure::Usage(format!("cannot write {}: {error}; check the path", local.display()));
    let dir = local.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(dir).map_err(failed)?;
    while let Some(piece) = response.chunk().await.map_err(|error| client.unreachable(&error))? {
        file.write_all(&piece).map_err(failed)?;
    }
    file.persist(local).map_err(|error| failed(error.error))?;
    Ok(())
}
