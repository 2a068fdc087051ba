//! A sentence-transformers folder's own way from token states to one vector: pooling, then perhaps normalisation.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::{Case, Output, Unsupported};

/// How a folder makes an embedding.
pub struct Embedding {
    pooling: Pooling,
    normalize: bool,
}

enum Pooling {
    Mean,
    Cls,
    Max,
}

impl Embedding {
    /// Reads modules.json and what it names. Modules other than one of these poolings and Normalize are unsupported.
    pub fn read(folder: &Path) -> Result<Self> {
        let modules = json(&folder.join("modules.json"))?;
        let (mut pooling, mut normalize) = (None, false);
        for module in modules.as_array().context("modules.json is no list")?.iter().skip(1) {
            let kind = module["type"].as_str().unwrap_or_default().rsplit('.').next().unwrap_or_default();
            match kind {
                "Pooling" if pooling.is_none() && !normalize => {
                    let place = folder.join(module["path"].as_str().unwrap_or_default());
                    pooling = Some(Pooling::read(&json(&place.join("config.json"))?)?);
                }
                "Normalize" => normalize = true,
                _ => return Err(Unsupported::new(format!("the module {kind} of modules.json is not known here")).into()),
            }
        }
        Ok(Self { pooling: pooling.context("modules.json has no pooling")?, normalize })
    }

    /// The embedding of each row, from states of shape (batch, sequence, hidden); padding does not count.
    pub fn of(&self, states: &Output, case: &Case) -> Result<Output> {
        let (hidden, mask) = (states.shape[2], case.ids("attention_mask")?);
        let (batch, sequence) = case.size()?;
        let mut values = Vec::with_capacity(batch * hidden);
        for row in 0..batch {
            let tokens = (0..sequence).filter(|k| mask[row * sequence + k] == 1);
            let states = tokens.map(|k| &states.values[(row * sequence + k) * hidden..][..hidden]);
            let mut vector = self.pooling.of(states, hidden);
            if self.normalize {
                let norm = vector.iter().map(|value| value * value).sum::<f32>().sqrt().max(1e-12);
                vector.iter_mut().for_each(|value| *value /= norm);
            }
            values.extend(vector);
        }
        Ok(Output::new("sentence_embedding", vec![batch, hidden], values))
    }
}

impl Pooling {
    fn read(config: &Value) -> Result<Self> {
        let on = |key: &str| config[key].as_bool() == Some(true);
        let known = [
            ("pooling_mode_mean_tokens", "mean", Self::Mean),
            ("pooling_mode_cls_token", "cls", Self::Cls),
            ("pooling_mode_max_tokens", "max", Self::Max),
        ];
        let others = ["pooling_mode_mean_sqrt_len_tokens", "pooling_mode_weightedmean_tokens", "pooling_mode_lasttoken"];
        // A name, or a list of names, as sentence-transformers writes it today.
        let stated = &config["pooling_mode"];
        let listed = stated.as_array().map_or(std::slice::from_ref(stated), Vec::as_slice);
        let alone = listed.len() == 1;
        let mut chosen = known.into_iter().filter(|(key, name, _)| on(key) || listed.contains(&Value::from(*name)));
        match (chosen.next(), chosen.next()) {
            (Some((_, _, one)), None) if alone && !others.iter().any(|key| on(key)) => Ok(one),
            _ => Err(Unsupported::new("only mean, cls or max pooling is known here").into()),
        }
    }

    fn of<'a>(&self, mut states: impl Iterator<Item = &'a [f32]>, hidden: usize) -> Vec<f32> {
        let mut count = 0_usize;
        match self {
            Self::Cls => states.next().map_or_else(|| vec![0.0; hidden], <[f32]>::to_vec),
            Self::Max => states.fold(vec![f32::NEG_INFINITY; hidden], |mut most, state| {
                most.iter_mut().zip(state).for_each(|(most, value)| *most = most.max(*value));
                most
            }),
            Self::Mean => {
                let mut sum = vec![0.0_f32; hidden];
                for state in states {
                    count += 1;
                    sum.iter_mut().zip(state).for_each(|(sum, value)| *sum += value);
                }
                sum.iter_mut().for_each(|sum| *sum /= count.max(1) as f32);
                sum
            }
        }
    }
}

fn json(path: &Path) -> Result<Value> {
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    serde_json::from_str(&text).with_context(|| path.display().to_string())
}
