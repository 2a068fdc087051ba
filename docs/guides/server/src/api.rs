//! What is served: POST /embed as text-embeddings-inference has it, POST /v1/embeddings as OpenAI has it, GET /health.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::rejection::JsonRejection;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::header::RETRY_AFTER;
use axum::http::StatusCode;
use axum::middleware::{from_fn, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use serde_json::{json, Value};

use crate::queue::Queue;
use crate::texts::{Row, Texts};

pub struct Service {
    pub name: String,
    pub dimensions: usize,
    /// Whether embeddings have length one.
    pub normalized: bool,
    pub texts: Arc<Texts>,
    pub queue: Queue,
    /// The most texts in one request.
    pub most: usize,
}

const LARGEST_BODY: usize = 2 * 1024 * 1024;
/// A request that has not ended by then is given up, slow senders too.
pub const LONGEST_WAIT: Duration = Duration::from_secs(60);

pub fn router(service: Service) -> Router {
    Router::new()
        .route("/embed", post(embed))
        .route("/v1/embeddings", post(openai))
        .route("/health", get(health))
        .fallback(|| async { Refusal::new(StatusCode::NOT_FOUND, "there are /embed, /v1/embeddings and /health") })
        .method_not_allowed_fallback(|| async { Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "use another method") })
        .layer(DefaultBodyLimit::max(LARGEST_BODY))
        .layer(from_fn(in_time))
        .with_state(Arc::new(service))
}

/// Why there is no answer: `{"error": message, "error_type": kind}`.
struct Refusal {
    status: StatusCode,
    message: String,
}

impl Refusal {
    fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into() }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let kind = match self.status {
            StatusCode::TOO_MANY_REQUESTS => "Overloaded",
            status if status.is_server_error() => "Backend",
            _ => "Validation",
        };
        let body = Json(json!({"error": self.message, "error_type": kind}));
        match self.status {
            StatusCode::TOO_MANY_REQUESTS => (self.status, [(RETRY_AFTER, "1")], body).into_response(),
            status => (status, body).into_response(),
        }
    }
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a text or a list of texts")]
enum Inputs {
    One(String),
    Many(Vec<String>),
}

/// Unknown fields are refused: a wish that is passed over in silence would be another embedding than was asked for.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Embed {
    inputs: Inputs,
    /// False: a text that is too long is refused. It is cut otherwise, as in Python.
    truncate: Option<bool>,
    /// What the bundle does anyway; anything else is refused.
    normalize: Option<bool>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OpenAi {
    input: Inputs,
    model: Option<String>,
    encoding_format: Option<Encoding>,
    #[serde(rename = "user")]
    _user: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Encoding {
    Float,
    Base64,
}

type Given<T> = Result<Json<T>, JsonRejection>;

async fn embed(State(service): State<Arc<Service>>, given: Given<Embed>) -> Result<Json<Vec<Vec<f32>>>, Refusal> {
    let Embed { inputs, truncate, normalize } = body(given)?;
    if normalize.is_some_and(|wanted| wanted != service.normalized) {
        let not = if service.normalized { "" } else { "not " };
        let message = format!("the embeddings of this model are {not}normalized");
        return Err(Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, message));
    }
    let (_, embeddings) = service.embed(inputs, truncate.unwrap_or(true)).await?;
    Ok(Json(embeddings))
}

#[derive(Serialize)]
struct OpenAiAnswer {
    object: &'static str,
    data: Vec<OpenAiEmbedding>,
    model: String,
    usage: Value,
}

#[derive(Serialize)]
struct OpenAiEmbedding {
    object: &'static str,
    index: usize,
    embedding: Numbers,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Numbers {
    Float(Vec<f32>),
    /// Of little-endian float32, as OpenAI's own clients ask for it.
    Base64(String),
}

async fn openai(State(service): State<Arc<Service>>, given: Given<OpenAi>) -> Result<Json<OpenAiAnswer>, Refusal> {
    let asked = body(given)?;
    let (tokens, embeddings) = service.embed(asked.input, true).await?;
    let written = |numbers: Vec<f32>| match asked.encoding_format {
        Some(Encoding::Base64) => {
            Numbers::Base64(base64::encode(numbers.into_iter().flat_map(f32::to_le_bytes).collect::<Vec<_>>()))
        }
        _ => Numbers::Float(numbers),
    };
    let data = embeddings.into_iter().enumerate().map(|(index, numbers)| OpenAiEmbedding {
        object: "embedding",
        index,
        embedding: written(numbers),
    });
    Ok(Json(OpenAiAnswer {
        object: "list",
        data: data.collect(),
        model: asked.model.unwrap_or_else(|| service.name.clone()),
        usage: json!({"prompt_tokens": tokens, "total_tokens": tokens}),
    }))
}

async fn health(State(service): State<Arc<Service>>) -> Json<Value> {
    Json(json!({
        "status": "ok",
        "model": service.name,
        "dimensions": service.dimensions,
        "longest": service.texts.longest,
        "most": service.most,
        "waiting": service.queue.waiting(),
    }))
}

impl Service {
    /// (tokens in all, an embedding of each text)
    async fn embed(&self, inputs: Inputs, cut: bool) -> Result<(usize, Vec<Vec<f32>>), Refusal> {
        let texts = match inputs {
            Inputs::One(text) => vec![text],
            Inputs::Many(texts) => texts,
        };
        let (count, most) = (texts.len(), self.most);
        if count == 0 {
            return Err(Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, "there is no text"));
        }
        if count > most {
            let message = format!("{count} texts are more than the {most} that one request may have");
            return Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, message));
        }
        let busy = || Refusal::new(StatusCode::TOO_MANY_REQUESTS, "too many texts are waiting; try again soon");
        let room = self.queue.enter(count).ok_or_else(busy)?;
        let tokenizer = self.texts.clone();
        let encode =
            move || texts.iter().map(|text| tokenizer.encode(text.as_str())).collect::<anyhow::Result<Vec<Row>>>();
        let rows = tokio::task::spawn_blocking(encode).await.map_err(failed)?.map_err(failed)?;
        if let Some(place) = rows.iter().position(|row| row.cut && !cut) {
            let message = format!("text {place} has more than {} tokens", self.texts.longest);
            return Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, message));
        }
        let tokens = rows.iter().map(|row| row.ids.len()).sum();
        Ok((tokens, self.queue.embed(room, rows).await.map_err(failed)?))
    }
}

fn body<T>(given: Given<T>) -> Result<T, Refusal> {
    given.map(|Json(body)| body).map_err(|error| Refusal::new(error.status(), error.body_text()))
}

fn failed(error: impl std::fmt::Display) -> Refusal {
    Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
}

async fn in_time(request: Request, next: Next) -> Response {
    let late = |_| Refusal::new(StatusCode::REQUEST_TIMEOUT, "the request took too long").into_response();
    tokio::time::timeout(LONGEST_WAIT, next.run(request)).await.unwrap_or_else(late)
}
