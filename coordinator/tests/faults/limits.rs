//! Limits: many workers, readers that stop reading, the largest pipeline file, messages that cannot be sent. Each ends in
//! a state that is bounded and explained.

use std::time::Instant;

use bytes::Bytes;
use segue_proto::{
    MAX_MESSAGE_BYTES,
    ids::Digest,
    v1::{self, RunState, TaskState, finished::Outcome},
};
use tonic::Code;

use crate::{
    hostile::resident_bytes,
    stranger::{Stranger, World, finished},
    support::{
        client::{Client, until},
        worker::{Plan, Worker},
    },
    thorough,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_hundred_workers_are_served_and_each_gets_its_share() {
    let world = World::new().await;
    let mut workers = Vec::new();
    // Every tenth on a connection of its own, the rest beside it: files and sockets of one process are bounded too.
    let mut client = world.client.clone();
    for n in 0..500 {
        if n % 10 == 0 {
            client = Client::new(world.host.address);
        }
        let plan = Plan { cpu_milli: 1_000, ..Plan::new(&format!("w{n}")) };
        workers.push(Worker::start(client.clone(), plan, world.shop.clone()));
    }
    until("five hundred workers", || async {
        let status = world.client.admin().get_status(v1::GetStatusRequest {}).await.unwrap().into_inner();
        if status.workers == 500 { Ok(()) } else { Err(format!("{}", status.workers)) }
    })
    .await;
    let run = world.submit("[tasks.a]\nforeach = { range = 3000 }\ncommand = [\"ok\"]\n").await;
    let view = world.ended(&run).await;
    assert_eq!(view.state(), RunState::Succeeded);
    let executions = world.shop.executions.lock().unwrap().clone();
    assert_eq!(executions.len(), 3_000, "each child once");
    let busy: std::collections::BTreeSet<&str> = executions.iter().map(|one| one.worker.as_str()).collect();
    assert!(busy.len() > 250, "only {} of them were given work", busy.len());
    assert_eq!(*world.shop.faults.lock().unwrap(), Vec::<String>::new());
    for worker in workers {
        worker.kill().await;
    }
    until("no worker", || async {
        let status = world.client.admin().get_status(v1::GetStatusRequest {}).await.unwrap().into_inner();
        if status.workers == 0 { Ok(()) } else { Err(format!("{}", status.workers)) }
    })
    .await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "weighs the whole process: run it alone, with --ignored"]
async fn readers_that_stop_reading_hold_up_nobody_and_find_everything_later() {
    let world = World::new().await;
    let worker = world.worker("w");
    // Each of them asks for everything to come, and then reads nothing.
    let follow = v1::ReadEventsRequest { follow: true, ..v1::ReadEventsRequest::default() };
    // On a connection of its own: what it does not read holds up whatever else comes that way.
    let stalled = Client::new(world.host.address);
    let mut events = Vec::new();
    for _ in 0..20 {
        events.push(stalled.events().read(follow.clone()).await.unwrap().into_inner());
    }
    let long = world.submit("[tasks.slow]\ncommand = [\"slow\"]\n").await;
    let mut watchers = Vec::new();
    for _ in 0..20 {
        let request = v1::GetRunRequest { run_id: long.clone() };
        watchers.push(stalled.runs().watch_run(request).await.unwrap().into_inner());
        let request = v1::ReadLogsRequest { run_id: long.clone(), follow: true, ..v1::ReadLogsRequest::default() };
        drop(stalled.logs().read(request).await.unwrap());
    }
    let before = resident_bytes();
    for _ in 0..3 {
        let run = world.submit("[tasks.a]\nforeach = { range = 1000 }\ncommand = [\"ok\"]\n").await;
        assert_eq!(world.ended(&run).await.state(), RunState::Succeeded);
    }
    let grown = resident_bytes().saturating_sub(before);
    assert!(grown < 300 << 20, "{grown} bytes more than before");
    world.shop.quick.store(true, std::sync::atomic::Ordering::SeqCst);
    world.ended(&long).await;
    // When they read again, nothing is missing.
    let all = world.client.all_events().await;
    let last = all.last().unwrap().offset;
    let mut stream = events.pop().unwrap();
    drop(events);
    let mut watcher = watchers.pop().unwrap();
    drop(watchers);
    let mut next = 1;
    while next <= last {
        for event in stream.message().await.unwrap().expect("it goes on").events {
            assert_eq!(event.offset, next, "a gap");
            next += 1;
        }
    }
    let mut seen = v1::RunView::default();
    while let Some(view) = watcher.message().await.unwrap() {
        seen = view;
    }
    assert_eq!(seen.state(), RunState::Succeeded, "the last word of a watch is the end");
    worker.kill().await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_largest_pipeline_file_is_taken_and_one_full_of_faults_is_answered() {
    let world = World::new().await;
    let worker = world.worker("w");
    let whole = "[pipeline]\nname = \"large\"\n[tasks.a]\ncommand = [\"ok\"]\n";
    let room = MAX_MESSAGE_BYTES - 1_000;
    let padded = format!("{whole}{}", "# a comment of some length, to fill the file\n".repeat(room / 45 - 2));
    let request =
        |text: &str| v1::SubmitRequest { text: text.to_owned(), path: "/p.toml".to_owned(), ..Default::default() };
    let answer = world.client.runs().submit(request(&padded)).await.unwrap().into_inner();
    assert!(!answer.run_id.is_empty(), "{:?}", answer.diagnostics);
    assert_eq!(world.ended(&answer.run_id).await.state(), RunState::Succeeded);
    let reference = v1::GetPipelineRequest { reference: "large".to_owned() };
    let kept = world.client.maintenance().get_pipeline(reference).await.unwrap().into_inner();
    assert_eq!(kept.text.len(), padded.len());

    // A fault on every line, and others are served while it is looked at.
    let faulty = format!("{whole}{}", "[tasks.b]\nop = 5\nunknown = \"x\"\n".repeat(room / 31));
    let before = resident_bytes();
    let looking = tokio::spawn({
        let (client, request) = (world.client.clone(), request(&faulty));
        async move { client.runs().submit(request).await }
    });
    let mut served = 0_u32;
    while !looking.is_finished() {
        let begun = Instant::now();
        world.client.admin().get_status(v1::GetStatusRequest {}).await.unwrap();
        served += u32::from(begun.elapsed().as_secs() < 5);
    }
    let answer = looking.await.unwrap().unwrap().into_inner();
    assert!(answer.run_id.is_empty() && answer.diagnostics.len() > 100, "{}", answer.diagnostics.len());
    assert!(answer.diagnostics.len() <= 1_001, "{} faults are listed", answer.diagnostics.len());
    assert!(served > 0, "nobody was served meanwhile");
    let grown = resident_bytes().saturating_sub(before);
    assert!(grown < 3 << 30, "{grown} bytes more than before");
    worker.kill().await;
    world.close().await;
}

#[tokio::test]
async fn what_is_shown_with_a_run_is_bounded_and_a_list_of_large_runs_can_be_sent() {
    let world = World::new().await;
    let text = "[pipeline]\nname = \"p\"\n[params]\nbig = { type = \"string\", default = \"\" }\n[tasks.a]\ncommand = [\"ok\"]\n";
    let request = |change: &dyn Fn(&mut v1::SubmitRequest)| {
        let mut request =
            v1::SubmitRequest { text: format!("{text}with = {{ b = \"${{params.big}}\" }}\n"), ..Default::default() };
        change(&mut request);
        request
    };
    let large = |size: usize| std::collections::BTreeMap::from([("big".to_owned(), "x".repeat(size))]);
    type Change<'a> = Box<dyn Fn(&mut v1::SubmitRequest) + 'a>;
    let refused: [(&str, Change<'_>); 3] = [
        ("parameters", Box::new(|request| request.params = large(5 << 20))),
        ("tags", Box::new(|request| request.tags = large(1 << 20))),
        ("idempotency key", Box::new(|request| request.idempotency_key = "k".repeat(2_000))),
    ];
    for (what, change) in &refused {
        let status = world.client.runs().submit(request(&**change)).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{what}");
        assert!(status.message().contains(what), "{status}");
    }
    for _ in 0..12 {
        let change = |request: &mut v1::SubmitRequest| request.params = large(3 << 20);
        let answer = world.client.runs().submit(request(&change)).await.unwrap().into_inner();
        assert!(!answer.run_id.is_empty(), "{:?}", answer.diagnostics);
    }
    // Together they are larger than a message: the list is shorter, and goes on where it ended.
    let mut seen = std::collections::BTreeSet::new();
    let mut before = String::new();
    loop {
        let list = v1::ListRunsRequest { limit: 1_000, before_run_id: before.clone(), ..Default::default() };
        let page = world.client.runs().list_runs(list).await.unwrap().into_inner().runs;
        let Some(last) = page.last() else { break };
        before = last.run_id.clone();
        seen.extend(page.into_iter().map(|run| run.run_id));
    }
    assert_eq!(seen.len(), 12);
    world.host.stop().await.unwrap();
}

#[tokio::test]
async fn an_assignment_that_no_message_can_hold_fails_with_the_reason_and_its_worker_stays() {
    let world = World::new().await;
    let mut worker = Stranger::connect(&world.client, "w").await;
    let bytes = Bytes::from_static(b"{}");
    let put = v1::PutBlobRequest { digest: String::new(), data: bytes.clone() };
    world.client.blobs().put(tokio_stream::iter([put])).await.unwrap();
    // A join of children whose schemas together are larger than a message.
    let run = world
        .submit(
            "[tasks.part]\nforeach = { range = 90 }\ncommand = [\"ok\"]\noutputs = { out = \"json\" }\n\
             [tasks.join]\ncommand = [\"ok\"]\ninputs = { parts = \"part.out\" }\n\
             [tasks.beside]\ncommand = [\"ok\"]\nafter = [\"part\"]\n",
        )
        .await;
    let artifact = v1::Artifact {
        digest: Digest::of(&bytes).into(),
        size_bytes: 2,
        kind: "json".to_owned(),
        schema: "x".repeat(200 << 10),
    };
    let output = v1::NamedArtifact { name: "out".to_owned(), artifact: Some(artifact), key: String::new() };
    for n in 0..91 {
        let assign = worker.assigned().await;
        let token = assign.token.unwrap();
        let outputs = if token.task.starts_with("part") { vec![output.clone()] } else { Vec::new() };
        assert_ne!(token.task, "join", "{n}");
        worker.say(finished(&token, Outcome::Success(v1::Success { outputs, ..Default::default() }))).await;
    }
    let view = until("the end", || async {
        let request = v1::ListRunsRequest { limit: 1, ..Default::default() };
        let run = world.client.runs().list_runs(request).await.unwrap().into_inner().runs.remove(0);
        if run.ended_ms > 0 { Ok(run) } else { Err(format!("{run:?}")) }
    })
    .await;
    assert_eq!((view.run_id.as_str(), view.state()), (run.as_str(), RunState::Failed));
    let request =
        v1::ListTasksRequest { run_id: run.clone(), states: vec![TaskState::Failed.into()], ..Default::default() };
    let failed = world.client.runs().list_tasks(request).await.unwrap().into_inner().tasks;
    let [join] = &failed[..] else { panic!("{failed:?}") };
    let failure = join.failure.clone().unwrap();
    assert!(failure.message.contains("make an assignment of") && failure.hint.contains("join fewer"), "{failure:?}");
    assert_eq!((join.name.as_str(), join.attempts.len()), ("join", 1), "given out once, not for ever");
    assert_eq!(worker.heard(vec![]).await, [], "the link is open");
    drop(worker);
    world.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_assignments_at_once_go_in_messages_that_can_be_sent() {
    let world = World::new().await;
    // Together larger than a message, each far below it.
    let text = "[pipeline]\nname = \"p\"\n[params]\nbig = { type = \"string\" }\n[tasks.a]\n\
                foreach = { range = 48 }\ncommand = [\"ok\", \"${params.big}\"]\n";
    let word = "y".repeat(600 << 10);
    let request = v1::SubmitRequest {
        text: text.to_owned(),
        path: "/p.toml".to_owned(),
        params: std::collections::BTreeMap::from([("big".to_owned(), word)]),
        ..v1::SubmitRequest::default()
    };
    let run = world.client.runs().submit(request).await.unwrap().into_inner();
    assert!(!run.run_id.is_empty(), "{:?}", run.diagnostics);
    let plan = Plan { cpu_milli: 64_000, ..Plan::new("wide") };
    let worker = Worker::start(world.client.clone(), plan, world.shop.clone());
    let view = world.ended(&run.run_id).await;
    assert_eq!(view.state(), RunState::Succeeded);
    let mut runs = world.client.runs();
    let request =
        v1::ListTasksRequest { run_id: run.run_id, group: "a".to_owned(), limit: 5, ..v1::ListTasksRequest::default() };
    let tasks = runs.list_tasks(request);
    // Each child shows its whole command line: an answer that is too large says so.
    match tasks.await {
        Ok(tasks) => assert!(tasks.into_inner().tasks.iter().all(|task| task.attempts.len() == 1)),
        Err(status) => assert_eq!(status.code(), Code::OutOfRange, "{status}"),
    }
    worker.kill().await;
    world.is_well().await;
    world.host.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_without_number_are_turned_away_at_the_door() {
    if !thorough() {
        return; // It needs thousands of sockets for a moment.
    }
    let world = World::new().await;
    let mut open = Vec::new();
    for _ in 0..400 {
        match tokio::net::TcpStream::connect(world.host.http).await {
            Ok(stream) => open.push(stream),
            Err(_) => break,
        }
    }
    drop(open);
    until("a free place", || async {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let ask = async {
            let mut stream = tokio::net::TcpStream::connect(world.host.http).await?;
            stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await?;
            Ok::<_, std::io::Error>(answer)
        };
        match ask.await {
            Ok(answer) if answer.contains("200 OK") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    world.close().await;
}
