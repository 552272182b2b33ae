//! Runs for the cluster to work on: chains, wide ones, fan-outs with joins, failures that are retried.

use std::{
    net::SocketAddr,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use segue_proto::v1::{self, run_service_client::RunServiceClient};
use segue_tests::{draw::Draw, rpc::Rpc};

use crate::audit::Auditor;

/// Commands of one layer of [`layers`].
const WIDTH: u32 = 50;

/// How long the load rests when enough runs go on, and after a refusal.
const REST: Duration = Duration::from_millis(20);

/// What every command does: it looks whether the attempt before it is still alive, and notes that it begins and ends.
const SCRIPT: &str = r#"
pid="pids/$SEGUE_RUN_ID.$SEGUE_TASK"
if read -r old 2>/dev/null < "$pid" && tr '\0' '\n' 2>/dev/null < "/proc/$old/environ" | grep -qxF "SEGUE_TASK=$SEGUE_TASK"; then
  echo "overlap $SEGUE_RUN_ID $SEGUE_TASK $SEGUE_ATTEMPT" >> ledger
fi
echo $$ > "$pid"
echo "begin $SEGUE_RUN_ID $SEGUE_TASK $SEGUE_ATTEMPT" >> ledger
sleep "$SEGUE_PARAM_SLOW"
if [ "$SEGUE_ATTEMPT" -le "$SEGUE_PARAM_FAILS" ]; then exit 75; fi
for name in $SEGUE_PARAM_MAKES; do echo "$SEGUE_TASK" > "$SEGUE_OUTPUT_DIR/$name"; done
echo "end $SEGUE_RUN_ID $SEGUE_TASK $SEGUE_ATTEMPT" >> ledger
"#;

/// Submits runs until it is stopped.
#[derive(Debug)]
pub struct Load {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<u32>,
}

impl Load {
    /// Keeps so many `runs` going at a time; `pipeline` makes the text of each.
    pub fn start(
        address: SocketAddr,
        dir: &Path,
        runs: usize,
        mut pipeline: impl FnMut() -> String + Send + 'static,
        auditor: &Arc<Auditor>,
    ) -> Self {
        std::fs::create_dir_all(dir.join("pids")).expect("the temporary directory can be written");
        std::fs::write(dir.join("work.sh"), SCRIPT).expect("the temporary directory can be written");
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, auditor, path) = (Arc::clone(&stop), Arc::clone(auditor), dir.join("load.toml"));
        let thread = thread::spawn(move || {
            let rpc = Rpc::new(address);
            let mut submitted = 0;
            while !stopped.load(Ordering::SeqCst) {
                if auditor.open() >= runs {
                    thread::sleep(REST);
                    continue;
                }
                submitted += 1;
                auditor.accepted(&submit(&rpc, &path, &pipeline(), submitted));
            }
            submitted
        });
        Self { stop, thread }
    }

    /// Stops it, and says how many runs it has submitted.
    pub fn stop(self) -> u32 {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.join().expect("the load goes on until it is stopped")
    }
}

/// Submits a run and gives its id: again and again under one key, until somebody says that it is accepted.
fn submit(rpc: &Rpc, path: &Path, text: &str, number: u32) -> String {
    loop {
        let request = v1::SubmitRequest {
            text: text.to_owned(),
            path: path.to_string_lossy().into_owned(),
            idempotency_key: format!("chaos-{number}"),
            ..v1::SubmitRequest::default()
        };
        match rpc.wait(RunServiceClient::new(rpc.channel()).submit(request)) {
            Ok(answer) => {
                let answer = answer.into_inner();
                assert!(answer.diagnostics.is_empty(), "the load is a good pipeline: {:?}", answer.diagnostics);
                return answer.run_id;
            }
            Err(_) => thread::sleep(REST),
        }
    }
}

/// Makes a pipeline of one of a few shapes, in which the longest commands take so long.
pub fn mixed(longest: Duration, draw: &mut Draw) -> String {
    let mut text = String::from(
        "[pipeline]\nname = \"load\"\n[defaults]\nresources = { cpu = 1 }\n\
         retry = { attempts = 100, backoff = \"constant\", initial = \"20ms\", jitter = 0.5, on = [\"infra\", \"timeout\", \"lost\"], \
         rules = [{ exit_codes = [75], attempts = 100, backoff = \"constant\", initial = \"10ms\" }] }\n",
    );
    match draw.below(3) {
        0 => {
            for step in 0..6 {
                let after = if step == 0 { String::new() } else { format!("after = [\"t{}\"]\n", step - 1) };
                text.push_str(&task(longest, &format!("t{step}"), draw, &after));
            }
        }
        1 => {
            for column in 0..8 {
                text.push_str(&task(longest, &format!("a{column}"), draw, ""));
                text.push_str(&task(longest, &format!("b{column}"), draw, &format!("after = [\"a{column}\"]\n")));
            }
            text.push_str(&task(longest, "last", draw, "after = [\"b0\", \"b3\", \"b7\"]\nrun_if = \"all_done\"\n"));
            text.push_str(&task(longest, "clean", draw, "finally = true\n"));
        }
        _ => {
            let children = "foreach = { range = 12 }\noutputs = [\"part\"]\nmax_parallel = 5\n";
            text.push_str(&task(longest, "each", draw, children));
            text.push_str(&task(longest, "join", draw, "inputs = { parts = \"each.part\" }\n"));
        }
    }
    text
}

/// Makes a pipeline of so many tasks, none of which is tried twice: layers of which each task waits for one of the layer
/// above, or a fan-out with two tasks after it.
pub fn wide(tasks: u32, longest: Duration, draw: &mut Draw) -> String {
    let mut text =
        String::from("[pipeline]\nname = \"wide\"\n[defaults]\nresources = { cpu = 1 }\nretry = { attempts = 1 }\n");
    let mut add = |name: &str, draw: &mut Draw, makes: &str, more: &str| {
        let millis = draw.time(longest).as_millis();
        text.push_str(&work(name, &format!("{}.{:03}", millis / 1_000, millis % 1_000), 0, makes, more));
    };
    if draw.below(2) == 0 {
        for number in 0..tasks {
            let after = number.checked_sub(WIDTH).map(|above| format!("after = [\"t{above}\"]\n")).unwrap_or_default();
            add(&format!("t{number}"), draw, "", &after);
        }
    } else {
        // The fan-out itself is a task as well.
        let children = tasks.saturating_sub(3);
        add("each", draw, "part", &format!("foreach = {{ range = {children} }}\noutputs = [\"part\"]\n"));
        add("join", draw, "", "inputs = { parts = \"each.part\" }\n");
        add("last", draw, "", "after = [\"join\"]\n");
    }
    text
}

fn task(longest: Duration, name: &str, draw: &mut Draw, more: &str) -> String {
    // Now and then so long that a lease passes in the middle.
    let usual = longest.min(Duration::from_millis(90));
    let most = if draw.below(20) == 0 { longest } else { usual };
    let slow = draw.time(most);
    let fails = u64::from(draw.below(10) == 0);
    let makes = if more.contains("outputs") { "part" } else { "" };
    work(name, &format!("{}.{:03}", slow.as_secs(), slow.subsec_millis()), fails, makes, more)
}

fn work(name: &str, slow: &str, fails: u64, makes: &str, more: &str) -> String {
    format!(
        "[tasks.{name}]\ncommand = [\"sh\", \"work.sh\"]\nwith = {{ slow = \"{slow}\", fails = {fails}, makes = \"{makes}\" }}\n{more}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wide_run_has_as_many_tasks_as_it_was_told() {
        let mut shapes = [0, 0];
        for seed in 0..8 {
            let text = wide(1_000, Duration::from_millis(200), &mut Draw::new(seed));
            let tables = text.matches("[tasks.").count();
            let children = if text.contains("range = 997") { 997 } else { 0 };
            assert_eq!(tables + children, 1_000, "{}", &text[..300]);
            shapes[usize::from(children > 0)] += 1;
        }
        assert!(shapes.iter().all(|count| *count > 0), "both shapes are drawn: {shapes:?}");
    }
}
