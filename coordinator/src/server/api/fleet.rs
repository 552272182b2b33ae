//! `FleetService`: workers and pools, for those who run a cluster.

use std::collections::BTreeSet;

use segue_proto::{
    convert::id,
    ids::{PoolName, WorkerName},
    v1::{self, fleet_service_server::FleetService},
};
use tonic::{Request, Response, Status};

use super::Shared;
use crate::{
    core::{Event, Refused},
    server::{error::Error, fleet},
};

/// Implements the service.
#[derive(Debug, Clone)]
pub struct Fleet(pub Shared);

/// How often a choice is made again when the workers changed meanwhile.
const CHOICES: usize = 5;

/// Longest label name, and longest value: enough for `topology.kubernetes.io/zone` and what stands there.
const LONGEST_LABEL: usize = 128;

/// Longest description of a pool.
const LONGEST_DESCRIPTION: usize = 256;

#[tonic::async_trait]
impl FleetService for Fleet {
    async fn describe_workers(
        &self,
        request: Request<v1::DescribeWorkersRequest>,
    ) -> Result<Response<v1::DescribeWorkersResponse>, Status> {
        let name = request.into_inner().name;
        let asked = name.clone();
        let workers = self.0.handle.read(move |core| fleet::workers(core, &asked)).await?;
        if workers.is_empty() && !name.is_empty() {
            let name: WorkerName = id("name", name).map_err(Error::from)?;
            return Err(Error::Refused(Refused::NoSuchWorker(name)).into());
        }
        Ok(Response::new(v1::DescribeWorkersResponse { workers }))
    }

    async fn cordon(&self, request: Request<v1::CordonRequest>) -> Result<Response<v1::CordonResponse>, Status> {
        let v1::CordonRequest { name, on } = request.into_inner();
        let worker: WorkerName = id("name", name).map_err(Error::from)?;
        self.0.handle.decide(Event::Cordon { worker: worker.clone(), on }).await?;
        let running = self
            .0
            .handle
            .read(move |core| {
                core.workers().filter(|w| w.key.name == worker).map(|w| w.leased.len() + w.ahead.len()).sum::<usize>()
            })
            .await?;
        Ok(Response::new(v1::CordonResponse { running: u32::try_from(running).unwrap_or(u32::MAX) }))
    }

    async fn label(&self, request: Request<v1::LabelRequest>) -> Result<Response<v1::LabelResponse>, Status> {
        let v1::LabelRequest { name, set, remove } = request.into_inner();
        let worker: WorkerName = id("name", name).map_err(Error::from)?;
        for label in set.keys().chain(&remove) {
            label_name(label)?;
        }
        set.values().try_for_each(|value| label_value(value))?;
        let remove: BTreeSet<String> = remove.into_iter().collect();
        if let Some(both) = remove.iter().find(|label| set.contains_key(*label)) {
            return Err(Error::BadRequest(format!("the label `{both}` is both set and taken away")).into());
        }
        self.0.handle.decide(Event::Label { worker: worker.clone(), set, remove }).await?;
        let name = worker.to_string();
        let found = self.0.handle.read(move |core| fleet::workers(core, &name)).await?;
        let shown = found.into_iter().rev().filter_map(|detail| detail.worker);
        let shown = shown.max_by_key(|worker| worker.state != "disconnected").unwrap_or_default();
        Ok(Response::new(v1::LabelResponse { connected: shown.state != "disconnected", labels: shown.labels }))
    }

    async fn scale_in(&self, request: Request<v1::ScaleInRequest>) -> Result<Response<v1::ScaleInResponse>, Status> {
        let v1::ScaleInRequest { count, labels, dry_run } = request.into_inner();
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        if count == 0 {
            return Err(Error::BadRequest("scale in by how many workers? by at least 1".to_owned()).into());
        }
        for _ in 0..CHOICES {
            let (wanted, now) = (labels.clone(), self.0.clock.now());
            let (choice, response) = self
                .0
                .handle
                .read(move |core| {
                    let choice = core.plan_scale_in(count, &wanted);
                    let response = fleet::scale_in(core, &choice, now);
                    (choice, response)
                })
                .await?;
            if dry_run || choice.drain.is_empty() {
                return Ok(Response::new(response));
            }
            let expected = choice.drain.into_iter().map(|(key, _)| key).collect();
            match self.0.handle.decide(Event::ScaleIn { count, labels: labels.clone(), expected }).await {
                Ok(_) => return Ok(Response::new(response)),
                Err(Error::Refused(Refused::FleetChanged)) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Err(Error::Refused(Refused::FleetChanged).into())
    }

    async fn list_pools(&self, _: Request<v1::ListPoolsRequest>) -> Result<Response<v1::ListPoolsResponse>, Status> {
        let pools = self.0.handle.read(fleet::pools).await?;
        Ok(Response::new(v1::ListPoolsResponse { pools }))
    }

    async fn set_pool(&self, request: Request<v1::SetPoolRequest>) -> Result<Response<v1::SetPoolResponse>, Status> {
        let v1::SetPoolRequest { name, slots, description } = request.into_inner();
        let name: PoolName = id("name", name).map_err(Error::from)?;
        if description.as_ref().is_some_and(|text| text.chars().count() > LONGEST_DESCRIPTION) {
            let text = format!("the description of pool `{name}` is longer than {LONGEST_DESCRIPTION} characters");
            return Err(Error::BadRequest(text).into());
        }
        let asked = name.clone();
        let previous = self.0.handle.read(move |core| core.pools().get(asked.as_str()).copied()).await?;
        self.0.handle.decide(Event::SetPool { name, slots: Some(slots), description }).await?;
        Ok(Response::new(v1::SetPoolResponse { previous }))
    }

    async fn delete_pool(
        &self,
        request: Request<v1::DeletePoolRequest>,
    ) -> Result<Response<v1::DeletePoolResponse>, Status> {
        let name: PoolName = id("name", request.into_inner().name).map_err(Error::from)?;
        self.0.handle.decide(Event::SetPool { name, slots: None, description: None }).await?;
        Ok(Response::new(v1::DeletePoolResponse {}))
    }
}

fn label_name(name: &str) -> Result<(), Error> {
    let good = (1..=LONGEST_LABEL).contains(&name.len()) && !name.contains(|c: char| c.is_control() || c == '=');
    if good {
        return Ok(());
    }
    let shown: String = name.chars().take(LONGEST_LABEL).collect();
    Err(Error::BadRequest(format!(
        "`{}` cannot name a label: 1 to {LONGEST_LABEL} characters, none of them `=` or a control character",
        shown.escape_debug()
    )))
}

fn label_value(value: &str) -> Result<(), Error> {
    if value.len() <= LONGEST_LABEL && !value.contains(char::is_control) {
        return Ok(());
    }
    let shown: String = value.chars().take(LONGEST_LABEL).collect();
    Err(Error::BadRequest(format!(
        "`{}` cannot be the value of a label: at most {LONGEST_LABEL} characters, none of them a control character",
        shown.escape_debug()
    )))
}
