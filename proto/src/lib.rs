//! The wire of Segue: generated protobuf messages and services, ids, and conversions between wire and domain.
//!
//! Domain types live beside their conversions; nothing here decides anything.

pub mod artifact;
pub mod convert;
pub mod failure;
pub mod ids;
pub mod operator;
pub mod resources;
pub mod seen;

/// Generated from `segue/v1/*.proto`.
#[allow(missing_debug_implementations, clippy::all, clippy::unwrap_used)]
pub mod v1 {
    tonic::include_proto!("segue.v1");
}

/// Values in the store, generated from `segue/v1/store.proto`.
#[allow(clippy::all)]
pub mod store {
    /// First layout.
    #[allow(missing_debug_implementations, clippy::all)]
    pub mod v1 {
        tonic::include_proto!("segue.store.v1");
    }
}

/// The service that KEDA asks how much work there is, generated from `externalscaler.proto`.
#[allow(missing_debug_implementations, clippy::all, clippy::unwrap_used)]
pub mod externalscaler {
    tonic::include_proto!("externalscaler");
}

/// Descriptors of every file, for gRPC reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/segue.descriptor.bin"));

/// Largest message on any link. Bytes that may be larger (artifacts, logs) are streamed in pieces of [`CHUNK_BYTES`].
pub const MAX_MESSAGE_BYTES: usize = 16 * 1024 * 1024;

/// Largest JSON output that conditions and fan-outs may read.
pub const INLINE_BYTES: usize = 64 * 1024;

/// Size of one piece of a streamed blob.
pub const CHUNK_BYTES: usize = 256 * 1024;

/// A blob that was stored less than this long ago need not be stored again to be safe from a collection. Where it can be
/// said that an old blob is needed again (on a local disk, by its time of change), that is enough too.
pub const FRESH_BLOB: std::time::Duration = std::time::Duration::from_secs(10 * 60);

/// Key of a blob under the root of a blob store: two levels, so that no directory grows without bound.
#[must_use]
pub fn blob_key(digest: &ids::Digest) -> String {
    let hex = digest.as_str();
    format!("blobs/{}/{}", &hex[..2], hex)
}
