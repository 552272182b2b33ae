//! Who comes when: customers with their own rate and lifetime, returns, and buyers who leave no name.

use std::{cmp::Reverse, collections::BinaryHeap};

use super::dice::Dice;

/// Share of the lines that have no customer.
const NAMELESS_SHARE: f64 = 0.25;
/// Of nameless invoices, how many are adjustments of the stock.
const ADJUSTMENTS: f64 = 0.03;
const RETURNED: f64 = 0.13;
/// Shop time is counted in whole ticks, so that order does not hang on rounding.
const TICKS: f64 = (1u64 << 52) as f64;
/// Weights are counted in thousandths of an average basket.
const UNIT: f64 = 1000.0;

/// How a customer buys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Wholesale,
    Regular,
    Lapsed,
    OneOff,
}

/// One customer.
#[derive(Debug, Clone)]
pub struct Customer {
    pub kind: Kind,
    /// Index into the countries.
    pub country: u8,
    /// A number that decides what this customer likes.
    pub taste: u32,
    /// Purchases in a year of shop time.
    rate: f64,
    /// How large the baskets are; 1 is average.
    basket: f64,
    first: f64,
    /// When the customer is gone for good.
    leaves: f64,
}

/// What happens at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum What {
    Purchase {
        customer: u32,
        comes_back: bool,
    },
    /// Brings back something of the purchase that was event number `of`.
    Return {
        customer: u32,
        of: u64,
    },
    Nameless,
    Adjustment,
}

/// One invoice to be.
#[derive(Debug, Clone, Copy)]
pub struct Event {
    pub number: u64,
    /// Time of the shop, `[0, 1)`.
    pub time: f64,
    pub what: What,
    weight: u64,
}

/// The year, planned: how many invoices there will be decides how long they must be to give exactly the rows wanted.
#[derive(Debug)]
pub struct Plan {
    pub customers: Vec<Customer>,
    rows: u64,
    seed: u64,
    nameless: u64,
    invoices: u64,
    weight: u64,
}

impl Plan {
    /// Plans a year with `rows` lines.
    pub fn new(rows: u64, seed: u64) -> Self {
        let count = ((rows as f64).powf(0.7) * 0.5).clamp(1.0, 4e9).ceil() as u32;
        let mut dice = Dice::new(seed, 2);
        let customers = (0..count).map(|_| Customer::new(&mut dice)).collect();
        let mut plan = Self { customers, rows, seed, nameless: 0, invoices: 0, weight: 0 };
        let (invoices, weight) = plan.sum();
        // A nameless basket is half again as large as an average one.
        let ratio = NAMELESS_SHARE / (1.0 - NAMELESS_SHARE);
        let fair = rows.saturating_sub(invoices) as f64 / rows.max(1) as f64;
        let by_weight = weight as f64 / (NAMELESS_BASKET * UNIT);
        plan.nameless = (ratio * (fair * by_weight + (1.0 - fair) * invoices as f64)).round() as u64;
        (plan.invoices, plan.weight) = plan.sum();
        plan
    }

    fn sum(&self) -> (u64, u64) {
        Stream::new(self).fold((0, 0), |(count, sum), event| (count + 1, sum + event.weight))
    }

    /// Gives every invoice in order of time with the number of its lines, at least one; together exactly `rows`.
    pub fn events(&self) -> impl Iterator<Item = (Event, u64)> {
        let (mut seen, mut weight, mut given) = (0u64, 0u64, 0u64);
        // One line for each invoice, the rest shared out by weight; whole numbers, so that nothing is lost.
        let spare = self.rows.saturating_sub(self.invoices);
        let one_each = self.rows.min(self.invoices);
        Stream::new(self).filter_map(move |event| {
            seen += 1;
            weight += event.weight;
            let firsts = u128::from(one_each) * u128::from(seen) / u128::from(self.invoices.max(1));
            let more = u128::from(spare) * u128::from(weight) / u128::from(self.weight.max(1));
            let due = (firsts + more) as u64;
            let lines = due - given;
            given = due;
            (lines > 0).then_some((event, lines))
        })
    }
}

/// Mean weight of a nameless basket.
const NAMELESS_BASKET: f64 = 1.9;

impl Customer {
    fn new(dice: &mut Dice) -> Self {
        let kind = match dice.unit() {
            ..0.06 => Kind::Wholesale,
            ..0.48 => Kind::Regular,
            ..0.68 => Kind::Lapsed,
            _ => Kind::OneOff,
        };
        let rate = match kind {
            Kind::Wholesale => 6.0 * dice.gamma(4.0),
            Kind::Regular => 1.5 + 3.5 * dice.gamma(1.3),
            Kind::Lapsed => 4.0 + 4.0 * dice.gamma(1.5),
            Kind::OneOff => 1.0,
        };
        // Most were customers before the year began, the others come through the year.
        let wait = dice.exponential() / rate;
        let first = match kind {
            Kind::OneOff => dice.unit(),
            Kind::Lapsed => dice.unit() * 0.35,
            _ if dice.chance(0.6) && wait < 1.0 => wait,
            _ => dice.unit() * 0.95,
        };
        let leaves = match kind {
            Kind::OneOff => first,
            Kind::Lapsed => first + 0.05 + dice.unit() * 0.25,
            Kind::Regular if dice.chance(0.25) => first + dice.exponential() * 0.5,
            _ => 1.0,
        };
        let size = if kind == Kind::Wholesale { 1.4 } else { 0.8 };
        Self {
            kind,
            country: country(dice),
            taste: dice.below(1 << 20) as u32,
            rate,
            basket: size * dice.spread(0.5),
            first,
            leaves: leaves.min(1.0),
        }
    }
}

/// Names of countries and how many of a thousand customers are there.
pub const COUNTRIES: [(&str, u32); 16] = [
    ("United Kingdom", 903),
    ("Germany", 21),
    ("France", 20),
    ("Spain", 8),
    ("Belgium", 7),
    ("Switzerland", 6),
    ("Portugal", 5),
    ("Netherlands", 5),
    ("Italy", 4),
    ("Finland", 4),
    ("Austria", 4),
    ("Norway", 3),
    ("Denmark", 3),
    ("Australia", 3),
    ("Sweden", 2),
    ("EIRE", 2),
];

fn country(dice: &mut Dice) -> u8 {
    let mut left = dice.below(1000) as u32;
    for (index, (_, share)) in (0u8..).zip(COUNTRIES) {
        if left < share {
            return index;
        }
        left -= share;
    }
    0
}

/// Events in order of time. Holds one future event a customer, and the returns to come.
struct Stream<'a> {
    plan: &'a Plan,
    dice: Dice,
    nameless_dice: Dice,
    waiting: BinaryHeap<Reverse<(u64, What)>>,
    nameless_left: u64,
    nameless_at: f64,
    number: u64,
}

impl<'a> Stream<'a> {
    fn new(plan: &'a Plan) -> Self {
        let mut dice = Dice::new(plan.seed, 3);
        let waiting = plan
            .customers
            .iter()
            .zip(0u32..)
            .map(|(customer, index)| {
                let what = What::Purchase { customer: index, comes_back: dice.chance(RETURNED) };
                Reverse((ticks(customer.first), what))
            })
            .collect();
        let mut stream = Self {
            plan,
            dice,
            nameless_dice: Dice::new(plan.seed, 4),
            waiting,
            nameless_left: plan.nameless,
            nameless_at: 0.0,
            number: 0,
        };
        stream.next_nameless();
        stream
    }

    /// Draws the smallest of the nameless times still to come: uniform ones, in order, without keeping them all.
    fn next_nameless(&mut self) {
        if self.nameless_left > 0 {
            let left = 1.0 - self.nameless_at;
            let share = (1.0 - self.nameless_dice.unit()).powf(1.0 / self.nameless_left as f64);
            self.nameless_at = 1.0 - left * share;
        }
    }

    fn nameless(&mut self) -> Event {
        let time = self.nameless_at;
        self.nameless_left -= 1;
        self.next_nameless();
        let adjustment = self.nameless_dice.chance(ADJUSTMENTS);
        let basket = NAMELESS_BASKET * self.nameless_dice.spread(0.7) / (0.7f64 * 0.7 / 2.0).exp();
        let (what, weight) = if adjustment { (What::Adjustment, 0) } else { (What::Nameless, (basket * UNIT) as u64) };
        Event { number: self.number, time, what, weight }
    }

    fn buy(&mut self, time: f64, customer: u32, comes_back: bool) -> u64 {
        let buyer = &self.plan.customers[customer as usize];
        let next = time + self.dice.exponential() / buyer.rate;
        let what = What::Purchase { customer, comes_back: self.dice.chance(RETURNED) };
        if next < buyer.leaves {
            self.waiting.push(Reverse((ticks(next), what)));
        }
        let back = time + 0.005 + 0.04 * self.dice.exponential();
        if comes_back && back < 1.0 {
            self.waiting.push(Reverse((ticks(back), What::Return { customer, of: self.number })));
        }
        (buyer.basket * self.dice.spread(0.7) * UNIT) as u64
    }
}

impl Iterator for Stream<'_> {
    type Item = Event;

    fn next(&mut self) -> Option<Event> {
        let due = self.waiting.peek().map(|Reverse((at, _))| *at);
        let nameless = (self.nameless_left > 0).then(|| ticks(self.nameless_at));
        let event = match (due, nameless) {
            (None, None) => return None,
            (Some(due), Some(nameless)) if nameless < due => self.nameless(),
            (None, Some(_)) => self.nameless(),
            (Some(_), _) => {
                let Reverse((at, what)) = self.waiting.pop()?;
                let time = at as f64 / TICKS;
                let weight = match what {
                    What::Purchase { customer, comes_back } => self.buy(time, customer, comes_back),
                    _ => 40,
                };
                Event { number: self.number, time, what, weight }
            }
        };
        self.number += 1;
        Some(event)
    }
}

fn ticks(time: f64) -> u64 {
    (time.clamp(0.0, 1.0) * TICKS) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lines_of_all_invoices_are_exactly_the_rows_wanted() {
        for rows in [0, 1, 2, 10, 999, 20_000, 200_003] {
            for seed in [1, 42] {
                let plan = Plan::new(rows, seed);
                let events: Vec<_> = plan.events().collect();
                assert_eq!(events.iter().map(|(_, lines)| lines).sum::<u64>(), rows);
                assert!(events.windows(2).all(|pair| pair[0].0.time <= pair[1].0.time));
            }
        }
    }
}
