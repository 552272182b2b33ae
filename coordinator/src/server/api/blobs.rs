//! `BlobService`: bytes by digest, in pieces.

use std::pin::Pin;

use futures::{Stream, StreamExt as _, TryStreamExt as _};
use segue_proto::{
    convert::id,
    ids::Digest,
    v1::{self, blob_service_server::BlobService},
};
use tonic::{Request, Response, Status, Streaming};

use super::Shared;
use crate::{server::error::Error, store};

/// Implements the service.
#[derive(Debug, Clone)]
pub struct Blobs(pub Shared);

#[tonic::async_trait]
impl BlobService for Blobs {
    async fn put(
        &self,
        request: Request<Streaming<v1::PutBlobRequest>>,
    ) -> Result<Response<v1::PutBlobResponse>, Status> {
        let mut incoming = request.into_inner();
        let first = incoming.message().await?.ok_or_else(|| Status::invalid_argument("the upload is empty"))?;
        let expected: Option<Digest> = match first.digest.as_str() {
            "" => None,
            _ => Some(id("digest", first.digest).map_err(Error::from)?),
        };
        let head = futures::stream::once(async move { Ok(first.data) });
        let tail = incoming
            .map_ok(|piece| piece.data)
            .map_err(|status| store::Error::Upload { reason: status.message().to_owned() });
        let blob = self.0.blobs.put_stream(expected.as_ref(), head.chain(tail).boxed()).await.map_err(Error::from)?;
        Ok(Response::new(v1::PutBlobResponse { digest: blob.digest.into(), size_bytes: blob.size_bytes }))
    }

    type GetStream = Pin<Box<dyn Stream<Item = Result<v1::GetBlobResponse, Status>> + Send>>;

    async fn get(&self, request: Request<v1::GetBlobRequest>) -> Result<Response<Self::GetStream>, Status> {
        let digest: Digest = id("digest", request.into_inner().digest).map_err(Error::from)?;
        let (size_bytes, stream) = self.0.blobs.get_stream(&digest).await.map_err(Error::from)?;
        let pieces = stream.map_ok(move |data| v1::GetBlobResponse { data, size_bytes }).map_err(|e| match e {
            // Damaged here, on disk: no fault of the caller, as it would be in an upload.
            store::Error::WrongDigest { .. } => {
                Status::data_loss(format!("{e}; `segue store verify` names what else is"))
            }
            e => Error::from(e).into(),
        });
        Ok(Response::new(Box::pin(pieces)))
    }

    async fn stat(&self, request: Request<v1::GetBlobRequest>) -> Result<Response<v1::StatBlobResponse>, Status> {
        let digest: Digest = id("digest", request.into_inner().digest).map_err(Error::from)?;
        // Whoever asks is about to rely on it: a blob that might be collected before a record names it is not there.
        // One that is damaged is not there either, and is stored again.
        let size = self.0.blobs.sound_and_fresh(&digest).await.map_err(Error::from)?;
        Ok(Response::new(v1::StatBlobResponse { present: size.is_some(), size_bytes: size.unwrap_or(0) }))
    }
}
