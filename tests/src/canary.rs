//! Secrets that every process of a test has in its environment, and the search for them in everything that it leaves.
//!
//! Each process is given its own, and a command only those that its task asks for. Wherever one turns up that is not the
//! environment of its process, a secret of a user would have been stored or shown.

use std::{
    collections::{BTreeSet, HashMap},
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::Path,
    sync::{
        Mutex, Once, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD},
};

/// Bytes of a secret that are one too many: shorter pieces are found by chance.
const LEAST: usize = 12;
/// How often the command lines of all processes are looked at.
const LOOK: Duration = Duration::from_millis(250);
/// How long a coordinator may take to give its metrics at the end of a test.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a process is, as its first argument says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Coordinator,
    Worker,
    Caller,
}

impl Role {
    /// Tells it from the first argument of the program.
    #[must_use]
    pub fn of(argument: &str) -> Self {
        match argument {
            "coordinator" => Self::Coordinator,
            "worker" => Self::Worker,
            _ => Self::Caller,
        }
    }
}

/// A variable with a secret value.
#[derive(Debug, Clone)]
pub struct Canary {
    role: Role,
    pub name: &'static str,
    pub value: String,
}

/// Where they stand: names that the program itself reads, and one that only tasks refer to.
const NAMES: [(Role, &str); 6] = [
    (Role::Coordinator, "SEGUE_HOOK_CANARY"),
    (Role::Coordinator, "OPENLINEAGE_API_KEY"),
    (Role::Coordinator, "AWS_SECRET_ACCESS_KEY"),
    (Role::Worker, "CANARY_TOKEN"),
    (Role::Worker, "AWS_SESSION_TOKEN"),
    (Role::Caller, "CANARY_OF_CALLER"),
];

fn all() -> &'static [Canary] {
    static ALL: OnceLock<Vec<Canary>> = OnceLock::new();
    ALL.get_or_init(|| NAMES.map(|(role, name)| Canary { role, name, value: secret() }).into())
}

/// Gives the canaries of a role.
pub fn of(role: Role) -> impl Iterator<Item = &'static Canary> {
    all().iter().filter(move |canary| canary.role == role)
}

/// Gives the value of a canary.
///
/// # Panics
/// If there is none of that name.
#[must_use]
pub fn value(name: &str) -> &'static str {
    all().iter().find(|canary| canary.name == name).map_or_else(|| panic!("no canary `{name}`"), |found| &found.value)
}

/// Makes a value that nobody has had before, with characters that most encodings change.
///
/// # Panics
/// If the system gives no random bytes.
#[must_use]
pub fn secret() -> String {
    const LETTERS: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
    let mut bytes = [0_u8; 36];
    let random = fs::File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes));
    random.expect("the system gives random bytes");
    let text: String = bytes.iter().map(|byte| char::from(LETTERS[usize::from(*byte) % LETTERS.len()])).collect();
    format!("{}+/{}=", &text[..18], &text[18..])
}

/// A secret that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hit {
    /// Name of the secret; its value is in nobody's log of tests either.
    pub name: String,
    pub form: &'static str,
    /// Byte at which it stands.
    pub at: usize,
}

/// Finds secrets in bytes: any piece of one of 12 bytes or more, as it is or as programs are wont to encode it.
#[derive(Debug)]
pub struct Searcher {
    needles: HashMap<[u8; LEAST], Vec<Needle>>,
    /// By a hash of the first four bytes: whether a needle may begin so.
    may_begin: Vec<bool>,
}

#[derive(Debug)]
struct Needle {
    bytes: Vec<u8>,
    name: String,
    form: &'static str,
}

const fn begin(four: [u8; 4]) -> usize {
    (u32::from_le_bytes(four).wrapping_mul(0x9E37_79B1) >> 16) as usize
}

impl Searcher {
    /// Looks for these values, by their names.
    pub fn new<'a>(secrets: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let mut searcher = Self { needles: HashMap::new(), may_begin: vec![false; 1 << 16] };
        for (name, value) in secrets {
            for (form, piece, encoded) in forms(value.as_bytes()) {
                let pieces: BTreeSet<&[u8]> = encoded.windows(piece).collect();
                for bytes in pieces {
                    searcher.add(Needle { bytes: bytes.to_vec(), name: name.to_owned(), form });
                }
            }
        }
        searcher
    }

    /// Looks for every canary.
    #[must_use]
    pub fn canaries() -> &'static Self {
        static CANARIES: OnceLock<Searcher> = OnceLock::new();
        CANARIES.get_or_init(|| Self::new(all().iter().map(|canary| (canary.name, canary.value.as_str()))))
    }

    fn add(&mut self, needle: Needle) {
        let Some(head) = needle.bytes.first_chunk::<LEAST>() else { return };
        self.may_begin[begin([head[0], head[1], head[2], head[3]])] = true;
        self.needles.entry(*head).or_default().push(needle);
    }

    /// Finds the first secret.
    #[must_use]
    pub fn find(&self, bytes: &[u8]) -> Option<Hit> {
        bytes.windows(LEAST).enumerate().find_map(|(at, window)| {
            let head = window.first_chunk::<LEAST>()?;
            if !self.may_begin[begin([head[0], head[1], head[2], head[3]])] {
                return None;
            }
            let found = self.needles.get(head)?.iter().find(|needle| bytes[at..].starts_with(&needle.bytes))?;
            Some(Hit { name: found.name.clone(), form: found.form, at })
        })
    }

    /// Searches every file under a directory, and its name. Gives what was found and how many bytes were looked at.
    pub fn search(&self, dir: &Path, skip: &dyn Fn(&Path) -> bool) -> (Vec<String>, u64) {
        let (mut found, mut seen) = (Vec::new(), 0);
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            let path = entry.path();
            if skip(&path) {
                continue;
            }
            let name = path.as_os_str().as_encoded_bytes();
            found.extend(self.find(name).map(|hit| format!("{hit:?} in the name {}", path.display())));
            let Ok(kind) = entry.file_type() else { continue };
            if kind.is_dir() {
                let (inside, bytes) = self.search(&path, skip);
                found.extend(inside);
                seen += bytes;
            } else if kind.is_file() {
                // One that has just gone has nothing to hide any more.
                let Ok(bytes) = fs::read(&path) else { continue };
                seen += bytes.len() as u64;
                found.extend(self.find(&bytes).map(|hit| format!("{hit:?} in {}", path.display())));
            }
        }
        (found, seen)
    }
}

/// Gives the forms in which a value is looked for: name, how many bytes of the form hold 12 of the value, bytes.
fn forms(value: &[u8]) -> Vec<(&'static str, usize, Vec<u8>)> {
    let hex: String = value.iter().map(|byte| format!("{byte:02x}")).collect();
    let escaped: String = value
        .iter()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(*byte).to_string(),
            byte => format!("%{byte:02X}"),
        })
        .collect();
    let mut forms = vec![
        ("raw", LEAST, value.to_vec()),
        ("reversed", LEAST, value.iter().rev().copied().collect()),
        ("hex", 2 * LEAST, hex.to_ascii_uppercase().into_bytes()),
        ("hex", 2 * LEAST, hex.into_bytes()),
        ("URL", LEAST, escaped.to_ascii_lowercase().into_bytes()),
        ("URL", LEAST, escaped.into_bytes()),
        ("UTF-16", 2 * LEAST, value.iter().flat_map(|byte| [*byte, 0]).collect()),
    ];
    // As part of a longer text its base64 is one of three.
    for shift in 0..3_usize {
        let shifted: Vec<u8> = std::iter::repeat_n(b'-', shift).chain(value.iter().copied()).collect();
        let inner = (shift * 8).div_ceil(6)..shifted.len() * 8 / 6;
        for text in [STANDARD_NO_PAD.encode(&shifted), URL_SAFE_NO_PAD.encode(&shifted)] {
            forms.push(("base64", LEAST * 4 / 3, text[inner.clone()].as_bytes().to_vec()));
        }
    }
    forms
}

/// Looks at the command lines of all processes until the end of the test process.
struct Watch {
    found: Mutex<BTreeSet<String>>,
    looks: AtomicU64,
}

static WATCH: Watch = Watch { found: Mutex::new(BTreeSet::new()), looks: AtomicU64::new(0) };

/// Begins to look at the command lines of all processes, once.
pub fn watch_processes() {
    static BEGUN: Once = Once::new();
    BEGUN.call_once(|| {
        thread::spawn(|| {
            loop {
                WATCH.look();
                thread::sleep(LOOK);
            }
        });
    });
}

/// Says how often the command lines were looked at.
#[must_use]
pub fn looks() -> u64 {
    WATCH.looks.load(Ordering::SeqCst)
}

impl Watch {
    fn look(&self) {
        for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let Ok(line) = fs::read(entry.path().join("cmdline")) else { continue };
            if let Some(hit) = Searcher::canaries().find(&line) {
                let program =
                    String::from_utf8_lossy(line.split(|byte| *byte == 0).next().unwrap_or_default()).into_owned();
                self.found
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .insert(format!("{hit:?} in the arguments of {program}"));
            }
        }
        self.looks.fetch_add(1, Ordering::SeqCst);
    }
}

/// Checks that no canary was in the arguments of any process so far.
///
/// # Panics
/// If one was.
#[track_caller]
pub fn check_processes() {
    let found = WATCH.found.lock().unwrap_or_else(PoisonError::into_inner).clone();
    assert!(found.is_empty(), "secrets were seen: {found:?}");
}

/// Checks that no canary is in some bytes.
///
/// # Panics
/// If one is.
#[track_caller]
pub fn check(what: &str, bytes: &[u8]) {
    if let Some(hit) = Searcher::canaries().find(bytes) {
        panic!("a secret is in {what}: {hit:?}");
    }
}

/// Gives what `/metrics` says, where somebody answers.
#[must_use]
pub fn metrics(http: SocketAddr) -> Option<Vec<u8>> {
    let mut stream = TcpStream::connect_timeout(&http, PATIENCE).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").ok()?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok()?;
    answer.starts_with(b"HTTP/1.1 200").then_some(answer)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn found(bytes: &[u8], value: &str) -> Option<&'static str> {
        Searcher::new([("it", value)]).find(bytes).map(|hit| hit.form)
    }

    #[test]
    fn a_planted_secret_is_found_in_every_form_and_as_a_piece() {
        let value = secret();
        let around = |text: &str| format!("2026-01-01 something {text} went wrong").into_bytes();
        assert_eq!(found(&around("else"), &value), None, "it is not found where it is not");
        assert_eq!(found(&around(&value), &value), Some("raw"));
        for piece in [&value[..12], &value[7..19], &value[value.len() - 12..], &value[..20], &value[20..]] {
            assert_eq!(found(&around(piece), &value), Some("raw"), "{piece}");
        }
        assert_eq!(found(&around(&value[..11]), &value), None);
        let reversed: String = value.chars().rev().collect();
        assert_eq!(found(&around(&reversed[5..18]), &value), Some("reversed"));
        for (_, _, encoded) in forms(value.as_bytes()) {
            assert!(found(&[b"x".as_slice(), &encoded, b"y"].concat(), &value).is_some());
        }
        for before in ["", "u", "user:", "Basic "] {
            let text = URL_SAFE_NO_PAD.encode(format!("{before}{value}; and more"));
            assert_eq!(found(&around(&text), &value), Some("base64"), "after `{before}`");
        }
    }

    #[test]
    fn a_planted_secret_is_found_in_files_and_their_names_and_what_is_skipped_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let value = secret();
        let deep = dir.path().join("a/b");
        fs::create_dir_all(&deep).unwrap();
        fs::write(deep.join("clean"), vec![7; 100_000]).unwrap();
        fs::write(deep.join("planted"), [vec![0; 70_000], value.clone().into_bytes(), vec![255; 9]].concat()).unwrap();
        fs::write(deep.join(&value[..15]), "").unwrap();
        let searcher = Searcher::new([("it", value.as_str())]);
        let (found, seen) = searcher.search(dir.path(), &|_| false);
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(seen > 170_000 && found.iter().all(|line| !line.contains("raw\"\", ") && line.contains("a/b")));
        let (found, _) = searcher.search(dir.path(), &|path| path.ends_with("planted"));
        assert_eq!(found.len(), 1);
    }

    #[test]
    fn a_secret_in_the_arguments_of_a_process_is_seen() {
        // Not one of the processes of tests: the watch would remember it.
        let value = secret();
        let script = ["-c", "sleep 60; exit", "name", &value];
        let mut child = std::process::Command::new("sh").args(script).spawn().unwrap();
        // A process that has just begun has no arguments for a moment.
        let arguments = || fs::read(format!("/proc/{}/cmdline", child.id())).ok();
        let line = crate::until("its arguments", || arguments().filter(|line| line.starts_with(b"sh")));
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(found(&line, &value), Some("raw"));
        let before = looks();
        watch_processes();
        crate::until("two looks", || (looks() > before + 1).then_some(()));
        check_processes();
    }
}
