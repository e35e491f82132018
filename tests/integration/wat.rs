//! Components made of core modules written as text, for what no toolchain would produce.

use std::path::Path;
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

/// WASI's `exit`, as far as a guest needs it to leave.
const WASI_CLI: &str = "package wasi:cli@0.2.0; interface exit { exit: func(status: result); }";

/// A world of this repository, with WASI's `exit` beside it.
const WORLDS: &str = "package test:worlds;
    world agent { include cofferdam:agent/agent@0.1.0; import wasi:cli/exit@0.2.0; }
    world tool { include cofferdam:agent/tool@0.1.0; import wasi:cli/exit@0.2.0; }";

/// A component of one of the worlds, `agent` or `tool`, around a core module.
pub fn component(world: &str, core_wat: &str) -> Vec<u8> {
    let wit = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../wit/agent.wit");
    let mut resolve = Resolve::default();
    resolve.push_source("agent.wit", &std::fs::read_to_string(wit).expect("read")).expect("our own WIT");
    resolve.push_source("cli.wit", WASI_CLI).expect("WIT");
    let worlds = resolve.push_source("worlds.wit", WORLDS).expect("WIT");
    let world = resolve.select_world(&[worlds], Some(world)).expect("a world");
    let mut core = wat::parse_str(core_wat).expect("text of a core module");
    embed_component_metadata(&mut core, &resolve, world, StringEncoding::UTF8).expect("embedded");
    let mut encoder = ComponentEncoder::default().validate(true).module(&core).expect("a core module of the world");
    encoder.encode().expect("encoded")
}

/// An agent whose `describe` is this body, which gives the address of what it says. `$at` sets a text of the record.
pub fn describing(body: &str) -> Vec<u8> {
    component(
        "agent",
        &format!(
            r#"(module
              (import "wasi:cli/exit@0.2.0" "exit" (func $exit (param i32)))
              (memory (export "memory") 4)
              (data (i32.const 4096) "x1true")
              (data (i32.const 4200) "{{\22$ref\22:\22http://h/\22}}")
              (func $at (param $field i32) (param $text i32) (param $bytes i32)
                (i32.store (i32.add (i32.const 1024) (local.get $field)) (local.get $text))
                (i32.store (i32.add (i32.const 1028) (local.get $field)) (local.get $bytes)))
              (func $polite (result i32)
                (call $at (i32.const 0) (i32.const 4096) (i32.const 1))
                (call $at (i32.const 8) (i32.const 4097) (i32.const 1))
                (call $at (i32.const 16) (i32.const 4096) (i32.const 1))
                (call $at (i32.const 24) (i32.const 4098) (i32.const 4))
                (call $at (i32.const 32) (i32.const 4098) (i32.const 4))
                (i32.const 1024))
              (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 65536))
              (func (export "run") (param i32 i32) (result i32) unreachable)
              (func (export "describe") (result i32) {body}))"#
        ),
    )
}
