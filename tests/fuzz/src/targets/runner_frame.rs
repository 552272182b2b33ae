//! Frames between a worker and its runners, in both directions: a stream of them, in pieces.

use bytes::BytesMut;
use segue_proto::v1;
use segue_worker::runner::frame::{self, JobResult, Reply, Request};
use serde::de::DeserializeOwned;

/// Bytes that arrive at a time.
const PIECE: usize = 7;

/// Runs the target.
///
/// # Panics
/// If a rule is broken.
pub fn run(bytes: &[u8]) {
    let replies: Vec<Reply> = stream(bytes);
    let requests: Vec<Request> = stream(bytes);
    // What is read from a file or a pipe is the same.
    let mut rest = bytes;
    let mut read = 0;
    while let Ok(Some(_)) = frame::read::<Reply>(&mut rest) {
        read += 1;
    }
    assert_eq!(read, replies.len(), "a stream is read whole or in pieces");
    for request in requests {
        again(&request);
    }
    for reply in replies {
        again(&reply);
        if let Reply::Ended { result: JobResult::Succeeded(produced), .. } = reply {
            let models: Vec<v1::ModelRegistration> = produced.models.into_iter().map(Into::into).collect();
            let _ = (models, serde_json::Value::Object(produced.metrics).to_string());
        }
    }
}

/// Reads a stream that arrives in pieces, up to its first fault.
fn stream<T: DeserializeOwned>(bytes: &[u8]) -> Vec<T> {
    let (mut buffer, mut found) = (BytesMut::new(), Vec::new());
    for piece in bytes.chunks(PIECE) {
        buffer.extend_from_slice(piece);
        loop {
            match frame::decode(&mut buffer) {
                Ok(Some(frame)) => found.push(frame),
                Ok(None) => break,
                Err(_) => return found,
            }
        }
    }
    found
}

/// What was understood can be said again.
fn again<T: serde::Serialize + DeserializeOwned>(message: &T) {
    let Ok(bytes) = frame::encode(message) else { return };
    let mut buffer = BytesMut::from(&*bytes);
    let once_more = frame::decode::<T>(&mut buffer).unwrap_or_else(|e| panic!("{e}")).expect("a whole frame");
    assert!(
        frame::encode(&once_more).is_ok_and(|again| again.len() == bytes.len()),
        "a frame changes when it is repeated"
    );
}
