//! How much memory a process has had at the most.

use std::{
    fs::{self, File},
    io::{Read as _, Seek as _},
    process::{Command, Stdio},
};

use nix::unistd::Pid;
use segue_tests::{
    until,
    wait::{PATIENCE, within},
};

pub const MIB: u64 = 1024 * 1024;

/// What a process may take beyond what it had when idle, whatever flows through it. A debug build and the allocator's
/// slack are in it; the sizes of the tests are not.
pub const SLACK: u64 = 200 * MIB;

/// Gives the most memory that a process has had since it started, or since [`forget_peak`]; none when it is gone.
pub fn peak(process: Pid) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}

/// Starts a process' peak again at what it has now, and gives that.
#[track_caller]
pub fn forget_peak(process: Pid) -> u64 {
    fs::write(format!("/proc/{process}/clear_refs"), "5").expect("a process of ours can be asked");
    peak(process).expect("the process is there")
}

/// Checks that a process has taken no more than the slack since its peak was forgotten.
#[track_caller]
pub fn stayed_within(what: &str, process: Pid, idle: u64) {
    let peak = peak(process).expect("the process is there");
    let grown = peak.saturating_sub(idle);
    eprintln!("{what}: {} MiB when idle, {} MiB at the most", idle / MIB, peak / MIB);
    assert!(grown < SLACK, "{what} has taken {} MiB more than when idle", grown / MIB);
}

/// Executes a command that must succeed and gives its standard output and its peak.
#[track_caller]
pub fn execute(command: &mut Command) -> (Vec<u8>, u64) {
    let mut out = tempfile::tempfile().expect("a temporary file can be made");
    let peak = execute_into(command, out.try_clone().expect("a file handle can be copied"));
    let mut bytes = Vec::new();
    out.rewind().and_then(|()| out.read_to_end(&mut bytes)).expect("what was written can be read");
    (bytes, peak)
}

/// Executes a command that must succeed, its standard output into a file, and gives its peak.
#[track_caller]
pub fn execute_into(command: &mut Command, out: File) -> u64 {
    let mut child = command.stdin(Stdio::null()).stdout(out).spawn().expect("the program starts");
    let id = Pid::from_raw(child.id().cast_signed());
    let mut most = 0;
    let status = within(4 * PATIENCE, || {
        most = most.max(peak(id).unwrap_or(0));
        child.try_wait().ok().flatten()
    });
    if status.is_none() {
        let _ = child.kill();
    }
    assert!(status.is_some_and(|status| status.success()), "{command:?}: {status:?}");
    assert!(most > 0, "its memory was never seen");
    most
}

/// Waits until a process is gone, or taken by nobody yet.
#[track_caller]
pub fn gone(what: &str, process: Pid) {
    until(&format!("{what} ends"), || (!segue_tests::cluster::is_alive(process)).then_some(()));
}
