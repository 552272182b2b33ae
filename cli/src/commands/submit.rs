//! `segue submit FILE`: submit and print the run id.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use clap::Args;
use segue_proto::{CHUNK_BYTES, v1};
use serde_json::json;

use super::{MOST_SENT, read_pipeline, too_large};
use crate::{
    args::Params,
    client::Client,
    error::{Error, ExitStatus},
    printer::Printer,
};

/// Arguments.
#[derive(Debug, Args)]
pub struct SubmitArgs {
    /// Pipeline file
    pub file: PathBuf,
    #[command(flatten)]
    pub params: Params,
    /// The same key gives the same run: safe to send twice. With another file or other parameters it is refused
    #[arg(long, value_name = "KEY")]
    pub idempotency_key: Option<String>,
    /// Execute every task, even where an equal one has a committed result
    #[arg(long)]
    pub no_cache: bool,
    /// Larger goes first among the runs that wait; a step is worth a minute of waiting
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub priority: Option<i32>,
    /// KEY=VALUE, shown with the run; may be given several times
    #[arg(long = "tag", value_name = "KEY=VALUE")]
    pub tags: Vec<String>,
}

/// Runs the command.
pub async fn run(args: SubmitArgs, client: &Client, out: &mut Printer) -> Result<ExitStatus, Error> {
    let response = submit(&args, client, out).await?;
    if response.existing {
        out.note("this key was submitted before: the same run is given");
    }
    if out.is_json() {
        out.json(&json!({"run": response.run_id, "pipeline": response.pipeline, "existing": response.existing}))?;
    } else {
        out.text(&response.run_id)?;
    }
    Ok(ExitStatus::Done)
}

/// Submits a file; faults of the file become an error that shows each at its place.
pub async fn submit(args: &SubmitArgs, client: &Client, out: &Printer) -> Result<v1::SubmitResponse, Error> {
    let request = request(args, client).await?;
    let response = client.runs().submit(request).await?.into_inner();
    if response.run_id.is_empty() {
        return Err(Error::diagnostics(response.diagnostics));
    }
    for warning in &response.diagnostics {
        out.note(warning.rendered.trim_end());
    }
    Ok(response)
}

/// Makes the request: reads the file, uploads `@FILE` parameters.
pub async fn request(args: &SubmitArgs, client: &Client) -> Result<v1::SubmitRequest, Error> {
    let (text, path) = read_pipeline(&args.file)?;
    let params = params(&args.params, client).await?;
    let bytes = params.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>() + text.len();
    if bytes > MOST_SENT {
        return Err(too_large(bytes));
    }
    Ok(v1::SubmitRequest {
        text,
        path,
        params,
        idempotency_key: args.idempotency_key.clone().unwrap_or_default(),
        no_cache: args.no_cache,
        priority: args.priority,
        tags: tags(&args.tags)?,
    })
}

/// Gives the parameters of a command line by name, with the files among them uploaded.
pub async fn params(given: &Params, client: &Client) -> Result<BTreeMap<String, String>, Error> {
    let mut params = BTreeMap::new();
    for (key, value) in split(given)? {
        let value = match value.strip_prefix('@') {
            Some(file) => format!("blob:{}", upload(Path::new(file), client).await?),
            None => resolve(&key, value)?,
        };
        params.insert(key, value);
    }
    Ok(params)
}

/// Reads the tags of a run.
fn tags(pairs: &[String]) -> Result<BTreeMap<String, String>, Error> {
    pairs
        .iter()
        .map(|pair| match pair.split_once('=') {
            Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
            _ => Err(Error::usage(format!("`--tag {pair}` is not KEY=VALUE")).hint("for example --tag team=growth")),
        })
        .collect()
}

/// Splits `KEY=VALUE` pairs.
pub fn split(params: &Params) -> Result<Vec<(String, String)>, Error> {
    let mut seen = std::collections::BTreeSet::new();
    params
        .params
        .iter()
        .map(|pair| {
            let (key, value) = pair.split_once('=').ok_or_else(|| {
                Error::usage(format!("`-p {pair}` is not KEY=VALUE")).hint("for example -p input=data.csv")
            })?;
            if !seen.insert(key) {
                return Err(Error::usage(format!("parameter `{key}` is given twice")));
            }
            Ok((key.to_owned(), value.to_owned()))
        })
        .collect()
}

/// A value that names a file of this directory is made absolute here: the pipeline file may be elsewhere, and people
/// mean the path as their shell completes it.
fn resolve(_key: &str, value: String) -> Result<String, Error> {
    let path = Path::new(&value);
    if !value.is_empty() && path.is_relative() && !value.contains("://") && path.is_file() {
        return Ok(crate::embedded::absolute(path)?.to_string_lossy().into_owned());
    }
    Ok(value)
}

/// Uploads a file in pieces and gives its digest.
async fn upload(file: &Path, client: &Client) -> Result<String, Error> {
    use tokio::io::AsyncReadExt as _;
    let cannot = |e: std::io::Error| Error::usage(format!("cannot upload {}: {e}", file.display()));
    let mut reader = tokio::fs::File::open(file).await.map_err(cannot)?;
    let (sender, receiver) = tokio::sync::mpsc::channel(4);
    let reading = async move {
        loop {
            let mut piece = Vec::with_capacity(CHUNK_BYTES);
            let n = (&mut reader).take(CHUNK_BYTES as u64).read_to_end(&mut piece).await?;
            let message = v1::PutBlobRequest { digest: String::new(), data: piece.into() };
            if sender.send(message).await.is_err() || n == 0 {
                return Ok::<_, std::io::Error>(());
            }
        }
    };
    let mut blobs = client.blobs();
    let sending = blobs.put(tokio_stream::wrappers::ReceiverStream::new(receiver));
    let (read, sent) = tokio::join!(reading, sending);
    read.map_err(cannot)?;
    Ok(sent?.into_inner().digest)
}
