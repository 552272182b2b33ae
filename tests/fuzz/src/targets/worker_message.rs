//! Messages of workers: one `WorkerMessage` is everything that a stranger says, over as many links as it opens. Beside it an
//! honest worker goes on with a run of its own, and after it another one brings everything to its end.
//!
//! A hello on an open link ends that link and opens the next one. Where something comes before the first hello, a good one is
//! said first. A heartbeat lets as many milliseconds pass as the last three digits of its sequence say.

use std::sync::{Arc, LazyLock};

use prost::Message as _;
use segue_coordinator::{
    logs::Logs,
    server::desk::{Desk, Heard},
    spec::RunSpec,
};
use segue_proto::{
    ids::RunId,
    v1::{self, worker_event::Event},
};

use crate::{
    honest::{self, BEGINNING, Honest, LEASE_MS},
    rules,
    scratch::Scratch,
};

/// Events of one input that are heard.
const MOST_EVENTS: usize = 256;

/// The run that the stranger works on.
pub const GUEST: RunId = RunId::new(1);
/// The run beside it.
pub const STEADY: RunId = RunId::new(2);

static GUESTS: LazyLock<Arc<RunSpec>> = LazyLock::new(|| {
    honest::spec(
        r#"
        [pipeline]
        name = "guest"
        [defaults]
        resources = { cpu = 1, labels = { side = "guest" } }
        retry     = { attempts = 2, initial = "100ms", max = "100ms", on = ["user", "data", "infra", "timeout", "oom", "lost"] }
        [tasks.list]
        command = ["list"]
        outputs = { items = "json", report = "json" }
        [tasks.score]
        command      = ["score", "${item}"]
        foreach      = { output = "list.items" }
        outputs      = { score = "json" }
        max_parallel = 2
        tolerate     = 1
        [tasks.train]
        command = ["train"]
        outputs = { model = "model" }
        cache   = true
        timeout = "5s"
        [tasks.embed]
        op        = "core.noop"
        resources = { cpu = 1, gpu = "prefer", labels = { side = "guest" } }
        [tasks.join]
        command = ["join"]
        inputs  = { parts = "score.score" }
        after   = ["list"]
        when    = "tasks.list.outputs.report.rows > 1"
        run_if  = "all_done"
        [tasks.last]
        op      = "core.noop"
        finally = true
        "#,
    )
});

static STEADIES: LazyLock<Arc<RunSpec>> = LazyLock::new(|| {
    honest::spec(
        r#"
        [pipeline]
        name = "steady"
        [tasks.work]
        op        = "core.noop"
        resources = { cpu = 1, labels = { side = "steady" } }
        "#,
    )
});

/// Gives what the run of the stranger is made of.
#[must_use]
pub fn guests() -> Arc<RunSpec> {
    Arc::clone(&GUESTS)
}

/// Runs the target.
///
/// # Panics
/// If a rule is broken.
pub fn run(bytes: &[u8]) {
    let Ok(message) = v1::WorkerMessage::decode(bytes) else { return };
    let mut world = World::new();
    for event in message.events.into_iter().take(MOST_EVENTS) {
        world.hear(event);
        rules::check(world.desk.core(), true);
    }
    world.finish();
}

/// Says hello as the stranger does where an input does not say it.
#[must_use]
pub fn hello() -> v1::Hello {
    let capacity = v1::Resources { cpu_milli: 4_000, memory_bytes: 1 << 30, gpu_milli: 1_000, ..Default::default() };
    let labels = [("side".to_owned(), "guest".to_owned())].into();
    let operators =
        vec![v1::OperatorSpec { name: "core.noop".to_owned(), version: "1".to_owned(), ..Default::default() }];
    v1::Hello {
        worker: "guest".to_owned(),
        incarnation: "g1".to_owned(),
        capacity: Some(capacity),
        labels,
        operators,
        ..Default::default()
    }
}

struct World {
    desk: Desk,
    steady: Honest,
    /// Somebody has said hello in the name of the steady worker, which ends its link as a newer start of it would.
    usurped: bool,
    guest: Option<u64>,
    logs: Option<(Logs, Scratch)>,
}

impl World {
    fn new() -> Self {
        let mut desk = Desk::start(Vec::new(), LEASE_MS, BEGINNING).unwrap_or_else(|e| panic!("{e}"));
        let hello = honest::hello("steady", &[("side", "steady")]);
        let steady = Honest::connect(&mut desk, hello).expect("an honest worker is taken");
        for (id, spec) in [(GUEST, &*GUESTS), (STEADY, &*STEADIES)] {
            desk.submit(id, spec).unwrap_or_else(|e| panic!("{e}")).expect("the runs are good");
        }
        let mut world = Self { desk, steady, usurped: false, guest: None, logs: None };
        world.answer();
        assert_eq!(world.steady.held().len(), 1, "the steady worker has its work");
        world
    }

    /// Lets the steady worker take what was said to it; nobody else listens.
    fn answer(&mut self) {
        let said = self.desk.said();
        self.steady.obey(&mut self.desk, &said);
        self.guest = self.guest.filter(|link| self.desk.links().contains(link));
    }

    fn hear(&mut self, event: v1::WorkerEvent) {
        let beat = match &event.event {
            Some(Event::Heartbeat(beat)) => beat.sequence % 1_000,
            _ => 0,
        };
        if let Some(Event::Hello(hello)) = &event.event {
            if let Some(link) = self.guest.take() {
                let heard = self.tell(link, event.clone());
                assert!(matches!(heard, Heard::Broken(_)), "a second hello ends a link");
            }
            self.greet(hello.clone());
        } else {
            if self.guest.is_none() {
                self.greet(hello());
            }
            if let Some(link) = self.guest {
                self.tell(link, event);
            }
        }
        self.answer();
        self.pass(beat);
        self.undisturbed();
    }

    fn greet(&mut self, hello: v1::Hello) {
        self.usurped |= hello.worker == "steady";
        self.guest = self.desk.open(hello).unwrap_or_else(|e| panic!("{e}"));
    }

    fn tell(&mut self, link: u64, event: v1::WorkerEvent) -> Heard {
        if matches!(event.event, Some(Event::Log(_))) {
            let (logs, _) = self.logs.get_or_insert_with(|| {
                let scratch = Scratch::new();
                (Logs::open(scratch.path().join("logs")).expect("a directory for logs"), scratch)
            });
            return self.desk.hear(link, event, Some(logs)).unwrap_or_else(|e| panic!("{e}"));
        }
        self.desk.hear(link, event, None).unwrap_or_else(|e| panic!("{e}"))
    }

    /// Lets time pass, in which the steady worker gives its signs of life.
    fn pass(&mut self, mut milliseconds: u64) {
        while milliseconds > 0 {
            let step = milliseconds.min(u64::from(LEASE_MS) / 3);
            milliseconds -= step;
            self.steady.beat(&mut self.desk);
            self.desk.pass(step).unwrap_or_else(|e| panic!("{e}"));
            self.answer();
        }
    }

    /// Whatever the stranger does costs itself something and nobody else.
    fn undisturbed(&self) {
        if !self.usurped {
            let run = self.desk.core().run(&STEADY).expect("the steady run goes on");
            let live = run.live_token(0);
            assert!(live.is_some_and(|token| self.steady.held().contains(&token)), "the steady attempt goes on");
        }
    }

    fn finish(mut self) {
        rules::check_kept(&self.desk);
        if let Some(link) = self.guest.take() {
            self.desk.close(link).unwrap_or_else(|e| panic!("{e}"));
        }
        if !self.usurped {
            assert!(self.steady.succeed(&mut self.desk));
            assert!(self.desk.core().run(&STEADY).is_none(), "the steady run has ended");
        }
        let children = self.desk.core().run(&GUEST).map_or(0, |run| run.indices().count());
        let hello = honest::hello("honest", &[("side", "guest")]);
        let mut honest = Honest::connect(&mut self.desk, hello).expect("an honest worker is taken");
        if self.usurped {
            // It comes back, and has its work again once its lease is over.
            let mut again = honest::hello("steady", &[("side", "steady")]);
            again.incarnation = "steady-2".to_owned();
            let mut steady = Honest::connect(&mut self.desk, again).expect("an honest worker is taken");
            for _ in 0..64 {
                let said = self.desk.said();
                steady.obey(&mut self.desk, &said);
                honest.obey(&mut self.desk, &said);
                steady.succeed(&mut self.desk);
                steady.beat(&mut self.desk);
                honest.beat(&mut self.desk);
                self.desk.pass(u64::from(LEASE_MS) / 3).unwrap_or_else(|e| panic!("{e}"));
            }
        }
        let done = honest::finish(&mut self.desk, &mut honest, 1_000 + 8 * children);
        rules::check(self.desk.core(), true);
        assert!(done, "what the stranger left behind does not end: {:?}", self.desk.core().runs().next());
    }
}
