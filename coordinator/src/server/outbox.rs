//! Commands on their way to one worker, in messages that the link takes.

use prost::Message as _;
use segue_proto::{
    MAX_MESSAGE_BYTES,
    failure::{Failure, FailureClass},
    v1,
};

/// Bytes of a message above which a command goes into the next one.
const ENOUGH: usize = MAX_MESSAGE_BYTES / 4;

/// Bytes that the frame of a message takes around its commands, at the most.
const FRAME: usize = 64;

/// A command that no link takes.
#[derive(Debug, PartialEq)]
pub struct TooLarge {
    pub bytes: usize,
}

impl From<TooLarge> for Failure {
    fn from(TooLarge { bytes }: TooLarge) -> Self {
        let (mib, most) = (bytes.div_ceil(1 << 20), MAX_MESSAGE_BYTES >> 20);
        let message =
            format!("its inputs and parameters make an assignment of {mib} MiB, of {most} MiB that a worker takes");
        Self::new(FailureClass::User, message)
            .hint("join fewer children at a time, in a task for each part, or hand the list over as a file")
    }
}

/// The messages for one worker, in the order in which they were decided.
#[derive(Debug, Default)]
pub struct Outbox {
    messages: Vec<v1::CoordinatorMessage>,
    /// Bytes of the last one.
    bytes: usize,
}

impl Outbox {
    /// Adds a command, to the last message where there is room.
    ///
    /// # Errors
    /// If it is larger than any message can be. It is dropped.
    pub fn push(&mut self, command: v1::Command) -> Result<(), TooLarge> {
        let bytes = command.encoded_len();
        if bytes + FRAME > MAX_MESSAGE_BYTES {
            return Err(TooLarge { bytes });
        }
        if self.messages.is_empty() || self.bytes + bytes > ENOUGH {
            self.messages.push(v1::CoordinatorMessage::default());
            self.bytes = 0;
        }
        if let Some(last) = self.messages.last_mut() {
            last.commands.push(command);
            self.bytes += bytes + FRAME;
        }
        Ok(())
    }

    /// Gives the messages.
    pub fn into_messages(self) -> Vec<v1::CoordinatorMessage> {
        self.messages
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(bytes: usize) -> v1::Command {
        let goodbye = v1::Goodbye { reason: "x".repeat(bytes) };
        v1::Command { command: Some(v1::command::Command::Goodbye(goodbye)) }
    }

    #[test]
    fn small_commands_share_a_message_and_large_ones_do_not() {
        let mut outbox = Outbox::default();
        for bytes in [10, 10, ENOUGH - 1_000, ENOUGH / 2, ENOUGH / 4, 10] {
            assert_eq!(outbox.push(command(bytes)), Ok(()));
        }
        let counts: Vec<usize> = outbox.into_messages().iter().map(|message| message.commands.len()).collect();
        assert_eq!(counts, [3, 3]);
    }

    #[test]
    fn every_message_is_one_that_the_link_takes_and_a_command_that_is_none_is_refused() {
        let mut outbox = Outbox::default();
        for bytes in [0, MAX_MESSAGE_BYTES - 2 * FRAME, 1, ENOUGH, ENOUGH, 7] {
            assert_eq!(outbox.push(command(bytes)), Ok(()));
        }
        assert!(outbox.push(command(MAX_MESSAGE_BYTES)).is_err());
        let messages = outbox.into_messages();
        assert!(messages.iter().all(|message| message.encoded_len() <= MAX_MESSAGE_BYTES));
        assert_eq!(messages.iter().map(|message| message.commands.len()).sum::<usize>(), 6);
    }
}
