//! The guide for who comes from an in-process agent: each agent that it shows is built, and does what the guide says.

use crate::author::{cofferdam, new, succeeds};
use serde_json::{Map, Value};
use std::{fs, path::Path};

#[test]
fn each_agent_of_the_guide_is_built_and_does_what_it_says() {
    let guide = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../guest-sdk/MIGRATING.md");
    let guide = fs::read_to_string(guide).expect("the guide");
    let (_dir, project) = new("python", "basic");
    let mut built = 0;
    for part in guide.split("<!-- built: ").skip(1) {
        let (said, rest) = part.split_once(" -->\n```python\n").expect("an agent after what is said of it");
        let (code, _) = rest.split_once("\n```").expect("its end");
        let case: Map<String, Value> = said
            .split("; ")
            .map(|piece| {
                let (name, value) = piece.split_once(' ').expect("a name and a value");
                (name.to_owned(), serde_json::from_str(value).unwrap_or_else(|e| panic!("{e}: {piece}")))
            })
            .collect();
        let mut case = Value::Object(case);
        let output = case.as_object_mut().and_then(|case| case.remove("output")).expect("an output");
        case["expect"] = serde_json::json!({"output": output});
        fs::remove_dir_all(project.join("tests")).expect("removed");
        fs::create_dir(project.join("tests")).expect("made");
        fs::write(project.join("tests/guide.json"), case.to_string()).expect("written");
        fs::write(project.join("src/agent.py"), format!("{code}\n")).expect("written");
        succeeds(&cofferdam(&project, &["test"]));
        built += 1;
    }
    assert_eq!(built, 3);
}
