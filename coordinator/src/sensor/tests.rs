#![allow(clippy::unwrap_used)]

use segue_proto::{store::v1 as stored, v1};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

use super::*;
use crate::{
    core::FIRST_CHILD,
    store::{Batch, Key, MemoryStore, testing},
};

struct Fixture {
    store: Arc<dyn Store>,
    http: reqwest::Client,
}

impl Fixture {
    fn new() -> Self {
        Self { store: Arc::new(MemoryStore::default()), http: client().unwrap() }
    }

    async fn look(&self, sensor: &Sensor, seen: Option<&str>) -> Probe {
        self.look_at(sensor, seen, 0, 0).await
    }

    async fn look_at(&self, sensor: &Sensor, seen: Option<&str>, since: UnixMillis, now: UnixMillis) -> Probe {
        let limit = Duration::from_secs(20);
        probe(sensor, &ProbeContext { store: &self.store, http: &self.http, now, since, seen, limit }).await
    }
}

fn why(probe: Probe) -> String {
    match probe {
        Probe::NotYet { why } => why,
        other => panic!("{other:?}"),
    }
}

fn fault(probe: Probe) -> String {
    match probe {
        Probe::Fault { message } => message,
        other => panic!("{other:?}"),
    }
}

/// Answers every request with the next of some lines, the last one for ever; gives its URL.
async fn server(heads: Vec<String>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let mut heads = heads.into_iter().peekable();
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0; 4_096];
            let _ = stream.read(&mut request).await;
            let head = if heads.len() > 1 { heads.next() } else { heads.peek().cloned() };
            let answer =
                format!("HTTP/1.1 {}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n", head.unwrap_or_default());
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    url
}

fn http(url: &str) -> Sensor {
    Sensor::Http { url: url.to_owned(), status: 200 }
}

#[tokio::test]
async fn a_file_is_waited_for_until_it_is_there() {
    let fixture = Fixture::new();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("done");
    let path = file.to_string_lossy().into_owned();
    let sensors = [Sensor::File { path: path.clone() }, Sensor::File { path: format!("file://{path}") }];
    for sensor in &sensors {
        assert!(why(fixture.look(sensor, None).await).contains("is not there"));
    }
    std::fs::write(&file, "12345").unwrap();
    for sensor in &sensors {
        assert!(matches!(fixture.look(sensor, None).await, Probe::Met { note } if note.contains("5 bytes")));
    }
}

#[tokio::test]
async fn a_url_is_waited_for_until_it_answers_as_it_should() {
    let fixture = Fixture::new();
    let url = server(vec!["503 Service Unavailable".into(), "404 Not Found".into(), "200 OK".into()]).await;
    assert!(why(fixture.look(&http(&url), None).await).contains("answers 503"));
    assert!(why(fixture.look(&http(&url), None).await).contains("answers 404"));
    assert!(matches!(fixture.look(&http(&url), None).await, Probe::Met { .. }));
    let teapot = Sensor::Http { url, status: 418 };
    assert!(why(fixture.look(&teapot, None).await).contains("answers 200, and not 418"));
}

#[tokio::test]
async fn an_answer_may_lead_to_another_url_but_to_no_file_and_not_for_ever() {
    let fixture = Fixture::new();
    let target = server(vec!["200 OK".into()]).await;
    let moved = server(vec![format!("302 Found\r\nlocation: {target}/there")]).await;
    assert!(matches!(fixture.look(&http(&moved), None).await, Probe::Met { .. }));
    let to_file = server(vec!["302 Found\r\nlocation: file:///etc/passwd".into()]).await;
    assert!(why(fixture.look(&http(&to_file), None).await).contains("answers 302"));
    let circle = server(vec!["302 Found\r\nlocation: /again".into()]).await;
    assert!(why(fixture.look(&http(&circle), None).await).contains("answers 302"));
}

#[tokio::test]
async fn nobody_who_answers_is_no_fault_and_no_secret_of_a_url_is_told() {
    let fixture = Fixture::new();
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let said = why(fixture.look(&http(&format!("http://user:hunter2@{gone}/x?token=hunter2")), None).await);
    assert!(said.contains(&gone.to_string()) && !said.contains("hunter2"), "{said}");
    // Connected, and then silence.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let sensor = http(&format!("http://{}", silent.local_addr().unwrap()));
    let limit = Duration::from_millis(50);
    let context = ProbeContext { store: &fixture.store, http: &fixture.http, now: 0, since: 0, seen: None, limit };
    assert!(why(probe(&sensor, &context).await).contains("no answer within 50 ms"));
}

#[tokio::test]
async fn a_moment_has_come_or_not() {
    const NOON: UnixMillis = 1_767_268_800_000; // 2026-01-01T12:00:00Z
    let fixture = Fixture::new();
    let time = |at: &str, timezone: &str| Sensor::Time { at: at.to_owned(), timezone: timezone.to_owned() };
    let instant = time("2026-01-01T12:00:00Z", "UTC");
    assert!(why(fixture.look_at(&instant, None, 0, NOON - 1).await).contains("2026-01-01T12:00:00Z"));
    assert!(matches!(fixture.look_at(&instant, None, 0, NOON).await, Probe::Met { .. }));
    // The next one since the wait began, which is tomorrow's where today's has passed.
    let daily = time("12:30", "Europe/Berlin");
    let until = why(fixture.look_at(&daily, None, NOON, NOON + 3_600_000).await);
    assert!(until.contains("2026-01-02T12:30:00+01:00"), "{until}");
    assert!(matches!(fixture.look_at(&daily, None, NOON - 7_200_000, NOON).await, Probe::Met { .. }));
}

#[tokio::test]
async fn an_artifact_is_waited_for_until_another_run_makes_another_one() {
    let fixture = Fixture::new();
    let sensor = Sensor::Artifact { pipeline: "demo".into(), task: "clean".into(), output: "orders".into() };
    assert!(why(fixture.look(&sensor, None).await).contains("nothing has made demo/clean.orders"));
    let made = |n: u32, bytes: &[u8]| {
        let run = testing::run(n);
        let view = v1::ArtifactView {
            run_id: run.to_string(),
            task: "clean".into(),
            output: "orders".into(),
            artifact: Some(testing::artifact(bytes)),
            ..Default::default()
        };
        let mut batch = Batch::new();
        let name = "demo".parse().unwrap();
        batch.put(&Key::PipelineRun { name, run }, &stored::PipelineRunRecord {});
        batch.put(&Key::Produced { run, task: 0, output: "orders".parse().unwrap() }, &view);
        fixture.store.apply(&batch).unwrap();
        view.artifact.unwrap().digest
    };
    let first = made(1, b"one");
    assert_eq!(fixture.look(&sensor, None).await, Probe::Met { note: first.clone() });
    assert!(why(fixture.look(&sensor, Some(&first)).await).contains("has not changed"));
    made(2, b"one");
    assert!(why(fixture.look(&sensor, Some(&first)).await).contains("has not changed"), "the same bytes again");
    let second = made(3, b"two");
    assert_eq!(fixture.look(&sensor, Some(&first)).await, Probe::Met { note: second });
    let other = Sensor::Artifact { pipeline: "demo".into(), task: "clean".into(), output: "products".into() };
    assert!(why(fixture.look(&other, None).await).contains("nothing has made"));
}

#[tokio::test]
async fn an_artifact_is_found_however_many_runs_of_others_came_since() {
    let fixture = Fixture::new();
    let sensor = Sensor::Artifact { pipeline: "demo".into(), task: "clean".into(), output: "orders".into() };
    let mut batch = Batch::new();
    let mut add = |pipeline: &str, n: u32, made: Option<(u32, &str)>| {
        let (run, name) = (testing::run(n), pipeline.parse().unwrap());
        batch.put(&Key::PipelineRun { name, run }, &stored::PipelineRunRecord {});
        let Some((task, bytes)) = made else { return };
        let view = v1::ArtifactView {
            task: "clean".into(),
            output: "orders".into(),
            artifact: Some(testing::artifact(bytes.as_bytes())),
            ..Default::default()
        };
        batch.put(&Key::Produced { run, task, output: "orders".parse().unwrap() }, &view);
    };
    add("demo", 1, Some((0, "old")));
    add("demo", 2, Some((0, "new")));
    // Newer runs of the same pipeline that did not come so far, and one whose child is no task of the pipeline.
    for n in 3..200 {
        add("demo", n, None);
    }
    add("demo", 200, Some((FIRST_CHILD, "of a child")));
    for n in 1_000..4_000 {
        add("demo-2", n, Some((0, "of another pipeline")));
    }
    fixture.store.apply(&batch).unwrap();
    let note = testing::artifact(b"new").digest;
    assert_eq!(fixture.look(&sensor, None).await, Probe::Met { note });
}

#[tokio::test]
async fn what_can_never_be_met_is_a_fault() {
    let fixture = Fixture::new();
    let cases = [
        (Sensor::File { path: "data/x.csv".into() }, "not absolute"),
        (Sensor::File { path: String::new() }, "empty"),
        (Sensor::File { path: "gopher://x/y".into() }, "no place of objects"),
        (http("ftp://x/y"), "http:// or https://"),
        (http("nonsense"), "is no URL"),
        (Sensor::Http { url: "http://x".into(), status: 9 }, "no status"),
        (Sensor::Time { at: "25:99".into(), timezone: "UTC".into() }, "time of day"),
        (Sensor::Time { at: "06:30".into(), timezone: "Europe/Berln".into() }, "time zone"),
        (Sensor::Artifact { pipeline: "A b".into(), task: "t".into(), output: "o".into() }, "pipeline name"),
    ];
    for (sensor, word) in cases {
        let message = fault(fixture.look(&sensor, None).await);
        assert!(message.contains(word), "{message}");
    }
}

#[test]
fn a_sensor_reads_back_as_it_was_written() {
    let sensor: Sensor = serde_json::from_str(r#"{"kind": "http", "url": "https://x/y"}"#).unwrap();
    assert_eq!(sensor, Sensor::Http { url: "https://x/y".into(), status: 200 });
    let text = serde_json::to_string(&sensor).unwrap();
    assert_eq!(serde_json::from_str::<Sensor>(&text).unwrap(), sensor);
    assert!(serde_json::from_str::<Sensor>(r#"{"kind": "file", "path": "/x", "size": 3}"#).is_err());
}
