//! Records in a file: what a backup keeps of a store.
//!
//! `SEGUEREC`, a format number, then for each record the lengths of key and value and their bytes, then an end mark, the
//! count, and the BLAKE3 of all that came before. Numbers are big-endian. A file without its end is no backup.

use std::{
    fs::File,
    io::{self, BufReader, BufWriter, Read, Write},
    path::{Path, PathBuf},
};

use segue_proto::ids::Digest;

use super::{Row, error::Error};

const MAGIC: &[u8; 8] = b"SEGUEREC";
const FORMAT: u32 = 1;

/// Stands where the length of a key would: no key is that long.
const END: u32 = u32::MAX;

/// The longest key that is read: ours are below 300 bytes, idempotency keys of users included in what is sane.
const LONGEST_KEY: u32 = 1024 * 1024;

/// Writes records to a new file.
pub(super) struct Writer {
    path: PathBuf,
    file: BufWriter<File>,
    hasher: blake3::Hasher,
    records: u64,
}

impl Writer {
    pub(super) fn create(path: &Path) -> Result<Self, Error> {
        let file = File::create_new(path).map_err(|e| Error::io("writing", path, e))?;
        let file = BufWriter::new(file);
        let mut writer = Self { path: path.to_owned(), file, hasher: blake3::Hasher::new(), records: 0 };
        writer.write(MAGIC)?;
        writer.write(&FORMAT.to_be_bytes())?;
        Ok(writer)
    }

    pub(super) fn record(&mut self, key: &[u8], value: &[u8]) -> Result<(), Error> {
        let length = u32::try_from(key.len()).ok().filter(|&length| length <= LONGEST_KEY);
        let length = length.ok_or_else(|| Error::corrupt(super::keys::describe(key), "its key is too long"))?;
        self.write(&length.to_be_bytes())?;
        self.write(&(value.len() as u64).to_be_bytes())?;
        self.write(key)?;
        self.write(value)?;
        self.records += 1;
        Ok(())
    }

    /// Ends the file and makes it durable; gives the count of records and the digest in its trailer.
    pub(super) fn finish(mut self) -> Result<(u64, Digest), Error> {
        self.write(&END.to_be_bytes())?;
        self.write(&self.records.to_be_bytes())?;
        let hash = self.hasher.finalize();
        let end = |file: &mut BufWriter<File>| {
            file.write_all(hash.as_bytes())?;
            file.flush()?;
            file.get_ref().sync_all()
        };
        end(&mut self.file).map_err(|e| Error::io("writing", &self.path, e))?;
        Ok((self.records, Digest::from(hash)))
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.hasher.update(bytes);
        self.file.write_all(bytes).map_err(|e| Error::io("writing", &self.path, e))
    }
}

/// Reads such a file to its end, shows every record to `see`, and checks count and digest. What `see` got is only good
/// if this gives no error. Gives the count and the digest.
pub(super) fn read(path: &Path, mut see: impl FnMut(Row) -> Result<(), Error>) -> Result<(u64, Digest), Error> {
    let file = File::open(path).map_err(|e| Error::io("reading", path, e))?;
    let size = file.metadata().map_err(|e| Error::io("reading", path, e))?.len();
    let mut reader = Reader { path, file: BufReader::new(file), hasher: blake3::Hasher::new(), left: size };
    if reader.bytes(MAGIC.len() as u64)? != MAGIC {
        return Err(reader.bad("it does not begin as one"));
    }
    let format = u32::from_be_bytes(reader.array()?);
    if format != FORMAT {
        return Err(reader.bad(&format!("it has format {format}, and this program reads format {FORMAT}")));
    }
    let mut records: u64 = 0;
    loop {
        let key_length = u32::from_be_bytes(reader.array()?);
        if key_length == END {
            break;
        }
        if key_length > LONGEST_KEY {
            return Err(reader.bad(&format!("record {} has an impossible length", records + 1)));
        }
        let value_length = u64::from_be_bytes(reader.array()?);
        let key = reader.bytes(key_length.into())?;
        let value = reader.bytes(value_length)?;
        see((key, value))?;
        records += 1;
    }
    let count = u64::from_be_bytes(reader.array()?);
    let hash = reader.hasher.finalize();
    if reader.array::<32>()? != *hash.as_bytes() {
        return Err(reader.bad("its checksum does not match: it was changed or damaged"));
    }
    if count != records || reader.left != 0 {
        return Err(reader.bad("it does not end where it says"));
    }
    Ok((records, Digest::from(hash)))
}

struct Reader<'a> {
    path: &'a Path,
    file: BufReader<File>,
    hasher: blake3::Hasher,
    /// Bytes of the file not read yet: no length in it is believed beyond them.
    left: u64,
}

impl Reader<'_> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let bytes = self.bytes(N as u64)?;
        bytes.try_into().map_err(|_| self.bad("it breaks off"))
    }

    fn bytes(&mut self, length: u64) -> Result<Vec<u8>, Error> {
        let cut = || self.bad("it breaks off: the backup was not finished, or the file was cut");
        if length > self.left {
            return Err(cut());
        }
        let mut bytes = vec![0; usize::try_from(length).map_err(|_| cut())?];
        match self.file.read_exact(&mut bytes) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Err(self.bad("it breaks off")),
            Err(e) => return Err(Error::io("reading", self.path, e)),
        }
        self.left -= length;
        self.hasher.update(&bytes);
        Ok(bytes)
    }

    fn bad(&self, reason: &str) -> Error {
        Error::BadBackup { place: self.path.to_owned(), reason: reason.to_owned() }
    }
}

#[cfg(test)]
#[path = "export_tests.rs"]
mod tests;
