//! `VarStore::load` matches names, but it broadcasts shapes, converts kinds and ignores what is left over, without a
//! word. A checkpoint that does not fit must be refused instead.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{ensure, Result};
use tch::nn::VarStore;
use tch::{Kind, Tensor};

/// A buffer of integers that old checkpoints hold beside their weights; it says 0, 1, 2, …
const POSITIONS: &str = "embeddings.position_ids";

/// How many tensors a refusal names.
const NAMED: usize = 3;

/// Loads every variable of the store from a safetensors file, all of them or none.
///
/// Each must be there under its own name (or with LayerNorm's old `gamma` and `beta`), in its own shape and kind, and
/// nothing else may be there but what `beside` allows: names that begin with one of these words.
pub fn load_strictly(store: &VarStore, path: &Path, beside: &[&str]) -> Result<()> {
    let tensors = Tensor::read_safetensors(path)?;
    let count = tensors.len();
    let file: BTreeMap<String, Tensor> = tensors.into_iter().map(|(name, tensor)| (modern(&name), tensor)).collect();
    ensure!(file.len() == count, "the file has a weight under both its old and its new name");
    let variables: BTreeMap<String, Tensor> = store.variables().into_iter().collect();
    let names: BTreeSet<&String> = variables.keys().chain(file.keys()).collect();
    let known = |name: &str| name.ends_with(POSITIONS) || beside.iter().any(|start| name.starts_with(start));
    let wrong = |name: &&String| misfit(name, variables.get(*name), file.get(*name), known(name));
    let found: Vec<String> = names.iter().filter_map(wrong).collect();
    let more = found.len().saturating_sub(NAMED);
    let more = if more > 0 { format!("; and {more} more") } else { String::new() };
    ensure!(found.is_empty(), "{}{more}", found[..found.len().min(NAMED)].join("; "));
    for (name, mut variable) in variables {
        tch::no_grad(|| variable.f_copy_(&file[&name]))?;
    }
    Ok(())
}

/// What is wrong between a variable of the model and the tensor of this name in the file.
fn misfit(name: &str, variable: Option<&Tensor>, tensor: Option<&Tensor>, known: bool) -> Option<String> {
    match (variable, tensor) {
        (Some(_), None) => Some(format!("the weight {name} is not in the file")),
        (None, Some(_)) if !known => Some(format!("the weight {name} is in the file and in no layer of the model")),
        (Some(variable), Some(tensor)) => {
            let (kind, claimed) = (dtype(tensor.kind()), dtype(variable.kind()));
            let (size, own) = (tensor.size(), variable.size());
            if kind != claimed {
                Some(format!("the weight {name} is {kind} where {claimed} is claimed"))
            } else if size != own {
                Some(format!("the weight {name} has shape {size:?} in the file, not {own:?}"))
            } else {
                None
            }
        }
        _ => None,
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
        Kind::Double => "float64".to_owned(),
        other => format!("{other:?}"),
    }
}
