//! `context`: who the agent runs for, and what is left to it. Linked by hand, because what is left of the fuel is known
//! to the store only.

use crate::{
    bindings::{
        context::{BudgetLeft, Info},
        types::WaitError,
    },
    sandbox::Guest,
};
use cofferdam_core::record::Asked;
use std::time::Instant;
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
    context.func_wrap("sleep-until", |_, (_unix_ms,): (u64,)| {
        Ok((Err::<(), _>(WaitError::Unavailable("this host puts no runs away yet".into())),))
    })
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
