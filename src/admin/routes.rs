//! What is answered: the paths of the admin port.
//!
//! # Invariants
//! - Only `POST /reload` changes anything.
//! - Every answer is whole before it is sent; none is stored by a cache or guessed at by a browser.

use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Body, Bytes};
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue, WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS};
use hyper::{Method, Request, Response, StatusCode};
use serde_json::Value;
use tokio::time::timeout;
use tracing::{error, info};

use super::AdminState;
use super::guard::{self, Policy, Refusal};
use crate::metrics::CONTENT_TYPE as METRICS_TYPE;

/// A body means nothing to any path; this much is read and dropped.
const BODY_BYTES_MAX: usize = 4 * 1024;
/// How long the body may take to come.
const BODY_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a reload may take before its client is told that it goes on.
const RELOAD_TIMEOUT: Duration = Duration::from_secs(30);

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";

const INDEX: &str = "\
quoit

GET  /metrics  what quoit counts, for Prometheus
GET  /healthz  200 while the process runs
GET  /readyz   200 while it should get new clients, else 503 and why
GET  /ring     the rings in force
GET  /config   the configuration in force, without secrets
POST /reload   read the configuration again
";

type Answer = Response<Full<Bytes>>;

#[derive(Debug, Clone, Copy)]
enum Route {
    Index,
    Metrics,
    Health,
    Ready,
    Ring,
    Config,
    Reload,
}

impl Route {
    fn of(path: &str) -> Option<Route> {
        Some(match path {
            "/" => Route::Index,
            "/metrics" => Route::Metrics,
            "/healthz" => Route::Health,
            "/readyz" => Route::Ready,
            "/ring" => Route::Ring,
            "/config" => Route::Config,
            "/reload" => Route::Reload,
            _ => return None,
        })
    }

    /// The methods it knows, as the Allow header lists them.
    fn allow(self) -> &'static str {
        match self {
            Route::Index | Route::Metrics | Route::Health | Route::Ready | Route::Ring | Route::Config => "GET, HEAD",
            Route::Reload => "POST",
        }
    }

    fn allows(self, method: &Method) -> bool {
        self.allow().split(", ").any(|allowed| allowed == method.as_str())
    }
}

/// Answers one request. hyper leaves the body out where the method is HEAD.
pub(super) async fn answer<B>(request: Request<B>, state: &AdminState, loopback: bool) -> Answer
where
    B: Body,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let (head, body) = request.into_parts();
    let policy = Policy { token: state.token.as_deref(), host_names: &state.host_names, loopback };
    if let Err(refusal) = guard::check(&head, policy) {
        return refused(refusal);
    }
    let Some(route) = Route::of(head.uri.path()) else {
        return text(StatusCode::NOT_FOUND, "not found\n");
    };
    if !route.allows(&head.method) {
        let mut answer = text(StatusCode::METHOD_NOT_ALLOWED, "method not allowed\n");
        answer.headers_mut().insert(ALLOW, HeaderValue::from_static(route.allow()));
        return answer;
    }
    match timeout(BODY_TIMEOUT, Limited::new(body, BODY_BYTES_MAX).collect()).await {
        Ok(Ok(_dropped)) => {}
        Ok(Err(_too_long_or_broken)) => return text(StatusCode::PAYLOAD_TOO_LARGE, "no body is needed\n"),
        Err(_elapsed) => return text(StatusCode::REQUEST_TIMEOUT, "the body did not come in time\n"),
    }
    match route {
        Route::Index => text(StatusCode::OK, INDEX),
        Route::Metrics => metrics(state),
        Route::Health => text(StatusCode::OK, "ok\n"),
        Route::Ready => match state.hooks.ready() {
            Ok(()) => text(StatusCode::OK, "ready\n"),
            Err(reason) => text(StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {reason}\n")),
        },
        Route::Ring => json(&state.hooks.ring_json()),
        Route::Config => json(&state.hooks.config_json()),
        Route::Reload => reload(state).await,
    }
}

fn metrics(state: &AdminState) -> Answer {
    match state.metrics.render() {
        Ok(page) => whole(StatusCode::OK, METRICS_TYPE, page),
        Err(error) => {
            error!(error = &error as &dyn std::error::Error, "a scrape got no metrics");
            text(StatusCode::INTERNAL_SERVER_ERROR, "the metrics could not be rendered; the log says why\n")
        }
    }
}

async fn reload(state: &AdminState) -> Answer {
    info!("reload asked for through the admin port");
    match timeout(RELOAD_TIMEOUT, state.hooks.reload()).await {
        Ok(Ok(done)) => text(StatusCode::OK, format!("{done}\n")),
        Ok(Err(faults)) => text(StatusCode::UNPROCESSABLE_ENTITY, format!("{faults}\n")),
        Err(_elapsed) => text(StatusCode::GATEWAY_TIMEOUT, "the reload takes long; it goes on\n"),
    }
}

fn refused(refusal: Refusal) -> Answer {
    let status = match refusal {
        Refusal::HostMissing => StatusCode::BAD_REQUEST,
        Refusal::HostForeign => StatusCode::MISDIRECTED_REQUEST,
        Refusal::CrossSite | Refusal::TokenUnset => StatusCode::FORBIDDEN,
        Refusal::TokenWrong => StatusCode::UNAUTHORIZED,
    };
    let mut answer = text(status, format!("{refusal}\n"));
    if status == StatusCode::UNAUTHORIZED {
        answer.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    answer
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Answer {
    whole(status, TEXT, body)
}

fn json(value: &Value) -> Answer {
    whole(StatusCode::OK, JSON, format!("{value:#}\n"))
}

fn whole(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    answer
}
