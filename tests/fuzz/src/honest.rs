//! A worker that does what it is told, for what must go on beside the strangers and after them.

use segue_coordinator::{
    server::desk::{Desk, Heard},
    spec::{RunSpec, bind, check},
};
use segue_proto::{
    ids::{Digest, Token},
    operator::{Catalogue, OperatorSpec},
    v1::{self, command::Command, worker_event::Event},
};
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

#[path = "../../../coordinator/tests/common/catalogue.rs"]
mod known;

/// How long the coordinators of the targets wait for a sign of a worker.
pub const LEASE_MS: u32 = 1_000;

/// When their time begins.
pub const BEGINNING: u64 = 1_700_000_000_000;

/// Gives the operators that pipelines of the targets may use.
#[must_use]
pub fn catalogue() -> Catalogue {
    let mut catalogue = known::catalogue();
    let join = OperatorSpec::new("test.join", "1", "joins").input("parts", "table", "").output("all", "table", "");
    catalogue.insert(join);
    catalogue
}

/// Makes the run of a pipeline that is known to be good.
///
/// # Panics
/// If it is not.
#[must_use]
pub fn spec(text: &str) -> Arc<RunSpec> {
    let catalogue = catalogue();
    let checked = check(text, "good.toml", &catalogue);
    let shown: Vec<_> = checked.diagnostics.iter().map(|fault| fault.render("good.toml", text, false)).collect();
    let pipeline = checked.pipeline.unwrap_or_else(|| panic!("{}", shown.join("\n")));
    Arc::new(bind(&pipeline, &catalogue, &BTreeMap::new(), "", false).unwrap_or_else(|faults| panic!("{faults:?}")))
}

/// Makes the hello of a worker that can do everything that `specs` ask for.
#[must_use]
pub fn hello(name: &str, labels: &[(&str, &str)]) -> v1::Hello {
    let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
    v1::Hello {
        worker: name.to_owned(),
        incarnation: format!("{name}-1"),
        capacity: Some(v1::Resources {
            cpu_milli: 64_000,
            memory_bytes: 1 << 40,
            gpu_milli: 1_000,
            ..Default::default()
        }),
        labels: labels.iter().map(owned).collect(),
        operators: catalogue().iter().cloned().map(Into::into).collect(),
        gpus: vec![v1::Gpu { index: 0, memory_bytes: 1 << 40, name: String::new() }],
        ..Default::default()
    }
}

/// The worker, at its end of the link.
#[derive(Debug)]
pub struct Honest {
    pub link: u64,
    held: BTreeSet<Token>,
    assigned: VecDeque<v1::Assign>,
    /// Ends that it has reported.
    pub ended: usize,
}

impl Honest {
    /// Connects; `None` where it is refused.
    ///
    /// # Panics
    /// If that stops the coordinator.
    #[must_use]
    pub fn connect(desk: &mut Desk, hello: v1::Hello) -> Option<Self> {
        let link = desk.open(hello).unwrap_or_else(|e| panic!("{e}"))?;
        Some(Self { link, held: BTreeSet::new(), assigned: VecDeque::new(), ended: 0 })
    }

    /// Obeys what came down its link.
    pub fn obey(&mut self, desk: &mut Desk, said: &[(u64, v1::CoordinatorMessage)]) {
        let own = self.link;
        let own = said.iter().filter(|(link, _)| *link == own).flat_map(|(_, message)| &message.commands);
        for command in own.filter_map(|command| command.command.clone()) {
            match command {
                Command::Assign(assign) => {
                    let token = token(assign.token.clone());
                    self.held.insert(token.clone());
                    self.tell(desk, Event::Started(v1::Started { token: Some(token.into()), runner_pid: 0 }));
                    self.assigned.push_back(assign);
                }
                Command::Cancel(cancel) => {
                    let token = token(cancel.token);
                    self.assigned.retain(|assign| assign.token.clone() != Some(token.clone().into()));
                    self.end(desk, token, v1::finished::Outcome::Cancelled(v1::Cancelled {}));
                }
                Command::HeartbeatAck(ack) => {
                    for lost in ack.lost {
                        let lost = token(Some(lost));
                        self.assigned.retain(|assign| assign.token.clone() != Some(lost.clone().into()));
                        self.held.remove(&lost);
                    }
                }
                _ => {}
            }
        }
    }

    /// Ends the attempt that it was given first, with every output; says whether there was one.
    pub fn succeed(&mut self, desk: &mut Desk) -> bool {
        let Some(assign) = self.assigned.pop_front() else { return false };
        let bytes = br#"["a","b"]"#;
        let outputs = match &assign.work {
            Some(v1::assign::Work::Command(call)) => call.outputs.clone(),
            Some(v1::assign::Work::Operator(call)) => {
                let spec = catalogue().get(&call.name).cloned();
                spec.map(|spec| spec.outputs.into_iter().map(v1::Port::from).collect()).unwrap_or_default()
            }
            None => Vec::new(),
        };
        let named = |port: v1::Port| v1::NamedArtifact {
            name: port.name,
            artifact: Some(v1::Artifact {
                digest: Digest::of(bytes).to_string(),
                size_bytes: bytes.len() as u64,
                kind: port.kind,
                schema: String::new(),
            }),
            key: String::new(),
        };
        let inline = assign.inline.iter().map(|name| (name.clone(), bytes.to_vec().into())).collect();
        let success = v1::Success {
            outputs: outputs.into_iter().map(named).collect(),
            inline_json: inline,
            ..Default::default()
        };
        self.end(desk, token(assign.token), v1::finished::Outcome::Success(success));
        true
    }

    /// Says that it lives.
    pub fn beat(&mut self, desk: &mut Desk) {
        let tokens = self.held.iter().cloned().map(Into::into).collect();
        self.tell(desk, Event::Heartbeat(v1::Heartbeat { sequence: 1, tokens }));
    }

    /// Says whether it is still at work.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        !self.assigned.is_empty()
    }

    /// Gives the attempts that it holds.
    #[must_use]
    pub const fn held(&self) -> &BTreeSet<Token> {
        &self.held
    }

    fn end(&mut self, desk: &mut Desk, token: Token, outcome: v1::finished::Outcome) {
        self.held.remove(&token);
        self.ended += 1;
        let usage = Some(v1::Usage { wall_ms: 60_000, ..Default::default() });
        let finished = v1::Finished { token: Some(token.into()), usage, outcome: Some(outcome), log_bytes: 0 };
        self.tell(desk, Event::Finished(finished));
    }

    fn tell(&self, desk: &mut Desk, event: Event) {
        let heard =
            desk.hear(self.link, v1::WorkerEvent { event: Some(event) }, None).unwrap_or_else(|e| panic!("{e}"));
        // A stranger that takes its name ends its link, as a newer start of the same worker would.
        assert!(
            heard == Heard::All || !desk.links().contains(&self.link),
            "an honest worker is not understood: {heard:?}"
        );
    }
}

fn token(wire: Option<v1::Token>) -> Token {
    wire.and_then(|wire| Token::try_from(wire).ok()).expect("the coordinator names attempts as it should")
}

/// Lets an honest worker do everything that is left to do, as long as something happens; gives whether it is all done.
pub fn finish(desk: &mut Desk, worker: &mut Honest, most_rounds: usize) -> bool {
    let mut idle = 0;
    for _ in 0..most_rounds {
        let said = desk.said();
        worker.obey(desk, &said);
        if desk.core().runs().next().is_none() {
            return true;
        }
        if worker.succeed(desk) {
            idle = 0;
            continue;
        }
        idle += 1;
        if idle > 200 {
            return false;
        }
        worker.beat(desk);
        desk.pass(u64::from(LEASE_MS) / 2).unwrap_or_else(|e| panic!("{e}"));
    }
    false
}
