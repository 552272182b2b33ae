//! `segue logs RUN [TASK]`.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use clap::Args;
use segue_proto::v1;

use super::events::{Fault, passes};
use crate::{
    client::Client,
    error::{Error, ExitStatus},
    format,
    printer::Printer,
};

/// Arguments.
#[derive(Debug, Args)]
pub struct LogsArgs {
    /// Run id, the start of one, or `latest`
    #[arg(default_value = "latest")]
    pub run: String,
    /// Only this task
    pub task: Option<String>,
    /// This attempt instead of the last one
    #[arg(long, value_name = "N", requires = "task")]
    pub attempt: Option<u32>,
    /// Go on until the run ends
    #[arg(short, long)]
    pub follow: bool,
}

/// How long to wait before a lost coordinator is asked again.
const AGAIN: Duration = Duration::from_millis(500);

/// How long to wait after a stream that ended well before it is known why.
const LOOK: Duration = Duration::from_millis(50);

/// Runs the command. Logs are data: they go to standard output as they were written.
pub async fn run(args: LogsArgs, client: &Client, out: &mut Printer) -> Result<ExitStatus, Error> {
    let mut printed = Printed { headings: args.task.is_none(), ..Printed::default() };
    let mut request = v1::ReadLogsRequest {
        run_id: args.run,
        task: args.task.unwrap_or_default(),
        attempt: args.attempt.unwrap_or(0),
        follow: args.follow,
    };
    if request.follow {
        // `latest` may be another run soon.
        let run = run_of(&request, client).await?;
        request.run_id = run.run_id.clone();
        if let Err(e) = client.executes(&run) {
            request.follow = false;
            read(&request, &mut printed, client, out).await?;
            return Err(e);
        }
        follow(&request, &mut printed, client, out).await?;
    } else {
        read(&request, &mut printed, client, out).await?;
    }
    printed.finish(out)?;
    if printed.next.is_empty() && !out.is_json() {
        out.note(
            "no log is there: nothing was logged, or `logs_for` has taken it away; `segue show` and `segue explain` say how the \
             tasks ended",
        );
    }
    Ok(ExitStatus::Done)
}

/// Reads until the run has ended, over restarts of the coordinator too.
async fn follow(
    request: &v1::ReadLogsRequest,
    printed: &mut Printed,
    client: &Client,
    out: &mut Printer,
) -> Result<(), Error> {
    let mut lost = false;
    loop {
        // Looked at first: what is read to its end after the run has ended is all there will be. A stream that ends
        // earlier is that of a coordinator that stops.
        let asked = run_of(request, client).await;
        let ended = asked.as_ref().is_ok_and(|run| format::ended(run.state).is_some());
        let done = match asked {
            Ok(_) => {
                if std::mem::take(&mut lost) {
                    out.note("the coordinator is back");
                }
                read(request, printed, client, out).await
            }
            Err(status) => Err(status.into()),
        };
        match done {
            Ok(()) if ended => return Ok(()),
            Ok(()) => {
                tokio::time::sleep(LOOK).await;
                continue;
            }
            Err(Fault::Call(status)) if passes(&status) => {}
            Err(e) => return Err(e.into()),
        }
        if !std::mem::replace(&mut lost, true) {
            out.note("the coordinator went away; going on when it is back");
        }
        tokio::time::sleep(AGAIN).await;
    }
}

async fn run_of(request: &v1::ReadLogsRequest, client: &Client) -> Result<v1::RunView, tonic::Status> {
    Ok(client.runs().get_run(v1::GetRunRequest { run_id: request.run_id.clone() }).await?.into_inner())
}

async fn read(
    request: &v1::ReadLogsRequest,
    printed: &mut Printed,
    client: &Client,
    out: &mut Printer,
) -> Result<(), Fault> {
    let mut stream = client.logs().read(request.clone()).await?.into_inner();
    while let Some(piece) = stream.message().await? {
        if let Some(piece) = printed.rest_of(piece) {
            printed.print(&piece, out).map_err(Fault::Print)?;
        }
    }
    Ok(())
}

/// What was printed, so that a log that is read again goes on where it was.
#[derive(Debug, Default)]
struct Printed {
    /// Offset after what was printed, by task and attempt.
    next: BTreeMap<(String, u32), u64>,
    /// Whether logs of several tasks come, with a heading where another one begins.
    headings: bool,
    begun: BTreeSet<(String, u32)>,
    last: Option<(String, u32)>,
    /// The beginnings of characters whose rest is in the next piece; each is a piece of its own.
    cut: BTreeMap<(String, u32), v1::ReadLogsResponse>,
}

impl Printed {
    /// Gives what of a piece is new.
    fn rest_of(&mut self, mut piece: v1::ReadLogsResponse) -> Option<v1::ReadLogsResponse> {
        let end = piece.offset.saturating_add(piece.data.len() as u64);
        let next = self.next.entry((piece.task.clone(), piece.attempt)).or_default();
        let begins = piece.offset.saturating_sub(piece.lost_before);
        if end < *next || (end == *next && end > begins) {
            return None;
        }
        if *next > piece.offset {
            let known = usize::try_from(*next - piece.offset).unwrap_or(usize::MAX).min(piece.data.len());
            piece.data = piece.data.split_off(known);
            piece.offset = *next;
            piece.lost_before = 0;
        } else {
            piece.lost_before = piece.lost_before.min(piece.offset - *next);
        }
        *next = end;
        Some(piece)
    }

    fn print(&mut self, piece: &v1::ReadLogsResponse, out: &mut Printer) -> Result<(), Error> {
        if out.is_json() {
            let whole = self.whole_characters(piece.clone());
            return whole.iter().try_for_each(|piece| out.json(&value(piece)));
        }
        let source = (piece.task.clone(), piece.attempt);
        if self.headings && self.last.as_ref() != Some(&source) {
            let again = if self.begun.insert(source.clone()) { "" } else { " (more)" };
            out.text(&format!("── {} attempt {}{again} ──", piece.task, piece.attempt))?;
        }
        self.last = Some(source);
        if piece.lost_before > 0 {
            out.bytes(segue_coordinator::logs::gap_marker(piece.lost_before).as_bytes())?;
        }
        out.bytes(&piece.data)
    }

    /// Gives what can be shown as text now. A character that a piece ends in is held until its rest comes.
    fn whole_characters(&mut self, mut piece: v1::ReadLogsResponse) -> Vec<v1::ReadLogsResponse> {
        let source = (piece.task.clone(), piece.attempt);
        let mut shown = Vec::new();
        if let Some(cut) = self.cut.remove(&source) {
            if piece.lost_before == 0 && cut.offset + cut.data.len() as u64 == piece.offset {
                piece.data = [cut.data, piece.data].concat().into();
                piece.offset = cut.offset;
            } else {
                shown.push(cut);
            }
        }
        let rest = piece.data.split_off(end_of_characters(&piece.data));
        if !rest.is_empty() {
            let offset = piece.offset + piece.data.len() as u64;
            self.cut.insert(source, v1::ReadLogsResponse { offset, data: rest, lost_before: 0, ..piece.clone() });
        }
        if !piece.data.is_empty() || piece.lost_before > 0 {
            shown.push(piece);
        }
        shown
    }

    /// Shows what waits for a rest that does not come.
    fn finish(&mut self, out: &mut Printer) -> Result<(), Error> {
        std::mem::take(&mut self.cut).values().try_for_each(|piece| out.json(&value(piece)))
    }
}

/// Gives a piece for scripts. Bytes that are no text become U+FFFD; `segue logs` without `-o json` gives them as they are.
fn value(piece: &v1::ReadLogsResponse) -> serde_json::Value {
    serde_json::json!({
        "task": piece.task, "attempt": piece.attempt, "offset": piece.offset, "lost_before": piece.lost_before,
        "text": String::from_utf8_lossy(&piece.data),
    })
}

/// Gives the length of the bytes without a character at their end whose rest is missing. UTF-8 has at most 4 bytes.
fn end_of_characters(bytes: &[u8]) -> usize {
    (bytes.len().saturating_sub(3)..bytes.len())
        .find(|&at| std::str::from_utf8(&bytes[at..]).is_err_and(|e| e.valid_up_to() == 0 && e.error_len().is_none()))
        .unwrap_or(bytes.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(offset: u64, text: &str, lost_before: u64) -> v1::ReadLogsResponse {
        let data = text.as_bytes().to_vec().into();
        v1::ReadLogsResponse { task: "a".to_owned(), attempt: 1, offset, data, lost_before }
    }

    fn rest(printed: &mut Printed, offset: u64, text: &str, lost: u64) -> Option<(String, u64)> {
        let rest = printed.rest_of(piece(offset, text, lost))?;
        Some((String::from_utf8_lossy(&rest.data).into_owned(), rest.lost_before))
    }

    #[test]
    fn a_character_that_two_pieces_share_is_shown_whole() {
        let text = "a€ü😀z".as_bytes();
        for cut in 0..=text.len() {
            let mut printed = Printed::default();
            let mut part = |offset: usize, bytes: &[u8]| {
                let mut part = piece(offset as u64, "", 0);
                part.data = bytes.to_vec().into();
                printed.whole_characters(part)
            };
            let shown: Vec<_> = [part(0, &text[..cut]), part(cut, &text[cut..])].concat();
            let texts: String = shown.iter().map(|piece| String::from_utf8_lossy(&piece.data)).collect();
            assert_eq!(texts.as_bytes(), text, "cut at {cut}");
            let mut next = 0;
            for piece in shown {
                assert_eq!(piece.offset, next, "cut at {cut}");
                next += piece.data.len() as u64;
            }
            assert!(printed.cut.is_empty());
        }
    }

    #[test]
    fn half_a_character_before_a_gap_or_at_the_end_is_shown_as_what_it_is() {
        let mut printed = Printed::default();
        let mut half = piece(0, "ab", 0);
        half.data = b"ab\xe2\x82".to_vec().into();
        assert_eq!(printed.whole_characters(half.clone()).len(), 1);
        let after = printed.whole_characters(piece(14, "c", 10));
        assert_eq!((&after[0].data[..], after[0].offset), (&b"\xe2\x82"[..], 2));
        assert_eq!((&after[1].data[..], after[1].lost_before), (&b"c"[..], 10));
        assert_eq!(end_of_characters(b"\xff\xfe\xff"), 3, "what is no text at all waits for nothing");
        assert_eq!(end_of_characters(b"\x82\x82\x82"), 3);
    }

    #[test]
    fn a_log_that_is_read_again_goes_on_where_it_was() {
        let mut printed = Printed::default();
        let some = |text: &str, lost: u64| Some((text.to_owned(), lost));
        assert_eq!(rest(&mut printed, 0, "one\n", 0), some("one\n", 0));
        assert_eq!(rest(&mut printed, 9, "two\n", 5), some("two\n", 5), "five bytes are missing between the two");
        assert_eq!(rest(&mut printed, 0, "one\n", 0), None);
        assert_eq!(rest(&mut printed, 9, "two\nthree\n", 5), some("three\n", 0), "in larger pieces this time");
        assert_eq!(rest(&mut printed, 19, "four\n", 0), some("four\n", 0));
        let mut other = piece(0, "one\n", 0);
        other.attempt = 2;
        assert!(printed.rest_of(other).is_some(), "another attempt is another log");
    }
}
