//! `LogService`: logs of attempts, whole or followed.

use std::{collections::BTreeMap, pin::Pin, time::Duration};

use futures::Stream;
use segue_proto::{
    ids::{RunId, Token},
    v1::{self, log_service_server::LogService},
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::Shared;
use crate::{
    core::Run,
    server::{actor::resolve, error::Error, records},
};

/// Implements the service.
#[derive(Debug, Clone)]
pub struct LogsApi(pub Shared);

/// A follower looks again after this long when no change of the run told it to: log bytes alone change no state.
const FOLLOW: Duration = Duration::from_millis(200);

/// An attempt whose log is read, and whether it may still grow.
struct Source {
    token: Token,
    live: bool,
}

#[tonic::async_trait]
impl LogService for LogsApi {
    type ReadStream = Pin<Box<dyn Stream<Item = Result<v1::ReadLogsResponse, Status>> + Send>>;

    async fn read(&self, request: Request<v1::ReadLogsRequest>) -> Result<Response<Self::ReadStream>, Status> {
        let request = request.into_inner();
        let reference = request.run_id.clone();
        let id = self.0.blocking(move |shared| resolve(&*shared.store, &reference)).await?;
        let (sources, _) = sources(&self.0, &id, &request).await?;
        if sources.is_empty() && !request.task.is_empty() && !request.follow {
            return Err(Status::not_found(format!("task `{}` of run `{id}` has no such attempt", request.task)));
        }
        let (sender, receiver) = mpsc::channel(16);
        let shared = self.0.clone();
        tokio::spawn(async move {
            if let Err(e) = stream(&shared, &id, &request, &sender).await {
                let _ = sender.send(Err(e.into())).await;
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}

async fn stream(
    shared: &Shared,
    id: &RunId,
    request: &v1::ReadLogsRequest,
    sender: &mpsc::Sender<Result<v1::ReadLogsResponse, Status>>,
) -> Result<(), Error> {
    let mut offsets: BTreeMap<Token, u64> = BTreeMap::new();
    loop {
        let (sources, ended) = sources(shared, id, request).await?;
        for source in &sources {
            let offset = offsets.entry(source.token.clone()).or_default();
            loop {
                let (logs, token, from) = (shared.logs.clone(), source.token.clone(), *offset);
                let read = move || logs.read(&token.run, &token.task, token.attempt, from, segue_proto::CHUNK_BYTES);
                let piece = shared.offload.run("a log read", read).await??;
                let Some(piece) = piece else { break };
                *offset = piece.next();
                let response = v1::ReadLogsResponse {
                    task: source.token.task.to_string(),
                    attempt: source.token.attempt,
                    offset: piece.offset,
                    data: piece.data,
                    lost_before: piece.lost_before,
                };
                if sender.send(Ok(response)).await.is_err() {
                    return Ok(());
                }
            }
        }
        if !request.follow || (ended && sources.iter().all(|source| !source.live)) {
            return Ok(());
        }
        tokio::select! {
            () = tokio::time::sleep(FOLLOW) => {}
            () = sender.closed() => return Ok(()),
            () = shared.stop.cancelled() => return Ok(()),
        }
    }
}

/// Finds the attempts that the request means, in the order of their start, and says whether the run has ended.
async fn sources(shared: &Shared, id: &RunId, request: &v1::ReadLogsRequest) -> Result<(Vec<Source>, bool), Error> {
    let (wanted, task, attempt) = (*id, request.task.clone(), request.attempt);
    let active = shared.handle.read(move |core| core.run(&wanted).map(|run| pick(run, &task, attempt))).await?;
    match active {
        Some(found) => found,
        None => {
            let (id, task) = (*id, request.task.clone());
            shared
                .blocking(move |shared| {
                    let run = records::load_run(&*shared.store, &id)?;
                    run.map(|run| pick(&run, &task, attempt)).ok_or_else(|| Error::NoSuchRun(id.to_string()))
                })
                .await?
        }
    }
}

fn pick(run: &Run, task: &str, attempt: u32) -> Result<(Vec<Source>, bool), Error> {
    let wanted = if task.is_empty() { None } else { run.find(task) };
    if !task.is_empty() && wanted.is_none() {
        let known: Vec<&str> = run.spec.tasks.iter().map(|task| task.name.as_str()).collect();
        let hint =
            crate::spec::nearest(task, known).map(|near| format!(": did you mean `{near}`?")).unwrap_or_default();
        return Err(Error::NotFound(format!("run `{}` has no task `{task}`{hint}", run.id)));
    }
    let mut found: Vec<(u64, Source)> = Vec::new();
    for index in run.indices() {
        // A fan-out stands for all of its children.
        let meant = wanted.is_none_or(|wanted| wanted == index || run.node_of(index) == wanted as usize);
        let Some((entry, name)) = run.task(index).zip(run.name_of(index)).filter(|_| meant) else { continue };
        let chosen = match attempt {
            0 => entry.attempts.last(),
            number => entry.attempts.iter().find(|attempt| attempt.number == number),
        };
        if let Some(chosen) = chosen {
            let token = Token { run: run.id, index, task: name, attempt: chosen.number, epoch: chosen.epoch };
            let live = entry.state.live().is_some_and(|live| live.attempt == chosen.number);
            found.push((chosen.assigned_at, Source { token, live }));
        }
    }
    found.sort_by(|a, b| (a.0, &a.1.token.task).cmp(&(b.0, &b.1.token.task)));
    Ok((found.into_iter().map(|(_, source)| source).collect(), run.state.is_terminal()))
}
