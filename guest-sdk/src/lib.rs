//! Write agents and tool plugins for Cofferdam in Rust.
//!
//! An **agent** takes a JSON input, works, and gives a JSON output. It runs for one user, in a sandbox of its own,
//! and everything it does to the world outside goes through its [`Context`]: tools, events, the user's state, questions to
//! people, and agents that it starts.
//! Implement [`Agent`] and name the type in [`export_agent!`]:
//!
//! ```no_run,standalone_crate
//! use cofferdam_sdk::{Access, Agent, Context, Error, Needs, Scope, export_agent};
//!
//! #[derive(serde::Deserialize, schemars::JsonSchema)]
//! struct Input {
//!     /// The file to count, in the user's workspace.
//!     path: String,
//! }
//!
//! #[derive(serde::Serialize, schemars::JsonSchema)]
//! struct Output {
//!     lines: usize,
//!     /// How often this file was counted, this time included.
//!     times: u64,
//! }
//!
//! struct LineCount;
//!
//! impl Agent for LineCount {
//!     type Input = Input;
//!     type Output = Output;
//!     const DESCRIPTION: &'static str = "Counts the lines of a file.";
//!
//!     fn needs() -> Needs {
//!         Needs::none().tools(["file.read"]).state(Access::ReadWrite)
//!     }
//!
//!     fn run(ctx: &Context, input: Input) -> Result<Output, Error> {
//!         ctx.thinking(&format!("Counting the lines of {}", input.path))?;
//!         let lines = ctx.files().read_to_string(&input.path)?.lines().count();
//!         let state = ctx.state(Scope::User);
//!         let times = state.get_json::<u64>("times")?.map_or(0, |stored| stored.value) + 1;
//!         state.set_json("times", &times)?;
//!         Ok(Output { lines, times })
//!     }
//! }
//!
//! export_agent!(LineCount);
//! # fn main() {}
//! ```
//!
//! A **tool plugin** offers tools to agents: implement [`ToolPlugin`] and name the type in [`export_tool!`].
//!
//! Either is a library crate of type `cdylib`, built for the target `wasm32-wasip2`:
//!
//! ```toml
//! [lib]
//! crate-type = ["cdylib"]
//!
//! [profile.release]
//! panic = "abort"
//! lto = true
//! codegen-units = 1
//! strip = true
//! ```
//!
//! # What a plugin can reach
//!
//! Nothing but its [`Context`] and, of the standard library, `std::time`, standard output and error (each line becomes
//! a `log` event) and random numbers (which `HashMap` uses). Of files, `std::fs` finds `/scratch`, which starts empty and
//! goes with the run, and `/workspace`, if the plugin [needs](Needs::workspace) it and the user was granted it. The
//! environment is empty, `std::net` and threads do not exist. A panic ends the run with the stop reason `trap`; return an [`Error`] instead.
//!
//! # Deriving without further dependencies
//!
//! [`serde`], [`serde_json`] and [`schemars`] are re-exported. An author who does not want to depend on them says where
//! the derives find them:
//!
//! ```
//! use cofferdam_sdk::{schemars, serde};
//!
//! #[derive(serde::Deserialize, schemars::JsonSchema)]
//! #[serde(crate = "cofferdam_sdk::serde")]
//! #[schemars(crate = "cofferdam_sdk::schemars")]
//! struct Input {
//!     path: String,
//! }
//! ```

#![warn(missing_docs)]
#![deny(unsafe_code)]

pub use schemars;
pub use serde;
pub use serde_json;

mod agent;
mod children;
mod context;
mod error;
mod events;
mod files;
mod human;
mod json;
mod needs;
mod state;
mod tool_plugin;
mod tools;
mod wait;

pub use agent::Agent;
pub use children::{Child, ChildError, ChildFailure, ChildLimits, SpawnError};
pub use context::{BudgetLeft, Context, ToolContext};
pub use error::Error;
pub use events::{EventError, Level};
pub use files::{CHUNK_BYTES_MAX, Chunk, Entry, EntryKind, Files, Listing};
pub use human::{AskError, Question};
pub use needs::{Access, Needs};
pub use state::{Scope, State, StateError, Stored};
pub use tool_plugin::{Tool, ToolPlugin};
pub use tools::{Pending, ToolError, ToolInfo};
pub use wait::WaitError;

/// Generated from `wit/agent.wit`. Not for authors: it changes with the generator.
#[doc(hidden)]
#[allow(
    missing_docs,
    unsafe_code,
    clippy::all,
    clippy::restriction,
    clippy::pedantic,
    reason = "written by the generator, with the calling convention of components, which is unsafe by its nature"
)]
pub mod __bindings {
    pub mod agent {
        wit_bindgen::generate!({
            path: "../wit",
            world: "agent",
            // The exports exist only where `export_agent!` is expanded, and so does the section that describes them:
            // a crate that exports a tool plugin carries no trace of the world `agent`.
            pub_export_macro: true,
            export_macro_name: "export_world",
        });
    }

    pub mod tool {
        wit_bindgen::generate!({
            path: "../wit",
            world: "tool",
            pub_export_macro: true,
            export_macro_name: "export_world",
            // One set of types for both worlds, so that one context serves both.
            with: {
                "cofferdam:agent/types@0.1.0": super::agent::cofferdam::agent::types,
                "cofferdam:agent/context@0.1.0": super::agent::cofferdam::agent::context,
                "cofferdam:agent/events@0.1.0": super::agent::cofferdam::agent::events,
                "cofferdam:agent/state@0.1.0": super::agent::cofferdam::agent::state,
            },
        });
    }
}

/// What the export macros call. Not for authors.
#[doc(hidden)]
pub mod __export {
    pub use crate::agent::{describe as describe_agent, run as run_agent};
    pub use crate::tool_plugin::{call as call_tool, describe as describe_tool_plugin};
}

/// The interfaces of the contract, under one short name for the modules of this crate.
pub(crate) use __bindings::agent::cofferdam::agent as wit;

/// Makes this crate an agent: exports the world `agent`, answered by a type that implements [`Agent`].
///
/// Once per crate, at the top of `lib.rs`. Name and version are those of the author's `Cargo.toml`, unless the agent
/// sets [`Agent::NAME`] or [`Agent::VERSION`]. See the [crate's page](crate) for a whole agent.
#[macro_export]
macro_rules! export_agent {
    ($agent:ty) => {
        const _: () = {
            struct Exported;

            impl $crate::__bindings::agent::Guest for Exported {
                fn describe() -> $crate::__bindings::agent::Descriptor {
                    // `env!` is read where the macro is expanded: in the author's crate.
                    $crate::__export::describe_agent::<$agent>(
                        ::core::env!("CARGO_PKG_NAME"),
                        ::core::env!("CARGO_PKG_VERSION"),
                    )
                }

                fn run(
                    input: ::std::string::String,
                ) -> ::core::result::Result<::std::string::String, $crate::__bindings::agent::AgentError> {
                    $crate::__export::run_agent::<$agent>(&input)
                }
            }

    $crate::__bindings::agent::export_world!(Exported with_types_in $crate::__bindings::agent);
        };
    };
}

/// Makes this crate a tool plugin: exports the world `tool`, answered by a type that implements [`ToolPlugin`].
///
/// Once per crate, at the top of `lib.rs`. Name and version are those of the author's `Cargo.toml`, unless the plugin
/// sets [`ToolPlugin::NAME`] or [`ToolPlugin::VERSION`].
#[macro_export]
macro_rules! export_tool {
    ($plugin:ty) => {
        const _: () = {
            struct Exported;

            impl $crate::__bindings::tool::Guest for Exported {
                fn describe() -> $crate::__bindings::tool::PluginDescriptor {
                    $crate::__export::describe_tool_plugin::<$plugin>(
                        ::core::env!("CARGO_PKG_NAME"),
                        ::core::env!("CARGO_PKG_VERSION"),
                    )
                }

                fn call(
                    name: ::std::string::String,
                    arguments: ::std::string::String,
                ) -> ::core::result::Result<::std::string::String, $crate::__bindings::tool::ToolError> {
                    $crate::__export::call_tool::<$plugin>(&name, &arguments)
                }
            }

    $crate::__bindings::tool::export_world!(Exported with_types_in $crate::__bindings::tool);
        };
    };
}
