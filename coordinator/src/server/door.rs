//! The doors of the server: how many connections there are, and how long one may stay without saying anything.
//!
//! HTTP/2 looks after a connection that has spoken: pings find out who is gone. What it does not look after is a peer that
//! connects and says nothing, or one byte a minute, and any number of them. Memory stays bounded by the number of
//! connections times what one may hold.

use std::{
    fs, io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use futures::Stream;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, Sleep},
};
use tonic::{
    Request, Status,
    transport::server::{Connected, TlsConnectInfo},
};
use tracing::warn;

/// gRPC connections at a time: some thousand workers, and the people who watch them.
pub const MOST_GRPC: usize = 4_096;

/// HTTP connections at a time: a probe and a scrape take one each.
pub const MOST_HTTP: usize = 256;

/// Calls of one connection at a time. A worker has one link and some uploads.
pub const MOST_CALLS: u32 = 1_024;

/// Bytes of all headers of one call.
pub const MOST_HEADERS: u32 = 32 * 1024;

/// How long a peer may take from connecting to its first call, or to the preface of HTTP/2 where there is no TLS.
pub const FIRST_WORD: Duration = Duration::from_secs(10);

/// How long an HTTP connection may go on after the last answer, whatever the peer sends meanwhile.
pub const NEXT_REQUEST: Duration = Duration::from_secs(75);

/// What every HTTP/2 connection begins with has so many bytes.
const PREFACE: u32 = 24;

/// How long to wait when the system has no more sockets to give: asking again at once would only burn a core.
const NO_SOCKETS: Duration = Duration::from_millis(200);

/// A connection with a time limit and a place among all of them.
#[derive(Debug)]
pub struct Guarded<S> {
    stream: S,
    limit: Limit,
    alarm: Pin<Box<Sleep>>,
    /// Freed with the connection.
    _place: OwnedSemaphorePermit,
}

/// When a connection has taken too long.
#[derive(Debug)]
enum Limit {
    /// Until it has spoken.
    Opening { spoke: Arc<AtomicBool>, needed: Option<u32> },
    /// After each answer.
    Between(Duration),
}

/// What a call knows of its connection: where to note that it has spoken.
#[derive(Debug, Clone)]
pub struct Peer {
    spoke: Arc<AtomicBool>,
}

impl<S> Guarded<S> {
    fn opening(stream: S, tls: bool, place: OwnedSemaphorePermit) -> Self {
        let limit = Limit::Opening {
            spoke: Arc::default(),
            // Under TLS only a call shows that the handshake is over.
            needed: if tls { None } else { Some(PREFACE) },
        };
        Self { stream, limit, alarm: Box::pin(tokio::time::sleep(FIRST_WORD)), _place: place }
    }

    fn between(stream: S, time: Duration, place: OwnedSemaphorePermit) -> Self {
        Self { stream, limit: Limit::Between(time), alarm: Box::pin(tokio::time::sleep(time)), _place: place }
    }

    /// Says whether the time is up, and has the task woken when it is.
    fn is_late(&mut self, cx: &mut Context<'_>) -> bool {
        if let Limit::Opening { spoke, .. } = &self.limit
            && spoke.load(Ordering::Acquire)
        {
            return false;
        }
        self.alarm.as_mut().poll(cx).is_ready()
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Guarded<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        if let Poll::Ready(Ok(())) = &read
            && let Limit::Opening { spoke, needed: Some(needed) } = &mut self.limit
        {
            let got = u32::try_from(buf.filled().len() - before).unwrap_or(u32::MAX);
            *needed = needed.saturating_sub(got);
            if *needed == 0 {
                spoke.store(true, Ordering::Release);
            }
        }
        // Also when something came: a byte now and then must not hold a place.
        if self.is_late(cx) {
            return Poll::Ready(Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "the peer took too long to say something",
            )));
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Guarded<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.answered(&written);
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.answered(&written);
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl<S> Guarded<S> {
    fn spoke(&self) -> Arc<AtomicBool> {
        match &self.limit {
            Limit::Opening { spoke, .. } => Arc::clone(spoke),
            Limit::Between(_) => Arc::default(),
        }
    }

    /// Gives the peer time for its next request, once something went out.
    fn answered(&mut self, written: &Poll<io::Result<usize>>) {
        if let (Limit::Between(time), Poll::Ready(Ok(1..))) = (&self.limit, written) {
            let until = Instant::now() + *time;
            self.alarm.as_mut().reset(until);
        }
    }
}

impl Connected for Guarded<TcpStream> {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        Peer { spoke: self.spoke() }
    }
}

/// Notes that the connection of a call has spoken; for every call, before it is looked at.
///
/// # Errors
/// None: the signature is that of an interceptor.
#[allow(clippy::unnecessary_wraps, clippy::result_large_err)] // The signature is tonic's.
pub fn spoke(request: Request<()>) -> Result<Request<()>, Status> {
    let extensions = request.extensions();
    let peer =
        extensions.get::<Peer>().or_else(|| extensions.get::<TlsConnectInfo<Peer>>().map(TlsConnectInfo::get_ref));
    if let Some(peer) = peer {
        peer.spoke.store(true, Ordering::Release);
    }
    Ok(request)
}

/// Counts connections, and turns away those that are too many.
#[derive(Debug)]
struct Places {
    what: &'static str,
    most: usize,
    free: Arc<Semaphore>,
    turned_away: AtomicU64,
}

impl Places {
    fn new(what: &'static str, most: usize) -> Self {
        let most = most.min(sockets().saturating_mul(3) / 4).max(1);
        Self { what, most, free: Arc::new(Semaphore::new(most)), turned_away: AtomicU64::new(0) }
    }

    /// Gives a place, or none when all are taken. The first that is turned away is told of, and then every thousandth.
    fn take(&self, peer: SocketAddr) -> Option<OwnedSemaphorePermit> {
        let place = Arc::clone(&self.free).try_acquire_owned().ok();
        if place.is_none() {
            let before = self.turned_away.fetch_add(1, Ordering::Relaxed);
            if before.is_multiple_of(1_000) {
                warn!(%peer, most = self.most, turned_away = before + 1, "too many {} connections: turned away", self.what);
            }
        }
        place
    }
}

/// Gives how many files and sockets the system lets this process have.
fn sockets() -> usize {
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(usize::MAX)
}

/// Gives the next connection that finds a place. An error of the system is waited out, never given back: a server that
/// ends because there were no sockets for a moment is worse than one that waits.
async fn next(listener: &TcpListener, places: &Places) -> (TcpStream, SocketAddr, OwnedSemaphorePermit) {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                // Small messages after small messages: without this, delayed acknowledgements cost 40 ms a step.
                let _ = stream.set_nodelay(true);
                if let Some(place) = places.take(peer) {
                    return (stream, peer, place);
                }
            }
            Err(e) if is_of_peer(&e) => {}
            Err(e) => {
                warn!(error = %e, "no {} connection can be taken: waiting", places.what);
                tokio::time::sleep(NO_SOCKETS).await;
            }
        }
    }
}

/// Says whether an error is that of one connection, which was gone before it was taken.
fn is_of_peer(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

/// Gives the connections of the gRPC server.
pub fn grpc(listener: TcpListener, tls: bool, most: usize) -> impl Stream<Item = io::Result<Guarded<TcpStream>>> {
    let places = Places::new("gRPC", most);
    futures::stream::unfold((listener, places), move |(listener, places)| async move {
        let (stream, _, place) = next(&listener, &places).await;
        Some((Ok(Guarded::opening(stream, tls, place)), (listener, places)))
    })
}

/// The connections of the HTTP server.
#[derive(Debug)]
pub struct Http {
    listener: TcpListener,
    places: Places,
    time: Duration,
}

impl Http {
    /// Guards a listener.
    #[must_use]
    pub fn new(listener: TcpListener, most: usize, time: Duration) -> Self {
        Self { listener, places: Places::new("HTTP", most), time }
    }
}

impl axum::serve::Listener for Http {
    type Io = Guarded<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Guarded<TcpStream>, SocketAddr) {
        let (stream, peer, place) = next(&self.listener, &self.places).await;
        (Guarded::between(stream, self.time, place), peer)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

#[cfg(test)]
#[path = "door_tests.rs"]
mod tests;
