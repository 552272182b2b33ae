//! `RunService`: pipelines, runs, reruns, explanations, artifacts, lineage.

use std::{collections::BTreeMap, pin::Pin, sync::Arc};

use futures::Stream;
use prost::Message as _;
use segue_proto::{
    MAX_MESSAGE_BYTES,
    ids::RunId,
    operator::Catalogue,
    store::v1::{PipelineRecord, RunRecord},
    v1::{self, run_service_server::RunService},
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::Shared;
use crate::{
    core::{Core, Event, Run, rerun},
    server::{
        deliver::{self, command::KEY_PREFIX as HOOK_KEYS},
        error::Error,
        external,
        find::resolve,
        globs, pipelines, plan, records, views,
    },
    spec::{self, Pipeline, RunSpec},
    store::{self, Key, keys::prefix},
};

/// Implements the service.
#[derive(Debug, Clone)]
pub struct Runs(pub Shared);

/// Children of a run from which on its watchers look less often.
const MANY: u32 = 5_000;
/// The shortest time between two looks of a watcher.
const LOOK: std::time::Duration = std::time::Duration::from_millis(20);
const LOOK_AT_LARGE: std::time::Duration = std::time::Duration::from_millis(500);
/// What a watcher waits for each task that a look shows: such a look takes some microseconds of a task, and a watcher
/// must not take more than a few hundredths of what the coordinator can decide.
const LOOK_AT_TASK: std::time::Duration = std::time::Duration::from_micros(100);

/// Characters of the reason of a cancel that are kept.
const LONGEST_CAUSE: usize = 500;

/// Most rows of one answer.
const MOST_ROWS: u32 = 1_000;

/// Rows that a list reads at once: each holds its bound pipeline, which may have megabytes.
const ROWS: usize = 32;
/// Bytes of a list, from which on it is shorter than asked for: one more row must still fit into its message.
const LARGEST_LIST: usize = MAX_MESSAGE_BYTES / 2;
/// Bytes of the parameters of a run, and of its tags: they are shown with every view of it.
const LARGEST_PARAMS: usize = 4 * 1024 * 1024;
const LARGEST_TAGS: usize = 64 * 1024;
/// Bytes of an idempotency key.
const LONGEST_KEY: usize = 1_024;

/// Refuses what would make every list and view of the run too large to be sent.
fn modest(request: &v1::SubmitRequest) -> Result<(), Error> {
    let size = |map: &BTreeMap<String, String>| map.iter().map(|(name, value)| name.len() + value.len()).sum();
    let sizes: [(&str, usize, usize, &str); 3] = [
        ("the parameters", size(&request.params), LARGEST_PARAMS, ": give a file with -p NAME=@FILE"),
        ("the tags", size(&request.tags), LARGEST_TAGS, ""),
        ("the idempotency key", request.idempotency_key.len(), LONGEST_KEY, ""),
    ];
    match sizes.into_iter().find(|(_, size, most, _)| size > most) {
        Some((what, size, most, fix)) => {
            let text = format!("{what} of the run have {size} bytes, and at most {most} are taken{fix}");
            Err(Error::BadRequest(text))
        }
        None => Ok(()),
    }
}

impl Runs {
    /// Checks a text, binds it to parameters and looks up its files; diagnostics are for the client, in file order.
    async fn compile(&self, request: &v1::SubmitRequest) -> Result<Result<Compiled, Vec<v1::Diagnostic>>, Error> {
        let (catalogue, request) = (self.0.operators(), request.clone());
        let compiled = self.0.checking(move || compile(&request, &catalogue)).await?;
        if let Err(faults) = &compiled {
            self.0.judge(faults).await?;
        }
        Ok(compiled)
    }

    /// Submits a run, whoever asks for it.
    pub(in crate::server) async fn submit(&self, request: v1::SubmitRequest) -> Result<v1::SubmitResponse, Error> {
        self.submit_for(request, false).await
    }

    /// Submits a run. `compared`: the key of a client, which stands for one request. Those of schedules, backfills and
    /// hooks stand for an interval or an event, whatever the file says by then.
    async fn submit_for(&self, request: v1::SubmitRequest, compared: bool) -> Result<v1::SubmitResponse, Error> {
        modest(&request)?;
        let compiled = match self.compile(&request).await? {
            Ok(compiled) => compiled,
            Err(diagnostics) => return Ok(v1::SubmitResponse { diagnostics, ..v1::SubmitResponse::default() }),
        };
        let Compiled { pipeline, spec, warnings } = compiled;
        let now = self.0.clock.now();
        let spec = Arc::new(spec);
        external::hold_uploads(&spec, &self.0.blobs).await?;
        let external_inputs = external::digests(&spec).await;
        self.0.unsettled.settled(external_inputs.keys()).await;
        let mut run = Run::new(RunId::new(self.0.ids.next()), Arc::clone(&spec), request.path.clone(), now);
        run.idempotency_key = request.idempotency_key;
        if compared && !run.idempotency_key.is_empty() {
            run.asked = asked(&spec);
        }
        run.no_cache = request.no_cache;
        run.priority = request.priority.unwrap_or(run.priority);
        run.tags = request.tags;
        run.external_inputs = external_inputs;
        let record = PipelineRecord {
            name: pipeline.name.to_string(),
            version: spec.version.clone(),
            text: request.text,
            path: request.path,
            created_ms: now,
            operators: pipelines::operators(&pipeline, &self.0.operators()),
        };
        let (id, existing) = self.0.handle.submit(run, record).await?;
        Ok(v1::SubmitResponse {
            run_id: id.to_string(),
            existing,
            diagnostics: warnings,
            pipeline: pipeline.name.to_string(),
        })
    }

    /// Submits the run of a command hook.
    ///
    /// # Errors
    /// As any submission.
    pub(in crate::server) async fn submit_hook(&self, request: v1::SubmitRequest) -> Result<v1::SubmitResponse, Error> {
        self.submit(request).await
    }

    /// Shows a run, active or ended.
    async fn view(&self, id: RunId, with_tasks: bool) -> Result<v1::RunView, Error> {
        let wanted = id;
        let active = self
            .0
            .handle
            .read(move |core| core.run(&wanted).map(|run| views::run_view(run, Some(core), with_tasks)))
            .await?;
        match active {
            Some(view) => Ok(view),
            None => {
                let run = self.load(id).await?;
                Ok(views::run_view(&run, None, with_tasks))
            }
        }
    }

    async fn load(&self, id: RunId) -> Result<Run, Error> {
        self.0
            .blocking(move |shared| {
                records::load_run(&*shared.store, &id)?.ok_or_else(|| Error::NoSuchRun(id.to_string()))
            })
            .await
    }

    async fn resolve(&self, reference: String) -> Result<RunId, Error> {
        self.0.blocking(move |shared| resolve(&*shared.store, &reference)).await
    }

    async fn rerun(&self, request: v1::RerunRequest) -> Result<v1::RerunResponse, Error> {
        let id = self.resolve(request.run_id.clone()).await?;
        let wanted = id;
        if self.0.handle.read(move |core| core.run(&wanted).is_some()).await? {
            return Err(crate::core::Refused::RunGoing(id).into());
        }
        let run = self.load(id).await?;
        let latest = if request.latest_text.is_empty() {
            None
        } else {
            let submit = v1::SubmitRequest {
                text: request.latest_text.clone(),
                path: run.path.clone(),
                params: run.spec.params.clone(),
                no_cache: run.no_cache,
                ..v1::SubmitRequest::default()
            };
            match self.compile(&submit).await? {
                Ok(compiled) if compiled.spec.pipeline != run.spec.pipeline => {
                    let (ours, theirs) = (&run.spec.pipeline, &compiled.spec.pipeline);
                    return Err(Error::BadRequest(format!(
                        "run `{id}` is one of pipeline `{ours}`, and the file is that of `{theirs}`: submit it as a run of its own"
                    )));
                }
                Ok(compiled) => Some(compiled),
                Err(diagnostics) => {
                    return Ok(v1::RerunResponse { run_id: id.into(), diagnostics, ..v1::RerunResponse::default() });
                }
            }
        };
        let text = latest.as_ref().map(|compiled| PipelineRecord {
            name: compiled.pipeline.name.to_string(),
            version: compiled.spec.version.clone(),
            text: request.latest_text.clone(),
            path: run.path.clone(),
            created_ms: self.0.clock.now(),
            operators: pipelines::operators(&compiled.pipeline, &self.0.operators()),
        });
        let latest = latest.map(|compiled| compiled.spec);
        let nothing_named = !request.failed && request.from.is_empty() && request.only.is_empty();
        let selector = rerun::Selector {
            // Without a wish, what did not succeed is what people mean.
            failed: request.failed || (nothing_named && latest.is_none()),
            from: request.from,
            only: request.only,
        };
        let plan = rerun::plan(&run, &selector, latest.as_ref()).map_err(|e| {
            let hint = crate::spec::nearest(&e.task, e.known.iter().map(String::as_str))
                .map(|near| format!(": did you mean `{near}`?"))
                .unwrap_or_default();
            Error::BadRequest(format!("run `{id}` has no task `{}`{hint}", e.task))
        })?;
        let items = rerun_items(&run, &plan);
        let version = plan.spec.version.clone();
        if !request.dry_run && plan.executes() {
            let execute = plan.execute();
            let mut run = run;
            let fresh = external::digests(&plan.spec).await;
            // What executes reads what is there now; what is kept was made from what was there then.
            for ((places, item), _) in
                external::places(&plan.spec).into_iter().zip(&plan.items).zip(&execute).filter(|(_, execute)| **execute)
            {
                let places = match &item.children {
                    Some(children) => {
                        let of = |child: &u32| external::of_task(&run, *child).into_iter().map(|(_, place)| place);
                        children.iter().flat_map(of).collect()
                    }
                    None => places,
                };
                for place in places {
                    match fresh.get(&place) {
                        Some(digest) => run.external_inputs.insert(place, digest.clone()),
                        None => run.external_inputs.remove(&place),
                    };
                }
            }
            let spec = Arc::clone(&plan.spec);
            self.0.handle.rerun(id, Event::Rerun { run: Box::new(run), spec, plan: Box::new(plan) }, text).await?;
        }
        Ok(v1::RerunResponse { run_id: id.into(), items, diagnostics: Vec::new(), version })
    }

    async fn lineage(&self, request: v1::LineageRequest) -> Result<v1::LineageResponse, Error> {
        self.0.blocking(move |shared| super::super::lineage::trace(&*shared.store, &request.digest)).await
    }
}

/// Most children that one line of a plan names.
const MOST_CHILDREN_NAMED: usize = 1_000;

/// Shows a plan: a line for each task, and for a fan-out that executes in part how much of it.
fn rerun_items(run: &Run, plan: &rerun::Plan) -> Vec<v1::RerunItem> {
    plan.items
        .iter()
        .zip(&plan.spec.tasks)
        .enumerate()
        .map(|(node, (item, task))| {
            let members = u32::try_from(node).ok().and_then(|node| run.groups.get(&node));
            let all = members.map_or(0, |group| group.members.len());
            let some = item.children.as_ref();
            let keys = some
                .into_iter()
                .flatten()
                .take(MOST_CHILDREN_NAMED)
                .filter_map(|&child| Some(run.item_of(child)?.key.to_string()))
                .collect();
            let executing = match (item.execute, some) {
                (false, _) => 0,
                (true, Some(children)) => children.len(),
                (true, None) => all,
            };
            v1::RerunItem {
                task: task.name.to_string(),
                execute: item.execute,
                reason: item.reason.clone(),
                keys,
                children: u32::try_from(all).unwrap_or(u32::MAX),
                children_executed: u32::try_from(executing).unwrap_or(u32::MAX),
            }
        })
        .collect()
}

/// Does what [`Runs::compile`] says. Takes seconds for the largest texts, and so never happens on the runtime.
fn compile(request: &v1::SubmitRequest, catalogue: &Catalogue) -> Result<Compiled, Vec<v1::Diagnostic>> {
    let checked = spec::check(&request.text, &request.path, catalogue);
    let wire = |diagnostics: &[spec::Diagnostic]| -> Vec<v1::Diagnostic> {
        diagnostics.iter().map(|d| d.to_wire(&request.path, &request.text)).collect()
    };
    let mut warnings = wire(&checked.diagnostics);
    let Some(pipeline) = checked.pipeline else { return Err(warnings) };
    warnings.extend(wire(&deliver::unset(&pipeline.hooks, deliver::is_set)));
    let working_dir =
        std::path::Path::new(&request.path).parent().map(|dir| dir.to_string_lossy().into_owned()).unwrap_or_default();
    let mut spec = spec::bind(&pipeline, catalogue, &request.params, &working_dir, request.no_cache)
        .map_err(|diagnostics| wire(&diagnostics))?;
    if globs::any(&spec) {
        globs::expand_globs(&mut spec).map_err(|diagnostic| vec![diagnostic.to_wire(&request.path, &request.text)])?;
    }
    Ok(Compiled { pipeline, spec, warnings })
}

struct Compiled {
    pipeline: Pipeline,
    spec: RunSpec,
    warnings: Vec<v1::Diagnostic>,
}

/// Gives the digest of what a client asks for.
fn asked(spec: &RunSpec) -> String {
    // Plain data with string keys.
    let request = serde_json::to_vec(&(&spec.pipeline, &spec.version, &spec.params)).unwrap_or_default();
    blake3::hash(&request).to_hex().to_string()
}

/// Gives the reason of a cancel as it is kept.
fn cause(reason: &str) -> String {
    match reason.trim() {
        "" => "on request".to_owned(),
        told => told.chars().filter(|c| !c.is_control()).take(LONGEST_CAUSE).collect(),
    }
}

/// Gives one page of the tasks of a run.
fn page(run: &Run, core: Option<&Core>, request: &v1::ListTasksRequest) -> Result<v1::ListTasksResponse, Error> {
    let limit = if request.limit == 0 { 100 } else { request.limit.min(MOST_ROWS) } as usize;
    let indices: Box<dyn Iterator<Item = u32>> = if request.group.is_empty() {
        Box::new(run.indices())
    } else {
        let node = run
            .find(&request.group)
            .ok_or_else(|| Error::NotFound(format!("run `{}` has no task `{}`", run.id, request.group)))?;
        // What has no children is shown itself.
        let members = run.groups.get(&node).map_or_else(|| vec![node], |group| group.members.clone());
        Box::new(members.into_iter())
    };
    let mut found = Vec::new();
    let mut reasons = core.map(views::Reasons::new);
    for index in indices.filter(|&index| request.after_index == 0 || index > request.after_index) {
        let Some(task) = run.task(index) else { continue };
        if !request.states.is_empty() && !request.states.contains(&records::task_state(&task.state).into()) {
            continue;
        }
        if found.len() == limit {
            return Ok(v1::ListTasksResponse { tasks: found, more: true });
        }
        found.extend(views::task_view(run, index, reasons.as_mut()));
    }
    Ok(v1::ListTasksResponse { tasks: found, more: false })
}

#[tonic::async_trait]
impl RunService for Runs {
    async fn validate(&self, request: Request<v1::ValidateRequest>) -> Result<Response<v1::ValidateResponse>, Status> {
        let (request, catalogue) = (request.into_inner(), self.0.operators());
        let answer = self.0.checking(move || {
            let checked = spec::check(&request.text, &request.path, &catalogue);
            let diagnostics = checked.diagnostics.iter().map(|d| d.to_wire(&request.path, &request.text)).collect();
            let (version, name) = checked
                .pipeline
                .map(|pipeline| (pipeline.version().to_string(), pipeline.name.to_string()))
                .unwrap_or_default();
            v1::ValidateResponse { diagnostics, version, name }
        });
        Ok(Response::new(answer.await?))
    }

    async fn submit(&self, request: Request<v1::SubmitRequest>) -> Result<Response<v1::SubmitResponse>, Status> {
        let request = request.into_inner();
        if request.idempotency_key.starts_with(HOOK_KEYS) {
            let message = format!("idempotency keys that begin with `{HOOK_KEYS}` are those of hooks: choose another");
            return Err(Error::BadRequest(message).into());
        }
        Ok(Response::new(self.submit_for(request, true).await?))
    }

    async fn plan(&self, request: Request<v1::SubmitRequest>) -> Result<Response<v1::PlanResponse>, Status> {
        let request = request.into_inner();
        let response = match self.compile(&request).await? {
            Err(diagnostics) => v1::PlanResponse { diagnostics, ..v1::PlanResponse::default() },
            Ok(compiled) => {
                let spec = Arc::new(compiled.spec);
                let external_inputs = external::digests(&spec).await;
                self.0.unsettled.settled(external_inputs.keys()).await;
                let tasks = plan::tasks(&self.0, Arc::clone(&spec), external_inputs, request.no_cache).await?;
                v1::PlanResponse { diagnostics: compiled.warnings, tasks, version: spec.version.clone() }
            }
        };
        Ok(Response::new(response))
    }

    async fn get_run(&self, request: Request<v1::GetRunRequest>) -> Result<Response<v1::RunView>, Status> {
        let id = self.resolve(request.into_inner().run_id).await?;
        Ok(Response::new(self.view(id, true).await?))
    }

    async fn list_tasks(
        &self,
        request: Request<v1::ListTasksRequest>,
    ) -> Result<Response<v1::ListTasksResponse>, Status> {
        let request = request.into_inner();
        let id = self.resolve(request.run_id.clone()).await?;
        let wanted = request.clone();
        let active = self.0.handle.read(move |core| core.run(&id).map(|run| page(run, Some(core), &wanted))).await?;
        let found = match active {
            Some(found) => found,
            None => page(&self.load(id).await?, None, &request),
        };
        Ok(Response::new(found?))
    }

    async fn list_runs(&self, request: Request<v1::ListRunsRequest>) -> Result<Response<v1::ListRunsResponse>, Status> {
        let request = request.into_inner();
        let limit = if request.limit == 0 { 50 } else { request.limit.min(MOST_ROWS) } as usize;
        let ids = self
            .0
            .blocking(move |shared| {
                let mut found = Vec::new();
                let mut before = match request.before_run_id.parse::<RunId>() {
                    Ok(id) => Some(Key::Run(id).encode()),
                    Err(_) => None,
                };
                let mut size = 0;
                while found.len() < limit && size < LARGEST_LIST {
                    let rows = shared.store.scan_back(&prefix::runs(), before.as_deref(), limit.min(ROWS))?;
                    let Some(last) = rows.last() else { break };
                    before = Some(last.0.clone());
                    for (key, value) in &rows {
                        let (key, record) = store::codec::decode_row::<RunRecord>(key, value)?;
                        if let Key::Run(id) = key
                            && (request.pipeline.is_empty() || request.pipeline == record.pipeline)
                            && found.len() < limit
                            && size < LARGEST_LIST
                        {
                            // The bound pipeline of each run is large, and no part of the list.
                            let record = RunRecord { spec: bytes::Bytes::new(), ..record };
                            size += record.encoded_len();
                            found.push((id, record));
                        }
                    }
                }
                Ok(found)
            })
            .await?;
        let mut runs = Vec::with_capacity(ids.len());
        for (id, record) in ids {
            let active =
                self.0.handle.read(move |core| core.run(&id).map(|run| views::run_view(run, Some(core), false)));
            // What is not active is shown from its record alone, however many tasks it has.
            runs.push(active.await?.unwrap_or_else(|| views::record_view(record)));
        }
        Ok(Response::new(v1::ListRunsResponse { runs }))
    }

    type WatchRunStream = Pin<Box<dyn Stream<Item = Result<v1::RunView, Status>> + Send>>;

    async fn watch_run(&self, request: Request<v1::GetRunRequest>) -> Result<Response<Self::WatchRunStream>, Status> {
        let id = self.resolve(request.into_inner().run_id).await?;
        // Listening starts before the first look, so that no change falls between the two.
        let mut changes = self.0.handle.changes();
        let first = self.view(id, true).await?;
        let (sender, receiver) = mpsc::channel(4);
        let runs = self.clone();
        tokio::spawn(async move {
            let mut view = first;
            loop {
                let ended = is_terminal(view.state);
                let pause = pause_after(&view);
                if sender.send(Ok(view)).await.is_err() || ended {
                    return;
                }
                loop {
                    tokio::select! {
                        changed = changes.recv() => match changed {
                            Ok(changed) if changed != id => {}
                            // Behind: whatever was missed is in the next look.
                            Ok(_) | Err(tokio::sync::broadcast::error::RecvError::Lagged(_)) => break,
                            Err(tokio::sync::broadcast::error::RecvError::Closed) => return,
                        },
                        () = sender.closed() => return,
                        () = runs.0.stop.cancelled() => {
                            let _ = sender.send(Err(Status::unavailable("the coordinator is stopping"))).await;
                            return;
                        }
                    }
                }
                // A large run changes thousands of times a second: looking at each change would slow it down.
                tokio::time::sleep(pause).await;
                view = match runs.view(id, true).await {
                    Ok(view) => view,
                    Err(e) => {
                        let _ = sender.send(Err(e.into())).await;
                        return;
                    }
                };
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn cancel_run(
        &self,
        request: Request<v1::CancelRunRequest>,
    ) -> Result<Response<v1::CancelRunResponse>, Status> {
        let request = request.into_inner();
        let id = self.resolve(request.run_id).await?;
        let event = match request.task.as_str() {
            "" => Event::CancelRun { run: id, gently: false, why: cause(&request.reason) },
            task => {
                let wanted = task.to_owned();
                let found = self.0.handle.read(move |core| core.run(&id).map(|run| run.find(&wanted))).await?;
                match found {
                    None => return Err(Error::from(crate::core::Refused::RunEnded(id)).into()),
                    Some(None) => {
                        return Err(Error::NotFound(format!("run `{id}` has no task `{task}`")).into());
                    }
                    Some(Some(task)) => Event::CancelTask { run: id, task },
                }
            }
        };
        match self.0.handle.decide(event).await {
            Ok(_) => {}
            // Not active: it does not exist, or has ended.
            Err(Error::Refused(crate::core::Refused::NoSuchRun(_))) => {
                let run = self.load(id).await?;
                if run.state.is_terminal() {
                    return Err(Error::from(crate::core::Refused::RunEnded(id)).into());
                }
            }
            Err(e) => return Err(e.into()),
        }
        let state = self.view(id, false).await?.state;
        Ok(Response::new(v1::CancelRunResponse { state }))
    }

    async fn rerun(&self, request: Request<v1::RerunRequest>) -> Result<Response<v1::RerunResponse>, Status> {
        Ok(Response::new(Self::rerun(self, request.into_inner()).await?))
    }

    async fn explain(&self, request: Request<v1::ExplainRequest>) -> Result<Response<v1::ExplainResponse>, Status> {
        let request = request.into_inner();
        let id = self.resolve(request.run_id).await?;
        let (wanted, task) = (id, request.task.clone());
        let active = self
            .0
            .handle
            .read(move |core| {
                core.run(&wanted).map(|run| {
                    (
                        views::explanations(run, core, &task),
                        views::run_explanation(run, core),
                        records::run_state(run.state),
                        run.find(&task).is_some(),
                    )
                })
            })
            .await?;
        let (explanations, whole, state, known) = match active {
            Some(found) => found,
            None => {
                let run = self.load(id).await?;
                let task = request.task.clone();
                self.0
                    .handle
                    .read(move |core| {
                        let known = run.find(&task).is_some();
                        (
                            views::explanations(&run, core, &task),
                            views::run_explanation(&run, core),
                            records::run_state(run.state),
                            known,
                        )
                    })
                    .await?
            }
        };
        if !request.task.is_empty() && !known {
            return Err(Error::NotFound(format!("run `{id}` has no task `{}`", request.task)).into());
        }
        Ok(Response::new(v1::ExplainResponse { explanations, state: state.into(), run: whole }))
    }

    async fn list_artifacts(
        &self,
        request: Request<v1::ListArtifactsRequest>,
    ) -> Result<Response<v1::ListArtifactsResponse>, Status> {
        let request = request.into_inner();
        let artifacts = self.0.blocking(move |shared| super::super::lineage::list(&*shared.store, &request)).await?;
        Ok(Response::new(v1::ListArtifactsResponse { artifacts }))
    }

    async fn lineage(&self, request: Request<v1::LineageRequest>) -> Result<Response<v1::LineageResponse>, Status> {
        Ok(Response::new(Self::lineage(self, request.into_inner()).await?))
    }
}

/// Says how long a watcher waits after it has seen this: the larger the run, the dearer is a look at it.
fn pause_after(view: &v1::RunView) -> std::time::Duration {
    let children: u64 = view.tasks.iter().flat_map(|task| &task.children).map(|count| u64::from(count.count)).sum();
    if children > u64::from(MANY) {
        return LOOK_AT_LARGE;
    }
    let tasks = u32::try_from(view.tasks.len()).unwrap_or(u32::MAX);
    LOOK_AT_TASK.saturating_mul(tasks).clamp(LOOK, LOOK_AT_LARGE)
}

fn is_terminal(state: i32) -> bool {
    records::run_state_from(state).is_some_and(crate::core::RunState::is_terminal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watcher_of_a_large_run_looks_less_often() {
        let pause = |tasks: usize, children: u32| {
            let count = v1::TaskCount { count: children, ..Default::default() };
            let task = v1::TaskView { children: vec![count], ..Default::default() };
            let mut view = v1::RunView { tasks: vec![v1::TaskView::default(); tasks], ..Default::default() };
            view.tasks.push(task);
            pause_after(&view).as_millis()
        };
        assert_eq!([pause(3, 10), pause(3, 10_000)], [20, 500]);
        assert_eq!([pause(999, 0), pause(4_999, 0), pause(100_000, 0)], [100, 500, 500], "tasks count too");
    }
}
