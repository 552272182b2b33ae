//! Messages of a coordinator: one `CoordinatorMessage` is everything that it says, over as many links as the worker opens. Where
//! something comes before the first welcome, a good one is said first.
//!
//! The worker starts what it can after each command, and ends what it runs whenever it hears of a heartbeat of even sequence.

use std::sync::LazyLock;

use prost::Message as _;
use segue_proto::v1::{self, command::Command};
use segue_worker::agent::desk::{Desk, Ground};

use crate::scratch::Scratch;

/// Commands of one input that are heard.
const MOST_COMMANDS: usize = 256;

static GROUND: LazyLock<(Ground, Scratch)> = LazyLock::new(|| {
    let scratch = Scratch::new();
    let ground = Ground::new("desk".parse().expect("a name"), scratch.path());
    (ground.unwrap_or_else(|e| panic!("{e}")), scratch)
});

/// Runs the target.
///
/// # Panics
/// If a rule is broken.
pub fn run(bytes: &[u8]) {
    let Ok(message) = v1::CoordinatorMessage::decode(bytes) else { return };
    let mut desk = Desk::open(&GROUND.0);
    let mut welcomed = false;
    for command in message.commands.into_iter().take(MOST_COMMANDS) {
        if !desk.has_link() {
            desk.link_up();
            welcomed = false;
        }
        let welcome = matches!(command.command, Some(Command::Welcome(_)));
        if !welcomed && !welcome {
            hear(&mut desk, welcome_of_a_good_one());
        }
        welcomed = true;
        let ends = matches!(&command.command, Some(Command::HeartbeatAck(ack)) if ack.sequence % 2 == 0);
        if !hear(&mut desk, command) {
            return;
        }
        desk.start();
        if ends {
            desk.end_attempts();
        }
        check(&mut desk);
    }
    // Whatever was said, a coordinator that is one gets every report, and may take them.
    desk.end_attempts();
    desk.link_down();
    desk.link_up();
    hear(&mut desk, welcome_of_a_good_one());
    desk.start();
    desk.end_attempts();
    check(&mut desk);
}

fn hear(desk: &mut Desk<'_>, command: v1::Command) -> bool {
    desk.hear(v1::CoordinatorMessage { commands: vec![command] })
}

fn check(desk: &mut Desk<'_>) {
    for message in desk.said() {
        assert!(message.encoded_len() <= segue_proto::MAX_MESSAGE_BYTES, "no link takes such a message");
    }
    if let Err(broken) = desk.check() {
        panic!("{broken}");
    }
}

fn welcome_of_a_good_one() -> v1::Command {
    let welcome = v1::Welcome { epoch: 1, lease_ms: 60_000, heartbeat_ms: 20_000, ..Default::default() };
    v1::Command { command: Some(Command::Welcome(welcome)) }
}
