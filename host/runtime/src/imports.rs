//! What a guest can call: one WIT interface each. Every function here runs on behalf of untrusted code: it takes from a
//! budget or asks for a permit before it does anything, and a guest's mistake is a WIT error, a host's mistake a trap.

pub mod children;
mod context;
mod events;
mod filesystem;
mod human;
mod state;
pub mod tools;
mod waits;

use crate::{
    bindings,
    sandbox::{Guest, HostFailure},
};
use cofferdam_core::journal::RunJournal;
use wasmtime::component::{HasSelf, Linker};

/// Links the interfaces that both worlds import.
///
/// # Errors
/// When an interface is defined twice.
pub fn link(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    context::link(linker)?;
    filesystem::link(linker)?;
    bindings::events::add_to_linker::<_, HasSelf<Guest>>(linker, Guest::called)?;
    bindings::state::add_to_linker::<_, HasSelf<Guest>>(linker, Guest::called)
}

/// Links what only agents import.
///
/// # Errors
/// When an interface is defined twice.
pub fn link_agent(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    tools::link(linker)?;
    bindings::human::add_to_linker::<_, HasSelf<Guest>>(linker, Guest::called)?;
    children::link(linker)
}

impl Guest {
    /// The run's journal. A guest without one has no budget for anything that would be recorded.
    fn journal(&self) -> wasmtime::Result<&RunJournal> {
        self.journal
            .as_ref()
            .ok_or_else(|| HostFailure::new("a guest without a journal had something to record").into())
    }
}
