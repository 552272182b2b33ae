#![allow(clippy::unwrap_used)]

use std::net::Ipv4Addr;

use futures::StreamExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};

use super::*;

fn place() -> OwnedSemaphorePermit {
    Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap()
}

/// Gives a connection as the server has it, and the peer's end.
fn opened(tls: bool) -> (Guarded<DuplexStream>, DuplexStream) {
    let (server, peer) = duplex(1_024);
    (Guarded::opening(server, tls, place()), peer)
}

/// Lets the time of a connection be up.
fn wait_out(server: &mut Guarded<DuplexStream>) {
    server.alarm.as_mut().reset(Instant::now() - Duration::from_millis(50));
}

/// Says whether the end of the time ends a read.
async fn is_cut_off(server: &mut Guarded<DuplexStream>) -> bool {
    matches!(server.read_u8().await, Err(e) if e.kind() == io::ErrorKind::TimedOut)
}

#[tokio::test]
async fn a_peer_that_says_nothing_is_cut_off() {
    let (mut server, _peer) = opened(false);
    wait_out(&mut server);
    assert!(is_cut_off(&mut server).await);
}

#[tokio::test]
async fn one_byte_after_the_other_is_no_word() {
    let (mut server, mut peer) = opened(false);
    for _ in 0..PREFACE - 1 {
        peer.write_all(b"P").await.unwrap();
        server.read_u8().await.unwrap();
    }
    peer.write_all(b"P").await.unwrap();
    wait_out(&mut server);
    assert!(!is_cut_off(&mut server).await, "the last byte of the preface is the word");
    let (mut server, mut peer) = opened(false);
    peer.write_all(b"PR").await.unwrap();
    server.read_u8().await.unwrap();
    wait_out(&mut server);
    assert!(is_cut_off(&mut server).await, "although there is something to read");
}

#[tokio::test]
async fn whoever_has_spoken_may_be_silent() {
    let (mut server, mut peer) = opened(false);
    peer.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    server.read_exact(&mut [0; 24]).await.unwrap();
    wait_out(&mut server);
    assert!(futures::poll!(Box::pin(server.read_u8())).is_pending(), "nothing ends it");
}

#[tokio::test]
async fn under_tls_only_a_call_shows_that_a_peer_has_spoken() {
    let (mut server, mut peer) = opened(true);
    peer.write_all(&[22; 200]).await.unwrap();
    server.read_exact(&mut [0; 200]).await.unwrap();
    wait_out(&mut server);
    assert!(is_cut_off(&mut server).await);

    let (mut server, _peer) = opened(true);
    server.spoke().store(true, Ordering::Release);
    wait_out(&mut server);
    assert!(futures::poll!(Box::pin(server.read_u8())).is_pending());
}

#[tokio::test]
async fn an_http_connection_lives_on_its_answers_and_not_on_what_its_peer_sends() {
    let (server, mut peer) = duplex(1_024);
    let mut server = Guarded::between(server, Duration::from_secs(3_600), place());
    wait_out(&mut server);
    server.write_all(b"answer").await.unwrap();
    peer.write_all(b"GET").await.unwrap();
    server.read_exact(&mut [0; 3]).await.unwrap();
    peer.write_all(b" ").await.unwrap();
    wait_out(&mut server);
    assert!(is_cut_off(&mut server).await);
}

#[tokio::test]
async fn a_call_notes_that_its_connection_has_spoken() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let _peer = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let server = Box::pin(grpc(listener, true, 8)).next().await.unwrap().unwrap();
    let mut request = Request::new(());
    request.extensions_mut().insert(server.connect_info());
    spoke(request).unwrap();
    assert!(server.spoke().load(Ordering::Acquire));
}

#[tokio::test]
async fn those_that_are_too_many_are_turned_away_until_one_goes() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut incoming = Box::pin(grpc(listener, false, 2));
    let mut peers = Vec::new();
    for _ in 0..3 {
        peers.push(TcpStream::connect(address).await.unwrap());
    }
    let first = incoming.next().await.unwrap().unwrap();
    let _second = incoming.next().await.unwrap().unwrap();
    let mut third = peers.pop().unwrap();
    let waiting = tokio::spawn(async move { incoming.next().await.unwrap().unwrap() });
    assert_eq!(third.read(&mut [0; 1]).await.unwrap_or(0), 0, "the third is closed at once");
    drop(first);
    let _fourth = TcpStream::connect(address).await.unwrap();
    waiting.await.unwrap();
}

#[test]
fn the_limit_of_the_system_is_read_where_it_says_one() {
    assert!(sockets() > 0);
}
