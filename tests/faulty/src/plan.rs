//! Which fault comes when: from a seed, with a budget for each state directory, and a note of each that was injected.
//!
//! `SEGUE_STORE_FAULTS="seed=7,gap=12,delay=6,busy=4,error=1,applied-then-error=2,flush=1,full=1,read=1"`: how many of each
//! kind a state directory sees at most, `gap` writes from one to the next on the average.

use std::{
    collections::VecDeque,
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
};

/// File to which the faults of all state directories are noted too.
const LOG: &str = "SEGUE_STORE_FAULTS_LOG";

/// What the store does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A write takes its time.
    Delay,
    /// The next calls, reads too, are refused for the moment: nothing is done.
    Busy,
    /// A write is refused: nothing is written, and the caller does not know it.
    Refused,
    /// A write is applied, and the caller is told that it took too long.
    Denied,
    /// A flush fails.
    Flush,
    /// Nothing more is written until the next start.
    Full,
    /// A read fails.
    Read,
}

impl Kind {
    const ALL: [Self; 7] = [Self::Delay, Self::Busy, Self::Refused, Self::Denied, Self::Flush, Self::Full, Self::Read];

    /// Gives its name in a specification and in notes.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Delay => "delay",
            Self::Busy => "busy",
            Self::Refused => "error",
            Self::Denied => "applied-then-error",
            Self::Flush => "flush",
            Self::Full => "full",
            Self::Read => "read",
        }
    }

    /// Says whether a coordinator is to go on as if nothing had been.
    pub const fn passes(self) -> bool {
        matches!(self, Self::Delay | Self::Busy)
    }
}

/// What `SEGUE_STORE_FAULTS` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spec {
    seed: u64,
    gap: u64,
    budget: Vec<(Kind, usize)>,
}

impl Spec {
    /// Reads a specification.
    ///
    /// # Errors
    /// Names the part that makes no sense.
    pub fn read(text: &str) -> Result<Self, String> {
        let mut spec = Self { seed: 1, gap: 12, budget: Vec::new() };
        for part in text.split(',').filter(|part| !part.is_empty()) {
            let (name, number) = part.split_once('=').ok_or_else(|| format!("`{part}` is not NAME=NUMBER"))?;
            let number: u64 = number.parse().map_err(|_| format!("`{part}` has no whole number"))?;
            match (name, Kind::ALL.into_iter().find(|kind| kind.name() == name)) {
                ("seed", _) => spec.seed = number,
                ("gap", _) => spec.gap = number.max(1),
                (_, Some(kind)) => spec.budget.push((kind, usize::try_from(number).unwrap_or(usize::MAX).min(1_000))),
                _ => {
                    let known = Kind::ALL.map(Kind::name).join(", ");
                    return Err(format!("`{name}` is none of seed, gap, {known}"));
                }
            }
        }
        if spec.budget.iter().all(|(_, count)| *count == 0) {
            return Err("no fault is asked for".to_owned());
        }
        Ok(spec)
    }

    /// Gives the faults in the order in which they come.
    fn deck(&self, passing: bool) -> Vec<Kind> {
        let mut deck: Vec<Kind> = Vec::new();
        for (kind, count) in self.budget.iter().filter(|(kind, _)| kind.passes() == passing) {
            deck.extend(std::iter::repeat_n(*kind, *count));
        }
        let mut random = Random(self.seed ^ u64::from(passing));
        for last in (1..deck.len()).rev() {
            deck.swap(last, random.below(last as u64 + 1));
        }
        deck
    }
}

/// Faults of one sort that are still to come.
#[derive(Debug)]
struct Deck {
    left: VecDeque<Kind>,
    /// Writes until the next one.
    wait: usize,
    random: Random,
    gap: u64,
}

impl Deck {
    /// Skips what was injected before this start.
    fn new(spec: &Spec, passing: bool, done: usize) -> Self {
        let mut deck = Self {
            left: spec.deck(passing).into_iter().skip(done).collect(),
            wait: 0,
            // Other gaps after each start: the same one would stop every start at the same write.
            random: Random(spec.seed.rotate_left(17) ^ (done as u64) << 1 ^ u64::from(passing)),
            gap: spec.gap,
        };
        deck.shuffle();
        deck
    }

    fn shuffle(&mut self) {
        self.wait = self.random.below(2 * self.gap);
    }

    fn next(&mut self) -> Option<Kind> {
        if self.wait > 0 {
            self.wait -= 1;
            return None;
        }
        self.shuffle();
        self.left.pop_front()
    }
}

/// The faults of a state directory that are still to come.
#[derive(Debug)]
pub struct Plan {
    passing: Deck,
    stopping: Option<Deck>,
    notes: Vec<File>,
    writes: u64,
}

impl Plan {
    /// Goes on with the plan of a state directory. Without `stops` only what passes is injected.
    ///
    /// # Errors
    /// The notes cannot be read or written.
    pub fn open(spec: &Spec, state_dir: &Path, stops: bool) -> Result<Self, String> {
        let place = beside(state_dir);
        let text = match fs::read_to_string(&place) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => String::new(),
            text => text.map_err(|e| format!("{}: {e}", place.display()))?,
        };
        let noted: Vec<Kind> = text
            .lines()
            .filter_map(|line| Kind::ALL.into_iter().find(|kind| line.split(' ').next() == Some(kind.name())))
            .collect();
        let done = |passing: bool| noted.iter().filter(|kind| kind.passes() == passing).count();
        let mut notes = Vec::new();
        for place in [Some(place), std::env::var_os(LOG).map(PathBuf::from)].into_iter().flatten() {
            let file = File::options().create(true).append(true).open(&place);
            notes.push(file.map_err(|e| format!("{}: {e}", place.display()))?);
        }
        Ok(Self {
            passing: Deck::new(spec, true, done(true)),
            stopping: stops.then(|| Deck::new(spec, false, done(false))),
            notes,
            writes: 0,
        })
    }

    /// Says which fault hits this write, and notes it before it does.
    pub fn next(&mut self) -> Option<Kind> {
        self.writes += 1;
        let kind = self.stopping.as_mut().and_then(Deck::next).or_else(|| self.passing.next())?;
        let note = format!("{} at write {} of process {}\n", kind.name(), self.writes, std::process::id());
        for file in &mut self.notes {
            // A fault without a note would come once more: none at all, then.
            file.write_all(note.as_bytes()).ok()?;
        }
        Some(kind)
    }
}

/// Gives the file of notes of a state directory: beside it, where no backup takes it for its own.
fn beside(state_dir: &Path) -> PathBuf {
    let mut name = state_dir.as_os_str().to_owned();
    name.push(".store-faults");
    PathBuf::from(name)
}

/// Numbers from a seed (splitmix64).
#[derive(Debug)]
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        usize::try_from((z ^ (z >> 31)) % end.max(1)).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn all(plan: &mut Plan) -> Vec<Kind> {
        (0..1_000).filter_map(|_| plan.next()).collect()
    }

    fn count(kinds: &[Kind], kind: Kind) -> usize {
        kinds.iter().filter(|found| **found == kind).count()
    }

    #[test]
    fn a_budget_is_spent_once_whatever_the_number_of_starts() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state");
        let spec = Spec::read("seed=7,gap=3,delay=4,busy=2,error=3,full=1").unwrap();
        let mut seen: Vec<Kind> = Vec::new();
        while count(&seen, Kind::Refused) < 3 {
            let mut plan = Plan::open(&spec, &state, true).unwrap();
            seen.extend((0..9).filter_map(|_| plan.next()));
        }
        seen.extend(all(&mut Plan::open(&spec, &state, true).unwrap()));
        let found = [Kind::Delay, Kind::Busy, Kind::Refused, Kind::Full, Kind::Denied].map(|kind| count(&seen, kind));
        assert_eq!(found, [4, 2, 3, 1, 0]);
        assert_eq!(fs::read_to_string(dir.path().join("state.store-faults")).unwrap().lines().count(), 10);
    }

    #[test]
    fn the_same_seed_gives_the_same_faults_and_another_one_others() {
        let order = |seed: u64| {
            let dir = tempfile::tempdir().unwrap();
            let spec = Spec::read(&format!("seed={seed},delay=5,busy=5,error=5,flush=5")).unwrap();
            all(&mut Plan::open(&spec, &dir.path().join("state"), true).unwrap())
        };
        assert_eq!(order(1), order(1));
        assert_ne!(order(1), order(2));
    }

    #[test]
    fn a_command_that_nobody_starts_again_sees_only_what_passes() {
        let dir = tempfile::tempdir().unwrap();
        let spec = Spec::read("delay=2,busy=1,error=9,read=9").unwrap();
        let seen = all(&mut Plan::open(&spec, &dir.path().join("state"), false).unwrap());
        assert_eq!((seen.len(), seen.iter().all(|kind| kind.passes())), (3, true));
    }

    #[test]
    fn a_specification_that_makes_no_sense_is_refused() {
        for bad in ["", "delay=0", "delay", "delay=x", "dealy=1", "seed=3"] {
            assert!(Spec::read(bad).is_err(), "{bad}");
        }
    }
}
