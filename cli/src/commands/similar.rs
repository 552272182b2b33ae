//! `segue similar "TEXT"`: the most similar products of the latest embedding.

use clap::Args;
use segue_proto::v1;
use segue_worker::ops::text::query;
use serde_json::json;

use crate::{
    blobs,
    client::Client,
    error::{Error, ExitStatus},
    printer::{Printer, Rows},
};

/// Arguments.
#[derive(Debug, Args)]
pub struct SimilarArgs {
    /// Any description, in a product's words or your own
    pub text: String,
    /// How many products
    #[arg(short = 'k', long, default_value_t = 5, value_name = "K", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub count: u32,
    /// Embedding of this run instead of the latest one
    #[arg(long, value_name = "RUN")]
    pub run: Option<String>,
}

/// Runs the command: the query is embedded here, the products were embedded by the run.
pub async fn run(args: SimilarArgs, client: &Client, out: &mut Printer) -> Result<ExitStatus, Error> {
    let vectors = latest("vectors", args.run.clone().unwrap_or_default(), client).await?;
    let index = latest("index", vectors.run_id.clone(), client).await?;
    let dir = tempfile::tempdir().map_err(|e| Error::internal(format!("cannot make a temporary directory: {e}")))?;
    let vectors_file = dir.path().join("vectors.npy");
    let index_file = dir.path().join("index.parquet");
    blobs::file(client, &digest(&vectors), &vectors_file).await?;
    blobs::file(client, &digest(&index), &index_file).await?;
    let text = args.text.clone();
    let count = args.count as usize;
    let hits = tokio::task::spawn_blocking(move || query::nearest(&text, &vectors_file, &index_file, count))
        .await
        .map_err(|e| Error::internal(format!("the search ended early: {e}")))??;
    let values: Vec<_> = hits.iter().map(|hit| json!({"text": hit.text, "cosine": hit.cosine})).collect();
    out.data(&json!({"query": args.text, "run": vectors.run_id, "hits": values}), || {
        let mut rows = Rows::new(&["product", ">cosine"]);
        for hit in &hits {
            rows.row([hit.text.clone(), format!("{:.4}", hit.cosine)]);
        }
        rows
    })?;
    Ok(ExitStatus::Done)
}

async fn latest(output: &str, run_id: String, client: &Client) -> Result<v1::ArtifactView, Error> {
    let request =
        v1::ListArtifactsRequest { run_id, operator: "text.embed".to_owned(), output: output.to_owned(), limit: 1 };
    let found = client.runs().list_artifacts(request).await?.into_inner().artifacts;
    found.into_iter().next().ok_or_else(|| {
        Error::usage("there is no embedding to search")
            .hint("run a pipeline with a `text.embed` task first, such as pipelines/customer-segmentation.toml")
    })
}

fn digest(view: &v1::ArtifactView) -> String {
    view.artifact.as_ref().map(|artifact| artifact.digest.clone()).unwrap_or_default()
}
