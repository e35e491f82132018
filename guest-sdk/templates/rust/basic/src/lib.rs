//! Greets, and counts how often it did.

use cofferdam_sdk::{Access, Agent, Context, Error, Needs, Scope, export_agent};

#[derive(serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
struct Input {
    /// Whom to greet.
    name: String,
}

#[derive(serde::Serialize, schemars::JsonSchema)]
struct Output {
    greeting: String,
    /// How often this user was greeted, this time included.
    times: u64,
}

struct Greeter;

impl Agent for Greeter {
    type Input = Input;
    type Output = Output;
    const DESCRIPTION: &'static str = "Greets, and counts how often it did.";

    fn needs() -> Needs {
        Needs::none().state(Access::ReadWrite)
    }

    fn run(ctx: &Context, input: Input) -> Result<Output, Error> {
        if input.name.is_empty() {
            return Err(Error::invalid_input("`name` is empty: say whom to greet"));
        }
        ctx.thinking(&format!("Greeting {}", input.name))?;
        let state = ctx.state(Scope::User);
        let times = state.get_json::<u64>("times")?.map_or(0, |stored| stored.value) + 1;
        state.set_json("times", &times)?;
        Ok(Output { greeting: format!("Hello, {}!", input.name), times })
    }
}

export_agent!(Greeter);
