//! `segue coordinator`: serve until told to stop.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Args;
use segue_coordinator::{
    gc::GcConfig,
    server::{Config, HookAllow, openlineage::send::Target},
};
use tokio::net::TcpListener;

use super::{
    gc::{Rules, age},
    worker::size,
};
use crate::{
    args::Global,
    embedded,
    error::{Error, ExitStatus},
    ground, stop,
};

/// Heading of the rules in the help.
const RETENTION: &str = "Retention, for pipelines whose file says nothing; without rules, everything is kept";

/// Arguments.
#[derive(Debug, Args)]
pub struct CoordinatorArgs {
    /// Address for gRPC; loopback unless told
    #[arg(long, default_value = "127.0.0.1:7400", value_name = "HOST:PORT")]
    pub listen: SocketAddr,
    /// Address for /healthz, /readyz and /metrics; `off` serves none
    #[arg(long, default_value = "127.0.0.1:7401", value_name = "HOST:PORT")]
    pub http: String,
    /// Seconds that a worker may be silent before its attempts are lost
    #[arg(long, default_value_t = embedded::LEASE.as_secs_f64(), value_name = "SECONDS")]
    pub lease: f64,
    /// Where blobs are kept, such as s3://bucket/prefix; the state directory unless told
    #[arg(long, value_name = "URL")]
    pub blobs: Option<String>,
    /// PEM certificate chain for TLS
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,
    /// PEM key for TLS
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
    /// Send OpenLineage run events to this catalogue; its API key comes from OPENLINEAGE_API_KEY
    #[arg(long, env = "SEGUE_OPENLINEAGE_URL", value_name = "URL")]
    pub openlineage: Option<String>,
    /// Namespace of jobs and artifacts in OpenLineage
    #[arg(long, env = "SEGUE_OPENLINEAGE_NAMESPACE", default_value = LINEAGE_NAMESPACE, value_name = "NAME")]
    pub openlineage_namespace: String,
    /// Let webhooks reach only this: a host, *.DOMAIN for what is below it, an address, or a network such as 10.0.0.0/8;
    /// may be given several times. Without it they reach everything but link-local addresses (cloud metadata)
    #[arg(long, value_name = "HOST|CIDR")]
    pub hook_allow: Vec<String>,
    /// Listen on a non-loopback address without TLS
    #[arg(long)]
    pub insecure: bool,
    #[command(flatten, next_help_heading = RETENTION)]
    pub rules: Rules,
    /// Take away what no rule keeps this often, such as 1h; without it, only `segue gc` does
    #[arg(long, value_name = "AGE", value_parser = age, help_heading = RETENTION)]
    pub gc_every: Option<u64>,
    /// Keep blobs that were stored less than this long ago, needed or not
    #[arg(long, value_name = "AGE", value_parser = age, default_value = "1h", help_heading = RETENTION)]
    pub gc_grace: u64,
    /// Keep events in the feed for this long, or `forever`; those that OpenLineage or a hook has not read yet stay. Old
    /// ones go every hour, with or without --gc-every
    #[arg(long, value_name = "AGE|forever", value_parser = keep_events, default_value = "30d", help_heading = RETENTION)]
    pub keep_events: KeepEvents,
    /// Keep at most this much of the log of each attempt, at least 64KiB: its beginning and its end
    #[arg(long, value_name = "SIZE", value_parser = log_limit, default_value = "64MiB", help_heading = RETENTION)]
    pub log_limit: u64,
}

/// Least that is kept of a log.
const LEAST_LOG: u64 = 64 * 1024;

fn log_limit(text: &str) -> Result<u64, String> {
    match size(text)? {
        bytes if bytes < LEAST_LOG => Err(format!("`{text}` is less than 64KiB, the least that is kept of a log")),
        bytes => Ok(bytes),
    }
}

/// How long events stay; none: for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeepEvents(Option<Duration>);

fn keep_events(text: &str) -> Result<KeepEvents, String> {
    if text == "forever" {
        return Ok(KeepEvents(None));
    }
    Ok(KeepEvents(Some(Duration::from_millis(age(text)?))))
}

/// Namespace of jobs and artifacts in OpenLineage unless told otherwise.
pub const LINEAGE_NAMESPACE: &str = "segue";

/// Runs the command.
pub async fn run(args: CoordinatorArgs, global: &Global) -> Result<ExitStatus, Error> {
    let lease = lease(args.lease)?;
    let openlineage = lineage_target(&args)?;
    let hook_allow = hook_allow(&args.hook_allow)?;
    let tls = match (&args.tls_cert, &args.tls_key) {
        (Some(cert), Some(key)) => Some((read(cert)?, read(key)?)),
        _ => None,
    };
    let listener = bind(args.listen, tls.is_some() || args.insecure).await?;
    let http = bind_http(&args.http, args.insecure).await?;
    let stop = stop::on_signals();
    let gc = GcConfig {
        defaults: args.rules.into(),
        every: args.gc_every.map(Duration::from_millis),
        grace: Duration::from_millis(args.gc_grace),
        events_for: args.keep_events.0,
        log_limit: args.log_limit,
    };
    let config = Config {
        state_dir: embedded::absolute(&global.state_dir)?,
        blob_url: args.blobs,
        lease,
        tls,
        fires_schedules: true,
        gc,
        openlineage,
        hook_allow,
    };
    ground::start(config, global.over, listener, http, stop).await?.wait().await?;
    Ok(ExitStatus::Done)
}

/// Reads where lineage is sent. An empty variable of the environment asks for nothing.
fn lineage_target(args: &CoordinatorArgs) -> Result<Option<Target>, Error> {
    let Some(url) = args.openlineage.as_deref().filter(|url| !url.is_empty()) else { return Ok(None) };
    let key = std::env::var("OPENLINEAGE_API_KEY").ok().filter(|key| !key.is_empty());
    Target::new(url, &args.openlineage_namespace, key).map(Some).map_err(|e| {
        Error::usage(format!("`--openlineage` is not usable: {e}"))
            .hint("give the address of a catalogue, such as http://marquez:5000")
    })
}

/// Reads where webhooks may go.
fn hook_allow(entries: &[String]) -> Result<HookAllow, Error> {
    HookAllow::new(entries.iter().map(String::as_str)).map_err(|e| {
        Error::usage(format!("`--hook-allow`: {e}"))
            .hint("such as hooks.example.com, *.example.com, 192.0.2.7 or 10.0.0.0/8")
    })
}

/// Binds an address; one that others can reach needs TLS or a word that it does not.
pub async fn bind(address: SocketAddr, open_allowed: bool) -> Result<TcpListener, Error> {
    if !address.ip().is_loopback() && !open_allowed {
        return Err(Error::usage(format!("{address} can be reached from other machines, and TLS is off"))
            .hint("give --tls-cert and --tls-key, or say --insecure if the network is trusted"));
    }
    TcpListener::bind(address).await.map_err(|e| {
        Error::internal(format!("cannot listen on {address}: {e}"))
            .hint("is another coordinator there? choose another port")
    })
}

/// Binds the address of `--http`; none where it is `off`.
pub async fn bind_http(text: &str, open_allowed: bool) -> Result<Option<TcpListener>, Error> {
    if text == "off" {
        return Ok(None);
    }
    let address = text
        .parse()
        .map_err(|e| Error::usage(format!("`--http {text}`: {e}")).hint("HOST:PORT with an IP address, or `off`"))?;
    bind(address, open_allowed).await.map(Some)
}

fn lease(seconds: f64) -> Result<Duration, Error> {
    // Shorter than this, an ordinary pause of a busy machine would look like a lost worker.
    if !(0.3..=3_600.0).contains(&seconds) {
        return Err(Error::usage(format!("`--lease {seconds}` is not between 0.3 and 3600 seconds")));
    }
    Ok(Duration::from_secs_f64(seconds))
}

/// Reads a file of the command line.
pub fn read(path: &Path) -> Result<Vec<u8>, Error> {
    std::fs::read(path).map_err(|e| Error::usage(format!("cannot read {}: {e}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_kept_for_an_age_or_for_ever_and_of_a_log_some_at_least() {
        assert_eq!(keep_events("30d"), Ok(KeepEvents(Some(GcConfig::EVENTS_FOR))), "the default");
        assert_eq!(keep_events("forever"), Ok(KeepEvents(None)));
        assert_eq!(log_limit("64MiB"), Ok(segue_coordinator::logs::LIMIT), "the default");
        assert!(log_limit("1KiB").is_err_and(|why| why.contains("64KiB")));
        assert!(keep_events("30").is_err_and(|why| why.contains("90d")) && keep_events("0d").is_err());
    }
}
