//! `human`: questions to people.

use super::waits::Asking;
use crate::{
    bindings::human::{AskError, Host, Question},
    sandbox::Guest,
    schema,
};
use cofferdam_core::{Json, clock, context::Effect, record::Asked, wait::WaitFor};
use jiff::Timestamp;

/// The longest question, in bytes.
const PROMPT_BYTES_MAX: usize = 16 << 10;

type Asked_ = Result<String, AskError>;

/// A question that may be asked.
struct Checked {
    waits_for: WaitFor,
    until: Timestamp,
}

impl Guest {
    async fn checked(&mut self, question: Question) -> Result<Checked, AskError> {
        self.ctx.may_call_host().map_err(|spent| AskError::Exhausted(spent.to_string()))?;
        self.ctx.authorize(Effect::Human).map_err(|denied| AskError::Denied(denied.to_string()))?;
        if let Some(why) = self.cannot_wait() {
            return Err(AskError::Unavailable(why.into()));
        }
        let Question { prompt, schema, expires_ms, default } = question;
        if prompt.is_empty() || prompt.len() > PROMPT_BYTES_MAX {
            let why = format!("the prompt has {} bytes, but must have 1 to {PROMPT_BYTES_MAX}", prompt.len());
            return Err(AskError::Invalid(why));
        }
        let schema = schema::checked(schema).map_err(|error| AskError::Invalid(format!("the schema {error}")))?;
        let default = default
            .map(|default| Json::parse(default).map_err(|error| AskError::Invalid(format!("the default is {error}"))))
            .transpose()?;
        let subject = if default.is_some() { "the default does not fit" } else { "the schema" };
        // Beside the guest: who waits for one of the host's places for checks must not wait for its own turn with one.
        self.beside(schema::check(schema.clone(), default.clone()))
            .await
            .map_err(|error| AskError::Unavailable(error.to_string()))?
            .map_err(|misfit| AskError::Invalid(format!("{subject}: {misfit}")))?;
        let max = self.ctx.quota().wait_ms;
        let ms = expires_ms.unwrap_or(max);
        if !(1..=max).contains(&ms) {
            return Err(AskError::Invalid(format!("expires-ms is {ms}, but must be from 1 to {max}")));
        }
        Ok(Checked { waits_for: WaitFor::Human { prompt, schema, default }, until: self.within_wait(ms) })
    }

    /// What the run was told: the answer, or the default when it is too late for one. None: it waits on.
    fn answer_to(&self, call: u64) -> Option<Asked_> {
        let stored = self.told_of(call)?;
        if let Some(answer) = &stored.answer {
            return Some(Ok(answer.value.as_str().to_owned()));
        }
        stored.wait.until.filter(|until| *until <= clock::now())?;
        match &stored.wait.waits_for {
            WaitFor::Human { default: Some(default), .. } => Some(Ok(default.as_str().to_owned())),
            _ => Some(Err(AskError::Expired)),
        }
    }
}

impl Host for Guest {
    async fn ask(&mut self, question: Question) -> wasmtime::Result<Asked_> {
        let asked = || {
            let asked = Asked::of("human.ask").text(&question.prompt).text(&question.schema);
            let asked = asked.value(format_args!("{:?}", question.expires_ms));
            question.default.as_ref().map_or_else(|| asked.clone(), |default| asked.clone().text(default))
        };
        let bytes = Json::of(&question.prompt).as_str().len()
            + question.schema.len()
            + question.default.as_ref().map_or(0, String::len);
        let before = match self.asking_to_wait(asked, bytes)? {
            Asking::AtOnce(answer) | Asking::Answered(answer) => return Ok(answer),
            Asking::Begun(number) => Some(number),
            Asking::New => None,
        };
        if let Some(call) = before
            && let Some(answer) = self.answer_to(call)
        {
            return Ok(self.changed(before, answer));
        }
        if let Some(stored) = before.and_then(|call| self.told_of(call)).cloned() {
            return Err(self.put_away(stored.wait.call, stored.wait.waits_for, stored.wait.until).await);
        }
        let asked = asked();
        let checked = match self.checked(question).await {
            Ok(checked) => {
                let may_wait = self.may_wait(before, bytes).await?;
                may_wait.map(|()| checked).map_err(|error| AskError::Exhausted(error.to_string()))
            }
            Err(error) => Err(error),
        };
        let Checked { waits_for, until } = match (checked, before) {
            (Ok(checked), _) => checked,
            (Err(error), Some(_)) => return Ok(self.changed(before, Err(error))),
            (Err(error), None) => return Ok(self.answered(|| asked, Err(error)).await),
        };
        self.relieved().await;
        let begun = before.or_else(|| self.recorder.as_ref().map(|recorder| recorder.started(asked, None)));
        Err(self.put_away(begun.unwrap_or_default(), waits_for, Some(until)).await)
    }
}
