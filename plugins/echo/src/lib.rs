//! The smallest agent: one thought, then its input back.
//!
//! It is what the benchmarks run, so it does nothing else. The input stays a JSON text: it is checked, but not built up
//! as values, so that numbers of any length come back as they were written.

use cofferdam_sdk::{Agent, Context, Error, export_agent};
use serde_json::value::RawValue;

struct Echo;

impl Agent for Echo {
    type Input = Box<RawValue>;
    type Output = Box<RawValue>;
    const DESCRIPTION: &'static str = "Gives its input back, unchanged. The input is any JSON value.";

    fn run(ctx: &Context, input: Box<RawValue>) -> Result<Box<RawValue>, Error> {
        ctx.thinking("Giving the input back")?;
        Ok(input)
    }
}

export_agent!(Echo);
