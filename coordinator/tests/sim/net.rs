//! The network: connections of bytes between hosts and the coordinator, with delay, loss in one direction or both, and
//! hosts that vanish. TCP keeps the order within a connection; between connections there is none.

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, ReadHalf, WriteHalf},
    sync::{mpsc, watch},
};
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint, Uri};

use crate::{chance::Chance, say, trace::Trace};

/// Bytes that are on their way in one direction of a connection.
const WINDOW: usize = 64 * 1024;
const CHUNK: usize = 16 * 1024;
/// How often a connection is probed.
const PROBE: Duration = Duration::from_secs(3);

/// A direction, as the coordinator is seen from the hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    Up,
    Down,
}

pub type Accepted = Result<DuplexStream, io::Error>;

#[derive(Debug, Clone)]
pub struct Net {
    state: Arc<Mutex<State>>,
    /// Grows when something is cut or healed.
    changed: Arc<watch::Sender<u64>>,
    trace: Trace,
}

#[derive(Debug)]
struct State {
    listener: Option<mpsc::UnboundedSender<Accepted>>,
    cut: BTreeMap<(String, Way), u32>,
    /// What is added to every delay of a host, in microseconds.
    slow: BTreeMap<String, u64>,
    connections: Vec<Connection>,
    next: u64,
    chance: Chance,
}

#[derive(Debug)]
struct Connection {
    host: String,
    /// Both ends see a reset.
    reset: CancellationToken,
    /// Nothing arrives any more, and nobody is told.
    dark: CancellationToken,
}

impl Net {
    pub fn new(seed: u64, trace: Trace) -> Self {
        let state = State {
            listener: None,
            cut: BTreeMap::new(),
            slow: BTreeMap::new(),
            connections: Vec::new(),
            next: 1,
            chance: Chance::of(seed, "net"),
        };
        Self { state: Arc::new(Mutex::new(state)), changed: Arc::new(watch::channel(0).0), trace }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self) {
        self.changed.send_modify(|count| *count += 1);
    }

    /// Listens for the coordinator. What listened before hears nothing more.
    pub fn listen(&self) -> mpsc::UnboundedReceiver<Accepted> {
        let (sender, receiver) = mpsc::unbounded_channel();
        self.state().listener = Some(sender);
        receiver
    }

    /// Refuses connections from now on.
    pub fn stop_listening(&self) {
        self.state().listener = None;
    }

    /// Ends every connection of a host, or of all. `told`: the other end sees a reset; else it sees silence.
    pub fn break_all(&self, host: Option<&str>, told: bool) {
        let mut state = self.state();
        state.connections.retain(|connection| {
            if host.is_some_and(|host| host != connection.host) {
                return true;
            }
            if told {
                connection.reset.cancel()
            } else {
                connection.dark.cancel()
            }
            // What is dark already may still be reset later.
            !told
        });
    }

    /// Cuts a way of a host. Cuts add up.
    pub fn cut(&self, host: &str, way: Way) {
        *self.state().cut.entry((host.to_owned(), way)).or_default() += 1;
        self.tell();
    }

    /// Takes one cut back.
    pub fn heal(&self, host: &str, way: Way) {
        if let Some(cuts) = self.state().cut.get_mut(&(host.to_owned(), way)) {
            *cuts = cuts.saturating_sub(1);
        }
        self.tell();
    }

    pub fn slow(&self, host: &str, by_us: u64) {
        self.state().slow.insert(host.to_owned(), by_us);
    }

    /// Takes back every fault that is not an event of its own.
    pub fn calm(&self) {
        let mut state = self.state();
        state.cut.clear();
        state.slow.clear();
        drop(state);
        self.tell();
    }

    fn is_cut(&self, host: &str, way: Way) -> bool {
        self.state().cut.get(&(host.to_owned(), way)).is_some_and(|cuts| *cuts > 0)
    }

    async fn until_open(&self, host: &str, way: Way) {
        let mut changed = self.changed.subscribe();
        while self.is_cut(host, way) {
            if changed.changed().await.is_err() {
                return;
            }
        }
    }

    fn delay(&self, host: &str) -> Duration {
        let mut state = self.state();
        let slow = state.slow.get(host).copied().unwrap_or(0);
        let usual = if state.chance.percent(2) {
            state.chance.between(2_000, 60_000)
        } else {
            state.chance.delay_us(80, 2_500)
        };
        let slow = if slow == 0 { 0 } else { state.chance.between(0, slow) };
        Duration::from_micros(usual + slow)
    }

    async fn connect(self, host: String) -> io::Result<TokioIo<DuplexStream>> {
        tokio::time::sleep(self.delay(&host)).await;
        self.until_open(&host, Way::Up).await;
        self.until_open(&host, Way::Down).await;
        let (near, far_near) = tokio::io::duplex(WINDOW);
        let (far_far, far) = tokio::io::duplex(WINDOW);
        let (number, reset, dark) = {
            let mut state = self.state();
            let refused = || io::Error::new(io::ErrorKind::ConnectionRefused, "nobody listens");
            state.listener.as_ref().ok_or_else(refused)?.send(Ok(far)).map_err(|_| refused())?;
            let number = state.next;
            state.next += 1;
            let (reset, dark) = (CancellationToken::new(), CancellationToken::new());
            state.connections.retain(|connection| !connection.reset.is_cancelled());
            state.connections.push(Connection { host: host.clone(), reset: reset.clone(), dark: dark.clone() });
            (number, reset, dark)
        };
        say!(self.trace, host, "connection {number} opens");
        let (from_near, to_near) = tokio::io::split(far_near);
        let (from_far, to_far) = tokio::io::split(far_far);
        for (way, from, to) in [(Way::Up, from_near, to_far), (Way::Down, from_far, to_near)] {
            let pipe =
                Pipe { net: self.clone(), host: host.clone(), number, way, dark: dark.clone(), reset: reset.clone() };
            tokio::spawn(pipe.carry(from, to));
        }
        Ok(TokioIo::new(near))
    }

    /// Gives a channel from a host to the coordinator that connects at its first call.
    pub fn channel(&self, host: &str, connect_timeout: Duration) -> Channel {
        self.endpoint(connect_timeout).connect_with_connector_lazy(self.connector(host))
    }

    /// Gives the endpoint, as workers and clients have it: the connection itself is probed.
    pub fn endpoint(&self, connect_timeout: Duration) -> Endpoint {
        Endpoint::from_static("http://coordinator")
            .connect_timeout(connect_timeout)
            .http2_keep_alive_interval(PROBE)
            .keep_alive_timeout(PROBE)
            .keep_alive_while_idle(true)
    }

    pub fn connector(
        &self,
        host: &str,
    ) -> impl tower::Service<
        Uri,
        Response = TokioIo<DuplexStream>,
        Error = io::Error,
        Future = impl Future<Output = io::Result<TokioIo<DuplexStream>>> + Send,
    > + Clone
    + Send
    + 'static {
        let (net, host) = (self.clone(), host.to_owned());
        tower::service_fn(move |_: Uri| net.clone().connect(host.clone()))
    }
}

struct Pipe {
    net: Net,
    host: String,
    number: u64,
    way: Way,
    dark: CancellationToken,
    reset: CancellationToken,
}

impl Pipe {
    /// Carries bytes until one end closes or the connection breaks.
    async fn carry(self, mut from: ReadHalf<DuplexStream>, mut to: WriteHalf<DuplexStream>) {
        let mut buffer = vec![0_u8; CHUNK];
        loop {
            let read = tokio::select! {
                biased;
                () = self.reset.cancelled() => return,
                read = from.read(&mut buffer) => read.unwrap_or(0),
            };
            if self.dark.is_cancelled() {
                // Swallowed. Who closes his end is rid of it; who waits, waits until he gives up.
                if read == 0 {
                    break;
                }
                continue;
            }
            let travel = async {
                tokio::time::sleep(self.net.delay(&self.host)).await;
                self.net.until_open(&self.host, self.way).await;
            };
            tokio::select! {
                biased;
                () = self.reset.cancelled() => return,
                () = self.dark.cancelled() => continue,
                () = travel => {}
            }
            self.net.trace.count(&[self.number, self.way as u64, read as u64]);
            if read == 0 {
                break;
            }
            let delivered = tokio::select! {
                biased;
                () = self.reset.cancelled() => return,
                () = self.dark.cancelled() => continue,
                delivered = to.write_all(&buffer[..read]) => delivered,
            };
            if delivered.is_err() {
                // The other end is gone: this one learns it by a reset.
                self.reset.cancel();
                return;
            }
        }
        let _ = to.shutdown().await;
    }
}
