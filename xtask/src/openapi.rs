//! `cargo xtask openapi`: the API's description in the repository, from the code.

use anyhow::ensure;

use crate::step::{self, Step};
use crate::workspace::Workspace;

const FILE: &str = "host/server/openapi.json";

pub fn run(workspace: &Workspace) -> anyhow::Result<()> {
    // The test that compares the file with the code writes it when told to. The whole workspace, because for one
    // package alone cargo would build the engine again with fewer features.
    let test = Step::cargo(workspace, ["test", "--workspace", "openapi"]).env("UPDATE_EXPECT", "1");
    step::run("openapi", &[test])?;
    ensure!(
        workspace.root.join(FILE).is_file(),
        "no test wrote {FILE}: name the test that compares it with the code so that `openapi` is in its name"
    );
    println!("{FILE} says what the code does; commit it with the change");
    Ok(())
}
