//! A relay on a loopback address of its own, between one worker and the coordinator: it gives the worker its own way, and
//! a test can cut that way and mend it.

use std::{
    io,
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

/// Carries bytes both ways until it is dropped.
#[derive(Debug)]
pub struct Relay {
    address: SocketAddr,
    state: Arc<State>,
}

#[derive(Debug, Default)]
struct State {
    cut: AtomicBool,
    ended: AtomicBool,
    open: Mutex<Vec<TcpStream>>,
}

impl Relay {
    /// Listens at `ip` on a free port and carries to `target`.
    ///
    /// # Panics
    /// If the address cannot be used.
    #[must_use]
    pub fn start(ip: Ipv4Addr, target: SocketAddr) -> Self {
        let listener = TcpListener::bind((ip, 0)).unwrap_or_else(|e| panic!("cannot listen at {ip}: {e}"));
        let address = listener.local_addr().expect("a bound listener has an address");
        let state = Arc::new(State::default());
        let shared = Arc::clone(&state);
        thread::spawn(move || {
            for stream in listener.incoming() {
                if shared.ended.load(Ordering::SeqCst) {
                    return;
                }
                if let Ok(stream) = stream
                    && !shared.cut.load(Ordering::SeqCst)
                {
                    // A coordinator that is away refuses: the worker sees its connection close and comes again.
                    let _ = shared.carry(stream, target);
                }
            }
        });
        Self { address, state }
    }

    /// Gives the address that the worker connects to.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Breaks every connection and lets no new one through. Gives how many were open.
    pub fn cut(&self) -> usize {
        self.state.cut.store(true, Ordering::SeqCst);
        self.state.close()
    }

    /// Lets connections through again.
    pub fn mend(&self) {
        self.state.cut.store(false, Ordering::SeqCst);
    }
}

impl State {
    fn carry(&self, near: TcpStream, target: SocketAddr) -> io::Result<()> {
        let far = TcpStream::connect(target)?;
        near.set_nodelay(true)?;
        far.set_nodelay(true)?;
        {
            let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
            open.push(near.try_clone()?);
            open.push(far.try_clone()?);
        }
        // A cut between the check and here must not miss this connection.
        if self.cut.load(Ordering::SeqCst) {
            self.close();
        }
        one_way(near.try_clone()?, far.try_clone()?);
        one_way(far, near);
        Ok(())
    }

    /// Closes both ends of every connection, and gives how many were open: those that had ended are closed already.
    fn close(&self) -> usize {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let ends = open.drain(..).filter(|stream| stream.shutdown(Shutdown::Both).is_ok()).count();
        ends.div_ceil(2)
    }
}

fn one_way(mut from: TcpStream, mut to: TcpStream) {
    thread::spawn(move || {
        let _ = io::copy(&mut from, &mut to);
        // HTTP/2 has no use for half a connection.
        let _ = from.shutdown(Shutdown::Both);
        let _ = to.shutdown(Shutdown::Both);
    });
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.state.ended.store(true, Ordering::SeqCst);
        self.cut();
        // Wakes the thread that accepts.
        let _ = TcpStream::connect(self.address);
    }
}
