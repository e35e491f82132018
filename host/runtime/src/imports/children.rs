//! `agents`: agents that an agent starts.

use crate::{
    bindings::{
        agents::{ChildError, ChildLimits, Host, HostChild, SpawnError},
        types::WaitError,
    },
    sandbox::Guest,
};
use wasmtime::component::Resource;

/// A run that this one started, as the guest's handle to it.
pub struct Child;

impl Host for Guest {
    async fn spawn(
        &mut self,
        _agent: String,
        _input: String,
        _limits: ChildLimits,
    ) -> wasmtime::Result<Result<Resource<Child>, SpawnError>> {
        Ok(Err(SpawnError::Unavailable("this host starts no children yet".into())))
    }
}

impl HostChild for Guest {
    async fn id(&mut self, _child: Resource<Child>) -> wasmtime::Result<String> {
        Ok(String::new())
    }

    async fn wait(&mut self, _child: Resource<Child>) -> wasmtime::Result<Result<String, ChildError>> {
        Ok(Err(ChildError::Wait(WaitError::Unavailable("this host starts no children yet".into()))))
    }

    async fn cancel(&mut self, _child: Resource<Child>) -> wasmtime::Result<()> {
        Ok(())
    }

    async fn drop(&mut self, child: Resource<Child>) -> wasmtime::Result<()> {
        self.table.delete(child)?;
        Ok(())
    }
}
