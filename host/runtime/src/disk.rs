//! What is left of the disk, and how large files go there.

use std::{
    io::{self, Write},
    os::fd::{AsFd, AsRawFd as _},
    path::Path,
};

/// A file that is to be on the disk goes there in pieces of so many bytes: a commit of somebody else's run waits for the piece
/// that is on its way, and not for all of it.
const PIECE_BYTES_MAX: usize = 256 << 10;

/// Bytes that this process may still write to the file system that holds a directory; none if it does not say.
pub fn free_bytes(dir: &Path) -> Option<u64> {
    let stat = rustix::fs::statvfs(dir).ok()?;
    stat.f_bavail.checked_mul(stat.f_frsize)
}

/// Writes this from an offset on, where the file stands, each piece once the one before is on the disk. That it is durable is
/// for a sync to say, at the end and once: each sync of a file that grows is a commit of the file system's own, which others'
/// commits wait for.
pub fn write_in_pieces(file: &mut (impl Write + AsFd), offset: u64, bytes: &[u8]) -> io::Result<()> {
    let mut at = offset;
    for piece in bytes.chunks(PIECE_BYTES_MAX) {
        file.write_all(piece)?;
        bring_to_disk(file, at, piece.len())?;
        at += piece.len() as u64;
    }
    Ok(())
}

/// Has the disk take what was written there, and waits for it.
#[expect(unsafe_code, reason = "no library that we have has this call of the system")]
fn bring_to_disk(file: &impl AsFd, offset: u64, bytes: usize) -> io::Result<()> {
    let (Ok(offset), Ok(bytes)) = (i64::try_from(offset), i64::try_from(bytes)) else { return Ok(()) };
    let all = libc::SYNC_FILE_RANGE_WAIT_BEFORE | libc::SYNC_FILE_RANGE_WRITE | libc::SYNC_FILE_RANGE_WAIT_AFTER;
    // SAFETY: the descriptor is open as long as the file is borrowed, and nothing is touched but the file's own pages.
    if unsafe { libc::sync_file_range(file.as_fd().as_raw_fd(), offset, bytes, all) } == 0 {
        return Ok(());
    }
    match io::Error::last_os_error() {
        // Systems and file systems that do not have it, or do not allow it, have the sync at the end.
        error if matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EOPNOTSUPP | libc::EPERM | libc::EINVAL)) => {
            Ok(())
        }
        error => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    #[test]
    fn what_is_written_in_pieces_is_what_was_to_be_written() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("f");
        let bytes: Vec<u8> = (0..2 * PIECE_BYTES_MAX + 5).map(|n| u8::try_from(n % 251).expect("a byte")).collect();
        let mut file = File::create(&path).expect("made");
        file.write_all(b"before").expect("written");
        write_in_pieces(&mut file, 6, &bytes).expect("written");
        assert_eq!(std::fs::read(&path).expect("read"), [b"before".as_slice(), &bytes].concat());
    }
}
