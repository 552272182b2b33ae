//! Supervises commands, one at a time: each in its own process group, a polite end, a certain one, and nothing left behind.
//!
//! The runner is a small process that lives on from command to command, so that a command costs the start of one process,
//! its own, and that without copying anything: nothing is done between fork and exec, which lets std use `posix_spawn`.
//! What follows from it: no `PR_SET_PDEATHSIG` for the command (that needs code between fork and exec, and it would not
//! reach its children). Instead the runner listens to its stdin all the time, whose end says that the worker is gone, kills
//! the group and whatever else descends from it, and ends. It is the subreaper of its descendants: one that leaves the group
//! comes to it when its parent ends, and as only one command runs at a time, whoever is left then belongs to that command.

use std::{
    io::{self, ErrorKind},
    os::unix::process::{CommandExt as _, ExitStatusExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    sys::{
        prctl,
        signal::{Signal, kill, killpg},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::{AccessFlags, Pid, access},
};
use segue_proto::failure::{Failure, FailureClass};
use wait4::Wait4 as _;

use super::{
    ending::{Ending, Lease},
    frame::{CommandJob, JobResult, JobUsage, Produced, Reply, Request},
    memory, oom,
    requests::{Heard, Watched},
    serve::{Ear, Replies},
    usage,
};

/// How often the rest of a group is looked at during its grace. The system has no event for "this group is empty".
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// How long killed processes may take to disappear; one that hangs in the kernel can take for ever.
const REAP_WITHIN: Duration = Duration::from_secs(5);

/// Where programs are looked for when nothing else is said, as by `execvp`.
const DEFAULT_PATH: &str = "/bin:/usr/bin";

/// How a supervised command ended.
struct End {
    status: ExitStatus,
    peak_memory_bytes: u64,
    /// Some process of it does not die.
    haunted: bool,
}

/// Makes this process the keeper of everything that commands leave behind. To be called by its main thread.
pub fn prepare() {
    // The runner must outlive its worker for as long as it takes to kill the command.
    let _ = prctl::set_pdeathsig(None);
    let _ = prctl::set_child_subreaper(true);
}

/// Runs a command to its end and gives the reply that says how. No process of the command is left then.
pub fn run(job: &CommandJob, ear: &mut Ear, lease: &mut Lease, replies: &Replies) -> Reply {
    let kills_before = oom::kills_before();
    let cpu_before = usage::cpu_us_of_children();
    let ended = spawn(job).and_then(|child| {
        supervise(child, ear, lease, replies)
            .map_err(|e| Failure::new(FailureClass::Infra, format!("cannot wait for the command: {e}")))
    });
    let cpu_ms = usage::cpu_us_of_children().saturating_sub(cpu_before) / 1000;
    match ended {
        Ok(End { status, peak_memory_bytes, haunted }) => {
            let result = judge(&job.argv[0], status, || oom::kills() > kills_before);
            Reply::Ended { result, usage: JobUsage { cpu_ms, peak_memory_bytes }, haunted }
        }
        Err(failure) => Reply::Ended { result: JobResult::Failed(failure), usage: JobUsage::default(), haunted: false },
    }
}

fn spawn(job: &CommandJob) -> Result<Child, Failure> {
    let Some((program, arguments)) = job.argv.split_first() else {
        return Err(Failure::new(FailureClass::User, "the command is empty"));
    };
    // std looks for a program on its own path unless the name is one; and an environment that was cleared would make it
    // fork instead of spawn, were there a name to look for.
    let path = job.env.get("PATH").map_or(DEFAULT_PATH, String::as_str);
    let file = locate(program, path, &job.working_dir).map_err(|e| unspawned(program, &e))?;
    // Both streams of the runner are the log of the attempt.
    Command::new(file)
        .arg0(program)
        .args(arguments)
        .env_clear()
        .envs(&job.env)
        .current_dir(&job.working_dir)
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(Stdio::inherit())
        .stderr(Stdio::inherit())
        .spawn()
        .map_err(|e| unspawned(program, &e))
}

/// Finds the file of a program as `execvp` does, on the path of the command instead of this process's.
fn locate(program: &str, path: &str, working_dir: &Path) -> io::Result<PathBuf> {
    if program.contains('/') {
        return Ok(PathBuf::from(program));
    }
    let mut refused = ErrorKind::NotFound;
    for directory in path.split(':') {
        // An empty entry is the current directory. A relative one counts from where the command runs.
        let file = working_dir.join(directory).join(program);
        match access(&file, AccessFlags::X_OK) {
            Ok(()) if file.is_file() => return Ok(file),
            Err(Errno::EACCES) => refused = ErrorKind::PermissionDenied,
            Ok(()) | Err(_) => {}
        }
    }
    Err(refused.into())
}

fn unspawned(program: &str, error: &io::Error) -> Failure {
    match error.kind() {
        ErrorKind::NotFound => {
            Failure::new(FailureClass::User, format!("the program `{program}` is not on this worker"))
                .hint("install it there, or give its path; a task can ask for workers that have it by label")
        }
        ErrorKind::PermissionDenied => {
            Failure::new(FailureClass::User, format!("the program `{program}` may not be executed"))
                .hint("make the file executable")
        }
        ErrorKind::InvalidInput | ErrorKind::ArgumentListTooLong => {
            Failure::new(FailureClass::User, format!("the command `{program}` cannot be started: {error}"))
        }
        _ => Failure::new(FailureClass::Infra, format!("the command `{program}` cannot be started: {error}")),
    }
}

/// Waits for the command, ends it when it must, and leaves nothing of it.
fn supervise(mut child: Child, ear: &mut Ear, lease: &mut Lease, replies: &Replies) -> io::Result<End> {
    let leader = Pid::from_raw(i32::try_from(child.id()).map_err(io::Error::other)?);
    replies.send(&Reply::Started { group: leader.as_raw() });
    let mut ending = Ending::default();
    match Watched::child(leader) {
        // While it is a zombie its number belongs to our group and nobody else's.
        Ok(process) => while !attend(leader, Some(&process), None, &mut ending, ear, lease) {},
        Err(error) => {
            let _ = killpg(leader, Signal::SIGKILL);
            let _ = child.wait();
            kill_the_rest();
            return Err(error);
        }
    }
    if !ending.is_wanted() {
        let _ = killpg(leader, Signal::SIGKILL);
    }
    let ended = child.wait4()?;
    if ending.is_wanted() {
        grant_grace(leader, &mut ending, ear, lease);
    }
    let haunted = !kill_the_rest();
    Ok(End { status: ended.status, peak_memory_bytes: ended.rusage.maxrss, haunted })
}

/// Waits for what comes first and does what follows for the group; says whether the process has ended.
fn attend(
    group: Pid,
    process: Option<&Watched>,
    until: Option<Instant>,
    ending: &mut Ending,
    ear: &mut Ear,
    lease: &mut Lease,
) -> bool {
    let wake = [until, ending.wake(), lease.until().filter(|_| !ending.is_certain())].into_iter().flatten().min();
    match ear.wait(process, wake) {
        Heard::Ended => return true,
        Heard::Request(Request::Stop { grace_ms }) => {
            ending.want(Instant::now(), Duration::from_millis(grace_ms));
        }
        Heard::Request(Request::Lease { left_ms }) => lease.renew(Instant::now(), Duration::from_millis(left_ms)),
        Heard::Gone => ending.want(Instant::now(), Duration::ZERO),
        // A worker sends the next job when this one has ended.
        Heard::Request(Request::Operator(_) | Request::Command(_)) | Heard::Time => {}
    }
    let now = Instant::now();
    if lease.has_passed(now) {
        ending.want(now, Duration::ZERO);
    }
    if let Some(signal) = ending.due(now) {
        let _ = killpg(group, signal);
    }
    false
}

/// Lets the rest of the group finish its work after the leader went, and kills it when the grace is over.
fn grant_grace(group: Pid, ending: &mut Ending, ear: &mut Ear, lease: &mut Lease) {
    loop {
        reap();
        if killpg(group, None).is_err() {
            return;
        }
        if ending.is_certain() {
            let _ = killpg(group, Signal::SIGKILL);
            return;
        }
        attend(group, None, Some(Instant::now() + LOOK_EVERY), ending, ear, lease);
    }
}

/// Kills every process that is left under this one, those that left the group included, and waits until they are gone;
/// says whether they are.
fn kill_the_rest() -> bool {
    let mut until = None;
    while reap() {
        if *until.get_or_insert_with(|| Instant::now() + REAP_WITHIN) < Instant::now() {
            return false;
        }
        for child in memory::children(Pid::this()) {
            let _ = kill(child, Signal::SIGKILL);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    true
}

/// Takes the exits of ended children; says whether any child is left.
fn reap() -> bool {
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) => return true,
            Err(Errno::ECHILD) => return false,
            Ok(_) | Err(_) => {}
        }
    }
}

/// Says what an exit means. Signals that come from outside may pass, those of the program itself do not.
fn judge(program: &str, status: ExitStatus, killed_for_memory: impl FnOnce() -> bool) -> JobResult {
    if status.success() {
        return JobResult::Succeeded(Produced::default());
    }
    if let Some(code) = status.code() {
        let mut failure = Failure::new(FailureClass::User, format!("`{program}` exited with code {code}"));
        failure.exit_code = Some(code);
        return JobResult::Failed(failure.hint("the log of the attempt says why"));
    }
    let number = status.signal().unwrap_or(0);
    let signal = Signal::try_from(number).map_or_else(|_| format!("signal {number}"), |signal| signal.to_string());
    let mut failure = match number {
        9 if killed_for_memory() => Failure::new(FailureClass::Oom, format!("`{program}` was killed for memory"))
            .hint("ask for more memory in the task's resources"),
        9 | 15 => Failure::new(FailureClass::Lost, format!("`{program}` was killed from outside with {signal}")),
        _ => Failure::new(FailureClass::User, format!("`{program}` died of {signal}")).hint("the program crashed"),
    };
    failure.signal = Some(number);
    JobResult::Failed(failure)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use super::*;

    fn failure(status: i32, oom: bool) -> Failure {
        match judge("x", ExitStatus::from_raw(status), || oom) {
            JobResult::Failed(failure) => failure,
            JobResult::Succeeded(_) => panic!("status {status} is no success"),
        }
    }

    #[test]
    fn an_exit_is_judged_by_code_and_signal() {
        let exited = failure(3 << 8, false);
        assert_eq!((exited.class, exited.exit_code, exited.signal), (FailureClass::User, Some(3), None));
        let crashed = failure(11, false);
        assert_eq!((crashed.class, crashed.signal), (FailureClass::User, Some(11)));
        assert_eq!(failure(9, true).class, FailureClass::Oom);
        assert_eq!(failure(9, false).class, FailureClass::Lost);
        assert_eq!(failure(15, false).class, FailureClass::Lost);
    }

    #[test]
    fn a_program_is_looked_for_on_the_path_of_the_command() {
        let directory = tempfile::tempdir().unwrap();
        let (here, other) = (directory.path(), directory.path().join("bin"));
        fs::create_dir(&other).unwrap();
        fs::write(here.join("plain"), "").unwrap();
        fs::write(other.join("tool"), "").unwrap();
        fs::set_permissions(other.join("tool"), fs::Permissions::from_mode(0o755)).unwrap();
        let found = |program: &str, path: &str| locate(program, path, here).map_err(|e| e.kind());
        assert_eq!(found("tool", &format!("/nowhere:{}", other.display())), Ok(other.join("tool")));
        assert_eq!(found("tool", "/nowhere:bin"), Ok(other.join("tool")), "from where the command runs");
        assert_eq!(found("tool", "/nowhere"), Err(ErrorKind::NotFound));
        assert_eq!(found("bin", ""), Err(ErrorKind::NotFound), "a directory is no program");
        assert_eq!(found("./tool", ""), Ok(PathBuf::from("./tool")), "a path is a path");
    }

    #[test]
    fn a_missing_program_is_the_fault_of_the_task() {
        let error = unspawned("pyhton3", &ErrorKind::NotFound.into());
        assert_eq!(error.class, FailureClass::User);
        assert!(error.message.contains("pyhton3") && !error.hint.is_empty());
        assert_eq!(unspawned("x", &ErrorKind::OutOfMemory.into()).class, FailureClass::Infra);
    }
}
