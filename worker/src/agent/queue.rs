//! Assignments that wait for room, first come first served, and the room itself, derived from what runs.

use std::collections::{BTreeMap, VecDeque};

use segue_proto::{ids::Token, resources::Resources};

/// The waiting line and the slots.
#[derive(Debug)]
pub struct Queue {
    capacity: Resources,
    waiting: VecDeque<(Token, Resources)>,
    running: BTreeMap<Token, Resources>,
}

impl Queue {
    /// Makes an empty queue in front of these amounts.
    #[must_use]
    pub const fn new(capacity: Resources) -> Self {
        Self { capacity, waiting: VecDeque::new(), running: BTreeMap::new() }
    }

    /// Says whether an attempt with these needs can ever run here.
    #[must_use]
    pub fn can_ever_run(&self, needs: &Resources) -> bool {
        self.capacity.fits(needs)
    }

    /// Puts an attempt at the end of the line.
    pub fn push(&mut self, token: Token, needs: Resources) {
        self.waiting.push_back((token, needs));
    }

    /// Takes a waiting attempt out of the line; says whether it was there.
    pub fn remove(&mut self, token: &Token) -> bool {
        let before = self.waiting.len();
        self.waiting.retain(|(waiting, _)| waiting != token);
        self.waiting.len() != before
    }

    /// Takes every waiting attempt out of the line.
    pub fn take_waiting(&mut self) -> Vec<Token> {
        self.waiting.drain(..).map(|(token, _)| token).collect()
    }

    /// Moves the first of the line to running if it fits. Nobody overtakes: a large attempt would never start otherwise.
    pub fn start_next(&mut self) -> Option<Token> {
        let (_, needs) = self.waiting.front()?;
        self.free().checked_sub(needs)?;
        let (token, needs) = self.waiting.pop_front()?;
        self.running.insert(token.clone(), needs);
        Some(token)
    }

    /// Gives the room of an attempt back, once no process of it is left.
    pub fn ended(&mut self, token: &Token) {
        self.running.remove(token);
    }

    /// Gives what is free: capacity less what runs, never counted apart.
    #[must_use]
    pub fn free(&self) -> Resources {
        let used = self.running.values().fold(Resources::default(), |sum, needs| sum.plus(needs));
        self.capacity.checked_sub(&used).unwrap_or_default()
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

    #[test]
    fn nobody_overtakes_the_first_of_the_line() {
        let mut queue = Queue::new(cpu(2000));
        queue.push(token(1), cpu(1000));
        queue.push(token(2), cpu(2000));
        queue.push(token(3), cpu(1000));
        assert_eq!(queue.start_next(), Some(token(1)));
        assert_eq!(queue.start_next(), None, "the large one waits and holds its place");
        queue.ended(&token(1));
        assert_eq!(queue.start_next(), Some(token(2)));
        queue.ended(&token(2));
        assert_eq!(queue.start_next(), Some(token(3)));
    }

    #[test]
    fn a_waiting_attempt_can_be_taken_back_and_a_running_one_cannot() {
        let mut queue = Queue::new(cpu(1000));
        queue.push(token(1), cpu(1000));
        queue.push(token(2), cpu(1000));
        assert_eq!(queue.start_next(), Some(token(1)));
        assert!(queue.remove(&token(2)));
        assert!(!queue.remove(&token(1)));
        assert!(queue.take_waiting().is_empty());
    }

    proptest! {
        #[test]
        fn what_runs_never_exceeds_the_capacity(needs in prop::collection::vec(0_u32..3000, 1..40), ends in prop::collection::vec(any::<bool>(), 200)) {
            let mut queue = Queue::new(cpu(4000));
            for (number, need) in needs.iter().enumerate() {
                queue.push(token(u32::try_from(number).unwrap() + 1), cpu(*need));
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
                prop_assert_eq!(queue.free().cpu_milli, 4000 - used);
            }
        }
    }
}
