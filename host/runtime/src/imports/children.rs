//! `agents`: agents that an agent starts. Linked by hand, because a child spends the fuel of the store that starts it.

use super::waits::Asking;
use crate::{
    bindings::{
        agents::{ChildError, ChildFailure, ChildLimits, SpawnError},
        types::WaitError,
    },
    children::tree_is_full,
    sandbox::{Guest, HostFailure},
};
use cofferdam_core::{
    Json, clock,
    context::Effect,
    ids::{AgentRef, RunId},
    quota::{HOST_CALL_BYTES_MAX, LimitsAsked},
    record::Asked,
    run::{RunError, RunView, StopReason},
    storage::StorageError,
    wait::WaitFor,
};
use std::{sync::atomic::Ordering, time::Duration};
use wasmtime::{
    StoreContextMut,
    component::{Linker, Resource, ResourceType},
};

/// How long a parent waits for a child in its sandbox before it is put away: most children of small agents end by then.
const SHORT_WAIT: Duration = Duration::from_millis(200);

/// Of so many parts of its fuel a parent gives a child one, if it does not say how much: enough for as many children as there
/// may be, and as deep.
const FUEL_PART: u64 = 3;

/// A run that this one started, as the guest's handle to it.
pub struct Child {
    run: RunId,
    /// What its parent gave it, of which it gets back what is left.
    fuel_lent: u64,
    /// The answer is known to the guest, and the fuel was given back.
    learned: bool,
}

/// What the record keeps of a child that was started.
#[derive(bincode::Encode, bincode::Decode)]
struct Spawned {
    run: String,
    fuel_lent: u64,
}

/// What the record keeps of a child's end.
#[derive(bincode::Encode, bincode::Decode)]
struct ChildEnd {
    result: Result<String, ChildError>,
    /// The fuel that it took, with all that it started.
    fuel: u64,
}

/// Links the interface.
///
/// # Errors
/// When it is defined twice.
pub fn link(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    let mut agents = linker.instance("cofferdam:agent/agents@0.1.0")?;
    agents.resource("child", ResourceType::host::<Child>(), |mut store, rep| {
        store.data_mut().table.delete(Resource::<Child>::new_own(rep))?;
        Ok(())
    })?;
    agents.func_wrap_async("spawn", |store, (agent, input, limits): (String, String, ChildLimits)| {
        Box::new(async move { Ok((spawn(store, agent, input, limits).await?,)) })
    })?;
    agents.func_wrap("[method]child.id", |mut store, (child,): (Resource<Child>,)| {
        Ok((store.data_mut().called().table.get(&child)?.run.to_string(),))
    })?;
    agents.func_wrap_async("[method]child.wait", |store, (child,): (Resource<Child>,)| {
        Box::new(async move { Ok((wait(store, child).await?,)) })
    })?;
    agents.func_wrap_async("[method]child.cancel", |mut store, (child,): (Resource<Child>,)| {
        Box::new(async move { cancel(store.data_mut().called(), child).await })
    })
}

async fn spawn(
    mut store: StoreContextMut<'_, Guest>,
    agent: String,
    input: String,
    limits: ChildLimits,
) -> wasmtime::Result<Result<Resource<Child>, SpawnError>> {
    let fuel = store.get_fuel()?;
    let guest = store.data_mut().called();
    let asked = || {
        let ChildLimits { fuel, memory_bytes, deadline_ms } = limits;
        let asked = Asked::of("agents.spawn").text(&agent).text(&input);
        asked.value(format_args!("{fuel:?} {memory_bytes:?} {deadline_ms:?}"))
    };
    let (call, answer) = match guest.asking::<Result<Spawned, SpawnError>>(asked)? {
        Asking::AtOnce(answer) | Asking::Answered(answer) => {
            if answer.is_ok() {
                let _ = guest.ctx.take_child();
            }
            (None, answer)
        }
        before => {
            let before = if let Asking::Begun(number) = before { Some(number) } else { None };
            match started(guest, before, asked(), &agent, input, limits, fuel).await? {
                Ok((call, spawned)) => (Some(call), Ok(spawned)),
                Err(error) => (None, Err(error)),
            }
        }
    };
    let answer = if call.is_some() { guest.changed(call, answer) } else { answer };
    let Spawned { run, fuel_lent } = match answer {
        Ok(spawned) => spawned,
        Err(error) => return Ok(Err(error)),
    };
    let run = run.parse().map_err(HostFailure::new)?;
    // It is on the child's bill, not on this one's.
    guest.fuel_unused.fetch_add(fuel_lent, Ordering::Relaxed);
    let child = guest.table.push(Child { run, fuel_lent, learned: false })?;
    store.set_fuel(fuel.saturating_sub(fuel_lent))?;
    Ok(Ok(child))
}

/// Starts a child, once: its id follows from its parent, the attempt and the call. Says under which number the call is recorded.
async fn started(
    guest: &mut Guest,
    before: Option<u64>,
    asked: Asked,
    agent: &str,
    input: String,
    limits: ChildLimits,
    fuel: u64,
) -> wasmtime::Result<Result<(u64, Spawned), SpawnError>> {
    let checked = match checked(guest, agent, input, limits.fuel, fuel) {
        Ok((agent, input)) => within_tree(guest, before).await?.map(|()| (agent, input)),
        Err(error) => Err(error),
    };
    let (agent, input) = match checked {
        Ok(checked) => checked,
        Err(error) => {
            return Ok(Err(guest.refused(before, asked, Err::<Spawned, _>(error)).await.err().unwrap_or_else(none)));
        }
    };
    guest.relieved().await;
    let call = before.or_else(|| guest.recorder.as_ref().map(|recorder| recorder.started(asked, None)));
    let call = call.unwrap_or_default();
    guest.journal()?.before_effect().await.map_err(HostFailure::storage)?;
    let fuel_lent = limits.fuel.unwrap_or(fuel / FUEL_PART);
    let left = guest.ctx.deadline().saturating_duration_since(std::time::Instant::now());
    let deadline_ms = u64::try_from(left.as_millis()).unwrap_or(u64::MAX).max(1);
    let limits = LimitsAsked {
        fuel: Some(fuel_lent),
        memory_bytes: limits.memory_bytes,
        deadline_ms: Some(limits.deadline_ms.map_or(deadline_ms, |ms| ms.min(deadline_ms))),
    };
    let (runtime, ctx) = (guest.services.runtime()?, guest.ctx.clone());
    let made = guest.beside(async move { runtime.start_child(&ctx, call, agent, input, limits).await }).await?;
    Ok(match made {
        Ok(run) => Ok((call, Spawned { run: run.to_string(), fuel_lent })),
        Err(error) => Err(guest.changed(Some(call), Err::<Spawned, _>(error)).err().unwrap_or_else(none)),
    })
}

/// What was refused has an error.
fn none() -> SpawnError {
    SpawnError::Unavailable(String::new())
}

fn checked(
    guest: &Guest,
    agent: &str,
    input: String,
    fuel: Option<u64>,
    fuel_left: u64,
) -> Result<(AgentRef, Json), SpawnError> {
    guest.ctx.may_call_host().map_err(|spent| SpawnError::Exhausted(spent.to_string()))?;
    let asked: AgentRef =
        agent.parse().map_err(|error: cofferdam_core::ids::InvalidId| SpawnError::Invalid(error.to_string()))?;
    let allowed = guest.ctx.authorize(Effect::Agent(asked.name.as_str()));
    allowed.map_err(|denied| SpawnError::Denied(denied.to_string()))?;
    if input.len() > HOST_CALL_BYTES_MAX {
        let why = format!("the input has {} bytes, at most {HOST_CALL_BYTES_MAX} are allowed", input.len());
        return Err(SpawnError::Invalid(why));
    }
    // It is handed over, so that what is not there cannot be given; a child with less than it needs would only run out of it.
    if let Some(fuel) = fuel.filter(|fuel| *fuel > fuel_left) {
        let why = format!("the child is to have {fuel} units of fuel, and this run has {fuel_left} left; give it less");
        return Err(SpawnError::Invalid(why));
    }
    let input = Json::parse(input).map_err(|error| SpawnError::Invalid(format!("the input is {error}")))?;
    Ok((asked, input))
}

/// Whether the tree has room for one more run. One that the same call has made before has its place.
async fn within_tree(guest: &mut Guest, before: Option<u64>) -> wasmtime::Result<Result<(), SpawnError>> {
    let (runtime, ctx) = (guest.services.runtime()?, guest.ctx.clone());
    if let Some(call) = before {
        let (storage, scope) = (guest.services.storage.clone(), ctx.scope());
        let child = ctx.child(call);
        let made = guest.beside(async move { storage.run(&scope, child).await }).await?;
        if made.map_err(HostFailure::storage)?.is_some() {
            return Ok(ctx.take_child().map(drop).map_err(|spent| SpawnError::TooMany(spent.to_string())));
        }
    }
    let quota = ctx.quota();
    let (own, depth_max, tree_max) = (ctx.clone(), quota.child_depth, quota.descendants_per_run);
    let kept_max = quota.history_bytes;
    let tree = guest.beside(async move {
        let scope = own.scope();
        let (root, depth) = runtime.root_of(&scope, own.spec()).await?;
        let descendants = runtime.descendants(&scope, root, tree_max).await?;
        Ok::<_, StorageError>((depth, descendants, runtime.storage().stays_at_least(&scope, kept_max).await?))
    });
    let (depth, descendants, too_much_stays) = tree.await?.map_err(HostFailure::storage)?;
    if depth >= depth_max {
        return Ok(Err(SpawnError::TooMany(format!("this run is {depth} deep, and runs may be {depth_max} deep"))));
    }
    // Others may add to the tree at the same time, so it is counted again when the child is made. What is refused here
    // leaves no trace outside.
    if descendants >= tree_max {
        return Ok(Err(SpawnError::TooMany(tree_is_full(tree_max))));
    }
    // What a child leaves stays until the runs above it have ended and gone.
    if too_much_stays {
        let why =
            "the finished runs of this user that have to stay, because those that started them have not ended, take";
        let next = "let some that wait come to their end, or leave less in each run";
        return Ok(Err(SpawnError::TooMany(format!(
            "{why} {kept_max} bytes, which is as much as may be kept; {next}"
        ))));
    }
    Ok(ctx.take_child().map(drop).map_err(|spent| SpawnError::TooMany(spent.to_string())))
}

async fn wait(
    mut store: StoreContextMut<'_, Guest>,
    child: Resource<Child>,
) -> wasmtime::Result<Result<String, ChildError>> {
    let guest = store.data_mut().called();
    let &Child { run, fuel_lent, learned } = guest.table.get(&child)?;
    let ChildEnd { result, fuel } = end_of(guest, run).await?;
    if !learned {
        guest.table.get_mut(&child)?.learned = !matches!(result, Err(ChildError::Wait(_)));
        if guest.table.get(&child)?.learned {
            let back = fuel_lent.saturating_sub(fuel);
            guest.fuel_unused.fetch_sub(back, Ordering::Relaxed);
            let left = store.get_fuel()?;
            store.set_fuel(left.saturating_add(back))?;
        }
    }
    Ok(result)
}

async fn end_of(guest: &mut Guest, run: RunId) -> wasmtime::Result<ChildEnd> {
    let asked = || Asked::of("child.wait").value(run);
    let before = match guest.asking_to_wait(asked, 0)? {
        Asking::AtOnce(answer) | Asking::Answered(answer) => return Ok(answer),
        Asking::Begun(number) => Some(number),
        Asking::New => None,
    };
    let not = |error| ChildEnd { result: Err(ChildError::Wait(error)), fuel: 0 };
    if before.is_none()
        && let Err(spent) = guest.ctx.may_call_host()
    {
        return Ok(guest.answered(asked, not(WaitError::Exhausted(spent.to_string()))).await);
    }
    let runtime = guest.services.runtime()?;
    let scope = guest.ctx.scope();
    let grace = if before.is_none() { SHORT_WAIT } else { Duration::ZERO };
    let ended = guest.beside(async move {
        let Some(ended) = runtime.ended_within(&scope, run, grace).await? else {
            return Ok(if runtime.storage().run(&scope, run).await?.is_none() {
                Awaited::Gone
            } else {
                Awaited::Lives
            });
        };
        let fuel = runtime.fuel_of_family(&scope, &ended).await?;
        Ok::<_, StorageError>(Awaited::Ended(Box::new(ended), fuel))
    });
    match ended.await?.map_err(HostFailure::storage)? {
        Awaited::Lives => {}
        Awaited::Ended(ended, fuel) => {
            let end = ChildEnd { fuel, result: result_of(*ended) };
            return Ok(guest.refused(before, asked(), end).await);
        }
        Awaited::Gone => {
            let why = "the child's run is not on this host any more, so nobody can say what became of it";
            return Ok(guest.refused(before, asked(), not(WaitError::Unavailable(why.into()))).await);
        }
    }
    let stored = before.and_then(|call| guest.told_of(call)).cloned();
    if stored.as_ref().and_then(|stored| stored.wait.until).is_some_and(|until| until <= clock::now()) {
        let why = "the child has not ended in the longest time that a run may wait; cancel it, or wait again";
        return Ok(guest.changed(before, not(WaitError::Exhausted(why.into()))));
    }
    if before.is_none()
        && let Some(why) = guest.cannot_wait()
    {
        return Ok(guest.answered(asked, not(WaitError::Unavailable(why.into()))).await);
    }
    if stored.is_none()
        && let Err(error) = guest.may_wait(before, 0).await?
    {
        return Ok(guest.refused(before, asked(), not(WaitError::Exhausted(error.to_string()))).await);
    }
    guest.relieved().await;
    let call = before.or_else(|| guest.recorder.as_ref().map(|recorder| recorder.started(asked(), None)));
    let until = stored.and_then(|stored| stored.wait.until).unwrap_or_else(|| guest.within_wait(u64::MAX));
    Err(guest.put_away(call.unwrap_or_default(), WaitFor::Child { run_id: run }, Some(until)).await)
}

/// What is known of a child that is waited for.
enum Awaited {
    Lives,
    /// With the fuel that it took, together with all that it started.
    Ended(Box<RunView>, u64),
    /// Its run was removed.
    Gone,
}

fn result_of(run: RunView) -> Result<String, ChildError> {
    if let Some(output) = run.output {
        return Ok(output.as_str().to_owned());
    }
    let stop_reason = run.stop_reason.unwrap_or(StopReason::HostError).as_str().to_owned();
    let RunError { code, message } =
        run.error.unwrap_or_else(|| RunError { code: stop_reason.clone(), message: String::new() });
    Err(ChildError::Failed(ChildFailure { stop_reason, code, message }))
}

async fn cancel(guest: &mut Guest, child: Resource<Child>) -> wasmtime::Result<()> {
    let run = guest.table.get(&child)?.run;
    let asked = || Asked::of("child.cancel").value(run);
    if let Some(()) = guest.recall(asked)? {
        return Ok(());
    }
    let (runtime, scope, parent) = (guest.services.runtime()?, guest.ctx.scope(), guest.ctx.spec().id);
    let cancelled = guest.beside(async move { runtime.cancel_child(&scope, parent, run).await }).await?;
    cancelled.map_err(HostFailure::storage)?;
    guest.answered(asked, ()).await;
    Ok(())
}
