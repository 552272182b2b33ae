//! Invoices, line by line.

use std::{
    collections::HashMap,
    io::{self, Write},
};

use super::{
    HEADER, SampleFacts,
    calendar::{Calendar, Moment},
    catalogue::{Catalogue, Season},
    dice::Dice,
    events::{COUNTRIES, Customer, Event, Kind, Plan, What},
};
use chrono::Datelike;

/// Share of lines that repeat an earlier one of their invoice. Only later lines can, and nameless ones never do, hence above 1 %.
const REPEATED: f64 = 0.015;
/// Share of lines of named customers at price zero.
const FREE: f64 = 0.0006;
const FIRST_INVOICE: u64 = 536_365;
const FIRST_CUSTOMER: u32 = 12_346;
const BUFFER: usize = 256 * 1024;

#[derive(Debug, Clone, Copy)]
struct Line {
    product: u32,
    quantity: i64,
    pence: u32,
    trailing_space: bool,
}

/// Writes invoices and keeps the books.
pub struct Desk<'a> {
    plan: &'a Plan,
    calendar: Calendar,
    catalogue: Catalogue,
    dice: Dice,
    out: &'a mut dyn Write,
    buffer: Vec<u8>,
    /// First lines of purchases of which something will come back, by event number.
    to_return: HashMap<u64, Vec<Line>>,
    /// The last event on which a product was sold.
    sold: Vec<u64>,
    /// Which customers have a line.
    seen: Vec<bool>,
    facts: SampleFacts,
}

/// What is the same on every line of an invoice.
struct Head {
    invoice: String,
    date: String,
    customer: String,
    country: &'static str,
}

impl<'a> Desk<'a> {
    /// Opens the desk with the header.
    pub fn new(rows: u64, seed: u64, plan: &'a Plan, out: &'a mut dyn Write) -> io::Result<Self> {
        let catalogue = Catalogue::new(rows, seed);
        let mut buffer = Vec::with_capacity(BUFFER + 4096);
        buffer.extend_from_slice(HEADER.as_bytes());
        Ok(Self {
            plan,
            calendar: Calendar::new(),
            dice: Dice::new(seed, 5),
            out,
            buffer,
            to_return: HashMap::new(),
            sold: vec![u64::MAX; catalogue.products.len()],
            seen: vec![false; plan.customers.len()],
            facts: SampleFacts { products: catalogue.products.len() as u64, ..SampleFacts::default() },
            catalogue,
        })
    }

    /// Writes the lines of one event.
    pub fn serve(&mut self, event: &Event, lines: u64) -> io::Result<()> {
        let moment = self.calendar.moment(event.time);
        match event.what {
            What::Purchase { customer, comes_back } => self.purchase(event, moment, customer, comes_back, lines)?,
            What::Return { customer, of } => self.take_back(moment, customer, of, lines)?,
            What::Nameless => self.sell_to_nobody(event, moment, lines)?,
            What::Adjustment => self.adjust(moment, lines)?,
        }
        let day = moment.day.to_string();
        if self.facts.invoices == 0 {
            self.facts.first_day.clone_from(&day);
        }
        self.facts.last_day = day;
        self.facts.invoices += 1;
        Ok(())
    }

    /// Writes what is left and gives the facts.
    pub fn close(mut self) -> io::Result<SampleFacts> {
        self.out.write_all(&self.buffer)?;
        self.out.flush()?;
        self.facts.customers = self.seen.iter().filter(|seen| **seen).count() as u64;
        Ok(self.facts)
    }

    fn head(&self, moment: Moment, prefix: &str, customer: Option<u32>) -> Head {
        let country = customer.map_or(0, |customer| self.plan.customers[customer as usize].country);
        Head {
            invoice: format!("{prefix}{}", FIRST_INVOICE + self.facts.invoices),
            date: format!("{} {:02}:{:02}:00", moment.day, moment.minute / 60, moment.minute % 60),
            customer: customer
                .map_or_else(String::new, |customer| (u64::from(FIRST_CUSTOMER) + u64::from(customer)).to_string()),
            country: COUNTRIES[usize::from(country)].0,
        }
    }

    fn purchase(
        &mut self,
        event: &Event,
        moment: Moment,
        customer: u32,
        comes_back: bool,
        lines: u64,
    ) -> io::Result<()> {
        let head = self.head(moment, "", Some(customer));
        let plan = self.plan;
        let buyer = &plan.customers[customer as usize];
        self.seen[customer as usize] = true;
        let postage = u64::from(buyer.country != 0 && lines >= 3 && self.dice.chance(0.7));
        let mut bought: Vec<Line> = Vec::new();
        for _ in 0..lines - postage {
            if !bought.is_empty() && self.dice.chance(REPEATED) {
                let line = self.dice.pick(&bought);
                self.facts.duplicates += 1;
                self.write_line(&head, line)?;
                continue;
            }
            let product = self.choose(event.number, moment, Some(buyer.taste));
            let (quantity, pence) = self.terms(product, buyer);
            let line = self.line(product, quantity, pence);
            bought.push(line);
            self.write_line(&head, line)?;
        }
        if postage == 1 {
            let pieces = 1 + self.dice.below(3) as i64;
            self.write_row(&head, "POST", "POSTAGE", pieces, 1800)?;
        }
        if comes_back {
            bought.truncate(3);
            self.to_return.insert(event.number, bought);
        }
        Ok(())
    }

    /// Returns part of what was bought; what cannot be found in the books is taken back all the same.
    fn take_back(&mut self, moment: Moment, customer: u32, of: u64, lines: u64) -> io::Result<()> {
        let head = self.head(moment, "C", Some(customer));
        self.seen[customer as usize] = true;
        let bought = self.to_return.remove(&of).unwrap_or_default();
        for i in 0..lines {
            let known = usize::try_from(i).ok().and_then(|i| bought.get(i)).copied();
            let mut line = known.unwrap_or_else(|| {
                let product = self.catalogue.pick(&mut self.dice);
                self.line(product, 1, self.catalogue.products[product as usize].pence)
            });
            let part = 1 + self.dice.below(usize::try_from(line.quantity).unwrap_or(1)) as i64;
            line.quantity = -if self.dice.chance(0.5) { line.quantity } else { part };
            self.facts.returns += 1;
            self.write_line(&head, line)?;
        }
        Ok(())
    }

    fn sell_to_nobody(&mut self, event: &Event, moment: Moment, lines: u64) -> io::Result<()> {
        let head = self.head(moment, "", None);
        let delivered = u64::from(lines >= 3 && self.dice.chance(0.5));
        for _ in 0..lines - delivered {
            let product = self.choose(event.number, moment, None);
            let quantity = self.dice.pick(&[1, 1, 1, 1, 2, 2, 3, 4, 6]);
            // Single pieces over the web cost more.
            let pence = (self.catalogue.products[product as usize].pence * 17 / 10) | 1;
            let line = self.line(product, quantity, pence);
            self.write_line(&head, line)?;
        }
        if delivered == 1 {
            self.write_row(&head, "DOT", "DOTCOM POSTAGE", 1, 295 + 45 * lines.min(1000) as u32)?;
        }
        self.facts.missing_customer += lines;
        Ok(())
    }

    fn adjust(&mut self, moment: Moment, lines: u64) -> io::Result<()> {
        let head = self.head(moment, "", None);
        for _ in 0..lines {
            let product = self.catalogue.pick(&mut self.dice) as usize;
            let quantity = self.dice.pick(&[-240, -96, -30, -12, -3, -1, 1, 10, 56]);
            let code = self.catalogue.products[product].code.clone();
            self.write_row(&head, &code, "", quantity, 0)?;
        }
        self.facts.missing_customer += lines;
        Ok(())
    }

    /// Picks a product that is in season and not yet on this invoice.
    fn choose(&mut self, event: u64, moment: Moment, taste: Option<u32>) -> u32 {
        let mut chosen = 0;
        for _ in 0..6 {
            let family = taste.map(|taste| {
                // Three kinds of article that this customer likes best.
                let liked = taste.wrapping_add(self.dice.below(3) as u32 * 7919);
                &self.catalogue.families[liked as usize % self.catalogue.families.len()]
            });
            chosen = match family {
                Some(family) if !family.is_empty() && self.dice.chance(0.3) => self.dice.pick(family),
                _ => self.catalogue.pick(&mut self.dice),
            };
            let month = moment.day.month();
            let wanted = match self.catalogue.products[chosen as usize].season {
                Season::Always => true,
                Season::Christmas => month >= 9 || self.dice.chance(0.1),
                Season::Easter => (2..=4).contains(&month) || self.dice.chance(0.1),
            };
            if wanted && self.sold[chosen as usize] != event {
                break;
            }
        }
        self.sold[chosen as usize] = event;
        chosen
    }

    fn terms(&mut self, product: u32, buyer: &Customer) -> (i64, u32) {
        let pence = self.catalogue.products[product as usize].pence;
        if self.dice.chance(FREE) {
            return (1, 0);
        }
        let mut quantity = match buyer.kind {
            Kind::Wholesale => self.dice.pick(&[6, 12, 12, 24, 24, 36, 48, 72, 96]),
            Kind::Regular | Kind::Lapsed => self.dice.pick(&[1, 2, 3, 4, 6, 6, 8, 10, 12, 12, 24]),
            Kind::OneOff => self.dice.pick(&[1, 1, 2, 2, 3, 4, 6, 12]),
        };
        if pence < 100 {
            quantity *= 2;
        } else if pence > 800 {
            quantity = (quantity / 3).max(1);
        }
        if self.dice.chance(0.0003) {
            quantity *= 20;
        }
        let discounted = buyer.kind == Kind::Wholesale && quantity >= 24;
        (quantity, if discounted { (pence * 85 / 100).max(1) } else { pence })
    }

    fn line(&mut self, product: u32, quantity: i64, pence: u32) -> Line {
        let trailing_space = self.catalogue.products[product as usize].sloppy && self.dice.chance(0.5);
        Line { product, quantity, pence, trailing_space }
    }

    fn write_line(&mut self, head: &Head, line: Line) -> io::Result<()> {
        let product = &self.catalogue.products[line.product as usize];
        let space = if line.trailing_space { " " } else { "" };
        let (code, description) = (product.code.clone(), format!("{}{space}", product.description));
        self.write_row(head, &code, &description, line.quantity, line.pence)
    }

    fn write_row(&mut self, head: &Head, code: &str, description: &str, quantity: i64, pence: u32) -> io::Result<()> {
        let quote = if description.contains(',') { "\"" } else { "" };
        writeln!(
            self.buffer,
            "{},{code},{quote}{description}{quote},{quantity},{},{}.{:02},{},{}",
            head.invoice,
            head.date,
            pence / 100,
            pence % 100,
            head.customer,
            head.country,
        )?;
        self.facts.rows += 1;
        if self.buffer.len() >= BUFFER {
            self.out.write_all(&self.buffer)?;
            self.buffer.clear();
        }
        Ok(())
    }
}
