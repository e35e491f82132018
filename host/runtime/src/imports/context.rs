//! `context`: who the agent runs for, and what is left to it. Linked by hand, because what is left of the fuel is known
//! to the store only.

use super::waits::Asking;
use crate::{
    bindings::{
        context::{BudgetLeft, Info},
        types::WaitError,
    },
    sandbox::Guest,
};
use cofferdam_core::{clock, record::Asked, wait::WaitFor};
use jiff::Timestamp;
use std::time::{Duration, Instant};
use wasmtime::component::Linker;

pub(super) fn link(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    let mut context = linker.instance("cofferdam:agent/context@0.1.0")?;
    context.func_wrap("get", |mut store, (): ()| Ok((info(store.data_mut().called()),)))?;
    context.func_wrap("budget", |mut store, (): ()| {
        let fuel = store.get_fuel()?;
        let guest = store.data_mut().called();
        let asked = || Asked::of("context.budget");
        if let Some(known) = guest.recall(asked)? {
            return Ok((known,));
        }
        let left = budget(fuel, guest);
        guest.record(asked, &left);
        Ok((left,))
    })?;
    context.func_wrap_async("sleep-until", |mut store, (unix_ms,): (u64,)| {
        Box::new(async move { Ok((sleep_until(store.data_mut().called(), unix_ms).await?,)) })
    })
}

/// The longest wait for which a run is not put away: bringing it back costs a few commits, and as much work as it had done.
const SHORT_WAIT: Duration = Duration::from_secs(1);

async fn sleep_until(guest: &mut Guest, unix_ms: u64) -> wasmtime::Result<Result<(), WaitError>> {
    let asked = || Asked::of("context.sleep-until").value(unix_ms);
    let before = match guest.asking_to_wait(asked, 0)? {
        Asking::AtOnce(answer) | Asking::Answered(answer) => return Ok(answer),
        Asking::Begun(number) => Some(number),
        Asking::New => None,
    };
    let max = guest.ctx.quota().wait_ms;
    let now = clock::now();
    let until = i64::try_from(unix_ms).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok());
    // One that has begun may wait as long as it asked for then, whatever the quota and the clock say now.
    let until = until.filter(|until| before.is_some() || *until <= guest.within_wait(max));
    let Some(until) = until else {
        let why = format!("unix-ms is {unix_ms}, which is more than {max} ms from now; wait in parts");
        return Ok(guest.refused(before, asked(), Err(WaitError::Invalid(why))).await);
    };
    let left = Duration::try_from(until.duration_since(now)).unwrap_or_default();
    if left.is_zero() && before.is_some() {
        return Ok(guest.changed(before, Ok(())));
    }
    if before.is_none() {
        if let Err(spent) = guest.ctx.may_call_host() {
            return Ok(guest.answered(asked, Err(WaitError::Exhausted(spent.to_string()))).await);
        }
        // What cannot be put away waits in its sandbox, within the run's deadline.
        if left < SHORT_WAIT || guest.cannot_wait().is_some() {
            tokio::time::sleep(left).await;
            return Ok(guest.answered(asked, Ok(())).await);
        }
    }
    // One that waited before, and not for what it was told, waits on.
    if before.is_none_or(|call| guest.told_of(call).is_none())
        && let Err(error) = guest.may_wait(before, 0).await?
    {
        return Ok(guest.refused(before, asked(), Err(WaitError::Exhausted(error.to_string()))).await);
    }
    guest.relieved().await;
    let begun = before.or_else(|| guest.recorder.as_ref().map(|recorder| recorder.started(asked(), None)));
    Err(guest.put_away(begun.unwrap_or_default(), WaitFor::Time, Some(until)).await)
}

fn info(guest: &Guest) -> Info {
    let spec = guest.ctx.spec();
    Info {
        user_id: spec.user.to_string(),
        request_id: spec.request.to_string(),
        run_id: spec.id.to_string(),
        parent_run_id: spec.parent.map(|id| id.to_string()),
        thread_id: spec.thread.to_string(),
        session_id: spec.session.as_ref().map(ToString::to_string),
        metadata: spec.metadata.as_str().to_owned(),
        idempotency_key: guest.ctx.idempotency_key(),
    }
}

fn budget(fuel: u64, guest: &Guest) -> BudgetLeft {
    let wall = guest.ctx.deadline().saturating_duration_since(Instant::now());
    BudgetLeft {
        fuel,
        memory_bytes: guest.meter.run().bytes_left(),
        wall_ms: u64::try_from(wall.as_millis()).unwrap_or(u64::MAX),
        tool_calls: guest.ctx.tool_calls_left(),
        events: guest.ctx.events_left(),
        host_calls: guest.ctx.quota().host_calls_per_run.saturating_sub(guest.ctx.host_calls()),
    }
}
