//! Sensors: one look at something outside, which says whether a task may go on.
//!
//! A sensor has no state. Whoever waits for one looks again and again, and keeps what [`Probe::Met`] says where the next
//! look needs it. Every look ends within the limit of its context.

mod artifact;
mod file;
mod http;
mod time;

use std::{sync::Arc, time::Duration};

pub use http::client;
use serde::{Deserialize, Serialize};

use crate::{core::UnixMillis, store::Store};

/// What is waited for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Sensor {
    /// A file of the coordinator's machine, or an object of `s3://` and the like, is there.
    File { path: String },
    /// A URL answers a GET with a status.
    Http {
        url: String,
        #[serde(default = "ok")]
        status: u16,
    },
    /// A moment has come: a date or time as in schedules, or the next time of day such as `06:30` since the wait began.
    Time {
        at: String,
        #[serde(default = "utc")]
        timezone: String,
    },
    /// An output of a task of another pipeline has another content than the one that was seen last.
    Artifact { pipeline: String, task: String, output: String },
}

const fn ok() -> u16 {
    200
}

fn utc() -> String {
    "UTC".to_owned()
}

/// What one look has found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Probe {
    /// Look again later.
    NotYet { why: String },
    /// The wait is over. Of an artifact, `note` is its digest: the `seen` of the next wait.
    Met { note: String },
    /// Looking again changes nothing.
    Fault { message: String },
}

/// What a look needs to know.
#[derive(Debug, Clone, Copy)]
pub struct ProbeContext<'a> {
    pub store: &'a Arc<dyn Store>,
    /// Made once by [`client`].
    pub http: &'a reqwest::Client,
    pub now: UnixMillis,
    /// When the wait began.
    pub since: UnixMillis,
    /// The digest that was seen last, of an artifact.
    pub seen: Option<&'a str>,
    /// How long the look may take.
    pub limit: Duration,
}

impl Sensor {
    /// Says what is wrong with a sensor before anybody waits for it.
    ///
    /// # Errors
    /// A sentence for people, about the value at fault.
    pub fn check(&self) -> Result<(), String> {
        match self {
            Self::File { path } => file::check(path),
            Self::Http { url, status } => http::check(url, *status),
            Self::Time { at, timezone } => time::check(at, timezone),
            Self::Artifact { pipeline, task, output } => artifact::check(pipeline, task, output),
        }
    }
}

/// Looks once.
pub async fn probe(sensor: &Sensor, context: &ProbeContext<'_>) -> Probe {
    if let Err(message) = sensor.check() {
        return Probe::Fault { message };
    }
    let look = async {
        match sensor {
            Sensor::File { path } => file::probe(path).await,
            Sensor::Http { url, status } => http::probe(context.http, url, *status).await,
            Sensor::Time { at, timezone } => time::probe(at, timezone, context.since, context.now),
            Sensor::Artifact { pipeline, task, output } => {
                artifact::probe(context.store, pipeline, task, output, context.seen).await
            }
        }
    };
    match tokio::time::timeout(context.limit, look).await {
        Ok(probe) => probe,
        Err(_) => Probe::NotYet { why: format!("no answer within {} ms", context.limit.as_millis()) },
    }
}

#[cfg(test)]
mod tests;
