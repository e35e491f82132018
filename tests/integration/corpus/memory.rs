//! Guests that want memory: their own, and the host's.

use crate::{
    component::{calm, guest},
    table::{Scenario, hostile, wat},
};
use serde_json::json;

/// Grows by so many pages until it is refused.
fn grow(memory: &str, pages: &str) -> String {
    format!("(loop $again (br_if $again (i32.ne (memory.grow {memory} (i32.const {pages})) (i32.const -1))))")
}

fn memories(count: usize, pages: u32) -> String {
    let others: String = (1..count).map(|i| format!("(memory $m{i} {pages})")).collect();
    format!(r#"(memory $m0 (export "memory") {}) {others}"#, pages.max(2))
}

pub fn scenarios() -> Vec<Scenario> {
    let mut rows = growing();
    rows.extend(several());
    rows.extend(at_the_limit());
    rows
}

fn growing() -> Vec<Scenario> {
    let one = grow("", "1");
    vec![
        wat("grows page by page until it is refused, and goes on", guest(format!("{one} (call $ok)"))).memory_mib(16),
        wat("grows page by page to all that there is", guest(format!("{one} (call $ok)"))),
        wat("grows page by page until its fuel is used up", guest(format!("{one} (call $ok)")))
            .fuel(200_000)
            .ends("out_of_fuel"),
        wat("grows page by page and is refused again and again", {
            guest("(loop $again (drop (memory.grow (i32.const 1))) (br $again)) unreachable")
        })
        .memory_mib(2)
        .deadline(100),
        wat("grows by all that an address reaches", guest(format!("{} (call $ok)", grow("", "65534")))),
        // A growth costs fuel by what is asked for, granted or not; and so much fuel there is not.
        wat("grows by less than nothing", guest(format!("{} (call $ok)", grow("", "-1")))).ends("out_of_fuel"),
        wat("grows by half of all", guest(format!("{} (call $ok)", grow("", "0x7fffffff")))).ends("out_of_fuel"),
        wat("grows over the limit in one step, and traps on it", {
            guest("(if (i32.eq (memory.grow (i32.const 1000)) (i32.const -1)) (then unreachable)) (call $ok)")
        })
        .memory_mib(16)
        .ends("memory_limit"),
        wat("writes where its memory would be, had it been allowed to grow", {
            guest(format!("{one} (i32.store (i32.shl (memory.size) (i32.const 16)) (i32.const 1)) (call $ok)"))
        })
        .memory_mib(4)
        .ends("memory_limit"),
        wat("grows until it is refused when the host asks for room", {
            calm().realloc(format!("{one} (i32.const -1)"))
        })
        .memory_mib(8)
        .ends("memory_limit"),
        wat("grows its table place by place until it is refused", {
            guest(
                "(loop $again (br_if $again (i32.ne (table.grow $t (ref.null func) (i32.const 1)) (i32.const -1)))) (call $ok)",
            )
            .with("(table $t 0 funcref)")
        }),
        wat("grows its table by all that an index reaches", {
            guest("(if (i32.ne (table.grow $t (ref.null func) (i32.const -1)) (i32.const -1)) (then unreachable)) (call $ok)")
                .with("(table $t 0 funcref)")
        }),
        wat("has a table of references to anything", {
            guest(
                "(loop $again (br_if $again (i32.ne (table.grow $t (ref.null extern) (i32.const 1000)) (i32.const -1)))) (call $ok)",
            )
            .with("(table $t 0 externref)")
        })
        .refused("compile_failed"),
        hostile("grows in steps of a MiB until it is refused", json!({"scenario": "grow"})).memory_mib(64),
        hostile("grows, and fails on it", json!({"scenario": "grow_then_fail"})).memory_mib(16).ends("memory_limit"),
        hostile("allocates until it is aborted", json!({"scenario": "grow_until_abort"})).memory_mib(16).ends("memory_limit"),
        hostile("allocates small blocks until it is aborted", json!({"scenario": "small_allocations"}))
            .memory_mib(4)
            .ends("memory_limit"),
    ]
}

fn several() -> Vec<Scenario> {
    let all = |count: usize| (0..count).map(|i| grow(&format!("$m{i}"), "16")).collect::<String>();
    let tables: String = (0..8).map(|i| format!("(table $t{i} 0 funcref)")).collect();
    let grown: String =
        (0..8).map(|i| format!("(drop (table.grow $t{i} (ref.null func) (i32.const 65536)))")).collect();
    let mut rows: Vec<_> = (2..=4)
        .map(|count| {
            wat(format!("grows {count} memories until each is refused"), {
                guest(format!("{} (call $ok)", all(count))).memory(memories(count, 1))
            })
            .memory_mib(16)
        })
        .collect();
    rows.extend([
        wat("begins with more memory than it is allowed", calm().memory(memories(1, 1_000)))
            .memory_mib(16)
            .ends("memory_limit"),
        wat("begins with four memories of more than it is allowed", calm().memory(memories(4, 100)))
            .memory_mib(16)
            .ends("memory_limit"),
        wat("begins with all the memory that it is allowed", calm().memory(memories(1, 256))).memory_mib(16),
        wat("has tables of more than its memory", guest(format!("{grown} (call $ok)")).with(tables)).memory_mib(2),
        wat("begins with a table of all the places that there are", calm().with("(table 65536 funcref)")),
        wat("copies from one memory into another, beyond its end", {
            guest("(memory.copy $m1 $m0 (i32.const 1) (i32.const 0) (i32.const 65536)) (call $ok)")
                .memory(memories(2, 1))
        })
        .traps(),
    ]);
    rows
}

fn at_the_limit() -> Vec<Scenario> {
    let one = grow("", "1");
    let data = format!(r#"(data (i32.const 65536) "{}")"#, "x".repeat(1 << 20));
    let last = "(i32.sub (i32.shl (memory.size) (i32.const 16)) (i32.const 16))";
    vec![
        wat("writes to every page that it was given", {
            guest(format!(
                "(local $at i32) {one} (local.set $at (i32.const 65536))
                 (loop $next (i32.store (local.get $at) (i32.const 7))
                   (local.set $at (i32.add (local.get $at) (i32.const 65536)))
                   (br_if $next (i32.lt_u (local.get $at) (i32.shl (memory.size) (i32.const 16)))))
                 (call $ok)"
            ))
        })
        .memory_mib(64),
        wat("hands the last bytes of its memory to the host", {
            guest(format!("{one} (call $thinking {last} (i32.const 16) RET) (call $worked) (call $ok)"))
        })
        .memory_mib(4),
        wat("hands the last bytes of its memory to the host, and one more", {
            guest(format!("(call $thinking {last} (i32.const 17) RET) (call $ok)"))
        })
        .traps(),
        wat("reads one byte beyond its memory", guest("(i32.load8_u (i32.shl (memory.size) (i32.const 16)))")).traps(),
        wat("reads as far beyond its memory as an instruction can", {
            guest("(i32.load offset=0xffffffff (i32.const -1))")
        })
        .traps(),
        wat("writes across the end of its memory", {
            guest(
                "(i64.store (i32.sub (i32.shl (memory.size) (i32.const 16)) (i32.const 4)) (i64.const -1)) (call $ok)",
            )
        })
        .traps(),
        wat("fills beyond its memory", {
            guest("(memory.fill (i32.const 65536) (i32.const 0) (i32.const 65537)) (call $ok)")
        })
        .traps(),
        wat("brings a MiB of data", calm().memory(memories(1, 32)).with(data)),
        wat("has no memory left for its input", {
            calm()
                .memory(memories(1, 32))
                .realloc("(if (i32.eq (memory.grow (i32.const 1)) (i32.const -1)) (then unreachable)) (i32.const 0)")
        })
        .memory_mib(2)
        .ends("memory_limit"),
        wat("has no memory left for an answer of the host", {
            guest("(call $random_bytes (i64.const 1048576) RET) (call $ok)")
        })
        .memory_mib(2),
    ]
}
