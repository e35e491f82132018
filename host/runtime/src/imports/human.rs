//! `human`: questions to people.

use crate::{
    bindings::human::{AskError, Host, Question},
    sandbox::Guest,
};

impl Host for Guest {
    async fn ask(&mut self, _question: Question) -> wasmtime::Result<Result<String, AskError>> {
        Ok(Err(AskError::Unavailable("this host does not wait for people yet".into())))
    }
}
