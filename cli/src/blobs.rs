//! Artifacts from the coordinator to this machine, verified on arrival.

use std::path::Path;

use segue_proto::v1;
use tokio::io::AsyncWriteExt as _;

use crate::{client::Client, error::Error, printer::Printer};

/// Prints a blob as it comes, of any length: what it is known to be only at its end.
pub async fn print(client: &Client, digest: &str, out: &mut Printer) -> Result<(), Error> {
    let mut stream = client.blobs().get(v1::GetBlobRequest { digest: digest.to_owned() }).await?.into_inner();
    let mut hasher = blake3::Hasher::new();
    while let Some(piece) = stream.message().await? {
        hasher.update(&piece.data);
        out.bytes(&piece.data)?;
    }
    check(digest, hasher.finalize())
}

/// Fetches a small blob into memory.
pub async fn bytes(client: &Client, digest: &str) -> Result<Vec<u8>, Error> {
    let mut stream = client.blobs().get(v1::GetBlobRequest { digest: digest.to_owned() }).await?.into_inner();
    let mut bytes = Vec::new();
    while let Some(piece) = stream.message().await? {
        bytes.extend_from_slice(&piece.data);
    }
    check(digest, blake3::hash(&bytes))?;
    Ok(bytes)
}

/// Fetches a blob into a file: whole and verified, or not at all.
pub async fn file(client: &Client, digest: &str, to: &Path) -> Result<u64, Error> {
    let mut name = to.file_name().unwrap_or_default().to_os_string();
    name.push(format!(".part-{}", std::process::id()));
    let partial = to.with_file_name(name);
    let fetched = match fetch(client, digest, &partial).await {
        Ok(size) => tokio::fs::rename(&partial, to).await.map(|()| size).map_err(|e| cannot_write(to, &e)),
        Err(e) => Err(e),
    };
    if fetched.is_err() {
        let _ = tokio::fs::remove_file(&partial).await;
    }
    fetched
}

async fn fetch(client: &Client, digest: &str, to: &Path) -> Result<u64, Error> {
    let mut stream = client.blobs().get(v1::GetBlobRequest { digest: digest.to_owned() }).await?.into_inner();
    let mut file = tokio::fs::File::create(to).await.map_err(|e| cannot_write(to, &e))?;
    let mut hasher = blake3::Hasher::new();
    let mut size = 0;
    while let Some(piece) = stream.message().await? {
        hasher.update(&piece.data);
        size += piece.data.len() as u64;
        file.write_all(&piece.data).await.map_err(|e| cannot_write(to, &e))?;
    }
    file.flush().await.map_err(|e| cannot_write(to, &e))?;
    check(digest, hasher.finalize())?;
    Ok(size)
}

fn cannot_write(to: &Path, error: &std::io::Error) -> Error {
    Error::usage(format!("cannot write {}: {error}", to.display()))
}

fn check(expected: &str, actual: blake3::Hash) -> Result<(), Error> {
    if actual.to_hex().as_str() == expected {
        return Ok(());
    }
    Err(Error::internal(format!("the blob {expected} arrived damaged"))
        .hint("segue store verify names what else is damaged"))
}
