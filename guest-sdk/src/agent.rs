//! The agent: what an author implements.

use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::wit::agents::{AgentError, Descriptor};
use crate::{Context, Error, Needs, json};

/// An agent: one typed input, one run, one typed output.
///
/// The host calls [`run`](Agent::run) once for each run, in a fresh sandbox: nothing that a run leaves in memory is
/// there for the next. What should last goes to [`Context::state`](crate::ToolContext::state) or to files.
///
/// See the [crate's page](crate) for a whole agent, and [`export_agent!`](crate::export_agent) to make it a plugin.
pub trait Agent {
    /// What the agent takes. The doc comments of the type and its fields become the descriptions in the JSON Schema
    /// that clients see. At most 4 MiB of JSON.
    type Input: DeserializeOwned + JsonSchema;

    /// What the agent gives. At most 4 MiB of JSON.
    type Output: Serialize + JsonSchema;

    /// The agent's own name, 1 to 64 characters. By default the name of the author's crate.
    const NAME: Option<&'static str> = None;

    /// The author's version, 1 to 64 characters of `A-Z`, `a-z`, `0-9`, `.`, `-`, `+` and `_`. By default the version
    /// of the author's crate.
    const VERSION: Option<&'static str> = None;

    /// What it does, for a person or a model to read. At most 4 KiB.
    const DESCRIPTION: &'static str;

    /// What the agent asks to be granted. By default nothing.
    ///
    /// A run may do what is both named here and granted to its user. Ask for what you use, and no more: the platform
    /// team reads this.
    fn needs() -> Needs {
        Needs::none()
    }

    /// Does the work.
    ///
    /// # Errors
    ///
    /// What the client should see: [`Error::invalid_input`] where the input is at fault, [`Error::denied`] where the
    /// host refused something that the agent cannot do without, [`Error::failed`] for the rest. The errors of tools,
    /// events, state, waits, questions and children become an [`Error`] by `?`.
    fn run(ctx: &Context, input: Self::Input) -> Result<Self::Output, Error>;
}

/// Answers the world's `describe`.
pub fn describe<A: Agent>(crate_name: &str, crate_version: &str) -> Descriptor {
    Descriptor {
        name: A::NAME.unwrap_or(crate_name).to_owned(),
        version: A::VERSION.unwrap_or(crate_version).to_owned(),
        description: A::DESCRIPTION.to_owned(),
        input_schema: json::schema_of_input::<A::Input>(),
        output_schema: json::schema_of_output::<A::Output>(),
        needs: A::needs().into(),
    }
}

/// Answers the world's `run`.
pub fn run<A: Agent>(input: &str) -> Result<String, AgentError> {
    let input = json::parse(input).map_err(|why| AgentError::InvalidInput(format!("the input is not valid: {why}")))?;
    let output = A::run(&Context::of_this_run(), input).map_err(AgentError::from)?;
    serde_json::to_string(&output)
        .map_err(|why| Error::failed("output_not_json", format!("the output cannot be written as JSON: {why}")).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Access;

    /// A greeting.
    #[derive(serde::Deserialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    struct Input {
        /// Whom to greet.
        name: String,
        #[serde(default)]
        times: Vec<u32>,
    }

    #[derive(serde::Serialize, JsonSchema)]
    struct Output {
        greeting: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        note: Option<String>,
    }

    struct Greeter;

    impl Agent for Greeter {
        type Input = Input;
        type Output = Output;
        const DESCRIPTION: &'static str = "Greets.";

        fn needs() -> Needs {
            Needs::none().tools(["file.read"]).state(Access::Read)
        }

        fn run(_ctx: &Context, input: Input) -> Result<Output, Error> {
            if input.name.is_empty() {
                return Err(Error::invalid_input("`name` is empty: say whom to greet"));
            }
            let greeting = format!("Hello {} ({})", input.name, input.times.len());
            Ok(Output { greeting, note: None })
        }
    }

    struct Renamed;

    impl Agent for Renamed {
        type Input = serde_json::Value;
        type Output = ();
        const NAME: Option<&'static str> = Some("other");
        const VERSION: Option<&'static str> = Some("7");
        const DESCRIPTION: &'static str = "";

        fn run(_ctx: &Context, _input: serde_json::Value) -> Result<(), Error> {
            Ok(())
        }
    }

    #[test]
    fn a_descriptor_takes_name_and_version_from_the_crate_unless_the_agent_sets_them() {
        let described = describe::<Greeter>("greeter", "1.2.3");
        assert_eq!((described.name.as_str(), described.version.as_str()), ("greeter", "1.2.3"));
        let described = describe::<Renamed>("greeter", "1.2.3");
        assert_eq!((described.name.as_str(), described.version.as_str()), ("other", "7"));
    }

    #[test]
    fn a_descriptor_says_what_the_agent_takes_gives_and_needs() {
        let described = describe::<Greeter>("greeter", "1.2.3");
        let input: serde_json::Value = serde_json::from_str(&described.input_schema).unwrap();
        assert_eq!(input["type"], "object");
        assert_eq!(input["description"], "A greeting.");
        assert_eq!(input["properties"]["name"]["description"], "Whom to greet.");
        assert_eq!(input["required"], serde_json::json!(["name"]));
        assert_eq!(input["additionalProperties"], false);
        let output: serde_json::Value = serde_json::from_str(&described.output_schema).unwrap();
        assert_eq!(output["required"], serde_json::json!(["greeting"]));
        assert_eq!(described.needs.tools, ["file.read"]);
        assert_eq!(described.needs.state, crate::wit::types::Access::Read);
    }

    #[test]
    fn a_run_gives_its_output_as_json() {
        assert_eq!(run::<Greeter>(r#"{"name":"Ada","times":[1,2]}"#).unwrap(), r#"{"greeting":"Hello Ada (2)"}"#);
        assert_eq!(run::<Renamed>("[1]").unwrap(), "null");
    }

    #[test]
    fn an_input_of_the_wrong_shape_is_invalid_and_the_error_names_the_place() {
        for (input, place) in [
            (r#"{"name":7}"#, "at `name`"),
            (r#"{"name":"Ada","times":[1,-2]}"#, "at `times[1]`"),
            (r#"{"name":"Ada","nmae":1}"#, "unknown field `nmae`"),
            ("{}", "missing field `name`"),
            (r#"{"name":"#, "line 1 column 8"),
            (r#"{"name":"Ada"} x"#, "trailing characters"),
        ] {
            match run::<Greeter>(input) {
                Err(AgentError::InvalidInput(text)) => assert!(text.contains(place), "{input}: {text}"),
                other => panic!("{input}: {other:?}"),
            }
        }
    }

    #[test]
    fn an_agents_own_error_reaches_the_host_as_it_is() {
        match run::<Greeter>(r#"{"name":""}"#) {
            Err(AgentError::InvalidInput(text)) => assert_eq!(text, "`name` is empty: say whom to greet"),
            other => panic!("{other:?}"),
        }
    }
}
