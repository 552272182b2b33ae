//! The thread that starts runners.
//!
//! Linux ends a child with its parent *thread*, not process (`PR_SET_PDEATHSIG`). The threads of an async runtime come
//! and go, so runners are started from one thread that lives as long as the worker.

use std::{io, sync::mpsc};

use tokio::{
    process::{Child, Command},
    runtime::Handle,
    sync::oneshot,
};

type Order = (Command, oneshot::Sender<io::Result<Child>>);

/// Starts child processes on behalf of others. The thread ends when this is dropped.
#[derive(Debug)]
pub struct Spawner {
    orders: mpsc::Sender<Order>,
}

impl Spawner {
    /// Starts the thread. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// If the system refuses a thread.
    pub fn start() -> io::Result<Self> {
        let (orders, inbox) = mpsc::channel::<Order>();
        let runtime = Handle::current();
        std::thread::Builder::new().name("segue-spawner".into()).spawn(move || {
            let _inside = runtime.enter();
            for (mut command, reply) in inbox {
                // Nobody may wait any more; the child is then killed when it is dropped.
                let _ = reply.send(command.spawn());
            }
        })?;
        Ok(Self { orders })
    }

    /// Starts a child process.
    ///
    /// # Errors
    /// Those of the system.
    pub async fn spawn(&self, command: Command) -> io::Result<Child> {
        let gone = || io::Error::other("the thread that starts runners is gone");
        let (reply, answer) = oneshot::channel();
        self.orders.send((command, reply)).map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }
}
