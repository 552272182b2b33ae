//! `externalscaler.ExternalScaler`: KEDA asks how many workers there should be.

use std::{pin::Pin, time::Duration};

use futures::Stream;
use segue_proto::externalscaler::{
    GetMetricSpecResponse, GetMetricsRequest, GetMetricsResponse, IsActiveResponse, MetricSpec, MetricValue,
    ScaledObjectRef, external_scaler_server::ExternalScaler,
};
use tokio::sync::broadcast::{Receiver, error::RecvError};
use tonic::{Request, Response, Status};

use super::Shared;
use crate::{
    core::{Core, fleet::QueueSummary},
    server::{error::Error, keda::Trigger},
};

/// Implements the service.
#[derive(Debug, Clone)]
pub struct Scaler(pub Shared);

/// How long a stream gathers changes before it looks again: a busy coordinator changes thousands of times a second, and
/// a worker takes seconds to start.
const GATHER: Duration = Duration::from_millis(250);

impl Scaler {
    async fn queue(&self) -> Result<QueueSummary, Error> {
        self.0.handle.read(|core| core.queue_summary()).await
    }

    async fn active(&self, trigger: &Trigger) -> Result<bool, Error> {
        Ok(trigger.demand(&self.queue().await?).is_active())
    }
}

fn trigger(object: &ScaledObjectRef) -> Result<Trigger, Status> {
    Trigger::parse(&object.scaler_metadata).map_err(|e| {
        let place: String = format!("{}/{}", object.namespace, object.name).chars().take(160).collect();
        Status::invalid_argument(format!("the trigger of {}: {e}", place.escape_debug()))
    })
}

#[tonic::async_trait]
impl ExternalScaler for Scaler {
    async fn is_active(&self, request: Request<ScaledObjectRef>) -> Result<Response<IsActiveResponse>, Status> {
        let trigger = trigger(&request.into_inner())?;
        Ok(Response::new(IsActiveResponse { result: self.active(&trigger).await? }))
    }

    type StreamIsActiveStream = Pin<Box<dyn Stream<Item = Result<IsActiveResponse, Status>> + Send>>;

    async fn stream_is_active(
        &self,
        request: Request<ScaledObjectRef>,
    ) -> Result<Response<Self::StreamIsActiveStream>, Status> {
        let trigger = trigger(&request.into_inner())?;
        // Listens before it looks: no change falls between.
        let watch = Watch { scaler: self.clone(), trigger, changes: self.0.handle.changes(), last: None };
        Ok(Response::new(Box::pin(futures::stream::unfold(Some(watch), |watch| async move { watch?.next().await }))))
    }

    async fn get_metric_spec(
        &self,
        request: Request<ScaledObjectRef>,
    ) -> Result<Response<GetMetricSpecResponse>, Status> {
        let trigger = trigger(&request.into_inner())?;
        let look = |core: &Core| {
            let mut queue = core.queue_summary();
            core.add_slots(&mut queue);
            queue
        };
        let target = trigger.per_worker(&self.0.handle.read(look).await?);
        let spec =
            MetricSpec { metric_name: trigger.metric(), target_size: target.ceil() as i64, target_size_float: target };
        Ok(Response::new(GetMetricSpecResponse { metric_specs: vec![spec] }))
    }

    async fn get_metrics(&self, request: Request<GetMetricsRequest>) -> Result<Response<GetMetricsResponse>, Status> {
        let object = request.into_inner().scaled_object_ref.ok_or_else(|| {
            Status::invalid_argument("field `scaledObjectRef` is missing: it brings the metadata of the trigger")
        })?;
        // The trigger has one metric: whatever name it is asked under, this is its value.
        let trigger = trigger(&object)?;
        let total = trigger.demand(&self.queue().await?).total();
        let value = MetricValue {
            metric_name: trigger.metric(),
            metric_value: i64::try_from(total).unwrap_or(i64::MAX),
            metric_value_float: total as f64,
        };
        Ok(Response::new(GetMetricsResponse { metric_values: vec![value] }))
    }
}

/// A stream that says whether there is work, whenever that changes.
struct Watch {
    scaler: Scaler,
    trigger: Trigger,
    changes: Receiver<segue_proto::ids::RunId>,
    last: Option<bool>,
}

impl Watch {
    /// Waits for the next word of the stream; an error is its last one.
    async fn next(mut self) -> Option<(Result<IsActiveResponse, Status>, Option<Self>)> {
        loop {
            match self.scaler.active(&self.trigger).await {
                Ok(result) if self.last != Some(result) => {
                    self.last = Some(result);
                    return Some((Ok(IsActiveResponse { result }), Some(self)));
                }
                // A coordinator that has no time now is asked again at the next change.
                Ok(_) | Err(Error::Overloaded) => {}
                Err(e) => return Some((Err(e.into()), None)),
            }
            let stop = self.scaler.0.stop.clone();
            let changed = async {
                let changed = self.changes.recv().await;
                tokio::time::sleep(GATHER).await;
                // What was missed is seen by the next look; what came meanwhile needs no further one.
                self.changes = self.changes.resubscribe();
                changed
            };
            tokio::select! {
                () = stop.cancelled() => return None,
                changed = changed => if changed == Err(RecvError::Closed) { return None },
            }
        }
    }
}
