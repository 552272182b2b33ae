//! HTTP to receivers: no redirects, a time for everything, certificates checked.

use std::{
    error::Error as _,
    net::IpAddr,
    sync::{Arc, OnceLock},
    time::Duration,
};

use reqwest::{
    Client, StatusCode,
    header::{CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER},
    redirect,
};

use url::{Host, Url};

use super::{
    allow::{Guarded, HookAllow, NOT_ALLOWED},
    decide::Failure,
};

const CONNECT: Duration = Duration::from_secs(10);
/// Connections that wait for the next message; receivers are told seldom.
const IDLE: Duration = Duration::from_secs(30);

/// Sends documents. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Http {
    client: Arc<OnceLock<Client>>,
    /// None: anywhere, as whoever operates the coordinator has named the place.
    allow: Option<Arc<HookAllow>>,
}

impl Http {
    /// Makes one that reaches only some places.
    #[must_use]
    pub fn guarded(allow: HookAllow) -> Self {
        Self { client: Arc::default(), allow: Some(Arc::new(allow)) }
    }

    /// Made at the first use: it reads the certificates of the system, and most coordinators never tell anybody anything.
    fn client(&self) -> Result<&Client, Failure> {
        if let Some(client) = self.client.get() {
            return Ok(client);
        }
        let mut builder = Client::builder();
        if let Some(allow) = &self.allow {
            builder = builder.dns_resolver(Arc::new(Guarded(Arc::clone(allow))));
        }
        let made = builder
            .user_agent(concat!("segue/", env!("CARGO_PKG_VERSION")))
            .redirect(redirect::Policy::none())
            .connect_timeout(CONNECT)
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(4)
            .build()
            .map_err(|e| Failure::passing(format!("cannot set up HTTP: {}", innermost(&e))))?;
        Ok(self.client.get_or_init(|| made))
    }

    /// Refuses an address that stands in the URL itself, which nobody resolves.
    fn check(&self, url: &str) -> Result<(), Failure> {
        let (Some(allow), Ok(url)) = (&self.allow, Url::parse(url)) else { return Ok(()) };
        let address = match url.host() {
            Some(Host::Ipv4(address)) => IpAddr::V4(address),
            Some(Host::Ipv6(address)) => IpAddr::V6(address),
            Some(Host::Domain(_)) | None => return Ok(()),
        };
        let allowed = allow.allows(url.host_str().unwrap_or_default(), address);
        if allowed { Ok(()) } else { Err(Failure::passing(format!("cannot be reached: {NOT_ALLOWED}"))) }
    }

    /// Posts a JSON document. Anything but an answer of 200 to 299 is a failure; the answer itself is not read, as it may
    /// repeat what it was sent.
    ///
    /// # Errors
    /// What went wrong, without the address.
    pub async fn post(
        &self,
        url: &str,
        mut headers: HeaderMap,
        body: Vec<u8>,
        timeout: Duration,
    ) -> Result<(), Failure> {
        self.check(url)?;
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let request = self.client()?.post(url).headers(headers).body(body).timeout(timeout);
        let answer = request.send().await.map_err(|e| unanswered(e, timeout))?;
        judge(answer.status(), answer.headers())
    }
}

fn unanswered(error: reqwest::Error, timeout: Duration) -> Failure {
    if error.is_timeout() && !error.is_connect() {
        return Failure::passing(format!("no answer within {} s", timeout.as_secs_f64()));
    }
    // The address may be a secret.
    let error = error.without_url();
    if error.is_builder() {
        return Failure::passing("the address or a header is malformed");
    }
    Failure::passing(format!("cannot be reached: {}", innermost(&error)))
}

fn innermost(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    let _ = error.source();
    cause.to_string()
}

fn judge(status: StatusCode, headers: &HeaderMap) -> Result<(), Failure> {
    if status.is_success() {
        return Ok(());
    }
    let message = if status.is_redirection() {
        format!("answered {}: redirects are not followed", status.as_u16())
    } else {
        format!("answered {}", status.as_u16())
    };
    if status == StatusCode::GONE {
        return Err(Failure::for_good(message));
    }
    let seconds = headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.trim().parse::<u64>().ok());
    Err(Failure { asked_ms: seconds.map(|seconds| seconds.saturating_mul(1_000)), ..Failure::passing(message) })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn status(code: u16) -> Result<(), Failure> {
        judge(StatusCode::from_u16(code).unwrap(), &HeaderMap::new())
    }

    #[test]
    fn only_an_answer_of_success_is_one() {
        assert_eq!(status(200), Ok(()));
        assert_eq!(status(204), Ok(()));
        assert!(status(302).unwrap_err().message.contains("redirects"));
        assert_eq!(status(500), Err(Failure::passing("answered 500")));
        assert_eq!(status(400), Err(Failure::passing("answered 400")));
        assert!(status(410).unwrap_err().for_good, "gone for good");
    }

    #[test]
    fn a_receiver_says_when_to_come_again() {
        let judged = |text: &str| {
            let headers = HeaderMap::from_iter([(RETRY_AFTER, HeaderValue::from_str(text).unwrap())]);
            judge(StatusCode::TOO_MANY_REQUESTS, &headers).unwrap_err().asked_ms
        };
        assert_eq!(judged("30"), Some(30_000));
        assert_eq!(judged("Wed, 21 Oct 2015 07:28:00 GMT"), None);
        assert_eq!(judged("18446744073709551615"), Some(u64::MAX));
    }

    #[tokio::test]
    async fn an_address_never_shows_in_a_failure() {
        let http = Http::default();
        for url in ["http://127.0.0.1:1/SECRET", "no address SECRET", "https://SECRET.invalid/"] {
            let posted = http.post(url, HeaderMap::new(), Vec::new(), Duration::from_secs(5)).await;
            let failure = posted.unwrap_err();
            assert!(!failure.message.contains("/SECRET") && !failure.message.contains("address SECRET"), "{failure:?}");
        }
    }
}
