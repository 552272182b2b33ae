//! TLS: a coordinator with a certificate of its own, those who know its authority, and one who does not.
#![allow(clippy::unwrap_used)]

use std::{fs, path::Path, process::Command};

use segue_tests::{Cli, process::Process, program, wait::until};

/// Makes a certificate that is its own authority; says whether `openssl` is there to do it.
fn certificate(dir: &Path) -> bool {
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"])
        .args(["-addext", "subjectAltName=IP:127.0.0.1", "-addext", "basicConstraints=critical,CA:FALSE"])
        .arg("-keyout")
        .arg(dir.join("key.pem"))
        .arg("-out")
        .arg(dir.join("cert.pem"))
        .output();
    made.is_ok_and(|output| output.status.success())
}

#[test]
fn who_knows_the_authority_works_over_tls_and_who_does_not_is_kept_out() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path();
    if !certificate(dir) {
        eprintln!("skipped: no openssl to make a certificate with");
        return;
    }
    let (state, cert) = (dir.join("state"), dir.join("cert.pem"));
    let mut command = Command::new(program::segue());
    command.arg("coordinator").arg("--state-dir").arg(&state).args(["--listen", "127.0.0.1:0", "--http", "off"]);
    command.arg("--tls-cert").arg(&cert).arg("--tls-key").arg(dir.join("key.pem"));
    let coordinator = Process::start("coordinator", &mut command, &dir.join("coordinator.log"));
    let url = until("the address of the coordinator", || {
        let text = fs::read_to_string(state.join("coordinator.json")).ok()?;
        let value: serde_json::Value = serde_json::from_str(&text).ok()?;
        Some(value["address"].as_str()?.to_owned())
    });
    assert!(url.starts_with("https://"), "{url}\n{}", coordinator.tail());

    let mut command = Command::new(program::segue());
    command.args(["worker", "--server", &url, "--name", "east"]).arg("--cache-dir").arg(dir.join("cache"));
    command.arg("--ca-cert").arg(&cert);
    let worker = Process::start("worker", &mut command, &dir.join("worker.log"));

    let client = Cli::server(&url, dir).env("SEGUE_CA_CERT", &cert);
    until("the worker over TLS", || {
        let workers = client.json(["workers", "list"]);
        (workers[0]["state"] == "connected").then_some(())
    });
    let file = dir.join("hello.toml");
    fs::write(&file, "[pipeline]\nname = \"hello\"\n[tasks.hello]\ncommand = [\"echo\", \"hello\"]\n").unwrap();
    let run = client.run_pipeline(&file, &[]);
    assert_eq!(run["state"], "succeeded", "{run}\n{}", worker.tail());

    Cli::server(&url, dir).run(["runs"]).refuses(3, &["no coordinator answers", "ertificate"]);
    let plain = url.replace("https://", "http://");
    assert_eq!(Cli::server(&plain, dir).run(["runs"]).code, 3, "without TLS nobody gets in");
}
