//! Guests that attack the host through WASI: floods, streams, timers, handles, and a look at the machine. Files are for
//! the component `hostile`: a row is `hostile(NAME, json!({"scenario": …}))`.

use crate::{
    component::guest,
    cpu::forever,
    table::{Scenario, hostile, wat},
};
use serde_json::json;

pub fn scenarios() -> Vec<Scenario> {
    let mut rows = outputs();
    rows.extend(inputs());
    rows.extend(timers());
    rows.extend(machine());
    rows
}

/// With two locals, for a stream and something that waits.
fn row(name: &str, body: impl AsRef<str>) -> Scenario {
    wat(name, guest(format!("(local $h i32) (local $p i32) {} (call $ok)", body.as_ref())))
}

/// With standard output open.
fn out(name: &str, body: impl AsRef<str>) -> Scenario {
    row(name, format!("(local.set $h (call $stdout)) {}", body.as_ref()))
}

/// With standard input open.
fn input(name: &str, body: &str) -> Scenario {
    row(name, format!("(local.set $h (call $stdin)) {body}"))
}

fn outputs() -> Vec<Scenario> {
    let permitted = "(call $check_write (local.get $h) RET)";
    let kib_64 = "(i32.const 0) (i32.const 65536)";
    vec![
        hostile("writes a MiB of lines", json!({"scenario": "stdout_flood", "bytes": 1 << 20, "line_bytes": 1_000})),
        hostile("writes 8 MiB without an end of line", json!({"scenario": "stdout_flood", "bytes": 8 << 20})),
        row("writes six MiB, as much at a time as it may", {
            format!(
                "(local.set $h (call $stdout)) (local.set $p (i32.const 100))
                 (loop $again
                   (call $pollable_drop (call $out_subscribe (local.get $h))) {permitted}
                   (call $write (local.get $h) (i32.const 0) (i32.wrap_i64 (i64.load (i32.const 2056))) RET) (call $worked)
                   (br_if $again (local.tee $p (i32.sub (local.get $p) (i32.const 1)))))"
            )
        }),
        row("writes to standard error five hundred times, and waits each time", {
            "(local.set $h (call $stderr)) (local.set $p (i32.const 500))
             (loop $again
               (call $blocking_write (local.get $h) (i32.const 0) (i32.const 4096) RET) (call $worked)
               (br_if $again (local.tee $p (i32.sub (local.get $p) (i32.const 1)))))"
        }),
        out("writes without asking first", format!("(call $write (local.get $h) {kib_64} RET)")).traps(),
        out("writes more than it was permitted", {
            format!("{permitted} (call $write (local.get $h) (i32.const 0) (i32.const 65537) RET)")
        })
        .traps(),
        out("writes twice what it was permitted", {
            format!("{permitted} (call $write (local.get $h) {kib_64} RET) (call $write (local.get $h) {kib_64} RET)")
        })
        .traps(),
        out("writes bytes from beyond its memory", format!("{permitted} (call $write (local.get $h) OUTSIDE RET)")).traps(),
        out("writes and waits with more than may be", {
            "(call $blocking_write (local.get $h) (i32.const 0) (i32.const 4097) RET)"
        })
        .traps(),
        out("writes all zeros that there are", "(call $write_zeroes (local.get $h) (i64.const -1) RET)").traps(),
        out("writes all zeros that there are, and waits", "(call $blocking_zeroes (local.get $h) (i64.const -1) RET)").traps(),
        out("writes a gigabyte of zeros, and waits", "(call $blocking_zeroes (local.get $h) (i64.const 1073741824) RET)").traps(),
        out("forwards all of its input to its output", {
            "(call $splice (local.get $h) (call $stdin) (i64.const -1) RET) (call $refused)"
        }),
        out("forwards all of its input to its output, and waits", {
            "(call $blocking_splice (local.get $h) (call $stdin) (i64.const -1) RET) (call $refused)"
        }),
        out("forwards from a stream that it has dropped", {
            "(local.set $p (call $stdin)) (call $in_drop (local.get $p))
             (call $splice (local.get $h) (local.get $p) (i64.const 1) RET)"
        })
        .traps(),
        out("writes to a stream that it has dropped", "(call $out_drop (local.get $h)) (call $check_write (local.get $h) RET)").traps(),
        out("drops a stream twice", "(call $out_drop (local.get $h)) (call $out_drop (local.get $h))").traps(),
        out("drops a stream while a timer of it lives", "(drop (call $out_subscribe (local.get $h))) (call $out_drop (local.get $h))").traps(),
        out("drops a stream and takes it again", "(call $out_drop (local.get $h)) (call $out_drop (call $stdout))"),
        wat("flushes for ever", {
            guest("(local $h i32) (local.set $h (call $stdout)) (loop $again (call $blocking_flush (local.get $h) RET) (br $again)) unreachable")
        })
        .deadline(60),
        wat("opens its output for ever", forever("(drop (call $stdout))")).traps(),
        wat("subscribes to its output for ever", {
            guest("(local $h i32) (local.set $h (call $stdout)) (loop $again (drop (call $out_subscribe (local.get $h))) (br $again)) unreachable")
        })
        .traps(),
    ]
}

fn inputs() -> Vec<Scenario> {
    vec![
        input(
            "reads all input that there could be",
            "(call $in_read (local.get $h) (i64.const -1) RET) (call $refused)",
        ),
        input(
            "waits for all input that there could be",
            "(call $in_blocking_read (local.get $h) (i64.const -1) RET) (call $refused)",
        ),
        input(
            "skips all input that there could be",
            "(call $in_skip (local.get $h) (i64.const -1) RET) (call $refused)",
        ),
        input("skips all input that there could be, and waits", {
            "(call $in_blocking_skip (local.get $h) (i64.const -1) RET) (call $refused)"
        }),
        input("waits until there is input", "(call $pollable_block (call $in_subscribe (local.get $h)))"),
        input(
            "reads from a stream that it has dropped",
            "(call $in_drop (local.get $h)) (call $in_read (local.get $h) (i64.const 1) RET)",
        )
        .traps(),
        input("reads from its output", "(call $in_read (call $stdout) (i64.const 1) RET)").traps(),
        wat("opens its input for ever", forever("(drop (call $stdin))")).traps(),
    ]
}

fn timers() -> Vec<Scenario> {
    let far = "(call $subscribe_duration (i64.const 3600000000000))";
    vec![
        row("waits for nothing", "(call $poll (i32.const 4200) (i32.const 0) RET)").traps(),
        row("waits for a timer that it was never given", {
            "(i32.store (i32.const 4200) (i32.const 77)) (call $poll (i32.const 4200) (i32.const 1) RET)"
        })
        .traps(),
        row("waits for a far timer", format!("(call $pollable_block {far})")).deadline(60),
        row("waits for a far timer in a list", {
            format!("(i32.store (i32.const 4200) {far}) (call $poll (i32.const 4200) (i32.const 1) RET)")
        })
        .deadline(60),
        row("waits for the end of time", "(call $pollable_block (call $subscribe_instant (i64.const -1)))").deadline(60),
        row("waits as long as can be said", "(call $pollable_block (call $subscribe_duration (i64.const -1)))").deadline(60),
        row("waits for a moment that has passed", "(call $pollable_block (call $subscribe_instant (i64.const 0)))"),
        row("waits for a timer that it has dropped", {
            format!("(local.set $p {far}) (call $pollable_drop (local.get $p)) (call $pollable_block (local.get $p))")
        })
        .traps(),
        row("waits for the same timer ten thousand times over", {
            format!(
                "(local.set $h {far}) (local.set $p (i32.const 65536))
                 (loop $next (i32.store (local.get $p) (local.get $h)) (local.set $p (i32.add (local.get $p) (i32.const 4)))
                   (br_if $next (i32.lt_u (local.get $p) (i32.const 105536))))
                 (call $poll (i32.const 65536) (i32.const 10000) RET)"
            )
        })
        .traps(),
        row("waits for four hundred timers", {
            format!(
                "(local.set $p (i32.const 65536))
                 (loop $next (i32.store (local.get $p) {far}) (local.set $p (i32.add (local.get $p) (i32.const 4)))
                   (br_if $next (i32.lt_u (local.get $p) (i32.const 67136))))
                 (call $poll (i32.const 65536) (i32.const 400) RET)"
            )
        })
        .deadline(60),
        wat("makes timers for ever", forever(&format!("(drop {far})"))).traps(),
        wat("makes timers and drops them, for ever", forever(&format!("(call $pollable_drop {far})"))).deadline(60),
        hostile("makes a million timers", json!({"scenario": "timer_flood"})).traps(),
        row("is cancelled while it waits for the end of time", "(call $pollable_block (call $subscribe_instant (i64.const -1)))").cancelled(),
    ]
}

fn machine() -> Vec<Scenario> {
    let empty = "(if (i32.load (i32.const 2052)) (then unreachable))";
    let none = "(if (i32.load8_u (i32.const 2048)) (then unreachable))";
    vec![
        row("looks for an environment, arguments and a directory", {
            format!("(call $environment RET) {empty} (call $arguments RET) {empty} (call $initial_cwd RET) {none}")
        }),
        row("looks for a terminal", {
            format!("(call $terminal_in RET) {none} (call $terminal_out RET) {none} (call $terminal_err RET) {none}")
        }),
        wat("reads the clock for ever", forever("(drop (call $clock_now)) (drop (call $clock_resolution))"))
            .deadline(60),
        wat("reads the time of day for ever", forever("(call $wall_now RET)")).deadline(60),
        wat("takes random numbers for ever", forever("(drop (call $random_u64))")).deadline(60),
        wat("takes a MiB of random bytes, for ever", {
            forever("(call $random_bytes (i64.const 1048576) RET) (global.set $heap (i32.const 65536))")
        })
        .deadline(60),
        wat("takes a MiB of cheap random bytes, for ever", {
            forever("(call $insecure_bytes (i64.const 1048576) RET) (global.set $heap (i32.const 65536))")
        })
        .deadline(60),
        wat("takes seeds for ever", forever("(call $insecure_seed RET)")).deadline(60),
        row("takes a byte of randomness more than may be", "(call $random_bytes (i64.const 1048577) RET)").traps(),
        row("takes all randomness that there is", "(call $random_bytes (i64.const -1) RET)").traps(),
        row("takes all cheap randomness that there is", "(call $insecure_bytes (i64.const -1) RET)").traps(),
        row("takes random bytes of more than its memory", "(call $random_bytes (i64.const 1048576) RET)")
            .memory_mib(2)
            .fuel(10_000_000),
        hostile("takes 256 MiB of randomness", json!({"scenario": "random_flood"})).traps(),
        row("exits as if all were well", "(call $exit (i32.const 0))").traps(),
        row("exits as if something had failed", "(call $exit (i32.const 1))").traps(),
        hostile("exits with code 0", json!({"scenario": "exit", "code": 0})).traps(),
        hostile("exits with code 255", json!({"scenario": "exit", "code": 255})).traps(),
        hostile("panics", json!({"scenario": "panic"})).traps(),
    ]
}
