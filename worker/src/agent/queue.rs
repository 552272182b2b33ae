//! Assignments that wait for room, and the room itself, derived from what runs.
//!
//! There are two lines. A **leased** assignment has its room reserved by the coordinator: it starts before every other,
//! in order, and where the first of them has no room yet (the attempt before it is still dying) nothing else takes it
//! away. One given **ahead** has no claim on room: the first that fits starts, so that a large one at the head does not
//! keep small ones from room that it could not use. Equal ones never overtake each other, in either line.

use std::collections::{HashMap, HashSet, VecDeque};

use segue_proto::{ids::Token, resources::Resources};

/// The waiting lines and the slots.
#[derive(Debug)]
pub struct Queue {
    capacity: Resources,
    leased: VecDeque<(Token, Resources)>,
    ahead: VecDeque<(Token, Resources)>,
    running: HashMap<Token, Resources>,
    /// Capacity less what runs.
    free: Resources,
    /// Nothing that was given ahead fits, and nothing has changed since that was found out.
    ahead_is_stuck: bool,
}

impl Queue {
    /// Makes an empty queue in front of these amounts.
    #[must_use]
    pub fn new(capacity: Resources) -> Self {
        Self {
            free: capacity.clone(),
            capacity,
            leased: VecDeque::new(),
            ahead: VecDeque::new(),
            running: HashMap::new(),
            ahead_is_stuck: false,
        }
    }

    /// Says whether an attempt with these needs can ever run here.
    #[must_use]
    pub fn can_ever_run(&self, needs: &Resources) -> bool {
        self.capacity.fits(needs)
    }

    /// Puts an attempt at the end of its line.
    pub fn push(&mut self, token: Token, needs: Resources, ahead: bool) {
        let line = if ahead { &mut self.ahead } else { &mut self.leased };
        line.push_back((token, needs));
        self.ahead_is_stuck = false;
    }

    /// Takes a waiting attempt out of its line; says whether it was there.
    pub fn remove(&mut self, token: &Token) -> bool {
        !self.remove_all(std::slice::from_ref(token)).is_empty()
    }

    /// Takes those of these attempts that wait out of their lines.
    pub fn remove_all(&mut self, tokens: &[Token]) -> Vec<Token> {
        let wanted: HashSet<&Token> = tokens.iter().collect();
        let mut removed = Vec::new();
        for line in [&mut self.leased, &mut self.ahead] {
            line.retain(|(waiting, _)| {
                let stays = !wanted.contains(waiting);
                if !stays {
                    removed.push(waiting.clone());
                }
                stays
            });
        }
        removed
    }

    /// Takes every waiting attempt out of its line.
    pub fn take_waiting(&mut self) -> Vec<Token> {
        self.leased.drain(..).chain(self.ahead.drain(..)).map(|(token, _)| token).collect()
    }

    /// Says whether an attempt waits for room.
    #[must_use]
    pub fn is_waited_for(&self) -> bool {
        !self.leased.is_empty() || !self.ahead.is_empty()
    }

    /// Moves the next attempt that has room to running.
    pub fn start_next(&mut self) -> Option<Token> {
        let (token, needs) = match self.leased.front() {
            Some((_, needs)) if self.free.fits(needs) => self.leased.pop_front()?,
            Some(_) => return None,
            None => {
                let place = if self.ahead_is_stuck { None } else { self.first_ahead_that_fits() };
                self.ahead_is_stuck = place.is_none();
                self.ahead.remove(place?)?
            }
        };
        self.free = self.free.checked_sub(&needs)?;
        self.running.insert(token.clone(), needs);
        Some(token)
    }

    fn first_ahead_that_fits(&self) -> Option<usize> {
        // Most that wait are alike: what did not fit once is not asked again.
        let mut refused: Option<&Resources> = None;
        self.ahead.iter().position(|(_, needs)| {
            let fits = refused != Some(needs) && self.free.fits(needs);
            if !fits {
                refused = Some(needs);
            }
            fits
        })
    }

    /// Gives the room of an attempt back, once no process of it is left.
    pub fn ended(&mut self, token: &Token) {
        if let Some(needs) = self.running.remove(token) {
            self.free = self.free.plus(&needs);
            self.ahead_is_stuck = false;
        }
    }

    /// Says what does not add up: each of `waiting` is in one line, each of `running` has its room, and nothing else does.
    ///
    /// # Errors
    /// The first thing found.
    pub fn check(&self, waiting: &[&Token], running: &[&Token]) -> Result<(), String> {
        let mut lines: Vec<&Token> = self.leased.iter().chain(&self.ahead).map(|(token, _)| token).collect();
        lines.sort();
        if lines != waiting {
            return Err(format!("{lines:?} wait in line, and {waiting:?} are held as waiting"));
        }
        let mut with_room: Vec<&Token> = self.running.keys().collect();
        with_room.sort();
        if with_room != running {
            return Err(format!("{with_room:?} have room, and {running:?} run"));
        }
        let used = self.running.values().fold(Resources::default(), |sum, needs| sum.plus(needs));
        let free = self.capacity.checked_sub(&used).ok_or("more runs than there is room for")?;
        let agree = free.fits(&self.free) && self.free.fits(&free);
        if agree { Ok(()) } else { Err(format!("{:?} is said to be free, and {free:?} is", self.free)) }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    fn token(number: u32) -> Token {
        Token {
            run: "run_01j8zk5m8w0000000000000000".parse().unwrap(),
            index: 0,
            task: "task".parse().unwrap(),
            attempt: number,
            epoch: 1,
        }
    }

    fn cpu(milli: u32) -> Resources {
        Resources { cpu_milli: milli, ..Resources::default() }
    }

    const LEASED: bool = false;
    const AHEAD: bool = true;

    #[test]
    fn nobody_overtakes_the_first_that_has_a_lease() {
        let mut queue = Queue::new(cpu(2000));
        queue.push(token(4), cpu(1000), AHEAD);
        queue.push(token(1), cpu(1000), LEASED);
        queue.push(token(2), cpu(2000), LEASED);
        queue.push(token(3), cpu(1000), LEASED);
        assert_eq!(queue.start_next(), Some(token(1)));
        assert_eq!(queue.start_next(), None, "the large one waits and holds its place");
        queue.ended(&token(1));
        assert_eq!(queue.start_next(), Some(token(2)));
        queue.ended(&token(2));
        assert_eq!(queue.start_next(), Some(token(3)));
        assert_eq!(queue.start_next(), Some(token(4)), "what was given ahead comes after all leases");
    }

    #[test]
    fn a_large_one_given_ahead_keeps_no_small_one_from_room_that_it_cannot_use() {
        let mut queue = Queue::new(cpu(2000));
        queue.push(token(1), cpu(1000), LEASED);
        queue.push(token(2), cpu(2000), AHEAD);
        queue.push(token(3), cpu(2000), AHEAD);
        queue.push(token(4), cpu(1000), AHEAD);
        queue.push(token(5), cpu(1000), AHEAD);
        assert_eq!(queue.start_next(), Some(token(1)));
        assert_eq!(queue.start_next(), Some(token(4)));
        assert_eq!(queue.start_next(), None);
        queue.ended(&token(1));
        assert_eq!(queue.start_next(), Some(token(5)));
        queue.ended(&token(4));
        queue.ended(&token(5));
        assert_eq!(queue.start_next(), Some(token(2)), "equal ones keep their order");
    }

    #[test]
    fn a_waiting_attempt_can_be_taken_back_and_a_running_one_cannot() {
        let mut queue = Queue::new(cpu(1000));
        for (number, line) in [(1, LEASED), (2, AHEAD), (3, LEASED), (4, AHEAD)] {
            queue.push(token(number), cpu(1000), line);
        }
        assert_eq!(queue.start_next(), Some(token(1)));
        assert!(queue.remove(&token(2)));
        assert!(!queue.remove(&token(1)));
        assert_eq!(queue.remove_all(&[token(1), token(4), token(9)]), [token(4)]);
        assert_eq!(queue.take_waiting(), [token(3)]);
    }

    proptest! {
        #[test]
        fn what_runs_never_exceeds_the_capacity(needs in prop::collection::vec((0_u32..3000, any::<bool>()), 1..40), ends in prop::collection::vec(any::<bool>(), 200)) {
            let mut queue = Queue::new(cpu(4000));
            for (number, (need, ahead)) in needs.iter().enumerate() {
                queue.push(token(u32::try_from(number).unwrap() + 1), cpu(*need), *ahead);
            }
            let mut running = Vec::new();
            for end in ends {
                if end && !running.is_empty() {
                    queue.ended(&running.remove(0));
                } else if let Some(started) = queue.start_next() {
                    running.push(started);
                }
                let used: u32 = queue.running.values().map(|r| r.cpu_milli).sum();
                prop_assert!(used <= 4000);
                prop_assert_eq!(queue.free.cpu_milli, 4000 - used);
            }
        }
    }
}
