//! Counts the words of a text.

use cofferdam_sdk::{Tool, ToolContext, ToolError, ToolPlugin, export_tool};

#[derive(serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
struct Arguments {
    /// What to count.
    text: String,
}

#[derive(serde::Serialize)]
struct Counted {
    words: usize,
    lines: usize,
    characters: usize,
}

fn count(_ctx: &ToolContext, Arguments { text }: Arguments) -> Result<Counted, ToolError> {
    Ok(Counted {
        words: text.split_whitespace().count(),
        lines: text.lines().count(),
        characters: text.chars().count(),
    })
}

struct Texts;

impl ToolPlugin for Texts {
    const DESCRIPTION: &'static str = "Counts the words of a text.";

    fn tools() -> Vec<Tool> {
        // A second call does no harm, so a run that was cut off may call it again.
        vec![Tool::new("word-count", "Counts the words, lines and characters of a text.", count).idempotent()]
    }
}

export_tool!(Texts);
