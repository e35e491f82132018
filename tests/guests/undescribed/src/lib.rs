//! An agent that traps when it is asked what it is: a host must refuse it when it is pushed.

wit_bindgen::generate!({ path: "../../../wit", world: "agent" });

struct Undescribed;

impl Guest for Undescribed {
    fn describe() -> Descriptor {
        // Not a panic, which would bring the formatting of its message along: this is the smallest agent there is.
        core::arch::wasm32::unreachable()
    }

    fn run(input: String) -> Result<String, AgentError> {
        Ok(input)
    }
}

export!(Undescribed);
