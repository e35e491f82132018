//! Guests that are after the disk, and after files that are not theirs.

use crate::table::{Scenario, hostile};
use serde_json::json;

pub fn scenarios() -> Vec<Scenario> {
    let mut rows = Vec::new();
    for dir in ["/scratch", "/workspace"] {
        let at = |what: &str| format!("{what} {dir}");
        let deadline_ms = 60;
        let attack = |scenario: &str| json!({"scenario": scenario, "dir": dir, "other": "/scratch"});
        rows.extend([
            hostile(at("looks for ways out of"), attack("ways_out")),
            hostile(at("makes entries until it may not in"), attack("disk_entries")).deadline(deadline_ms),
            hostile(at("makes directories in one another until it may not in"), attack("disk_deep")),
            hostile(at("makes files of nothing but an end in"), attack("disk_holes")),
            hostile(at("opens one file over and over in"), attack("disk_handles")).traps(),
            hostile(at("moves files over one another in"), attack("disk_renames")),
            hostile(
                at("writes, keeps open and removes files in"),
                json!({"scenario": "disk_unlinked", "dir": dir, "bytes": 65_536, "times": 200}),
            ),
            hostile(at("writes for as long as it may into"), attack("disk_fill")).deadline(deadline_ms),
            hostile(at("appends for as long as it may in"), attack("disk_append")).deadline(deadline_ms),
        ]);
    }
    rows.push(hostile("writes where nothing is open", json!({"scenario": "disk_fill", "dir": "/elsewhere"})));
    rows.push(hostile("makes entries at the root", json!({"scenario": "disk_entries", "dir": ""})));
    rows
}
