#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::{parts::gaps_path, *};
use crate::store::{
    Code,
    testing::{run, token},
};

fn logs() -> (tempfile::TempDir, Logs, Token) {
    let dir = tempfile::tempdir().unwrap();
    let logs = Logs::open(dir.path().join("logs")).unwrap();
    (dir, logs, token(&run(1), "clean", 1))
}

/// Reads a log to its end as people see it, in pieces of a few bytes.
fn text(logs: &Logs, token: &Token, most: usize) -> String {
    let (mut offset, mut text) = (0, String::new());
    while let Some(piece) = logs.read(&token.run, &token.task, token.attempt, offset, most).unwrap() {
        if piece.lost_before > 0 {
            text.push_str(&gap_marker(piece.lost_before));
        }
        text.push_str(&String::from_utf8_lossy(&piece.data));
        assert!(piece.next() > offset);
        offset = piece.next();
    }
    text
}

#[test]
fn pieces_join_and_those_sent_again_change_nothing() {
    let (_dir, logs, token) = logs();
    assert_eq!(logs.append(&token, 0, b"hello ", 0).unwrap(), 6);
    assert_eq!(logs.append(&token, 6, b"world", 0).unwrap(), 11);
    assert_eq!(logs.append(&token, 0, b"hello ", 0).unwrap(), 11, "an old piece is acknowledged up to the end");
    assert_eq!(logs.append(&token, 6, b"world\n", 0).unwrap(), 12, "of an overlap only the new part is kept");
    assert_eq!(logs.append(&token, 12, b"", 0).unwrap(), 12);
    assert_eq!(text(&logs, &token, 4), "hello world\n");
    assert_eq!(logs.length(&token.run, &token.task, 1).unwrap(), 12);
}

#[test]
fn lost_bytes_count_and_show_as_a_marker() {
    let (_dir, logs, token) = logs();
    logs.append(&token, 100, b"one\n", 100).unwrap();
    logs.append(&token, 104, b"two\n", 0).unwrap();
    assert_eq!(logs.append(&token, 158, b"three\n", 50).unwrap(), 164);
    assert_eq!(logs.append(&token, 158, b"three\n", 50).unwrap(), 164);
    assert_eq!(text(&logs, &token, 3), "[… 100 bytes lost …]\none\ntwo\n[… 50 bytes lost …]\nthree\n");
    let piece = logs.read(&token.run, &token.task, 1, 130, 99).unwrap().unwrap();
    assert_eq!((piece.offset, piece.lost_before, &piece.data[..]), (158, 28, &b"three\n"[..]), "from within a gap");
    let piece = logs.read(&token.run, &token.task, 1, 102, 99).unwrap().unwrap();
    assert_eq!((piece.offset, piece.lost_before, &piece.data[..]), (102, 0, &b"e\ntwo\n"[..]));
}

#[test]
fn a_gap_at_the_end_is_shown_before_anything_follows_it() {
    let (_dir, logs, token) = logs();
    logs.append(&token, 0, b"x\n", 0).unwrap();
    assert_eq!(logs.append(&token, 12, b"", 10).unwrap(), 12);
    assert_eq!(text(&logs, &token, 99), "x\n[… 10 bytes lost …]\n");
    assert_eq!(logs.append(&token, 12, b"y\n", 10).unwrap(), 14, "told again with what follows");
    assert_eq!(text(&logs, &token, 99), "x\n[… 10 bytes lost …]\ny\n");
}

#[test]
fn gaps_that_follow_each_other_are_one_and_hide_nothing_that_comes_after() {
    let (_dir, logs, token) = logs();
    let logs = logs.keeping(80);
    for end in [5, 9, 20] {
        assert_eq!(logs.append(&token, end, b"", 0).unwrap(), end);
    }
    logs.append(&token, 20, b"first ten!", 0).unwrap();
    logs.append(&token, 30, b"then the rest", 0).unwrap();
    assert_eq!(text(&logs, &token, 99), "[… 20 bytes lost …]\nfirst ten!then the rest");
    let piece = logs.read(&token.run, &token.task, 1, 7, 99).unwrap().unwrap();
    assert_eq!((piece.offset, piece.lost_before, &piece.data[..]), (20, 13, &b"first ten!"[..]));
}

#[test]
fn bytes_that_nobody_announced_as_lost_are_still_a_gap() {
    let (_dir, logs, token) = logs();
    logs.append(&token, 0, b"a\n", 0).unwrap();
    assert_eq!(logs.append(&token, 7, b"b\n", 0).unwrap(), 9, "the sender has no more than this");
    assert_eq!(text(&logs, &token, 99), "a\n[… 5 bytes lost …]\nb\n");
}

#[test]
fn attempts_have_logs_of_their_own_and_survive_reopening() {
    let (_dir, logs, first) = logs();
    let second = Token { attempt: 2, ..first.clone() };
    logs.append(&first, 0, b"first", 0).unwrap();
    logs.append(&second, 0, b"second", 0).unwrap();
    logs.sync(&second).unwrap();
    logs.sync(&Token { attempt: 9, ..first.clone() }).unwrap();
    let again = Logs::open(logs.dir()).unwrap();
    assert_eq!((text(&again, &first, 99), text(&again, &second, 99)), ("first".to_owned(), "second".to_owned()));
    let task = first.task.clone();
    let expected = [LogName { task: task.clone(), attempt: 1 }, LogName { task, attempt: 2 }];
    assert_eq!(again.list(&first.run).unwrap(), expected);
    assert_eq!(again.runs().unwrap(), std::slice::from_ref(&first.run));
    assert_eq!(again.read(&run(9), &first.task, 1, 0, 99).unwrap(), None, "no log, nothing to read");
}

#[test]
fn impossible_offsets_are_refused() {
    let (_dir, logs, token) = logs();
    assert_eq!(logs.append(&token, u64::MAX, b"x", 0).unwrap_err().code(), Code::Log);
    assert_eq!(logs.append(&token, u64::MAX - 1, b"x", 0).unwrap(), u64::MAX);
    assert_eq!(logs.append(&token, 0, b"x", 0).unwrap(), u64::MAX);
    assert_eq!(logs.read(&token.run, &token.task, 1, u64::MAX, 9).unwrap(), None);
}

#[test]
fn torn_and_foreign_lines_beside_a_log_are_passed_over() {
    let (_dir, logs, token) = logs();
    logs.append(&token, 0, b"abcdef", 0).unwrap();
    let gaps = gaps_path(&logs.path(&token.run, &token.task, 1));
    fs::write(&gaps, "2 10\nhello\n9 5\n-1 3\n1 7\n3 18446744073709551615\n4 1").unwrap();
    assert_eq!(text(&logs, &token, 99), "ab[… 10 bytes lost …]\ncdef");
    assert_eq!(logs.length(&token.run, &token.task, 1).unwrap(), 16);
    assert_eq!(logs.append(&token, 20, b"!", 4).unwrap(), 21);
    assert_eq!(
        text(&logs, &token, 99),
        "ab[… 10 bytes lost …]\ncdef[… 4 bytes lost …]\n!",
        "a torn line spoils no other"
    );
}

#[test]
fn gaps_without_end_begin_a_new_part() {
    let (_dir, logs, token) = logs();
    let path = logs.path(&token.run, &token.task, 1);
    logs.append(&token, 5, b"x", 5).unwrap();
    fs::write(gaps_path(&path), "0 1\n".repeat(10_000)).unwrap();
    assert_eq!(logs.append(&token, 20_000, b"x", 1).unwrap(), 20_001);
    assert!(fs::metadata(gaps_path(&path)).unwrap().len() <= 40_000, "no line was added");
    assert_eq!(text(&logs, &token, 99), "[… 10000 bytes lost …]\nx[… 9999 bytes lost …]\nx");
}

/// Appends `pieces` pieces of seven bytes, each of another letter.
fn fill(logs: &Logs, token: &Token, pieces: u8) -> Vec<u8> {
    let mut all = Vec::new();
    for piece in 0..pieces {
        let data = [b'a' + piece % 26; 7];
        logs.append(token, all.len() as u64, &data, 0).unwrap();
        all.extend(data);
    }
    all
}

#[test]
fn of_a_log_without_end_the_beginning_and_the_end_are_kept_and_the_rest_shows_as_lost() {
    let (_dir, logs, token) = logs();
    let logs = logs.keeping(80);
    let all = fill(&logs, &token, 100);
    assert_eq!(logs.length(&token.run, &token.task, 1).unwrap(), 700, "offsets count what went too");
    let kept = logs.size(&token.run).unwrap();
    assert!((60..=80).contains(&kept), "{kept} bytes are kept");
    let first = logs.read(&token.run, &token.task, 1, 0, 99).unwrap().unwrap();
    assert_eq!((first.offset, &first.data[..]), (0, &all[..10]));
    let next = logs.read(&token.run, &token.task, 1, 10, 99).unwrap().unwrap();
    assert_eq!((next.offset, next.lost_before), (10 + 700 - kept, 700 - kept), "one gap, and then the end");
    let shown = text(&logs, &token, 99);
    let end = String::from_utf8_lossy(&all[700 - (usize::try_from(kept).unwrap() - 10)..]).into_owned();
    assert_eq!(shown, format!("aaaaaaabbb{}{end}", gap_marker(700 - kept)));
    // From within what went, and again what was sent before.
    let piece = logs.read(&token.run, &token.task, 1, 100, 3).unwrap().unwrap();
    assert_eq!((piece.offset, piece.lost_before), (next.offset, next.offset - 100));
    assert_eq!(logs.append(&token, 0, &all[..14], 0).unwrap(), 700);
    assert_eq!(text(&logs, &token, 99), shown);
}

#[test]
fn the_parts_of_a_log_are_copied_listed_and_deleted_with_it() {
    let (dir, logs, token) = logs();
    let logs = logs.keeping(80);
    let other = Token { attempt: 2, ..token.clone() };
    fill(&logs, &token, 100);
    logs.append(&other, 0, b"short", 0).unwrap();
    logs.sync(&token).unwrap();
    let names = logs.list(&token.run).unwrap();
    assert_eq!(names.iter().map(|name| name.attempt).collect::<Vec<_>>(), [1, 2]);
    let copy = Logs::open(dir.path().join("copy")).unwrap();
    assert_eq!(
        names.iter().map(|name| logs.copy(&token.run, name, &copy).unwrap()).sum::<u64>(),
        logs.size(&token.run).unwrap()
    );
    assert_eq!(text(&copy, &token, 9), text(&logs, &token, 9));
    assert_eq!(logs.append(&token, 700, b"more", 0).unwrap(), 704, "the copy has not moved anything");
    let size = logs.size(&token.run).unwrap();
    assert_eq!(logs.remove(&token.run, &names).unwrap(), size);
    assert!(logs.runs().unwrap().is_empty(), "the directory goes with the last log");
}

#[test]
fn what_is_in_the_directory_of_the_parts_and_is_none_is_left_alone() {
    let (_dir, logs, token) = logs();
    let logs = logs.keeping(80);
    fill(&logs, &token, 10);
    let parts = logs.path(&token.run, &token.task, 1).with_extension("parts");
    for name in ["notes.log", "1.log", "99999999999999999999.log", "-0000000000000000001.log"] {
        fs::write(parts.join(name), "somebody else's").unwrap();
    }
    fill(&logs, &token, 100);
    assert_eq!(logs.length(&token.run, &token.task, 1).unwrap(), 700);
    assert_eq!(fs::read(parts.join("notes.log")).unwrap(), b"somebody else's");
}

#[test]
fn deleted_logs_are_gone_with_their_gaps_and_others_stay() {
    let (_dir, logs, token) = logs();
    let other = Token { attempt: 2, ..token.clone() };
    logs.append(&token, 10, b"after a gap", 10).unwrap();
    logs.append(&other, 0, b"kept", 0).unwrap();
    let size = logs.size(&token.run).unwrap();
    let first = LogName { task: token.task.clone(), attempt: 1 };
    let freed = logs.remove(&token.run, &[first.clone(), first]).unwrap();
    assert_eq!((size - freed, logs.size(&token.run).unwrap()), (4, 4));
    assert_eq!(logs.read(&token.run, &token.task, 1, 0, 99).unwrap(), None);
    assert_eq!(text(&logs, &other, 99), "kept");
    logs.remove(&token.run, &logs.list(&token.run).unwrap()).unwrap();
    assert!(logs.runs().unwrap().is_empty(), "the directory goes with the last log");
    assert_eq!(logs.append(&token, 0, b"late", 0).unwrap(), 4, "a late piece is taken all the same");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// The sender's log is cut into pieces, some are lost, some are sent again; what arrives is exactly what was sent
    /// and not lost, at its offsets.
    #[test]
    fn whatever_is_lost_or_sent_again_every_byte_stays_at_its_offset(
        pieces in prop::collection::vec((1_usize..20, any::<bool>(), 0_usize..3), 1..30),
        most in 1_usize..50,
    ) {
        let (_dir, logs, token) = logs();
        let (mut offset, mut lost, mut expected) = (0_u64, 0_u64, Vec::<Option<u8>>::new());
        for (length, is_lost, again) in pieces {
            let data: Vec<u8> = (0..length).map(|i| ((offset as usize + i) % 251) as u8).collect();
            expected.extend(data.iter().map(|&byte| (!is_lost).then_some(byte)));
            if is_lost {
                lost += length as u64;
            } else {
                for _ in 0..=again {
                    prop_assert_eq!(logs.append(&token, offset, &data, lost).unwrap(), offset + length as u64);
                }
                lost = 0;
            }
            offset += length as u64;
        }
        let mut seen = vec![None; expected.len()];
        let mut at = 0;
        while let Some(piece) = logs.read(&token.run, &token.task, 1, at, most).unwrap() {
            prop_assert_eq!(piece.offset, at + piece.lost_before);
            for (i, &byte) in piece.data.iter().enumerate() {
                seen[piece.offset as usize + i] = Some(byte);
            }
            at = piece.next();
        }
        prop_assert_eq!(seen, expected);
    }

    /// As above, with a limit: what is kept is right, the rest is lost, and the disk holds no more than the limit.
    #[test]
    fn a_limit_costs_the_middle_and_nothing_else(
        pieces in prop::collection::vec((1_usize..40, any::<bool>(), 0_usize..2), 1..60),
        most in 1_usize..50,
        limit in 8_u64..200,
    ) {
        let (_dir, logs, token) = logs();
        let logs = logs.keeping(limit);
        let (mut offset, mut lost, mut expected) = (0_u64, 0_u64, Vec::<Option<u8>>::new());
        for (length, is_lost, again) in pieces {
            let data: Vec<u8> = (0..length).map(|i| ((offset as usize + i) % 251) as u8).collect();
            expected.extend(data.iter().map(|&byte| (!is_lost).then_some(byte)));
            if is_lost {
                lost += length as u64;
            } else {
                for _ in 0..=again {
                    prop_assert_eq!(logs.append(&token, offset, &data, lost).unwrap(), offset + length as u64);
                }
                lost = 0;
            }
            offset += length as u64;
        }
        let files = Parts::find(&logs.path(&token.run, &token.task, 1)).unwrap().files();
        let on_disk: u64 = files.iter().filter(|file| file.extension().unwrap() == "log").map(|file| length_of(file).unwrap()).sum();
        prop_assert!(on_disk <= limit, "{} bytes of {}", on_disk, limit);
        let mut seen = vec![None; expected.len()];
        let mut at = 0;
        while let Some(piece) = logs.read(&token.run, &token.task, 1, at, most).unwrap() {
            prop_assert_eq!(piece.offset, at + piece.lost_before);
            prop_assert!(piece.next() > at);
            for (i, &byte) in piece.data.iter().enumerate() {
                seen[piece.offset as usize + i] = Some(byte);
            }
            at = piece.next();
        }
        let first_part = usize::try_from((limit / 8).max(1)).unwrap();
        let mut arrived = 0;
        for (place, (seen, expected)) in seen.iter().zip(&expected).enumerate() {
            prop_assert!(seen.is_none() || seen == expected, "the byte at {} is another", place);
            arrived += usize::from(expected.is_some());
            prop_assert!(arrived > first_part || seen == expected, "the beginning is kept, up to {}", place);
        }
    }
}
