//! `tools`: everything an agent does to the world outside its sandbox. Linked by hand, because a plugin's tool spends
//! the fuel of the store that calls it.

use super::waits::Asking;
use crate::{
    bindings::types::ToolError,
    dispatch::{self, Answer, ToolAnswer},
    sandbox::{Guest, HostFailure},
};
use cofferdam_core::{
    Json, clock,
    journal::Recorder,
    quota::HOST_CALL_BYTES_MAX,
    record::Asked,
    replay::Again,
    wait::{StoredWait, WaitFor},
};
use serde::Deserialize;
use std::sync::atomic::Ordering;
use tokio_util::task::AbortOnDropHandle;
use wasmtime::{
    StoreContextMut,
    component::{Linker, Resource, ResourceType},
};

/// A tool call under way, as the guest's handle to it. Dropping it ends the call.
pub struct Pending {
    call: PendingCall,
    fuel_lent: u64,
    /// Its number in the record.
    number: u64,
}

enum PendingCall {
    Running(AbortOnDropHandle<Answer>),
    /// It had its answer in an earlier execution.
    Answered(ToolAnswer),
    /// It had none, and it is only looked at.
    Open,
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
            let asked = || Asked::of("tools.list");
            let listed = match guest.recall(asked)? {
                Some(known) => known,
                None => {
                    guest.relieved().await;
                    let listed = dispatch::list(guest);
                    guest.record(asked, &listed);
                    listed
                }
            };
            Ok((dispatch::hold_list(guest, listed)?,))
        })
    })?;
    tools.func_wrap_async("call", |store, (name, arguments): (String, String)| {
        Box::new(async move { Ok((call(store, name, arguments).await?,)) })
    })?;
    tools.func_wrap_async("start", |store, (name, arguments): (String, String)| {
        Box::new(async move { Ok((start(store, name, arguments).await?,)) })
    })?;
    tools.func_wrap("[method]pending.ready", |mut store, (pending,): (Resource<Pending>,)| {
        let guest = store.data_mut().called();
        let pending = guest.table.get(&pending)?;
        let asked = || Asked::of("pending.ready").value(pending.number);
        if let Some(known) = guest.recall(asked)? {
            return Ok((known,));
        }
        let ready = match &pending.call {
            PendingCall::Running(call) => call.is_finished(),
            PendingCall::Answered(_) => true,
            PendingCall::Open => false,
        };
        guest.record(asked, &ready);
        Ok((ready,))
    })?;
    tools.func_wrap_async("[static]pending.wait", |store, (pending,): (Resource<Pending>,)| {
        Box::new(async move { Ok((wait(store, pending).await?,)) })
    })
}

type Called = Result<String, ToolError>;

fn asked(function: &str, name: &str, arguments: &str) -> Asked {
    Asked::of(function).text(name).text(arguments)
}

/// JSON Schema of what a person answers who is asked to allow a call.
const DECISION: &str = r#"{"type":"object","properties":{"decision":{"enum":["approve","deny"]},"arguments":{"type":"object","description":"with `approve`: what the tool is given instead"},"reason":{"type":"string","description":"with `deny`: what the agent is told"}},"required":["decision"],"additionalProperties":false}"#;

/// What a person answers.
#[derive(Deserialize)]
struct Decision {
    decision: String,
    arguments: Option<Json>,
    #[serde(default)]
    reason: String,
}

/// What the tool is given, once a person has allowed the call; at once where none has to. A call that would be refused in any
/// case is shown to nobody.
async fn allowed(guest: &mut Guest, name: &str, arguments: String) -> wasmtime::Result<Result<String, ToolError>> {
    let asked = || asked("tools.approval", name, &arguments);
    let known = guest.recorder.as_ref().and_then(Recorder::known).and_then(|known| known.asks_next(&asked()));
    // What was needed then is what counts: grants change.
    if !known.unwrap_or_else(|| guest.ctx.permissions().needs_approval(name)) {
        return Ok(Ok(arguments));
    }
    let bytes = name.len() + arguments.len();
    let before = match guest.asking_to_wait::<Called>(asked, bytes)? {
        Asking::AtOnce(answer) | Asking::Answered(answer) => return Ok(answer),
        Asking::Begun(number) => Some(number),
        Asking::New => None,
    };
    if let Some(stored) = before.and_then(|call| guest.told_of(call)).cloned() {
        return match decided(&stored, &arguments) {
            Some(decided) => Ok(guest.changed(before, decided)),
            None => Err(guest.put_away(stored.wait.call, stored.wait.waits_for, stored.wait.until).await),
        };
    }
    let shown = Json::parse(arguments.clone()).ok().filter(|_| arguments.len() <= HOST_CALL_BYTES_MAX);
    let Some(shown) = shown.filter(|_| before.is_some() || guest.ctx.permissions().allow_tool(name)) else {
        return Ok(Ok(arguments));
    };
    let refused = match guest.cannot_wait() {
        Some(why) => Some(ToolError::Denied(format!("a person has to allow {name}, and {why}"))),
        None => guest
            .may_wait(before, bytes)
            .await?
            .err()
            .map(|error| ToolError::Exhausted(format!("a person has to allow {name}, and {error}"))),
    };
    if let Some(refused) = refused {
        let asked = asked();
        return Ok(guest.refused(before, asked, Err(refused)).await);
    }
    guest.relieved().await;
    let call = before.or_else(|| guest.recorder.as_ref().map(|recorder| recorder.started(asked(), None)));
    let schema = Json::parse(DECISION).map_err(HostFailure::new)?;
    let waits_for = WaitFor::Approval { tool: name.to_owned(), arguments: shown, schema };
    let until = guest.within_wait(u64::MAX);
    Err(guest.put_away(call.unwrap_or_default(), waits_for, Some(until)).await)
}

/// What a person has decided, or that nobody has in time. None: it waits on.
fn decided(stored: &StoredWait, arguments: &str) -> Option<Called> {
    let denied = |why: String| Some(Err(ToolError::Denied(why)));
    let Some(answer) = &stored.answer else {
        stored.wait.until.filter(|until| *until <= clock::now())?;
        return denied("a person has to allow this call, and nobody did in time".into());
    };
    match answer.value.read::<Decision>() {
        Ok(Decision { decision, arguments: other, .. }) if decision == "approve" => {
            Some(Ok(other.map_or_else(|| arguments.to_owned(), |other| other.as_str().to_owned())))
        }
        Ok(Decision { reason, .. }) if !reason.is_empty() => denied(format!("a person denied this call: {reason}")),
        _ => denied("a person denied this call".into()),
    }
}

/// A plugin's tool gets all the fuel there is: the caller is waiting for it. In a task of its own: its guest has turns of
/// its own, and what the host takes for the call is not held until the caller has one.
async fn call(mut store: StoreContextMut<'_, Guest>, name: String, arguments: String) -> wasmtime::Result<Called> {
    let fuel = store.get_fuel()?;
    let guest = store.data_mut().called();
    let arguments = match allowed(guest, &name, arguments).await? {
        Ok(arguments) => arguments,
        Err(refused) => return Ok(Err(refused)),
    };
    match guest.again::<ToolAnswer>(|| asked("tools.call", &name, &arguments))? {
        None => {}
        Some(Again::Refused(refused)) => return Ok(dispatch::refused_before(guest, refused.result)),
        Some(Again::Answered { answer, .. }) => {
            dispatch::called_before(guest, &name, &arguments);
            guest.fuel_known = guest.fuel_known.saturating_add(answer.spent);
            store.set_fuel(fuel.saturating_sub(answer.spent))?;
            return Ok(answer.result);
        }
        Some(Again::Open { number }) if guest.is_looked_at() => return Err(guest.open_call(number)),
        Some(Again::Open { number }) => match dispatch::again(guest, number, name, arguments, fuel) {
            Ok(call) => return run(store, call, fuel).await,
            Err(error) => return Ok(Err(error)),
        },
    }
    guest.relieved().await;
    let asked = asked("tools.call", &name, &arguments);
    let call = match dispatch::prepare(guest, name, arguments, fuel) {
        Ok(call) => call.begun(asked),
        Err(error) => return Ok(refused(guest, asked, error)),
    };
    run(store, call, fuel).await
}

async fn run(mut store: StoreContextMut<'_, Guest>, call: dispatch::Call, fuel: u64) -> wasmtime::Result<Called> {
    let guest = store.data_mut();
    let called = guest.ctx.spawn(call.run());
    let answer = called.await.map_err(|error| store.data().lost(error))??;
    store.set_fuel(fuel.saturating_sub(answer.spent.fuel))?;
    store.data_mut().add_active(answer.spent.active);
    Ok(answer.result)
}

fn refused<T>(guest: &Guest, asked: Asked, error: ToolError) -> Result<T, ToolError> {
    let refused = ToolAnswer { result: Err(error), lent: 0, spent: 0 };
    guest.record(|| asked, &refused);
    Err(refused.result.err().unwrap_or_else(|| ToolError::Failed(String::new())))
}

/// A plugin's tool that runs beside its caller gets a share of what is left, so that as many as may be under way find
/// something; what it did not use comes back with `wait`, and is not on the bill if nobody waits.
async fn start(
    mut store: StoreContextMut<'_, Guest>,
    name: String,
    arguments: String,
) -> wasmtime::Result<Result<Resource<Pending>, ToolError>> {
    let fuel = store.get_fuel()?;
    let guest = store.data_mut().called();
    let arguments = match allowed(guest, &name, arguments).await? {
        Ok(arguments) => arguments,
        Err(refused) => return Ok(Err(refused)),
    };
    let pending = match guest.again::<ToolAnswer>(|| asked("tools.start", &name, &arguments))? {
        Some(Again::Refused(refused)) => {
            let refused = dispatch::refused_before(guest, refused.result);
            // What was refused has no other answer.
            return Ok(Err(refused.err().unwrap_or_else(|| ToolError::Failed(String::new()))));
        }
        Some(Again::Answered { number, answer }) => {
            dispatch::called_before(guest, &name, &arguments);
            guest.fuel_known = guest.fuel_known.saturating_add(answer.spent);
            guest.fuel_unused.fetch_add(answer.lent.saturating_sub(answer.spent), Ordering::Relaxed);
            Pending { fuel_lent: answer.lent, call: PendingCall::Answered(answer), number }
        }
        Some(Again::Open { number }) if guest.is_looked_at() => {
            Pending { call: PendingCall::Open, fuel_lent: 0, number }
        }
        Some(Again::Open { number }) => {
            let shares = u64::from(guest.ctx.quota().tool_calls_in_flight) + 1;
            match dispatch::again(guest, number, name, arguments, fuel / shares) {
                Ok(call) => running(guest, call),
                Err(error) => {
                    let answer = ToolAnswer { result: Err(error), lent: 0, spent: 0 };
                    Pending { call: PendingCall::Answered(answer), fuel_lent: 0, number }
                }
            }
        }
        None => {
            let shares = u64::from(guest.ctx.quota().tool_calls_in_flight) + 1;
            let asked = asked("tools.start", &name, &arguments);
            match dispatch::prepare(guest, name, arguments, fuel / shares) {
                Ok(call) => running(guest, call.begun(asked)),
                Err(error) => return Ok(refused(guest, asked, error)),
            }
        }
    };
    let lent = pending.fuel_lent;
    let pending = guest.table.push(pending)?;
    store.set_fuel(fuel.saturating_sub(lent))?;
    Ok(Ok(pending))
}

/// Runs a call beside its caller.
fn running(guest: &Guest, call: dispatch::Call) -> Pending {
    let (fuel_lent, number) = (call.fuel_lent(), call.number());
    let unused = guest.fuel_unused.clone();
    let call = guest.ctx.spawn(guest.started.track_future(async move {
        let answer = call.run().await?;
        unused.fetch_add(fuel_lent.saturating_sub(answer.spent.fuel), Ordering::Relaxed);
        Ok(answer)
    }));
    Pending { call: PendingCall::Running(call), fuel_lent, number }
}

async fn wait(mut store: StoreContextMut<'_, Guest>, pending: Resource<Pending>) -> wasmtime::Result<Called> {
    let guest = store.data_mut().called();
    let Pending { call, fuel_lent, number } = guest.table.delete(pending)?;
    let (result, spent) = match call {
        PendingCall::Running(call) => {
            let answer = call.await.map_err(|error| store.data().lost(error))??;
            store.data_mut().add_active(answer.spent.active);
            (answer.result, answer.spent.fuel)
        }
        PendingCall::Answered(answer) => (answer.result, answer.spent),
        PendingCall::Open => return Err(guest.open_call(number)),
    };
    let back = fuel_lent.saturating_sub(spent);
    store.data().fuel_unused.fetch_sub(back, Ordering::Relaxed);
    let fuel = store.get_fuel()?;
    store.set_fuel(fuel.saturating_add(back))?;
    store.data_mut().relieved().await;
    if let Some(recorder) = &store.data().recorder {
        recorder.observed(number)?;
    }
    Ok(result)
}
