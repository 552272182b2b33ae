//! Patterns of files in `foreach`: looked up when a run is submitted, on the machine of the coordinator.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
};

use glob::{MatchOptions, Pattern};
use serde_json::Value;

use crate::spec::{Code, Diagnostic, Over, RunSpec};

/// Most files that one pattern may find.
const MOST_FILES: usize = 100_000;
/// Most entries of folders that one run may look at: `/**/x` would look at every disk.
const MOST_ENTRIES: usize = 1_000_000;

/// As in a shell: `*` stays in its folder and finds no hidden files.
const OPTIONS: MatchOptions =
    MatchOptions { case_sensitive: true, require_literal_separator: true, require_literal_leading_dot: true };

/// Says whether a run has patterns to look up.
#[must_use]
pub fn any(spec: &RunSpec) -> bool {
    spec.tasks.iter().any(|task| matches!(&task.flow.fan_out, Some(fan) if matches!(fan.over, Over::Glob(_))))
}

/// Puts the files that are there now, sorted by path, into the place of each pattern.
///
/// # Errors
/// Names the task whose pattern finds nothing, too much, or what cannot be read.
pub fn expand_globs(spec: &mut RunSpec) -> Result<(), Diagnostic> {
    let mut walk = Walk { entries: 0 };
    for task in &mut spec.tasks {
        let Some(fan_out) = &mut task.flow.fan_out else { continue };
        let Over::Glob(pattern) = &fan_out.over else { continue };
        let files = walk.find(pattern).map_err(|Fault { message, hint }| {
            Diagnostic::error(Code::BadFanOut, format!("the fan-out `{}`: {message}", task.name)).hint(hint)
        })?;
        fan_out.over = Over::Items(files.into_iter().map(Value::from).collect());
    }
    Ok(())
}

/// Why a pattern gives no list of files.
#[derive(Debug, PartialEq, Eq)]
struct Fault {
    message: String,
    hint: String,
}

fn fault(message: String, hint: impl Into<String>) -> Fault {
    Fault { message, hint: hint.into() }
}

/// One part of a pattern, between two slashes.
#[derive(Debug)]
enum Part {
    /// A name as it is.
    Name(String),
    Pattern(Pattern),
    /// `**`: any number of folders.
    Folders,
}

/// Splits a pattern.
fn parts(pattern: &str) -> Result<Vec<Part>, Fault> {
    let mut parts = Vec::new();
    for text in pattern.split('/').filter(|text| !text.is_empty() && *text != ".") {
        parts.push(match text {
            "**" if matches!(parts.last(), Some(Part::Folders)) => continue,
            "**" => Part::Folders,
            text => match literal(text) {
                Some(name) => Part::Name(name),
                None => Part::Pattern(Pattern::new(text).map_err(|e| {
                    fault(format!("{pattern} is not a pattern of files: {}", e.msg), "write * for any text")
                })?),
            },
        });
    }
    // A pattern finds files, and a file is in a folder.
    if matches!(parts.last(), Some(Part::Folders)) {
        parts.extend(Pattern::new("*").map(Part::Pattern));
    }
    Ok(parts)
}

/// Gives the only name that a part fits, if there is no more than one: `[*]` is how a `*` is written.
fn literal(text: &str) -> Option<String> {
    let mut name = String::with_capacity(text.len());
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        match c {
            '*' | '?' => return None,
            '[' => {
                let one = rest.next().filter(|c| *c != '!')?;
                rest.next().filter(|c| *c == ']')?;
                name.push(one);
            }
            c => name.push(c),
        }
    }
    Some(name)
}

struct Walk {
    /// Looked at so far.
    entries: usize,
}

impl Walk {
    fn find(&mut self, pattern: &str) -> Result<BTreeSet<String>, Fault> {
        if !Path::new(pattern).is_absolute() {
            let message = format!("it is not known in which folder {pattern} is looked for");
            return Err(fault(message, "give a path that begins with /, or submit from a file"));
        }
        let parts = parts(pattern)?;
        let mut found = BTreeSet::new();
        let mut open = vec![(PathBuf::from("/"), 0)];
        while let Some((folder, at)) = open.pop() {
            let (Some(part), last) = (parts.get(at), at + 1 == parts.len()) else { continue };
            if let Part::Name(name) = part {
                let path = folder.join(name);
                self.take(path, last, at, &mut open, &mut found)?;
                continue;
            }
            if let Part::Folders = part {
                open.push((folder.clone(), at + 1));
            }
            for path in self.entries(&folder)? {
                let Some(name) = path.file_name() else { continue };
                match part {
                    Part::Pattern(pattern) if pattern.matches_with(&name.to_string_lossy(), OPTIONS) => {
                        self.take(path, last, at, &mut open, &mut found)?;
                    }
                    // Links to folders are not followed here: they may lead in a circle.
                    Part::Folders if !name.to_string_lossy().starts_with('.') && is_real_folder(&path) => {
                        open.push((path, at));
                    }
                    _ => {}
                }
            }
            if found.len() > MOST_FILES {
                let message = format!("{pattern} finds more than {MOST_FILES} files");
                return Err(fault(message, "narrow it, or fan out over folders"));
            }
        }
        if found.is_empty() { Err(nothing(pattern, &parts)) } else { Ok(found) }
    }

    /// Takes a path that fits so far.
    fn take(
        &self,
        path: PathBuf,
        last: bool,
        at: usize,
        open: &mut Vec<(PathBuf, usize)>,
        found: &mut BTreeSet<String>,
    ) -> Result<(), Fault> {
        if !last {
            if path.is_dir() {
                open.push((path, at + 1));
            }
            return Ok(());
        }
        if path.is_file() {
            let name = path.into_os_string().into_string().map_err(|name| {
                let message = format!("the name of a file is not UTF-8: {}", name.to_string_lossy());
                fault(message, "rename it, or narrow the pattern")
            })?;
            found.insert(name);
        }
        Ok(())
    }

    /// Gives what is in a folder; nothing where there is none.
    fn entries(&mut self, folder: &Path) -> Result<Vec<PathBuf>, Fault> {
        let unreadable = |e: io::Error| {
            fault(format!("the folder {} cannot be read: {e}", folder.display()), "the coordinator must be allowed to")
        };
        let list = match fs::read_dir(folder) {
            Ok(list) => list,
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => return Ok(vec![]),
            Err(e) => return Err(unreadable(e)),
        };
        let mut paths = Vec::new();
        for entry in list {
            self.entries += 1;
            if self.entries > MOST_ENTRIES {
                let message = format!("more than {MOST_ENTRIES} files and folders were looked at");
                return Err(fault(message, "begin the pattern with the folder that holds the files"));
            }
            paths.push(entry.map_err(unreadable)?.path());
        }
        Ok(paths)
    }
}

fn is_real_folder(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_dir())
}

/// Says how far a pattern leads that finds nothing.
fn nothing(pattern: &str, parts: &[Part]) -> Fault {
    let mut folder = PathBuf::from("/");
    let mut hint = None;
    for part in parts {
        let Part::Name(name) = part else { break };
        let next = folder.join(name);
        if !next.exists() {
            hint = Some(format!("there is no {} on the machine of the coordinator", next.display()));
            break;
        }
        folder = next;
    }
    let hint = hint.unwrap_or_else(|| format!("{} is there, but nothing in it fits", folder.display()));
    fault(format!("{pattern} finds no files"), hint)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::collections::BTreeMap;

    use segue_proto::operator::Catalogue;
    use serde_json::json;

    use super::*;
    use crate::spec::{bind, check, child_key};

    fn folder(files: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for file in files {
            let path = folder.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "x").unwrap();
        }
        folder
    }

    fn found(folder: &Path, pattern: &str) -> Result<Vec<String>, Fault> {
        let base = Pattern::escape(folder.to_str().unwrap());
        let files = Walk { entries: 0 }.find(&format!("{base}/{pattern}"))?;
        let cut = format!("{}/", folder.display());
        Ok(files.into_iter().map(|file| file.strip_prefix(&cut).unwrap().to_owned()).collect())
    }

    #[test]
    fn files_are_found_sorted_and_folders_are_not() {
        let folder =
            folder(&["b.csv", "a.csv", "c.txt", ".hidden.csv", "sub.csv/x", "in/d.csv", "in/deep/e.csv", "i[n/f.csv"]);
        let found = |pattern: &str| found(folder.path(), pattern).unwrap();
        assert_eq!(found("*.csv"), ["a.csv", "b.csv"]);
        assert_eq!(found("[bc].*"), ["b.csv", "c.txt"]);
        assert_eq!(found("?.txt"), ["c.txt"]);
        assert_eq!(found("c.txt"), ["c.txt"], "a name alone is a pattern too");
        assert_eq!(found("*/*.csv"), ["i[n/f.csv", "in/d.csv"]);
        assert_eq!(found("in/**/*.csv"), ["in/d.csv", "in/deep/e.csv"]);
        assert_eq!(found("in/**"), ["in/d.csv", "in/deep/e.csv"]);
        assert_eq!(found("**/**/e.csv"), ["in/deep/e.csv"]);
        assert_eq!(found("i[[]n/*"), ["i[n/f.csv"]);
        assert_eq!(found(".*.csv"), [".hidden.csv"]);
    }

    #[test]
    fn a_pattern_that_finds_nothing_says_how_far_it_leads() {
        let folder = folder(&["in/a.txt"]);
        let fault = found(folder.path(), "in/*.csv").unwrap_err();
        assert!(fault.message.ends_with("/in/*.csv finds no files"), "{}", fault.message);
        assert_eq!(fault.hint, format!("{}/in is there, but nothing in it fits", folder.path().display()));
        let fault = found(folder.path(), "out/x/*.csv").unwrap_err();
        assert_eq!(
            fault.hint,
            format!("there is no {}/out on the machine of the coordinator", folder.path().display())
        );
        assert!(found(folder.path(), "in/a.txt/*").is_err(), "a file is no folder");
    }

    #[cfg(unix)]
    #[test]
    fn links_that_lead_in_a_circle_are_not_followed() {
        let folder = folder(&["in/a.csv"]);
        std::os::unix::fs::symlink(folder.path(), folder.path().join("in/up")).unwrap();
        std::os::unix::fs::symlink(folder.path().join("in/a.csv"), folder.path().join("in/b.csv")).unwrap();
        assert_eq!(found(folder.path(), "**/*.csv").unwrap(), ["in/a.csv", "in/b.csv"]);
    }

    #[test]
    fn a_bound_run_gets_its_files_as_items_with_keys_of_their_own() {
        let folder = folder(&["in/a.csv", "in/b.csv"]);
        let text = "[pipeline]\nname = \"x\"\n[params]\nend = \"csv\"\n[tasks.a]\ncommand = [\"wc\", \"${item}\"]\n\
                    foreach = { glob = \"in/*.${params.end}\" }\n";
        let pipeline = check(text, "x.toml", &Catalogue::default()).pipeline.unwrap();
        let dir = folder.path().to_str().unwrap();
        let bound = |end: &str| {
            let params = BTreeMap::from([("end".to_owned(), end.to_owned())]);
            bind(&pipeline, &Catalogue::default(), &params, dir, false).unwrap()
        };
        let mut spec = bound("csv");
        assert!(any(&spec));
        expand_globs(&mut spec).unwrap();
        assert!(!any(&spec));
        let fan_out = spec.tasks[0].flow.fan_out.clone().unwrap();
        assert_eq!(fan_out.over, Over::Items(vec![json!(format!("{dir}/in/a.csv")), json!(format!("{dir}/in/b.csv"))]));
        let key = child_key(&fan_out, &json!(format!("{dir}/in/a.csv")), 0).unwrap();
        assert!(key.as_str().starts_with("a.csv-"), "people know a file by its name: {key}");

        let fault = expand_globs(&mut bound("txt")).unwrap_err();
        assert_eq!(fault.code, Code::BadFanOut);
        assert!(fault.message.starts_with("the fan-out `a`: ") && fault.hint.is_some());
        let mut nowhere = bind(&pipeline, &Catalogue::default(), &BTreeMap::new(), "", false).unwrap();
        assert!(expand_globs(&mut nowhere).unwrap_err().message.contains("not known in which folder"));
    }
}
