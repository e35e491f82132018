//! An agent that imports an interface which no host provides: a host must refuse it when it is pushed, and name
//! `example:missing/nothing@0.1.0`.

wit_bindgen::generate!({
    path: ["../../../wit", "wit"],
    world: "example:missing/mute",
    generate_all,
});

use cofferdam::agent::types::{Access, Needs};

struct Mute;

impl Guest for Mute {
    fn describe() -> Descriptor {
        Descriptor {
            name: "mute-imports".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            description: "Never runs.".to_owned(),
            input_schema: "true".to_owned(),
            output_schema: "true".to_owned(),
            needs: Needs {
                tools: Vec::new(),
                state: Access::None,
                workspace: Access::None,
                agents: Vec::new(),
                human: false,
                durable: false,
            },
        }
    }

    fn run(_input: String) -> Result<String, AgentError> {
        // An import that is never called would not be imported.
        Ok(format!("{:?}", example::missing::nothing::speak()))
    }
}

export!(Mute);
