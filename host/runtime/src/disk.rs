//! What is left of the disk.

use std::path::Path;

/// Bytes that this process may still write to the file system that holds a directory; none if it does not say.
pub fn free_bytes(dir: &Path) -> Option<u64> {
    let stat = rustix::fs::statvfs(dir).ok()?;
    stat.f_bavail.checked_mul(stat.f_frsize)
}
