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
use segue_tests::rpc::Rpc;

use crate::{audit::Auditor, draw::Draw};

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

/// How much there is to do.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Runs that go on at a time.
    pub runs: usize,
    /// How long the longest commands take.
    pub longest: Duration,
}

/// Submits runs until it is stopped.
#[derive(Debug)]
pub struct Load {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<u32>,
}

impl Load {
    /// Keeps runs going.
    pub fn start(address: SocketAddr, dir: &Path, shape: Shape, mut draw: Draw, auditor: &Arc<Auditor>) -> Self {
        std::fs::create_dir_all(dir.join("pids")).expect("the temporary directory can be written");
        std::fs::write(dir.join("work.sh"), SCRIPT).expect("the temporary directory can be written");
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, auditor, path) = (Arc::clone(&stop), Arc::clone(auditor), dir.join("load.toml"));
        let thread = thread::spawn(move || {
            let rpc = Rpc::new(address);
            let mut submitted = 0;
            while !stopped.load(Ordering::SeqCst) {
                if auditor.open() >= shape.runs {
                    thread::sleep(REST);
                    continue;
                }
                submitted += 1;
                let text = pipeline(shape.longest, &mut draw);
                auditor.accepted(&submit(&rpc, &path, &text, submitted));
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

/// Makes a pipeline of one of a few shapes.
fn pipeline(longest: Duration, draw: &mut Draw) -> String {
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

fn task(longest: Duration, name: &str, draw: &mut Draw, more: &str) -> String {
    // Now and then so long that a lease passes in the middle.
    let usual = longest.min(Duration::from_millis(90));
    let most = if draw.below(20) == 0 { longest } else { usual };
    let slow = draw.time(most);
    let fails = u64::from(draw.below(10) == 0);
    let makes = if more.contains("outputs") { "part" } else { "" };
    let (seconds, rest) = (slow.as_secs(), slow.subsec_millis());
    format!(
        "[tasks.{name}]\ncommand = [\"sh\", \"work.sh\"]\nwith = {{ slow = \"{seconds}.{rest:03}\", fails = {fails}, makes = \"{makes}\" }}\n{more}"
    )
}
