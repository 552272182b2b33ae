//! What a runner waits for: a word of its worker, the end of its command, a time. One thread waits for all of them, so that
//! a short command costs no hand-over between threads.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    time::{Duration, Instant},
};

use bytes::BytesMut;
use nix::{
    errno::Errno,
    sys::wait::{Id, WaitPidFlag, waitid},
    unistd::Pid,
};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{PidfdFlags, pidfd_open},
};

use super::frame::{self, Request};

/// Room that is made for the next piece of a request.
const PIECE: usize = 16 * 1024;

/// What came first.
#[derive(Debug)]
pub enum Heard {
    Request(Request),
    /// The worker is gone, or speaks nonsense. Said once.
    Gone,
    /// The process that was watched has ended. It was not waited for.
    Ended,
    /// The time has come.
    Time,
}

/// The requests of the worker, in order.
#[derive(Debug)]
pub struct Requests<S> {
    stream: S,
    buffer: BytesMut,
    is_open: bool,
}

impl<S: AsFd> Requests<S> {
    /// Reads requests from this stream, which nobody else may read.
    pub fn of(stream: S) -> Self {
        Self { stream, buffer: BytesMut::new(), is_open: true }
    }

    /// Says whether the worker may still ask for something.
    pub const fn is_open(&self) -> bool {
        self.is_open
    }

    /// Waits for the next request, the end of a process, or a time, whichever comes first.
    pub fn wait(&mut self, process: Option<&Watched>, until: Option<Instant>) -> Heard {
        loop {
            if self.is_open {
                match frame::decode(&mut self.buffer) {
                    Ok(Some(request)) => return Heard::Request(request),
                    Ok(None) => {}
                    Err(_) => return self.gone(),
                }
            }
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            let left = left.map(|left| Timespec {
                tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: left.subsec_nanos().into(),
            });
            let mut fds = Vec::with_capacity(2);
            fds.extend(self.is_open.then(|| PollFd::new(&self.stream, PollFlags::IN)));
            fds.extend(process.map(|process| PollFd::new(&process.0, PollFlags::IN)));
            match poll(&mut fds, left.as_ref()) {
                Ok(0) => return Heard::Time,
                Ok(_) => {}
                Err(rustix::io::Errno::INTR) => continue,
                // The kernel is short of memory for a moment.
                Err(_) => {
                    std::thread::sleep(Duration::from_millis(1));
                    continue;
                }
            }
            // The worker's word comes first: it may be that the command must end, and was told so while it lived.
            let spoke = self.is_open && !fds[0].revents().is_empty();
            let ended = process.is_some() && fds.last().is_some_and(|fd| !fd.revents().is_empty());
            drop(fds);
            if spoke {
                if !self.read() {
                    return self.gone();
                }
            } else if ended {
                return Heard::Ended;
            }
        }
    }

    /// Takes what is in the stream; says whether there was something.
    fn read(&mut self) -> bool {
        let before = self.buffer.len();
        self.buffer.resize(before + PIECE, 0);
        let read = loop {
            match nix::unistd::read(self.stream.as_fd(), &mut self.buffer[before..]) {
                Err(Errno::EINTR) => {}
                read => break read.unwrap_or(0),
            }
        };
        self.buffer.truncate(before + read);
        read > 0
    }

    fn gone(&mut self) -> Heard {
        self.is_open = false;
        Heard::Gone
    }
}

/// A child whose end can be waited for beside other things. It stays a zombie, so that its number is nobody else's.
#[derive(Debug)]
pub struct Watched(OwnedFd);

impl Watched {
    /// Watches a child of this process.
    ///
    /// # Errors
    /// If the system has no room for it.
    pub fn child(child: Pid) -> io::Result<Self> {
        let pid = rustix::process::Pid::from_raw(child.as_raw()).ok_or_else(|| io::Error::other("no process"))?;
        match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(fd) => Ok(Self(fd)),
            // Before Linux 5.3, and in some sandboxes.
            Err(_) => Self::by_thread(child),
        }
    }

    /// Watches it with a thread, whose end closes a pipe.
    fn by_thread(child: Pid) -> io::Result<Self> {
        let (ours, theirs) = io::pipe()?;
        std::thread::Builder::new().name("waits".into()).spawn(move || {
            while waitid(Id::Pid(child), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT) == Err(Errno::EINTR) {}
            drop(theirs);
        })?;
        Ok(Self(ours.into()))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::{
        io::Write as _,
        process::{Child, Command},
    };

    use super::*;

    fn child(script: &str) -> (Child, Pid) {
        let child = Command::new("sh").args(["-c", script]).spawn().unwrap();
        let pid = Pid::from_raw(child.id().cast_signed());
        (child, pid)
    }

    #[test]
    fn requests_come_in_order_and_the_end_of_the_worker_is_told_once() {
        let (ours, mut theirs) = io::pipe().unwrap();
        let mut requests = Requests::of(ours);
        let both = [Request::Lease { left_ms: 7 }, Request::Stop { grace_ms: 8 }].map(|r| frame::encode(&r).unwrap());
        theirs.write_all(&both.concat()).unwrap();
        drop(theirs);
        assert!(matches!(requests.wait(None, None), Heard::Request(Request::Lease { left_ms: 7 })));
        assert!(matches!(requests.wait(None, None), Heard::Request(Request::Stop { grace_ms: 8 })));
        assert!(matches!(requests.wait(None, None), Heard::Gone));
        assert!(!requests.is_open());
        assert!(matches!(requests.wait(None, Some(Instant::now())), Heard::Time));
    }

    #[test]
    fn a_request_longer_than_the_pipe_arrives_whole() {
        let (ours, mut theirs) = io::pipe().unwrap();
        let text = "x".repeat(300_000);
        let job = frame::CommandJob { argv: vec![text.clone()], working_dir: "/".into(), env: [].into() };
        let writer = std::thread::spawn(move || frame::write(&mut theirs, &Request::Command(job)).unwrap());
        let Heard::Request(Request::Command(job)) = Requests::of(ours).wait(None, None) else { panic!("a command") };
        assert_eq!(job.argv, [text]);
        writer.join().unwrap();
    }

    #[test]
    fn nonsense_is_taken_as_the_end_of_the_worker() {
        let (ours, mut theirs) = io::pipe().unwrap();
        theirs.write_all(&[0xff; 64]).unwrap();
        assert!(matches!(Requests::of(ours).wait(None, None), Heard::Gone));
    }

    #[test]
    fn the_end_of_a_child_is_heard_with_and_without_pidfd_and_its_number_stays_taken() {
        let (ours, _theirs) = io::pipe().unwrap();
        let mut requests = Requests::of(ours);
        for watch in [Watched::child, Watched::by_thread] {
            let (mut quick, pid) = child("exit 7");
            let watched = watch(pid).unwrap();
            assert!(matches!(requests.wait(Some(&watched), None), Heard::Ended));
            nix::sys::signal::kill(pid, None).unwrap();
            assert_eq!(quick.wait().unwrap().code(), Some(7));

            let (mut slow, pid) = child("exec sleep 600");
            let watched = watch(pid).unwrap();
            assert!(matches!(
                requests.wait(Some(&watched), Some(Instant::now() + Duration::from_millis(5))),
                Heard::Time
            ));
            slow.kill().unwrap();
            assert!(matches!(requests.wait(Some(&watched), None), Heard::Ended));
            slow.wait().unwrap();
        }
    }
}
