//! Secrets end to end: pipelines that use them everywhere, commands that tell them on purpose, and a search for them in
//! every byte that the cluster leaves and says.
//!
//! Every other end-to-end test has secrets in its environment too, and is searched when its cluster ends (see
//! `segue_tests::canary`).
#![allow(clippy::unwrap_used)]

use std::{fs, path::Path, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use segue_proto::v1::{AttemptState, RunState, TaskState};
use segue_tests::{
    Cli, TestCluster, WorkerPlan,
    canary::{self, Searcher},
    cluster::{attempts, task},
    process::Process,
    receiver::Receiver,
    tables, until, values,
};
use sha2::{Digest as _, Sha256};

/// Long enough that no pause of a busy machine looks like a lost worker; nothing waits for it.
const LEASE: Duration = Duration::from_secs(20);

/// A value of each way in which the product is given secrets.
struct Secrets {
    /// Of tasks: a variable of the worker.
    token: String,
    /// Of tasks: one with several lines.
    key: String,
    /// In the address of a webhook, of its receiver's token, and of the catalogue of lineage.
    path: String,
    header: String,
    password: String,
    /// Under the signature of webhooks, as base64.
    signing: String,
}

impl Secrets {
    fn new() -> Self {
        let line = || canary::secret().replace(['+', '/', '='], "x");
        let key = format!("-----BEGIN PRIVATE KEY-----\n{}\n{}\n-----END PRIVATE KEY-----\n", line(), line());
        let signing = STANDARD.encode(&canary::secret().as_bytes()[..32]);
        let (path, password) = (line(), line());
        Self { token: canary::secret(), key, path, header: canary::secret(), password, signing }
    }

    fn searcher(&self) -> Searcher {
        let lines = self.key.lines().filter(|line| !line.starts_with('-')).map(|line| ("key", line));
        let raw = [
            ("token", &self.token),
            ("path", &self.path),
            ("header", &self.header),
            ("password", &self.password),
            ("signing", &self.signing),
        ];
        Searcher::new(lines.chain(raw.map(|(name, value)| (name, value.as_str()))))
    }
}

/// A task that tells its secrets in every form that programs are wont to use, and in the end a part of one.
const TELLS: &str = r#"
echo "raw $TOKEN and again $TOKEN" >&2
printf '%s' "$TOKEN" | base64
printf 'user:%s' "$TOKEN" | base64 -w 0; echo
printf '%s' "$TOKEN" | od -An -v -tx1 | tr -d ' \n'; echo
printf '%s' "$TOKEN" | od -An -v -tx1 | tr -d ' \n' | tr a-f A-F; echo
printf '%s' "$TOKEN" | sed 's,+,%2B,g; s,/,%2F,g; s,=,%3D,g'; echo
printf '%s' "$TOKEN" | sed 's,+,%2b,g; s,/,%2f,g; s,=,%3d,g'; echo
printf '{"token":"%s"}\n' "$TOKEN"
echo "$KEY"
echo "$KEY" | sed 's/^/  2: /'
printf 'in two pieces: %s' "$(printf '%s' "$TOKEN" | head -c 17)"
sleep 0.4
printf '%s\n' "$(printf '%s' "$TOKEN" | tail -c +18)"
echo it has told everything
printf '%s' "$TOKEN" | head -c 20
"#;

fn pipeline(receiver: &Receiver) -> String {
    let env = "env = { TOKEN = { secret = \"env:CRM_TOKEN\" }, KEY = { secret = \"env:CRM_KEY\" } }";
    format!(
        r#"
[pipeline]
name = "discreet"
[params]
customer = {{ type = "string", default = "acme" }}
[tasks.ready]
sensor = {{ http = "{url}", status = 200, every = "1s" }}
[tasks.digests]
command = ["sh", "-c", '''
printf '%s' "$TOKEN" | sha256sum | cut -c 1-64 > $SEGUE_OUTPUT_DIR/token
printf '%s' "$KEY" | sha256sum | cut -c 1-64 > $SEGUE_OUTPUT_DIR/key''']
outputs = ["token", "key"]
cache   = true
{env}
[tasks.tells]
command = ["sh", "-c", '''{TELLS}''']
after   = ["ready"]
{env}
[tasks.operates]
op   = "core.sleep"
with = {{ seconds = 0.01 }}
{env}
[tasks.fails]
command = ["sh", "-c", 'echo "cannot use $TOKEN" >&2; [ -e go ]']
retry   = {{ attempts = 2, initial = "1ms", max = "1ms", on = ["user"] }}
{env}
[tasks.after]
command = ["true"]
after   = ["fails"]
when    = "params.customer == 'acme'"
[tasks.decides]
command = ["sh", "-c", 'printf "[\"%s\"]" "$TOKEN" > $SEGUE_OUTPUT_DIR/items']
outputs = {{ items = "json" }}
{env}
[tasks.each]
command = ["echo", "${{item}}"]
foreach = {{ output = "decides.items" }}
[tasks.keeps]
command = ["sh", "-c", 'printf "%s" "$TOKEN" > $SEGUE_OUTPUT_DIR/own']
outputs = ["own"]
{env}
[tasks.stranger]
command = ["sh", "-c", "echo $$ > stranger; until [ -e seen ]; do sleep 0.05; done"]
[[hooks]]
on      = ["failure"]
webhook = {{ secret = "env:SEGUE_HOOK_URL" }}
secret  = {{ secret = "env:SEGUE_HOOK_KEY" }}
headers = {{ Authorization = {{ secret = "env:SEGUE_HOOK_TOKEN" }} }}
retry   = {{ attempts = 3, initial = "10ms", max = "10ms" }}
[[hooks]]
on      = ["failure"]
command = ["sh", "-c", 'echo "tells $TOKEN"']
{env}
"#,
        url = receiver.url("/ready"),
    )
}

/// Starts a cluster that says everything it can say.
fn loud(secrets: &Secrets, receiver: &Receiver, catalogue: &Receiver) -> TestCluster {
    let webhook = receiver.url(&format!("/{}?token={}", secrets.path, secrets.path));
    let lineage = catalogue.url("/").replace("http://", &format!("http://robot:{}@", secrets.password));
    let env = [
        ("SEGUE_LOG", "trace"),
        ("SEGUE_HOOK_URL", &webhook),
        ("SEGUE_HOOK_KEY", &secrets.signing),
        ("SEGUE_HOOK_TOKEN", &secrets.header),
        ("SEGUE_OPENLINEAGE_URL", &lineage),
    ];
    TestCluster::start_with(LEASE, &[], &env)
}

/// Says everything that a user can ask of a run.
fn ask_everything(cli: &Cli, run: &str) -> Vec<String> {
    let mut said = Vec::new();
    let questions: [&[&str]; 14] = [
        &["show", run],
        &["show", run, "-o", "json"],
        &["explain", run],
        &["runs", "-o", "json"],
        &["events", "-o", "json"],
        &["events"],
        &["events", "--openlineage"],
        &["logs", run],
        &["artifacts", "list", run, "-o", "json"],
        &["rerun", run, "--failed", "--dry-run", "-o", "json"],
        &["workers", "list", "-o", "json"],
        &["cache", "list", "-o", "json"],
        &["pipelines", "list", "-o", "json"],
        &["watch", run, "-vv"],
    ];
    for question in questions {
        let answer = cli.run(question);
        assert!(answer.code < 2, "{question:?}: {}", answer.stderr);
        said.extend([answer.stdout, answer.stderr]);
    }
    said
}

#[test]
fn a_pipeline_that_uses_secrets_everywhere_leaves_none_and_commands_that_tell_them_are_masked() {
    let secrets = Secrets::new();
    let searcher = secrets.searcher();
    let (receiver, catalogue) = (Receiver::start(), Receiver::start());
    let mut cluster = loud(&secrets, &receiver, &catalogue);
    let worker = WorkerPlan::new("only").cpu(8.0).env("CRM_TOKEN", &secrets.token).env("CRM_KEY", &secrets.key);
    let worker = worker.env("SEGUE_LOG", "trace");
    cluster.add_worker(&worker);
    let cli = cluster.cli().env("SEGUE_LOG", "trace");
    let mut follow = cli.command(["events", "-f", "-o", "json"]);
    let follower = Process::start("follower", &mut follow, &cluster.dir().join("follower.log"));
    receiver.answer_next(&[503]);
    let file = cluster.pipeline("discreet", &pipeline(&receiver));
    let run = cluster.submit(&file, &[]);

    // A command has the secrets that it asks for and no others.
    let dir = cluster.dir().to_owned();
    let stranger = until("a command without secrets", || {
        fs::read_to_string(dir.join("stranger")).ok().filter(|pid| pid.ends_with('\n'))
    });
    let environment = fs::read(format!("/proc/{}/environ", stranger.trim())).unwrap();
    assert!(String::from_utf8_lossy(&environment).contains("SEGUE_TASK=stranger"), "it is the one");
    assert_eq!(searcher.find(&environment), None);
    assert_eq!(Searcher::canaries().find(&environment), None);
    let arguments = fs::read(format!("/proc/{}/cmdline", stranger.trim())).unwrap();
    assert_eq!(searcher.find(&arguments), None);
    fs::write(dir.join("seen"), "").unwrap();

    let view = cluster.wait_ended(&run);
    assert_eq!(view.state(), RunState::Failed);
    assert_eq!(attempts(&view, "fails"), [AttemptState::Failed, AttemptState::Failed]);
    for done in ["digests", "tells", "operates", "keeps", "stranger"] {
        assert_eq!(task(&view, done).state(), TaskState::Succeeded, "{done}: {:?}", task(&view, done).failure);
    }

    // They were really there.
    let sha =
        |text: &str| format!("{}\n", Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect::<String>());
    let told = |name: &str| String::from_utf8(tables::bytes(&cli, &run, name, &dir)).unwrap();
    assert_eq!(told("digests.token"), sha(&secrets.token));
    assert_eq!(told("digests.key"), sha(&secrets.key));

    // What a command tells is masked, in every form, and the rest of it is there.
    let log = cli.ok(["logs", &run, "tells"]).stdout;
    let lines: Vec<&str> = log.lines().collect();
    for whole in ["raw *** and again ***", "{\"token\":\"***\"}", "in two pieces: ***", "it has told everything"] {
        assert!(lines.contains(&whole), "{whole}: {log}");
    }
    assert!(lines.iter().filter(|line| **line == "***").count() >= 5 && lines.last() == Some(&"***"), "{log}");

    // What decides how a run goes on is stored with it: a secret is refused there, without being told.
    let refused = task(&view, "decides").failure.clone().unwrap();
    assert!(refused.message.contains("`items`") && refused.message.contains("value of a secret"), "{refused:?}");
    assert_eq!(task(&view, "each").state(), TaskState::UpstreamFailed);

    // The hooks were tried with their secrets.
    let hooks = |got: Vec<segue_tests::receiver::Delivery>| -> Vec<_> {
        got.into_iter().filter(|one| one.path != "/ready" && one.answered == 200).collect()
    };
    let got = until("the webhook arrives", || Some(hooks(receiver.got())).filter(|got| !got.is_empty()));
    assert!(got[0].path.contains(&secrets.path) && got[0].header("authorization") == secrets.header);
    assert!(!got[0].header("webhook-signature").is_empty());
    until("lineage arrives", || catalogue.got().into_iter().find(|one| one.headers.contains_key("authorization")));
    let hook_run = until("the command hook", || {
        let runs = cli.json(["runs", "--pipeline", "discreet-hooks"]);
        values::list(&runs, "").first().map(|run| values::text(run, "run").to_owned())
    });
    cluster.wait_succeeded(&hook_run);
    assert_eq!(cli.ok(["logs", &hook_run]).stdout.matches("tells ***").count(), 1);

    // Reruns, results from the cache, and a second run.
    fs::write(dir.join("go"), "").unwrap();
    assert_eq!(cli.run(["rerun", &run, "--only", "fails", "--only", "after"]).code, 1, "one task still fails");
    assert_eq!(attempts(&cluster.run(&run), "fails").len(), 3);
    let again = cluster.submit(&file, &[]);
    cluster.wait_ended(&again);
    assert!(task(&cluster.run(&again), "digests").cached);

    let mut said = ask_everything(&cli, &run);
    said.extend(ask_everything(&cli, &again));
    said.extend(ask_everything(&cli, &hook_run));
    assert!(said.concat().contains("env:CRM_TOKEN") || said.concat().contains("discreet"), "something was said");
    for (at, text) in said.iter().enumerate() {
        assert_eq!(searcher.find(text.as_bytes()), None, "answer {at}: {text}");
    }
    let metrics = canary::metrics(cluster.http_address()).expect("there are metrics");
    assert_eq!(searcher.find(&metrics), None);

    // What was kept, at rest and in a backup.
    let (backup, restored) = (dir.join("backup"), dir.join("restored"));
    cli.ok(["store".as_ref(), "backup".as_ref(), backup.as_os_str()]);
    cli.ok(["store".as_ref(), "restore".as_ref(), backup.as_os_str(), restored.as_os_str()]);
    drop(follower);
    cluster.kill_worker("only");
    assert_eq!(cluster.stop_coordinator().code(), Some(0));
    let traced = cluster.dir().join("coordinator.log");
    assert!(fs::read_to_string(traced).unwrap().contains("TRACE"), "traces were written");
    assert!(fs::read_to_string(dir.join("worker-only.log")).unwrap().contains("TRACE"), "traces were written");

    // What a command puts into an artifact is the user's, byte for byte: that blob has the secret, and nothing else has.
    let own = tables::digests(&Cli::state_dir(&cluster.state_dir(), &dir), &run)["keeps.own"].clone();
    let (found, seen) = searcher.search(&dir, &|path| is_blob(path, &own));
    assert_eq!(found, Vec::<String>::new());
    assert!(seen > 100_000, "there was something to search: {seen}");
    let (found, _) = searcher.search(&dir, &|_| false);
    assert!(
        found.len() >= 3 && found.iter().all(|line| line.contains(&own)),
        "the search finds what is there: {found:?}"
    );
    assert!(canary::looks() > 0, "the command lines were looked at");
}

/// Says whether a file holds the bytes of a digest.
fn is_blob(path: &Path, digest: &str) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(digest))
}

#[test]
fn a_secret_where_it_would_be_stored_is_refused_or_warned_of() {
    let dir = tempfile::tempdir().unwrap();
    let cli = Cli::state_dir(&dir.path().join("state"), dir.path());
    let check = |task: &str| {
        let file = dir.path().join("p.toml");
        fs::write(&file, format!("[pipeline]\nname = \"p\"\n[tasks.a]\n{task}\n")).unwrap();
        cli.run(["validate".as_ref(), file.as_os_str()])
    };
    let env = "env = { T = { secret = \"env:CRM_TOKEN\" } }";
    check(&format!("command = [\"x\"]\n{env}\nwhen = \"env.T == 'x'\"")).refuses(2, &["env"]);
    check("op = \"core.sleep\"\nwith = { seconds = { secret = \"env:CRM_TOKEN\" } }").refuses(2, &["P028"]);
    check("command = [\"x\"]\nenv = { T = { secret = \"hunter2-hunter2\" } }").refuses(2, &["P028"]);
    for warned in [
        "sensor = { http = \"https://robot:hunter2@data.example.com/ready\" }",
        "command = [\"fetch\", \"https://data.example.com/?access_token=abc\"]",
        "command = [\"x\"]\nenv = { DATABASE = \"postgres://robot:hunter2@db/shop\" }",
        "command = [\"x\", \"--password=hunter2\"]",
    ] {
        let said = check(warned);
        assert!(said.code == 0 && said.stderr.contains("P041"), "{warned}: {} {}", said.stdout, said.stderr);
    }
}

#[test]
fn an_address_with_a_password_is_refused_and_not_repeated() {
    let dir = tempfile::tempdir().unwrap();
    let (state, password) = (dir.path().join("state"), canary::secret().replace(['+', '/', '='], "x"));
    let searcher = Searcher::new([("password", password.as_str())]);
    let server = Cli::state_dir(&state, dir.path()).env("SEGUE_SERVER", format!("http://robot:{password}@127.0.0.1:9"));
    let query = Cli::state_dir(&state, dir.path()).env("SEGUE_SERVER", format!("http://127.0.0.1:9/?token={password}"));
    for cli in [&server, &query] {
        for command in [&["runs"] as &[&str], &["worker", "--name", "w"]] {
            let said = cli.run(command);
            said.refuses(2, &["address of the coordinator"]);
            assert_eq!(searcher.find(format!("{}{}", said.stdout, said.stderr).as_bytes()), None, "{}", said.stderr);
        }
    }
    let blobs = format!("s3://key:{password}@bucket/prefix");
    let said = Cli::state_dir(&state, dir.path()).run([
        "coordinator",
        "--listen",
        "127.0.0.1:0",
        "--http",
        "off",
        "--blobs",
        &blobs,
    ]);
    said.refuses(3, &["AWS_ACCESS_KEY_ID"]);
    assert_eq!(searcher.find(said.stderr.as_bytes()), None, "{}", said.stderr);
}

#[test]
fn the_key_of_tls_is_in_no_file_and_no_answer() {
    let home = tempfile::tempdir().unwrap();
    let (key, cert) = (home.path().join("key.pem"), home.path().join("cert.pem"));
    let made = std::process::Command::new("openssl")
        .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"])
        .args(["-addext", "subjectAltName=IP:127.0.0.1", "-addext", "basicConstraints=critical,CA:FALSE", "-keyout"])
        .args([key.as_os_str(), "-out".as_ref(), cert.as_os_str()])
        .output();
    if !made.is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: no openssl to make a certificate with");
        return;
    }
    let pem = fs::read_to_string(&key).unwrap();
    let text: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
    // Decoded too: as bytes, it would be searched for in vain in the text.
    let der = STANDARD.decode(&text).unwrap();
    let lines = pem.lines().filter(|line| !line.starts_with('-') && line.len() > 12).map(|line| ("key", line));
    let searcher = Searcher::new(lines);

    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    let mut command = Cli::state_dir(&state, dir.path()).env("SEGUE_LOG", "trace").command([
        "coordinator".as_ref(),
        "--listen".as_ref(),
        "127.0.0.1:0".as_ref(),
        "--http".as_ref(),
        "off".as_ref(),
        "--tls-cert".as_ref(),
        cert.as_os_str(),
        "--tls-key".as_ref(),
        key.as_os_str(),
    ]);
    let coordinator = Process::start("coordinator", &mut command, &dir.path().join("coordinator.log"));
    let url = until("the address of the coordinator", || {
        let text = fs::read_to_string(state.join("coordinator.json")).ok()?;
        let value: serde_json::Value = serde_json::from_str(&text).ok()?;
        Some(value["address"].as_str()?.to_owned())
    });
    let cli = Cli::server(&url, dir.path()).env("SEGUE_CA_CERT", &cert).env("SEGUE_LOG", "trace");
    let said = cli.ok(["workers", "list", "-o", "json"]);
    assert!(said.stderr.contains("TRACE"), "it said what it could");
    assert_eq!(searcher.find(format!("{}{}", said.stdout, said.stderr).as_bytes()), None);
    drop(coordinator);
    let (found, seen) = searcher.search(dir.path(), &|_| false);
    assert!(found.is_empty() && seen > 10_000, "{found:?} in {seen} bytes");
    let piece = &der[der.len() / 2..der.len() / 2 + 16];
    let (mut looked_at, mut open) = (0, vec![dir.path().to_owned()]);
    while let Some(place) = open.pop() {
        for entry in fs::read_dir(place).unwrap().flatten() {
            if entry.path().is_dir() {
                open.push(entry.path());
            } else {
                let bytes = fs::read(entry.path()).unwrap();
                assert!(!bytes.windows(16).any(|window| window == piece), "{}", entry.path().display());
                looked_at += 1;
            }
        }
    }
    assert!(looked_at > 2, "there were files to look at");
}
