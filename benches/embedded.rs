//! What benchmarks compare: bare wasmtime, and the host without its server.

use cofferdam_core::{
    Json,
    grant::{Access, Permissions},
    identity::{Operator, Scope},
    ids::{RequestId, UserId},
    quota::LimitsAsked,
    run::{Durability, Priority, StopReason},
    storage::Storage,
};
use cofferdam_runtime::{Runtime, RuntimeConfig, Submission};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
};
use wasmtime::{
    Config, Engine, InstanceAllocationStrategy, PoolingAllocationConfig, Store,
    component::{Component, Linker, ResourceTable, ResourceType, types::ComponentItem},
};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};

#[allow(missing_docs, reason = "generated")]
mod bare {
    wasmtime::component::bindgen!({
        path: "../../wit",
        world: "agent",
        imports: { default: async },
        exports: { default: async },
    });
}

/// The bare embedding: wasmtime with its pooling allocator as that is by default, fuel, and WASI; the imports of the world do
/// nothing.
pub struct Bare {
    engine: Engine,
    pre: bare::AgentPre<BareGuest>,
}

struct BareGuest {
    wasi: WasiCtx,
    table: ResourceTable,
}

impl WasiView for BareGuest {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

impl Bare {
    pub fn new(component: &[u8]) -> Self {
        let mut config = Config::new();
        let mut pool = PoolingAllocationConfig::new();
        pool.max_memory_size(256 << 20).table_elements(65_536);
        config
            .allocation_strategy(InstanceAllocationStrategy::Pooling(pool))
            .consume_fuel(true)
            .concurrency_support(false);
        let engine = Engine::new(&config).expect("an engine");
        let mut linker = Linker::new(&engine);
        // The bare embedding links what the agent can do as functions that do nothing.
        linker.allow_shadowing(true);
        wasmtime_wasi::p2::add_to_linker_async(&mut linker).expect("linked");
        let component = Component::from_binary(&engine, component).expect("compiled");
        let mut events = linker.instance("cofferdam:agent/events@0.1.0").expect("an instance");
        type Said = (Result<(), bare::cofferdam::agent::events::EventError>,);
        events
            .func_wrap_async("thinking", |_, (_text,): (String,)| Box::new(async { Ok((Ok(()),) as Said) }))
            .expect("linked");
        for (name, import) in component.component_type().imports(&engine) {
            let ComponentItem::ComponentInstance(interface) = import.ty else { continue };
            if !name.starts_with("cofferdam:") {
                continue;
            }
            let mut linker = linker.instance(name).expect("an instance");
            for (name, item) in interface.exports(&engine) {
                match item.ty {
                    ComponentItem::ComponentFunc(_) if name != "thinking" => linker
                        .func_new(name, |_, _, _, _| Err(wasmtime::Error::msg("not measured here")))
                        .expect("linked"),
                    ComponentItem::Resource(_) => {
                        linker.resource(name, ResourceType::host::<()>(), |_, _| Ok(())).expect("linked");
                    }
                    _ => {}
                }
            }
        }
        let pre = bare::AgentPre::new(linker.instantiate_pre(&component).expect("linked")).expect("an agent");
        Self { engine, pre }
    }

    /// Opens a store, instantiates, calls, drops.
    pub async fn run(&self, input: &str) -> String {
        let guest = BareGuest { wasi: WasiCtx::builder().build(), table: ResourceTable::new() };
        let mut store = Store::new(&self.engine, guest);
        store.set_fuel(10_000_000_000).expect("fuel");
        let agent = self.pre.instantiate_async(&mut store).await.expect("instantiated");
        agent.call_run(&mut store, &input.to_owned()).await.expect("called").expect("succeeded")
    }
}

/// The host, without its server.
pub struct Host {
    pub runtime: Runtime,
    pub scope: Scope,
}

impl Host {
    /// A host that has what an earlier one left in the folder and in storage.
    pub async fn start(dir: &Path, storage: Arc<dyn Storage>) -> Self {
        let worker = PathBuf::from(env!("CARGO_BIN_EXE_cofferdam"));
        let runtime = Runtime::start(RuntimeConfig::new(dir.to_owned(), worker), storage).await.expect("started");
        let user = "bench".parse::<UserId>().expect("a user");
        Self { runtime, scope: Operator::host().on_behalf_of(&user) }
    }

    /// Takes a component, and grants it everything.
    pub async fn push(&self, name: &str, component: Vec<u8>) {
        let (operator, user) = (Operator::host(), self.scope.user());
        let plugin = name.parse().expect("a name");
        self.runtime.registry().push(operator, user, plugin, component.into()).await.expect("pushed");
        let all = Permissions::new(["*".parse().expect("a pattern")], Access::ReadWrite);
        self.runtime.put_grant(operator, user, &name.parse().expect("a name"), all).await.expect("granted");
    }

    /// A run as a client asks for it.
    pub fn submission(agent: &str, input: &str) -> Submission {
        Submission {
            agent: agent.parse().expect("an agent"),
            input: Json::parse(input).expect("JSON"),
            thread: None,
            session: None,
            metadata: None,
            limits: LimitsAsked::default(),
            priority: Priority::default(),
            durability: Durability::default(),
            retries: None,
            request: RequestId::generate(),
            once: None,
        }
    }

    /// Admit, execute, close, in the caller's task.
    pub async fn here(&self, agent: &str, input: &str) {
        let run = self.runtime.execute_here(&self.scope, Self::submission(agent, input)).await.expect("accepted");
        assert_eq!(run.stop_reason, Some(StopReason::Completed), "{:?}", run.error);
    }
}

/// Memory of this process that is its own, in bytes: a page that several mappings share counts once. In the plain resident
/// size, the kernel counts the pages around a guest's first look at its image once for each guest that maps them.
pub fn own_bytes() -> u64 {
    let rollup = std::fs::read_to_string("/proc/self/smaps_rollup").expect("a Linux that has it");
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:")).expect("a line");
    line.split_whitespace().next().and_then(|kib| kib.parse::<u64>().ok()).expect("a number") * 1024
}
