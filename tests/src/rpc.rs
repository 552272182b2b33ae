//! gRPC for tests that are no async functions: one call, one answer.

use std::net::SocketAddr;

use segue_proto::{
    MAX_MESSAGE_BYTES,
    v1::{self, admin_service_client::AdminServiceClient, run_service_client::RunServiceClient},
};
use tokio::runtime::Runtime;
use tonic::{
    Status,
    transport::{Channel, Endpoint},
};

/// A client that connects anew whenever it must, so that it outlives coordinators.
#[derive(Debug)]
pub struct Rpc {
    runtime: Runtime,
    channel: Channel,
}

impl Rpc {
    /// Makes a client; nothing is connected yet.
    ///
    /// # Panics
    /// If threads cannot be started.
    #[must_use]
    pub fn new(address: SocketAddr) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("threads can be started");
        let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("an address makes a URL");
        let channel = runtime.block_on(async { endpoint.tcp_nodelay(true).connect_lazy() });
        Self { runtime, channel }
    }

    /// Gives the channel, for services of other crates.
    #[must_use]
    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// Waits for an answer.
    pub fn wait<T>(&self, answer: impl Future<Output = T>) -> T {
        self.runtime.block_on(answer)
    }

    /// Asks for a run with its tasks.
    ///
    /// # Errors
    /// The status that came, also when nobody answers.
    pub fn run(&self, id: &str) -> Result<v1::RunView, Status> {
        let mut runs = RunServiceClient::new(self.channel()).max_decoding_message_size(MAX_MESSAGE_BYTES);
        let request = v1::GetRunRequest { run_id: id.to_owned() };
        self.wait(runs.get_run(request)).map(tonic::Response::into_inner)
    }

    /// Asks for a run with its tasks and the children of its fan-outs, as far as one page goes.
    ///
    /// # Errors
    /// As [`Rpc::run`].
    pub fn run_with_children(&self, id: &str) -> Result<v1::RunView, Status> {
        const PAGE: u32 = 1_000;
        let mut view = self.run(id)?;
        if view.tasks.iter().any(|task| !task.children.is_empty()) {
            let mut runs = RunServiceClient::new(self.channel()).max_decoding_message_size(MAX_MESSAGE_BYTES);
            let request =
                v1::ListTasksRequest { run_id: id.to_owned(), limit: PAGE, ..v1::ListTasksRequest::default() };
            view.tasks = self.wait(runs.list_tasks(request))?.into_inner().tasks;
        }
        Ok(view)
    }

    /// Asks for the workers.
    ///
    /// # Errors
    /// As [`Rpc::run`].
    pub fn workers(&self) -> Result<Vec<v1::WorkerView>, Status> {
        let mut admin = AdminServiceClient::new(self.channel());
        self.wait(admin.list_workers(v1::ListWorkersRequest {})).map(|answer| answer.into_inner().workers)
    }

    /// Asks how the coordinator is.
    ///
    /// # Errors
    /// As [`Rpc::run`].
    pub fn status(&self) -> Result<v1::GetStatusResponse, Status> {
        let mut admin = AdminServiceClient::new(self.channel());
        self.wait(admin.get_status(v1::GetStatusRequest {})).map(tonic::Response::into_inner)
    }
}
