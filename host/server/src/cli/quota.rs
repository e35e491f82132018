//! `cofferdam quota` and `cofferdam tier`: what users and tiers may take.

use super::{
    client::{As, Client, ClientArgs, object_argument, with_json},
    failure::Failure,
    output::{change, json_line, line, note, printable},
};
use clap::{Args, Subcommand};
use cofferdam_core::quota::TIER_DEFAULT;
use reqwest::{Method, header};
use serde::Deserialize;
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

/// How limits are written.
const EXAMPLE: &str = r#"{"runs_at_once": 2}"#;

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
        QuotaVerb::Set { user, set } => {
            put(args.client, ["v1", "users", &user, "quota"], set, json).await?;
            if !json {
                note(&format!("next: cofferdam quota get {} shows all that they may take", printable(&user)));
            }
            Ok(())
        }
    }
}

pub(super) async fn run_tier(args: TierArgs, json: bool) -> Result<(), Failure> {
    match args.verb {
        TierVerb::Get { name } => get(args.client, ["v1", "tiers", &name], json).await,
        TierVerb::Set { name, set } => {
            put(args.client, ["v1", "tiers", &name], set, json).await?;
            if !json {
                let name = printable(&name);
                note(&format!("next: cofferdam quota set USER '{{\"tier\": \"{name}\"}}' puts a user into it"));
            }
            Ok(())
        }
    }
}

async fn get<const N: usize>(client: ClientArgs, path: [&str; N], json: bool) -> Result<(), Failure> {
    let client = Client::new(client)?;
    show(&client, client.request(As::Operator, Method::GET, path)?, json).await
}

async fn put<const N: usize>(client: ClientArgs, path: [&str; N], set: SetArgs, json: bool) -> Result<(), Failure> {
    let client = Client::new(client)?;
    let mut request =
        with_json(client.request(As::Operator, Method::PUT, path)?, object_argument(&set.limits, EXAMPLE)?);
    if let Some(version) = set.if_match {
        request = request.header(header::IF_MATCH, format!("\"{}\"", version.trim_matches('"')));
    }
    if json {
        return line(&json_line(&client.text(request).await?));
    }
    // What stood before is for people, and only they pay for asking.
    let stands = async |path: &[&str]| {
        let stands = client.text(client.request(As::Operator, Method::GET, path.iter().copied())?).await?;
        client.read::<Standing>(&stands)
    };
    let (before, new) = match stands(&path).await {
        Ok(before) => (before, false),
        // What applied to whoever is put into it.
        Err(Failure::Refused(problem)) if problem.code == "unknown_tier" => {
            (stands(&["v1", "tiers", TIER_DEFAULT]).await?, true)
        }
        Err(failure) => return Err(failure),
    };
    let now: Standing = client.read(&client.text(request).await?)?;
    let lines = changed(&before, &now, new);
    line(&match (&now.user, &now.name) {
        (Some(user), _) => format!("set for user {}", printable(user)),
        (None, name) => {
            let name = printable(name.as_deref().unwrap_or_default());
            let compared = if new {
                format!(", which was not there; on the left is what tier {TIER_DEFAULT} has")
            } else {
                String::new()
            };
            format!("set for tier {name}{compared}")
        }
    })?;
    if lines.is_empty() {
        line("nothing changed")?;
    }
    lines.iter().try_for_each(|text| line(text))
}

/// What is set for a user or a tier, and what comes of it.
#[derive(Debug, Deserialize)]
struct Standing {
    user: Option<String>,
    name: Option<String>,
    effective: Map<String, Value>,
    /// The limits that are set, and a user's tier.
    #[serde(flatten)]
    set: Map<String, Value>,
}

/// What is another than before, one a line: a tier, limits, and which of them are set here. Of a tier that is new, what was
/// before is another's.
fn changed(before: &Standing, now: &Standing, new: bool) -> Vec<String> {
    let of = |standing: &Standing, name: &str| match name {
        "tier" => Some(standing.set.get(name).cloned().unwrap_or_else(|| "default".into())),
        _ => standing.effective.get(name).cloned(),
    };
    let tier = now.user.is_some().then_some("tier");
    let names = tier.into_iter().chain(now.effective.keys().map(String::as_str));
    let lines = names.filter_map(|name| {
        let is_set = now.set.contains_key(name);
        let was_set = !new && before.set.contains_key(name);
        let (was, is) = (of(before, name), of(now, name));
        let same = was == is && (is_set == was_set || name == "tier");
        let whose = match (is_set, was_set) {
            _ if name == "tier" => "",
            (true, _) => "  (set here)",
            (false, true) => "  (no longer set here)",
            (false, false) => "",
        };
        (!same).then(|| format!("{}{whose}", change(name, was.as_ref(), is.as_ref())))
    });
    lines.collect()
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

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_a_quota_changes_is_told_old_and_new_with_what_is_set_here() {
        let standing = |value: Value| serde_json::from_value::<Standing>(value).expect("a standing");
        let told_of = |before: &Value, now: &Value, new: bool| {
            let lines = changed(&standing(before.clone()), &standing(now.clone()), new);
            lines.iter().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect::<Vec<_>>()
        };
        let told = |before: &Value, now: &Value| told_of(before, now, false);
        let plain = json!({"user": "ann", "effective": {"cpu_weight": 100, "runs_at_once": 5}});
        let pro = json!({
            "user": "ann", "tier": "pro", "runs_at_once": 5, "effective": {"cpu_weight": 300, "runs_at_once": 5},
        });
        let there = ["tier default → pro", "cpu_weight 100 → 300", "runs_at_once 5 → 5 (set here)"];
        assert_eq!(told(&plain, &pro), there);
        let back = ["tier pro → default", "cpu_weight 300 → 100", "runs_at_once 5 → 5 (no longer set here)"];
        assert_eq!(told(&pro, &plain), back);
        assert!(told(&pro, &pro).is_empty());
        let tier = json!({"name": "pro", "cpu_weight": 300, "effective": {"cpu_weight": 300, "runs_at_once": 5}});
        let default =
            json!({"name": "default", "runs_at_once": 7, "effective": {"cpu_weight": 100, "runs_at_once": 7}});
        // What the default tier sets is not the new tier's.
        let there = ["cpu_weight 100 → 300 (set here)", "runs_at_once 7 → 5"];
        assert_eq!(told_of(&default, &tier, true), there);
    }
}
