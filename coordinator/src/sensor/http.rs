//! Does a URL answer?

use std::time::Duration;

use reqwest::{Client, redirect::Policy};
use url::Url;

use super::Probe;

/// How often an answer may send the look elsewhere.
const MOST_REDIRECTS: usize = 5;
/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(5);

/// Makes the client that all looks share.
///
/// # Errors
/// The system's certificates cannot be read.
pub fn client() -> Result<Client, String> {
    // An answer must not lead to where the sensor's author did not point: neither from TLS to none, nor on and on.
    let redirects = Policy::custom(|attempt| {
        let from_tls = attempt.previous().last().is_some_and(|url| url.scheme() == "https");
        match attempt.url().scheme() {
            "https" if attempt.previous().len() <= MOST_REDIRECTS => attempt.follow(),
            "http" if attempt.previous().len() <= MOST_REDIRECTS && !from_tls => attempt.follow(),
            _ => attempt.stop(),
        }
    });
    let agent = concat!("segue/", env!("CARGO_PKG_VERSION"));
    let client = Client::builder().redirect(redirects).connect_timeout(CONNECT).user_agent(agent).build();
    client.map_err(|e| format!("cannot ask URLs: {e}"))
}

/// Looks at the form of a URL and a status.
pub(super) fn check(url: &str, status: u16) -> Result<(), String> {
    if !(100..600).contains(&status) {
        return Err(format!("{status} is no status of HTTP: from 100 to 599"));
    }
    let parsed = Url::parse(url).map_err(|e| format!("`{}` is no URL: {e}", shown(url)))?;
    match parsed.scheme() {
        "http" | "https" if parsed.has_host() => Ok(()),
        _ => Err(format!("`{}` does not begin with http:// or https://", shown(url))),
    }
}

/// Looks once. The body of the answer is not read.
pub(super) async fn probe(client: &Client, url: &str, status: u16) -> Probe {
    let place = shown(url);
    match client.get(url).send().await {
        Ok(answer) if answer.status().as_u16() == status => Probe::Met { note: format!("{place} answers {status}") },
        Ok(answer) => Probe::NotYet { why: format!("{place} answers {}, and not {status}", answer.status().as_u16()) },
        Err(e) => {
            let mut cause: &dyn std::error::Error = &e.without_url();
            while let Some(next) = cause.source() {
                cause = next;
            }
            Probe::NotYet { why: format!("{place}: {cause}") }
        }
    }
}

/// Gives a URL as it may be shown: passwords and keys stand before the host or in the query.
fn shown(url: &str) -> String {
    match Url::parse(url) {
        Ok(url) if url.has_host() => {
            let port = url.port().map_or(String::new(), |port| format!(":{port}"));
            format!("{}://{}{port}{}", url.scheme(), url.host_str().unwrap_or_default(), url.path())
        }
        _ => url.chars().take(80).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect(),
    }
}
