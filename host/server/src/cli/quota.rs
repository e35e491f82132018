//! `cofferdam quota` and `cofferdam tier`: what users and tiers may take.

use super::{
    client::{As, Client, ClientArgs, text_argument, with_json},
    failure::Failure,
    output::{json_line, line},
};
use clap::{Args, Subcommand};
use reqwest::{Method, header};
use serde_json::{Map, Value};

#[derive(Debug, Args)]
pub(super) struct QuotaArgs {
    #[command(flatten)]
    client: ClientArgs,
    #[command(subcommand)]
    verb: QuotaVerb,
}

#[derive(Debug, Subcommand)]
enum QuotaVerb {
    /// Show what a user may take, and what of it is set for them. Users can see their own.
    Get {
        /// The user.
        user: String,
    },
    /// Set what a user may take, in place of what was set before. Needs an operator's key.
    Set {
        /// The user.
        user: String,
        #[command(flatten)]
        set: SetArgs,
    },
}

#[derive(Debug, Args)]
pub(super) struct TierArgs {
    #[command(flatten)]
    client: ClientArgs,
    #[command(subcommand)]
    verb: TierVerb,
}

#[derive(Debug, Subcommand)]
enum TierVerb {
    /// Show a tier. `default` is that of users who are in no other. Needs an operator's key.
    Get {
        /// The tier.
        name: String,
    },
    /// Set a tier, in place of what was set before; it is there from then on. Needs an operator's key.
    Set {
        /// The tier.
        name: String,
        #[command(flatten)]
        set: SetArgs,
    },
}

#[derive(Debug, Args)]
struct SetArgs {
    /// The limits, as {"runs_at_once": 2}; for a user also their {"tier": "NAME"}. What is left out is as the level above
    /// has it.
    #[arg(value_name = "JSON|@FILE|-")]
    limits: String,
    /// Only if this version still stands: `version` of `get`.
    #[arg(long, value_name = "VERSION")]
    if_match: Option<String>,
}

pub(super) async fn run_quota(args: QuotaArgs, json: bool) -> Result<(), Failure> {
    match args.verb {
        QuotaVerb::Get { user } => get(args.client, ["v1", "users", &user, "quota"], json).await,
        QuotaVerb::Set { user, set } => put(args.client, ["v1", "users", &user, "quota"], set, json).await,
    }
}

pub(super) async fn run_tier(args: TierArgs, json: bool) -> Result<(), Failure> {
    match args.verb {
        TierVerb::Get { name } => get(args.client, ["v1", "tiers", &name], json).await,
        TierVerb::Set { name, set } => put(args.client, ["v1", "tiers", &name], set, json).await,
    }
}

async fn get<const N: usize>(client: ClientArgs, path: [&str; N], json: bool) -> Result<(), Failure> {
    let client = Client::new(client)?;
    show(&client, client.request(As::Operator, Method::GET, path)?, json).await
}

async fn put<const N: usize>(client: ClientArgs, path: [&str; N], set: SetArgs, json: bool) -> Result<(), Failure> {
    let client = Client::new(client)?;
    let mut request = with_json(client.request(As::Operator, Method::PUT, path)?, text_argument(&set.limits)?);
    if let Some(version) = set.if_match {
        request = request.header(header::IF_MATCH, format!("\"{}\"", version.trim_matches('"')));
    }
    show(&client, request, json).await
}

/// One limit a line: what it is, and whether it is set here.
async fn show(client: &Client, request: reqwest::RequestBuilder, json: bool) -> Result<(), Failure> {
    let response = client.send(request).await?;
    let version = response.headers().get(header::ETAG).and_then(|tag| tag.to_str().ok()).map(str::to_owned);
    let text = String::from_utf8_lossy(&client.body(response).await?).into_owned();
    if json {
        return line(&json_line(&text));
    }
    let mut document: Map<String, Value> = client.read(&text)?;
    let Some(Value::Object(effective)) = document.remove("effective") else {
        return line(&json_line(&text));
    };
    for name in ["user", "name", "tier"] {
        if let Some(value) = document.get(name).and_then(Value::as_str) {
            line(&format!("{name:<28} {value}"))?;
        }
    }
    if let Some(version) = version {
        line(&format!("{:<28} {}", "version", version.trim_matches('"')))?;
    }
    for (name, value) in &effective {
        let set = if document.contains_key(name) { "  (set here)" } else { "" };
        line(&format!("{name:<28} {value:>22}{set}"))?;
    }
    Ok(())
}
