//! What is refused when it is uploaded. Uploads in depth are in the tests of plugins; these are the ways in which a
//! guest is hostile before it is ever run.

use crate::{
    component::{calm, guest},
    table::{Scenario, bytes, wat},
};

const SPIN: &str = "(loop $again (br $again)) unreachable";

pub fn scenarios() -> Vec<Scenario> {
    let mut cut = calm().build();
    cut.truncate(cut.len() / 2);
    let mut rows = vec![
        bytes("is nothing at all", Vec::new()).refused("not_a_component"),
        bytes("is a core module", wat::parse_str("(module)").expect("a module")).refused("not_a_component"),
        bytes("ends in the middle", cut).refused("malformed"),
        wat("imports sockets of its own", guest("(call $open_socket)").world("stranger")).refused("unknown_imports"),
    ];
    rows.extend(in_the_code());
    rows.extend(in_the_description());
    rows
}

fn in_the_code() -> Vec<Scenario> {
    let refused = |name: &str, core, code| wat(name, core).refused(code);
    let memories = |count: usize| format!(r#"(memory (export "memory") 2){}"#, "(memory 1)".repeat(count - 1));
    vec![
        refused(
            "loops for ever when it is started",
            calm().with("(start $s) (func $s (loop $again (br $again)))"),
            "describe_failed",
        ),
        refused("traps when it is started", calm().with("(start $s) (func $s unreachable)"), "describe_failed"),
        refused(
            "recurses for ever when it is started",
            calm().with("(start $s) (func $s (call $s) (nop))"),
            "describe_failed",
        ),
        refused("has data beyond its memory", calm().with(r#"(data (i32.const 131071) "xx")"#), "describe_failed"),
        refused(
            "has elements beyond its table",
            calm().with("(table 1 funcref) (func $f) (elem (i32.const 1) $f)"),
            "describe_failed",
        ),
        refused("has five memories", calm().memory(memories(5)), "too_many_resources"),
        refused("has seventeen tables", calm().with("(table 1 funcref)".repeat(17)), "too_many_resources"),
        refused("has a table of a million places", calm().with("(table 1000000 funcref)"), "too_many_resources"),
        refused(
            "has a memory of more than any sandbox",
            calm().memory(r#"(memory (export "memory") 4097)"#),
            "too_many_resources",
        ),
        refused(
            "has more memory than a description may take",
            calm().memory(r#"(memory (export "memory") 1025)"#),
            "describe_failed",
        ),
        refused("has a shared memory", calm().with("(memory 1 1 shared)"), "compile_failed"),
        refused("has a memory of 64 bits", calm().with("(memory i64 1)"), "compile_failed"),
        refused("throws", calm().with("(tag $t) (func $f (throw $t))"), "compile_failed"),
        refused(
            "allocates on a heap that the host would collect",
            calm().with("(type $s (struct (field i32))) (func $f (drop (struct.new $s (i32.const 1))))"),
            "compile_failed",
        ),
        refused("is not well typed", calm().with("(func $f (result i32) (i64.const 1))"), "compile_failed"),
    ]
}

fn in_the_description() -> Vec<Scenario> {
    let described = |name: &str, body: &str| wat(name, calm().describe(format!("{body} (i32.const 3072)")));
    vec![
        described("loops for ever when it is asked what it is", SPIN).refused("describe_failed"),
        described("traps when it is asked what it is", "unreachable").refused("describe_failed"),
        described("exits when it is asked what it is", "(call $exit (i32.const 0))").refused("describe_failed"),
        described("sleeps for an hour when it is asked what it is", {
            "(call $pollable_block (call $subscribe_duration (i64.const 3600000000000)))"
        })
        .refused("describe_failed"),
        wat("describes itself at an address beyond its memory", calm().describe("(i32.const -4)"))
            .refused("describe_failed"),
        wat("describes itself at an address that is not aligned", calm().describe("(i32.const 3073)"))
            .refused("describe_failed"),
        described("has a name beyond its memory", "(i32.store (i32.const 3072) (i32.const -16))")
            .refused("describe_failed"),
        described("has a name of four gigabytes", "(i32.store (i32.const 3076) (i32.const -1))")
            .refused("describe_failed"),
        described(
            "has a name that is not text",
            "(i32.store (i32.const 3072) (i32.const 4160)) (i32.store (i32.const 3076) (i32.const 2))",
        )
        .refused("describe_failed"),
        described("has no name", "(i32.store (i32.const 3076) (i32.const 0))").refused("invalid_description"),
        described("has a schema that is not JSON", "(i32.store8 (i32.load (i32.const 3096)) (i32.const 0x7b))")
            .refused("invalid_description"),
        described("needs a billion tools", "(i32.store (i32.const 3116) (i32.const 1000000000))")
            .refused("describe_failed"),
        described("needs a kind of access that there is none of", "(i32.store8 (i32.const 3120) (i32.const 3))")
            .refused("describe_failed"),
        described("emits events when it is asked what it is", "(call $thinking KEY RET) (call $refused)"),
        described("calls tools when it is asked what it is", "(call $tools_call TOOL ARGS RET) (call $refused)"),
        described("changes state when it is asked what it is", {
            "(call $state_set (i32.const 1) KEY KEY (i32.const 0) (i64.const 0) RET) (call $refused)"
        }),
    ]
}
