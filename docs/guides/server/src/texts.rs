//! Texts to ids, by the bundle's tokenizer.json, which cuts what is too long where Python does. It does not pad: rows
//! are padded when it is known which of them go into one batch.

use std::path::Path;

use anyhow::{anyhow, Context, Result};
use tokenizers::{EncodeInput, Tokenizer};

/// A text as the model sees it.
pub struct Row {
    pub ids: Vec<u32>,
    pub segments: Vec<u32>,
    /// Whether the text was longer than what the model reads.
    pub cut: bool,
}

pub struct Texts {
    tokenizer: Tokenizer,
    /// The most tokens that a row has, special tokens included.
    pub longest: usize,
}

impl Texts {
    pub fn open(path: &Path) -> Result<Self> {
        let mut tokenizer = Tokenizer::from_file(path).map_err(|error| anyhow!("{}: {error}", path.display()))?;
        tokenizer.with_padding(None);
        let cut = tokenizer.get_truncation().context("tokenizer.json does not say where texts are cut")?;
        Ok(Self { longest: cut.max_length, tokenizer })
    }

    /// A text, or a pair of them.
    pub fn encode<'t>(&self, text: impl Into<EncodeInput<'t>>) -> Result<Row> {
        let made = self.tokenizer.encode(text, true).map_err(|error| anyhow!("{error}"))?;
        let cut = !made.get_overflowing().is_empty();
        Ok(Row { ids: made.get_ids().to_vec(), segments: made.get_type_ids().to_vec(), cut })
    }
}
