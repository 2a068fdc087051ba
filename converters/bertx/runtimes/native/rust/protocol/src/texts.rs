//! Texts to ids, by the tokenizer.json of a bundle, and by MeCab before it where the bundle has a contract for that.

use std::path::Path;

use anyhow::{anyhow, Context, Result};
use bertx_mecab::{Place, Words};
use tokenizers::{PaddingParams, PaddingStrategy, Tokenizer, TruncationParams};

use crate::{Arguments, Input, Values};

/// What tokenizers call the token that fills a batch.
const PADDING: [&str; 2] = ["[PAD]", "<pad>"];
/// What lies beside tokenizer.json where words are MeCab's.
const CONTRACT: &str = "mecab_contract.json";

pub(crate) struct Texts {
    tokenizer: Tokenizer,
    words: Option<Words>,
}

impl Texts {
    /// `longest`: the most tokens that a text may have, special tokens included.
    ///
    /// Padding and truncation are set here: what a tokenizer.json says of them is meant for other batches.
    pub(crate) fn open(path: &Path, longest: usize, arguments: &Arguments) -> Result<Self> {
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
        Ok(Self { tokenizer, words: words(&path.with_file_name(CONTRACT), arguments)? })
    }

    /// The inputs of these names for a batch, padded on the right to its longest text.
    pub(crate) fn encode(&mut self, texts: &[String], names: &[String]) -> Result<Vec<Input>> {
        let texts = match &mut self.words {
            Some(words) => texts.iter().map(|text| words.of(text)).collect::<Result<_>>()?,
            None => texts.to_vec(),
        };
        let rows = self.tokenizer.encode_batch(texts, true).map_err(|error| anyhow!("{error}"))?;
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

/// What divides texts into words before the tokenizer gets them; None where nothing does.
fn words(contract: &Path, arguments: &Arguments) -> Result<Option<Words>> {
    if !contract.exists() {
        return Ok(None);
    }
    let dictionary = arguments.dictionary.clone().with_context(|| {
        format!("{} wants MeCab: say where its dictionary lies, with --dictionary FOLDER", contract.display())
    })?;
    Words::open(contract, &Place { dictionary, library: arguments.mecab.clone() }).map(Some)
}
