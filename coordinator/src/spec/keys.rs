//! Every key of a pipeline file, once: the checker takes its known keys from here, and so do the JSON Schema and the
//! reference page. A key that is not here is an unknown key.

use segue_proto::operator::KINDS;

/// A table of a pipeline file.
#[derive(Debug)]
pub struct Table {
    /// As people call it, such as `[tasks.NAME]` or `retry`.
    pub name: &'static str,
    /// A paragraph of Markdown.
    pub intro: &'static str,
    pub keys: &'static [Key],
    /// What any other key holds; absent where other keys are errors.
    pub others: Option<&'static Key>,
    /// Keys of which exactly one must be there; empty: no such rule.
    pub one_of: &'static [&'static str],
}

/// A key of a table.
#[derive(Debug)]
pub struct Key {
    pub name: &'static str,
    pub form: Form,
    /// In Markdown; empty: none. `required` where the table cannot do without.
    pub default: &'static str,
    /// In Markdown, on one line.
    pub meaning: &'static str,
    /// The value, in TOML; empty: none needed.
    pub example: &'static str,
}

/// What a key takes.
#[derive(Debug)]
pub enum Form {
    /// Any string.
    Text,
    /// 1 to 64 of `a-z`, `0-9`, `_`, `-`.
    Name,
    Bool,
    /// A whole number in a range, both ends included.
    Int(i64, i64),
    /// A number in a range, both ends included.
    Number(f64, f64),
    Duration,
    Memory,
    /// An expression of [`crate::expr`].
    Condition,
    /// `task.output`
    Output,
    /// One of these words.
    Word(&'static [&'static str]),
    /// A string, number or boolean, or a list of these.
    Value,
    /// Any value, tables included.
    Any,
    List(&'static Form),
    /// A table whose keys are names, and what they hold.
    Map(&'static Form),
    Table(&'static Table),
    /// `"${params.NAME}"`: the value of a parameter.
    Param,
    /// Any of these.
    Either(&'static [Form]),
}

impl Table {
    /// Iterates over the names of the keys.
    pub fn words(&self) -> impl Iterator<Item = &'static str> + Clone {
        self.keys.iter().map(|key| key.name)
    }
}

macro_rules! key {
    ($name:expr, $form:expr, $default:expr, $meaning:expr, $example:expr $(,)?) => {
        Key { name: $name, form: $form, default: $default, meaning: $meaning, example: $example }
    };
}

const fn table(name: &'static str, intro: &'static str, keys: &'static [Key]) -> Table {
    Table { name, intro, keys, others: None, one_of: &[] }
}

pub(super) const RUN_IF: [&str; 5] = ["all_succeeded", "any_succeeded", "any_failed", "all_done", "always"];
pub(super) const BACKOFF: [&str; 2] = ["constant", "exponential"];
pub(super) const ON_FULL: [&str; 3] = ["queue", "skip", "cancel_running"];
pub(super) const CLASSES: [&str; 6] = ["user", "data", "infra", "timeout", "oom", "lost"];
pub(super) const TYPES: [&str; 6] = ["string", "int", "float", "bool", "path", "list"];

/// Largest number of slots of a pool, of a limit by key, of children at a time.
pub(super) const MOST_SLOTS: i64 = 1_000_000;
/// Most runs of a pipeline at a time.
pub(super) const MOST_RUNS: i64 = 10_000;
pub(super) const MOST_CORES: f64 = 4_096.0;
pub(super) const MOST_GPUS: i64 = 1_024;
pub(super) const MOST_TRIES: i64 = 100;

/// The file itself.
pub static FILE: Table = table(
    "The file",
    "TOML 1.1, UTF-8, at most 16 MiB.",
    &[
        key!("pipeline", Form::Table(&PIPELINE), "required", "what holds for the whole pipeline", ""),
        key!("params", Form::Map(&Form::Either(&[Form::Value, Form::Table(&PARAM)])), "`{}`", "what a run may set", ""),
        key!("defaults", Form::Table(&DEFAULTS), "`{}`", "what every task starts from", ""),
        key!("schedule", Form::Table(&SCHEDULE), "none", "when it runs by itself", ""),
        key!("hooks", Form::List(&Form::Table(&HOOK)), "`[]`", "whom to tell, and of what: `[[hooks]]`", ""),
        key!("retention", Form::Table(&RETENTION), "`{}`", "what is kept of the runs, and for how long", ""),
        key!("tasks", Form::Map(&Form::Table(&TASK)), "required", "one table for each task, `[tasks.NAME]`", ""),
    ],
);

pub static PIPELINE: Table = table(
    "[pipeline]",
    "",
    &[
        key!("name", Form::Name, "required", "1 to 64 of `a-z`, `0-9`, `_`, `-`", "\"customer-segmentation\""),
        key!("description", Form::Text, "`\"\"`", "one line for people", "\"Segments customers\""),
        key!(
            "priority",
            Form::Int(i32::MIN as i64, i32::MAX as i64),
            "`0`",
            "larger goes first among the runs that wait; one step is worth a minute of waiting",
            "5",
        ),
        key!(
            "concurrency",
            Form::Either(&[Form::Int(1, MOST_RUNS), Form::Table(&CONCURRENCY)]),
            "no limit",
            "how many runs may go on at a time",
            "1",
        ),
        key!(
            "sla",
            Form::Duration,
            "none",
            "a run that still goes after this time is late: one `sla.missed` event, and the hooks that wait for it",
            "\"2h\""
        ),
    ],
);

pub static HOOK: Table = Table {
    name: "[[hooks]]",
    intro: "A hook has a `webhook` or a `command`. It takes no parameters of the pipeline, and `[defaults]` do not reach it.",
    others: None,
    one_of: &["webhook", "command"],
    keys: &[
        key!("on", Form::List(&Form::Word(&ON)), "required", "what it waits for", "[\"failure\", \"sla_miss\"]"),
        key!(
            "webhook",
            Form::Either(&[Form::Text, Form::Table(&HOOK_SECRET)]),
            "",
            "an address that gets a signed POST",
            "\"https://alerts.example.com/segue\"",
        ),
        key!(
            "secret",
            Form::Table(&HOOK_SECRET),
            "unsigned",
            "key of the signature, from the environment of the coordinator",
            "{ secret = \"env:SEGUE_HOOK_KEY\" }",
        ),
        key!(
            "headers",
            Form::Map(&Form::Either(&[Form::Text, Form::Table(&HOOK_SECRET)])),
            "`{}`",
            "further headers",
            "{ Authorization = { secret = \"env:SEGUE_HOOK_TOKEN\" } }",
        ),
        key!(
            "command",
            Form::List(&Form::Text),
            "",
            "a program that a worker executes",
            "[\"python3\", \"notify.py\"]"
        ),
        key!("timeout", Form::Duration, "webhook `\"10s\"`; command none", "of one try", "\"20s\""),
        key!(
            "retry",
            Form::Either(&[Form::Int(1, MOST_TRIES), Form::Table(&RETRY)]),
            "webhook: for a day; command: as in a task",
            "as in a task",
            "{ attempts = 5 }"
        ),
        key!("resources", Form::Table(&RESOURCES), "as in a task", "of a command", "{ cpu = 2, memory = \"1GiB\" }"),
        key!(
            "env",
            Form::Map(&Form::Either(&[Form::Text, Form::Table(&SECRET)])),
            "`{}`",
            "of a command",
            "{ TOKEN = { secret = \"env:TRACKER_TOKEN\" } }"
        ),
    ],
};

pub static HOOK_SECRET: Table = table(
    "secret of a hook",
    "",
    &[key!(
        "secret",
        Form::Text,
        "required",
        "a variable of the coordinator that begins with SEGUE_HOOK_",
        "\"env:SEGUE_HOOK_KEY\""
    )],
);

const ON: [&str; 4] = ["success", "failure", "cancelled", "sla_miss"];

pub static SCHEDULE: Table = table(
    "[schedule]",
    "It takes effect with `segue schedules apply FILE`. Either `cron` or `every`.",
    &[
        key!(
            "cron",
            Form::Text,
            "none",
            "five fields: minute, hour, day of the month, month, day of the week; or `@daily` and the like",
            "\"0 3 * * *\""
        ),
        key!("every", Form::Duration, "none", "a span of real time, whole seconds, in the place of `cron`", "\"15m\""),
        key!("timezone", Form::Text, "`\"UTC\"`", "a name of the IANA data base", "\"Europe/Berlin\""),
        key!("start", Form::Text, "none", "no interval starts before this date or time", "\"2026-01-01\""),
        key!("end", Form::Text, "none", "no interval ends after this date or time", "\"2026-12-31\""),
        key!("catch_up", Form::Word(&CATCH_UP), "`\"last\"`", "which missed intervals are executed", "\"all\""),
        key!("catch_up_window", Form::Duration, "`\"7d\"`", "intervals that ended longer ago stay missed", "\"2d\""),
        key!(
            "overlap",
            Form::Word(&OVERLAP),
            "`\"skip\"`",
            "what a fire does while a run of an earlier one goes on",
            "\"queue\""
        ),
        key!(
            "jitter",
            Form::Duration,
            "none",
            "a fire comes up to this much later, always the same for the same fire",
            "\"30s\""
        ),
        key!(
            "params",
            Form::Map(&Form::Value),
            "`{}`",
            "parameters of each run; may hold `${interval.start_date}` and the like",
            "{ day = \"${interval.start_date}\" }"
        ),
    ],
);

pub static RETENTION: Table = table(
    "[retention]",
    "`segue gc` takes away what no rule keeps.",
    &[
        key!("keep_runs", Form::Int(1, 1_000_000), "none", "keeps this many of the newest ended runs", "100"),
        key!("keep_for", Form::Duration, "none", "keeps runs for this long after their end", "\"90d\""),
        key!(
            "keep_failed_for",
            Form::Duration,
            "as other runs",
            "keeps failed and cancelled runs for this long, and no longer",
            "\"14d\""
        ),
        key!(
            "logs_for",
            Form::Duration,
            "as long as the run",
            "keeps logs for this long after the end of their run",
            "\"30d\""
        ),
        key!("cache_for", Form::Duration, "for ever", "keeps results that later runs may use for this long", "\"30d\""),
    ],
);

const CATCH_UP: [&str; 3] = ["none", "last", "all"];
const OVERLAP: [&str; 4] = ["skip", "queue", "cancel_running", "allow"];

pub static CONCURRENCY: Table = table(
    "concurrency",
    "`concurrency = 1` is short for `concurrency = { max = 1 }`.",
    &[
        key!("max", Form::Int(1, MOST_RUNS), "required", "runs that may go on at a time", "1"),
        key!(
            "key",
            Form::Text,
            "`\"\"`",
            "runs with the same key count together; may hold `${params.NAME}`. Empty: all runs of the pipeline",
            "\"${params.customer}\"",
        ),
        key!(
            "on_full",
            Form::Word(&ON_FULL),
            "`\"queue\"`",
            "what becomes of a run that finds no room: it waits, it ends at once as skipped, or the runs that go on are \
             cancelled and it starts when they have ended",
            "\"skip\"",
        ),
    ],
);

pub static PARAM: Table = table(
    "[params]",
    "A parameter is named with 1 to 64 of `a-z`, `0-9`, `_`, not beginning with a digit. It is a default value alone, \
     whose type is that of the value, or a table:",
    &[
        key!("type", Form::Word(&TYPES), "required", "what its values are", "\"path\""),
        key!("default", Form::Value, "none", "a value of that type; without it, a run must give the parameter", "200"),
        key!(
            "one_of",
            Form::List(&Form::Value),
            "any",
            "the allowed values of a string, path, int or float",
            "[\"a\", \"b\"]",
        ),
        key!("min", Form::Number(f64::MIN, f64::MAX), "none", "smallest value of an int or float", "0"),
        key!("max", Form::Number(f64::MIN, f64::MAX), "none", "largest value of an int or float", "0.5"),
        key!("help", Form::Text, "`\"\"`", "one line for people", "\"CSV of order lines\""),
    ],
);

const TIMEOUT: Key = key!(
    "timeout",
    Form::Duration,
    "none",
    "from the start to the end of an attempt; a longer one is killed. A sensor waits no longer in all, and takes no default",
    "\"30m\"",
);
const QUEUE_TIMEOUT: Key =
    key!("queue_timeout", Form::Duration, "none", "how long the task may wait for a worker", "\"1h\"");
const HEARTBEAT_TIMEOUT: Key = key!(
    "heartbeat_timeout",
    Form::Duration,
    "none",
    "commands only: how long one may be silent; it must touch the file `$SEGUE_HEARTBEAT` more often",
    "\"30s\"",
);
const GRACE: Key =
    key!("grace", Form::Duration, "that of the worker", "between SIGTERM and SIGKILL; at most an hour", "\"10s\"");
const MEMORY_LIMIT: Key = key!(
    "memory_limit",
    Form::Memory,
    "none",
    "an attempt whose processes take more memory is killed and fails with class `oom`; `resources` only reserves",
    "\"4GiB\"",
);
const RETRY_KEY: Key = key!(
    "retry",
    Form::Either(&[Form::Int(1, MOST_TRIES), Form::Table(&RETRY)]),
    "see `retry`",
    "when a failed attempt is tried again; a number is that of the attempts",
    "{ attempts = 5 }",
);
const RESOURCES_KEY: Key = key!(
    "resources",
    Form::Table(&RESOURCES),
    "`{ cpu = 1 }`",
    "what it takes from a worker",
    "{ cpu = 2, memory = \"4GiB\" }",
);
const ENV: Key = key!(
    "env",
    Form::Map(&Form::Either(&[Form::Text, Form::Table(&SECRET)])),
    "`{}`",
    "environment variables: text, or a reference to a secret",
    "{ LEVEL = \"debug\", TOKEN = { secret = \"env:CRM_TOKEN\" } }",
);
const POOLS: Key = key!(
    "pools",
    Form::Map(&Form::Int(0, MOST_SLOTS)),
    "`{}`",
    "slots of named pools that each attempt holds; 0 takes a default away",
    "{ db = 2 }",
);
const POOL: Key = key!("pool", Form::Name, "none", "short for one slot of one pool", "\"db\"");

pub static DEFAULTS: Table = table(
    "[defaults]",
    "What every task starts from. A task changes it key by key: with `[defaults] resources = { cpu = 2, memory = \
     \"1GiB\" }`, a task's `resources = { cpu = 1 }` still asks for 1 GiB.",
    &[TIMEOUT, QUEUE_TIMEOUT, HEARTBEAT_TIMEOUT, GRACE, MEMORY_LIMIT, RETRY_KEY, RESOURCES_KEY, ENV, POOLS, POOL],
);

pub static TASK: Table = Table {
    name: "[tasks.NAME]",
    intro: "A task is named with 1 to 64 of `a-z`, `0-9`, `_`, `-`. It executes an operator (`op`), a command \
            (`command`), or waits for something outside (`sensor`): exactly one of them.",
    others: None,
    one_of: &["op", "command", "sensor"],
    keys: &[
        key!("op", Form::Text, "", "name of an operator", "\"retail.rfm\""),
        key!(
            "command",
            Form::List(&Form::Text),
            "",
            "program and arguments; no shell is involved",
            "[\"python3\", \"publish.py\"]",
        ),
        key!(
            "sensor",
            Form::Table(&SENSOR),
            "",
            "a condition outside that the coordinator looks at; it takes no worker and no slot",
            "{ file = \"s3://bucket/ready\" }",
        ),
        key!(
            "inputs",
            Form::Map(&Form::Output),
            "`{}`",
            "data edges. An operator says which inputs it has, of which kind, and which are optional; a command may \
             name any. An input from a fan-out brings the outputs of all children, by key",
            "{ orders = \"clean.orders\" }",
        ),
        key!(
            "after",
            Form::List(&Form::Name),
            "`[]`",
            "control edges: waits for these tasks and takes nothing from them",
            "[\"report\"]",
        ),
        key!(
            "with",
            Form::Map(&Form::Value),
            "`{}`",
            "parameters of the operator, checked against its types and limits; or of the command",
            "{ k_max = 9 }",
        ),
        key!(
            "outputs",
            Form::Either(&[Form::Map(&Form::Word(&KINDS)), Form::List(&Form::Name)]),
            "`{}`",
            "commands only: files that the command writes, and without which it has failed, with their kinds; a list \
             stands for kind `file`",
            "{ receipt = \"json\" }",
        ),
        key!(
            "run_if",
            Form::Word(&RUN_IF),
            "`\"all_succeeded\"`",
            "which ends of its needs let the task run. `all_done`: whatever came of them, unless the run was \
             cancelled; `always`: even then",
            "\"any_failed\"",
        ),
        key!(
            "when",
            Form::Condition,
            "none",
            "a condition in CEL over `params`, `tasks`, `item`, `key`, `index` and `run`; false skips the task",
            "\"params.mode == 'full' && tasks.check.outputs.report.rows > 0\"",
        ),
        key!(
            "finally",
            Form::Bool,
            "`false`",
            "runs once everything that is not `finally` has ended, whatever came of it; its `when` may read all tasks \
             and `run.state`",
            "true",
        ),
        key!(
            "foreach",
            Form::Either(&[Form::List(&Form::Any), Form::Text, Form::Table(&FOREACH)]),
            "none",
            "a child for each item: of a list, of a list parameter, of a range, of files, or of a JSON array that \
             another task puts out",
            "[\"eu\", \"us\"]",
        ),
        key!(
            "matrix",
            Form::Map(&Form::Either(&[Form::List(&Form::Any), Form::Text])),
            "none",
            "a child for each combination of the values of several lists; not together with `foreach`",
            "{ region = [\"eu\", \"us\"], model = \"${params.models}\" }",
        ),
        key!(
            "key",
            Form::Text,
            "the item's text",
            "names the children of a fan-out: each must come out with another key. A table of `foreach` is named by its \
             number, a combination of `matrix` by its values with `+` between them, a path by its last part and 8 characters \
             of the digest of the whole. In any other text each character besides letters, digits and `_-.=+@` becomes `_`, \
             and 8 such characters follow: `e f` gives `e_f-0b1e65d0`",
            "\"${item.id}\"",
        ),
        key!(
            "max_parallel",
            Form::Int(1, MOST_SLOTS),
            "no limit",
            "children of a fan-out that may be live at a time",
            "4",
        ),
        key!(
            "fail_fast",
            Form::Bool,
            "`false`",
            "the first failed child, beyond those tolerated, cancels the others",
            "true",
        ),
        key!(
            "tolerate",
            Form::Int(0, MOST_SLOTS),
            "`0`",
            "children that may fail while the fan-out still succeeds",
            "2",
        ),
        POOLS,
        POOL,
        key!(
            "limit",
            Form::Table(&LIMIT),
            "none",
            "at most so many attempts at a time with the same key",
            "{ key = \"api\", max = 2 }",
        ),
        RESOURCES_KEY,
        TIMEOUT,
        QUEUE_TIMEOUT,
        HEARTBEAT_TIMEOUT,
        GRACE,
        MEMORY_LIMIT,
        RETRY_KEY,
        key!(
            "cache",
            Form::Bool,
            "operators that are pure: `true`; others and commands: `false`",
            "whether the result of an earlier run with the same operator, parameters and inputs is taken",
            "true",
        ),
        key!(
            "priority",
            Form::Int(i32::MIN as i64, i32::MAX as i64),
            "`0`",
            "larger goes first among the tasks of a run",
            "10",
        ),
        ENV,
        key!("description", Form::Text, "`\"\"`", "one line for people", "\"Features of each customer\""),
    ],
};

pub static SENSOR: Table = Table {
    name: "sensor",
    intro: "Has no inputs, outputs, resources, cache, parameters or environment; what it waited for is no data. \
            `timeout` bounds the whole wait.",
    others: None,
    one_of: &["file", "http", "time", "artifact"],
    keys: &[
        key!("file", Form::Text, "", "succeeds when this file or object is there", "\"s3://bucket/ready\""),
        key!("http", Form::Text, "", "succeeds when a GET of this URL gives `status`", "\"https://example.org/ready\""),
        key!("time", Form::Text, "", "succeeds at this time (RFC 3339)", "\"2026-01-01T00:00:00Z\""),
        key!(
            "artifact",
            Form::Text,
            "",
            "succeeds when this output of another pipeline has other content than when the wait began",
            "\"customer-segmentation/clean.orders\"",
        ),
        key!("status", Form::Int(100, 599), "`200`", "of `http`", "204"),
        key!("every", Form::Duration, "`\"30s\"`", "between two looks; at least 1s", "\"1m\""),
    ],
};

pub static FOREACH: Table = Table {
    name: "foreach",
    intro: "At most 1,000,000 items.",
    others: None,
    one_of: &["range", "glob", "output"],
    keys: &[
        key!(
            "range",
            Form::Either(&[Form::Int(1, 1_000_000), Form::Param, Form::Table(&RANGE)]),
            "",
            "whole numbers: a number counts from 0; each of them may be a parameter of type int",
            "{ from = 0, to = 10, step = 2 }",
        ),
        key!(
            "glob",
            Form::Text,
            "",
            "files by a pattern with `*`, `?`, `[…]` and `**`, sorted; looked up at submission, on the machine of the coordinator",
            "\"data/*.csv\"",
        ),
        key!(
            "output",
            Form::Output,
            "",
            "a JSON array that a task puts out, or an object whose names are the keys; the task is then a need",
            "\"list.items\""
        ),
    ],
};

/// A number of a range: as written, or from a parameter.
const RANGE_NUMBER: Form = Form::Either(&[Form::Int(i64::MIN, i64::MAX), Form::Param]);

pub static RANGE: Table = table(
    "range",
    "",
    &[
        key!("from", RANGE_NUMBER, "`0`", "the first number", "0"),
        key!("to", RANGE_NUMBER, "required", "the first number that is not taken any more", "\"${params.most}\""),
        key!("step", RANGE_NUMBER, "`1`", "between two numbers; negative counts down, 0 is refused", "2"),
    ],
);

pub static LIMIT: Table = table(
    "limit",
    "Holds across all tasks, runs and pipelines that use the same key.",
    &[
        key!(
            "key",
            Form::Text,
            "required",
            "may hold `${params.NAME}` and, in a fan-out, `${item}` and `${key}`",
            "\"api-${params.customer}\"",
        ),
        key!("max", Form::Int(1, MOST_SLOTS), "required", "attempts at a time", "2"),
    ],
);

pub static SECRET: Table = table(
    "env.NAME",
    "A secret is read from the environment of the *worker* when the task starts, and is redacted in its logs. Its value \
     reaches neither the coordinator nor its store.",
    &[key!("secret", Form::Text, "required", "a variable of the worker's environment", "\"env:CRM_TOKEN\"")],
);

pub static RETRY: Table = table(
    "retry",
    "`retry = 5` is short for `retry = { attempts = 5 }`. The classes of failure: `user` (the task or its parameters are \
     wrong, or its program is not on the worker), `data` (the input is wrong), `infra` (disk, network), `timeout`, `oom` \
     (killed for memory), `lost` (the worker went away).",
    &[
        key!("attempts", Form::Int(1, MOST_TRIES), "`3`", "attempts in all, the first included", "5"),
        key!(
            "backoff",
            Form::Word(&BACKOFF),
            "`\"exponential\"`",
            "how the delay between attempts grows",
            "\"constant\"",
        ),
        key!(
            "initial",
            Form::Duration,
            "`\"1s\"`",
            "the first delay; of a lost worker, its silence of a lease is part of it",
            "\"5s\""
        ),
        key!("max", Form::Duration, "`\"1m\"`", "the longest delay; not shorter than `initial`", "\"10m\""),
        key!("jitter", Form::Number(0.0, 1.0), "`0.2`", "share of the delay that is added or taken away", "0.5"),
        key!(
            "on",
            Form::List(&Form::Word(&CLASSES)),
            "`[\"infra\", \"timeout\", \"lost\"]`",
            "classes of failure that are tried again",
            "[\"infra\", \"oom\"]",
        ),
        key!(
            "never",
            Form::List(&Form::Int(1, 255)),
            "`[]`",
            "exit codes that are never tried again, whatever else is said",
            "[2, 64]",
        ),
        key!(
            "rules",
            Form::List(&Form::Table(&RULE)),
            "`[]`",
            "what holds for single classes and exit codes instead; the first that fits counts",
            "[{ on = [\"oom\"], attempts = 2 }]",
        ),
    ],
);

pub static RULE: Table = table(
    "retry.rules",
    "A failure fits where its class is in `on` or its exit code in `exit_codes`; a rule has at least one of the two. \
     What else it does not say, it takes from the `retry` around it.",
    &[
        key!("on", Form::List(&Form::Word(&CLASSES)), "`[]`", "classes of failure", "[\"oom\"]"),
        key!("exit_codes", Form::List(&Form::Int(1, 255)), "`[]`", "exit codes of a command", "[75]"),
        key!("attempts", Form::Int(1, MOST_TRIES), "that of `retry`", "attempts in all, the first included", "10"),
        key!(
            "backoff",
            Form::Word(&BACKOFF),
            "that of `retry`",
            "how the delay between attempts grows",
            "\"constant\""
        ),
        key!("initial", Form::Duration, "that of `retry`", "the first delay", "\"5s\""),
        key!("max", Form::Duration, "that of `retry`", "the longest delay", "\"1m\""),
        key!(
            "jitter",
            Form::Number(0.0, 1.0),
            "that of `retry`",
            "share of the delay that is added or taken away",
            "0"
        ),
    ],
);

const CPU: Key = key!("cpu", Form::Number(0.001, MOST_CORES), "`1`", "cores", "2");
const MEMORY: Key = key!(
    "memory",
    Form::Memory,
    "none asked for",
    "a number and one of `B`, `kB`, `MB`, `GB`, `TB`, `KiB`, `MiB`, `GiB`, `TiB`; at most 1 PiB",
    "\"1.5GiB\"",
);
const CUSTOM: Key = key!(
    "any other name",
    Form::Int(1, i64::MAX),
    "",
    "a resource of your own, such as `licence = 1`, that workers declare",
    "1",
);

pub static RESOURCES: Table = Table {
    name: "resources",
    intro: "",
    others: Some(&CUSTOM),
    one_of: &[],
    keys: &[
        CPU,
        MEMORY,
        key!(
            "gpu",
            Form::Either(&[
                Form::Int(0, MOST_GPUS),
                Form::Number(0.001, MOST_GPUS as f64),
                Form::Word(&["prefer"]),
                Form::Table(&GPU),
            ]),
            "`0`",
            "GPUs, or a share of one, that the worker must have; `\"prefer\"` takes a worker with a GPU when one is \
             registered, and any other when none is",
            "{ count = 2, memory = \"20GiB\" }",
        ),
        key!(
            "labels",
            Form::Map(&Form::Text),
            "`{}`",
            "labels that the worker must have; `\"!t4\"`: must not have that value; `\"!\"`: must not have the label",
            "{ zone = \"a\", gpu = \"!t4\", spot = \"!\" }",
        ),
        key!(
            "any_of",
            Form::List(&Form::Table(&ALTERNATIVE)),
            "none",
            "alternatives in order of preference, for when the first finds no room; each takes what it does not say \
             from the table around it",
            "[{ gpu = 1 }, { cpu = 8 }]",
        ),
    ],
};

pub static ALTERNATIVE: Table = Table {
    name: "resources.any_of",
    intro: "Two to 16 of them. Labels hold for all.",
    others: Some(&CUSTOM),
    one_of: &[],
    keys: &[
        CPU,
        MEMORY,
        key!(
            "gpu",
            Form::Either(&[Form::Int(0, MOST_GPUS), Form::Number(0.001, MOST_GPUS as f64), Form::Table(&GPU)]),
            "that of the table around it",
            "GPUs, or a share of one",
            "1",
        ),
    ],
};

pub static GPU: Table = table(
    "gpu",
    "",
    &[
        key!("count", Form::Int(1, MOST_GPUS), "`1`", "whole GPUs", "2"),
        key!("share", Form::Number(0.001, 1.0), "none", "a share of one GPU, instead of `count`", "0.25"),
        key!("memory", Form::Memory, "none asked for", "memory on each GPU", "\"20GiB\""),
    ],
);
