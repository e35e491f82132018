//! The tool plugin: what an author implements to offer tools to agents.

use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::wit::types;
use crate::{Access, Needs, ToolContext, ToolError, json};

use crate::__bindings::tool::PluginDescriptor;

/// A tool plugin: a table of tools for agents to call as `PLUGIN.TOOL`.
///
/// Each call runs in a sandbox of its own, in a context narrower than the calling agent's, and spends the calling
/// run's budget. A tool calls no other tools.
///
/// ```no_run,standalone_crate
/// use cofferdam_sdk::{Tool, ToolContext, ToolError, ToolPlugin, export_tool};
///
/// #[derive(serde::Deserialize, schemars::JsonSchema)]
/// struct Text {
///     text: String,
/// }
///
/// #[derive(serde::Serialize)]
/// struct Words {
///     words: usize,
/// }
///
/// fn count(_ctx: &ToolContext, arguments: Text) -> Result<Words, ToolError> {
///     Ok(Words { words: arguments.text.split_whitespace().count() })
/// }
///
/// struct Texts;
///
/// impl ToolPlugin for Texts {
///     const DESCRIPTION: &'static str = "Looks at texts.";
///
///     fn tools() -> Vec<Tool> {
///         vec![Tool::new("count", "Counts the words of a text.", count)]
///     }
/// }
///
/// export_tool!(Texts);
/// # fn main() {}
/// ```
pub trait ToolPlugin {
    /// The plugin's own name, 1 to 64 characters. By default the name of the author's crate.
    const NAME: Option<&'static str> = None;

    /// The author's version, 1 to 64 characters of `A-Z`, `a-z`, `0-9`, `.`, `-`, `+` and `_`. By default the version
    /// of the author's crate.
    const VERSION: Option<&'static str> = None;

    /// What it is for, for a person or a model to read. At most 4 KiB.
    const DESCRIPTION: &'static str;

    /// The access to the user's state that the plugin asks to be granted. By default none.
    fn state() -> Access {
        Access::None
    }

    /// The access to the user's files, below `/workspace` with `std::fs`, that the plugin asks to be granted. By default
    /// none. A tool has no `/scratch`.
    fn workspace() -> Access {
        Access::None
    }

    /// The plugin's tools, 1 to 64. Called again for each call, so it should build the table and do nothing else.
    fn tools() -> Vec<Tool>;
}

/// A tool's name, description, the JSON Schema of its arguments, whether it may be called twice, and what answers a call.
pub struct Tool {
    name: &'static str,
    description: &'static str,
    idempotent: bool,
    schema: fn() -> String,
    answer: Box<Answer>,
}

/// Answers a call, from JSON text to JSON text: where the types of a tool are forgotten.
type Answer = dyn Fn(&ToolContext, &str) -> Result<String, ToolError>;

impl Tool {
    /// A tool of this name (1 to 64 characters of `a-z`, `0-9`, `_` and `-`) and description (at most 4 KiB), answered
    /// by a function.
    ///
    /// The schema of the arguments is that of `A`. Arguments that are not an `A` are refused as
    /// [`ToolError::InvalidArguments`] before the function is called. Arguments and answer are at most 1 MiB of JSON.
    pub fn new<A, O>(
        name: &'static str,
        description: &'static str,
        answer: impl Fn(&ToolContext, A) -> Result<O, ToolError> + 'static,
    ) -> Tool
    where
        A: DeserializeOwned + JsonSchema,
        O: Serialize,
    {
        let answer = move |ctx: &ToolContext, arguments: &str| {
            let answer = answer(ctx, json::parse(arguments).map_err(ToolError::InvalidArguments)?)?;
            serde_json::to_string(&answer)
                .map_err(|why| ToolError::Failed(format!("the answer cannot be written as JSON: {why}")))
        };
        let schema = json::schema_of_input::<A>;
        Tool { name, description, idempotent: false, schema, answer: Box::new(answer) }
    }

    /// Says that a second call with the same arguments does no harm: the tool only looks, or puts things in a state that
    /// does not depend on what was before, or knows a call that it has seen by its
    /// [key](ToolContext::idempotency_key). A durable run that was cut off while the tool ran calls it again, with the
    /// same key; of a tool that is not idempotent it learns [`ToolError::OutcomeUnknown`].
    ///
    /// ```
    /// use cofferdam_sdk::{Tool, ToolContext, ToolError};
    ///
    /// fn add(_ctx: &ToolContext, (a, b): (i32, i32)) -> Result<i64, ToolError> {
    ///     Ok(i64::from(a) + i64::from(b))
    /// }
    ///
    /// let tool = Tool::new("add", "Adds two numbers.", add).idempotent();
    /// ```
    pub fn idempotent(mut self) -> Tool {
        self.idempotent = true;
        self
    }
}

impl std::fmt::Debug for Tool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tool").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Answers the world's `describe`.
pub fn describe<P: ToolPlugin>(crate_name: &str, crate_version: &str) -> PluginDescriptor {
    let tools = P::tools().into_iter().map(|tool| types::Tool {
        name: tool.name.to_owned(),
        description: tool.description.to_owned(),
        input_schema: (tool.schema)(),
        idempotent: tool.idempotent,
    });
    PluginDescriptor {
        name: P::NAME.unwrap_or(crate_name).to_owned(),
        version: P::VERSION.unwrap_or(crate_version).to_owned(),
        description: P::DESCRIPTION.to_owned(),
        tools: tools.collect(),
        needs: Needs::none().state(P::state()).workspace(P::workspace()).into(),
    }
}

/// Answers the world's `call`.
pub fn call<P: ToolPlugin>(name: &str, arguments: &str) -> Result<String, types::ToolError> {
    let tools = P::tools();
    let Some(tool) = tools.iter().find(|tool| tool.name == name) else {
        let known: Vec<_> = tools.iter().map(|tool| tool.name).collect();
        return Err(types::ToolError::UnknownTool(format!("`{name}`; the plugin has {}", known.join(", "))));
    };
    Ok((tool.answer)(&ToolContext::of_this_run(), arguments)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(serde::Deserialize, JsonSchema)]
    struct Pair {
        a: u32,
        b: u32,
    }

    struct Arithmetic;

    impl ToolPlugin for Arithmetic {
        const DESCRIPTION: &'static str = "Calculates.";

        fn tools() -> Vec<Tool> {
            vec![
                Tool::new("add", "Adds.", |_ctx, Pair { a, b }| Ok(u64::from(a) + u64::from(b))).idempotent(),
                Tool::new("divide", "Divides.", |_ctx, Pair { a, b }| {
                    a.checked_div(b).ok_or_else(|| ToolError::Failed("cannot divide by zero".to_owned()))
                }),
            ]
        }
    }

    #[test]
    fn a_descriptor_lists_the_tools_with_their_schemas() {
        let described = describe::<Arithmetic>("arithmetic", "0.1.0");
        assert_eq!(described.name, "arithmetic");
        assert_eq!(described.tools.iter().map(|tool| tool.name.as_str()).collect::<Vec<_>>(), ["add", "divide"]);
        let schema: serde_json::Value = serde_json::from_str(&described.tools[0].input_schema).unwrap();
        assert_eq!(schema["required"], serde_json::json!(["a", "b"]));
        assert_eq!(described.tools.iter().map(|tool| tool.idempotent).collect::<Vec<_>>(), [true, false]);
        assert!(described.needs.tools.is_empty() && described.needs.agents.is_empty() && !described.needs.human);
        assert_eq!((described.needs.state, described.needs.workspace), (types::Access::None, types::Access::None));
    }

    #[test]
    fn a_call_reaches_the_tool_of_its_name() {
        assert_eq!(call::<Arithmetic>("add", r#"{"a":1,"b":2}"#).unwrap(), "3");
        assert_eq!(call::<Arithmetic>("divide", r#"{"a":6,"b":2}"#).unwrap(), "3");
    }

    #[test]
    fn a_call_that_cannot_be_answered_says_why() {
        match call::<Arithmetic>("divide", r#"{"a":1,"b":0}"#) {
            Err(types::ToolError::Failed(text)) => assert_eq!(text, "cannot divide by zero"),
            other => panic!("{other:?}"),
        }
        match call::<Arithmetic>("add", r#"{"a":1,"b":"2"}"#) {
            Err(types::ToolError::InvalidArguments(text)) => assert!(text.contains("at `b`"), "{text}"),
            other => panic!("{other:?}"),
        }
        match call::<Arithmetic>("subtract", "{}") {
            Err(types::ToolError::UnknownTool(text)) => assert!(text.contains("add, divide"), "{text}"),
            other => panic!("{other:?}"),
        }
    }
}
