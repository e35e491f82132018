//! `cofferdam grant`: what a plugin may do for a user.

use super::{
    client::{As, Client, ClientArgs, text_argument, with_json},
    failure::Failure,
    output::{json_line, line},
};
use clap::{Args, Subcommand};
use reqwest::Method;
use serde::Deserialize;
use serde_json::value::RawValue;

#[derive(Debug, Args)]
pub(super) struct GrantArgs {
    #[command(flatten)]
    client: ClientArgs,
    #[command(subcommand)]
    verb: GrantVerb,
}

#[derive(Debug, Subcommand)]
enum GrantVerb {
    /// Show what a plugin was granted for a user. Users can see their own.
    Get {
        /// The user.
        user: String,
        /// The plugin.
        plugin: String,
    },
    /// Grant a plugin something for a user, in place of what was granted before. Needs an operator's key.
    Set {
        /// The user.
        user: String,
        /// The plugin.
        plugin: String,
        /// What: {"tools": ["file.*"], "state": "none"|"read"|"read_write", "workspace": …, "agents": ["echo"], "human": true}, or @FILE. What is left out is nothing.
        #[arg(value_name = "JSON|@FILE|-")]
        grant: String,
    },
}

#[derive(Deserialize)]
struct GrantSet<'a> {
    #[serde(borrow)]
    grant: &'a RawValue,
    #[serde(borrow)]
    declared: &'a RawValue,
    #[serde(borrow)]
    effective: &'a RawValue,
}

pub(super) async fn run(args: GrantArgs, json: bool) -> Result<(), Failure> {
    let client = Client::new(args.client)?;
    match args.verb {
        GrantVerb::Get { user, plugin } => {
            // An operator can ask for anyone; without such a key, one's own is asked for with one's own key.
            let request = client.request(As::Operator, Method::GET, ["v1", "users", &user, "grants", &plugin])?;
            line(&json_line(&client.text(request).await?))
        }
        GrantVerb::Set { user, plugin, grant } => {
            let request = client.request(As::Operator, Method::PUT, ["v1", "users", &user, "grants", &plugin])?;
            let text = client.text(with_json(request, text_argument(&grant)?)).await?;
            if json {
                return line(&json_line(&text));
            }
            let set: GrantSet<'_> = client.read(&text)?;
            line(&format!("granted    {}", json_line(set.grant.get())))?;
            line(&format!("declared   {}", json_line(set.declared.get())))?;
            line(&format!("effective  {}", json_line(set.effective.get())))
        }
    }
}
