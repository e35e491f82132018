//! Hostile uploads: each is refused in words, and after it the host is as it was.

use crate::{
    server::{Server, User, config, guest, run, started, worker},
    wat::describing,
};
use cofferdam_core::{identity::Operator, ids::Digest, quota::Quota, storage::MemoryStorage};
use cofferdam_runtime::{Runtime, RuntimeConfig};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};
use wasm_encoder::{
    CodeSection, Component, ComponentBuilder, ComponentExportKind, ComponentSectionId, ComponentType,
    ComponentTypeSection, CustomSection, DataSection, Function, FunctionSection, Instruction, MemorySection,
    MemoryType, Module, ModuleSection, RawSection, Section as _, TypeSection, ValType,
};

/// How soon a worker that nobody waits for must be gone.
const GONE_WITHIN: Duration = Duration::from_millis(100);

/// A server whose compile workers can be told from those of other tests, because they have a path of their own.
pub struct Isolated {
    pub server: Server,
    worker: PathBuf,
}

impl Isolated {
    pub async fn start(quota: Quota) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("worker");
        std::os::unix::fs::symlink(worker(), &path).expect("linked");
        Self::start_in(dir, quota).await
    }

    async fn start_in(dir: tempfile::TempDir, quota: Quota) -> Self {
        let mut config = config(dir.path(), quota);
        config.compile_worker = dir.path().join("worker");
        let worker = config.compile_worker.clone();
        let app = started(config).await;
        let operator = User::new("operator", &app.url(), app.admin_key().expect("a dev server"));
        Self { server: Server { app, dir, operator }, worker }
    }

    async fn restart(self) -> Self {
        let Server { app, dir, .. } = self.server;
        app.shutdown().await;
        Self::start_in(dir, Quota::default()).await
    }

    /// The workers of this server that live.
    fn workers(&self) -> Vec<PathBuf> {
        let processes =
            std::fs::read_dir("/proc").expect("a directory").filter_map(Result::ok).map(|entry| entry.path());
        let path = self.worker.to_str().expect("a path of text").as_bytes();
        processes
            .filter(|process| std::fs::read(process.join("cmdline")).is_ok_and(|line| line.starts_with(path)))
            .collect()
    }

    /// Waits until a worker has begun.
    async fn worker(&self) -> PathBuf {
        let began = Instant::now();
        loop {
            if let Some(worker) = self.workers().pop() {
                return worker;
            }
            assert!(began.elapsed() < Duration::from_secs(20), "no worker begins");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// How long it takes until no worker is left, from now on.
    async fn workers_gone(&self) -> Duration {
        let began = Instant::now();
        while !self.workers().is_empty() && began.elapsed() < Duration::from_secs(5) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        began.elapsed()
    }

    fn files(&self, kind: &str) -> Vec<String> {
        let files = std::fs::read_dir(self.server.dir.path().join(kind)).expect("a directory");
        files.map(|file| file.expect("a file").file_name().into_string().expect("text")).collect()
    }

    /// Nothing died, nothing is left running, and nothing is kept but plugins.
    pub async fn is_well(&self) {
        assert!(self.workers_gone().await < Duration::from_secs(1), "a worker outlives its push");
        let began = Instant::now();
        let live = reqwest::get(format!("{}/livez", self.server.app.admin_url())).await.expect("answered");
        assert_eq!(live.status(), StatusCode::OK);
        assert!(
            began.elapsed() < Duration::from_millis(500),
            "the host took {:?} to say that it lives",
            began.elapsed()
        );
        assert_eq!(self.server.app.panics(), 0);
        let mut known = std::collections::BTreeSet::new();
        let listed = self.server.operator.get("/v1/plugins").await.is(StatusCode::OK);
        for plugin in listed["plugins"].as_array().expect("plugins") {
            let path = format!("/v1/plugins/{}", plugin["name"].as_str().expect("a name"));
            let versions = self.server.operator.get(&path).await.is(StatusCode::OK);
            for version in versions["versions"].as_array().expect("versions") {
                known.insert(version["digest"].as_str().expect("a digest").trim_start_matches("sha256:").to_owned());
            }
        }
        for kind in ["components", "artifacts"] {
            for file in self.files(kind) {
                let digest = file.split('.').next().expect("a name");
                assert!(known.contains(digest), "{kind}/{file} is kept of what is no plugin");
            }
        }
    }
}

/// A core module with functions of type 0: `(i32) -> i32`.
fn module(bodies: &[Function]) -> Module {
    let (mut types, mut declared, mut code) = (TypeSection::new(), FunctionSection::new(), CodeSection::new());
    types.ty().function([ValType::I32], [ValType::I32]);
    for body in bodies {
        declared.function(0);
        code.function(body);
    }
    let mut module = Module::new();
    module.section(&types).section(&declared).section(&code);
    module
}

fn of(module: &Module) -> Vec<u8> {
    let mut component = Component::new();
    component.section(&ModuleSection(module));
    component.finish()
}

/// A function of about so many bytes that takes long to compile: many variables, and a branch at every step.
fn branchy(bytes: usize) -> Function {
    let mut body = Function::new([(63, ValType::I32)]);
    for k in 0..u32::try_from(bytes / 12).expect("small") {
        body.instruction(&Instruction::LocalGet(k % 64));
        body.instruction(&Instruction::If(wasm_encoder::BlockType::Empty));
        body.instruction(&Instruction::LocalGet((k * 7) % 64));
        body.instruction(&Instruction::I32Const(1));
        body.instruction(&Instruction::I32Add);
        body.instruction(&Instruction::LocalSet((k * 13) % 64));
        body.instruction(&Instruction::End);
    }
    body.instruction(&Instruction::LocalGet(0));
    body.instruction(&Instruction::End);
    body
}

/// A jump table with so many targets.
fn jumps(targets: u32) -> Function {
    let mut body = Function::new([]);
    body.instruction(&Instruction::Block(wasm_encoder::BlockType::Empty));
    body.instruction(&Instruction::LocalGet(0));
    body.instruction(&Instruction::BrTable(vec![0; targets as usize].into(), 0));
    body.instruction(&Instruction::End);
    body.instruction(&Instruction::LocalGet(0));
    body.instruction(&Instruction::End);
    body
}

fn locals(count: u32) -> Function {
    let mut body = Function::new([(count, ValType::I64)]);
    body.instruction(&Instruction::LocalGet(0));
    body.instruction(&Instruction::End);
    body
}

/// `echo` with a module beside it that is never instantiated, and takes seconds to compile.
fn slow_echo() -> Vec<u8> {
    let mut component = guest("echo");
    let bodies: Vec<_> = (0..6).map(|_| branchy(60_000)).collect();
    RawSection { id: ComponentSectionId::CoreModule.into(), data: &module(&bodies).finish() }.append_to(&mut component);
    component
}

/// Each level instantiates the one below so often.
fn instantiating(levels: u32, times: u32) -> Vec<u8> {
    let mut component = Component::new().finish();
    for _ in 0..levels {
        let mut outer = ComponentBuilder::default();
        let inner = outer.component_raw(None, &component);
        for _ in 0..times {
            outer.instantiate(None, inner, Vec::<(&str, ComponentExportKind, u32)>::new());
        }
        component = outer.finish();
    }
    component
}

/// Instance types inside one another, so many levels deep, as no encoder would write them.
fn types_inside_types(levels: usize) -> Vec<u8> {
    let mut types = vec![1];
    // An instance type that declares one item, which is a type.
    types.extend((0..levels).flat_map(|_| [0x42, 1, 1]));
    types.extend([0x42, 0]);
    let mut component = Component::new();
    component.section(&RawSection { id: ComponentSectionId::Type.into(), data: &types });
    component.finish()
}

/// Tuples of the tuple before: so many values as two to the power of the levels.
fn exponential(levels: u32) -> Vec<u8> {
    let mut types = ComponentTypeSection::new();
    types.defined_type().primitive(wasm_encoder::PrimitiveValType::U8);
    for level in 0..levels {
        let before = wasm_encoder::ComponentValType::Type(level);
        types.defined_type().tuple([before, before]);
    }
    let mut component = Component::new();
    component.section(&types);
    component.finish()
}

/// A type that declares so many instances with so many types each.
fn declaring(instances: u32, each: u32) -> Vec<u8> {
    let mut outer = ComponentType::new();
    for _ in 0..instances {
        let mut inner = wasm_encoder::InstanceType::new();
        for _ in 0..each {
            inner.ty().defined_type().primitive(wasm_encoder::PrimitiveValType::U8);
        }
        outer.ty().instance(&inner);
    }
    let mut types = ComponentTypeSection::new();
    types.component(&outer);
    let mut component = Component::new();
    component.section(&types);
    component.finish()
}

fn with_memories(minimums: &[u64]) -> Vec<u8> {
    let mut component = ComponentBuilder::default();
    let mut memories = MemorySection::new();
    for minimum in minimums {
        memories.memory(MemoryType {
            minimum: *minimum,
            maximum: None,
            memory64: false,
            shared: false,
            page_size_log2: None,
        });
    }
    let mut module = Module::new();
    module.section(&memories);
    let module = component.core_module(None, &module);
    component.core_instantiate(None, module, Vec::<(&str, wasm_encoder::ModuleArg)>::new());
    component.finish()
}

/// One upload for each place that refuses some: the first look, the look at the structure, the compiler, and the linker.
pub fn refused() -> Vec<(&'static str, Vec<u8>)> {
    let echo = guest("echo");
    vec![
        ("machine code", b"\x7fELF\x02\x01\x01\xc8".to_vec()),
        ("half of a component", echo[..echo.len() / 2].to_vec()),
        ("a bomb of instances", instantiating(12, 10)),
        ("types as deep as they go", types_inside_types(500_000)),
        ("a jump table beyond the compiler's", of(&module(&[jumps(200_000)]))),
        ("a memory beyond the sandbox's", with_memories(&[4_097])),
        ("an empty component", Component::new().finish()),
    ]
}

#[test]
fn hostile_uploads_are_refused_in_words_and_leave_nothing() {
    run(async {
        let isolated = Isolated::start(Quota::default()).await;
        let echo = guest("echo");
        let mut strings = Component::new();
        for _ in 0..=2_000 {
            strings.section(&CustomSection { name: "x".into(), data: [].as_slice().into() });
        }
        let precompiled = b"\x7fELF\x02\x01\x01\xc8".to_vec();
        let mut flipped = echo.clone();
        flipped[9] ^= 0xFF;
        let cases: Vec<(&str, Vec<u8>, &[&str])> = vec![
            ("nothing", Vec::new(), &["not_a_component"]),
            ("text", b"(component)".to_vec(), &["not_a_component"]),
            ("machine code", precompiled, &["not_a_component"]),
            ("a core module", module(&[]).finish(), &["not_a_component"]),
            ("another version", b"\0asm\x0e\0\x01\0".to_vec(), &["not_a_component"]),
            ("half of a component", echo[..echo.len() / 2].to_vec(), &["malformed"]),
            ("a component without its end", echo[..echo.len() - 1].to_vec(), &["malformed"]),
            ("a changed section", flipped, &["malformed", "compile_failed"]),
            ("an empty component", Component::new().finish(), &["wrong_world"]),
            ("instances just within the limit", instantiating(3, 12), &["wrong_world", "compile_failed"]),
            ("instances beyond it", instantiating(3, 13), &["too_complex"]),
            ("a bomb of instances", instantiating(12, 10), &["too_complex"]),
            ("a huge function", of(&module(&[branchy(300_000)])), &["wrong_world"]),
            ("a larger function", of(&module(&[branchy(3 << 20)])), &["too_complex"]),
            ("a jump table", of(&module(&[jumps(65_000)])), &["wrong_world"]),
            ("a jump table beyond the compiler's", of(&module(&[jumps(200_000)])), &["compile_failed"]),
            ("many locals", of(&module(&vec![locals(49_000); 100])), &["wrong_world"]),
            ("too many locals", of(&module(&vec![locals(49_000); 210])), &["too_complex"]),
            ("types inside types", types_inside_types(15), &["wrong_world", "compile_failed"]),
            ("types deep inside types", types_inside_types(17), &["too_complex"]),
            ("types as deep as they go", types_inside_types(500_000), &["too_complex"]),
            ("a type that doubles", exponential(12), &["wrong_world"]),
            ("a type that doubles beyond bounds", exponential(500), &["compile_failed"]),
            ("many declarations", declaring(20, 5_100), &["too_complex"]),
            ("many custom sections", strings.finish(), &["too_complex"]),
            ("a memory beyond the sandbox's", with_memories(&[4_097]), &["too_many_resources"]),
            ("more memories than a sandbox has", with_memories(&[1; 5]), &["too_many_resources"]),
        ];
        for (what, bytes, codes) in cases {
            let began = Instant::now();
            let answer = isolated.server.operator.push("hostile-upload", bytes).await;
            let said = answer.json();
            let code = said["code"].as_str().unwrap_or_default();
            println!("{what}: {} {code} in {:?}: {}", answer.status, began.elapsed(), said["detail"]);
            assert!(
                answer.status.is_client_error() && codes.contains(&code),
                "{what}: {} {}",
                answer.status,
                answer.text
            );
            if code == "too_complex" {
                let detail = said["detail"].as_str().expect("words");
                assert!(detail.contains("at most") && detail.contains("; "), "{what}: the way out is told: {detail}");
            }
            isolated.is_well().await;
        }
        assert_eq!(isolated.server.operator.get("/v1/plugins/hostile-upload").await.status, StatusCode::NOT_FOUND);
    });
}

#[test]
fn a_plugin_that_does_not_say_what_it_is_in_time_and_space_is_refused() {
    run(async {
        let isolated = Isolated::start(Quota::default()).await;
        let polite =
            isolated.server.operator.push("polite", describing("(call $polite)")).await.is(StatusCode::CREATED);
        assert_eq!((&polite["title"], &polite["input_schema"]), (&json!("x"), &json!(true)));
        let long = |field: u32| {
            let body = "(drop (memory.grow (i32.const 200))) (drop (call $polite))
                        (call $at (i32.const FIELD) (i32.const 4096) (i32.const 10000000)) (i32.const 1024)";
            describing(&body.replace("FIELD", &field.to_string()))
        };
        let cases = [
            ("spins", describing("(loop $l (br $l)) (unreachable)"), "describe_failed", "fuel"),
            (
                "grows",
                describing("(loop $l (br_if $l (i32.ge_s (memory.grow (i32.const 16)) (i32.const 0)))) (unreachable)"),
                "describe_failed",
                "",
            ),
            ("traps", describing("(unreachable)"), "describe_failed", "trap"),
            ("exits", describing("(call $exit (i32.const 0)) (unreachable)"), "describe_failed", "exit"),
            ("lies about where", describing("(i32.const -4)"), "describe_failed", ""),
            (
                "refers to elsewhere",
                describing(
                    "(drop (call $polite)) (call $at (i32.const 24) (i32.const 4200) (i32.const 20)) (i32.const 1024)",
                ),
                "invalid_description",
                "/$ref",
            ),
            ("a name of 10 MB", long(0), "describe_failed", ""),
            ("a description of 10 MB", long(16), "describe_failed", ""),
            ("a schema of 10 MB", long(24), "describe_failed", ""),
        ];
        for (what, component, code, word) in cases {
            let began = Instant::now();
            let answer = isolated.server.operator.push("mute", component).await;
            let problem = answer.problem(422, code);
            println!("{what}: in {:?}: {}", began.elapsed(), problem["detail"]);
            assert!(problem["detail"].as_str().is_some_and(|detail| detail.contains(word)), "{what}: {problem}");
            assert!(began.elapsed() < Duration::from_secs(7), "{what}: took {:?}", began.elapsed());
            isolated.is_well().await;
        }
    });
}

#[test]
fn plugins_that_nobody_uses_stay_loaded_only_as_far_as_there_is_room() {
    run(async {
        let dir = tempfile::tempdir().expect("a directory");
        let config =
            RuntimeConfig { memory_bytes_max: 1 << 30, runs_live_max: 8, ..RuntimeConfig::new(dir.path(), worker()) };
        let runtime = Runtime::start(config, Arc::new(MemoryStorage::default())).await.expect("started");
        let (operator, user) = (Operator::host(), "operator".parse().expect("a user id"));
        for n in 0..26_u8 {
            // Its data stays in memory with its machine code, though nobody ever looks at it.
            let mut data = DataSection::new();
            data.passive(vec![n; 6 << 20]);
            let mut module = Module::new();
            module.section(&data);
            let mut component = describing("(call $polite)");
            RawSection { id: ComponentSectionId::CoreModule.into(), data: &module.finish() }.append_to(&mut component);
            let name = format!("large-{n}").parse().expect("a name");
            runtime.registry().push(operator, &user, name, component.into()).await.expect("pushed");
            let (_, bytes) = runtime.plugins_loaded();
            assert!(bytes <= 128 << 20, "{bytes} bytes after {n}");
        }
        let (count, bytes) = runtime.plugins_loaded();
        assert!((10..=21).contains(&count) && bytes > 100 << 20, "{count} with {bytes} bytes");
        runtime.drain(Duration::ZERO).await;
    });
}

#[test]
fn no_user_can_stand_in_the_way_of_plugins_that_say_what_they_are() {
    run(async {
        let isolated = Isolated::start(Quota { memory_bytes_per_user: 32 << 20, ..Quota::default() }).await;
        let server = &isolated.server;
        server.operator.push("hostile", guest("hostile")).await.is(StatusCode::CREATED);
        let nobody = server.user("nobody").await;
        let held = json!({"agent": "hostile", "input": {"scenario": "sleep_long"}, "limits": {"deadline_ms": 30_000}});
        let runs = [nobody.submit(&held).await, nobody.submit(&held).await];
        let both_hold_memory = async {
            while server.app.runtime().memory_bytes() < 2 << 20 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), both_hold_memory).await.expect("both runs began");
        // 31 MiB, beside what the user holds.
        let large =
            describing("(drop (memory.grow (i32.const 496))) (drop (i32.load (i32.const 32000000))) (call $polite)");
        server.operator.push("large", large).await.is(StatusCode::CREATED);
        for id in runs {
            nobody.post(&format!("/v1/runs/{id}/cancel"), &json!({})).await.is(StatusCode::OK);
        }
        isolated.is_well().await;
    });
}

#[test]
fn a_worker_has_three_pipes_and_can_have_no_more() {
    run(async {
        let isolated = Isolated::start(Quota::default()).await;
        let operator = isolated.server.operator.clone();
        #[expect(clippy::disallowed_methods, reason = "a client of its own")]
        let push = tokio::spawn(async move { operator.push("slow", slow_echo()).await });
        let process = isolated.worker().await;
        // It limits itself before it reads; by then it may have begun just now.
        tokio::time::sleep(Duration::from_millis(200)).await;
        let mut files: Vec<_> = std::fs::read_dir(process.join("fd"))
            .expect("a directory")
            .map(|fd| std::fs::read_link(fd.expect("a file").path()).expect("a link"))
            .collect();
        files.sort();
        assert_eq!(files.len(), 3, "{files:?}");
        for file in &files {
            let name = file.to_str().expect("text");
            assert!(name.starts_with("pipe:"), "{name}");
        }
        assert_eq!(std::fs::read(process.join("environ")).expect("read"), b"", "nothing of the host's environment");
        assert_eq!(std::fs::read_link(process.join("cwd")).expect("a link"), Path::new("/"));
        let limits = std::fs::read_to_string(process.join("limits")).expect("read");
        let limit = |name: &str| {
            let line =
                limits.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("{name}: {limits}"));
            line.split_whitespace().take(2).map(str::to_owned).collect::<Vec<_>>()
        };
        for (name, value) in [
            ("Max open files", "3"),
            ("Max file size", "0"),
            ("Max processes", "0"),
            ("Max core file size", "0"),
            ("Max cpu time", "60"),
        ] {
            assert_eq!(limit(name), [value, value], "{name}");
        }
        let memory: u64 = limit("Max address space")[0].parse().expect("a number");
        assert!((96 << 20..1 << 30).contains(&memory), "what this component asks for, and not all there is: {memory}");
        push.await.expect("pushed").is(StatusCode::CREATED);
        isolated.is_well().await;
    });
}

#[test]
fn a_client_that_goes_away_takes_its_worker_along() {
    run(async {
        let isolated = Isolated::start(Quota::default()).await;
        for _ in 0..3 {
            let operator = isolated.server.operator.clone();
            #[expect(clippy::disallowed_methods, reason = "a client that is cut off")]
            let push = tokio::spawn(async move { operator.push("slow", slow_echo()).await });
            isolated.worker().await;
            tokio::time::sleep(Duration::from_millis(100)).await;
            push.abort();
            let took = isolated.workers_gone().await;
            assert!(took < GONE_WITHIN, "the worker lived on for {took:?}");
            isolated.is_well().await;
        }
        assert_eq!((isolated.files("components").len(), isolated.files("artifacts").len()), (0, 0));
        isolated.server.operator.push("slow", slow_echo()).await.is(StatusCode::CREATED);
    });
}

#[test]
fn a_run_that_ends_while_its_plugin_is_compiled_again_ends_that_and_the_next_takes_over() {
    run(async {
        let isolated = Isolated::start(Quota::default()).await;
        let component = slow_echo();
        let artifact = format!("artifacts/{}.cwasm", Digest::of(&component).hex());
        isolated.server.operator.push("slow", component).await.is(StatusCode::CREATED);
        std::fs::remove_file(isolated.server.dir.path().join(&artifact)).expect("removed");
        let isolated = isolated.restart().await;
        let (ann, bob) = (isolated.server.stranger().await, isolated.server.stranger().await);
        let body = |input: &str| json!({"agent": "slow", "input": input});

        let cancelled = ann.submit(&body("one")).await;
        isolated.worker().await;
        let ended = ann.send(Method::POST, &format!("/v1/runs/{cancelled}/cancel"), None).await.is(StatusCode::OK);
        let took = isolated.workers_gone().await;
        assert!(took < GONE_WITHIN, "the worker lived on for {took:?}");
        assert_eq!(ended["stop_reason"], "cancelled", "{ended}");

        let began = Instant::now();
        let late = ann.submit(&json!({"agent": "slow", "input": 1, "limits": {"deadline_ms": 400}})).await;
        let late = ann.ended(&late).await;
        assert_eq!(late["stop_reason"], "deadline", "{late}");
        assert!(began.elapsed() < Duration::from_millis(1_500), "{:?}", began.elapsed());
        assert!(isolated.workers_gone().await < GONE_WITHIN);

        let first = ann.submit(&body("two")).await;
        let begun = isolated.worker().await;
        let second = bob.submit(&body("three")).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert_eq!(isolated.workers(), std::slice::from_ref(&begun), "two that need the same artifact compile it once");
        ann.send(Method::POST, &format!("/v1/runs/{first}/cancel"), None).await.is(StatusCode::OK);
        let ended = bob.ended(&second).await;
        assert_eq!((&ended["stop_reason"], &ended["output"]), (&json!("completed"), &json!("three")), "{ended}");
        assert!(isolated.server.dir.path().join(&artifact).exists(), "it is kept again");
        isolated.is_well().await;
    });
}

#[test]
fn an_artifact_is_loaded_only_as_it_was_written() {
    run(async {
        let mut isolated = Isolated::start(Quota::default()).await;
        // Small, so that compiling it at every turn takes no time; the tampering does not depend on the size.
        isolated.server.operator.push("one", describing("(call $polite)")).await.is(StatusCode::CREATED);
        isolated
            .server
            .operator
            .push("two", describing("(drop (i32.const 1)) (call $polite)"))
            .await
            .is(StatusCode::CREATED);
        let path = |name: &str, isolated: &Isolated, listed: &Value| {
            let digest = listed["latest"]["digest"].as_str().unwrap_or_else(|| panic!("{name}: {listed}"));
            isolated.server.dir.path().join(format!("artifacts/{}.cwasm", digest.trim_start_matches("sha256:")))
        };
        let one = isolated.server.operator.get("/v1/plugins/one").await.is(StatusCode::OK);
        let two = isolated.server.operator.get("/v1/plugins/two").await.is(StatusCode::OK);
        let (one, two) = (path("one", &isolated, &one), path("two", &isolated, &two));
        let (good, other) = (std::fs::read(&one).expect("read"), std::fs::read(&two).expect("read"));
        let length = good.len();
        let mut tampered: Vec<(String, Vec<u8>)> =
            [0, 1, 15, 31, 32, 33, 36, 64, 100, 512, 4_096, length / 3, length / 2]
                .into_iter()
                .chain([length - 4_096, length - 64, length - 2, length - 1])
                .map(|at| {
                    let mut bytes = good.clone();
                    bytes[at] ^= 1 << (at % 8);
                    (format!("a bit at {at}"), bytes)
                })
                .collect();
        for end in [0, 1, 31, 32, 33, length / 2, length - 1] {
            tampered.push((format!("cut at {end}"), good[..end].to_vec()));
        }
        tampered.push(("a byte more".into(), [good.as_slice(), &[0]].concat()));
        tampered.push(("twice".into(), [good.as_slice(), &good].concat()));
        tampered.push(("another component's".into(), other.clone()));
        tampered.push(("another's machine code under this tag".into(), [&good[..32], &other[32..]].concat()));
        for (what, bytes) in tampered {
            std::fs::write(&one, &bytes).expect("written");
            isolated = isolated.restart().await;
            let ann = isolated.server.stranger().await;
            let run = ann.finish(&json!({"agent": "one", "input": 1})).await;
            // Its `run` traps, which says that it ran: what was not loaded was compiled anew, and is written again.
            assert_eq!(run["stop_reason"], "trap", "{what}: {run}");
            assert_eq!(std::fs::read(&one).expect("read"), good, "{what}: it was loaded");
        }
        isolated.is_well().await;
    });
}
