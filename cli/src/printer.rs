//! The only place that prints: data to standard output, everything else to standard error.

use std::io::{self, IsTerminal as _, Write as _};

use anstyle::{AnsiColor, Style};
use comfy_table::{Cell, CellAlignment, ContentArrangement, Table, presets};
use serde::Serialize;
use tracing_subscriber::EnvFilter;

use crate::{
    args::{Command, Output},
    error::Error,
};

/// Where a command's words go.
#[derive(Debug)]
pub struct Printer {
    output: Output,
}

/// Starts the log of this process. Long-running commands say what they do; the others keep quiet unless asked.
pub fn log_to_stderr(verbose: u8, command: &Command) {
    let serves = matches!(command, Command::Coordinator(_) | Command::Worker(_) | Command::Dev(_));
    let level = match (verbose, serves) {
        (0, false) => "error",
        (0, true) => "warn,segue=info,segue_coordinator=info,segue_worker=info",
        (1, _) => "warn,segue=debug,segue_coordinator=debug,segue_worker=debug",
        _ => "debug",
    };
    let filter = EnvFilter::try_from_env("SEGUE_LOG").unwrap_or_else(|_| EnvFilter::new(level));
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(stderr_is_coloured())
        .with_target(false)
        .try_init();
}

/// Says whether colours may go to standard error.
pub fn stderr_is_coloured() -> bool {
    io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// A table for people.
#[derive(Debug)]
pub struct Rows {
    table: Table,
}

impl Rows {
    /// Starts a table. A heading that begins with `>` is of a column of numbers.
    pub fn new(headings: &[&str]) -> Self {
        let mut table = Table::new();
        table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
        if !io::stdout().is_terminal() {
            // Scripts and files get whole lines.
            table.set_content_arrangement(ContentArrangement::Disabled);
        }
        table.set_header(headings.iter().map(|heading| {
            let text = heading.trim_start_matches('>').to_uppercase();
            let cell = Cell::new(text);
            if heading.starts_with('>') { cell.set_alignment(CellAlignment::Right) } else { cell }
        }));
        for (at, heading) in headings.iter().enumerate() {
            if let Some(column) = table.column_mut(at) {
                column.set_padding((0, 2));
                if heading.starts_with('>') {
                    column.set_cell_alignment(CellAlignment::Right);
                }
            }
        }
        Self { table }
    }

    /// Adds a row.
    pub fn row<I: IntoIterator<Item = S>, S: Into<String>>(&mut self, cells: I) {
        self.table.add_row(cells.into_iter().map(|cell| Cell::new(clean(&cell.into()))));
    }
}

/// Takes control characters out of text that came from elsewhere.
pub fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' { '\u{fffd}' } else { c }).collect()
}

impl Printer {
    /// Makes the printer of a process.
    pub const fn new(output: Output) -> Self {
        Self { output }
    }

    /// Says whether scripts are listening.
    pub fn is_json(&self) -> bool {
        self.output == Output::Json
    }

    /// Prints data: `value` as JSON, or `table` for people.
    pub fn data<T: Serialize>(&mut self, value: &T, table: impl FnOnce() -> Rows) -> Result<(), Error> {
        match self.output {
            Output::Json => self.json(value),
            Output::Table => {
                let text = table().table.to_string();
                let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
                self.text(&lines.join("\n"))
            }
        }
    }

    /// Prints JSON on one line or more, for people and scripts alike.
    pub fn json<T: Serialize>(&mut self, value: &T) -> Result<(), Error> {
        let text =
            serde_json::to_string_pretty(value).map_err(|e| Error::internal(format!("cannot print JSON: {e}")))?;
        self.text(&text)
    }

    /// Prints a line of data.
    pub fn text(&mut self, text: &str) -> Result<(), Error> {
        self.bytes(format!("{text}\n").as_bytes())
    }

    /// Prints bytes as they are.
    pub fn bytes(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let mut out = io::stdout().lock();
        match out.write_all(bytes).and_then(|()| out.flush()) {
            // The reader has seen enough (`| head`): a quiet end.
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
            done => done.map_err(|e| Error::internal(format!("cannot write to standard output: {e}"))),
        }
    }

    /// Says something beside the data.
    pub fn note(&self, text: &str) {
        let _ = writeln!(anstream::stderr(), "{text}");
    }

    /// Shows an error as a colleague would: what, where, what to do.
    pub fn error(&self, error: &Error) {
        let red = Style::new().bold().fg_color(Some(AnsiColor::Red.into()));
        let blue = Style::new().bold().fg_color(Some(AnsiColor::Cyan.into()));
        if self.is_json() {
            let diagnostics: Vec<_> = error.diagnostics.iter().map(crate::format::diagnostic).collect();
            let value = serde_json::json!({
                "error": error.message, "hint": error.hint, "diagnostics": diagnostics,
            });
            let _ = writeln!(io::stderr(), "{value}");
            return;
        }
        for diagnostic in &error.diagnostics {
            let _ = writeln!(anstream::stderr(), "{}\n", diagnostic.rendered.trim_end());
        }
        let _ = writeln!(anstream::stderr(), "{red}error{red:#}: {}", error.message);
        if !error.hint.is_empty() {
            let _ = writeln!(anstream::stderr(), "{blue}hint{blue:#}: {}", error.hint);
        }
    }
}
