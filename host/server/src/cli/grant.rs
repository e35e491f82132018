//! `cofferdam grant`: what a plugin may do for a user.

use super::{
    client::{As, Client, ClientArgs, object_argument, with_json},
    failure::Failure,
    output::{changes, json_line, line, note, printable},
};
use clap::{Args, Subcommand};
use reqwest::Method;
use serde::Deserialize;
use serde_json::{Map, Value};

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

/// How a grant is written.
const EXAMPLE: &str = r#"{"tools": ["file.*"], "state": "read"}"#;

#[derive(Deserialize)]
struct GrantSet {
    grant: Map<String, Value>,
    declared: Map<String, Value>,
    effective: Map<String, Value>,
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
            let request = |method| client.request(As::Operator, method, ["v1", "users", &user, "grants", &plugin]);
            let put = with_json(request(Method::PUT)?, object_argument(&grant, EXAMPLE)?);
            if json {
                return line(&json_line(&client.text(put).await?));
            }
            // What stood before is for people, and only they pay for asking.
            let before = client.text(request(Method::GET)?).await?;
            let set = client.text(put).await?;
            show(&user, &plugin, &client.read(&before)?, client.read(&set)?)
        }
    }
}

/// What a grant changed, and whether it is all that the plugin asks for.
fn show(user: &str, plugin: &str, before: &Map<String, Value>, set: GrantSet) -> Result<(), Failure> {
    let (user, plugin) = (printable(user), printable(plugin));
    let GrantSet { grant, declared, mut effective } = set;
    line(&format!("granted {plugin} for {user}, from the next run on"))?;
    let changes = changes(before, &grant);
    if changes.is_empty() {
        line("nothing changed")?;
    }
    for change in changes {
        line(&change)?;
    }
    // A grant says which calls people approve, and a plugin does not.
    effective.remove("approve");
    if effective == declared {
        note("next: nothing; it is granted all that it asks for");
    } else {
        let all = Value::Object(declared).to_string();
        note(&format!(
            "next: it asks for more; all of it is: cofferdam grant set {user} {plugin} '{}'",
            json_line(&all)
        ));
    }
    Ok(())
}
