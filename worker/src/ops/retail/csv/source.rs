//! The bytes of a file: opened, recognised by their first bytes, decompressed.

use std::{
    fs,
    io::{self, Read},
    path::Path,
};

use crate::ops::OpError;

/// A packed file may grow to this size, however small it is.
const ROOM: u64 = 1 << 30;

/// Above `ROOM`, how many times its packed size a file may have. Order lines that repeat all the time pack to a fiftieth.
const MOST_TIMES: u64 = 300;

/// How a file was packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    None,
    Gzip,
    Xz,
    Zstd,
}

impl Compression {
    /// Recognises a packer by the first bytes. The name of a file says nothing: exports are renamed.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        match bytes {
            [0x1f, 0x8b, ..] => Self::Gzip,
            [0xfd, b'7', b'z', b'X', b'Z', 0x00, ..] => Self::Xz,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Self::Zstd,
            _ => Self::None,
        }
    }

    /// Gives the name shown to people.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Gzip => "gz",
            Self::Xz => "xz",
            Self::Zstd => "zst",
        }
    }
}

/// Reads a local file whole and unpacks it.
///
/// # Errors
/// Class `user` if there is no such file, `data` if it is empty, cut off, damaged or made to fill the memory, `infra` if the
/// disk fails.
pub fn load(path: &Path) -> Result<(Vec<u8>, Compression), OpError> {
    let shown = path.display();
    let facts = fs::metadata(path).map_err(|e| cannot_open(path, &e))?;
    if facts.is_dir() {
        return Err(OpError::user(format!("{shown} is a directory")).hint("give the path of one CSV file"));
    }
    let packed = fs::read(path).map_err(|e| cannot_open(path, &e))?;
    if packed.is_empty() {
        return Err(OpError::data(format!("{shown} is empty")).hint("export or download the file again"));
    }
    let compression = Compression::of(&packed);
    let most = ROOM.max(MOST_TIMES.saturating_mul(packed.len() as u64));
    let bytes = unpack(packed, compression, most).map_err(|e| damaged(path, compression, &e))?;
    if compression != Compression::None && bytes.len() as u64 > most {
        return Err(too_large(path, compression, most));
    }
    if bytes.is_empty() {
        return Err(
            OpError::data(format!("{shown} holds nothing once unpacked")).hint("export or download the file again")
        );
    }
    Ok((bytes, compression))
}

/// Unpacks; of a file that is larger than `most`, one byte more than that.
fn unpack(packed: Vec<u8>, compression: Compression, most: u64) -> io::Result<Vec<u8>> {
    let stream: Box<dyn Read + '_> = match compression {
        Compression::None => return Ok(packed),
        // Several streams in a row are one file for gzip and xz alike; parallel packers write such files.
        Compression::Gzip => Box::new(flate2::read::MultiGzDecoder::new(packed.as_slice())),
        Compression::Xz => Box::new(liblzma::read::XzDecoder::new_multi_decoder(packed.as_slice())),
        Compression::Zstd => Box::new(zstd::stream::read::Decoder::with_buffer(packed.as_slice())?),
    };
    let mut bytes = Vec::new();
    stream.take(most.saturating_add(1)).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn too_large(path: &Path, compression: Compression, most: u64) -> OpError {
    let (shown, packer) = (path.display(), compression.name());
    OpError::data(format!(
        "{shown} has more than {most} bytes once its {packer} stream is unpacked, {MOST_TIMES} times of what is there"
    ))
    .hint("no order lines pack so well; if these do, unpack the file and give that one")
}

fn cannot_open(path: &Path, error: &io::Error) -> OpError {
    let shown = path.display();
    match error.kind() {
        io::ErrorKind::NotFound => OpError::user(format!("{shown} does not exist"))
            .hint("check the path; with remote workers send the file along: `-p input=@FILE`"),
        io::ErrorKind::PermissionDenied => OpError::user(format!("{shown} may not be read by this worker"))
            .hint("check the owner and mode of the file"),
        _ => OpError::infra(format!("cannot read {shown}: {error}")),
    }
}

fn damaged(path: &Path, compression: Compression, error: &io::Error) -> OpError {
    let (shown, packer) = (path.display(), compression.name());
    let what = if error.kind() == io::ErrorKind::UnexpectedEof { "is cut off" } else { "is damaged or cut off" };
    OpError::data(format!("{shown} {what}: its {packer} stream cannot be unpacked to the end: {error}"))
        .hint("copy or download the file again and compare its size or checksum with the original")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::io::Write;

    use segue_proto::failure::FailureClass;

    use super::*;

    const TEXT: &[u8] = b"a,b\n1,2\n";

    /// A text that fills several blocks of every packer, so that a cut falls inside the stream.
    fn long() -> Vec<u8> {
        (0..50_000u32).flat_map(|i| format!("{i},{}\n", i.wrapping_mul(2_654_435_761)).into_bytes()).collect()
    }

    fn pack(compression: Compression, text: &[u8]) -> Vec<u8> {
        match compression {
            Compression::None => text.to_vec(),
            Compression::Gzip => {
                let mut to = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                to.write_all(text).unwrap();
                to.finish().unwrap()
            }
            Compression::Xz => {
                let mut to = liblzma::write::XzEncoder::new(Vec::new(), 1);
                to.write_all(text).unwrap();
                to.finish().unwrap()
            }
            // With a checksum, as the zstd program writes it.
            Compression::Zstd => {
                let mut to = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
                to.include_checksum(true).unwrap();
                to.write_all(text).unwrap();
                to.finish().unwrap()
            }
        }
    }

    fn load_bytes(bytes: &[u8]) -> Result<(Vec<u8>, Compression), OpError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lines.csv");
        fs::write(&path, bytes).unwrap();
        load(&path)
    }

    #[test]
    fn every_packing_is_recognised_by_its_first_bytes_alone() {
        for compression in [Compression::None, Compression::Gzip, Compression::Xz, Compression::Zstd] {
            assert_eq!(load_bytes(&pack(compression, TEXT)).unwrap(), (TEXT.to_vec(), compression));
        }
    }

    #[test]
    fn two_packed_streams_in_a_row_are_one_file() {
        for compression in [Compression::Gzip, Compression::Xz, Compression::Zstd] {
            let twice = [pack(compression, TEXT), pack(compression, TEXT)].concat();
            assert_eq!(load_bytes(&twice).unwrap().0, [TEXT, TEXT].concat());
        }
    }

    #[test]
    fn a_cut_or_damaged_stream_is_a_data_error_that_names_the_file() {
        for compression in [Compression::Gzip, Compression::Xz, Compression::Zstd] {
            let whole = pack(compression, &long());
            let mut flipped = whole.clone();
            let middle = flipped.len() / 2;
            flipped[middle..middle + 64].fill(0x55);
            for broken in [&whole[..whole.len() / 2], &whole[..whole.len() - 3], &whole[..7], &flipped] {
                let error = load_bytes(broken).map(|(bytes, _)| bytes.len()).unwrap_err();
                assert_eq!(error.0.class, FailureClass::Data, "{compression:?} {error}");
                assert!(error.0.message.contains("lines.csv") && !error.0.hint.is_empty(), "{error}");
            }
        }
    }

    #[test]
    fn no_more_is_unpacked_than_one_byte_beyond_the_limit() {
        for compression in [Compression::Gzip, Compression::Xz, Compression::Zstd] {
            let packed = pack(compression, &vec![b'0'; 1 << 20]);
            assert!(packed.len() < 16_384, "{compression:?} packs noughts to {}", packed.len());
            assert_eq!(unpack(packed.clone(), compression, 1_000).unwrap().len(), 1_001);
            assert_eq!(unpack(packed, compression, 1 << 20).unwrap().len(), 1 << 20);
        }
        let refused = too_large(Path::new("lines.csv"), Compression::Gzip, ROOM);
        assert_eq!(refused.0.class, FailureClass::Data);
        assert!(refused.0.message.contains("lines.csv") && refused.0.hint.contains("unpack"), "{refused}");
    }

    #[test]
    fn missing_files_directories_and_empty_files_say_so() {
        let dir = tempfile::tempdir().unwrap();
        let missing = load(&dir.path().join("no.csv")).unwrap_err();
        assert_eq!(missing.0.class, FailureClass::User);
        assert!(missing.0.message.contains("does not exist"));
        assert!(load(dir.path()).unwrap_err().0.message.contains("is a directory"));
        assert!(load_bytes(b"").unwrap_err().0.message.contains("is empty"));
        assert!(load_bytes(&pack(Compression::Xz, b"")).unwrap_err().0.message.contains("holds nothing"));
    }
}
