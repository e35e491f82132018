//! Agents written by hand, in WebAssembly's text: a core module of the world `agent`, of which each scenario writes only
//! the hostile part.
//!
//! In the text, a call of an import by its name here (`call $thinking`) brings the import; words in capitals stand for
//! what lies ready in memory (see [`WORDS`]).

use std::sync::LazyLock;
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

/// The functions of WASI that the scenarios call, in the least WIT that names them: this repository holds no files of
/// others, and names and types are facts.
const WASI: [&str; 4] = [
    "package wasi:io@0.2.6;
     interface error { resource error; }
     interface poll {
       resource pollable { ready: func() -> bool; block: func(); }
       poll: func(of: list<borrow<pollable>>) -> list<u32>;
     }
     interface streams {
       use error.{error};
       use poll.{pollable};
       variant stream-error { last-operation-failed(error), closed }
       resource input-stream {
         read: func(len: u64) -> result<list<u8>, stream-error>;
         blocking-read: func(len: u64) -> result<list<u8>, stream-error>;
         skip: func(len: u64) -> result<u64, stream-error>;
         blocking-skip: func(len: u64) -> result<u64, stream-error>;
         subscribe: func() -> pollable;
       }
       resource output-stream {
         check-write: func() -> result<u64, stream-error>;
         write: func(bytes: list<u8>) -> result<_, stream-error>;
         blocking-write-and-flush: func(bytes: list<u8>) -> result<_, stream-error>;
         flush: func() -> result<_, stream-error>;
         blocking-flush: func() -> result<_, stream-error>;
         subscribe: func() -> pollable;
         write-zeroes: func(len: u64) -> result<_, stream-error>;
         blocking-write-zeroes-and-flush: func(len: u64) -> result<_, stream-error>;
         splice: func(source: borrow<input-stream>, len: u64) -> result<u64, stream-error>;
         blocking-splice: func(source: borrow<input-stream>, len: u64) -> result<u64, stream-error>;
       }
     }",
    "package wasi:clocks@0.2.6;
     interface monotonic-clock {
       use wasi:io/poll@0.2.6.{pollable};
       now: func() -> u64;
       resolution: func() -> u64;
       subscribe-instant: func(at: u64) -> pollable;
       subscribe-duration: func(ns: u64) -> pollable;
     }
     interface wall-clock {
       record datetime { seconds: u64, nanoseconds: u32 }
       now: func() -> datetime;
     }",
    "package wasi:random@0.2.6;
     interface random { get-random-bytes: func(len: u64) -> list<u8>; get-random-u64: func() -> u64; }
     interface insecure { get-insecure-random-bytes: func(len: u64) -> list<u8>; }
     interface insecure-seed { insecure-seed: func() -> tuple<u64, u64>; }",
    "package wasi:cli@0.2.6;
     interface environment {
       get-environment: func() -> list<tuple<string, string>>;
       get-arguments: func() -> list<string>;
       initial-cwd: func() -> option<string>;
     }
     interface exit { exit: func(status: result); }
     interface stdin { use wasi:io/streams@0.2.6.{input-stream}; get-stdin: func() -> input-stream; }
     interface stdout { use wasi:io/streams@0.2.6.{output-stream}; get-stdout: func() -> output-stream; }
     interface stderr { use wasi:io/streams@0.2.6.{output-stream}; get-stderr: func() -> output-stream; }
     interface terminal-input { resource terminal-input; }
     interface terminal-output { resource terminal-output; }
     interface terminal-stdin { use terminal-input.{terminal-input}; get-terminal-stdin: func() -> option<terminal-input>; }
     interface terminal-stdout { use terminal-output.{terminal-output}; get-terminal-stdout: func() -> option<terminal-output>; }
     interface terminal-stderr { use terminal-output.{terminal-output}; get-terminal-stderr: func() -> option<terminal-output>; }",
];

/// What the guests are made for: the world `agent` with WASI. `owner` also defines a resource, to have a destructor;
/// `sockets` imports what no host offers.
const WORLDS: &str = "package corpus:guest;
     interface things { resource thing; }
     interface sockets { open: func() -> u32; }
     world wasi {
       import wasi:io/poll@0.2.6;
       import wasi:io/streams@0.2.6;
       import wasi:clocks/monotonic-clock@0.2.6;
       import wasi:clocks/wall-clock@0.2.6;
       import wasi:random/random@0.2.6;
       import wasi:random/insecure@0.2.6;
       import wasi:random/insecure-seed@0.2.6;
       import wasi:cli/environment@0.2.6;
       import wasi:cli/exit@0.2.6;
       import wasi:cli/stdin@0.2.6;
       import wasi:cli/stdout@0.2.6;
       import wasi:cli/stderr@0.2.6;
       import wasi:cli/terminal-stdin@0.2.6;
       import wasi:cli/terminal-stdout@0.2.6;
       import wasi:cli/terminal-stderr@0.2.6;
     }
     world guest { include cofferdam:agent/agent@0.1.0; include wasi; }
     world owner { include guest; export things; }
     world stranger { include guest; import sockets; }";

/// The imports: the name in the text, the interface, the function, and its type in the flat form of the canonical ABI.
/// A result of more than one value goes to an address that is the last parameter.
const IMPORTS: &[(&str, &str, &str, &str)] = &[
    ("get", CONTEXT, "get", "(param i32)"),
    ("budget", CONTEXT, "budget", "(param i32)"),
    ("sleep_until", CONTEXT, "sleep-until", "(param i64 i32)"),
    ("thinking", EVENTS, "thinking", "(param i32 i32 i32)"),
    ("progress", EVENTS, "progress", "(param f64 i32 i32 i32)"),
    ("emit", EVENTS, "emit", "(param i32 i32 i32 i32 i32)"),
    ("log", EVENTS, "log", "(param i32 i32 i32 i32)"),
    ("tools_list", TOOLS, "list", "(param i32)"),
    ("tools_call", TOOLS, "call", "(param i32 i32 i32 i32 i32)"),
    ("tools_start", TOOLS, "start", "(param i32 i32 i32 i32 i32)"),
    ("pending_ready", TOOLS, "[method]pending.ready", "(param i32) (result i32)"),
    ("pending_wait", TOOLS, "[static]pending.wait", "(param i32 i32)"),
    ("pending_drop", TOOLS, "[resource-drop]pending", "(param i32)"),
    ("state_get", STATE, "get", "(param i32 i32 i32 i32)"),
    ("state_set", STATE, "set", "(param i32 i32 i32 i32 i32 i32 i64 i32)"),
    ("state_delete", STATE, "delete", "(param i32 i32 i32 i32)"),
    ("state_list", STATE, "list", "(param i32 i32 i32 i32 i32 i32 i32 i32)"),
    ("state_cas", STATE, "compare-and-swap", "(param i32 i32 i32 i32 i64 i32 i32 i32 i64 i32)"),
    ("ask_people", "cofferdam:agent/human@0.1.0", "ask", "(param i32 i32 i32 i32 i32 i64 i32 i32 i32 i32)"),
    ("spawn", AGENTS, "spawn", "(param i32 i32 i32 i32 i32 i64 i32 i64 i32 i64 i32)"),
    ("child_id", AGENTS, "[method]child.id", "(param i32 i32)"),
    ("child_wait", AGENTS, "[method]child.wait", "(param i32 i32)"),
    ("child_cancel", AGENTS, "[method]child.cancel", "(param i32)"),
    ("child_drop", AGENTS, "[resource-drop]child", "(param i32)"),
    ("poll", "wasi:io/poll@0.2.6", "poll", "(param i32 i32 i32)"),
    ("pollable_ready", "wasi:io/poll@0.2.6", "[method]pollable.ready", "(param i32) (result i32)"),
    ("pollable_block", "wasi:io/poll@0.2.6", "[method]pollable.block", "(param i32)"),
    ("pollable_drop", "wasi:io/poll@0.2.6", "[resource-drop]pollable", "(param i32)"),
    ("in_read", STREAMS, "[method]input-stream.read", "(param i32 i64 i32)"),
    ("in_blocking_read", STREAMS, "[method]input-stream.blocking-read", "(param i32 i64 i32)"),
    ("in_skip", STREAMS, "[method]input-stream.skip", "(param i32 i64 i32)"),
    ("in_blocking_skip", STREAMS, "[method]input-stream.blocking-skip", "(param i32 i64 i32)"),
    ("in_subscribe", STREAMS, "[method]input-stream.subscribe", "(param i32) (result i32)"),
    ("in_drop", STREAMS, "[resource-drop]input-stream", "(param i32)"),
    ("check_write", STREAMS, "[method]output-stream.check-write", "(param i32 i32)"),
    ("write", STREAMS, "[method]output-stream.write", "(param i32 i32 i32 i32)"),
    ("blocking_write", STREAMS, "[method]output-stream.blocking-write-and-flush", "(param i32 i32 i32 i32)"),
    ("flush", STREAMS, "[method]output-stream.flush", "(param i32 i32)"),
    ("blocking_flush", STREAMS, "[method]output-stream.blocking-flush", "(param i32 i32)"),
    ("out_subscribe", STREAMS, "[method]output-stream.subscribe", "(param i32) (result i32)"),
    ("write_zeroes", STREAMS, "[method]output-stream.write-zeroes", "(param i32 i64 i32)"),
    ("blocking_zeroes", STREAMS, "[method]output-stream.blocking-write-zeroes-and-flush", "(param i32 i64 i32)"),
    ("splice", STREAMS, "[method]output-stream.splice", "(param i32 i32 i64 i32)"),
    ("blocking_splice", STREAMS, "[method]output-stream.blocking-splice", "(param i32 i32 i64 i32)"),
    ("out_drop", STREAMS, "[resource-drop]output-stream", "(param i32)"),
    ("clock_now", MONOTONIC, "now", "(result i64)"),
    ("clock_resolution", MONOTONIC, "resolution", "(result i64)"),
    ("subscribe_instant", MONOTONIC, "subscribe-instant", "(param i64) (result i32)"),
    ("subscribe_duration", MONOTONIC, "subscribe-duration", "(param i64) (result i32)"),
    ("wall_now", "wasi:clocks/wall-clock@0.2.6", "now", "(param i32)"),
    ("random_bytes", "wasi:random/random@0.2.6", "get-random-bytes", "(param i64 i32)"),
    ("random_u64", "wasi:random/random@0.2.6", "get-random-u64", "(result i64)"),
    ("insecure_bytes", "wasi:random/insecure@0.2.6", "get-insecure-random-bytes", "(param i64 i32)"),
    ("insecure_seed", "wasi:random/insecure-seed@0.2.6", "insecure-seed", "(param i32)"),
    ("environment", "wasi:cli/environment@0.2.6", "get-environment", "(param i32)"),
    ("arguments", "wasi:cli/environment@0.2.6", "get-arguments", "(param i32)"),
    ("initial_cwd", "wasi:cli/environment@0.2.6", "initial-cwd", "(param i32)"),
    ("exit", "wasi:cli/exit@0.2.6", "exit", "(param i32)"),
    ("stdin", "wasi:cli/stdin@0.2.6", "get-stdin", "(result i32)"),
    ("stdout", "wasi:cli/stdout@0.2.6", "get-stdout", "(result i32)"),
    ("stderr", "wasi:cli/stderr@0.2.6", "get-stderr", "(result i32)"),
    ("terminal_in", "wasi:cli/terminal-stdin@0.2.6", "get-terminal-stdin", "(param i32)"),
    ("terminal_out", "wasi:cli/terminal-stdout@0.2.6", "get-terminal-stdout", "(param i32)"),
    ("terminal_err", "wasi:cli/terminal-stderr@0.2.6", "get-terminal-stderr", "(param i32)"),
    ("thing_new", "[export]corpus:guest/things", "[resource-new]thing", "(param i32) (result i32)"),
    ("thing_drop", "[export]corpus:guest/things", "[resource-drop]thing", "(param i32)"),
    ("open_socket", "corpus:guest/sockets", "open", "(result i32)"),
];

const CONTEXT: &str = "cofferdam:agent/context@0.1.0";
const EVENTS: &str = "cofferdam:agent/events@0.1.0";
const TOOLS: &str = "cofferdam:agent/tools@0.1.0";
const STATE: &str = "cofferdam:agent/state@0.1.0";
const AGENTS: &str = "cofferdam:agent/agents@0.1.0";
const STREAMS: &str = "wasi:io/streams@0.2.6";
const MONOTONIC: &str = "wasi:clocks/monotonic-clock@0.2.6";

/// What lies in the first page of every guest's memory. `RET` is where a host call may put its answer; the others are
/// texts: an address and a length.
const WORDS: [(&str, &str); 9] = [
    ("RET", "(i32.const 2048)"),
    ("KEY", "(i32.const 4096) (i32.const 1)"),
    ("TOOL", "(i32.const 4112) (i32.const 9)"),
    ("ARGS", "(i32.const 4128) (i32.const 11)"),
    ("NULL", "(i32.const 4144) (i32.const 4)"),
    ("BAD", "(i32.const 4160) (i32.const 2)"),
    ("NOTHING", "(i32.const 0) (i32.const 0)"),
    ("OUTSIDE", "(i32.const 0xffff0000) (i32.const 16)"),
    ("HUGE", "(i32.const 16) (i32.const 0xffffffff)"),
];

/// What lies in the memory of every guest, and the functions that the texts may call.
const PRELUDE: &str = r#"
    (data (i32.const 4096) "k") (data (i32.const 4112) "file.list") (data (i32.const 4128) "{\"path\":\"\"}")
    (data (i32.const 4144) "null") (data (i32.const 4160) "\ff\c0")
    (global $heap (mut i32) (i32.const 65536))
    ;; The answer `"ok"`.
    (func $ok (result i32)
      (i32.store (i32.const 1024) (i32.const 0))
      (i32.store (i32.const 1028) (i32.const 1100))
      (i32.store (i32.const 1032) (i32.const 4))
      (i32.store (i32.const 1100) (i32.const 0x226b6f22))
      (i32.const 1024))
    ;; The answer of these bytes.
    (func $answer (param $ptr i32) (param $len i32) (result i32)
      (i32.store (i32.const 1024) (i32.const 0))
      (i32.store (i32.const 1028) (local.get $ptr))
      (i32.store (i32.const 1032) (local.get $len))
      (i32.const 1024))
    ;; Traps unless the host's last answer was a success; or a refusal.
    (func $worked (if (i32.load8_u (i32.const 2048)) (then unreachable)))
    (func $refused (if (i32.eqz (i32.load8_u (i32.const 2048))) (then unreachable)))
    ;; Room from the heap, which grows where it must.
    (func $room (param $align i32) (param $size i32) (result i32) (local $at i32)
      (local.set $at (i32.and (i32.add (global.get $heap) (i32.sub (local.get $align) (i32.const 1)))
                              (i32.sub (i32.const 0) (local.get $align))))
      (global.set $heap (i32.add (local.get $at) (local.get $size)))
      (block $fits (loop $more
        (br_if $fits (i32.le_u (global.get $heap) (i32.shl (memory.size) (i32.const 16))))
        (if (i32.eq (memory.grow (i32.const 1)) (i32.const -1)) (then unreachable))
        (br $more)))
      (local.get $at))
"#;

/// A guest in parts. What a scenario does not say is well-behaved.
#[derive(Clone)]
pub struct Core {
    world: &'static str,
    encoding: StringEncoding,
    memory: String,
    realloc: String,
    describe: String,
    run: String,
    more: String,
}

/// A guest whose `run` does this: locals, then instructions that leave the address of the result. The parameters are
/// `$ptr` and `$len`.
pub fn guest(run: impl Into<String>) -> Core {
    Core {
        world: "guest",
        encoding: StringEncoding::UTF8,
        memory: r#"(memory (export "memory") 2)"#.into(),
        realloc: "(call $room (local.get $align) (local.get $size))".into(),
        describe: "(i32.const 3072)".into(),
        run: run.into(),
        more: String::new(),
    }
}

/// A guest that is well-behaved when it is run.
pub fn calm() -> Core {
    guest("(call $ok)")
}

impl Core {
    /// Its memories, the first of which must be exported.
    pub fn memory(self, memory: impl Into<String>) -> Self {
        Self { memory: memory.into(), ..self }
    }

    /// What it does when the host asks for room, of `$old`, `$old_size`, `$align` and `$size`.
    pub fn realloc(self, body: impl Into<String>) -> Self {
        Self { realloc: body.into(), ..self }
    }

    /// What it does when it is asked what it is.
    pub fn describe(self, body: impl Into<String>) -> Self {
        Self { describe: body.into(), ..self }
    }

    /// What else is in the module.
    pub fn with(mut self, more: impl AsRef<str>) -> Self {
        self.more.push_str(more.as_ref());
        self
    }

    pub fn world(self, world: &'static str) -> Self {
        Self { world, ..self }
    }

    /// Its texts are of UTF-16.
    pub fn utf16(self) -> Self {
        Self { encoding: StringEncoding::UTF16, ..self }
    }

    fn text(&self) -> String {
        let Self { memory, realloc, describe, run, more, encoding, .. } = self;
        let described = descriptor(*encoding);
        let mut body = format!(
            r#"{memory} {PRELUDE} {described} {more}
            (func (export "cabi_realloc") (param $old i32) (param $old_size i32) (param $align i32) (param $size i32)
              (result i32) {realloc})
            (func (export "describe") (result i32) {describe})
            (func $run (export "run") (param $ptr i32) (param $len i32) (result i32) {run})"#
        );
        for (word, text) in WORDS {
            body = body.replace(word, text);
        }
        let mut imports = String::new();
        for (name, interface, function, signature) in IMPORTS {
            let called = [" ", ")", "\n"].iter().any(|end| body.contains(&format!("call ${name}{end}")));
            if called {
                imports.push_str(&format!(r#"(import "{interface}" "{function}" (func ${name} {signature}))"#));
            }
        }
        format!("(module {imports} {body})")
    }

    pub fn build(&self) -> Vec<u8> {
        agent(&self.text(), self.world, self.encoding)
    }
}

/// What a well-behaved guest says of itself, laid out at address 3072: name, version, description, two schemas, and its
/// needs: tools, a list of one text, access to state and to the workspace, agents, people, durable runs.
fn descriptor(encoding: StringEncoding) -> String {
    let unit = if encoding == StringEncoding::UTF8 { 1 } else { 2 };
    let mut record: Vec<u8> = Vec::new();
    let mut texts = Vec::new();
    let mut add = |text: &str, record: &mut Vec<u8>| {
        let address = 3200 + u32::try_from(texts.len()).expect("short");
        record.extend(address.to_le_bytes());
        record.extend(u32::try_from(text.len()).expect("short").to_le_bytes());
        texts.extend(text.bytes().flat_map(|byte| [byte, 0].into_iter().take(unit)));
    };
    for text in ["corpus", "1.0.0", "Hostile.", "true", "true"] {
        add(text, &mut record);
    }
    let mut tools = Vec::new();
    add("file.*", &mut tools);
    record.extend(3168_u32.to_le_bytes());
    record.extend(1_u32.to_le_bytes());
    // State: read and write. Workspace: none. Two bytes that align what follows: no agents, no people, not durable.
    record.extend([2, 0, 0, 0]);
    record.extend([0; 8 + 2]);
    let data = |address: u32, bytes: &[u8]| {
        let escaped: String = bytes.iter().map(|byte| format!("\\{byte:02x}")).collect();
        format!("(data (i32.const {address}) \"{escaped}\")")
    };
    [data(3072, &record), data(3168, &tools), data(3200, &texts)].concat()
}

/// The component of a core module's text.
fn agent(core: &str, world: &str, encoding: StringEncoding) -> Vec<u8> {
    static RESOLVE: LazyLock<Resolve> = LazyLock::new(|| {
        let mut resolve = Resolve::default();
        let ours = include_str!("../../../wit/agent.wit");
        for (name, text) in
            WASI.iter().map(|text| ("wasi.wit", *text)).chain([("agent.wit", ours), ("corpus.wit", WORLDS)])
        {
            resolve.push_str(name, text).unwrap_or_else(|error| panic!("{name}: {error:#}"));
        }
        resolve
    });
    let package = RESOLVE.packages.iter().find(|(_, package)| package.name.namespace == "corpus").expect("ours").0;
    let world = RESOLVE.select_world(&[package], Some(world)).expect("a world");
    let mut module = wat::parse_str(core).unwrap_or_else(|error| panic!("{error}"));
    embed_component_metadata(&mut module, &RESOLVE, world, encoding).expect("metadata");
    let encoder = ComponentEncoder::default().validate(false).module(&module);
    encoder.and_then(|mut encoder| encoder.encode()).unwrap_or_else(|error| panic!("{error:#}: {core}"))
}
