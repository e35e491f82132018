//! Five of a kind at once, which is what one user has: more than this machine may have threads. Long enough that the
//! answers to others would show it.

use crate::{
    component::{calm, guest},
    cpu::forever,
    table::{Scenario, hostile, wat},
};
use serde_json::json;

const AT_ONCE: u32 = 5;

pub fn scenarios() -> Vec<Scenario> {
    let mib_64 = r#"(memory (export "memory") 1024)"#;
    let far = "(call $pollable_block (call $subscribe_duration (i64.const 3600000000000))) (call $ok)";
    let set = "(call $state_set (i32.const 1) KEY KEY (i32.const 0) (i64.const 0) RET)";
    let rows = vec![
        wat("loop for ever", forever("")).deadline(400),
        wat("loop for ever in their post-return", {
            calm().with(r#"(func (export "cabi_post_run") (param i32) (loop $again (br $again)))"#)
        })
        .deadline(200),
        wat("are cancelled in an endless loop", forever("")).cancelled(),
        wat("fill 60 MiB, again and again", {
            forever("(memory.fill (i32.const 65536) (i32.const 7) (i32.const 62914560))").memory(mib_64)
        })
        .bulk()
        .deadline(400),
        wat("copy 30 MiB, again and again", {
            forever("(memory.copy (i32.const 65536) (i32.const 33554432) (i32.const 31457280))").memory(mib_64)
        })
        .bulk()
        .deadline(400),
        wat("ask for their budget, for ever", forever("(call $budget RET)")).deadline(400),
        wat("write their state for ever", forever(set)).deadline(200),
        wat("take a MiB of random bytes, for ever", {
            forever("(call $random_bytes (i64.const 1048576) RET) (global.set $heap (i32.const 65536))")
        })
        .bulk()
        .deadline(400),
        wat("recurse for ever", guest("(call $run (local.get $ptr) (local.get $len))")).traps().times(10),
        wat("are cancelled while they wait for a timer", guest(far)).cancelled(),
        hostile("grow until they are refused", json!({"scenario": "grow"})).memory_mib(64),
        hostile("grow until the limit that they share refuses them", json!({"scenario": "grow"})),
        hostile("emit events of a MiB", json!({"scenario": "event_flood", "count": 12, "bytes": 1 << 20})),
        hostile("emit a thousand thoughts each", json!({"scenario": "event_flood", "count": 1_000})),
        hostile("answer with 4 MiB", json!({"scenario": "giant_output", "bytes": 4 << 20})),
        hostile("answer with 32 MiB", json!({"scenario": "giant_output", "bytes": 32 << 20})).ends("output_too_large"),
    ];
    rows.into_iter().map(|row| row.at_once(AT_ONCE)).collect()
}
