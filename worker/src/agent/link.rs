//! The connection to the coordinator: made again for ever, one stream at a time.

use std::time::Duration;

use segue_proto::v1::{self, worker_service_client::WorkerServiceClient};
use tokio::{
    sync::mpsc,
    time::{sleep, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint};

use super::{
    backoff::{Backoff, entropy},
    config::{Error, WorkerConfig},
};

/// How long connecting, and then the welcome, may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// How often the connection itself is probed: a cable that was pulled shows in no other way.
const PROBE: Duration = Duration::from_secs(3);

/// News of the link.
#[derive(Debug)]
pub enum LinkEvent {
    /// A stream is open: the first message on it must be the hello.
    Up(Stream),
    Commands(Vec<v1::Command>),
    Down,
}

/// The way up of an open link.
#[derive(Debug)]
pub struct Stream {
    /// One message may wait: more would only make what is in them older.
    pub messages: mpsc::Sender<v1::WorkerMessage>,
    /// Gives the link up, for one that is open but silent.
    pub give_up: CancellationToken,
}

/// Makes the endpoint of a coordinator.
///
/// # Errors
/// If the address or the TLS settings are wrong.
pub fn endpoint(config: &WorkerConfig) -> Result<Endpoint, Error> {
    let wrong = |reason: String| Error::Address { server: config.server.clone(), reason };
    let mut endpoint = Endpoint::from_shared(config.server.clone()).map_err(|e| wrong(e.to_string()))?;
    let scheme = endpoint.uri().scheme_str().map(str::to_owned);
    match scheme.as_deref() {
        Some("http") if config.tls.is_none() => {}
        Some("http") => return Err(wrong("TLS settings are of no use without https".into())),
        Some("https") => {
            let wanted = config.tls.clone().unwrap_or_default();
            let mut tls = ClientTlsConfig::new().with_native_roots();
            if let Some(pem) = wanted.ca_pem {
                tls = tls.ca_certificate(Certificate::from_pem(pem));
            }
            if let Some(domain) = wanted.domain {
                tls = tls.domain_name(domain);
            }
            endpoint = endpoint.tls_config(tls).map_err(|e| Error::Tls(e.to_string()))?;
        }
        _ => return Err(wrong("it begins neither with http:// nor with https://".into())),
    }
    Ok(endpoint
        .tcp_nodelay(true)
        .connect_timeout(PATIENCE)
        .http2_keep_alive_interval(PROBE)
        .keep_alive_timeout(PROBE)
        .keep_alive_while_idle(true))
}

/// Keeps a link open until told to stop. `ending` says that the worker itself closes the last one, which is no news.
pub async fn maintain(
    endpoint: Endpoint,
    events: mpsc::Sender<LinkEvent>,
    ending: CancellationToken,
    stop: CancellationToken,
) {
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2));
    while !stop.is_cancelled() {
        let mut welcomed = false;
        let reason = tokio::select! {
            reason = one(&endpoint, &events, &mut welcomed) => reason,
            () = stop.cancelled() => return,
        };
        if ending.is_cancelled() {
            let _ = events.send(LinkEvent::Down).await;
            return;
        }
        if welcomed {
            backoff.reset();
        }
        if backoff.failures() == 0 {
            tracing::warn!(%reason, server = %endpoint.uri(), "no link to the coordinator, trying again");
        } else {
            tracing::debug!(%reason, failures = backoff.failures(), "still no link to the coordinator");
        }
        if events.send(LinkEvent::Down).await.is_err() {
            return;
        }
        tokio::select! {
            () = sleep(backoff.next(entropy())) => {}
            () = stop.cancelled() => return,
        }
    }
}

/// Opens one link and holds it; gives the reason of its end.
async fn one(endpoint: &Endpoint, events: &mpsc::Sender<LinkEvent>, welcomed: &mut bool) -> String {
    let channel = match endpoint.connect().await {
        Ok(channel) => channel,
        Err(error) => return with_sources(&error),
    };
    let (messages, outgoing) = mpsc::channel(1);
    let give_up = CancellationToken::new();
    if events.send(LinkEvent::Up(Stream { messages, give_up: give_up.clone() })).await.is_err() {
        return "the worker ends".into();
    }
    let mut client = WorkerServiceClient::new(channel)
        .max_decoding_message_size(segue_proto::MAX_MESSAGE_BYTES)
        .max_encoding_message_size(segue_proto::MAX_MESSAGE_BYTES);
    let listen = async {
        let mut incoming = match timeout(PATIENCE, client.connect(ReceiverStream::new(outgoing))).await {
            Ok(Ok(response)) => response.into_inner(),
            Ok(Err(status)) => return format!("{}: {}", status.code(), status.message()),
            Err(_) => return "the coordinator does not answer".into(),
        };
        loop {
            let next =
                if *welcomed { Ok(incoming.message().await) } else { timeout(PATIENCE, incoming.message()).await };
            match next {
                Ok(Ok(Some(message))) => {
                    *welcomed = true;
                    if events.send(LinkEvent::Commands(message.commands)).await.is_err() {
                        return "the worker ends".into();
                    }
                }
                Ok(Ok(None)) => return "the coordinator closed it".into(),
                Ok(Err(status)) => return format!("{}: {}", status.code(), status.message()),
                Err(_) => return "the coordinator sends no welcome".into(),
            }
        }
    };
    tokio::select! {
        reason = listen => reason,
        () = give_up.cancelled() => "it was silent for too long".into(),
    }
}

/// Gives an error with its causes: tonic's own text is "transport error" and no more.
fn with_sources(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
