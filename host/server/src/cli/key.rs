//! `cofferdam key`: API keys.

use super::{
    client::{As, Client, ClientArgs, with_json},
    failure::Failure,
    output::{json_line, line, note, printable},
};
use clap::{Args, Subcommand};
use reqwest::Method;
use serde::Deserialize;

#[derive(Debug, Args)]
pub(super) struct KeyArgs {
    #[command(flatten)]
    client: ClientArgs,
    #[command(subcommand)]
    verb: KeyVerb,
}

#[derive(Debug, Subcommand)]
enum KeyVerb {
    /// Make a key for a user, who exists from then on. Needs an operator's key.
    Create {
        /// The user.
        user: String,
        /// Make an operator's key: it pushes plugins, grants, and makes keys, and has no runs of its own.
        #[arg(long)]
        operator: bool,
    },
}

#[derive(Deserialize)]
struct NewKey {
    user: String,
    api_key: String,
}

pub(super) async fn run(args: KeyArgs, json: bool) -> Result<(), Failure> {
    let client = Client::new(args.client)?;
    let KeyVerb::Create { user, operator } = args.verb;
    let body = serde_json::json!({ "user": user, "role": if operator { "operator" } else { "user" } }).to_string();
    let request = client.request(As::Operator, Method::POST, ["v1", "keys"])?;
    let text = client.text(with_json(request, body)).await?;
    if json {
        return line(&json_line(&text));
    }
    let key: NewKey = client.read(&text)?;
    note(&format!("the key of {}; it is shown this once only:", printable(&key.user)));
    line(&printable(&key.api_key))
}
