//! One client: a person with a script.

use std::{sync::Arc, time::Duration};

use segue_proto::{
    ids::RunId,
    v1::{
        self, admin_service_client::AdminServiceClient, fleet_service_client::FleetServiceClient,
        run_service_client::RunServiceClient,
    },
};
use tokio::time::{sleep, timeout};
use tonic::{Code, Status, transport::Channel};

use super::shape::Shape;
use crate::{
    chance::Chance,
    clockwork::now_ms,
    ledger::{Ledger, Rerun},
    net::Net,
    say,
};

/// How long a call may take.
const PATIENCE: Duration = Duration::from_secs(4);

/// Gives the channel of a client's host.
pub fn channel_of(net: &Net, host: &str) -> Channel {
    net.channel(host, PATIENCE)
}

#[derive(Debug)]
pub struct Client {
    pub host: String,
    pub net: Net,
    pub ledger: Ledger,
    pub chance: Chance,
    pub shapes: Vec<Arc<Shape>>,
    pub workers: Vec<String>,
    /// No new wishes after this time; those that are open are brought to their end.
    pub until_ms: u64,
    /// When it gives up on what nobody answers.
    pub give_up_ms: u64,
}

impl Client {
    /// Goes on until its time is over.
    pub async fn run(mut self) {
        let channel = channel_of(&self.net, &self.host);
        let mut runs = RunServiceClient::new(channel.clone());
        let mut mine: Vec<RunId> = Vec::new();
        let mut submitted = 0;
        while now_ms() < self.until_ms {
            let most = if self.chance.percent(10) { 50 } else { 1_800 };
            sleep(Duration::from_millis(self.chance.between(10, most))).await;
            match self.chance.below(100) {
                0..45 => {
                    submitted += 1;
                    let key = format!("{}-{submitted}", self.host);
                    if let Some(run) = self.submit(&mut runs, &key).await
                        && !mine.contains(&run)
                    {
                        mine.push(run);
                    }
                }
                45..60 => self.cancel(&mut runs, &mine).await,
                60..80 => self.rerun(&mut runs, &mine).await,
                80..92 => self.look(&mut runs, &mine).await,
                92..96 => self.set_fleet(&channel).await,
                _ => self.drain(&channel).await,
            }
        }
    }

    /// Submits under a key until somebody acknowledges it.
    async fn submit(&mut self, runs: &mut RunServiceClient<Channel>, key: &str) -> Option<RunId> {
        let shape = Arc::clone(self.chance.pick(&self.shapes));
        self.ledger.submit_asked(key, &shape);
        let request = v1::SubmitRequest {
            text: shape.text.clone(),
            path: format!("/pipelines/{}.toml", shape.name),
            idempotency_key: key.to_owned(),
            no_cache: self.chance.percent(20),
            ..v1::SubmitRequest::default()
        };
        loop {
            let answer = call(runs.submit(request.clone())).await;
            match answer {
                Ok(answer) if !answer.run_id.is_empty() => {
                    let run: RunId = answer.run_id.parse().expect("the coordinator gives run ids");
                    say!(
                        self.ledger.trace,
                        self.host,
                        "submitted {key} ({}): {run}{}",
                        shape.name,
                        if answer.existing { ", again" } else { "" }
                    );
                    self.ledger.called("submit");
                    self.ledger.submit_acked(run, &shape);
                    return Some(run);
                }
                Ok(answer) => {
                    let why = answer.diagnostics.iter().map(|one| one.rendered.clone()).collect::<String>();
                    panic!("a drawn pipeline is refused:\n{why}\n{}", shape.text);
                }
                Err(status) => {
                    say!(self.ledger.trace, self.host, "submit of {key} fails: {}", brief(&status));
                    assert!(status.code() != Code::InvalidArgument, "{status}");
                }
            }
            if now_ms() > self.give_up_ms {
                return None;
            }
            sleep(Duration::from_millis(self.chance.between(50, 900))).await;
        }
    }

    async fn cancel(&mut self, runs: &mut RunServiceClient<Channel>, mine: &[RunId]) {
        let Some(run) = self.some(mine) else { return };
        let Ok(view) = call(runs.get_run(v1::GetRunRequest { run_id: run.to_string() })).await else { return };
        let task = if self.chance.percent(35) && !view.tasks.is_empty() {
            self.chance.pick(&view.tasks).name.clone()
        } else {
            String::new()
        };
        let at = self.ledger.cancel_asked(run, &task, view.generation);
        let asked = call(runs.cancel_run(v1::CancelRunRequest {
            run_id: run.to_string(),
            task: task.clone(),
            reason: String::new(),
        }))
        .await;
        match asked {
            Ok(_) => {
                say!(self.ledger.trace, self.host, "cancelled {run} {task}");
                self.ledger.called("cancel");
                self.ledger.cancel_acked(run, at);
            }
            Err(status) => say!(self.ledger.trace, self.host, "cancel of {run} {task}: {}", brief(&status)),
        }
    }

    async fn rerun(&mut self, runs: &mut RunServiceClient<Channel>, mine: &[RunId]) {
        let Some(run) = self.some(mine) else { return };
        let Ok(view) = call(runs.get_run(v1::GetRunRequest { run_id: run.to_string() })).await else { return };
        let mut request = v1::RerunRequest { run_id: run.to_string(), dry_run: true, ..v1::RerunRequest::default() };
        match self.chance.below(3) {
            0 => request.failed = true,
            kind if !view.tasks.is_empty() => {
                let names = vec![self.chance.pick(&view.tasks).name.clone()];
                if kind == 1 { request.from = names } else { request.only = names }
            }
            _ => {}
        }
        let Ok(planned) = call(runs.rerun(request.clone())).await else { return };
        request.dry_run = false;
        let plan: Vec<(String, bool)> = planned.items.iter().map(|item| (item.task.clone(), item.execute)).collect();
        let kept = view
            .tasks
            .iter()
            .filter(|task| plan.iter().any(|(name, execute)| *name == task.name && !execute))
            .flat_map(|task| {
                task.outputs.iter().map(|output| {
                    let digest = output.artifact.clone().unwrap_or_default().digest;
                    (task.name.clone(), output.name.clone(), digest)
                })
            })
            .collect();
        let any = plan.iter().any(|(_, execute)| *execute);
        let rerun = Rerun { generation: view.generation, plan, acked: false, kept };
        let at = self.ledger.rerun_asked(run, rerun);
        match call(runs.rerun(request)).await {
            Ok(done) => {
                say!(self.ledger.trace, self.host, "rerun of {run}");
                self.ledger.called("rerun");
                if done.items != planned.items {
                    self.ledger.violation(
                        "rerun as printed",
                        format_args!("the rerun of {run} has another plan than its dry run"),
                    );
                }
                if any {
                    self.ledger.rerun_acked(run, at);
                }
            }
            Err(status) => say!(self.ledger.trace, self.host, "rerun of {run}: {}", brief(&status)),
        }
    }

    async fn look(&mut self, runs: &mut RunServiceClient<Channel>, mine: &[RunId]) {
        match (self.chance.below(3), self.some(mine)) {
            (0, Some(run)) => {
                let request = v1::ExplainRequest { run_id: run.to_string(), task: String::new() };
                let _ = call(runs.explain(request)).await;
            }
            (1, Some(run)) => {
                let watched = call(runs.watch_run(v1::GetRunRequest { run_id: run.to_string() })).await;
                if let Ok(mut watched) = watched {
                    let mut looks = 0;
                    while looks < 5
                        && let Ok(Ok(Some(_))) = timeout(PATIENCE, watched.message()).await
                    {
                        looks += 1;
                    }
                }
            }
            _ => drop(call(runs.list_runs(v1::ListRunsRequest { limit: 10, ..v1::ListRunsRequest::default() })).await),
        }
        self.ledger.called("look");
    }

    async fn set_fleet(&mut self, channel: &Channel) {
        let name = self.chance.pick(&self.workers).clone();
        let on = self.chance.percent(50);
        let mut fleet = FleetServiceClient::new(channel.clone());
        if call(fleet.cordon(v1::CordonRequest { name: name.clone(), on })).await.is_ok() {
            say!(self.ledger.trace, self.host, "cordon of {name}: {on}");
            self.ledger.called("cordon");
        }
    }

    async fn drain(&mut self, channel: &Channel) {
        let name = self.chance.pick(&self.workers).clone();
        let mut admin = AdminServiceClient::new(channel.clone());
        if call(admin.drain_worker(v1::DrainWorkerRequest { name: name.clone() })).await.is_ok() {
            say!(self.ledger.trace, self.host, "drains {name}");
            self.ledger.called("drain");
        }
    }

    fn some(&mut self, mine: &[RunId]) -> Option<RunId> {
        if mine.is_empty() { None } else { Some(*self.chance.pick(mine)) }
    }
}

/// Makes a call that ends in time.
async fn call<T>(asked: impl Future<Output = Result<tonic::Response<T>, Status>>) -> Result<T, Status> {
    match timeout(PATIENCE, asked).await {
        Ok(answer) => answer.map(tonic::Response::into_inner),
        Err(_) => Err(Status::deadline_exceeded("no answer")),
    }
}

fn brief(status: &Status) -> String {
    format!("{:?} {}", status.code(), status.message().chars().take(80).collect::<String>())
}
