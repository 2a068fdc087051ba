//! The encoder with a head that labels each token: transformers' BertForTokenClassification.

use anyhow::{Context, Result};
use tch::nn::{self, Module};
use tch::Tensor;

use crate::bert::{dropped, linear};
use crate::{Bert, Config};

pub struct TokenClassifier {
    /// The encoder below the head.
    pub bert: Bert,
    classifier: nn::Linear,
    dropout: f64,
}

impl TokenClassifier {
    /// Makes the variables below the root of a store, as many labels as config.json names.
    pub fn new(root: &nn::Path, config: &Config) -> Result<Self> {
        let labels = config.labels()?.len() as i64;
        Ok(Self {
            bert: Bert::new(&(root / "bert"), config, false),
            classifier: linear(root / "classifier", config.hidden_size, labels),
            dropout: config.classifier_dropout.unwrap_or(config.hidden_dropout_prob),
        })
    }

    /// A number for each label of each token, (batch, sequence, labels). `train` drops some on the way.
    pub fn logits(&self, ids: &Tensor, mask: &Tensor, segments: &Tensor, train: bool) -> Result<Tensor> {
        let last = self.bert.states(ids, mask, segments, train)?.pop().context("there is no state")?;
        self.head(last, train)
    }

    /// The same, from the last states.
    pub fn head(&self, last: Tensor, train: bool) -> Result<Tensor> {
        let kept = dropped(last, if train { self.dropout } else { 0.0 })?;
        Ok(self.classifier.forward(&kept))
    }
}
