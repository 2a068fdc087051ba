//! The encoder. Paths are joined with a dot, so the names here are the names in the file.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{bail, ensure, Context, Result};
use serde::Deserialize;
use tch::nn::{self, LayerNormConfig, Module};
use tch::{Kind, Tensor};

/// What config.json says of a BERT.
#[derive(Clone, Deserialize)]
pub struct Config {
    pub model_type: String,
    pub vocab_size: i64,
    pub hidden_size: i64,
    pub num_hidden_layers: i64,
    pub num_attention_heads: i64,
    pub intermediate_size: i64,
    pub hidden_act: String,
    pub max_position_embeddings: i64,
    pub type_vocab_size: i64,
    pub layer_norm_eps: f64,
    #[serde(default = "usual_dropout")]
    pub hidden_dropout_prob: f64,
    #[serde(default = "usual_dropout")]
    pub attention_probs_dropout_prob: f64,
    pub classifier_dropout: Option<f64>,
    /// The names of a head's labels, by their numbers.
    #[serde(default = "usual_labels")]
    pub id2label: BTreeMap<String, String>,
    #[serde(default)]
    pub position_embedding_type: Option<String>,
}

/// What transformers takes where config.json says nothing.
fn usual_dropout() -> f64 {
    0.1
}

fn usual_labels() -> BTreeMap<String, String> {
    (0..2).map(|k| (k.to_string(), format!("LABEL_{k}"))).collect()
}

impl Config {
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
        let config: Self = serde_json::from_str(&text).with_context(|| path.display().to_string())?;
        ensure!(config.model_type == "bert", "{} is no bert", config.model_type);
        ensure!(config.hidden_act == "gelu", "the activation {} is not known here", config.hidden_act);
        match config.position_embedding_type.as_deref() {
            None | Some("absolute") => Ok(config),
            Some(other) => bail!("{other} positions are not known here"),
        }
    }

    /// The names of the labels, in their order.
    pub fn labels(&self) -> Result<Vec<String>> {
        let name = |k: usize| self.id2label.get(&k.to_string()).cloned();
        (0..self.id2label.len()).map(|k| name(k).with_context(|| format!("id2label has no {k}"))).collect()
    }
}

pub struct Bert {
    words: nn::Embedding,
    positions: nn::Embedding,
    segments: nn::Embedding,
    norm: nn::LayerNorm,
    layers: Vec<Layer>,
    pooler: Option<nn::Linear>,
    heads: i64,
    dropout: Dropout,
}

/// Which part of states and of attention weights is dropped: in training what config.json says, else none.
#[derive(Clone, Copy, Default)]
struct Dropout {
    hidden: f64,
    attention: f64,
}

struct Layer {
    query: nn::Linear,
    key: nn::Linear,
    value: nn::Linear,
    attended: nn::Linear,
    attended_norm: nn::LayerNorm,
    wide: nn::Linear,
    narrow: nn::Linear,
    norm: nn::LayerNorm,
}

impl Bert {
    /// Makes the variables below `path`, the root of the store or its part "bert".
    pub fn new(path: &nn::Path, config: &Config, pooler: bool) -> Self {
        let hidden = config.hidden_size;
        let embeddings = path / "embeddings";
        let table = |name: &str, rows| nn::embedding(&embeddings / name, rows, hidden, Default::default());
        let layers = (0..config.num_hidden_layers).map(|k| Layer::new(&(path / "encoder" / "layer" / k), config));
        Self {
            words: table("word_embeddings", config.vocab_size),
            positions: table("position_embeddings", config.max_position_embeddings),
            segments: table("token_type_embeddings", config.type_vocab_size),
            norm: norm(&embeddings / "LayerNorm", config),
            layers: layers.collect(),
            pooler: pooler.then(|| linear(path / "pooler" / "dense", hidden, hidden)),
            heads: config.num_attention_heads,
            dropout: Dropout {
                hidden: config.hidden_dropout_prob,
                attention: config.attention_probs_dropout_prob,
            },
        }
    }

    /// The states at all layer boundaries, the embeddings first, each (batch, sequence, hidden). `train` drops some.
    pub fn states(&self, ids: &Tensor, mask: &Tensor, segments: &Tensor, train: bool) -> Result<Vec<Tensor>> {
        let (_, sequence) = ids.size2()?;
        let places = Tensor::f_arange(sequence, (Kind::Int64, ids.device()))?.f_unsqueeze(0)?;
        let sum = self.words.forward(ids) + self.segments.forward(segments) + self.positions.forward(&places);
        let dropout = if train { self.dropout } else { Dropout::default() };
        let mut state = dropped(self.norm.forward(&sum), dropout.hidden)?;
        // The lowest float32, not infinity: a row without any valid token stays finite.
        let valid = mask.f_to_kind(Kind::Float)?.f_unsqueeze(1)?.f_unsqueeze(1)?;
        let closed = (1.0 - valid) * f64::from(f32::MIN);
        let mut all = vec![state.shallow_clone()];
        for layer in &self.layers {
            state = layer.forward(&state, &closed, self.heads, dropout)?;
            all.push(state.shallow_clone());
        }
        Ok(all)
    }

    /// pooler_output, where the checkpoint has a pooler.
    pub fn pooled(&self, last: &Tensor) -> Option<Tensor> {
        self.pooler.as_ref().map(|pooler| pooler.forward(&last.select(1, 0)).tanh())
    }
}

impl Layer {
    fn new(path: &nn::Path, config: &Config) -> Self {
        let (hidden, wide) = (config.hidden_size, config.intermediate_size);
        let attention = path / "attention";
        let own = &attention / "self";
        Self {
            query: linear(&own / "query", hidden, hidden),
            key: linear(&own / "key", hidden, hidden),
            value: linear(&own / "value", hidden, hidden),
            attended: linear(&attention / "output" / "dense", hidden, hidden),
            attended_norm: norm(&attention / "output" / "LayerNorm", config),
            wide: linear(path / "intermediate" / "dense", hidden, wide),
            narrow: linear(path / "output" / "dense", wide, hidden),
            norm: norm(path / "output" / "LayerNorm", config),
        }
    }

    fn forward(&self, state: &Tensor, closed: &Tensor, heads: i64, dropout: Dropout) -> Result<Tensor> {
        let (batch, sequence, hidden) = state.size3()?;
        let split = |x: Tensor| x.f_view([batch, sequence, heads, hidden / heads])?.f_transpose(1, 2);
        let (query, key) = (split(self.query.forward(state))?, split(self.key.forward(state))?);
        let value = split(self.value.forward(state))?;
        let scale = ((hidden / heads) as f64).sqrt();
        let scores = query.f_matmul(&key.f_transpose(-1, -2)?)? / scale + closed;
        let weights = dropped(scores.f_softmax(-1, Kind::Float)?, dropout.attention)?;
        let mixed = weights.f_matmul(&value)?.f_transpose(1, 2)?.f_contiguous()?.f_view([batch, sequence, hidden])?;
        let mixed = dropped(self.attended.forward(&mixed), dropout.hidden)?;
        let attended = self.attended_norm.forward(&(mixed + state));
        let wide = self.wide.forward(&attended).f_gelu("none")?;
        let narrow = dropped(self.narrow.forward(&wide), dropout.hidden)?;
        Ok(self.norm.forward(&(narrow + attended)))
    }
}

/// A tensor without this part of its elements, chosen by chance, and the rest made larger in turn.
pub(crate) fn dropped(tensor: Tensor, part: f64) -> Result<Tensor> {
    Ok(if part > 0.0 { tensor.f_dropout(part, true)? } else { tensor })
}

pub(crate) fn linear(path: nn::Path, from: i64, to: i64) -> nn::Linear {
    nn::linear(path, from, to, Default::default())
}

fn norm(path: nn::Path, config: &Config) -> nn::LayerNorm {
    let settings = LayerNormConfig { eps: config.layer_norm_eps, ..Default::default() };
    nn::layer_norm(path, vec![config.hidden_size], settings)
}
