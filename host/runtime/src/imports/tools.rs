//! `tools`: everything an agent does to the world outside its sandbox. Linked by hand, because a plugin's tool spends
//! the fuel of the store that calls it.

use crate::{
    bindings::types::{Tool, ToolError},
    dispatch::{self, Answer},
    sandbox::Guest,
};
use cofferdam_core::{journal::Recorder, record::Asked};
use std::sync::atomic::Ordering;
use tokio_util::task::AbortOnDropHandle;
use wasmtime::{
    StoreContextMut,
    component::{Linker, Resource, ResourceType},
};

/// A tool call under way, as the guest's handle to it. Dropping it ends the call.
pub struct Pending {
    call: AbortOnDropHandle<Answer>,
    fuel_lent: u64,
    /// Its number in the record, if there is one.
    number: Option<u64>,
}

/// Links the interface.
///
/// # Errors
/// When it is defined twice.
pub fn link(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    let mut tools = linker.instance("cofferdam:agent/tools@0.1.0")?;
    tools.resource("pending", ResourceType::host::<Pending>(), |mut store, rep| {
        store.data_mut().table.delete(Resource::<Pending>::new_own(rep))?;
        Ok(())
    })?;
    tools.func_wrap_async("list", |mut store, (): ()| {
        Box::new(async move {
            let guest = store.data_mut().called();
            guest.relieved().await;
            let tools = dispatch::list(guest);
            guest.record(|| Asked::of("tools.list"), &tools);
            Ok((tools,))
        })
    })?;
    tools.func_wrap_async("call", |store, (name, arguments): (String, String)| {
        Box::new(async move { Ok((call(store, name, arguments).await?,)) })
    })?;
    tools.func_wrap("start", |store, (name, arguments): (String, String)| Ok((start(store, name, arguments)?,)))?;
    tools.func_wrap("[method]pending.ready", |mut store, (pending,): (Resource<Pending>,)| {
        let guest = store.data_mut().called();
        let pending = guest.table.get(&pending)?;
        let ready = pending.call.is_finished();
        let of = pending.number.unwrap_or_default();
        guest.record(|| Asked::of("pending.ready").value(of), &ready);
        Ok((ready,))
    })?;
    tools.func_wrap_async("[static]pending.wait", |store, (pending,): (Resource<Pending>,)| {
        Box::new(async move { Ok((wait(store, pending).await?,)) })
    })
}

type Called = Result<String, ToolError>;

/// A plugin's tool gets all the fuel there is: the caller is waiting for it. In a task of its own: its guest has turns of
/// its own, and what the host takes for the call is not held until the caller has one.
async fn call(mut store: StoreContextMut<'_, Guest>, name: String, arguments: String) -> wasmtime::Result<Called> {
    let fuel = store.get_fuel()?;
    let guest = store.data_mut().called();
    guest.relieved().await;
    let begun = Begun::of(guest, "tools.call", &name, &arguments);
    let prepared = dispatch::prepare(guest, name, arguments, fuel);
    let call = match prepared {
        Ok(call) => call,
        Err(error) => {
            let refused = Err(error);
            begun.ends(&refused);
            return Ok(refused);
        }
    };
    let called = guest.ctx.spawn(call.run());
    let answer = called.await.map_err(|error| store.data().lost(error))??;
    store.set_fuel(fuel.saturating_sub(answer.spent.fuel))?;
    store.data_mut().add_active(answer.spent.active);
    begun.ends(&answer.result);
    Ok(answer.result)
}

/// A call to a tool, which may change something, in the record.
struct Begun(Option<(Recorder, u64)>);

impl Begun {
    fn of(guest: &Guest, function: &str, name: &str, arguments: &str) -> Self {
        Self(guest.recorder.clone().map(|recorder| {
            let number = recorder.started(Asked::of(function).text(name).text(arguments));
            (recorder, number)
        }))
    }

    fn number(&self) -> Option<u64> {
        self.0.as_ref().map(|(_, number)| *number)
    }

    /// Waits until there is room for the answer. Where storage fails, the record says that it is not complete.
    async fn relieved(&self) {
        if let Some((recorder, _)) = &self.0 {
            let _ = recorder.relieve().await;
        }
    }

    fn ends(self, called: &Called) {
        if let Some((recorder, number)) = self.0 {
            recorder.finished(number, called);
        }
    }
}

/// A plugin's tool that runs beside its caller gets a share of what is left, so that as many as may be under way find
/// something; what it did not use comes back with `wait`, and is not on the bill if nobody waits.
fn start(
    mut store: StoreContextMut<'_, Guest>,
    name: String,
    arguments: String,
) -> wasmtime::Result<Result<Resource<Pending>, ToolError>> {
    let fuel = store.get_fuel()?;
    let guest = store.data_mut().called();
    let shares = u64::from(guest.ctx.quota().tool_calls_in_flight) + 1;
    let begun = Begun::of(guest, "tools.start", &name, &arguments);
    let call = match dispatch::prepare(guest, name, arguments, fuel / shares) {
        Ok(call) => call,
        Err(error) => {
            begun.ends(&Err(error.clone()));
            return Ok(Err(error));
        }
    };
    let lent = call.fuel_lent();
    let ctx = guest.ctx.clone();
    let unused = guest.fuel_unused.clone();
    let number = begun.number();
    let call = ctx.spawn(async move {
        let answer = call.run().await?;
        unused.fetch_add(lent.saturating_sub(answer.spent.fuel), Ordering::Relaxed);
        begun.relieved().await;
        begun.ends(&answer.result);
        Ok(answer)
    });
    let pending = guest.table.push(Pending { call, fuel_lent: lent, number })?;
    store.set_fuel(fuel.saturating_sub(lent))?;
    Ok(Ok(pending))
}

async fn wait(mut store: StoreContextMut<'_, Guest>, pending: Resource<Pending>) -> wasmtime::Result<Called> {
    let pending = store.data_mut().called().table.delete(pending)?;
    let number = pending.number;
    let answer = pending.call.await.map_err(|error| store.data().lost(error))??;
    let back = pending.fuel_lent.saturating_sub(answer.spent.fuel);
    store.data().fuel_unused.fetch_sub(back, Ordering::Relaxed);
    let fuel = store.get_fuel()?;
    store.set_fuel(fuel.saturating_add(back))?;
    store.data_mut().add_active(answer.spent.active);
    store.data_mut().relieved().await;
    if let Some((recorder, number)) = store.data().recorder.as_ref().zip(number) {
        recorder.observed(number);
    }
    Ok(answer.result)
}

/// A tool as the WIT shows it.
pub fn tool(name: String, description: String, input_schema: String) -> Tool {
    Tool { name, description, input_schema }
}
