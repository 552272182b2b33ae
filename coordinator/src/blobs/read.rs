//! Streams of a blob's bytes.

use bytes::Bytes;
use futures::{Stream, StreamExt as _, TryStreamExt as _, stream};
use segue_proto::{CHUNK_BYTES, ids::Digest};

use crate::store::Error;

/// Cuts chunks, which a store may make as large as it likes, so that each fits in a message.
pub(super) fn in_pieces(
    chunks: impl Stream<Item = Result<Bytes, Error>> + Send + 'static,
) -> impl Stream<Item = Result<Bytes, Error>> + Send + 'static {
    chunks
        .map_ok(|mut chunk| {
            stream::iter(std::iter::from_fn(move || {
                (!chunk.is_empty()).then(|| Ok(chunk.split_to(chunk.len().min(CHUNK_BYTES))))
            }))
        })
        .try_flatten()
}

/// Digests bytes as they pass and ends with an error if they are not those of the digest.
pub(super) fn checked(
    expected: Digest,
    chunks: impl Stream<Item = Result<Bytes, Error>> + Send + 'static,
) -> impl Stream<Item = Result<Bytes, Error>> + Send + 'static {
    struct State<S> {
        chunks: S,
        hasher: blake3::Hasher,
        expected: Digest,
    }
    let state = State { chunks: Box::pin(chunks), hasher: blake3::Hasher::new(), expected };
    stream::try_unfold(Some(state), |state| async move {
        let Some(mut state) = state else { return Ok(None) };
        if let Some(chunk) = state.chunks.next().await {
            let chunk = chunk?;
            state.hasher.update(&chunk);
            return Ok(Some((chunk, Some(state))));
        }
        let actual = Digest::from(state.hasher.finalize());
        if actual == state.expected {
            Ok(None)
        } else {
            Err(Error::WrongDigest { what: format!("blob {}", state.expected), expected: state.expected, actual })
        }
    })
}
