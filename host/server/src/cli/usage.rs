//! `cofferdam usage`: what a user has, and has taken.

use super::{
    client::{As, Client, ClientArgs},
    failure::Failure,
    output::{json_line, line, printable},
};
use clap::Args;
use reqwest::Method;
use serde::Deserialize;
use serde_json::{Map, Value};

#[derive(Debug, Args)]
pub(super) struct UsageArgs {
    #[command(flatten)]
    client: ClientArgs,
    /// Whose; your own if left out. Of others, it needs an operator's key.
    user: Option<String>,
}

#[derive(Deserialize)]
struct Usage {
    user: String,
    now: Map<String, Value>,
    resources: Map<String, Value>,
    today: Map<String, Value>,
    last_30_days: Map<String, Value>,
}

pub(super) async fn run(args: UsageArgs, json: bool) -> Result<(), Failure> {
    let client = Client::new(args.client)?;
    let request = match &args.user {
        Some(user) => client.request(As::Operator, Method::GET, ["v1", "users", user, "usage"])?,
        None => client.request(As::User, Method::GET, ["v1", "usage"])?,
    };
    let text = client.text(request).await?;
    if json {
        return line(&json_line(&text));
    }
    let usage: Usage = client.read(&text)?;
    line(&format!("user {}", printable(&usage.user)))?;
    let parts = [
        ("now", usage.now),
        ("resources", usage.resources),
        ("today", usage.today),
        ("last 30 days", usage.last_30_days),
    ];
    for (title, figures) in parts {
        line(title)?;
        for (name, figure) in figures {
            show(&name, &figure)?;
        }
    }
    Ok(())
}

/// A figure on a line of its own; those of an object stand on lines of theirs.
fn show(name: &str, figure: &Value) -> Result<(), Failure> {
    match figure {
        Value::Object(parts) => {
            for (part, figure) in parts {
                line(&figure_line(&format!("{name}.{part}"), figure))?;
            }
            Ok(())
        }
        figure => line(&figure_line(name, figure)),
    }
}

fn figure_line(name: &str, figure: &Value) -> String {
    let shown = figure.as_str().map_or_else(|| figure.to_string(), str::to_owned);
    format!("  {:<30} {}", printable(name), printable(&shown))
}
