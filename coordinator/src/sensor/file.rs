//! Is a file or an object there?

use std::{io, path::Path};

use object_store::ObjectStoreExt as _;
use url::Url;

use super::Probe;

/// Looks at the form of a path.
pub(super) fn check(path: &str) -> Result<(), String> {
    if path.is_empty() || path.contains('\0') {
        return Err("the path of a file is empty or holds a NUL character".to_owned());
    }
    match remote(path) {
        Some(url) => {
            object_store::parse_url(&url).map(drop).map_err(|e| format!("`{path}` is no place of objects: {e}"))
        }
        None if local(path).is_absolute() => Ok(()),
        None => Err(format!("`{path}` is not absolute: nobody knows which folder it is in")),
    }
}

/// Looks once.
pub(super) async fn probe(path: &str) -> Probe {
    match remote(path) {
        Some(url) => object(path, &url).await,
        None => match tokio::fs::metadata(local(path)).await {
            Ok(found) => Probe::Met { note: format!("{path} is there, {} bytes", found.len()) },
            Err(e) if e.kind() == io::ErrorKind::NotFound => Probe::NotYet { why: format!("{path} is not there") },
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => Probe::Fault { message: format!("{path}: {e}") },
            Err(e) => Probe::NotYet { why: format!("{path}: {e}") },
        },
    }
}

async fn object(path: &str, url: &Url) -> Probe {
    use object_store::Error as E;
    let (store, place) = match object_store::parse_url_opts(url, std::env::vars()) {
        Ok(found) => found,
        Err(e) => return Probe::Fault { message: format!("{path}: {e}") },
    };
    match store.head(&place).await {
        Ok(found) => Probe::Met { note: format!("{path} is there, {} bytes", found.size) },
        Err(E::NotFound { .. }) => Probe::NotYet { why: format!("{path} is not there") },
        Err(e @ (E::PermissionDenied { .. } | E::Unauthenticated { .. } | E::NotSupported { .. })) => {
            Probe::Fault { message: format!("{path}: {e}") }
        }
        Err(e) => Probe::NotYet { why: format!("{path}: {e}") },
    }
}

fn remote(path: &str) -> Option<Url> {
    let url = path.contains("://").then(|| Url::parse(path).ok()).flatten()?;
    (url.scheme() != "file").then_some(url)
}

fn local(path: &str) -> &Path {
    Path::new(path.strip_prefix("file://").unwrap_or(path))
}
