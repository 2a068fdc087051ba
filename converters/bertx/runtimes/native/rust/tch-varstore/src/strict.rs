//! `VarStore::load` matches names, but it broadcasts shapes, converts kinds and ignores what is left over, without a
//! word. A checkpoint that does not fit must be refused instead.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{bail, ensure, Result};
use tch::nn::VarStore;
use tch::{Kind, Tensor};

/// Buffers and heads that a checkpoint may hold beside the model's own variables.
const BESIDE: [&str; 5] = ["embeddings.position_ids", "cls.", "classifier.", "qa_outputs.", "pooler."];

/// Loads every variable of the store from a safetensors file.
///
/// Each must be there under its own name (or with LayerNorm's old `gamma` and `beta`), in its own shape and kind, and
/// nothing else may be there but what `beside` allows: names that begin with one of these words.
pub fn load_strictly(store: &VarStore, path: &Path, beside: &[&str]) -> Result<()> {
    let mut file: BTreeMap<String, Tensor> =
        Tensor::read_safetensors(path)?.into_iter().map(|(name, tensor)| (modern(&name), tensor)).collect();
    for (name, mut variable) in store.variables() {
        let Some(tensor) = file.remove(&name) else { bail!("{name} is not in the file") };
        let (kind, claimed) = (tensor.kind(), variable.kind());
        ensure!(kind == claimed, "the weight {name} is {} where {} is claimed", dtype(kind), dtype(claimed));
        let (size, here) = (tensor.size(), variable.size());
        ensure!(size == here, "the weight {name} has shape {size:?} in the file, not {here:?}");
        tch::no_grad(|| variable.f_copy_(&tensor))?;
    }
    let known = |name: &str| BESIDE.iter().chain(beside).any(|start| name.starts_with(start) || name.ends_with(start));
    match file.keys().find(|name| !known(name)) {
        None => Ok(()),
        Some(name) => bail!("{name} is in the file and in no layer of the model"),
    }
}

/// Old checkpoints call LayerNorm's weight and bias gamma and beta.
fn modern(name: &str) -> String {
    name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")
}

/// A kind as bertx writes it.
fn dtype(kind: Kind) -> String {
    match kind {
        Kind::Float => "float32".to_owned(),
        Kind::Half => "float16".to_owned(),
        Kind::BFloat16 => "bfloat16".to_owned(),
        other => format!("{other:?}"),
    }
}
