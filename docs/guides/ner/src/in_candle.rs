//! The same checkpoint in candle.

use std::path::Path;

use anyhow::{ensure, Context, Result};
use candle_core::{DType, Device, Module, Tensor};
use candle_nn::{linear, Linear, VarBuilder};
use candle_transformers::models::bert::{BertModel, Config};

use crate::tokens::Batch;

pub struct InCandle {
    bert: BertModel,
    classifier: Linear,
}

impl InCandle {
    /// Opens a folder. candle compares shapes itself; types it would convert, so they are looked at here.
    pub fn open(folder: &Path, labels: usize) -> Result<Self> {
        let config: Config = serde_json::from_str(&std::fs::read_to_string(folder.join("config.json"))?)?;
        let tensors = candle_core::safetensors::load(folder.join("model.safetensors"), &Device::Cpu)?;
        for (name, tensor) in &tensors {
            ensure!(tensor.dtype() == DType::F32, "the weight {name} is {:?}", tensor.dtype());
        }
        let weights = VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu);
        let bert = BertModel::load(weights.pp("bert"), &config).context("bert")?;
        Ok(Self { bert, classifier: linear(config.hidden_size, labels, weights.pp("classifier"))? })
    }

    /// The logits of a batch, row-major.
    pub fn logits(&self, batch: &Batch) -> Result<Vec<f32>> {
        let tensor = |values: &[i64]| Tensor::from_slice(values, batch.size, &Device::Cpu);
        let (ids, segments, mask) = (tensor(&batch.ids)?, tensor(&batch.segments)?, tensor(&batch.mask)?);
        let last = self.bert.forward(&ids, &segments, Some(&mask))?; // in this order
        Ok(self.classifier.forward(&last)?.flatten_all()?.to_vec1()?)
    }
}
