//! The command line as a user has it.

use std::{
    ffi::{OsStr, OsString},
    io::Read,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
};

use serde_json::Value;

use crate::{
    canary::{self, Role},
    program, wait,
};

/// How long one command may take.
const LONGEST: std::time::Duration = std::time::Duration::from_secs(400);

/// How long a coordinator that a fault of its store has stopped may take to come back.
const BACK: std::time::Duration = std::time::Duration::from_secs(10);

/// Starts commands with the same global options, directory and environment.
#[derive(Debug, Clone)]
pub struct Cli {
    global: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    dir: PathBuf,
}

/// What a command said.
#[derive(Debug, Clone)]
pub struct Said {
    /// Exit code; -1 after a signal.
    pub code: i32,
    /// It found no coordinator and was executed again, so that it may find its own work done.
    pub repeated: bool,
    pub stdout: String,
    pub stderr: String,
}

impl Cli {
    /// Talks to the coordinator at `url`; works in `dir`.
    #[must_use]
    pub fn server(url: &str, dir: &Path) -> Self {
        Self { global: vec!["--server".into(), url.into()], env: Vec::new(), dir: dir.to_owned() }
    }

    /// Uses a state directory; works in `dir`.
    #[must_use]
    pub fn state_dir(state_dir: &Path, dir: &Path) -> Self {
        Self { global: vec!["--state-dir".into(), state_dir.into()], env: Vec::new(), dir: dir.to_owned() }
    }

    /// Sets a variable of the environment.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.env.push((name.into(), value.as_ref().to_owned()));
        self
    }

    /// Gives the command without starting it.
    pub fn command<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Command {
        let args: Vec<OsString> = args.into_iter().map(|arg| arg.as_ref().to_owned()).collect();
        let role = args.first().map_or(Role::Caller, |first| Role::of(&first.to_string_lossy()));
        let mut command = command(role);
        command.args(args).args(&self.global).envs(self.env.iter().cloned()).current_dir(&self.dir);
        command
    }

    /// Executes a command and gives what it said, whatever it was. Where the store of the coordinator fails, it is
    /// executed again until it finds one, as its user would.
    ///
    /// # Panics
    /// If it cannot be started or does not end, or if it tells a secret.
    #[track_caller]
    pub fn run<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Said {
        let mut args: Vec<OsString> = args.into_iter().map(|arg| arg.as_ref().to_owned()).collect();
        if program::store_faults().is_none() {
            return self.run_once(&args);
        }
        let submits = ["submit", "run"].iter().any(|name| args.first().is_some_and(|first| first == name));
        if submits && !args.iter().any(|arg| arg == "--idempotency-key") {
            // Nobody knows whether a submission that was not answered was kept.
            args.extend(["--idempotency-key".into(), canary::secret().into()]);
        }
        let mut said = self.run_once(&args);
        wait::within(BACK, || {
            if !said.finds_nobody() {
                return Some(());
            }
            said = Said { repeated: true, ..self.run_once(&args) };
            None
        });
        said
    }

    #[track_caller]
    fn run_once(&self, args: &[OsString]) -> Said {
        let mut command = self.command(args);
        let shown = format!("{command:?}");
        let spawned = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut child = spawned.unwrap_or_else(|e| panic!("cannot start {shown}: {e}"));
        let out = child.stdout.take().map(reader).expect("the pipe was asked for");
        let err = child.stderr.take().map(reader).expect("the pipe was asked for");
        let Some(status) = wait::within(LONGEST, || child.try_wait().ok().flatten()) else {
            let _ = child.kill();
            panic!("{shown} does not end:\n{}", err.join().unwrap_or_default());
        };
        let said = Said {
            code: status.code().unwrap_or(-1),
            repeated: false,
            stdout: out.join().unwrap_or_default(),
            stderr: err.join().unwrap_or_default(),
        };
        canary::check(&format!("what {shown} says"), said.stdout.as_bytes());
        canary::check(&format!("what {shown} says to people"), said.stderr.as_bytes());
        said
    }

    /// Executes a command that must succeed, and gives its standard output.
    ///
    /// # Panics
    /// If its exit code is not 0.
    #[track_caller]
    pub fn ok<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Said {
        let args: Vec<OsString> = args.into_iter().map(|arg| arg.as_ref().to_owned()).collect();
        let said = self.run(&args);
        assert_eq!(said.code, 0, "{args:?}\nstdout: {}\nstderr: {}", said.stdout, said.stderr);
        said
    }

    /// Executes a command with `-o json` that must succeed, and gives its answer.
    ///
    /// # Panics
    /// If its exit code is not 0 or its answer is not JSON.
    #[track_caller]
    pub fn json<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Value {
        let args = args.into_iter().map(|arg| arg.as_ref().to_owned()).chain(["-o".into(), "json".into()]);
        self.ok(args.collect::<Vec<OsString>>()).json()
    }

    /// Executes a run of a pipeline file and gives its outcome, whatever it is.
    ///
    /// # Panics
    /// If the answer is not JSON.
    #[track_caller]
    pub fn run_pipeline(&self, file: &Path, args: &[&str]) -> Value {
        let mut all: Vec<OsString> = vec!["run".into(), file.into(), "-o".into(), "json".into()];
        all.extend(args.iter().map(OsString::from));
        self.run(all).json()
    }
}

/// Gives a command of the program that knows nothing of this machine's own coordinators, and a secret of its own.
fn command(role: Role) -> Command {
    let mut command = Command::new(program::segue());
    command.env_remove("SEGUE_SERVER").env_remove("SEGUE_STATE_DIR").env("NO_COLOR", "1");
    command.envs(canary::of(role).map(|canary| (canary.name, &canary.value)));
    command.envs(program::store_faults().map(|faults| ("SEGUE_STORE_FAULTS", faults)));
    command
}

fn reader(mut from: impl Read + Send + 'static) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = from.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

impl Said {
    /// Says whether the coordinator could not answer for the moment.
    fn finds_nobody(&self) -> bool {
        const WORDS: [&str; 6] = [
            "the coordinator went away",
            "no coordinator answers",
            "is stopping",
            "takes no more writes",
            "the store: ",
            "transport error",
        ];
        self.code == 3 && WORDS.iter().any(|words| self.stderr.contains(words))
    }

    /// Reads standard output as JSON.
    ///
    /// # Panics
    /// If it is not.
    #[must_use]
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|e| {
            panic!("not JSON ({e}), exit code {}\nstdout: {}\nstderr: {}", self.code, self.stdout, self.stderr)
        })
    }

    /// Checks that the command refused with this code, told a person all of `words`, and did not break.
    ///
    /// # Panics
    /// If it did not.
    #[track_caller]
    pub fn refuses(&self, code: i32, words: &[&str]) {
        let said = format!("exit code {}\nstdout: {}\nstderr: {}", self.code, self.stdout, self.stderr);
        assert_eq!(self.code, code, "{said}");
        assert!(!self.stderr.contains("panicked") && !self.stdout.contains("panicked"), "{said}");
        for word in words {
            assert!(self.stderr.contains(word), "nothing says `{word}`\n{said}");
        }
    }
}
