//! `cofferdam events`: the events of all of your runs.

use super::{
    client::{As, Client, ClientArgs},
    failure::Failure,
    follow::{Followed, Seen, follow},
    output::{json_line, line, note, printable},
};
use clap::Args;
use reqwest::Method;
use serde::Deserialize;
use serde_json::value::RawValue;

#[derive(Debug, Args)]
pub(super) struct EventsArgs {
    #[command(flatten)]
    client: ClientArgs,
    /// Print events as they come, until you stop it. A server that restarts is waited for.
    #[arg(long)]
    follow: bool,
    /// Only events after this cursor, or `now` for those to come.
    #[arg(long, value_name = "CURSOR")]
    after: Option<String>,
}

#[derive(Deserialize)]
struct FeedPage<'a> {
    #[serde(borrow)]
    events: Vec<&'a RawValue>,
    next_after: String,
}

#[derive(Deserialize)]
struct FeedEvent<'a> {
    #[serde(borrow)]
    event: Seen<'a>,
    #[serde(default)]
    removed_before: bool,
}

pub(super) async fn run(args: EventsArgs, json: bool) -> Result<(), Failure> {
    let client = Client::new(args.client)?;
    let mut after = args.after;
    if args.follow {
        return follow(&client, Followed::All(after), json).await;
    }
    // What is there now, a page at a time.
    loop {
        let request = client.request(As::User, Method::GET, ["v1", "events"])?.query(&[("after", &after)]);
        let text = client.text(request).await?;
        let page: FeedPage<'_> = client.read(&text)?;
        for event in &page.events {
            if json {
                line(&json_line(event.get()))?;
                continue;
            }
            let FeedEvent { event, removed_before } = client.read(event.get())?;
            if removed_before {
                note("some events that come here were removed with their runs");
            }
            line(&event.shown_with_run())?;
        }
        if page.events.is_empty() {
            if !json {
                note(&format!("what comes next: --after {}", printable(&page.next_after)));
            }
            return Ok(());
        }
        after = Some(page.next_after);
    }
}
