//! The only place that prints: data to standard output, everything else to standard error.

use std::io::{self, IsTerminal as _, Write as _};

use anstyle::{AnsiColor, Style};
use comfy_table::{Cell, CellAlignment, ColumnConstraint, ContentArrangement, Table, presets};
use serde::Serialize;
use tracing_subscriber::{EnvFilter, filter::LevelFilter};

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
        .with_env_filter(without_depths_of_the_store(filter))
        .with_writer(|| LogWriter(io::stderr()))
        .with_ansi(stderr_is_coloured())
        .with_target(false)
        .log_internal_errors(false)
        .try_init();
}

/// Leaves sled's own traces out. It logs while the memory of a thread that ends is freed, when the buffer of the subscriber
/// is gone already: the process would be aborted.
fn without_depths_of_the_store(filter: EnvFilter) -> EnvFilter {
    if filter.max_level_hint().is_some_and(|most| most <= LevelFilter::INFO) {
        return filter;
    }
    match "sled=warn".parse() {
        Ok(directive) => filter.add_directive(directive),
        Err(_) => filter,
    }
}

/// Writes log lines, and lets those go that nobody reads any more (`segue worker 2>&1 | head`). The subscriber would
/// tell of the fault on standard error, where that panics: whatever logged would stop, a shutdown too.
struct LogWriter<W>(W);

impl<W: io::Write> io::Write for LogWriter<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let _ = self.0.write_all(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let _ = self.0.flush();
        Ok(())
    }
}

/// Says whether colours may go to standard error.
pub fn stderr_is_coloured() -> bool {
    io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// A table for people.
#[derive(Debug)]
pub struct Rows {
    table: Table,
    columns: Vec<Column>,
}

/// How far a column gives way.
#[derive(Debug)]
struct Column {
    /// Its cells stay on one line.
    whole: bool,
    heading: u16,
}

/// Columns between two cells.
const GAP: u16 = 2;

/// The last column needs none.
const fn gap_after(at: usize, columns: usize) -> u16 {
    if at + 1 == columns { 0 } else { GAP }
}

/// A column that is made narrower keeps this width and that of its heading: one letter a line is read by nobody.
const NARROWEST: u16 = 7;

impl Rows {
    /// Starts a table. A heading that begins with `>` is of a column of numbers, one that begins with `=` of ids and the
    /// like. Neither is broken over lines: an id in two pieces cannot be copied.
    pub fn new(headings: &[&str]) -> Self {
        let mut table = Table::new();
        table.load_preset(presets::NOTHING);
        table.set_header(headings.iter().map(|heading| {
            let text = heading.trim_start_matches(['>', '=']).to_uppercase();
            let cell = Cell::new(text);
            if heading.starts_with('>') { cell.set_alignment(CellAlignment::Right) } else { cell }
        }));
        for (at, heading) in headings.iter().enumerate() {
            if let Some(column) = table.column_mut(at) {
                column.set_padding((0, gap_after(at, headings.len())));
                if heading.starts_with('>') {
                    column.set_cell_alignment(CellAlignment::Right);
                }
            }
        }
        let column = |heading: &&str| Column {
            whole: heading.starts_with(['>', '=']),
            heading: u16::try_from(heading.trim_start_matches(['>', '=']).chars().count()).unwrap_or(u16::MAX),
        };
        Self { table, columns: headings.iter().map(column).collect() }
    }

    /// Gives the text for a terminal of that many columns, or for no terminal. Scripts and files get whole lines, and so
    /// does a terminal that knows no width of its own.
    pub fn render(mut self, terminal: Option<u16>) -> String {
        match terminal.filter(|&width| width > 0) {
            None => {
                self.table.set_content_arrangement(ContentArrangement::Disabled);
            }
            Some(width) => {
                self.table.set_content_arrangement(ContentArrangement::Dynamic);
                let mut least = 0_u16;
                let contents = self.table.column_max_content_widths();
                let columns = contents.len();
                for (at, (content, column)) in contents.into_iter().zip(&self.columns).enumerate() {
                    let kept = if column.whole { content } else { content.min(column.heading.max(NARROWEST)) };
                    least = least.saturating_add(kept).saturating_add(gap_after(at, columns));
                    if column.whole
                        && let Some(column) = self.table.column_mut(at)
                    {
                        column.set_constraint(ColumnConstraint::ContentWidth);
                    }
                }
                // Where not even that fits, the terminal breaks the lines.
                self.table.set_width(width.max(least));
            }
        }
        let text = self.table.to_string();
        let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
        lines.join("\n")
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

/// Shows a value that came from elsewhere on one line, and only the beginning of a long one.
pub fn one_line(text: &str) -> String {
    const LONGEST: usize = 200;
    let mut line: String = clean(text).replace('\n', "\u{fffd}").chars().take(LONGEST).collect();
    let all = text.chars().count();
    if all > LONGEST {
        line.push_str(&format!("… ({all} characters)"));
    }
    line
}

/// Gives the width of the terminal that data goes to.
fn terminal_width() -> Option<u16> {
    Table::new().width().filter(|_| io::stdout().is_terminal())
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
            Output::Table => self.text(&table().render(terminal_width())),
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

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "run_01j8zk5m8w0000000000000000";

    fn table(width: Option<u16>) -> String {
        let mut rows = Rows::new(&["=run", "pipeline", "state", ">took"]);
        rows.row([ID, "customer-segmentation", "succeeded", "1m 02s"]);
        rows.render(width)
    }

    #[test]
    fn whatever_is_asked_for_the_store_below_does_not_log_while_its_threads_end() {
        for asked in ["trace", "debug", "sled=trace", "info,segue=debug"] {
            let filter = without_depths_of_the_store(EnvFilter::new(asked)).to_string();
            assert!(filter.split(',').any(|directive| directive == "sled=warn"), "{asked}: {filter}");
            assert!(!filter.contains("sled=trace"), "{asked}: {filter}");
        }
        assert_eq!(without_depths_of_the_store(EnvFilter::new("error")).to_string(), "error", "nothing is added");
    }

    #[test]
    fn an_id_and_a_number_are_never_broken_over_lines() {
        for width in [20, 40, 60, 80, 200] {
            let text = table(Some(width));
            assert!(text.contains(ID) && text.contains("1m 02s"), "{width}:\n{text}");
        }
    }

    #[test]
    fn what_is_not_an_id_gives_way_as_far_as_it_can_be_read() {
        let text = table(Some(60));
        assert!(text.lines().all(|line| line.chars().count() <= 60) && text.lines().count() > 2, "{text}");
        let narrow = table(Some(10));
        assert!(narrow.contains("customer"), "not one letter a line:\n{narrow}");
    }

    #[test]
    fn a_terminal_without_a_width_gets_whole_lines() {
        assert_eq!(table(Some(0)), table(None));
        assert_eq!(table(None).lines().count(), 2);
    }

    #[test]
    fn a_value_from_elsewhere_neither_fills_the_terminal_nor_speaks_to_it() {
        assert_eq!(one_line("a\x1b[31m\nb"), "a\u{fffd}[31m\u{fffd}b");
        let long = one_line(&"x".repeat(100_000));
        assert!(long.len() < 300 && long.ends_with("… (100000 characters)"), "{long}");
    }

    #[test]
    fn a_log_that_nobody_reads_is_no_fault() {
        struct Closed;
        impl io::Write for Closed {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
        }
        assert!(Closed.write_all(b"line").is_err(), "it would fail by itself");
        let mut log = LogWriter(Closed);
        assert!(log.write_all(b"line").is_ok() && log.flush().is_ok());
    }
}
