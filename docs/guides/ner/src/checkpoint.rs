//! A folder with config.json, model.safetensors and a tokenizer: opened strictly, and written back.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use anyhow::{ensure, Context, Result};
use run_tch_varstore::{load_strictly, Config, TokenClassifier};
use safetensors::tensor::TensorView;
use safetensors::Dtype;
use serde_json::{json, Map, Value};
use tch::nn::VarStore;
use tch::{Device, Kind, Tensor};

use crate::tokens::Batch;

/// What goes with the weights, as far as it is there.
const TOKENIZER: [&str; 4] = ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"];

/// A model over its variables.
pub struct Opened {
    pub config: Config,
    pub store: VarStore,
    pub model: TokenClassifier,
}

/// Opens a checkpoint. Every tensor of the file must be one of the model's, and of the same shape and type.
pub fn open(folder: &Path) -> Result<Opened> {
    let config = Config::read(&folder.join("config.json"))?;
    let store = VarStore::new(Device::Cpu);
    let model = TokenClassifier::new(&store.root(), &config)?;
    let path = folder.join("model.safetensors");
    load_strictly(&store, &path, &[]).with_context(|| path.display().to_string())?;
    Ok(Opened { config, store, model })
}

impl Opened {
    /// The logits of a batch, (batch, sequence, labels); with dropout where it trains.
    pub fn logits(&self, batch: &Batch, train: bool) -> Result<Tensor> {
        let [ids, mask, segments] = [&batch.ids, &batch.mask, &batch.segments].map(|values| batch.tensor(values));
        self.model.logits(&ids?, &mask?, &segments?, train)
    }

    /// Writes the model into a new folder, with the configuration and the tokenizer of the one that it came from.
    ///
    /// Nothing is there under the folder's name until all of it is.
    pub fn save(&self, from: &Path, labels: &[String], to: &Path) -> Result<()> {
        ensure!(!to.exists(), "{} is there already", to.display());
        let name = to.file_name().context("the new folder has no name")?;
        let staged = to.with_file_name(format!("{}.partial", name.to_string_lossy()));
        if staged.exists() {
            fs::remove_dir_all(&staged)?;
        }
        fs::create_dir_all(&staged).with_context(|| staged.display().to_string())?;
        fs::write(staged.join("model.safetensors"), weights(&self.store)?)?;
        let config = fs::read_to_string(from.join("config.json"))?;
        let config = named(serde_json::from_str(&config)?, labels);
        fs::write(staged.join("config.json"), serde_json::to_string_pretty(&config)?)?;
        for name in TOKENIZER.into_iter().filter(|name| from.join(name).is_file()) {
            fs::copy(from.join(name), staged.join(name))?;
        }
        Ok(fs::rename(&staged, to)?)
    }
}

/// All variables as a safetensors file, under their own names. `VarStore::save` leaves the metadata out, without which
/// some versions of transformers refuse the file.
fn weights(store: &VarStore) -> Result<Vec<u8>> {
    let bytes = |tensor: Tensor| -> Result<(Vec<usize>, Vec<u8>)> {
        ensure!(tensor.kind() == Kind::Float, "a weight became {:?}", tensor.kind());
        let mut bytes = vec![0; tensor.numel() * 4];
        tensor.f_contiguous()?.f_copy_data_u8(&mut bytes, tensor.numel())?;
        Ok((tensor.size().iter().map(|size| *size as usize).collect(), bytes))
    };
    let tensors: Vec<(String, (Vec<usize>, Vec<u8>))> =
        store.variables().into_iter().map(|(name, tensor)| Ok((name, bytes(tensor)?))).collect::<Result<_>>()?;
    let views = tensors.iter().map(|(name, (shape, bytes))| Ok((name, TensorView::new(Dtype::F32, shape.clone(), bytes)?)));
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    Ok(safetensors::serialize(views.collect::<Result<Vec<_>>>()?, Some(metadata))?)
}

/// The configuration with the names of the labels.
fn named(mut config: Map<String, Value>, labels: &[String]) -> Value {
    let names: Map<String, Value> = labels.iter().enumerate().map(|(k, name)| (k.to_string(), json!(name))).collect();
    let numbers: Map<String, Value> = labels.iter().enumerate().map(|(k, name)| (name.clone(), json!(k))).collect();
    config.insert("id2label".to_owned(), Value::Object(names));
    config.insert("label2id".to_owned(), Value::Object(numbers));
    Value::Object(config)
}
