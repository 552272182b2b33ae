//! Outputs whose bytes go up with the success: what the coordinator decides by, such as the items of a fan-out.

use std::{collections::BTreeMap, fs::File, io::Read as _, path::Path};

use bytes::Bytes;
use segue_proto::{
    INLINE_BYTES,
    failure::{Failure, FailureClass},
    v1,
};
use serde::de::IgnoredAny;

use super::redact::Redactor;

/// The outputs that are wanted with the success, and their bytes as far as they were read.
#[derive(Debug, Default)]
pub struct Inline(BTreeMap<String, Bytes>);

impl Inline {
    /// Takes the names of an assignment.
    ///
    /// # Errors
    /// Class `infra` if it asks for an output that the task does not have.
    pub fn wanted(names: &[String], ports: &[v1::Port]) -> Result<Self, Failure> {
        for name in names {
            if !ports.iter().any(|port| port.name == *name) {
                let message =
                    format!("the assignment asks for output `{}`, which the task does not have", name.escape_debug());
                return Err(Failure::new(FailureClass::Infra, message));
            }
        }
        Ok(Self(names.iter().map(|name| (name.clone(), Bytes::new())).collect()))
    }

    /// Reads the file of an output if it is wanted.
    ///
    /// # Errors
    /// Class `user` if it is too long or not JSON, or if it holds a secret: it is stored with the run, and shown.
    pub fn read(&mut self, output: &str, file: &Path, secrets: &Redactor) -> Result<(), Failure> {
        let Some(bytes) = self.0.get_mut(output) else { return Ok(()) };
        *bytes = json(output, file)?;
        if secrets.finds(bytes) {
            let message = format!("output `{output}` decides how the run goes on, and holds the value of a secret");
            return Err(Failure::new(FailureClass::User, message)
                .hint("it would be stored with the run and shown: decide by something else"));
        }
        Ok(())
    }

    /// Gives the bytes by output. One that may be left out and was is not among them.
    pub fn bytes(self) -> BTreeMap<String, Bytes> {
        self.0.into_iter().filter(|(_, bytes)| !bytes.is_empty()).collect()
    }
}

fn json(output: &str, file: &Path) -> Result<Bytes, Failure> {
    let mut bytes = Vec::new();
    // One byte more than may be there, and never a whole file of any length.
    let limit = INLINE_BYTES as u64 + 1;
    let read = File::open(file).and_then(|file| file.take(limit).read_to_end(&mut bytes));
    read.map_err(|e| Failure::new(FailureClass::Infra, format!("cannot read output `{output}`: {e}")))?;
    if bytes.len() > INLINE_BYTES {
        let message = format!(
            "output `{output}` is longer than {} KiB, the most that can decide how the run goes on",
            INLINE_BYTES / 1024
        );
        return Err(Failure::new(FailureClass::User, message)
            .hint("write what is decided by, such as names or keys, and the data to another output"));
    }
    serde_json::from_slice::<IgnoredAny>(&bytes).map_err(|e| {
        Failure::new(FailureClass::User, format!("output `{output}` decides how the run goes on and is not JSON: {e}"))
            .hint("write a JSON document, such as [\"eu\", \"us\"]")
    })?;
    Ok(bytes.into())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::fs;

    use super::*;

    fn inline() -> Inline {
        let ports = ["items", "table"].map(|name| v1::Port { name: name.into(), ..Default::default() });
        Inline::wanted(&["items".to_owned()], &ports).unwrap()
    }

    fn read(bytes: &[u8]) -> Result<BTreeMap<String, Bytes>, Failure> {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("items.json");
        fs::write(&file, bytes).unwrap();
        let mut inline = inline();
        let secrets = Redactor::new(["correct-horse"]);
        inline.read("table", Path::new("/nowhere"), &secrets)?;
        inline.read("items", &file, &secrets)?;
        Ok(inline.bytes())
    }

    #[test]
    fn the_bytes_of_a_wanted_output_are_kept_as_they_are_and_no_others() {
        let found = read(b" [1, 2.50]\n").unwrap();
        assert_eq!(found, BTreeMap::from([("items".to_owned(), Bytes::from_static(b" [1, 2.50]\n"))]));
        assert!(inline().bytes().is_empty(), "one that was left out is not there");
    }

    #[test]
    fn what_is_too_long_or_no_json_is_the_fault_of_the_task() {
        let fits = format!("\"{}\"", "x".repeat(INLINE_BYTES - 2));
        assert_eq!(read(fits.as_bytes()).unwrap()["items"].len(), INLINE_BYTES);
        let long = read(format!("{fits} ").as_bytes()).unwrap_err();
        assert_eq!(long.class, FailureClass::User);
        assert!(long.message.contains("`items`") && long.message.contains("64 KiB"), "{long:?}");
        for bytes in [&b""[..], b"[1,", b"\xff"] {
            let failure = read(bytes).unwrap_err();
            assert_eq!(failure.class, FailureClass::User);
            assert!(failure.message.contains("`items`"), "{failure:?}");
        }
    }

    #[test]
    fn what_holds_a_secret_decides_nothing() {
        let failure = read(b"[\"eu\", \"correct-horse\"]").unwrap_err();
        assert_eq!(failure.class, FailureClass::User);
        assert!(failure.message.contains("`items`") && !failure.message.contains("horse"), "{failure:?}");
    }

    #[test]
    fn an_output_that_the_task_does_not_have_is_the_fault_of_the_coordinator() {
        assert_eq!(Inline::wanted(&["x".to_owned()], &[]).unwrap_err().class, FailureClass::Infra);
    }
}
