//! Calls of clients, with the patience of a person: what could not be answered is asked again.

use std::{future::Future, net::SocketAddr, time::Duration};

use segue_proto::{
    MAX_MESSAGE_BYTES,
    v1::{
        self, admin_service_client::AdminServiceClient, blob_service_client::BlobServiceClient,
        event_service_client::EventServiceClient, fleet_service_client::FleetServiceClient,
        log_service_client::LogServiceClient, maintenance_service_client::MaintenanceServiceClient,
        registry_service_client::RegistryServiceClient, run_service_client::RunServiceClient,
        schedule_service_client::ScheduleServiceClient, worker_service_client::WorkerServiceClient,
    },
};
use tonic::{
    Code, Response, Status,
    transport::{Channel, Endpoint},
};

use super::PATIENCE;

/// A way to one coordinator, and to those that come after it at the same address.
#[derive(Debug, Clone)]
pub struct Client {
    pub channel: Channel,
}

macro_rules! services {
    ($($name:ident: $client:ident),* $(,)?) => {
        impl Client {
            $(pub fn $name(&self) -> $client<Channel> {
                $client::new(self.channel.clone())
                    .max_decoding_message_size(MAX_MESSAGE_BYTES)
                    .max_encoding_message_size(2 * MAX_MESSAGE_BYTES)
            })*
        }
    };
}

services! {
    runs: RunServiceClient, workers: WorkerServiceClient, blobs: BlobServiceClient, logs: LogServiceClient,
    registry: RegistryServiceClient, schedules: ScheduleServiceClient, events: EventServiceClient,
    admin: AdminServiceClient, fleet: FleetServiceClient, maintenance: MaintenanceServiceClient,
}

/// Says whether nobody knows what became of a call: the coordinator went away, or its store did.
pub fn is_unknown(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::Unavailable | Code::Unknown | Code::Cancelled | Code::Internal | Code::ResourceExhausted
    )
}

impl Client {
    pub fn new(address: SocketAddr) -> Self {
        let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
        Self { channel: endpoint.tcp_nodelay(true).connect_lazy() }
    }

    /// Calls until an answer comes that is one.
    pub async fn insist<T, F>(&self, what: &str, mut call: impl FnMut(Self) -> F) -> Result<T, Status>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            match call(self.clone()).await {
                Ok(answer) => return Ok(answer.into_inner()),
                Err(status) if is_unknown(&status) => {
                    assert!(tokio::time::Instant::now() < deadline, "{what}: {status}");
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                Err(status) => return Err(status),
            }
        }
    }

    /// Gives every run, oldest first, with its tasks.
    pub async fn all_runs(&self) -> Vec<v1::RunView> {
        let list = |client: Self| async move {
            client.runs().list_runs(v1::ListRunsRequest { limit: 1_000, ..Default::default() }).await
        };
        let listed = self.insist("runs", list).await.unwrap().runs;
        let mut runs = Vec::new();
        for run in listed.into_iter().rev() {
            runs.push(self.run(&run.run_id).await);
        }
        runs
    }

    pub async fn run(&self, id: &str) -> v1::RunView {
        let get =
            |client: Self| async move { client.runs().get_run(v1::GetRunRequest { run_id: id.to_owned() }).await };
        self.insist("run", get).await.unwrap()
    }

    /// Gives every task of a run, the children of fan-outs included.
    pub async fn tasks(&self, id: &str) -> Vec<v1::TaskView> {
        let request = v1::ListTasksRequest { run_id: id.to_owned(), limit: 1_000, ..Default::default() };
        let list = |client: Self| {
            let request = request.clone();
            async move { client.runs().list_tasks(request).await }
        };
        self.insist("tasks", list).await.unwrap().tasks
    }

    /// Gives the feed up to now.
    pub async fn all_events(&self) -> Vec<v1::FeedEvent> {
        let mut stream = self.events().read(v1::ReadEventsRequest::default()).await.unwrap().into_inner();
        let mut events = Vec::new();
        while let Some(part) = stream.message().await.unwrap() {
            events.extend(part.events);
        }
        events
    }

    /// Reads the log of an attempt: its bytes, and how many of them are missing.
    pub async fn log(&self, run: &str, task: &str, attempt: u32) -> (Vec<u8>, u64) {
        let request = v1::ReadLogsRequest { run_id: run.to_owned(), task: task.to_owned(), attempt, follow: false };
        let (mut bytes, mut lost) = (Vec::new(), 0);
        let Ok(stream) = self.logs().read(request).await else { return (bytes, lost) };
        let mut stream = stream.into_inner();
        while let Some(piece) = stream.message().await.unwrap() {
            lost += piece.lost_before;
            bytes.extend_from_slice(&piece.data);
        }
        (bytes, lost)
    }
}

/// Waits until something holds, and says what was last seen if it never does.
pub async fn until<T, F>(what: &str, mut look: impl FnMut() -> F) -> T
where
    F: Future<Output = Result<T, String>>,
{
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        match look().await {
            Ok(found) => return found,
            Err(seen) => assert!(tokio::time::Instant::now() < deadline, "{what} never came: {seen}"),
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
