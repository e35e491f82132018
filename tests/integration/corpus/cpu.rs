//! Guests that want the processor for themselves.

use crate::{
    component::{Core, calm, guest},
    table::{Scenario, hostile, wat},
};
use serde_json::json;

/// A guest that does this for ever.
pub fn forever(body: &str) -> Core {
    guest(format!("(loop $again {body} (br $again)) unreachable"))
}

/// The same with locals: a number of each kind.
fn forever_in_numbers(body: &str) -> Core {
    let locals = "(local $i i32) (local $l i64) (local $f f32) (local $d f64) (local $v v128)";
    guest(format!("{locals} (loop $again {body} (br $again)) unreachable"))
}

pub fn scenarios() -> Vec<Scenario> {
    let mut rows = where_code_can_run();
    rows.extend(recursions());
    rows.extend(bulk());
    rows.extend(arithmetic());
    rows.extend(with_the_host());
    rows
}

/// Loops in every place where a guest's code is entered.
fn where_code_can_run() -> Vec<Scenario> {
    let described =
        "(call $budget RET) (if (i64.le_u (i64.load (i32.const 2048)) (i64.const 100000000)) (then return))";
    let table = r#"(type $f (func)) (table 2 2 funcref) (elem (i32.const 0) $one $two) (func $one) (func $two)"#;
    let many: String = (0..2_000).map(|i| format!("(func $f{i} (call $f{}))", i + 1)).collect();
    let targets = "0 ".repeat(5_000);
    let nested = format!("{}(br 999){}", "(block ".repeat(500), ")".repeat(500));
    let nested = nested.replace("(br 999)", "(br 0)");
    vec![
        wat("loops for ever in `run`", forever("")).deadline(100),
        wat("loops for ever until its fuel is used up", forever("")).fuel(1_000_000).ends("out_of_fuel"),
        wat("loops for ever with the least fuel that can be had", forever("")).fuel(100_000).ends("out_of_fuel"),
        wat("loops for ever with the least time that can be had", forever("")).deadline(10),
        wat("is cancelled in an endless loop", forever("")).cancelled(),
        wat(
            "is honest when it is described, and loops for ever before `run`, in its initializer",
            calm().with(format!(r#"(func (export "_initialize") {described} (loop $again (br $again)))"#)),
        )
        .deadline(100),
        wat("loops for ever in `cabi_realloc`, which the host calls for the input", {
            calm().realloc("(loop $again (br $again)) unreachable")
        })
        .deadline(100),
        wat("loops for ever in `cabi_realloc`, until its fuel is used up", {
            calm().realloc("(loop $again (br $again)) unreachable")
        })
        .fuel(1_000_000)
        .ends("out_of_fuel"),
        wat("loops for ever in `cabi_realloc`, called for the answer of a host function", {
            guest("(call $get RET) (call $ok)").with("(global $asked (mut i32) (i32.const 0))").realloc(
                "(global.set $asked (i32.add (global.get $asked) (i32.const 1)))
                     (loop $again (br_if $again (i32.gt_u (global.get $asked) (i32.const 1))))
                     (call $room (local.get $align) (local.get $size))",
            )
        })
        .deadline(100),
        wat("loops for ever after its result, in its post-return", {
            calm().with(r#"(func (export "cabi_post_run") (param i32) (loop $again (br $again)))"#)
        })
        .deadline(100),
        wat("is cancelled in its post-return", {
            calm().with(r#"(func (export "cabi_post_run") (param i32) (loop $again (br $again)))"#)
        })
        .cancelled(),
        wat("loops for ever in the destructor of a resource of its own", {
            guest("(call $thing_drop (call $thing_new (i32.const 7))) (call $ok)")
                .world("owner")
                .with(r#"(func (export "corpus:guest/things#[dtor]thing") (param i32) (loop $again (br $again)))"#)
        })
        .deadline(100),
        wat("makes resources of its own and never drops them", {
            guest("(loop $again (drop (call $thing_new (i32.const 7))) (br $again)) unreachable")
                .world("owner")
                .with(r#"(func (export "corpus:guest/things#[dtor]thing") (param i32))"#)
        })
        .traps(),
        wat("jumps for ever through a table of five thousand targets", {
            forever(&format!("(block (br_table {targets} (i32.const 4999)))"))
        })
        .deadline(100),
        wat("loops for ever inside five hundred blocks", forever(&nested)).deadline(100),
        wat("calls for ever through a table of functions", {
            forever("(call_indirect (type $f) (i32.const 0)) (call_indirect (type $f) (i32.const 1))").with(table)
        })
        .deadline(100),
        wat("calls for ever through references to functions", forever("(call_ref $f (ref.func $one))").with(table))
            .deadline(100),
        wat("calls a chain of two thousand functions, again and again", {
            forever("(call $f0)").with(many).with("(func $f2000)")
        })
        .deadline(100),
        wat("calls through a place of the table that has no function", {
            guest("(call_indirect (type $f) (i32.const 0)) (call $ok)").with("(type $f (func)) (table 1 funcref)")
        })
        .traps(),
        wat("calls through a place beyond the table", {
            guest("(call_indirect (type $f) (i32.const -1)) (call $ok)").with(table)
        })
        .traps(),
        wat("calls a function through the table as if it had another type", {
            guest("(call_indirect (param i64) (i64.const 1) (i32.const 0)) (call $ok)").with(table)
        })
        .traps(),
        wat("runs shortly, a hundred times in a row", calm()).times(100),
        wat("traps shortly, fifty times in a row", guest("unreachable")).traps().times(50),
    ]
}

fn recursions() -> Vec<Scenario> {
    let locals = format!("(local {})", "i64 ".repeat(5_000));
    let sums: String = (0..5_000).map(|i| format!("(local.set {i} (i64.extend_i32_u (call $deep)))")).collect();
    let used: String = (0..5_000).map(|i| format!("(local.get {i}) (i64.add)")).collect();
    vec![
        wat("calls itself for ever", guest("(call $run (local.get $ptr) (local.get $len))")).traps(),
        wat("calls itself for ever, in functions that call one another", {
            guest("(call $a) (call $ok)").with("(func $a (call $b) (call $c)) (func $b (call $c)) (func $c (call $a))")
        })
        .traps(),
        wat("calls itself for ever through a table", {
            guest("(call $a) (call $ok)")
                .with("(type $f (func)) (table 1 funcref) (elem (i32.const 0) $a) (func $a (call_indirect (type $f) (i32.const 0)) (nop))")
        })
        .traps(),
        wat("calls itself for ever with a large frame", {
            guest("(drop (call $deep)) (call $ok)")
                .with(format!("(func $deep (result i32) {locals} {sums} (i64.const 0) {used} (i32.wrap_i64))"))
        })
        .traps(),
        wat("calls itself for ever in `cabi_realloc`", {
            calm().with("(func $a (call $a) (call $a))").realloc("(call $a) (i32.const 0)")
        })
        .traps(),
        wat("calls itself for ever, with a host call at the bottom of the stack", {
            guest("(call $a) (call $ok)").with("(func $a (call $budget RET) (call $a) (call $budget RET))")
        })
        .traps(),
        wat("calls itself for ever in tail position", guest("(return_call $run (local.get $ptr) (local.get $len))"))
            .deadline(100),
        wat("calls itself for ever in tail position, through a table", {
            guest("(call $a) (call $ok)")
                .with("(type $f (func)) (table 1 funcref) (elem (i32.const 0) $a) (func $a (return_call_indirect (type $f) (i32.const 0)))")
        })
        .fuel(5_000_000)
        .ends("out_of_fuel"),
        hostile("recurses with frames in its own memory", json!({"scenario": "overflow_stack"})).traps(),
        hostile("recurses with frames on the host's stack", json!({"scenario": "overflow_host_stack"})).traps(),
    ]
}

/// Operations on much memory at once, which no epoch can interrupt.
fn bulk() -> Vec<Scenario> {
    let mib_64 = r#"(memory (export "memory") 1024)"#;
    let elements = "(table $t 60000 funcref) (table $u 60000 funcref)";
    let passive = format!(r#"(data $d "{}")"#, "x".repeat(60_000));
    let functions = format!("(elem $e func {}) (func $one)", "$one ".repeat(10_000));
    vec![
        wat("fills 60 MiB, again and again", {
            forever("(memory.fill (i32.const 65536) (i32.const 7) (i32.const 62914560))").memory(mib_64)
        })
        .bulk()
        .deadline(100),
        wat("copies 30 MiB, again and again", {
            forever("(memory.copy (i32.const 65536) (i32.const 33554432) (i32.const 31457280))").memory(mib_64)
        })
        .bulk()
        .deadline(100),
        wat("copies 60 MiB onto itself, one byte further", {
            forever("(memory.copy (i32.const 65537) (i32.const 65536) (i32.const 62914560))").memory(mib_64)
        })
        .bulk()
        .deadline(100),
        wat("fills 60 MiB at once with the least time that can be had", {
            guest("(memory.fill (i32.const 65536) (i32.const 7) (i32.const 62914560)) (loop $again (br $again)) unreachable")
                .memory(mib_64)
        })
        .bulk()
        .deadline(10),
        // The longest that a guest can be away: one operation on all the memory that it can have, of which no page is
        // there yet. The processor needs 100 ms for it; a machine that has to find 64,000 pages for a virtual one
        // has needed 800.
        wat("fills 250 MiB at once with the least time that can be had", {
            guest("(drop (memory.grow (i32.const 4000))) (memory.fill (i32.const 65536) (i32.const 7) (i32.const 262144000)) (loop $again (br $again)) unreachable")
        })
        .over_run(1_500)
        .deadline(10),
        wat("fills 250 MiB at once with little fuel", {
            guest("(drop (memory.grow (i32.const 4000))) (memory.fill (i32.const 65536) (i32.const 7) (i32.const 262144000)) (loop $again (br $again)) unreachable")
        })
        .bulk()
        .fuel(2_000_000)
        .ends("out_of_fuel"),
        wat("is cancelled while it fills 60 MiB, again and again", {
            forever("(memory.fill (i32.const 65536) (i32.const 7) (i32.const 62914560))").memory(mib_64)
        })
        .bulk()
        .cancelled(),
        wat("initializes 60 KB from its own data, again and again", {
            forever("(memory.init $d (i32.const 65536) (i32.const 0) (i32.const 60000))").with(passive)
        })
        .bulk()
        // A byte is a unit of fuel, and what fits into the processor's cache moves so fast that 100 ms use all of it up.
        .deadline(20),
        wat("fills tables of 60,000 places, again and again", {
            forever("(table.fill $t (i32.const 0) (ref.null func) (i32.const 60000))").with(elements)
        })
        .bulk()
        .deadline(100),
        wat("copies tables of 60,000 places, again and again", {
            forever("(table.copy $t $u (i32.const 0) (i32.const 0) (i32.const 60000))").with(elements)
        })
        .bulk()
        .deadline(100),
        wat("initializes 10,000 places of a table, again and again", {
            forever("(table.init $t $e (i32.const 0) (i32.const 0) (i32.const 10000))").with(elements).with(functions)
        })
        .bulk()
        .deadline(100),
        wat("asks its memory to grow by nothing, for ever", forever("(drop (memory.grow (i32.const 0)))")).deadline(100),
        wat("asks its memory to grow by too much, for ever", forever("(drop (memory.grow (i32.const 65535)))"))
            .fuel(50_000_000)
            .ends("out_of_fuel"),
        hostile("fills 64 MiB a thousand times", json!({"scenario": "bulk"})).bulk().deadline(150),
    ]
}

fn arithmetic() -> Vec<Scenario> {
    vec![
        wat("divides for ever", {
            forever_in_numbers(
                "(local.set $l (i64.add (i64.div_u (i64.const 0x7fffffffffffffff) (i64.or (local.get $l) (i64.const 1)))
                                        (i64.rem_s (local.get $l) (i64.const 1000003))))",
            )
        })
        .deadline(100),
        wat("takes square roots for ever", {
            forever_in_numbers("(local.set $d (f64.sqrt (f64.add (f64.div (local.get $d) (f64.const 3)) (f64.const 1e300))))")
        })
        .deadline(100),
        wat("computes with numbers that are none, for ever", {
            forever_in_numbers("(local.set $f (f32.add (f32.mul (local.get $f) (f32.const nan:0x200001)) (f32.const inf)))")
        })
        .deadline(100),
        wat("computes with the smallest numbers, for ever", {
            forever_in_numbers("(local.set $d (f64.mul (f64.add (local.get $d) (f64.const 0x1p-1074)) (f64.const 0.5)))")
        })
        .deadline(100),
        wat("computes with vectors, for ever", {
            forever_in_numbers(
                "(local.set $v (i16x8.mul (i8x16.swizzle (local.get $v) (v128.const i32x4 1 2 3 4)) (i32x4.splat (local.get $i))))",
            )
        })
        .deadline(100),
        wat("divides vectors, for ever", {
            forever_in_numbers("(local.set $v (f64x2.div (f64x2.sqrt (local.get $v)) (f64x2.splat (f64.const 3))))")
        })
        .fuel(20_000_000)
        .ends("out_of_fuel"),
        wat("computes with relaxed vectors, for ever", {
            forever_in_numbers("(local.set $v (f32x4.relaxed_madd (local.get $v) (local.get $v) (local.get $v)))")
        })
        .deadline(100),
        wat("divides by zero", guest("(drop (i32.div_u (i32.const 1) (local.get $len))) (i32.div_s (i32.const 1) (i32.const 0))")).traps(),
        wat("divides the least number by minus one", {
            guest("(i32.div_s (i32.const 0x80000000) (i32.const -1))")
        })
        .traps(),
        wat("makes an integer of no number", guest("(i32.trunc_f64_s (f64.const nan))")).traps(),
        wat("comes to a place that cannot be reached", guest("unreachable")).traps(),
        hostile("burns fuel in rounds of arithmetic", json!({"scenario": "burn"})).fuel(20_000_000).ends("out_of_fuel"),
        hostile("spins", json!({"scenario": "spin"})).deadline(100),
        hostile("is cancelled while it spins", json!({"scenario": "spin"})).cancelled(),
    ]
}

fn with_the_host() -> Vec<Scenario> {
    let far = "(call $pollable_block (call $subscribe_duration (i64.const 3600000000000))) (call $ok)";
    vec![
        hostile("spins in host calls", json!({"scenario": "spin_in_host_calls"})).deadline(100),
        hostile("sleeps for an hour", json!({"scenario": "sleep_long"})).deadline(50),
        hostile("is cancelled while it sleeps", json!({"scenario": "sleep_long"})).cancelled(),
        wat("is cancelled while it waits for a timer", guest(far)).cancelled(),
        wat("is cancelled while it asks for its budget, for ever", forever("(call $budget RET)")).cancelled(),
        wat("sleeps for no time at all, for ever", {
            guest(
                "(local $timer i32) (loop $again
                   (local.set $timer (call $subscribe_duration (i64.const 0)))
                   (call $pollable_block (local.get $timer)) (call $pollable_drop (local.get $timer))
                   (br $again)) unreachable",
            )
        })
        .deadline(100),
        wat("asks a timer whether it is over, for ever", {
            guest(
                "(local $timer i32) (local.set $timer (call $subscribe_duration (i64.const 3600000000000)))
                 (loop $again (br_if $again (i32.eqz (call $pollable_ready (local.get $timer))))) unreachable",
            )
        })
        .deadline(100),
    ]
}
