//! Whether a command still says that it is alive, by touching a file.

use std::{
    fs::{self, File},
    io,
    path::PathBuf,
    time::{Duration, SystemTime},
};

use tokio::time::Instant;

/// How often the file is looked at, in parts of the time that a command may be silent.
const LOOKS: u32 = 8;

/// The shortest time between two looks.
const SHORTEST: Duration = Duration::from_millis(5);

/// The longest time between two looks.
const LONGEST: Duration = Duration::from_secs(1);

/// A file that a command must touch more often than its limit says. Only changes count, by the clock of this process, so
/// that a jump of the system's clock does no harm.
#[derive(Debug)]
pub struct Heartbeat {
    file: PathBuf,
    limit: Duration,
    /// When the file was changed last, as the file system says.
    changed: Option<SystemTime>,
    heard: Instant,
    look_at: Instant,
}

impl Heartbeat {
    /// Makes the file and begins to listen.
    ///
    /// # Errors
    /// If the file cannot be made.
    pub fn begin(file: PathBuf, limit: Duration, now: Instant) -> io::Result<Self> {
        let made = File::create(&file)?;
        let changed = made.metadata()?.modified().ok();
        let mut this = Self { file, limit, changed, heard: now, look_at: now };
        this.look_at = this.next_look(now);
        Ok(this)
    }

    /// Says when to look again.
    pub const fn look_at(&self) -> Instant {
        self.look_at
    }

    /// Looks at the file; says whether the command has been silent for too long. A file that is gone was not touched.
    pub fn is_silent(&mut self, now: Instant) -> bool {
        let changed = fs::metadata(&self.file).and_then(|found| found.modified()).ok();
        if changed.is_some() && changed != self.changed {
            self.changed = changed;
            self.heard = now;
        }
        self.look_at = self.next_look(now);
        now.saturating_duration_since(self.heard) >= self.limit
    }

    fn next_look(&self, now: Instant) -> Instant {
        now + (self.limit / LOOKS).clamp(SHORTEST, LONGEST).min(self.limit)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const LIMIT: Duration = Duration::from_secs(8);

    fn touch(file: &std::path::Path, seconds: u64) {
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        File::options().write(true).open(file).unwrap().set_modified(time).unwrap();
    }

    #[test]
    fn a_command_is_silent_when_its_file_has_not_changed_for_the_whole_limit() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("heartbeat");
        let begun = Instant::now();
        let mut heartbeat = Heartbeat::begin(file.clone(), LIMIT, begun).unwrap();
        assert_eq!(heartbeat.look_at(), begun + LIMIT / LOOKS);
        assert!(!heartbeat.is_silent(begun + LIMIT / 2));
        touch(&file, 1_000);
        assert!(!heartbeat.is_silent(begun + LIMIT), "it was touched in between");
        assert!(!heartbeat.is_silent(begun + LIMIT + LIMIT / 2));
        assert!(heartbeat.is_silent(begun + 2 * LIMIT));
    }

    #[test]
    fn a_clock_that_is_set_back_is_a_sign_of_life_and_a_file_that_is_gone_is_none() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("heartbeat");
        let begun = Instant::now();
        let mut heartbeat = Heartbeat::begin(file.clone(), LIMIT, begun).unwrap();
        touch(&file, 1);
        assert!(!heartbeat.is_silent(begun + LIMIT));
        fs::remove_file(&file).unwrap();
        assert!(!heartbeat.is_silent(begun + LIMIT + LIMIT / 2));
        assert!(heartbeat.is_silent(begun + 2 * LIMIT));
    }
}
