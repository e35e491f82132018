//! What one sandbox leaves behind, another never finds: memories, tables, globals and stacks begin as their component
//! says, however the sandbox before came to its end.

use crate::{
    component,
    server::{Server, User, run},
};
use cofferdam_core::quota::Quota;
use reqwest::StatusCode;
use serde_json::json;
use std::time::Duration;

/// Stains everything it has, or looks for stains, as the input's first letter says:
/// `l` looks; `s` stains and returns; `t` stains and traps; `c` stains and goes round; a digit
/// stains one thing and looks, to show that looking finds it.
fn guest() -> Vec<u8> {
    component::guest(
        r#"(local $what i32)
        (local.set $what (i32.load8_u offset=1 (local.get $ptr)))
        ;; 64 MiB more, as a guest has them that grows.
        (if (i32.eq (memory.grow (i32.const 1024)) (i32.const -1)) (then unreachable))
        (if (i32.eq (memory.grow 1 (i32.const 64)) (i32.const -1)) (then unreachable))
        (if (i32.eq (table.grow $t (ref.null func) (i32.const 3000)) (i32.const -1)) (then unreachable))
        (if (i32.eq (local.get $what) (i32.const 0x31)) (then (i32.store8 (i32.const 67239935) (i32.const 1))))
        (if (i32.eq (local.get $what) (i32.const 0x32)) (then (i32.store8 1 (i32.const 4718591) (i32.const 1))))
        (if (i32.eq (local.get $what) (i32.const 0x33)) (then (table.set $t (i32.const 3999) (ref.func $ok))))
        (if (i32.eq (local.get $what) (i32.const 0x34)) (then (global.set $g (i64.const 1))))
        (if (i32.eq (local.get $what) (i32.const 0x35)) (then (global.set $f (ref.func $ok))))
        (if (i32.eq (local.get $what) (i32.const 0x36)) (then (global.set $v (v128.const i64x2 0 1))))
        (if (i32.lt_u (local.get $what) (i32.const 0x3a)) (then (call $look)))
        (if (i32.and (i32.gt_u (local.get $what) (i32.const 0x3a)) (i32.ne (local.get $what) (i32.const 0x6c))) (then
          (call $stain (i32.const 400))
          ;; Filling costs fuel for each byte; going round does not, so that there is enough until the cancel comes.
          (loop $again (br_if $again (i32.eq (local.get $what) (i32.const 0x63))))))
        (if (i32.eq (local.get $what) (i32.const 0x74)) (then unreachable))
        (if (i32.eq (local.get $what) (i32.const 0x6c)) (then (call $look)))
        (call $ok)"#,
    )
    .memory(r#"(memory (export "memory") 2) (memory 8)"#)
    .with(
        r#"(table $t 1000 funcref) (elem declare func $ok)
        (global $g (mut i64) (i64.const 0)) (global $f (mut funcref) (ref.null func)) (global $v (mut v128) (v128.const i64x2 0 0))
        (func $stain (param $deep i32) (local $a i64) (local $b i64)
          ;; Values that live over a call lie on the stack meanwhile.
          (local.set $a (i64.mul (i64.extend_i32_u (local.get $deep)) (i64.const 0x5a5a5a5a5a5a5a5a)))
          (local.set $b (i64.xor (local.get $a) (i64.const 0x5a5a5a5a5a5a5a5a)))
          (if (local.get $deep)
            (then (call $stain (i32.sub (local.get $deep) (i32.const 1))))
            (else
              (memory.fill (i32.const 131072) (i32.const 0xab) (i32.const 67108864))
              (memory.fill 1 (i32.const 0) (i32.const 0xab) (i32.const 4718592))
              (table.fill $t (i32.const 0) (ref.func $ok) (i32.const 4000))
              (global.set $f (ref.func $ok))
              (global.set $v (v128.const i64x2 -1 -1))))
          (global.set $g (i64.or (i64.or (local.get $a) (local.get $b)) (i64.const 1))))
        (func $look (local $at i32) (local $i i64) (local $d f64) (local $x v128)
          (loop $next
            (if (i64.ne (i64.load offset=131072 (local.get $at)) (i64.const 0)) (then unreachable))
            (br_if $next (i32.lt_u (local.tee $at (i32.add (local.get $at) (i32.const 8))) (i32.const 67108864))))
          (local.set $at (i32.const 0))
          (loop $next
            (if (i64.ne (i64.load 1 (local.get $at)) (i64.const 0)) (then unreachable))
            (br_if $next (i32.lt_u (local.tee $at (i32.add (local.get $at) (i32.const 8))) (i32.const 4718592))))
          (local.set $at (i32.const 0))
          (loop $next
            (if (i32.eqz (ref.is_null (table.get $t (local.get $at)))) (then unreachable))
            (br_if $next (i32.lt_u (local.tee $at (i32.add (local.get $at) (i32.const 1))) (i32.const 4000))))
          (if (i64.ne (global.get $g) (i64.const 0)) (then unreachable))
          (if (i32.eqz (ref.is_null (global.get $f))) (then unreachable))
          (if (v128.any_true (global.get $v)) (then unreachable))
          (if (i64.ne (local.get $i) (i64.const 0)) (then unreachable))
          (if (i64.ne (i64.reinterpret_f64 (local.get $d)) (i64.const 0)) (then unreachable))
          (if (v128.any_true (local.get $x)) (then unreachable)))"#,
    )
    .build()
}

async fn ends(user: &User, what: &str, stop_reason: &str) {
    let run = user.finish(&json!({"agent": "stain", "input": what})).await;
    assert_eq!(run["stop_reason"], stop_reason, "{what}: {run}");
}

#[test]
fn a_new_sandbox_finds_nothing_of_the_one_before() {
    run(async {
        let quota = Quota { failures_in_a_row: u32::MAX, ..Quota::default() };
        let server = Server::start_empty(tempfile::tempdir().expect("a directory"), quota).await;
        server.operator.push("stain", guest()).await.is(StatusCode::CREATED);
        let (ann, bob) = (server.user("ann").await, server.user("bob").await);
        ends(&bob, "l", "completed").await;
        for stained in ["1", "2", "3", "4", "5", "6"] {
            ends(&ann, stained, "trap").await;
        }
        ends(&ann, "0", "completed").await;
        // Fixed, so that a failure can be had again; the moments are spread over what staining takes.
        let mut random = 0x2545_f491_u32;
        for round in 0..24 {
            match round % 3 {
                0 => ends(&ann, "s", "completed").await,
                1 => ends(&ann, "t", "trap").await,
                _ => {
                    let id = ann.submit(&json!({"agent": "stain", "input": "c"})).await;
                    random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    tokio::time::sleep(Duration::from_millis(u64::from(random >> 26))).await;
                    let cancel = ann.post(&format!("/v1/runs/{id}/cancel"), &json!({})).await;
                    assert!(cancel.status.is_success(), "{}", cancel.text);
                    assert_eq!(ann.ended(&id).await["stop_reason"], "cancelled");
                }
            }
            // Several at once, so that more slots of the pool than the last one are looked into.
            tokio::join!(ends(&bob, "l", "completed"), ends(&bob, "l", "completed"));
        }
        assert_eq!((server.app.runtime().host_panics(), server.app.runtime().memory_bytes()), (0, 0));
    });
}
