//! The link of a model worker to the coordinator: real gRPC, made again for ever.

use std::time::Duration;

use segue_proto::v1::{self, worker_service_client::WorkerServiceClient};
use tokio::{
    sync::mpsc,
    time::{sleep, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

use crate::{chance::Chance, net::Net};

const PATIENCE: Duration = Duration::from_secs(10);

pub enum News {
    Up { messages: mpsc::Sender<v1::WorkerMessage>, give_up: CancellationToken },
    Commands(Vec<v1::Command>),
    Down,
}

/// Keeps a link open until it is aborted.
pub async fn maintain(net: Net, host: String, news: mpsc::Sender<News>, mut chance: Chance) {
    let mut failures = 0_u32;
    loop {
        let welcomed = one(&net, &host, &news).await;
        failures = if welcomed { 0 } else { (failures + 1).min(5) };
        if news.send(News::Down).await.is_err() {
            return;
        }
        let longest = (100_u64 << failures).min(2_000);
        sleep(Duration::from_millis(chance.between(longest / 2, longest))).await;
    }
}

async fn one(net: &Net, host: &str, news: &mpsc::Sender<News>) -> bool {
    let Ok(channel) = net.endpoint(PATIENCE).connect_with_connector(net.connector(host)).await else { return false };
    let (messages, outgoing) = mpsc::channel(1);
    let give_up = CancellationToken::new();
    if news.send(News::Up { messages, give_up: give_up.clone() }).await.is_err() {
        return false;
    }
    let mut welcomed = false;
    let mut client = WorkerServiceClient::new(channel);
    let listen = async {
        let Ok(Ok(response)) = timeout(PATIENCE, client.connect(ReceiverStream::new(outgoing))).await else { return };
        let mut incoming = response.into_inner();
        loop {
            let next =
                if welcomed { Ok(incoming.message().await) } else { timeout(PATIENCE, incoming.message()).await };
            let Ok(Ok(Some(message))) = next else { return };
            welcomed = true;
            if news.send(News::Commands(message.commands)).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        biased;
        () = give_up.cancelled() => {}
        () = listen => {}
    }
    welcomed
}
