//! Rust's view of the WIT, generated. Nothing here is written by hand, and nobody outside this crate sees it.

/// World `agent`, and the interfaces that both worlds share.
pub mod agent {
    wasmtime::component::bindgen!({
        path: "../../wit",
        world: "agent",
        imports: { default: async | trappable },
        exports: { default: async },
        with: {
            "cofferdam:agent/tools.pending": crate::imports::tools::Pending,
            "cofferdam:agent/agents.child": crate::imports::children::Child,
        },
        // Answers are kept in the record of a run.
        additional_derives: [bincode::Encode, bincode::Decode],
    });
}

/// World `tool`.
pub mod tool {
    wasmtime::component::bindgen!({
        path: "../../wit",
        world: "tool",
        exports: { default: async },
        with: {
            "cofferdam:agent/types": super::agent::cofferdam::agent::types,
            "cofferdam:agent/context": super::agent::cofferdam::agent::context,
            "cofferdam:agent/events": super::agent::cofferdam::agent::events,
            "cofferdam:agent/state": super::agent::cofferdam::agent::state,
        },
    });
}

pub use agent::cofferdam::agent::{agents, context, events, human, state, types};
pub use tool::cofferdam::agent::tool_plugins;
