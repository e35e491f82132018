//! Guests that break the rules of the canonical ABI: addresses, lengths, texts and discriminants that cannot be.

use crate::{
    component::{calm, guest},
    table::{Scenario, hostile, wat},
};
use serde_json::json;

pub fn scenarios() -> Vec<Scenario> {
    let mut rows = room();
    rows.extend(results());
    rows.extend(texts());
    rows.extend(failures());
    rows.extend(outputs());
    rows.extend(arguments());
    rows
}

/// What `cabi_realloc` gives when the host asks it for room.
fn room() -> Vec<Scenario> {
    let gives = |name: &str, body: &str| wat(name, calm().realloc(body));
    // The first request is for the input; those after it, here, are for the list of tools.
    let later = |name: &str, body: &str| {
        wat(name, {
            guest("(call $tools_list RET) (call $ok)").with("(global $asked (mut i32) (i32.const 0))").realloc(format!(
                "(global.set $asked (i32.add (global.get $asked) (i32.const 1)))
                 (if (i32.gt_u (global.get $asked) (i32.const 1)) (then (return {body})))
                 (call $room (local.get $align) (local.get $size))"
            ))
        })
    };
    vec![
        gives("gives room beyond its memory", "(i32.const 0xffff0000)").traps(),
        gives("gives room at the very end of addresses", "(i32.const -1)").traps(),
        gives("gives room that begins in its memory and ends outside", "(i32.const 131071)").traps(),
        gives("gives no room, at address 0", "(i32.const 0)"),
        gives("gives room where its own description lies", "(i32.const 3072)"),
        gives("traps when it is asked for room", "unreachable").traps(),
        gives("calls the host when it is asked for room", "(call $budget RET) (i32.const 65536)").traps(),
        gives("emits an event when it is asked for room", "(call $thinking KEY RET) (i32.const 65536)").traps(),
        gives("drops a handle when it is asked for room", "(call $pending_drop (i32.const 1)) (i32.const 65536)")
            .traps(),
        later("gives room for a list that is not aligned", "(i32.const 65537)").traps(),
        later("gives room for a list beyond its memory", "(i32.const 0xfffffffc)").traps(),
        later("gives the same room for all parts of a list", "(i32.const 65536)"),
        later("gives room for a list where the answer itself goes", "(i32.const 2048)"),
    ]
}

/// Where `run` says that its result lies.
fn results() -> Vec<Scenario> {
    vec![
        wat("has its result beyond its memory", guest("(i32.const 0xfffffff0)")).traps(),
        wat("has its result at the very end of addresses", guest("(i32.const -1)")).traps(),
        wat("has its result across the end of its memory", guest("(i32.const 131064)")).traps(),
        wat("has its result where it is not aligned", guest("(drop (call $ok)) (i32.const 1025)")).traps(),
        wat(
            "has neither a result nor an error",
            guest("(drop (call $ok)) (i32.store8 (i32.const 1024) (i32.const 2)) (i32.const 1024)"),
        )
        .traps(),
        wat(
            "has a result of a kind far out",
            guest("(drop (call $ok)) (i32.store8 (i32.const 1024) (i32.const 255)) (i32.const 1024)"),
        )
        .traps(),
        wat("has an output beyond its memory", guest("(call $answer OUTSIDE)")).traps(),
        wat("has an output of four gigabytes", guest("(call $answer HUGE)")).traps(),
        wat(
            "has an output that ends beyond all addresses",
            guest("(call $answer (i32.const 0xfffffff0) (i32.const 0x20))"),
        )
        .traps(),
        wat(
            "has an output one byte longer than its memory",
            guest("(call $answer (i32.const 65536) (i32.const 65537))"),
        )
        .traps(),
        wat("calls the host in its post-return", {
            calm().with(r#"(func (export "cabi_post_run") (param i32) (call $budget RET))"#)
        })
        .traps(),
        wat("traps in its post-return", calm().with(r#"(func (export "cabi_post_run") (param i32) unreachable)"#))
            .traps(),
    ]
}

/// Outputs that are not text.
fn texts() -> Vec<Scenario> {
    let says = |name: &str, bytes: &str, length: usize| {
        wat(name, {
            guest(format!("(call $answer (i32.const 5000) (i32.const {length}))"))
                .with(format!(r#"(data (i32.const 5000) "{bytes}")"#))
        })
    };
    let wide = |name: &str, length: u32, bytes: &str| {
        wat(name, {
            guest(format!("(call $answer (i32.const 5000) (i32.const {length}))"))
                .utf16()
                .with(format!(r#"(data (i32.const 5000) "{bytes}")"#))
        })
    };
    vec![
        says("answers with bytes that begin no character", r"\22\80\22", 3).traps(),
        says("answers with a character that is cut off", r"\22\e2\82\22", 4).traps(),
        says("answers with a character that is longer than need be", r"\22\c0\af\22", 4).traps(),
        says("answers with half a surrogate pair", r"\22\ed\a0\80\22", 5).traps(),
        says("answers with a character beyond all", r"\22\f4\90\80\80\22", 6).traps(),
        says("answers with a byte that no text has", r"\22\ff\22", 3).traps(),
        says("answers with a text that begins in the middle", r"\bf\22\22", 3).traps(),
        wide("answers with half a surrogate pair, in UTF-16", 3, r"\22\00\00\d8\22\00").traps(),
        wide("answers with a surrogate pair the wrong way round, in UTF-16", 4, r"\22\00\00\dc\00\d8\22\00").traps(),
        wide("answers with UTF-16 of half the addresses", 0x7fff_ffff, r"\22\00").traps(),
        wide("answers with UTF-16 that is longer than its memory", 0x0001_0000, r"\22\00").traps(),
        wat(
            "answers with UTF-16 where it is not aligned",
            guest("(call $answer (i32.const 5001) (i32.const 2))").utf16(),
        )
        .traps(),
        wide("answers in UTF-16, well", 4, r"\22\00o\00k\00\22\00"),
    ]
}

/// Errors that are none.
fn failures() -> Vec<Scenario> {
    // A failure: its kind, then two texts.
    let fails = |name: &str, kind: u8, code: &str, message: &str| {
        let store = |at: u32, text: &str| {
            let (ptr, len) = text.split_once(' ').expect("an address and a length");
            format!(
                "(i32.store (i32.const {at}) (i32.const {ptr})) (i32.store (i32.const {}) (i32.const {len}))",
                at + 4
            )
        };
        wat(name, {
            guest(format!(
                "(i32.store (i32.const 1024) (i32.const 1)) (i32.store (i32.const 1028) (i32.const {kind})) {} {} (i32.const 1024)",
                store(1032, code),
                store(1040, message)
            ))
        })
    };
    vec![
        fails("fails in a way that there is none of", 3, "4096 1", "4096 1").traps(),
        fails("fails in a way far out", 255, "4096 1", "4096 1").traps(),
        fails("fails with a code beyond its memory", 2, "-16 8", "4096 1").traps(),
        fails("fails with a message of four gigabytes", 2, "4096 1", "16 -1").traps(),
        fails("fails with a message that is not text", 2, "4096 1", "4160 2").traps(),
        fails("fails with a code that is no code", 2, "4112 9", "4096 1").ends("guest_error"),
        fails("says that its input is invalid, without a word why", 0, "0 0", "0 0").ends("guest_error"),
        fails("says that it was denied something, though it was not", 1, "4096 1", "0 0").ends("guest_error"),
        hostile("fails with a message of a MiB", json!({"scenario": "giant_error"})).ends("guest_error"),
    ]
}

/// Outputs that are text but not JSON, or too much of it.
fn outputs() -> Vec<Scenario> {
    let says = |name: &str, text: &str| {
        let bytes: String = text.bytes().map(|byte| format!("\\{byte:02x}")).collect();
        wat(name, {
            guest(format!("(call $answer (i32.const 5000) (i32.const {}))", text.len()))
                .with(format!(r#"(data (i32.const 5000) "{bytes}")"#))
        })
        .ends("invalid_output")
    };
    let giant = |bytes: u64| json!({"scenario": "giant_output", "bytes": bytes});
    vec![
        says("answers with nothing", ""),
        says("answers with two values", "1 2"),
        says("answers with a number beyond all", "1e999"),
        says("answers with an escape of half a surrogate pair", r#""\ud800""#),
        says("answers with a raw control character", "\"\u{1}\""),
        says("answers with a zero", "\0"),
        says("answers with a mark of byte order", "\u{feff}1"),
        says("answers with a comma too many", "[1,]"),
        hostile("answers with half a value", json!({"scenario": "not_json"})).ends("invalid_output"),
        hostile("answers with JSON of a hundred thousand levels", json!({"scenario": "deep_output"}))
            .ends("invalid_output"),
        hostile("answers with a byte more than may be", giant((4 << 20) + 1)).ends("output_too_large"),
        hostile("answers with 32 MiB", giant(32 << 20)).ends("output_too_large"),
        hostile("answers with text that is not UTF-8", json!({"scenario": "not_utf8"})).traps(),
    ]
}

/// What is handed to the host.
fn arguments() -> Vec<Scenario> {
    let calls = |name: &str, call: &str| wat(name, guest(format!("{call} (call $ok)")));
    vec![
        calls("hands a text beyond its memory to the host", "(call $thinking OUTSIDE RET)").traps(),
        calls("hands a text of four gigabytes to the host", "(call $thinking HUGE RET)").traps(),
        calls("hands a text that ends beyond all addresses to the host", {
            "(call $thinking (i32.const 0xfffffff0) (i32.const 0x20) RET)"
        })
        .traps(),
        calls("wants an answer beyond its memory", "(call $thinking KEY (i32.const 0xfffffff0))").traps(),
        calls("wants an answer where it is not aligned", "(call $thinking KEY (i32.const 2049))").traps(),
        calls("wants an answer across the end of its memory", "(call $budget (i32.const 131064))").traps(),
        calls("logs at a level that there is none of", "(call $log (i32.const 4) KEY RET)").traps(),
        calls("logs at a level far out", "(call $log (i32.const -1) KEY RET)").traps(),
        calls("asks for state of a scope that there is none of", "(call $state_get (i32.const 2) KEY RET)").traps(),
        calls("sets state that ends neither some time nor never", {
            "(call $state_set (i32.const 1) KEY KEY (i32.const 2) (i64.const 0) RET)"
        })
        .traps(),
        calls("expects a version that is neither there nor not", {
            "(call $state_cas (i32.const 1) KEY (i32.const 7) (i64.const 0) KEY (i32.const 0) (i64.const 0) RET)"
        })
        .traps(),
        calls("sets a value of four gigabytes", {
            "(call $state_set (i32.const 1) KEY HUGE (i32.const 0) (i64.const 0) RET)"
        })
        .traps(),
        calls("waits for a list of a billion timers", "(call $poll (i32.const 0) (i32.const 1000000000) RET)").traps(),
        calls("waits for a list of timers that is not aligned", "(call $poll (i32.const 1) (i32.const 1) RET)").traps(),
        calls("exits in a way that there is none of", "(call $exit (i32.const 2))").traps(),
        calls("reports progress that is no number", "(call $progress (f64.const nan) KEY RET) (call $refused)"),
    ]
}
