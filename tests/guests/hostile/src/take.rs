//! Takes more than a share: of the processor, the memory, and the host's machinery.

use std::hint::black_box;

use serde_json::json;

use crate::cofferdam::agent::events::{self, Level};
use crate::cofferdam::agent::state::{self, Scope};
use crate::cofferdam::agent::{context, tools};
use crate::json_text_of;

pub fn spin() -> ! {
    let mut rounds = 0_u64;
    loop {
        rounds = black_box(rounds).wrapping_add(1);
    }
}

pub fn spin_in_host_calls() -> ! {
    loop {
        black_box(context::budget());
    }
}

pub fn burn(rounds: u64) -> String {
    let mut sum = 1_u64;
    for round in 0..rounds {
        sum = black_box(sum.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(round));
    }
    json!({"rounds": rounds, "sum": sum}).to_string()
}

pub fn bulk(bytes: usize, times: u64) -> String {
    let mut block = vec![0_u8; bytes];
    for time in 0..times {
        block.fill(time as u8);
        black_box(&mut block);
    }
    json!({"bytes": bytes, "times": times}).to_string()
}

#[allow(unconditional_recursion, reason = "that it does not end by itself is the attack")]
pub fn overflow_stack(seed: u64) -> String {
    // Something to keep in every frame, and a use of it after the call, so that the call cannot become a jump.
    let frame = black_box([seed; 64]);
    let deeper = overflow_stack(seed.wrapping_add(1));
    format!("{deeper}{}", black_box(frame)[63])
}

#[allow(unconditional_recursion, reason = "that it does not end by itself is the attack")]
pub fn overflow_host_stack(seed: u64) -> u64 {
    // What is done after the call keeps the call from becoming a jump. Nothing is kept in the
    // guest's own stack, so that the host's is the one to run out.
    let deeper = overflow_host_stack(seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1));
    deeper.rotate_left(7) ^ seed
}

const PAGE_BYTES: usize = 64 * 1024;

pub fn grow(step_bytes: usize) -> String {
    let mut steps = 0;
    while core::arch::wasm32::memory_grow::<0>(step_bytes.div_ceil(PAGE_BYTES)) != usize::MAX {
        steps += 1;
    }
    json!({"steps": steps, "memory_bytes": core::arch::wasm32::memory_size::<0>() * PAGE_BYTES}).to_string()
}

pub fn allocate_until_abort(bytes: usize) -> ! {
    loop {
        // Written to, so that it is really there, and forgotten, so that it stays.
        black_box(Vec::leak(vec![1_u8; bytes]));
    }
}

pub fn giant_events(bytes: usize) -> String {
    let text = "x".repeat(bytes);
    let outcomes = json!({
        "thinking": outcome(events::thinking(&text)),
        "progress": outcome(events::progress(0.5, &text)),
        "emit": outcome(events::emit("giant", &json_text_of(bytes))),
        "emit_name": outcome(events::emit(&text, "null")),
        "log": outcome(events::log(Level::Error, &text)),
    });
    outcomes.to_string()
}

pub fn event_flood(count: u64, bytes: usize) -> String {
    let text = "x".repeat(bytes);
    flood(count, || events::thinking(&text))
}

pub fn log_flood(count: u64, bytes: usize) -> String {
    let text = "x".repeat(bytes);
    flood(count, || events::log(Level::Info, &text))
}

pub fn tool_flood(count: u64, name: &str) -> String {
    flood(count, || tools::call(name, "{}"))
}

pub fn giant_arguments(bytes: usize) -> String {
    let arguments = format!(r#"{{"path":{}}}"#, json_text_of(bytes));
    let outcomes = json!({
        "call": outcome(tools::call("file.list", &arguments)),
        "start": outcome(tools::start("file.list", &arguments).map(|_| "started")),
        "name": outcome(tools::call(&"x".repeat(bytes), "{}")),
    });
    outcomes.to_string()
}

pub fn pending_flood(count: u64, name: &str) -> String {
    let mut held = Vec::new();
    flood(count, || tools::start(name, "{}").map(|pending| held.push(pending)))
}

pub fn state_flood(keys: u64, bytes: usize) -> String {
    let value = vec![b'x'; bytes];
    let mut key = 0;
    flood(keys, || {
        key += 1;
        state::set(Scope::User, &format!("flood-{key}"), &value, None)
    })
}

/// Does it `count` times, refused or not, and says how often the host let it.
fn flood<T, E: std::fmt::Debug>(count: u64, mut once: impl FnMut() -> Result<T, E>) -> String {
    let (mut taken, mut refused, mut first_refusal) = (0_u64, 0_u64, None);
    for _ in 0..count {
        match once() {
            Ok(_) => taken += 1,
            Err(error) => {
                refused += 1;
                first_refusal.get_or_insert_with(|| format!("{error:?}"));
            }
        }
    }
    json!({"taken": taken, "refused": refused, "first_refusal": first_refusal}).to_string()
}

/// `"ok"`, or the error as the bindings name it.
pub fn outcome<T, E: std::fmt::Debug>(outcome: Result<T, E>) -> String {
    match outcome {
        Ok(_) => "ok".to_owned(),
        Err(error) => format!("{error:?}"),
    }
}
