//! Peers that do not speak gRPC as they should: bytes of other protocols, frames that break HTTP/2, messages that are no
//! messages, silence. Every one costs its own connection or call, and nothing else.

use std::{net::SocketAddr, time::Duration};

use bytes::{Buf as _, BufMut as _, Bytes};
use segue_proto::{
    MAX_MESSAGE_BYTES,
    v1::{self, worker_event::Event},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::mpsc,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Code, Request, Status,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    codegen::http::uri::PathAndQuery,
};

use crate::{
    hostile::resident_bytes,
    stranger::{Stranger, World, event, hello},
    support::{PATIENCE, Random},
    thorough,
};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

mod kind {
    pub const DATA: u8 = 0;
    pub const HEADERS: u8 = 1;
    pub const RST_STREAM: u8 = 3;
    pub const SETTINGS: u8 = 4;
    pub const PING: u8 = 6;
    pub const GOAWAY: u8 = 7;
    pub const WINDOW_UPDATE: u8 = 8;
    pub const CONTINUATION: u8 = 9;
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(9 + payload.len());
    bytes.extend_from_slice(&u32::try_from(payload.len()).unwrap().to_be_bytes()[1..]);
    bytes.extend_from_slice(&[kind, flags]);
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// A header field without compression: a new name and its value.
fn field(name: &str, value: &str) -> Vec<u8> {
    let mut bytes = vec![0];
    for text in [name, value] {
        assert!(text.len() < 127, "longer texts need more than one byte of length");
        bytes.push(u8::try_from(text.len()).unwrap());
        bytes.extend_from_slice(text.as_bytes());
    }
    bytes
}

/// The headers of a call.
fn call(path: &str) -> Vec<u8> {
    let fields = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        ("te", "trailers"),
        ("content-type", "application/grpc"),
    ];
    fields.iter().flat_map(|(name, value)| field(name, value)).collect()
}

/// A connection that has said the preface and its settings.
async fn open(address: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(&[PREFACE, &frame(kind::SETTINGS, 0, 0, &[])].concat()).await.unwrap();
    stream
}

/// Pours the same bytes until the coordinator takes no more, and says how many it took. What it says is read meanwhile,
/// as a peer would that means to keep it busy.
async fn pour(stream: TcpStream, piece: &[u8], most: usize) -> usize {
    let (mut read, mut write) = stream.into_split();
    let drain = tokio::spawn(async move {
        let mut buffer = vec![0; 64 * 1024];
        while matches!(read.read(&mut buffer).await, Ok(1..)) {}
    });
    let mut poured = 0;
    while poured < most && !drain.is_finished() {
        if write.write_all(piece).await.is_err() {
            break;
        }
        poured += piece.len();
    }
    drain.abort();
    poured
}

/// Reads until the coordinator closes the connection.
async fn closed(mut stream: TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut bytes)).await.expect("the connection is closed");
    let _ = read; // A reset closes it as well.
    bytes
}

#[tokio::test]
async fn bytes_of_other_protocols_are_turned_away() {
    let world = World::new().await;
    let tls = [&[22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3][..], &[7; 512]].concat();
    let mut random = Random::new(1);
    let noise: Vec<u8> = (0..4_096).map(|_| random.next().to_le_bytes()[0]).collect();
    for bytes in [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(), b"\x00\x00\x00\x00".repeat(64), tls, noise] {
        let mut stream = TcpStream::connect(world.host.address).await.unwrap();
        stream.write_all(&bytes).await.unwrap();
        closed(stream).await;
    }
    // And the other door.
    for bytes in [b"\0\r\n\r\n".repeat(64), [b"GET /".to_vec(), vec![b'x'; 1 << 20]].concat()] {
        let mut stream = TcpStream::connect(world.host.http).await.unwrap();
        let _ = stream.write_all(&bytes).await;
        closed(stream).await;
    }
    world.close().await;
}

#[tokio::test]
async fn the_coordinator_says_its_limits_and_breaks_off_with_those_who_pass_them() {
    let world = World::new().await;
    // Its settings: identifiers of two bytes, values of four.
    let mut stream = open(world.host.address).await;
    let mut head = [0; 9];
    stream.read_exact(&mut head).await.unwrap();
    assert_eq!(head[3], kind::SETTINGS);
    let mut settings = vec![0; usize::from(head[2])];
    stream.read_exact(&mut settings).await.unwrap();
    let value = |wanted: u16| {
        let found = settings.chunks(6).find(|pair| (&pair[..2]).get_u16() == wanted);
        found.map(|pair| (&pair[2..]).get_u32())
    };
    assert_eq!(value(3), Some(1_024), "calls at a time");
    assert_eq!(value(6), Some(32 * 1_024), "bytes of headers");
    drop(stream);

    // Each of these is a breach of the protocol, or an attack that has a name.
    let cases: [(&str, Vec<u8>); 6] = [
        ("data of no stream", frame(kind::DATA, 0, 0, b"x")),
        ("a frame without end", [vec![0xff, 0xff, 0xff, kind::DATA, 0, 0, 0, 0, 1], vec![0; 1 << 16]].concat()),
        ("a window that overflows", frame(kind::WINDOW_UPDATE, 0, 0, &0x7fff_ffff_u32.to_be_bytes())),
        ("a stream of even number", frame(kind::HEADERS, 5, 2, &call("/x"))),
        ("headers that are no headers", frame(kind::HEADERS, 5, 1, &[0xff; 64])),
        ("settings of a stream", frame(kind::SETTINGS, 0, 1, &[])),
    ];
    for (what, bytes) in cases {
        let mut stream = open(world.host.address).await;
        stream.write_all(&bytes).await.unwrap();
        let said = closed(stream).await;
        assert!(said.len() < 1 << 16, "{what}");
    }
    world.close().await;
}

#[tokio::test]
async fn floods_of_frames_are_cut_off_or_cost_nothing() {
    let world = World::new().await;
    let before = resident_bytes();
    let most = 48 << 20;
    // Headers that never end.
    let mut stream = open(world.host.address).await;
    stream.write_all(&frame(kind::HEADERS, 0, 1, &call("/segue.v1.RunService/ListRuns"))).await.unwrap();
    let more: Vec<u8> = (0..60).flat_map(|n| field(&format!("x-{n}"), &"y".repeat(100))).collect();
    let taken = pour(stream, &frame(kind::CONTINUATION, 0, 1, &more), most).await;
    assert!(taken < most, "headers without end were read on and on");
    // Calls that are taken back at once, again and again.
    let mut streams = (1..).step_by(2);
    let mut poured = 0;
    let stream = open(world.host.address).await;
    let (mut read, mut write) = stream.into_split();
    let drain = tokio::spawn(async move {
        let mut buffer = vec![0; 64 * 1024];
        while matches!(read.read(&mut buffer).await, Ok(1..)) {}
    });
    let headers = call("/segue.v1.RunService/ListRuns");
    while poured < 200_000 && !drain.is_finished() {
        let mut bytes = Vec::new();
        for _ in 0..100 {
            let stream = streams.next().unwrap();
            bytes.extend(frame(kind::HEADERS, 4, stream, &headers));
            bytes.extend(frame(kind::RST_STREAM, 0, stream, &8_u32.to_be_bytes()));
        }
        poured += 100;
        if write.write_all(&bytes).await.is_err() {
            break;
        }
    }
    assert!(poured < 200_000, "calls that are taken back at once were taken on and on");
    // Pings and settings have to be answered; whoever reads the answers may send them. They must not pile up.
    for bytes in [frame(kind::PING, 0, 0, &[7; 8]), frame(kind::SETTINGS, 0, 0, &[0, 4, 0, 1, 0, 0])] {
        pour(open(world.host.address).await, &bytes.repeat(1_000), 2 << 20).await;
    }
    let grown = resident_bytes().saturating_sub(before);
    assert!(grown < 200 << 20, "{grown} bytes more than before");
    let _ = kind::GOAWAY;
    world.close().await;
}

/// Sends bytes as they are, where a message should be.
#[derive(Debug, Clone, Default)]
struct Plain;

impl Codec for Plain {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Plain {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(item);
        Ok(())
    }
}

impl Decoder for Plain {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
    }
}

/// Gives the path of every method of our services, from the descriptors that the coordinator itself reflects.
fn methods() -> Vec<String> {
    let set = <prost_types::FileDescriptorSet as prost::Message>::decode(segue_proto::DESCRIPTORS).unwrap();
    let mut methods = Vec::new();
    for file in &set.file {
        for service in &file.service {
            for method in &service.method {
                methods.push(format!("/{}.{}/{}", file.package(), service.name(), method.name()));
            }
        }
    }
    methods
}

/// Makes bytes that are noise, or fields that a message might have, cut or with wild lengths and numbers.
fn payload(random: &mut Random) -> Bytes {
    let mut bytes = Vec::new();
    let fields = random.below(6);
    for _ in 0..fields {
        let number = random.below(12) + 1;
        let wire = [0, 1, 2, 2, 2, 5, 3, 7][usize::try_from(random.below(8)).unwrap()];
        prost::encoding::encode_varint(number << 3 | wire, &mut bytes);
        match wire {
            0 => prost::encoding::encode_varint(random.next() >> random.below(64), &mut bytes),
            2 => {
                let text = ["latest", "run_", "a", "../../x", "\u{0}", "{\"a\":", "*", "99999999999"];
                let text = text[usize::try_from(random.below(8)).unwrap()];
                let length = if random.below(8) == 0 { random.next() } else { text.len() as u64 };
                prost::encoding::encode_varint(length, &mut bytes);
                bytes.extend_from_slice(text.as_bytes());
            }
            _ => bytes.extend_from_slice(&random.next().to_le_bytes()),
        }
    }
    if random.below(4) == 0 {
        bytes.extend((0..random.below(64)).map(|_| random.next().to_le_bytes()[0]));
    }
    bytes.into()
}

#[tokio::test]
async fn bytes_that_are_no_message_of_a_method_are_answered_with_an_error_or_as_nothing_special() {
    let world = World::new().await;
    let methods = methods();
    assert!(methods.len() > 40, "{methods:?}");
    let rounds = if thorough() { 400 } else { 12 };
    let mut random = Random::new(7);
    let mut codes = std::collections::BTreeMap::new();
    for method in methods {
        for _ in 0..rounds {
            let mut client = tonic::client::Grpc::new(world.client.channel.clone());
            client.ready().await.unwrap();
            let path = PathAndQuery::try_from(method.as_str()).unwrap();
            let body = tokio_stream::iter([payload(&mut random)]);
            let answer = client.streaming(Request::new(body), path, Plain);
            // A stream that follows what happens goes on until it is dropped.
            let code = match tokio::time::timeout(Duration::from_millis(500), answer).await {
                Ok(Ok(answer)) => {
                    let first = tokio::time::timeout(Duration::from_millis(50), answer.into_inner().message()).await;
                    first.map_or(Code::Ok, |first| first.err().map_or(Code::Ok, |status| status.code()))
                }
                Ok(Err(status)) => {
                    assert!(status.message().len() < 4_096, "{method}: a long message");
                    status.code()
                }
                Err(_) => Code::DeadlineExceeded,
            };
            *codes.entry(format!("{code:?}")).or_insert(0) += 1;
            assert!(!matches!(code, Code::Unimplemented), "{method} is not there");
        }
    }
    assert!(codes.contains_key("InvalidArgument") && codes.len() > 2, "{codes:?}");
    world.close().await;
}

#[tokio::test]
async fn a_message_above_the_limit_is_refused_with_both_sizes() {
    let world = World::new().await;
    let text = "#".repeat(MAX_MESSAGE_BYTES + 1);
    let refused = world.client.runs().submit(v1::SubmitRequest { text, ..Default::default() }).await.unwrap_err();
    assert_eq!(refused.code(), Code::OutOfRange, "{refused}");
    assert!(refused.message().contains(&MAX_MESSAGE_BYTES.to_string()), "{refused}");
    let too_long = event(Event::Hello(hello(&"x".repeat(MAX_MESSAGE_BYTES), "a1")));
    let refused = Stranger::open(&world.client, too_long).await.err().unwrap();
    assert!(refused.message().contains(&MAX_MESSAGE_BYTES.to_string()), "{refused}");
    // Within an open link it ends the link, and nothing else.
    let mut stranger = Stranger::connect(&world.client, "w").await;
    let message = "x".repeat(MAX_MESSAGE_BYTES);
    stranger.say(Event::Progress(v1::Progress { message, ..v1::Progress::default() })).await;
    stranger.end().await;
    world.close().await;
}

#[tokio::test]
async fn a_connection_without_a_word_and_a_link_without_a_hello_are_cut_off() {
    let world = World::new().await;
    let silent = TcpStream::connect(world.host.address).await.unwrap();
    let mut halting = TcpStream::connect(world.host.address).await.unwrap();
    halting.write_all(&PREFACE[..10]).await.unwrap();
    let (_up, outgoing) = mpsc::channel::<v1::WorkerMessage>(1);
    let mut workers = world.client.workers();
    let link = workers.connect(ReceiverStream::new(outgoing));
    let (refused, ..) = tokio::join!(tokio::time::timeout(PATIENCE, link), closed(silent), closed(halting));
    let refused = refused.expect("the link without a hello ends").expect_err("it is refused");
    assert_eq!(refused.code(), Code::DeadlineExceeded);
    assert!(refused.message().contains("hello"), "{refused}");
    world.close().await;
}
