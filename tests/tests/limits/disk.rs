//! Small file systems of a test's own, which it can fill up and let fall read-only.

use std::{
    fs::{self, File},
    io::{ErrorKind, Write as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use nix::sys::statvfs::statvfs;

/// A mounted file system, unmounted when dropped.
#[derive(Debug)]
pub struct Disk {
    at: PathBuf,
    /// The file that it is in; none for one in memory.
    image: Option<PathBuf>,
}

impl Disk {
    /// Mounts one of some MiB in memory. None, with a message, where that may not be done.
    pub fn in_memory(at: &Path, mib: u32) -> Option<Self> {
        fs::create_dir_all(at).expect("a directory of the test can be made");
        let size = format!("size={mib}m");
        let mounted = says_yes(Command::new("mount").args(["-t", "tmpfs", "-o", &size, "segue-limits"]).arg(at));
        if !mounted {
            eprintln!("skipped: mounting a tmpfs needs root");
        }
        mounted.then(|| Self { at: at.to_owned(), image: None })
    }

    /// Makes one of some MiB in a file and mounts it: one that can fall read-only under those who write to it.
    pub fn in_file(at: &Path, image: &Path, mib: u64) -> Option<Self> {
        fs::create_dir_all(at).expect("a directory of the test can be made");
        File::create(image).and_then(|file| file.set_len(mib << 20)).expect("a file of the test can be made");
        let made = says_yes(Command::new("mkfs.ext4").arg("-q").arg(image)) && mount_image(image, at);
        if !made {
            eprintln!("skipped: mounting an ext4 file system needs root, mkfs.ext4 and a loop device");
        }
        made.then(|| Self { at: at.to_owned(), image: Some(image.to_owned()) })
    }

    /// Gives the bytes that can still be written.
    pub fn free(&self) -> u64 {
        let disk = statvfs(&self.at).expect("a mounted file system can be asked");
        disk.blocks_available() * disk.fragment_size()
    }

    /// Writes a ballast until nothing goes any more, and leaves no byte.
    pub fn fill(&self) {
        let mut ballast = File::options().create(true).append(true).open(self.ballast()).expect("a file can be made");
        for size in [1 << 20, 4096, 1] {
            let block = vec![b'x'; size];
            let full = loop {
                if let Err(e) = ballast.write_all(&block) {
                    break e.kind();
                }
            };
            assert_eq!(full, ErrorKind::StorageFull, "the disk must be full and nothing else");
        }
        assert_eq!(self.free(), 0, "the disk must be full");
    }

    /// Makes the ballast smaller by some MiB.
    pub fn leave(&self, mib: u64) {
        let ballast = File::options().write(true).open(self.ballast()).expect("the ballast is there");
        let length = ballast.metadata().expect("a file can be asked").len();
        ballast.set_len(length - (mib << 20)).expect("a file can be cut");
    }

    /// Takes the ballast away.
    pub fn make_room(&self) {
        fs::remove_file(self.ballast()).expect("the ballast is there");
        assert!(self.free() > 1 << 20, "there must be room again");
    }

    /// Lets it fall read-only under those who have files open for writing, as a kernel does after an error of the medium.
    pub fn fall_read_only(&self) {
        assert!(self.remount("remount,abort"), "the file system cannot be aborted");
        let refused = File::create(self.ballast()).expect_err("the disk must be read-only");
        assert_eq!(refused.kind(), ErrorKind::ReadOnlyFilesystem);
    }

    /// Makes it read-only in good order. Nobody may write to it.
    pub fn make_read_only(&self) {
        assert!(self.remount("remount,ro"), "somebody writes to the disk");
    }

    /// Makes it writable again after [`Disk::make_read_only`].
    pub fn make_writable(&self) {
        assert!(self.remount("remount,rw"), "the disk stays read-only");
    }

    /// Mends it after [`Disk::fall_read_only`], as an administrator does: unmounted, checked, mounted.
    pub fn mend(&self) {
        let image = self.image.as_deref().expect("one in memory does not break");
        assert!(says_yes(Command::new("umount").arg(&self.at)), "somebody still uses the disk");
        // 1: there was something to mend, and it was mended.
        let checked = quiet(Command::new("e2fsck").arg("-p").arg(image)).and_then(|status| status.code());
        assert!(checked.is_some_and(|code| code <= 1), "the file system is beyond repair: {checked:?}");
        assert!(mount_image(image, &self.at), "the file system can be mounted again");
    }

    fn remount(&self, options: &str) -> bool {
        says_yes(Command::new("mount").args(["-o", options]).arg(&self.at))
    }

    fn ballast(&self) -> PathBuf {
        self.at.join("ballast")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // At once, and gone when the last process that has a file open there has ended.
        let _ = quiet(Command::new("umount").arg("--lazy").arg(&self.at));
    }
}

fn mount_image(image: &Path, at: &Path) -> bool {
    says_yes(Command::new("mount").args(["-o", "loop"]).arg(image).arg(at))
}

fn says_yes(command: &mut Command) -> bool {
    quiet(command).is_some_and(|status| status.success())
}

fn quiet(command: &mut Command) -> Option<std::process::ExitStatus> {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status().ok()
}
