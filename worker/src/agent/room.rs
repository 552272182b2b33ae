//! Whether the disk of the worker has room, and what is said when it has none.

use std::{io, path::Path};

use nix::sys::statvfs::statvfs;
use segue_proto::failure::{Failure, FailureClass};

/// A disk with less than this is full: whoever wrote until nothing went any more may have left a little.
const LEAST: u64 = 1024 * 1024;

/// What helps where the directory of a worker has no room.
pub const MAKE_ROOM: &str =
    "make room on the disk of the worker's directory (--cache-dir), or keep less there (--cache-limit)";

/// Says whether an error is that of a full disk.
pub fn is_lack(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Says whether the disk of a directory is full: no room, or no more files.
pub fn is_full(directory: &Path) -> bool {
    statvfs(directory).is_ok_and(|disk| {
        // Widths differ between systems.
        #[allow(clippy::useless_conversion)]
        let (free, block) = (u64::from(disk.blocks_available()), u64::from(disk.fragment_size()));
        free.saturating_mul(block) < LEAST || (disk.files() > 0 && disk.files_available() == 0)
    })
}

/// Takes the fault from a job that failed while the disk that it writes to was full: the next try may find room, here or
/// on another worker.
pub fn blame(failure: Failure, directory: &Path) -> Failure {
    if !matches!(failure.class, FailureClass::User | FailureClass::Data | FailureClass::Infra) || !is_full(directory) {
        return failure;
    }
    let message = format!("{}; the disk of {} is full", failure.message, directory.display());
    Failure { class: FailureClass::Infra, message, hint: MAKE_ROOM.to_owned(), ..failure }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_full_disk_takes_the_fault_from_a_job() {
        let here = std::env::temp_dir();
        let failure = Failure::new(FailureClass::User, "exited with code 1").hint("look at the log");
        assert!(!is_full(&here), "this test needs a little room");
        assert_eq!(blame(failure.clone(), &here), failure);
        // A file system without blocks has no room at all.
        let none = Path::new("/proc");
        assert!(is_full(none));
        let blamed = blame(failure.clone(), none);
        assert_eq!((blamed.class, blamed.hint.as_str()), (FailureClass::Infra, MAKE_ROOM));
        assert!(blamed.message.contains("exited with code 1") && blamed.message.contains("/proc"), "{blamed:?}");
        let killed = Failure::new(FailureClass::Oom, "killed for memory");
        assert_eq!(blame(killed.clone(), none), killed, "that was something else");
        assert!(!is_full(Path::new("/nowhere/at/all")), "nothing is known of it");
    }
}
