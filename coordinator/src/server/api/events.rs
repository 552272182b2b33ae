//! `EventService`: the feed, from any offset that is kept, and on as it grows.

use std::pin::Pin;

use futures::Stream;
use segue_proto::v1::{self, event_service_server::EventService};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::Shared;
use crate::server::{
    error::Error,
    feed::{Filter, page},
    find::resolve,
};

/// A reader hears how far it has come after at most this many events that it does not want.
const SAY_EVERY: u64 = 10_000;

/// Implements the service.
#[derive(Debug, Clone)]
pub struct Events(pub Shared);

#[tonic::async_trait]
impl EventService for Events {
    type ReadStream = Pin<Box<dyn Stream<Item = Result<v1::FeedEvents, Status>> + Send>>;

    async fn read(&self, request: Request<v1::ReadEventsRequest>) -> Result<Response<Self::ReadStream>, Status> {
        let request = request.into_inner();
        let filter = self.filter(&request).await?;
        let end = *self.0.feed.flushed.borrow();
        let from = if request.from_offset == u64::MAX { end } else { request.from_offset };
        // A wrong start is an answer to the call, not a fault of the stream.
        let wanted = filter.clone();
        let first = self.0.blocking(move |shared| page(&*shared.store, from, end, &wanted)).await?;
        let (sender, receiver) = mpsc::channel(4);
        let shared = self.0.clone();
        tokio::spawn(async move {
            let first = v1::FeedEvents { events: first.events, next_offset: first.next };
            if let Err(e) = stream(&shared, first, filter, request.follow, &sender).await {
                let _ = sender.send(Err(e.into())).await; // The reader may have gone.
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}

impl Events {
    async fn filter(&self, request: &v1::ReadEventsRequest) -> Result<Filter, Error> {
        for kind in &request.kinds {
            if v1::EventKind::try_from(*kind).is_err() {
                return Err(Error::BadRequest(format!("there is no kind of event with the number {kind}")));
            }
        }
        let run = match request.run.clone() {
            none if none.is_empty() => none,
            reference => self.0.blocking(move |shared| resolve(&*shared.store, &reference)).await?.to_string(),
        };
        Ok(Filter { kinds: request.kinds.iter().copied().collect(), run, pipeline: request.pipeline.clone() })
    }
}

/// Sends pages until the end of the feed, or of the reader. A slow reader is waited for here, and nowhere else.
async fn stream(
    shared: &Shared,
    first: v1::FeedEvents,
    filter: Filter,
    follow: bool,
    sender: &mpsc::Sender<Result<v1::FeedEvents, Status>>,
) -> Result<(), Error> {
    let mut flushed = shared.feed.flushed.clone();
    let mut part = first;
    let mut told = None;
    loop {
        let next = part.next_offset;
        let end = *flushed.borrow_and_update();
        // An empty part says how far the reader has come: when it has caught up, and now and then to one who waits for
        // what is rare.
        let news = match told {
            _ if !part.events.is_empty() => true,
            None => next >= end,
            Some(before) => next.saturating_sub(before) >= SAY_EVERY,
        };
        if news {
            told = Some(next);
            if sender.send(Ok(part)).await.is_err() {
                return Ok(());
            }
        }
        if next >= end {
            if !follow {
                return Ok(());
            }
            tokio::select! {
                changed = flushed.changed() => if changed.is_err() { return Ok(()) },
                () = sender.closed() => return Ok(()),
                () = shared.stop.cancelled() => return Err(Error::Stopping),
            }
        }
        let (end, wanted) = (*flushed.borrow_and_update(), filter.clone());
        let read = shared.blocking(move |shared| page(&*shared.store, next, end, &wanted)).await?;
        part = v1::FeedEvents { events: read.events, next_offset: read.next };
    }
}
