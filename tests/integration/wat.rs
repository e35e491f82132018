//! Components made of core modules written as text, for what no toolchain would produce.

use std::path::Path;
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

/// WASI's `exit`, as far as a guest needs it to leave.
const WASI_CLI: &str = "package wasi:cli@0.2.0; interface exit { exit: func(status: result); }";

/// WASI's directories, as far as a guest needs them to count them.
const WASI_FILES: &str = "package wasi:filesystem@0.2.0;
    interface types { resource descriptor; }
    interface preopens { use types.{descriptor}; get-directories: func() -> list<tuple<descriptor, string>>; }";

/// A world of this repository, with WASI's `exit` and directories beside it.
const WORLDS: &str = "package test:worlds;
    world agent { include cofferdam:agent/agent@0.1.0; import wasi:cli/exit@0.2.0; }
    world tool {
        include cofferdam:agent/tool@0.1.0; import wasi:cli/exit@0.2.0; import wasi:filesystem/preopens@0.2.0;
    }
    world calling-tool { include tool; import cofferdam:agent/tools@0.1.0; }
    world asking-tool { include tool; import cofferdam:agent/human@0.1.0; }";

/// A component of one of the worlds, `agent` or `tool`, around a core module.
pub fn component(world: &str, core_wat: &str) -> Vec<u8> {
    let wit = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../wit/agent.wit");
    let mut resolve = Resolve::default();
    resolve.push_source("agent.wit", &std::fs::read_to_string(wit).expect("read")).expect("our own WIT");
    resolve.push_source("cli.wit", WASI_CLI).expect("WIT");
    resolve.push_source("filesystem.wit", WASI_FILES).expect("WIT");
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

/// A tool plugin with one tool, which does this and answers with the byte at 3000.
pub fn tool_saying(tool: &str, body: &str) -> Vec<u8> {
    let answer = format!("{body} (call $at (i32.const 2008) (i32.const 3000) (i32.const 1)) (i32.const 2000)");
    tool_plugin(tool, 1, "{}", &answer)
}

/// A tool plugin whose tool `again` calls itself: of no world that a host offers.
pub fn tool_calling_itself(own_name: &str) -> Vec<u8> {
    let full = format!("{own_name}.again");
    let import = r#"(import "cofferdam:agent/tools@0.1.0" "call" (func $call (param i32 i32 i32 i32 i32)))"#;
    let data = format!(r#"(data (i32.const 3000) "{full}") (data (i32.const 3100) "{{}}")"#);
    let call = format!(
        "(call $call (i32.const 3000) (i32.const {}) (i32.const 3100) (i32.const 2) (i32.const 2000)) (i32.const 2000)",
        full.len()
    );
    Tools { world: "calling-tool", imports: import.into(), data, ..Tools::default() }.plugin("again", 1, "{}", &call)
}

/// A tool plugin that asks to be granted all tools, and imports none.
pub fn tool_needing_tools() -> Vec<u8> {
    let declares = "(call $at (i32.const 1056) (i32.const 1200) (i32.const 1))
                    (call $at (i32.const 1200) (i32.const 3000) (i32.const 1))";
    Tools { declares, data: r#"(data (i32.const 3000) "*")"#.into(), ..Tools::default() }.plugin(
        "tool",
        1,
        "{}",
        "(unreachable)",
    )
}

/// A tool plugin whose needs have agents, people or durable runs in them, as `field` says.
pub fn tool_needing(field: &str) -> Vec<u8> {
    let declares = match field {
        "agents" => {
            "(call $at (i32.const 1068) (i32.const 1200) (i32.const 1))
             (call $at (i32.const 1200) (i32.const 3000) (i32.const 1))"
        }
        "human" => "(i32.store8 (i32.const 1076) (i32.const 1))",
        "durable" => "(i32.store8 (i32.const 1077) (i32.const 1))",
        other => panic!("{other} is no need"),
    };
    Tools { declares, data: r#"(data (i32.const 3000) "*")"#.into(), ..Tools::default() }.plugin(
        "tool",
        1,
        "{}",
        "(unreachable)",
    )
}

/// A tool plugin that imports `human`: of no world that a host offers.
pub fn tool_asking_people() -> Vec<u8> {
    let import =
        r#"(import "cofferdam:agent/human@0.1.0" "ask" (func $ask (param i32 i32 i32 i32 i32 i64 i32 i32 i32 i32)))"#;
    Tools { world: "asking-tool", imports: import.into(), ..Tools::default() }.plugin("tool", 1, "{}", "(unreachable)")
}

/// An agent that says nothing of itself but what it needs: what `body` puts into the record of its needs, which begins at
/// 1064. `*` and a name that no agent can have are at 4102 and 4103.
pub fn agent_needing(body: &str) -> Vec<u8> {
    describing(&format!(
        r#"(i32.store8 (i32.const 4102) (i32.const 42))
           (i32.store8 (i32.const 4103) (i32.const 65))
           (drop (call $polite))
           {body}
           (i32.const 1024)"#
    ))
}

/// A tool plugin with so many tools, each with a schema of so many bytes.
pub fn tools_with_schemas(tools: usize, schema_bytes: usize, salt: &str) -> Vec<u8> {
    let title = "t".repeat(schema_bytes - r#"{\"title\":\"\"}"#.len() - salt.len());
    tool_plugin("tool", tools, &format!(r#"{{"title":"{salt}{title}"}}"#), "(unreachable)")
}

/// A tool plugin with so many tools, of which all after the first have a number in their name.
fn tool_plugin(tool: &str, tools: usize, schema: &str, call: &str) -> Vec<u8> {
    Tools::default().plugin(tool, tools, schema, call)
}

/// What a tool plugin has beside what they all have.
struct Tools {
    world: &'static str,
    imports: String,
    data: String,
    /// What it says more of itself.
    declares: &'static str,
}

impl Default for Tools {
    fn default() -> Self {
        Self { world: "tool", imports: String::new(), data: String::new(), declares: "" }
    }
}

impl Tools {
    fn plugin(&self, tool: &str, tools: usize, schema: &str, call: &str) -> Vec<u8> {
        let Self { world, imports, data, declares } = self;
        // The texts from 8192 on, the list of tools from 512 KiB on.
        let (texts, list, schema_at) = (8_192, 512 << 10, 8_192 + 4_096);
        let mut names = String::from("x1");
        let mut entries = String::new();
        for n in 0..tools {
            let name = if n == 0 { tool.to_owned() } else { format!("{tool}{n}") };
            // Three texts and the word whether it is idempotent, which stays false.
            let (at, entry) = (texts + names.len(), list + 28 * n);
            names.push_str(&name);
            entries.push_str(&format!(
                "(call $at (i32.const {entry}) (i32.const {at}) (i32.const {}))
             (call $at (i32.const {}) (i32.const {texts}) (i32.const 1))
             (call $at (i32.const {}) (i32.const {schema_at}) (i32.const {}))",
                name.len(),
                entry + 8,
                entry + 16,
                schema.len()
            ));
        }
        assert!(names.len() <= 4_096, "the names fit before the schema");
        component(
            world,
            &format!(
                r#"(module
              {imports}
              (import "wasi:filesystem/preopens@0.2.0" "get-directories" (func $directories (param i32)))
              (memory (export "memory") 16)
              (global $free (mut i32) (i32.const 655360))
              {data}
              (data (i32.const {texts}) "{names}")
              (data (i32.const {schema_at}) "{schema}")
              (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
                (global.set $free (i32.and (i32.add (global.get $free) (i32.const 15)) (i32.const -16)))
                (global.get $free)
                (global.set $free (i32.add (global.get $free) (local.get 3))))
              (func $at (param $field i32) (param $text i32) (param $bytes i32)
                (i32.store (local.get $field) (local.get $text))
                (i32.store (i32.add (i32.const 4) (local.get $field)) (local.get $bytes)))
              (func (export "describe") (result i32)
                (call $at (i32.const 1024) (i32.const {texts}) (i32.const 1))
                (call $at (i32.const 1032) (i32.const {version}) (i32.const 1))
                (call $at (i32.const 1040) (i32.const {texts}) (i32.const 1))
                (call $at (i32.const 1048) (i32.const {list}) (i32.const {tools}))
                {entries}
                {declares}
                (i32.const 1024))
              (func (export "call") (param i32 i32 i32 i32) (result i32) {call}))"#,
                version = texts + 1,
                schema = schema.replace('"', r#"\22"#),
            ),
        )
    }
}

/// An agent that needs all tools, and says how many it is shown, as a text of two digits.
pub fn counting_tools() -> Vec<u8> {
    component(
        "agent",
        r#"(module
          (import "cofferdam:agent/tools@0.1.0" "list" (func $list (param i32)))
          (memory (export "memory") 64)
          (global $free (mut i32) (i32.const 65536))
          (data (i32.const 4096) "x1true*")
          (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
            (global.set $free (i32.and (i32.add (global.get $free) (i32.const 15)) (i32.const -16)))
            (global.get $free)
            (global.set $free (i32.add (global.get $free) (local.get 3))))
          (func $at (param $field i32) (param $text i32) (param $bytes i32)
            (i32.store (local.get $field) (local.get $text))
            (i32.store (i32.add (i32.const 4) (local.get $field)) (local.get $bytes)))
          (func (export "describe") (result i32)
            (call $at (i32.const 1024) (i32.const 4096) (i32.const 1))
            (call $at (i32.const 1032) (i32.const 4097) (i32.const 1))
            (call $at (i32.const 1040) (i32.const 4096) (i32.const 1))
            (call $at (i32.const 1048) (i32.const 4098) (i32.const 4))
            (call $at (i32.const 1056) (i32.const 4098) (i32.const 4))
            (call $at (i32.const 1064) (i32.const 1200) (i32.const 1))
            (call $at (i32.const 1200) (i32.const 4102) (i32.const 1))
            (i32.const 1024))
          (func (export "run") (param i32 i32) (result i32)
            (call $list (i32.const 2048))
            (i32.store8 (i32.const 3000) (i32.const 34))
            (i32.store8 (i32.const 3001)
              (i32.add (i32.const 48) (i32.div_u (i32.load (i32.const 2052)) (i32.const 10))))
            (i32.store8 (i32.const 3002)
              (i32.add (i32.const 48) (i32.rem_u (i32.load (i32.const 2052)) (i32.const 10))))
            (i32.store8 (i32.const 3003) (i32.const 34))
            (call $at (i32.const 2004) (i32.const 3000) (i32.const 4))
            (i32.const 2000)))"#,
    )
}
