//! Sends run events to a catalogue, in the order of the feed, from a cursor of its own.

use std::{fmt, time::Duration};

use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use segue_proto::{
    store::v1::{CursorRecord, delivery_record::Retry},
    v1,
};
use serde_json::Value;
use tokio::sync::watch;
use tracing::{debug, error, warn};
use url::Url;

use super::run_events;
use crate::{
    server::{
        api::Shared,
        deliver::{Failure, Http, Next, after},
        error::Error,
        feed,
    },
    store::{self, Batch, Key, keys::DeliveryKey},
};

/// Name of the cursor.
pub(in crate::server) const CURSOR: &str = "openlineage";
/// Where a catalogue listens unless its address says so.
const PATH: &str = "/api/v1/lineage";
const TIMEOUT: Duration = Duration::from_secs(10);
/// How long to wait after the store could not be read or written.
const AFTER_FAULT: Duration = Duration::from_secs(1);
/// Documents between two notes of the cursor: what a restart may send a second time.
const NOTE_EVERY: usize = 64;
/// Events without a document after which the cursor is noted all the same: what a restart reads a second time.
const READ_AGAIN: u64 = 10_000;
/// Tries of one document, until it is a day old.
const RETRY: Retry = Retry { attempts: u32::MAX, constant: false, initial_ms: 1_000, max_ms: 60_000, jitter: 0.2 };

/// A catalogue of lineage.
#[derive(Clone)]
pub struct Target {
    url: Url,
    namespace: String,
    api_key: Option<String>,
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Target").field("namespace", &self.namespace).finish_non_exhaustive()
    }
}

impl Target {
    /// Checks an address. Without a path it gets that of the standard.
    ///
    /// # Errors
    /// Says what is wrong, without the text.
    pub fn new(url: &str, namespace: &str, api_key: Option<String>) -> Result<Self, String> {
        let mut url = Url::parse(url).map_err(|e| e.to_string())?;
        if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
            return Err("it is no http:// or https:// address".to_owned());
        }
        if matches!(url.path(), "" | "/") {
            url.set_path(PATH);
        }
        if namespace.is_empty() || namespace.chars().any(char::is_control) {
            return Err("the namespace is empty or holds control characters".to_owned());
        }
        if api_key.as_deref().is_some_and(|key| HeaderValue::from_str(&format!("Bearer {key}")).is_err()) {
            return Err("the API key cannot stand in a header".to_owned());
        }
        Ok(Self { url, namespace: namespace.to_owned(), api_key })
    }

    fn headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        let value = self.api_key.as_deref().and_then(|key| HeaderValue::from_str(&format!("Bearer {key}")).ok());
        if let Some(mut value) = value {
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        headers
    }
}

/// Sends until the coordinator stops.
pub async fn run(shared: Shared, target: Target) {
    let mut sender = Sender {
        http: Http::default(),
        flushed: shared.feed.flushed.clone(),
        giving_up: false,
        shared: shared.clone(),
        target,
    };
    loop {
        tokio::select! {
            () = shared.stop.cancelled() => return,
            ended = sender.follow() => {
                let Err(e) = ended else { return };
                error!(error = %e, "OpenLineage events cannot be read or noted");
            }
        }
        tokio::select! {
            () = shared.stop.cancelled() => return,
            () = tokio::time::sleep(AFTER_FAULT) => {}
        }
    }
}

struct Sender {
    shared: Shared,
    target: Target,
    http: Http,
    flushed: watch::Receiver<u64>,
    /// The last event was given up: so is every other one that is as old, without an event for each.
    giving_up: bool,
}

impl Sender {
    /// Follows the feed from the cursor on. Ends with the coordinator.
    async fn follow(&mut self) -> Result<(), Error> {
        let mut next = match self.cursor().await? {
            Some(next) => next,
            None => {
                // The first time: what happened before anybody asked is not sent.
                let next = *self.flushed.borrow();
                self.note(next).await?;
                next
            }
        };
        let mut noted = next;
        let mut unnoted = 0;
        loop {
            let end = *self.flushed.borrow_and_update();
            let page = match self.page(next, end).await {
                Err(Error::EventsGone { wanted, oldest, .. }) => {
                    warn!(wanted, oldest, "events were dropped before they were sent to OpenLineage");
                    (next, noted) = (oldest, oldest);
                    self.note(next).await?;
                    continue;
                }
                page => page?,
            };
            for event in &page.events {
                for document in run_events(event, &self.target.namespace) {
                    self.send(&document, event).await?;
                    unnoted += 1;
                }
                if unnoted >= NOTE_EVERY {
                    (noted, unnoted) = (event.offset + 1, 0);
                    self.note(noted).await?;
                }
            }
            next = page.next;
            if (unnoted > 0 && next >= end) || next - noted >= READ_AGAIN {
                (noted, unnoted) = (next, 0);
                self.note(noted).await?;
            }
            if next < end {
                continue;
            }
            if self.flushed.changed().await.is_err() {
                return Ok(());
            }
        }
    }

    /// Sends a document until it has arrived, is refused for good, or is a day old.
    async fn send(&mut self, document: &Value, event: &v1::FeedEvent) -> Result<(), Error> {
        let mut tries = 0;
        loop {
            let body = document.to_string().into_bytes();
            let sent = self.http.post(self.target.url.as_str(), self.target.headers(), body, TIMEOUT).await;
            let Err(failure) = sent else {
                self.giving_up = false;
                return Ok(());
            };
            tries += 1;
            // A document that this catalogue does not understand stands in the way of all others.
            if ["answered 400", "answered 413", "answered 422"].contains(&failure.message.as_str()) {
                warn!(offset = event.offset, error = failure.message, "OpenLineage event refused");
                return Ok(());
            }
            let seed = DeliveryKey { lane: 0, due_ms: 0, offset: event.offset, hook: 0 };
            let now = self.shared.clock.now();
            match after(&failure, &RETRY, tries, event.time_ms, seed, now) {
                Next::At(at) => {
                    debug!(offset = event.offset, error = failure.message, "OpenLineage event is sent again later");
                    tokio::time::sleep(Duration::from_millis(at.saturating_sub(now))).await;
                }
                Next::GiveUp => return self.give_up(event, &failure).await,
            }
        }
    }

    async fn give_up(&mut self, event: &v1::FeedEvent, failure: &Failure) -> Result<(), Error> {
        if std::mem::replace(&mut self.giving_up, true) {
            return Ok(());
        }
        warn!(offset = event.offset, error = failure.message, "OpenLineage events given up");
        let details = serde_json::json!({ "action": "openlineage", "event_offset": event.offset });
        let given_up = v1::FeedEvent {
            kind: v1::EventKind::HookGaveUp.into(),
            message: format!("OpenLineage events from {} on given up: {}", event.offset, failure.message),
            details_json: details.to_string(),
            ..v1::FeedEvent::default()
        };
        self.shared.handle.append(vec![given_up], Batch::new()).await
    }

    async fn cursor(&self) -> Result<Option<u64>, Error> {
        let key = Key::Cursor(CURSOR.to_owned());
        let record = self.shared.blocking(move |shared| Ok(store::read::<CursorRecord>(&*shared.store, &key)?)).await?;
        Ok(record.map(|record| record.next_offset))
    }

    async fn note(&self, next_offset: u64) -> Result<(), Error> {
        let mut batch = Batch::new();
        batch.put(&Key::Cursor(CURSOR.to_owned()), &CursorRecord { next_offset });
        Ok(self.shared.committer.commit(batch).await?)
    }

    async fn page(&self, from: u64, end: u64) -> Result<feed::Page, Error> {
        self.shared.blocking(move |shared| feed::page(&*shared.store, from, end, &feed::Filter::default())).await
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn an_address_without_a_path_gets_that_of_the_standard() {
        let url = |text: &str| Target::new(text, "segue", None).map(|target| target.url.to_string());
        assert_eq!(url("http://marquez:5000").unwrap(), "http://marquez:5000/api/v1/lineage");
        assert_eq!(url("https://x.example/lineage?team=a").unwrap(), "https://x.example/lineage?team=a");
        for bad in ["marquez:5000", "ftp://x", "", "http://"] {
            assert!(url(bad).is_err(), "{bad} was taken");
        }
        assert!(Target::new("http://x", "", None).is_err());
        assert!(Target::new("http://x", "n", Some("a\nb".to_owned())).is_err());
    }

    #[test]
    fn the_key_is_sent_and_never_shown() {
        let target = Target::new("http://x", "n", Some("hidden".to_owned())).unwrap();
        assert_eq!(target.headers()[AUTHORIZATION], "Bearer hidden");
        assert!(!format!("{target:?} {:?}", target.headers()).contains("hidden"));
    }
}
