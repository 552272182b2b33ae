//! A web server that takes what hooks send, and answers as a test tells it to.

use std::{
    collections::{BTreeMap, VecDeque},
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use serde_json::Value;

use crate::wait::until;

/// A request that came.
#[derive(Debug, Clone)]
pub struct Delivery {
    pub path: String,
    /// By name in lower case.
    pub headers: BTreeMap<String, String>,
    pub body: String,
    /// 0: none yet.
    pub answered: u16,
}

impl Delivery {
    /// Reads the body.
    ///
    /// # Panics
    /// If it is not JSON.
    #[must_use]
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("not JSON ({e}): {}", self.body))
    }

    /// Gives a header.
    ///
    /// # Panics
    /// If it did not come.
    #[must_use]
    #[track_caller]
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).unwrap_or_else(|| panic!("no header `{name}` in {:?}", self.headers))
    }
}

/// Listens on a loopback port until it is dropped.
#[derive(Debug)]
pub struct Receiver {
    address: SocketAddr,
    state: Arc<State>,
}

#[derive(Debug, Default)]
struct State {
    answers: Mutex<Answers>,
    changed: Condvar,
    got: Mutex<Vec<Delivery>>,
    ended: AtomicBool,
}

#[derive(Debug, Default)]
struct Answers {
    /// Of the next requests; then `always`.
    next: VecDeque<u16>,
    /// 0: no answer until there is one.
    always: u16,
}

impl Receiver {
    /// Starts one that takes everything.
    ///
    /// # Panics
    /// If no port is free.
    #[must_use]
    pub fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a loopback port is free");
        let address = listener.local_addr().expect("a bound listener has an address");
        let state = Arc::new(State::default());
        state.set(|answers| answers.always = 200);
        let shared = Arc::clone(&state);
        thread::spawn(move || {
            for stream in listener.incoming() {
                if shared.ended.load(Ordering::SeqCst) {
                    return;
                }
                if let Ok(stream) = stream {
                    let shared = Arc::clone(&shared);
                    thread::spawn(move || shared.serve(stream));
                }
            }
        });
        Self { address, state }
    }

    /// Gives the address of a path.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Answers the next requests with these numbers.
    pub fn answer_next(&self, numbers: &[u16]) {
        self.state.set(|answers| answers.next.extend(numbers));
    }

    /// Answers every other request with this number, also those that wait.
    pub fn answer(&self, number: u16) {
        self.state.set(|answers| answers.always = number);
    }

    /// Takes requests and does not answer them, until it is told to.
    pub fn hang(&self) {
        self.answer(0);
    }

    /// Gives every request so far, in the order of their arrival.
    #[must_use]
    pub fn got(&self) -> Vec<Delivery> {
        self.state.got.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until so many requests have been answered, and gives every request so far.
    ///
    /// # Panics
    /// If they do not come.
    #[track_caller]
    pub fn wait_answered(&self, count: usize) -> Vec<Delivery> {
        until(&format!("{count} answered requests"), || {
            let got = self.got();
            (got.iter().filter(|delivery| delivery.answered > 0).count() >= count).then_some(got)
        })
    }
}

impl State {
    fn set(&self, change: impl FnOnce(&mut Answers)) {
        change(&mut self.answers.lock().unwrap_or_else(PoisonError::into_inner));
        self.changed.notify_all();
    }

    fn serve(&self, stream: TcpStream) {
        let Ok(mut writer) = stream.try_clone() else { return };
        let mut reader = BufReader::new(stream);
        while let Ok(Some(delivery)) = request(&mut reader) {
            let place = {
                let mut got = self.got.lock().unwrap_or_else(PoisonError::into_inner);
                got.push(delivery);
                got.len() - 1
            };
            let number = self.answer();
            let head = format!("HTTP/1.1 {number} Told\r\nContent-Length: 0\r\n\r\n");
            // One that went away has no answer.
            if writer.write_all(head.as_bytes()).and_then(|()| writer.flush()).is_err() {
                return;
            }
            if let Some(delivery) = self.got.lock().unwrap_or_else(PoisonError::into_inner).get_mut(place) {
                delivery.answered = number;
            }
        }
    }

    /// Waits until there is an answer to give.
    fn answer(&self) -> u16 {
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(number) = answers.next.pop_front() {
                return number;
            }
            if answers.always > 0 {
                return answers.always;
            }
            answers = self.changed.wait(answers).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// Reads a request; nothing at the end of the connection.
fn request(reader: &mut BufReader<TcpStream>) -> io::Result<Option<Delivery>> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let length = headers.get("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    Ok(Some(Delivery { path, headers, body: String::from_utf8_lossy(&body).into_owned(), answered: 0 }))
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.state.ended.store(true, Ordering::SeqCst);
        self.answer(503);
        // Wakes the thread that accepts.
        let _ = TcpStream::connect(self.address);
    }
}
