//! model.safetensors in candle: its own BERT. config.json, and for sentence embeddings modules.json, lie beside the
//! file. Its order of inputs is its own: ids, token types, mask.

use std::path::Path;

use anyhow::{ensure, Context, Result};
use bertx_protocol::{Arguments, Case, Cases, Embedding, Facts, Output, Runner};
use candle_core::{DType, Device, IndexOp, Module, Tensor};
use candle_nn::{linear, Linear, VarBuilder};
use candle_transformers::models::bert::{BertEncoder, BertModel, Config};

struct Candle {
    model: BertModel,
    embeddings: BertModel,
    layers: Vec<BertEncoder>,
    head: Head,
}

/// What reads the last states.
enum Head {
    /// A pooler, and a way to sentence embeddings, where the checkpoint has them.
    Pooled(Option<Linear>, Option<Embedding>),
    /// A number for each label of each token.
    Labels(Linear),
}

impl Runner for Candle {
    fn open(arguments: &Arguments, cases: &Cases) -> Result<Self> {
        ensure!(cases.dtype == "float32", "this program computes in float32, not in {}", cases.dtype);
        // candle asks for it whenever it computes, and rayon when its pool is first used.
        std::env::set_var("RAYON_NUM_THREADS", cases.threads.to_string());
        let folder = arguments.artifact.parent().context("the artifact is in no folder")?;
        let config = config(&folder.join("config.json"))?;
        let tensors = candle_core::safetensors::load(&arguments.artifact, &Device::Cpu)?;
        for (name, tensor) in &tensors {
            // VarBuilder would convert in silence.
            let right = tensor.dtype() == DType::F32 || !tensor.dtype().is_float();
            ensure!(right, "the weight {name} is {} where {} is claimed", dtype(tensor.dtype()), cases.dtype);
        }
        let prefixed = tensors.keys().any(|name| name.starts_with("bert."));
        let labels = tensors.get("classifier.bias").map_or(0, Tensor::elem_count);
        let renamed = tensors.into_iter().map(|(name, tensor)| (modern(&name), tensor)).collect();
        let weights = VarBuilder::from_tensors(renamed, DType::F32, &Device::Cpu);
        let head = weights.pp("classifier");
        let weights = if prefixed { weights.pp("bert") } else { weights };
        let encoder = BertEncoder::load(weights.pp("encoder"), &config)?;
        let layers = encoder.layers.into_iter().map(|layer| one(layer, &weights, &config));
        let size = config.hidden_size;
        let head = if cases.task == "token-classification" {
            Head::Labels(linear(size, labels, head)?)
        } else {
            let pooler = weights.contains_tensor("pooler.dense.weight");
            let pooler = if pooler { Some(linear(size, size, weights.pp("pooler.dense"))?) } else { None };
            let pooled = cases.task == "sentence-similarity";
            Head::Pooled(pooler, if pooled { Some(Embedding::read(folder)?) } else { None })
        };
        Ok(Self {
            model: BertModel::load(weights.clone(), &config)?,
            embeddings: BertModel::load(weights.clone(), &Config { num_hidden_layers: 0, ..config.clone() })?,
            layers: layers.collect::<Result<_>>()?,
            head,
        })
    }

    fn run(&mut self, case: &Case) -> Result<Vec<Output>> {
        let [ids, segments, mask] = inputs(case)?;
        let last = self.model.forward(&ids, &segments, Some(&mask))?;
        let (pooler, embedding) = match &self.head {
            Head::Labels(labels) => return Ok(vec![output("logits", &labels.forward(&last)?)?]),
            Head::Pooled(pooler, embedding) => (pooler, embedding),
        };
        let mut outputs = vec![output("last_hidden_state", &last)?];
        if let Some(pooler) = pooler {
            outputs.push(output("pooler_output", &pooler.forward(&last.i((.., 0))?.contiguous()?)?.tanh()?)?);
        }
        if let Some(embedding) = embedding {
            outputs.push(embedding.of(&outputs[0], case)?);
        }
        Ok(outputs)
    }

    /// A model without layers gives the embeddings; each layer alone goes on from there.
    fn taps(&mut self, case: &Case) -> Result<Vec<Output>> {
        let [ids, segments, mask] = inputs(case)?;
        let valid = mask.to_dtype(DType::F32)?.unsqueeze(1)?.unsqueeze(1)?;
        let closed = ((valid.ones_like()? - valid)? * f64::from(f32::MIN))?;
        let mut state = self.embeddings.forward(&ids, &segments, Some(&mask))?;
        let mut states = vec![output("hidden_states.0", &state)?];
        for (k, layer) in self.layers.iter().enumerate() {
            state = layer.forward(&state, &closed)?;
            states.push(output(&format!("hidden_states.{}", k + 1), &state)?);
        }
        Ok(states)
    }

    fn facts(&self) -> Facts {
        Facts {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            provider: "candle".to_owned(),
            threads: Some(candle_core::utils::get_num_threads()),
        }
    }
}

fn config(path: &Path) -> Result<Config> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    serde_json::from_str(&text).with_context(|| path.display().to_string())
}

/// An encoder of one layer, since candle runs layers in an encoder alone.
fn one(layer: candle_transformers::models::bert::BertLayer, weights: &VarBuilder, config: &Config) -> Result<BertEncoder> {
    let mut encoder = BertEncoder::load(weights.pp("encoder"), &Config { num_hidden_layers: 0, ..config.clone() })?;
    encoder.layers.push(layer);
    Ok(encoder)
}

/// Old checkpoints call LayerNorm's weight and bias gamma and beta.
fn modern(name: &str) -> String {
    name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")
}

/// A type as bertx writes it.
fn dtype(dtype: DType) -> String {
    match dtype {
        DType::F32 => "float32".to_owned(),
        DType::F16 => "float16".to_owned(),
        DType::BF16 => "bfloat16".to_owned(),
        other => other.as_str().to_owned(),
    }
}

fn inputs(case: &Case) -> Result<[Tensor; 3]> {
    let size = case.size()?;
    let tensor = |values: Vec<i64>| Tensor::from_vec(values, size, &Device::Cpu);
    Ok([
        tensor(case.ids("input_ids")?.to_vec())?,
        tensor(case.ids_or_zeros("token_type_ids")?)?,
        tensor(case.ids("attention_mask")?.to_vec())?,
    ])
}

fn output(name: &str, tensor: &Tensor) -> Result<Output> {
    let values = tensor.contiguous()?.flatten_all()?.to_vec1::<f32>()?;
    Ok(Output::new(name, tensor.dims().to_vec(), values))
}

fn main() {
    bertx_protocol::main::<Candle>("candle")
}
