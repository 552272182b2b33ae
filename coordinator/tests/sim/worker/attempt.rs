//! What one attempt does on a model worker: how long it takes, how it ends, what it writes. All of it follows from the
//! command of its task and from its token.

use bytes::Bytes;
use segue_proto::{
    ids::{Digest, Token},
    v1,
};

use crate::chance::{Chance, mix};

/// What an attempt will do.
#[derive(Debug, Clone)]
pub struct Script {
    pub takes_us: u64,
    pub ends: Ends,
    items: u64,
    outputs: Vec<v1::Port>,
    inline: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ends {
    Well,
    Fails(v1::FailureClass),
    TimedOut,
}

impl Script {
    /// Reads the command of an assignment.
    pub fn of(assign: &v1::Assign, chance: &mut Chance) -> Self {
        let Some(v1::assign::Work::Command(call)) = &assign.work else {
            return Self { takes_us: 1_000, ends: Ends::Well, items: 0, outputs: Vec::new(), inline: Vec::new() };
        };
        let word = |at: usize| call.argv.get(at).map_or("", String::as_str);
        let number = |at: usize| word(at).parse::<u64>().unwrap_or(0);
        let class = match word(2) {
            "user" => v1::FailureClass::User,
            "data" => v1::FailureClass::Data,
            "oom" => v1::FailureClass::Oom,
            _ => v1::FailureClass::Infra,
        };
        let usual = number(1) * 1_000;
        let mut takes_us = usual / 2 + chance.between(0, usual + 1_000);
        let mut ends = if chance.percent(number(3)) { Ends::Fails(class) } else { Ends::Well };
        if assign.timeout_ms > 0 && takes_us > assign.timeout_ms * 1_000 {
            takes_us = assign.timeout_ms * 1_000;
            ends = Ends::TimedOut;
        }
        Self { takes_us, ends, items: number(4), outputs: call.outputs.clone(), inline: assign.inline.clone() }
    }

    /// Gives the outputs of a success, and their bytes.
    pub fn outputs(&self, token: &Token) -> Vec<(v1::NamedArtifact, Bytes)> {
        self.outputs
            .iter()
            .map(|port| {
                let bytes = if port.kind == "json" {
                    let items: Vec<String> = (0..self.items).map(|item| format!("\"i{item}\"")).collect();
                    Bytes::from(format!("[{}]", items.join(",")))
                } else {
                    // Each attempt writes something else: its artifacts say whose they are.
                    Bytes::from(format!("{} of {token}", port.name))
                };
                let artifact = v1::Artifact {
                    digest: Digest::of(&bytes).into(),
                    size_bytes: bytes.len() as u64,
                    kind: port.kind.clone(),
                    schema: String::new(),
                };
                let named = v1::NamedArtifact { name: port.name.clone(), artifact: Some(artifact), key: String::new() };
                (named, bytes)
            })
            .collect()
    }

    pub fn wants_inline(&self, output: &str) -> bool {
        self.inline.iter().any(|name| name == output)
    }
}

/// Gives bytes of the log of an attempt: each follows from its place, so that everybody can check any piece.
pub fn log_bytes(token: &Token, from: u64, to: u64) -> Vec<u8> {
    let salt = token.to_string().bytes().fold(7, |h, b| mix(h ^ u64::from(b)));
    (from..to).map(|at| if at % 40 == 39 { b'\n' } else { b'a' + (mix(salt ^ at) % 26) as u8 }).collect()
}
