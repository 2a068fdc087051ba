//! Texts to ids, by the tokenizer.json of a bundle.

use std::path::Path;

use anyhow::{anyhow, Result};
use tokenizers::{PaddingParams, PaddingStrategy, Tokenizer, TruncationParams};

use crate::{Input, Values};

/// What tokenizers call the token that fills a batch.
const PADDING: [&str; 2] = ["[PAD]", "<pad>"];

pub(crate) struct Texts {
    tokenizer: Tokenizer,
}

impl Texts {
    /// `longest`: the most tokens that a text may have, special tokens included.
    ///
    /// Padding and truncation are set here: what a tokenizer.json says of them is meant for other batches.
    pub(crate) fn open(path: &Path, longest: usize) -> Result<Self> {
        let mut tokenizer = Tokenizer::from_file(path).map_err(|error| anyhow!("{}: {error}", path.display()))?;
        let found = PADDING.iter().find_map(|token| Some((*token, tokenizer.token_to_id(token)?)));
        let (pad_token, pad_id) = found.unwrap_or((PADDING[0], 0));
        tokenizer.with_padding(Some(PaddingParams {
            strategy: PaddingStrategy::BatchLongest,
            pad_id,
            pad_token: pad_token.to_owned(),
            ..PaddingParams::default()
        }));
        let truncation = TruncationParams { max_length: longest, ..TruncationParams::default() };
        tokenizer.with_truncation(Some(truncation)).map_err(|error| anyhow!("{error}"))?;
        Ok(Self { tokenizer })
    }

    /// The inputs of these names for a batch, padded on the right to its longest text.
    pub(crate) fn encode(&self, texts: &[String], names: &[String]) -> Result<Vec<Input>> {
        let rows = self.tokenizer.encode_batch(texts.to_vec(), true).map_err(|error| anyhow!("{error}"))?;
        let shape = vec![rows.len(), rows.first().map_or(0, tokenizers::Encoding::len)];
        let mut inputs = Vec::new();
        for name in names {
            let part = match name.as_str() {
                "input_ids" => tokenizers::Encoding::get_ids,
                "attention_mask" => tokenizers::Encoding::get_attention_mask,
                "token_type_ids" => tokenizers::Encoding::get_type_ids,
                other => return Err(anyhow!("texts give no {other}")),
            };
            let values = rows.iter().flat_map(|row| part(row).iter().map(|id| i64::from(*id))).collect();
            inputs.push(Input { name: name.clone(), shape: shape.clone(), values: Values::Int64(values) });
        }
        Ok(inputs)
    }
}
