//! `ScheduleService`: schedules and backfills.

use segue_proto::v1::{self, schedule_service_server::ScheduleService};
use tonic::{Request, Response, Status};

use crate::server::schedules::Schedules;

/// Implements the service.
#[derive(Debug, Clone)]
pub struct SchedulesApi(pub Schedules);

#[tonic::async_trait]
impl ScheduleService for SchedulesApi {
    async fn apply(
        &self,
        request: Request<v1::ApplyScheduleRequest>,
    ) -> Result<Response<v1::ApplyScheduleResponse>, Status> {
        Ok(Response::new(self.0.apply(request.into_inner()).await?))
    }

    async fn list(&self, _: Request<v1::ListSchedulesRequest>) -> Result<Response<v1::ListSchedulesResponse>, Status> {
        Ok(Response::new(self.0.list().await))
    }

    async fn get(&self, request: Request<v1::GetScheduleRequest>) -> Result<Response<v1::ScheduleView>, Status> {
        Ok(Response::new(self.0.get(request.into_inner()).await?))
    }

    async fn pause(&self, request: Request<v1::PauseScheduleRequest>) -> Result<Response<v1::ScheduleView>, Status> {
        Ok(Response::new(self.0.pause(request.into_inner()).await?))
    }

    async fn resume(&self, request: Request<v1::ResumeScheduleRequest>) -> Result<Response<v1::ScheduleView>, Status> {
        Ok(Response::new(self.0.resume(request.into_inner()).await?))
    }

    async fn delete(
        &self,
        request: Request<v1::DeleteScheduleRequest>,
    ) -> Result<Response<v1::DeleteScheduleResponse>, Status> {
        self.0.delete(request.into_inner().name).await?;
        Ok(Response::new(v1::DeleteScheduleResponse {}))
    }

    async fn trigger(
        &self,
        request: Request<v1::TriggerScheduleRequest>,
    ) -> Result<Response<v1::TriggerScheduleResponse>, Status> {
        Ok(Response::new(self.0.trigger(request.into_inner()).await?))
    }

    async fn backfill(&self, request: Request<v1::BackfillRequest>) -> Result<Response<v1::BackfillResponse>, Status> {
        Ok(Response::new(self.0.backfill(request.into_inner()).await?))
    }

    async fn list_backfills(
        &self,
        request: Request<v1::ListBackfillsRequest>,
    ) -> Result<Response<v1::ListBackfillsResponse>, Status> {
        Ok(Response::new(self.0.list_backfills(request.into_inner()).await?))
    }

    async fn get_backfill(
        &self,
        request: Request<v1::GetBackfillRequest>,
    ) -> Result<Response<v1::BackfillView>, Status> {
        Ok(Response::new(self.0.get_backfill(request.into_inner()).await?))
    }

    async fn cancel_backfill(
        &self,
        request: Request<v1::CancelBackfillRequest>,
    ) -> Result<Response<v1::BackfillView>, Status> {
        Ok(Response::new(self.0.cancel_backfill(request.into_inner()).await?))
    }
}
