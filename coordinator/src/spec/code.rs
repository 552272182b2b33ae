//! Every kind of fault that the checker and the binder report. A code is never given to another kind of fault.

use std::fmt;

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $title:literal, $explanation:literal;)*) => {
        /// A kind of fault, printed as `P` and three digits.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Code {
            $(#[doc = $title] $(#[$doc])* $name,)*
        }

        impl Code {
            /// Every code, in order.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// Gives the code as it is printed, such as `P007`.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $code,)* }
            }

            /// Gives the kind of fault in a few words.
            #[must_use]
            pub const fn title(self) -> &'static str {
                match self { $(Self::$name => $title,)* }
            }

            /// Explains what is asked for, in a sentence or two.
            #[must_use]
            pub const fn explanation(self) -> &'static str {
                match self { $(Self::$name => $explanation,)* }
            }
        }
    };
}

codes! {
    Syntax = "P001", "not valid TOML", "The text breaks the grammar of TOML 1.1. Only faults of this kind are shown until it parses.";
    UnknownKey = "P002", "unknown key", "A table holds a key that means nothing there. Keys are never ignored, because a misspelt one would be.";
    MissingKey = "P003", "missing key", "A table lacks a key that it must have, such as `name` in `[pipeline]`.";
    WrongType = "P004", "wrong type", "A value has another TOML type than its key takes.";
    BadName = "P005", "bad name", "Pipelines, tasks, inputs and outputs are named with 1 to 64 of a-z, 0-9, _ and -; parameters with a-z, 0-9 and _; environment variables with letters, digits and _, not beginning with SEGUE_.";
    Duplicate = "P006", "defined twice", "A key or a table occurs twice. TOML allows each once.";
    UnknownTask = "P007", "unknown task", "An input or `after` names a task that is not in this file.";
    UnknownOperator = "P008", "unknown operator", "No worker and no built-in catalogue offers an operator of this name.";
    UnknownOutput = "P009", "unknown output", "An input refers to an output that its task does not have.";
    UnknownInput = "P010", "unknown input", "`inputs` connects an input that the operator does not have.";
    MissingInput = "P011", "missing input", "An input that the operator needs is not connected.";
    KindMismatch = "P012", "output of the wrong kind", "The kind of the output differs from the kind of the input. An input of kind `file` takes any.";
    Cycle = "P013", "cycle", "Tasks wait for each other, so that none of them can start. The path is shown in the order of execution.";
    SelfDependency = "P014", "task depends on itself", "A task takes its own output or runs after itself.";
    NeverRuns = "P015", "task can never run", "A task comes after a cycle, which never ends.";
    UnknownParam = "P016", "unknown parameter", "A reference or a `-p` option names a parameter that `[params]` does not declare.";
    BadReference = "P017", "malformed reference", "A data edge is written `task.output`; a parameter `${params.NAME}`; a value of a child `${item}`, `${key}` or `${index}`, in a fan-out alone; a literal `${` is written `$${`.";
    BadValue = "P018", "bad parameter value", "A value has the wrong type, or is not one of the allowed values, or is out of range.";
    MissingParam = "P019", "parameter without a value", "A parameter has no default and was given neither at submission nor by `[schedule]`.";
    MissingWith = "P020", "missing operator parameter", "The operator needs a parameter that `with` does not give.";
    UnknownWith = "P021", "unknown operator parameter", "`with` gives a parameter that the operator does not have.";
    BadWork = "P022", "no work, or several", "A task names an operator (`op`), a program (`command`) or a `sensor`, and one of them alone.";
    EmptyCommand = "P023", "empty command", "`command` is a list that begins with a program.";
    BadDuration = "P024", "bad duration", "A duration is written with units of d, h, m, s, ms, such as \"90s\" or \"1h30m\", more than 0 and at most 365d.";
    BadMemory = "P025", "bad memory size", "A memory size is written with a unit, such as \"512MiB\" or \"2GiB\".";
    BadRetry = "P026", "bad retry rule", "`retry` takes attempts 1 to 100, backoff constant or exponential, initial at most max, jitter 0 to 1, classes of failure in `on`, and `rules` for single classes and exit codes.";
    ImpossibleResource = "P027", "resource that no worker can have", "cpu is more than 0 and at most 4096 cores, memory more than 0 and at most 1 PiB, gpu 0 to 1024, a share of one, or \"prefer\", custom resources at least 1.";
    BadSecret = "P028", "malformed secret reference", "A secret is written { secret = \"env:NAME\" }: the worker reads it from its own environment.";
    NoTasks = "P029", "no tasks", "A pipeline has at least one task.";
    TooLarge = "P030", "file too large", "A pipeline file has at most 16 MiB.";
    TooMany = "P031", "too many faults", "Only the first 1,000 faults are listed.";
    BadFanOut = "P032", "bad fan-out", "`foreach` takes a list, a list parameter, a range, files or an output of kind json, `matrix` takes lists; 1 to 1,000,000 children, each with its own key.";
    BadCondition = "P033", "bad condition", "`when` is an expression in CEL over `params`, `tasks` that the task waits for, and in a fan-out `item`, `key` and `index`; `run_if` says which ends of its needs let a task run.";
    BadLimit = "P034", "bad pool or limit", "Slots of pools and limits are whole numbers up to 1,000,000, runs at a time up to 10,000; a limit has a key.";
    BadSensor = "P035", "bad sensor", "A sensor waits for one thing, a `file`, an `http` address, a `time` or an `artifact`, and has nothing that a task needs to execute.";
    AfterFinally = "P036", "after a task that runs at the end", "A task that is not `finally` waits for one that is, which runs only when all others have ended.";
    MayBeMissing = "P037", "input that may be missing", "A task that runs although what it needs did not succeed can take its outputs only where they are optional.";
    ManyIntoOne = "P038", "outputs of children into one input", "A fan-out gives an output of each child. A command takes them as a folder, an operator only at an input that takes many.";
    UnusedParam = "P040", "unused parameter", "A warning: `[params]` declares a parameter that nothing refers to.";
    SecretInClear = "P041", "secret in clear text", "A warning: what looks like a secret stands in a place that is stored and shown. Secrets belong in `env` as { secret = \"env:NAME\" }.";
    DeadCondition = "P042", "condition that decides nothing", "A warning: by the time it is looked at, only one answer is possible.";
    BadRetention = "P050", "bad retention rule", "`keep_runs` is 1 to 1,000,000 runs. The other rules are ages such as \"90d\" or \"12h\", more than 0 and at most 36500d.";
    BadCron = "P060", "bad cron expression", "`cron` has five fields (minute, hour, day of the month, month, day of the week) or is @hourly, @daily, @weekly, @monthly or @yearly, and names a time that comes.";
    UnknownTimeZone = "P061", "unknown time zone", "A time zone is a name of the IANA data base, such as Europe/Berlin or UTC.";
    BadSchedule = "P062", "bad schedule", "`[schedule]` has either `cron` or `every` (whole seconds), `start` before `end`, catch_up none, last or all, and overlap skip, queue, cancel_running or allow.";
    BadIntervalReference = "P063", "malformed interval reference", "The parameters of a schedule may hold `${interval.start}`, `${interval.end}`, `${interval.start_date}` and `${interval.end_date}`; a literal `${` is written `$${`.";
    BadHook = "P070", "malformed hook", "A hook says when (`on`: success, failure, cancelled, sla_miss) and what: a `webhook` with an http or https address, or a `command`. Its secrets are variables of the coordinator that begin with SEGUE_HOOK_.";
    HookInClear = "P071", "hook without TLS", "A warning: a webhook goes over plain http to another machine. Its signature shows who sent it, but everybody on the way can read it.";
    SecretUnset = "P072", "secret of a hook is not set", "A warning: a webhook needs a variable that the coordinator does not have. What it should send waits and is tried again until the variable is there.";
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_code_is_given_twice_and_every_one_is_explained() {
        let distinct: BTreeSet<&str> = Code::ALL.iter().map(|code| code.as_str()).collect();
        assert_eq!(distinct.len(), Code::ALL.len());
        assert!(Code::ALL.iter().all(|code| !code.title().is_empty() && code.explanation().ends_with('.')));
    }

    #[test]
    fn the_reference_lists_every_code_as_it_is() {
        let reference = include_str!("../../../pipelines/README.md");
        for code in Code::ALL {
            let row = format!("| {code} | {} | {} |\n", code.title(), code.explanation());
            assert!(reference.contains(&row), "pipelines/README.md lacks {row}");
        }
    }
}
