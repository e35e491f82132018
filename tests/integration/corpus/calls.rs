//! Guests that attack the host through what they may call: floods, giants, forgeries, and handles that are not theirs.

use crate::{
    component::{calm, guest},
    cpu::forever,
    table::{Scenario, hostile, wat},
};
use serde_json::json;

pub fn scenarios() -> Vec<Scenario> {
    let mut rows = floods();
    rows.extend(handles());
    rows.extend(not_text());
    rows.extend(giants());
    rows.extend(forgeries());
    rows
}

/// Does this so many times, and completes.
fn times(name: &str, count: u32, call: &str) -> Scenario {
    wat(name, {
        guest(format!(
            "(local $n i32) (local.set $n (i32.const {count}))
             (loop $next {call} (br_if $next (local.tee $n (i32.sub (local.get $n) (i32.const 1))))) (call $ok)"
        ))
    })
}

/// The same call again and again, until a budget answers, the time is up or the fuel is used up.
fn floods() -> Vec<Scenario> {
    let endless = |name: &str, call: &str| wat(name, forever(call)).deadline(60);
    let set = "(call $state_set (i32.const 1) KEY KEY (i32.const 0) (i64.const 0) RET)";
    vec![
        endless("asks for ever who it runs for", "(call $get (i32.const 2048)) (global.set $heap (i32.const 65536))"),
        endless("asks for ever what is left to it", "(call $budget RET)"),
        endless("asks for ever which tools there are", "(call $tools_list RET) (global.set $heap (i32.const 65536))"),
        endless("reads its state for ever", "(call $state_get (i32.const 0) KEY RET)"),
        endless("writes its state for ever", set),
        endless("deletes its state for ever", "(call $state_delete (i32.const 1) KEY RET)"),
        endless("lists its state for ever", {
            "(call $state_list (i32.const 1) NOTHING (i32.const 0) NOTHING (i32.const 1000) RET)"
        }),
        endless("compares and swaps for ever, and always loses", {
            "(call $state_cas (i32.const 1) KEY (i32.const 1) (i64.const 7) KEY (i32.const 0) (i64.const 0) RET) (call $refused)"
        }),
        times("starts calls of tools and drops them, a thousand times", 1_000, {
            "(call $tools_start TOOL ARGS RET)
             (if (i32.eqz (i32.load8_u (i32.const 2048))) (then (call $pending_drop (i32.load (i32.const 2056)))))
             (global.set $heap (i32.const 65536))"
        }),
        times("calls a tool that does not exist, a thousand times", 1_000, {
            "(call $tools_call KEY ARGS RET) (call $refused) (global.set $heap (i32.const 65536))"
        }),
        wat("is cancelled while it writes its state for ever", forever(set)).cancelled(),
        wat("is cancelled with as many calls of tools under way as may be", {
            guest(
                "(local $n i32)
                 (loop $next (call $tools_start TOOL ARGS RET) (call $worked)
                   (local.set $n (i32.add (local.get $n) (i32.const 1)))
                   (br_if $next (i32.lt_u (local.get $n) (i32.const 32))))
                 (call $tools_start TOOL ARGS RET) (call $refused)
                 (loop $again (call $budget RET) (br $again)) unreachable",
            )
        })
        .cancelled(),
        hostile("emits five thousand thoughts", json!({"scenario": "event_flood", "count": 5_000})),
        hostile("logs five thousand lines", json!({"scenario": "log_flood", "count": 5_000})),
        hostile("calls a tool fifteen hundred times", json!({"scenario": "tool_flood", "count": 1_500})),
        hostile("starts calls and takes no answers", json!({"scenario": "pending_flood", "count": 300})),
        hostile("fills its state", json!({"scenario": "state_flood", "keys": 80, "bytes": 1 << 20})),
        hostile("emits events of a MiB until there is no more room", {
            json!({"scenario": "event_flood", "count": 70, "bytes": 1 << 20})
        }),
        times(
            "reports progress three thousand times",
            3_000,
            "(call $progress (f64.const 0.5) KEY RET) (call $worked)",
        ),
    ]
}

/// Handles that were never given out, are given back already, or belong to something else.
fn handles() -> Vec<Scenario> {
    let calls = |name: &str, call: &str| wat(name, guest(format!("(local $h i32) {call} (call $ok)")));
    let start = "(call $tools_start TOOL ARGS RET) (call $worked) (local.set $h (i32.load (i32.const 2056)))";
    let traps = |name: &str, call: &str| calls(name, &format!("{start} {call}")).traps();
    vec![
        calls("asks after a call with handle 0", "(drop (call $pending_ready (i32.const 0)))").traps(),
        calls("asks after a call with a handle that it was never given", "(drop (call $pending_ready (i32.const 1)))").traps(),
        calls("asks after a call with the last handle of all", "(drop (call $pending_ready (i32.const -1)))").traps(),
        calls("waits for a call that it never started", "(call $pending_wait (i32.const 1) RET)").traps(),
        calls("drops a handle that it was never given", "(call $pending_drop (i32.const 5))").traps(),
        traps("drops a call twice", "(call $pending_drop (local.get $h)) (call $pending_drop (local.get $h))"),
        traps("asks after a call that it has dropped", {
            "(call $pending_drop (local.get $h)) (drop (call $pending_ready (local.get $h)))"
        }),
        traps("waits for a call that it has dropped", "(call $pending_drop (local.get $h)) (call $pending_wait (local.get $h) RET)"),
        traps("waits for the same call twice", "(call $pending_wait (local.get $h) RET) (call $pending_wait (local.get $h) RET)"),
        traps("drops a call that it has waited for", "(call $pending_wait (local.get $h) RET) (call $pending_drop (local.get $h))"),
        traps("asks after the handle next to its own", "(drop (call $pending_ready (i32.add (local.get $h) (i32.const 1))))"),
        traps("takes a call for a timer", "(call $pollable_block (local.get $h))"),
        traps("drops a call as if it were a stream", "(call $out_drop (local.get $h))"),
        calls("takes a stream for a call", "(drop (call $pending_ready (call $stdout)))").traps(),
        calls("waits for a timer as if it were a call", {
            "(call $pending_wait (call $subscribe_duration (i64.const 0)) RET)"
        })
        .traps(),
        traps("lends a call to a list of timers", {
            "(i32.store (i32.const 4200) (local.get $h)) (call $poll (i32.const 4200) (i32.const 1) RET)"
        }),
        traps("takes a call for a child", "(call $child_wait (local.get $h) RET)"),
        traps("drops a call as if it were a child", "(call $child_drop (local.get $h))"),
        calls("waits for a child that it never started", "(call $child_wait (i32.const 1) RET)").traps(),
        calls("asks for the run of a child that it never started", "(call $child_id (i32.const 0) RET)").traps(),
        calls("cancels a child that it never started", "(call $child_cancel (i32.const -1))").traps(),
        calls("takes a stream for a child", "(call $child_cancel (call $stdout))").traps(),
        calls("keeps a call under way to its end", start),
        wat("starts a call, and calls the host when it is asked for room for the answer", {
            guest("(call $tools_call TOOL ARGS RET) (call $ok)")
                .with("(global $asked (mut i32) (i32.const 0))")
                .realloc(
                    "(global.set $asked (i32.add (global.get $asked) (i32.const 1)))
                     (if (i32.gt_u (global.get $asked) (i32.const 1)) (then (call $tools_list RET)))
                     (call $room (local.get $align) (local.get $size))",
                )
        })
        .traps(),
        wat("forges a handle of its own resource", {
            guest("(call $thing_drop (i32.const 9)) (call $ok)")
                .world("owner")
                .with(r#"(func (export "corpus:guest/things#[dtor]thing") (param i32))"#)
        })
        .traps(),
        wat("drops its own resource again in its destructor", {
            guest("(global.set $thing (call $thing_new (i32.const 7))) (call $thing_drop (global.get $thing)) (call $ok)")
                .world("owner")
                .with(
                    r#"(global $thing (mut i32) (i32.const 0))
                       (func (export "corpus:guest/things#[dtor]thing") (param i32) (call $thing_drop (global.get $thing)))"#,
                )
        })
        .traps(),
        wat("calls the host in the destructor of its own resource", {
            guest("(call $thing_drop (call $thing_new (i32.const 7))) (call $ok)")
                .world("owner")
                .with(r#"(func (export "corpus:guest/things#[dtor]thing") (param i32) (call $budget RET))"#)
        }),
        hostile("forges a handle", json!({"scenario": "forged_handle"})).traps(),
    ]
}

/// A child without limits of its own.
const UNLIMITED: &str = "(i32.const 0) (i64.const 0) (i32.const 0) (i64.const 0) (i32.const 0) (i64.const 0)";

/// Bytes that are no text, to each function that takes one.
fn not_text() -> Vec<Scenario> {
    let none = "(i32.const 0) (i64.const 0)";
    [
        ("thinks", "(call $thinking BAD RET)".to_owned()),
        ("reports progress", "(call $progress (f64.const 0) BAD RET)".to_owned()),
        ("names an event", "(call $emit BAD NULL RET)".to_owned()),
        ("emits an event", "(call $emit KEY BAD RET)".to_owned()),
        ("logs", "(call $log (i32.const 0) BAD RET)".to_owned()),
        ("names a tool to call", "(call $tools_call BAD ARGS RET)".to_owned()),
        ("gives arguments to a tool", "(call $tools_call TOOL BAD RET)".to_owned()),
        ("names a tool to start", "(call $tools_start BAD ARGS RET)".to_owned()),
        ("gives arguments to a tool that it starts", "(call $tools_start TOOL BAD RET)".to_owned()),
        ("gets state", "(call $state_get (i32.const 1) BAD RET)".to_owned()),
        ("sets state", format!("(call $state_set (i32.const 1) BAD KEY {none} RET)")),
        ("deletes state", "(call $state_delete (i32.const 1) BAD RET)".to_owned()),
        (
            "lists state by prefix",
            "(call $state_list (i32.const 1) BAD (i32.const 0) NOTHING (i32.const 9) RET)".to_owned(),
        ),
        (
            "lists state after a key",
            "(call $state_list (i32.const 1) KEY (i32.const 1) BAD (i32.const 9) RET)".to_owned(),
        ),
        ("asks people", format!("(call $ask_people BAD ARGS {none} (i32.const 0) NOTHING RET)")),
        ("gives a schema to people", format!("(call $ask_people KEY BAD {none} (i32.const 0) NOTHING RET)")),
        ("has an answer for people", format!("(call $ask_people KEY ARGS {none} (i32.const 1) BAD RET)")),
        ("names an agent to start", format!("(call $spawn BAD NULL {UNLIMITED} RET)")),
        ("gives input to an agent", format!("(call $spawn KEY BAD {UNLIMITED} RET)")),
        ("compares and swaps", format!("(call $state_cas (i32.const 1) BAD {none} KEY {none} RET)")),
    ]
    .into_iter()
    .map(|(what, call)| wat(format!("{what} with bytes that are no text"), guest(format!("{call} (call $ok)"))).traps())
    .collect()
}

fn giants() -> Vec<Scenario> {
    let large = r#"(memory (export "memory") 200)"#;
    let mib_5 = "(i32.const 65536) (i32.const 5242880)";
    let calls = |name: &str, call: String| wat(name, guest(format!("{call} (call $ok)")).memory(large));
    let beyond = "(i32.const 65536) (i32.const 1048577)";
    vec![
        calls("hands 5 MiB of thought to the host", format!("(call $thinking {mib_5} RET)")).traps(),
        calls("hands 5 MiB of arguments to a tool", format!("(call $tools_call TOOL {mib_5} RET)")).traps(),
        calls("sets 5 MiB of state", {
            format!("(call $state_set (i32.const 1) KEY {mib_5} (i32.const 0) (i64.const 0) RET)")
        })
        .traps(),
        calls("thinks a byte more than may be", format!("(call $thinking {beyond} RET) (call $refused)")),
        calls("sets a byte of state more than may be", {
            format!("(call $state_set (i32.const 1) KEY {beyond} (i32.const 0) (i64.const 0) RET) (call $refused)")
        }),
        calls("names a tool with a MiB", format!("(call $tools_call {beyond} ARGS RET) (call $refused)")),
        calls("hands 5 MiB of input to an agent", format!("(call $spawn KEY {mib_5} {UNLIMITED} RET)")).traps(),
        calls("names an agent with a MiB", format!("(call $spawn {beyond} NULL {UNLIMITED} RET) (call $refused)")),
        calls("asks people a MiB", {
            let none = "(i32.const 0) (i64.const 0) (i32.const 0) (i32.const 0) (i32.const 0)";
            format!("(call $ask_people {beyond} ARGS {none} RET) (call $refused)")
        }),
        calls("sleeps until the end of time", "(call $sleep_until (i64.const -1) RET) (call $refused)".to_owned()),
        calls("names a key with a MiB", format!("(call $state_get (i32.const 1) {beyond} RET) (call $refused)")),
        hostile("emits events of 2 MiB of each kind", json!({"scenario": "giant_events"})),
        hostile("emits an event of 64 MiB", json!({"scenario": "giant_events", "bytes": 64 << 20})).traps(),
        hostile("calls tools with arguments of 2 MiB", json!({"scenario": "giant_arguments"})),
    ]
}

/// What the contract rules out, and what was not granted.
fn forgeries() -> Vec<Scenario> {
    let ungranted = |name: &str, call: &str| wat(name, guest(format!("{call} (call $refused) (call $ok)"))).ungranted();
    let denied =
        "(drop (call $ok)) (i32.store (i32.const 1024) (i32.const 1)) (i32.store (i32.const 1028) (i32.const 1))
         (i32.store (i32.const 1032) (i32.const 4096)) (i32.store (i32.const 1036) (i32.const 1)) (i32.const 1024)";
    vec![
        hostile("names paths that lead out of the workspace", json!({"scenario": "forged_paths"})),
        hostile("names keys that are none", json!({"scenario": "forged_keys"})),
        hostile("emits events that are none", json!({"scenario": "forged_events"})),
        hostile("names tools that are not its own", json!({"scenario": "forged_tools"})),
        hostile("gives JSON that is none", json!({"scenario": "forged_json"})),
        hostile("gives text that is none", json!({"scenario": "forged_text"})).traps(),
        ungranted("calls a tool that was not granted", "(call $tools_call TOOL ARGS RET)"),
        ungranted("starts a tool that was not granted", "(call $tools_start TOOL ARGS RET)"),
        ungranted("reads state that was not granted", "(call $state_get (i32.const 1) KEY RET)"),
        ungranted("writes state that was not granted", {
            "(call $state_set (i32.const 1) KEY KEY (i32.const 0) (i64.const 0) RET)"
        }),
        ungranted("asks people, which was not granted", {
            "(call $ask_people KEY ARGS (i32.const 0) (i64.const 0) (i32.const 0) NOTHING RET)"
        }),
        ungranted("starts an agent that was not granted", &format!("(call $spawn KEY NULL {UNLIMITED} RET)")),
        wat("gives up because it was denied what it had asked for", {
            guest(format!("(call $state_get (i32.const 1) KEY RET) {denied}"))
        })
        .ungranted()
        .ends("denied"),
        wat("emits an event under the host's own name", {
            guest("(call $emit (i32.const 5000) (i32.const 15) NULL RET) (call $worked) (call $ok)")
                .with(r#"(data (i32.const 5000) "agent_completed")"#)
        }),
        wat("does nothing at all", calm()),
    ]
}
