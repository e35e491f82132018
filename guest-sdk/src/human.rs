//! Questions to people.

use std::fmt;
use std::time::Duration;

use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::wit::human;
use crate::{json, wait};

/// A question to people, for [`Context::ask`](crate::Context::ask).
///
/// ```
/// use cofferdam_sdk::Question;
/// use std::time::Duration;
///
/// let question = Question::new("Which of the two offers is it to be?")
///     .schema(&serde_json::json!({"enum": ["first", "second"]}))
///     .expires_after(Duration::from_secs(60 * 60))
///     .default_answer(&"first");
/// ```
#[derive(Clone, Debug)]
#[must_use = "a question is asked only by `Context::ask`"]
pub struct Question {
    prompt: String,
    schema: Option<Written>,
    expires_ms: Option<u64>,
    default: Option<Written>,
}

/// A value as JSON, or why it cannot be written so: said when the question is asked, so that building one cannot fail.
type Written = Result<String, String>;

impl Question {
    /// A question, for a person to read. At most 16 KiB.
    pub fn new(prompt: impl Into<String>) -> Question {
        Question { prompt: prompt.into(), schema: None, expires_ms: None, default: None }
    }

    /// Takes answers that fit this JSON Schema, in place of those that fit the schema of the type that is asked for. At
    /// most 64 KiB, 32 levels and 5,000 values, and no reference out of itself.
    ///
    /// ```no_run
    /// # fn example(ctx: &cofferdam_sdk::Context, rooms: &[String]) -> Result<(), cofferdam_sdk::Error> {
    /// use cofferdam_sdk::Question;
    ///
    /// let question = Question::new("Which room?").schema(&serde_json::json!({"enum": rooms}));
    /// let room: serde_json::Value = ctx.ask(question)?;
    /// # Ok(()) }
    /// ```
    pub fn schema(mut self, schema: &impl Serialize) -> Question {
        self.schema = Some(written("the schema", schema));
        self
    }

    /// How long to wait, to the millisecond. At most, and if not said, what the user's quota says: 30 days by default.
    pub fn expires_after(mut self, duration: Duration) -> Question {
        self.expires_ms = Some(wait::ms_rounded_up(duration));
        self
    }

    /// The answer if nobody gave one in time. It must fit the schema.
    pub fn default_answer(mut self, answer: &impl Serialize) -> Question {
        self.default = Some(written("the default answer", answer));
        self
    }

    /// As the contract has it, for an answer of a type.
    fn for_answer<R: JsonSchema>(self) -> Result<human::Question, AskError> {
        let schema = self.schema.unwrap_or_else(|| Ok(json::schema_of_input::<R>()));
        Ok(human::Question {
            prompt: self.prompt,
            schema: schema.map_err(AskError::Invalid)?,
            expires_ms: self.expires_ms,
            default: self.default.transpose().map_err(AskError::Invalid)?,
        })
    }
}

fn written(what: &str, value: &impl Serialize) -> Written {
    serde_json::to_string(value).map_err(|why| format!("{what} cannot be written as JSON: {why}"))
}

/// Why there is no answer to a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AskError {
    /// The plugin did not declare, or the user was not granted, questions to people. The text says which, and what would
    /// mend it.
    Denied(String),
    /// The question is not what it should be. The text says what.
    Invalid(String),
    /// Nobody answered in time, and there was no default.
    Expired,
    /// This run cannot be put away. The text says why.
    Unavailable(String),
    /// The user has as many runs that wait as may be, or the run has made as many host calls as it may. The text says which.
    Exhausted(String),
    /// The answer fits the question's schema, but not the type that was asked for. The text says what and where.
    UnexpectedAnswer(String),
}

impl fmt::Display for AskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AskError::Denied(text) => write!(f, "denied: {text}"),
            AskError::Invalid(text) => write!(f, "the question is not valid: {text}"),
            AskError::Expired => f.write_str("nobody answered in time"),
            AskError::Unavailable(text) => write!(f, "the run cannot wait for an answer: {text}"),
            AskError::Exhausted(text) => write!(f, "no question is left: {text}"),
            AskError::UnexpectedAnswer(text) => write!(f, "unexpected answer: {text}"),
        }
    }
}

impl std::error::Error for AskError {}

impl From<human::AskError> for AskError {
    fn from(error: human::AskError) -> AskError {
        match error {
            human::AskError::Denied(text) => AskError::Denied(text),
            human::AskError::Invalid(text) => AskError::Invalid(text),
            human::AskError::Expired => AskError::Expired,
            human::AskError::Unavailable(text) => AskError::Unavailable(text),
            human::AskError::Exhausted(text) => AskError::Exhausted(text),
        }
    }
}

pub(crate) fn ask<R: DeserializeOwned + JsonSchema>(question: Question) -> Result<R, AskError> {
    read_answer(&human::ask(&question.for_answer::<R>()?)?)
}

fn read_answer<R: DeserializeOwned>(answer: &str) -> Result<R, AskError> {
    json::parse(answer).map_err(AskError::UnexpectedAnswer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[derive(Debug, serde::Deserialize, JsonSchema)]
    #[expect(dead_code, reason = "only its shape is looked at")]
    struct Decision {
        /// Whether it may be.
        approved: bool,
    }

    #[test]
    fn a_question_asks_for_the_type_of_its_answer_unless_it_has_a_schema_of_its_own() {
        let asked = Question::new("Yes or no?").for_answer::<Decision>().unwrap();
        let schema: Value = serde_json::from_str(&asked.schema).unwrap();
        assert_eq!(schema["properties"]["approved"]["description"], "Whether it may be.");
        assert_eq!((asked.prompt.as_str(), asked.expires_ms, asked.default), ("Yes or no?", None, None));

        let question = Question::new("Which?").schema(&json!({"enum": [1, 2]})).default_answer(&1);
        let asked = question.expires_after(Duration::from_micros(1_500)).for_answer::<Value>().unwrap();
        assert_eq!(asked.schema, r#"{"enum":[1,2]}"#);
        assert_eq!((asked.expires_ms, asked.default.as_deref()), (Some(2), Some("1")));
    }

    #[test]
    fn what_is_not_json_never_reaches_the_host() {
        // JSON has no keys but strings.
        let no_json = std::collections::BTreeMap::from([(vec![1], 2)]);
        for question in [Question::new("?").default_answer(&no_json), Question::new("?").schema(&no_json)] {
            match ask::<Value>(question) {
                Err(AskError::Invalid(text)) => assert!(text.contains("cannot be written as JSON"), "{text}"),
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn an_answer_of_another_type_is_unexpected_and_its_place_named() {
        match read_answer::<Decision>(r#"{"approved":"yes"}"#) {
            Err(AskError::UnexpectedAnswer(text)) => assert!(text.contains("at `approved`"), "{text}"),
            other => panic!("{other:?}"),
        }
    }
}
