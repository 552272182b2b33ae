//! Two texts compared line by line.

use std::time::Duration;

use similar::TextDiff;

/// After this time the comparison gives a coarser, but right answer: texts may have 16 MiB.
const LONGEST: Duration = Duration::from_secs(2);
/// Bytes of an answer: with what comes beside it, they fit in a message.
const MOST: usize = 4 * 1024 * 1024;

/// Gives a unified diff with three lines of context; nothing where the texts are equal.
pub(super) fn unified(before: &str, after: &str, before_name: &str, after_name: &str) -> String {
    if before == after {
        return String::new();
    }
    let diff = TextDiff::configure().timeout(LONGEST).diff_lines(before, after);
    let mut text = diff.unified_diff().context_radius(3).header(before_name, after_name).to_string();
    if text.len() > MOST {
        let end = (0..=MOST).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0);
        text.truncate(end);
        text.push_str("\n… the rest is not shown\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_texts_have_no_difference_and_others_show_it_with_its_surroundings() {
        assert_eq!(unified("a\nb\n", "a\nb\n", "x", "y"), "");
        let expected = "--- x\n+++ y\n@@ -1,3 +1,3 @@\n a\n-b\n+B\n c\n";
        assert_eq!(unified("a\nb\nc\n", "a\nB\nc\n", "x", "y"), expected);
    }

    #[test]
    fn a_difference_of_megabytes_is_cut() {
        let (a, b) = ("é\n".repeat(2_000_000), "b\n".repeat(2_000_000));
        let text = unified(&a, &b, "x", "y");
        assert!(text.len() < MOST + 100 && text.ends_with("not shown\n"));
    }
}
