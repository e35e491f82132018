//! What the server's texts say of its API, said in the verbs of this command line.

use std::borrow::Cow;

/// Addresses as the server's texts write them, and what does the same here. None stands after another that it begins with.
const VERBS: [(&str, &str); 7] = [
    ("PUT /v1/plugins/{name}", "cofferdam plugin push NAME FILE"),
    ("GET /v1/plugins", "cofferdam plugin list"),
    ("GET /v1/runs/{id}", "cofferdam runs get ID"),
    ("GET /v1/runs", "cofferdam runs list"),
    ("GET /v1/events", "cofferdam events"),
    ("PUT /v1/tiers/{name}", "cofferdam tier set NAME JSON"),
    ("POST /v1/keys", "cofferdam key create USER"),
];

/// A text of the server's, with the verb in the place of each address that one stands for.
pub(super) fn in_verbs(text: &str) -> Cow<'_, str> {
    VERBS.iter().fold(Cow::Borrowed(text), |text, (address, verb)| match text.contains(address) {
        true => Cow::Owned(text.replace(address, &format!("`{verb}`"))),
        false => text,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Cli;
    use clap::Parser as _;
    use std::{fs, path::Path};

    /// Addresses that no verb stands for: what opens a socket, and the document that describes the API, for which
    /// `failure::next_step` has other words.
    const WITHOUT_VERB: [&str; 2] = ["GET /openapi.json", "POST /v1/ws-ticket"];

    #[test]
    fn every_verb_that_is_named_is_one() {
        for (address, verb) in VERBS {
            assert!(Cli::try_parse_from(verb.split(' ')).is_ok(), "{address}: {verb}");
        }
    }

    #[test]
    fn a_text_names_verbs_where_it_named_addresses() {
        assert_eq!(in_verbs("GET /v1/runs lists your runs"), "`cofferdam runs list` lists your runs");
        assert_eq!(
            in_verbs("GET /v1/plugins lists them; PUT /v1/plugins/{name} pushes one"),
            "`cofferdam plugin list` lists them; `cofferdam plugin push NAME FILE` pushes one"
        );
        for (at, (address, _)) in VERBS.iter().enumerate() {
            let before = VERBS.iter().take(at);
            assert!(!before.clone().any(|(earlier, _)| address.starts_with(earlier)), "{address} is never found");
        }
        assert!(matches!(in_verbs("submit it again"), Cow::Borrowed(_)));
    }

    /// The addresses in the texts of a source, which are no part of its comments, descriptions and tests.
    fn addresses(source: &str) -> Vec<String> {
        let code = source.split("#[cfg(test)]").next().unwrap_or_default();
        let lines = code.lines().filter(|line| !line.trim_start().starts_with("//") && !line.contains("description"));
        let methods = ["GET /", "PUT /", "POST /", "DELETE /"];
        let ends = |c: char| c.is_whitespace() || matches!(c, '"' | '`' | ';' | ',' | ')');
        let of_line = |line: &str| {
            let found = methods.iter().flat_map(|method| line.match_indices(method));
            let texts = found.filter_map(|(at, method)| {
                let path = line.get(at + method.len()..)?;
                // Within a text that is formatted, a brace is written twice.
                let path = path.split(ends).next()?.replace("{{", "{").replace("}}", "}");
                Some(format!("{method}{path}"))
            });
            texts.collect::<Vec<_>>()
        };
        lines.flat_map(of_line).collect()
    }

    #[test]
    fn every_address_that_an_error_names_has_its_verb() {
        let host = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the folder of the crates");
        let mut folders: Vec<_> = ["core/src", "runtime/src", "server/src"].map(|part| host.join(part)).into();
        let mut seen = 0;
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).expect("a folder") {
                let path = entry.expect("an entry").path();
                if path.is_dir() {
                    folders.push(path);
                    continue;
                }
                // Not the verbs themselves, and not what describes the API.
                if path.extension().is_none_or(|extension| extension != "rs")
                    || ["cli/verbs.rs", "api/openapi.rs"].iter().any(|other| path.ends_with(other))
                {
                    continue;
                }
                for address in addresses(&fs::read_to_string(&path).expect("text")) {
                    let known = VERBS.iter().any(|(known, _)| *known == address);
                    assert!(
                        known || WITHOUT_VERB.contains(&address.as_str()),
                        "{}: {address} has no verb: give it one in cli/verbs.rs",
                        path.display()
                    );
                    seen += 1;
                }
            }
        }
        assert!(seen >= VERBS.len(), "{seen} addresses were found");
    }
}
