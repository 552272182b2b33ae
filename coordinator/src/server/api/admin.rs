//! `AdminService`: workers and the store.

use std::path::PathBuf;

use segue_proto::{
    convert::id,
    v1::{self, admin_service_server::AdminService},
};
use tonic::{Request, Response, Status};

use super::Shared;
use crate::{
    core::Event,
    server::{error::Error, views},
    store,
};

/// Implements the service.
#[derive(Debug, Clone)]
pub struct Admin(pub Shared);

#[tonic::async_trait]
impl AdminService for Admin {
    async fn list_workers(
        &self,
        _: Request<v1::ListWorkersRequest>,
    ) -> Result<Response<v1::ListWorkersResponse>, Status> {
        let workers =
            self.0.handle.read(|core| core.workers().map(|worker| views::worker_view(worker, core)).collect()).await?;
        Ok(Response::new(v1::ListWorkersResponse { workers }))
    }

    async fn drain_worker(
        &self,
        request: Request<v1::DrainWorkerRequest>,
    ) -> Result<Response<v1::DrainWorkerResponse>, Status> {
        let name: segue_proto::ids::WorkerName = id("name", request.into_inner().name).map_err(Error::from)?;
        self.0.handle.decide(Event::Drain { worker: name.clone() }).await?;
        let running = self
            .0
            .handle
            .read(move |core| {
                core.workers().filter(|worker| worker.key.name == name).map(|worker| worker.leased.len()).sum::<usize>()
            })
            .await?;
        Ok(Response::new(v1::DrainWorkerResponse { running: u32::try_from(running).unwrap_or(u32::MAX) }))
    }

    async fn backup(&self, request: Request<v1::BackupRequest>) -> Result<Response<v1::BackupResponse>, Status> {
        let directory = PathBuf::from(request.into_inner().directory);
        if !directory.is_absolute() {
            return Err(Status::invalid_argument(
                "the directory of a backup must be an absolute path on the coordinator",
            ));
        }
        // A collection must not take away what is being copied.
        let _turn = self.0.gc.turn.lock().await;
        let report =
            store::backup(store::Source::Running(self.0.committer.clone()), &self.0.blobs, &self.0.logs, &directory)
                .await
                .map_err(|e| match e {
                    // Whoever asked chose the directory.
                    store::Error::Directory { .. } => Status::invalid_argument(e.to_string()),
                    e => Error::from(e).into(),
                })?;
        Ok(Response::new(v1::BackupResponse { records: report.records, blobs: report.blobs, bytes: report.bytes }))
    }

    async fn verify(&self, _: Request<v1::VerifyRequest>) -> Result<Response<v1::VerifyResponse>, Status> {
        let _turn = self.0.gc.turn.lock().await;
        let report = store::verify(std::sync::Arc::clone(&self.0.store), &self.0.blobs).await.map_err(Error::from)?;
        Ok(Response::new(v1::VerifyResponse {
            problems: report.problems,
            records: report.records,
            blobs: report.blobs,
            bytes: report.bytes,
        }))
    }

    async fn get_status(&self, _: Request<v1::GetStatusRequest>) -> Result<Response<v1::GetStatusResponse>, Status> {
        let (runs, workers) = self
            .0
            .handle
            .read(|core| (core.runs().count(), core.workers().filter(|worker| worker.link.is_some()).count()))
            .await?;
        Ok(Response::new(v1::GetStatusResponse {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            epoch: self.0.epoch,
            runs_active: u32::try_from(runs).unwrap_or(u32::MAX),
            workers: u32::try_from(workers).unwrap_or(u32::MAX),
            started_ms: self.0.started_ms,
            operators: self.0.operators().iter().cloned().map(Into::into).collect(),
        }))
    }
}
