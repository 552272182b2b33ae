//! HTTP for machines that watch: `/healthz`, `/readyz`, `/metrics`.

use axum::{Router, extract::State, http::StatusCode, routing::get};

use super::{api::Shared, metrics};

/// Makes the routes.
pub fn router(shared: Shared) -> Router {
    Router::new()
        // Alive: the process answers.
        .route("/healthz", get(|| async { "ok\n" }))
        // Ready: the actor answers too, so the store takes commits.
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics::serve))
        .with_state(shared)
}

async fn ready(State(shared): State<Shared>) -> (StatusCode, String) {
    match shared.handle.read(|_| ()).await {
        Ok(()) => (StatusCode::OK, "ready\n".to_owned()),
        Err(e) => (StatusCode::SERVICE_UNAVAILABLE, format!("{e}\n")),
    }
}
