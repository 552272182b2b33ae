//! The way to a coordinator: a named one, the one of a state directory, or one made for this command.

use std::{path::Path, time::Duration};

use segue_coordinator::server::ADDRESS_FILE;
use segue_proto::{
    MAX_MESSAGE_BYTES,
    v1::{
        self, admin_service_client::AdminServiceClient, blob_service_client::BlobServiceClient,
        event_service_client::EventServiceClient, fleet_service_client::FleetServiceClient,
        log_service_client::LogServiceClient, maintenance_service_client::MaintenanceServiceClient,
        registry_service_client::RegistryServiceClient, run_service_client::RunServiceClient,
        schedule_service_client::ScheduleServiceClient,
    },
};
use tonic::transport::{Channel, ClientTlsConfig, Endpoint};

use crate::{args::Global, embedded::Embedded, error::Error, format, printer::Printer};

/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(5);

/// A connected coordinator.
#[derive(Debug)]
pub struct Client {
    channel: Channel,
    /// A coordinator that lives as long as this command.
    embedded: Option<Embedded>,
}

macro_rules! service {
    ($name:ident, $client:ident) => {
        /// Gives the service.
        pub fn $name(&self) -> $client<Channel> {
            $client::new(self.channel.clone())
                .max_decoding_message_size(MAX_MESSAGE_BYTES)
                .max_encoding_message_size(MAX_MESSAGE_BYTES)
        }
    };
}

impl Client {
    service!(runs, RunServiceClient);
    service!(blobs, BlobServiceClient);
    service!(logs, LogServiceClient);
    service!(registry, RegistryServiceClient);
    service!(admin, AdminServiceClient);
    service!(schedules, ScheduleServiceClient);
    service!(maintenance, MaintenanceServiceClient);
    service!(events, EventServiceClient);
    service!(fleet, FleetServiceClient);

    /// Connects to a URL.
    pub async fn to(url: &str) -> Result<Self, Error> {
        let bad = |e: &dyn std::fmt::Display| {
            Error::usage(format!("`{url}` is not the address of a coordinator: {e}"))
                .hint("give one such as http://127.0.0.1:7400")
        };
        plain(url)?;
        if !url.starts_with("http://") && !url.starts_with("https://") {
            return Err(bad(&"it has no http:// or https://"));
        }
        let mut endpoint =
            Endpoint::from_shared(url.to_owned()).map_err(|e| bad(&e))?.connect_timeout(CONNECT).tcp_nodelay(true);
        if url.starts_with("https://") {
            let mut tls = ClientTlsConfig::new().with_native_roots();
            // A private authority, for coordinators with their own certificate.
            if let Some(file) = std::env::var_os("SEGUE_CA_CERT") {
                let pem = std::fs::read(&file).map_err(|e| {
                    Error::usage(format!("cannot read SEGUE_CA_CERT {}: {e}", Path::new(&file).display()))
                })?;
                tls = tls.ca_certificate(tonic::transport::Certificate::from_pem(pem));
            }
            endpoint = endpoint.tls_config(tls).map_err(|e| bad(&e))?;
        }
        let channel = endpoint.connect().await.map_err(|e| {
            let mut cause: &dyn std::error::Error = &e;
            while let Some(next) = cause.source() {
                cause = next;
            }
            Error::internal(format!("no coordinator answers at {url}: {cause}"))
                .hint("is it running? start one with `segue dev`, or name another with --server")
        })?;
        Ok(Self { channel, embedded: None })
    }

    /// Connects to the coordinator of a command: `--server`, then the one that runs on the state directory, then one
    /// made for this command over the store that is there.
    pub async fn connect(global: &Global) -> Result<Self, Error> {
        if let Some(running) = Self::running(global).await? {
            return Ok(running);
        }
        if !global.state_dir.join("store").is_dir() {
            return Err(Error::internal(format!(
                "there is no coordinator: no --server was given, and {} holds no store",
                global.state_dir.display()
            ))
            .hint("run a pipeline first (`segue run FILE`), or name a coordinator with --server or a directory with --state-dir"));
        }
        Self::embed(global).await
    }

    /// Connects as [`Client::connect`] does, and makes the store where there is none: for commands that set something up
    /// before anything has run.
    pub async fn connect_or_make(global: &Global) -> Result<Self, Error> {
        match Self::running(global).await? {
            Some(running) => Ok(running),
            None => Self::embed(global).await,
        }
    }

    /// Connects to `--server` or to the coordinator that runs on the state directory, if there is one.
    pub async fn running(global: &Global) -> Result<Option<Self>, Error> {
        if let Some(url) = &global.server {
            return Self::to(url).await.map(Some);
        }
        let Some(url) = left_address(&global.state_dir) else { return Ok(None) };
        // The address of a coordinator that was killed is still there: then nobody answers, or somebody else does.
        let asked = async {
            let client = Self::to(&url).await.ok()?;
            client.admin().get_status(v1::GetStatusRequest {}).await.ok()?;
            Some(client)
        };
        Ok(tokio::time::timeout(CONNECT, asked).await.ok().flatten())
    }

    /// Starts a coordinator for this command over the state directory.
    pub async fn embed(global: &Global) -> Result<Self, Error> {
        let embedded = Embedded::coordinator(&global.state_dir, global.over).await?;
        let mut client = Self::to(&embedded.url).await?;
        client.embedded = Some(embedded);
        Ok(client)
    }

    /// Gives the embedded coordinator, to add a worker to it.
    pub const fn embedded_mut(&mut self) -> Option<&mut Embedded> {
        self.embedded.as_mut()
    }

    /// Says whether the coordinator ends with this command.
    pub const fn is_embedded(&self) -> bool {
        self.embedded.is_some()
    }

    /// Refuses to wait for a run that nobody executes: a coordinator of this command alone has no workers, and would keep
    /// the store from one that has.
    pub fn executes(&self, run: &v1::RunView) -> Result<(), Error> {
        if !self.is_embedded() || format::ended(run.state).is_some() {
            return Ok(());
        }
        let state = format::run_state(run.state);
        Err(Error::internal(format!("nobody executes {}, which is {state}: no coordinator is running", run.run_id))
            .hint("start one on this state directory, which goes on with it: segue dev"))
    }

    /// Lets the hooks of an embedded coordinator tell what this command did, before both end. One that fails is tried again
    /// by the next command on the same state directory.
    pub async fn finish_hooks(&mut self, out: &Printer) {
        if let Some(embedded) = &mut self.embedded
            && !embedded.finish_hooks().await
        {
            out.note("some hooks have not ended; the next command on this state directory goes on with them");
        }
    }

    /// Ends the embedded coordinator in order, so that everything is flushed.
    pub async fn close(self) -> Result<(), Error> {
        drop(self.channel);
        match self.embedded {
            Some(embedded) => embedded.stop().await,
            None => Ok(()),
        }
    }
}

/// Refuses an address with a name or a password in it, without repeating it: nobody would take notice of them, and they
/// would be in logs and messages.
pub fn plain(url: &str) -> Result<(), Error> {
    let authority = url.split_once("://").map_or(url, |(_, rest)| rest).split(['/', '?', '#']).next();
    if authority.is_some_and(|authority| authority.contains('@')) || url.contains('?') {
        return Err(Error::usage(
            "the address of the coordinator holds a name, a password or a query, which it has no use for",
        )
        .hint("give it as http://HOST:PORT"));
    }
    Ok(())
}

fn left_address(state_dir: &Path) -> Option<String> {
    let text = std::fs::read_to_string(state_dir.join(ADDRESS_FILE)).ok()?;
    let value: serde_json::Value = serde_json::from_str(&text).ok()?;
    value.get("address")?.as_str().map(str::to_owned)
}
