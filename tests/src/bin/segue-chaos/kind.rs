//! Kinds of faults, and how many of each there are to be.

use std::{collections::BTreeMap, str::FromStr as _};

use clap::ValueEnum;
use segue_tests::draw::Draw;

/// Kinds of faults.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Kind {
    /// SIGKILL of the coordinator
    KillCoordinator,
    /// SIGKILL of a worker
    KillWorker,
    /// SIGKILL of a runner
    KillRunner,
    /// SIGKILL of a command
    KillCommand,
    /// SIGSTOP of the coordinator, and SIGCONT after a while
    StopCoordinator,
    /// SIGSTOP of a worker, and SIGCONT after a while
    StopWorker,
    /// SIGTERM of the coordinator, and a new one
    EndCoordinator,
    /// SIGTERM of a worker, which drains, and a new one
    EndWorker,
    /// A worker loses its connection and finds no way for a while; on loopback
    CutWorker,
    /// The link of a host is down for a while; with --netns, as all that follow
    HostDown,
    /// No packet of a host arrives for a while, in either direction
    HostSilent,
    /// A host hears nothing for a while; what it says arrives
    HostDeaf,
    /// Nobody hears a host for a while; it hears everything
    HostMute,
    /// Packets of a host take 200 ms longer for a while, each way
    HostSlow,
    /// Of the packets of a host 5 in 100 are lost for a while, each way
    HostLossy,
}

impl Kind {
    /// Gives its name in the command line and in the result.
    pub fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    /// Says whether it can happen to processes with hosts of their own, or to those on loopback.
    pub const fn fits(self, hosts: bool) -> bool {
        match self {
            Self::CutWorker => !hosts,
            Self::HostDown | Self::HostSilent | Self::HostDeaf | Self::HostMute | Self::HostSlow | Self::HostLossy => {
                hosts
            }
            _ => true,
        }
    }
}

/// How many faults of each kind there are to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Budget(BTreeMap<Kind, u32>);

impl Budget {
    /// Shares `total` out among the kinds as evenly as it goes; the first ones get what is left.
    pub fn even(kinds: &[Kind], total: u32) -> Self {
        let mut budget: BTreeMap<Kind, u32> = kinds.iter().map(|kind| (*kind, 0)).collect();
        let kinds = u32::try_from(budget.len()).unwrap_or(1).max(1);
        for (place, share) in (0..).zip(budget.values_mut()) {
            *share = total / kinds + u32::from(place < total % kinds);
        }
        Self(budget).whole()
    }

    /// Takes each number as it is told. A kind that is told twice gets both.
    pub fn told(shares: &[(Kind, u32)]) -> Self {
        let mut budget = BTreeMap::new();
        for (kind, share) in shares {
            *budget.entry(*kind).or_default() += *share;
        }
        Self(budget).whole()
    }

    fn whole(mut self) -> Self {
        self.0.retain(|_, share| *share > 0);
        self
    }

    /// Gives the number of each kind.
    pub const fn shares(&self) -> &BTreeMap<Kind, u32> {
        &self.0
    }

    /// Lays all of it out in an order that is drawn.
    pub fn deck(&self, draw: &mut Draw) -> Vec<Kind> {
        let mut deck: Vec<Kind> = self.0.iter().flat_map(|(kind, share)| (0..*share).map(|_| *kind)).collect();
        for last in (1..deck.len()).rev() {
            let other = draw.below(last as u64 + 1);
            deck.swap(last, usize::try_from(other).unwrap_or(last));
        }
        deck
    }
}

/// Reads `KIND=N`.
///
/// # Errors
/// Which half is wrong.
pub fn share(text: &str) -> Result<(Kind, u32), String> {
    let (kind, number) = text.split_once('=').ok_or("not KIND=N")?;
    let number = u32::from_str(number).map_err(|e| format!("`{number}`: {e}"))?;
    Ok((Kind::from_str(kind, false)?, number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_is_shared_out_whole_and_laid_out_whole() {
        let kinds = [Kind::KillWorker, Kind::HostSlow, Kind::StopWorker];
        let budget = Budget::even(&kinds, 11);
        assert_eq!(budget.shares().values().copied().collect::<Vec<_>>(), [4, 4, 3]);
        let deck = budget.deck(&mut Draw::new(3));
        assert_eq!(deck.len(), 11);
        for (kind, share) in budget.shares() {
            assert_eq!(deck.iter().filter(|drawn| *drawn == kind).count(), *share as usize);
        }
        assert_ne!(deck, budget.deck(&mut Draw::new(4)), "the order is drawn");
        assert_eq!(Budget::even(&kinds, 2).shares().len(), 2, "kinds that get nothing are not in it");
    }

    #[test]
    fn a_share_names_a_kind_and_a_number() {
        assert_eq!(share("host-slow=3"), Ok((Kind::HostSlow, 3)));
        assert!(share("host-slow").is_err() && share("host-fast=3").is_err() && share("host-slow=-1").is_err());
        let budget = Budget::told(&[(Kind::HostSlow, 3), (Kind::KillWorker, 0), (Kind::HostSlow, 1)]);
        assert_eq!(budget.shares().iter().collect::<Vec<_>>(), [(&Kind::HostSlow, &4)]);
    }
}
