//! A disk that fails for a while, under a server that is under load.

use crate::{
    driver::LOADED_MS,
    http::{Client, text},
    place::{Loading, Place},
    powercut::Fault,
    random::Random,
    server::{Server, Setup},
};
use anyhow::{Context as _, ensure};
use reqwest::Method;
use serde_json::json;
use std::time::{Duration, Instant};

/// How long the disk fails: long enough that everybody meets it, and that some retries do.
const FAULT_MS: std::ops::Range<u64> = 200..1_000;
/// Of the writes or syncs, so many in a thousand fail: all of them, or some, so that others go through in between.
const PERMILLE: [u32; 2] = [1_000, 300];
/// How long after the end of a fault the server may take until runs are taken and end again: the longest wait between two
/// attempts to save the end of a run, twice.
const RECOVERED_MAX: Duration = Duration::from_secs(10);
/// How often it is tried.
const TRY_EVERY: Duration = Duration::from_millis(20);

/// What happens when the disk has failed for a while.
#[derive(Debug, Clone, Copy)]
enum Then {
    /// The disk is well again, and the server goes on.
    WellAgain,
    /// The server is killed, and started again on the same disk, well again. Later the power is cut: what a sync that
    /// failed has lost is missing only then.
    Killed,
    /// The power is cut at once.
    PowerCut,
}

/// Every fault, with every end.
///
/// # Errors
/// When the server does not come back.
pub async fn rounds(
    place: &mut Place,
    mut server: Server,
    loading: &mut Loading,
    random: &mut Random,
    restarts: &mut Vec<Duration>,
    recovered: &mut Vec<Duration>,
) -> anyhow::Result<Server> {
    let ends = [Then::WellAgain, Then::Killed, Then::PowerCut];
    for (fault, then) in Fault::ALL.into_iter().flat_map(|fault| ends.map(|then| (fault, then))) {
        for permille in PERMILLE {
            random.pause(LOADED_MS).await;
            loading.goes_on()?;
            server.goes_on()?;
            fail(place, fault, permille)?;
            random.pause(FAULT_MS).await;
            match then {
                Then::WellAgain => {
                    fail(place, Fault::None, 0)?;
                    let after = works(&place.setup, &mut server).await;
                    recovered.push(after.with_context(|| format!("after {fault:?} for {permille} in 1,000"))?);
                    continue;
                }
                Then::Killed => {
                    place.kill_alone(server)?;
                    fail(place, Fault::None, 0)?;
                    let (again, ready) = place.started().await?;
                    restarts.push(ready);
                    random.pause(LOADED_MS).await;
                    place.kill(again)?;
                }
                Then::PowerCut => place.kill(server)?,
            }
            let (again, ready) = place.started().await?;
            restarts.push(ready);
            server = again;
        }
    }
    Ok(server)
}

fn fail(place: &Place, fault: Fault, permille: u32) -> anyhow::Result<()> {
    place.disk.as_ref().context("faults need a disk that can fail")?.fail(fault, permille)
}

/// Waits until a key is made, and a run of its user taken and ended.
async fn works(setup: &Setup, server: &mut Server) -> anyhow::Result<Duration> {
    let began = Instant::now();
    let key = std::fs::read_to_string(setup.admin_key_file())?;
    let operator = Client::new(&setup.url(), key.trim());
    let run = json!({"agent": "echo", "input": "well again?"});
    loop {
        server.goes_on()?;
        if let Ok(made) = operator.send(Method::POST, "/v1/keys", Some(&json!({"user": "well-again"}))).await
            && made.status.is_success()
            && let Ok(run) = operator.with_key(text(&made.json(), "api_key")).submit_and_wait(&run).await
            && text(&run.json(), "stop_reason") == "completed"
        {
            return Ok(began.elapsed());
        }
        ensure!(began.elapsed() < RECOVERED_MAX, "the server does not go on; its log is {}", setup.log.display());
        tokio::time::sleep(TRY_EVERY).await;
    }
}
