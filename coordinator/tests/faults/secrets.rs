//! Secrets: canaries that the coordinator must never see, or never keep. Values of secret references of tasks live on
//! workers alone; those of hooks are in the environment of the coordinator. Neither shows up in the store, the feed, the
//! logs that it writes itself, the metrics, or any answer.

use prost::Message as _;
use segue_coordinator::store::Store as _;
use segue_proto::v1;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tracing::{
    Event, Metadata, Subscriber,
    field::{Field, Visit},
    span::{Attributes, Id, Record},
};

use crate::{stranger::World, support::workload::settled};

const CANARY: &str = "canary-6b1f0c";
/// What the references of the pipeline resolve to: in the environment of the process that plays the coordinator, and by
/// accident in that of its worker too.
const SECRETS: [(&str, &str); 4] = [
    ("SEGUE_HOOK_URL", "http://127.0.0.1:9/canary-6b1f0c-url"),
    ("SEGUE_HOOK_KEY", "whsec_Y2FuYXJ5LTZiMWYwYy1rZXktb2Ytc2lnbmF0dXJlcw=="),
    ("SEGUE_HOOK_TOKEN", "canary-6b1f0c-token"),
    ("CRM_TOKEN", "canary-6b1f0c-crm"),
];

/// Set in the process that plays.
const PLAYS: &str = "SEGUE_TEST_SECRETS";

const PIPELINE: &str = r#"
[pipeline]
name = "discreet"
[params]
customer = { type = "string", default = "acme" }
[tasks.a]
command = ["ok"]
env     = { TOKEN = { secret = "env:CRM_TOKEN" }, PLAIN = "shown" }
[tasks.b]
command = ["fails"]
after   = ["a"]
retry   = { attempts = 1 }
env     = { TOKEN = { secret = "env:CRM_TOKEN" } }
[[hooks]]
on      = ["failure"]
webhook = { secret = "env:SEGUE_HOOK_URL" }
secret  = { secret = "env:SEGUE_HOOK_KEY" }
headers = { Authorization = { secret = "env:SEGUE_HOOK_TOKEN" } }
retry   = { attempts = 2, initial = "1ms", max = "1ms", jitter = 0.0 }
[[hooks]]
on      = ["failure"]
command = ["notify"]
env     = { TOKEN = { secret = "env:CRM_TOKEN" } }
"#;

/// Looks for a text in bytes, also where a number of bytes lies between its letters as UTF-16 has them.
fn holds(bytes: &[u8], text: &str) -> bool {
    let wide: Vec<u8> = text.bytes().flat_map(|byte| [byte, 0]).collect();
    let finds = |wanted: &[u8]| bytes.windows(wanted.len()).any(|window| window == wanted);
    finds(text.as_bytes()) || finds(&wide)
}

/// Gives everything that a client can ask for, as bytes, each with the name of the answer.
async fn answers(world: &World) -> Vec<(String, Vec<u8>)> {
    let client = &world.client;
    let mut all = Vec::new();
    let mut add = |name: &str, bytes: Vec<u8>| all.push((name.to_owned(), bytes));
    for run in client.all_runs().await {
        add("run", run.encode_to_vec());
        for task in client.tasks(&run.run_id).await {
            add("task", task.encode_to_vec());
            for attempt in &task.attempts {
                add("log", client.log(&run.run_id, &task.name, attempt.attempt).await.0);
            }
        }
        let request = v1::ExplainRequest { run_id: run.run_id.clone(), task: String::new() };
        add("explain", client.runs().explain(request).await.unwrap().into_inner().encode_to_vec());
        let request = v1::RerunRequest { run_id: run.run_id, failed: true, dry_run: true, ..Default::default() };
        add("rerun", client.runs().rerun(request).await.unwrap().into_inner().encode_to_vec());
    }
    for event in client.all_events().await {
        add("event", event.encode_to_vec());
    }
    let workers = client.fleet().describe_workers(v1::DescribeWorkersRequest::default()).await.unwrap();
    add("workers", workers.into_inner().encode_to_vec());
    let pipelines = client.maintenance().list_pipelines(v1::ListPipelinesRequest {}).await.unwrap();
    add("pipelines", pipelines.into_inner().encode_to_vec());
    let cache = client.maintenance().list_cache(v1::ListCacheRequest::default()).await.unwrap();
    add("cache", cache.into_inner().encode_to_vec());
    add("status", client.admin().get_status(v1::GetStatusRequest {}).await.unwrap().into_inner().encode_to_vec());
    let mut http = tokio::net::TcpStream::connect(world.host.http).await.unwrap();
    http.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut metrics = Vec::new();
    http.read_to_end(&mut metrics).await.unwrap();
    add("metrics", metrics);
    all
}

/// Keeps everything that is logged, field by field.
#[derive(Clone, Default)]
struct Ears(std::sync::Arc<std::sync::Mutex<Vec<u8>>>);

impl Visit for Ears {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.0.lock().unwrap().extend_from_slice(format!("{field}={value:?}\n").as_bytes());
    }
}

impl Subscriber for Ears {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        span.record(&mut self.clone());
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, values: &Record<'_>) {
        values.record(&mut self.clone());
    }

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        event.record(&mut self.clone());
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

#[test]
fn no_secret_is_in_the_store_in_an_answer_in_a_file_or_in_what_is_logged() {
    if std::env::var_os(PLAYS).is_none() {
        let name = "secrets::no_secret_is_in_the_store_in_an_answer_in_a_file_or_in_what_is_logged";
        let mut play = std::process::Command::new(std::env::current_exe().unwrap());
        play.args([name, "--exact", "--nocapture"]).env(PLAYS, "1").envs(SECRETS);
        let played = play.output().unwrap();
        let said = [played.stdout, played.stderr].concat();
        assert!(played.status.success(), "{}", String::from_utf8_lossy(&said));
        assert!(said.windows(8).any(|window| window == b"1 passed"), "it was not played");
        return;
    }
    let ears = Ears::default();
    tracing::subscriber::set_global_default(ears.clone()).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(play(&ears));
}

async fn play(ears: &Ears) {
    let world = World::new().await;
    let worker = world.worker("w");
    let request = v1::SubmitRequest { text: PIPELINE.to_owned(), path: "/p.toml".to_owned(), ..Default::default() };
    let answer = world.client.runs().submit(request).await.unwrap().into_inner();
    assert!(!answer.run_id.is_empty(), "{:?}", answer.diagnostics);
    world.ended(&answer.run_id).await;
    settled(&world.client, Some(&*world.store)).await;
    let events = world.client.all_events().await;
    let gave_up = events.iter().any(|event| event.kind() == v1::EventKind::HookGaveUp);
    assert!(gave_up, "the webhook with the secrets was never tried");
    let rows = world.store.scan(&[], None, usize::MAX).unwrap();
    let answers = answers(&world).await;
    let heard = ears.0.lock().unwrap().clone();
    // The references are everywhere, so that looking finds what is there.
    assert!(rows.iter().any(|(_, value)| holds(value, "env:CRM_TOKEN")), "the search finds nothing at all");
    assert!(holds(&heard, "coordinator serving"), "nothing was heard");
    let values = SECRETS.iter().flat_map(|(_, value)| [*value, value.trim_start_matches("whsec_")]).chain([CANARY]);
    for value in values {
        for (key, row) in &rows {
            let name = segue_coordinator::store::keys::describe(key);
            assert!(!holds(row, value) && !holds(key, value), "a secret is in the record {name}");
        }
        for (name, bytes) in &answers {
            assert!(!holds(bytes, value), "a secret is in the answer {name}");
        }
        for file in crate::stranger::files(&world.state()) {
            assert!(!holds(&std::fs::read(&file).unwrap(), value), "a secret is in {}", file.display());
        }
        assert!(!holds(&heard, value), "a secret is in what is logged");
    }
    worker.kill().await;
    world.close().await;
}

#[tokio::test]
async fn a_secret_that_a_worker_lets_slip_is_what_the_worker_must_redact_and_a_param_is_shown() {
    // What comes from a worker as text is shown as it is: the coordinator does not know the values. This test pins the
    // line between the two, so that nobody takes the one for the other.
    let world = World::new().await;
    let worker = world.worker("w");
    let run = world.submit("[params]\nopen = { type = \"string\", default = \"shown\" }\n[tasks.a]\ncommand = [\"ok\", \"${params.open}\"]\n").await;
    world.ended(&run).await;
    let view = world.client.run(&run).await;
    assert_eq!(view.params["open"], "shown");
    // A secret in clear is refused where it can be seen to be one.
    let text = "[pipeline]\nname = \"p\"\n[tasks.a]\ncommand = [\"ok\"]\nenv = { T = { secret = \"hunter2\" } }\n";
    let request = v1::SubmitRequest { text: text.to_owned(), ..v1::SubmitRequest::default() };
    let answer = world.client.runs().submit(request).await.unwrap().into_inner();
    assert!(answer.run_id.is_empty() && !answer.diagnostics.is_empty());
    worker.kill().await;
    world.close().await;
}
