use std::collections::BTreeMap;

use super::{
    super::{EnvValue, HookAction, Hooks, On, RunSpec, Webhook, bind},
    Code, catalogue, check, codes, good,
};

const BASE: &str = r#"
[pipeline]
name = "demo"
sla  = "2h"
[tasks.a]
command = ["true"]
"#;

fn hooks(text: &str) -> Hooks {
    good(&format!("{BASE}{text}")).hooks
}

fn webhook(text: &str) -> Webhook {
    match hooks(text).list.remove(0).action {
        HookAction::Webhook(webhook) => webhook,
        HookAction::Command(_) => panic!("a webhook was written"),
    }
}

fn faults(text: &str) -> Vec<Code> {
    codes(&format!("{BASE}{text}"))
}

#[test]
fn a_hook_says_when_and_what() {
    let hooks = hooks(
        r#"
[[hooks]]
on      = ["sla_miss", "failure", "failure"]
webhook = "https://hooks.example/x"
secret  = { secret = "env:SEGUE_HOOK_KEY" }
headers = { X-Team = "data", Authorization = { secret = "env:SEGUE_HOOK_TOKEN" } }
timeout = "3s"
retry   = { attempts = 5, initial = "50ms" }
[[hooks]]
on      = ["success", "cancelled"]
command = ["python3", "notify.py"]
env     = { TOKEN = { secret = "env:CRM" } }
"#,
    );
    assert_eq!(hooks.sla_ms, Some(7_200_000));
    assert_eq!(hooks.list[0].on, [On::Failure, On::SlaMiss], "each once");
    let HookAction::Webhook(webhook) = &hooks.list[0].action else { panic!("a webhook was written") };
    assert_eq!(webhook.url, EnvValue::Text("https://hooks.example/x".to_owned()));
    assert_eq!(webhook.secret.as_deref(), Some("env:SEGUE_HOOK_KEY"));
    assert_eq!(webhook.headers["x-team"], EnvValue::Text("data".to_owned()));
    assert_eq!(webhook.headers["authorization"], EnvValue::Secret("env:SEGUE_HOOK_TOKEN".to_owned()));
    assert_eq!((webhook.timeout_ms, webhook.retry.attempts, webhook.retry.initial_ms), (3_000, 5, 50));
    let HookAction::Command(command) = &hooks.list[1].action else { panic!("a command was written") };
    assert_eq!(command.argv, ["python3", "notify.py"]);
    assert_eq!(command.env["TOKEN"], EnvValue::Secret("env:CRM".to_owned()));
}

#[test]
fn a_webhook_is_tried_for_a_day_unless_it_says_otherwise_and_may_be_written_inline() {
    let plain = webhook("[[hooks]]\non = [\"failure\"]\nwebhook = { secret = \"env:SEGUE_HOOK_URL\" }\n");
    assert_eq!(plain.url, EnvValue::Secret("env:SEGUE_HOOK_URL".to_owned()));
    assert_eq!((plain.timeout_ms, plain.retry.attempts, plain.retry.max_ms), (10_000, 100, 3_600_000));
    let text = format!("hooks = [{{ on = [\"failure\"], webhook = \"https://x.example\" }}]\n{BASE}");
    assert_eq!(good(&text).hooks.list.len(), 1);
    assert!(good("[pipeline]\nname = \"p\"\n[tasks.a]\ncommand = [\"a\"]\n").hooks.is_empty());
}

#[test]
fn every_malformed_hook_is_refused() {
    let hook = |rest: &str| faults(&format!("[[hooks]]\non = [\"failure\"]\n{rest}\n"));
    let url = "webhook = \"https://x.example\"\n";
    for (rest, code) in [
        ("", Code::BadHook),
        ("webhook = \"https://x.example\"\ncommand = [\"a\"]", Code::BadHook),
        ("webhook = \"x.example\"", Code::BadHook),
        ("webhook = \"ftp://x.example\"", Code::BadHook),
        ("webhook = \"https://name:word@x.example\"", Code::BadHook),
        ("webhook = \"https://${params.host}/\"", Code::BadHook),
        ("webhook = 5", Code::WrongType),
        ("webhook = { secret = \"env:AWS_SECRET_ACCESS_KEY\" }", Code::BadSecret),
        ("webhook = { secret = \"env:SEGUE_HOOK_\" }", Code::BadSecret),
        ("command = []", Code::EmptyCommand),
        ("command = [\"echo\", \"${params.x}\"]", Code::BadReference),
        ("command = [\"echo\", \"${x}\"]", Code::BadReference),
        ("command = [\"a\"]\nsecret = { secret = \"env:SEGUE_HOOK_KEY\" }", Code::BadHook),
        ("command = [\"a\"]\nargs = []", Code::UnknownKey),
    ] {
        assert_eq!(hook(rest), [code], "{rest}");
    }
    for (rest, code) in [
        ("env = { A = \"b\" }", Code::BadHook),
        ("secret = \"c2VjcmV0\"", Code::BadSecret),
        ("secret = { secret = \"env:HOME\" }", Code::BadSecret),
        ("timeout = \"2m\"", Code::BadHook),
        ("timeout = 5", Code::WrongType),
        ("retry = { on = [\"infra\"] }", Code::BadHook),
        ("headers = { Host = \"x\" }", Code::BadHook),
        ("headers = { webhook-signature = \"v1,x\" }", Code::BadHook),
        ("headers = { \"a b\" = \"x\" }", Code::BadHook),
        ("headers = { A = \"x\\r\\nB: y\" }", Code::BadHook),
        ("headers = { A = { secret = \"env:PATH\" } }", Code::BadSecret),
    ] {
        assert_eq!(hook(&format!("{url}{rest}")), [code], "{rest}");
    }
    assert_eq!(faults("[[hooks]]\nwebhook = \"https://x.example\"\n"), [Code::MissingKey]);
    assert_eq!(faults("[[hooks]]\non = []\nwebhook = \"https://x.example\"\n"), [Code::BadHook]);
    assert_eq!(faults("[[hooks]]\non = [\"fail\"]\nwebhook = \"https://x.example\"\n"), [Code::BadHook]);
    assert_eq!(faults("[hooks]\non = [\"failure\"]\n"), [Code::WrongType]);
    let many = "[[hooks]]\non = [\"failure\"]\ncommand = [\"a\"]\n".repeat(33);
    assert_eq!(faults(&many), [Code::BadHook]);
}

#[test]
fn a_hook_for_late_runs_needs_a_time_after_which_they_are_late() {
    let without = BASE.replace("sla  = \"2h\"\n", "");
    let hook = "[[hooks]]\non = [\"sla_miss\"]\nwebhook = \"https://x.example\"\n";
    assert_eq!(codes(&format!("{without}{hook}")), [Code::BadHook]);
    assert_eq!(codes(&format!("{}{hook}", BASE.replace("2h", "2 hours"))), [Code::BadDuration], "one fault, told once");
}

#[test]
fn what_goes_over_the_network_in_clear_is_pointed_out() {
    let hook = |rest: &str| faults(&format!("[[hooks]]\non = [\"failure\"]\n{rest}\n"));
    assert_eq!(hook("webhook = \"http://alerts.example:9093/x\""), [Code::HookInClear]);
    for local in ["http://127.0.0.1:8080", "http://localhost/x", "http://[::1]/"] {
        assert_eq!(hook(&format!("webhook = \"{local}\"")), [], "{local}");
    }
    let header = "headers = { Authorization = { secret = \"env:SEGUE_HOOK_TOKEN\" } }";
    assert_eq!(hook(&format!("webhook = \"http://alerts.example\"\n{header}")), [Code::BadHook]);
    assert_eq!(hook(&format!("webhook = \"http://localhost\"\n{header}")), []);
    let clear = "webhook = \"https://x.example\"\nheaders = { Authorization = \"Bearer abc\" }";
    assert_eq!(hook(clear), [Code::SecretInClear]);
    assert_eq!(hook("command = [\"notify\", \"--token=abc\"]"), [Code::SecretInClear]);
}

#[test]
fn no_secret_stands_in_a_message() {
    let text = format!(
        "{BASE}[[hooks]]\non = [\"failure\"]\nwebhook = \"https://x.example\"\nsecret = {{ secret = \"hunter2hunter2\" }}\n"
    );
    for diagnostic in check(&text).diagnostics {
        assert!(!diagnostic.message.contains("hunter2") && !diagnostic.hint.unwrap_or_default().contains("hunter2"));
    }
}

#[test]
fn hooks_are_part_of_the_version_and_no_hooks_are_not() {
    let text = "[pipeline]\nname = \"demo\"\n[tasks.a]\ncommand = [\"true\"]\n";
    let plain = good(text);
    let hook = "[[hooks]]\non = [\"failure\"]\nwebhook = \"https://x.example\"\n";
    let hooked = good(&format!("{text}{hook}"));
    assert_ne!(plain.version(), hooked.version());
    assert_ne!(good(&format!("{text}{}", hook.replace("failure", "success"))).version(), hooked.version());
    assert_ne!(good(BASE).version(), plain.version());
    let json = serde_json::to_value(&plain).unwrap();
    assert!(json.get("hooks").is_none(), "as it was before there were hooks");
}

#[test]
fn a_bound_run_carries_its_hooks_and_one_stored_without_any_is_read() {
    let pipeline =
        good(&format!("{BASE}[[hooks]]\non = [\"failure\"]\ncommand = [\"sh\", \"-c\", \"echo $${{HOME}}\"]\n"));
    let bound = bind(&pipeline, &catalogue(), &BTreeMap::new(), "", false).unwrap();
    assert_eq!(bound.hooks, pipeline.hooks);
    let HookAction::Command(command) = &bound.hooks.list[0].action else { panic!("a command was written") };
    assert_eq!(command.argv[2], "echo ${HOME}");
    let mut stored = serde_json::to_value(&bound).unwrap();
    assert_eq!(serde_json::from_value::<RunSpec>(stored.clone()).unwrap(), bound);
    stored.as_object_mut().unwrap().remove("hooks");
    assert!(serde_json::from_value::<RunSpec>(stored).unwrap().hooks.is_empty());
}
