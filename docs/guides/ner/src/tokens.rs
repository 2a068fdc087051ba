//! From words to what the model takes, by the bundle's tokenizer.json.

use std::path::Path;

use anyhow::{anyhow, ensure, Context, Result};
use tch::Tensor;
use tokenizers::{Encoding, PaddingParams, Tokenizer, TruncationParams};

use crate::sentences::Sentence;

/// What the loss leaves out: special tokens, padding, and every token of a word but its first.
pub const IGNORED: i64 = -100;

/// Rows of tokens, padded on the right, row-major.
pub struct Batch {
    pub ids: Vec<i64>,
    pub mask: Vec<i64>,
    pub segments: Vec<i64>,
    /// The number of each token's label, or `IGNORED`.
    pub labels: Vec<i64>,
    pub size: (usize, usize),
}

impl Batch {
    /// One of the above for tch, (batch, sequence).
    pub fn tensor(&self, values: &[i64]) -> Result<Tensor> {
        Ok(Tensor::f_from_slice(values)?.f_view([self.size.0 as i64, self.size.1 as i64])?)
    }
}

/// A word of a text, and the place of its first token.
pub struct Word {
    pub text: String,
    pub token: usize,
}

pub struct Encoder {
    tokenizer: Tokenizer,
}

impl Encoder {
    /// `longest`: the most tokens that the model takes. Padding and truncation in the file are meant for other texts.
    pub fn open(folder: &Path, longest: usize) -> Result<Self> {
        let path = folder.join("tokenizer.json");
        let mut tokenizer = Tokenizer::from_file(&path).map_err(|error| anyhow!("{}: {error}", path.display()))?;
        let pad_id = tokenizer.token_to_id("[PAD]").context("the tokenizer has no [PAD]")?;
        tokenizer.with_padding(Some(PaddingParams { pad_id, ..PaddingParams::default() }));
        let truncation = TruncationParams { max_length: longest, ..TruncationParams::default() };
        tokenizer.with_truncation(Some(truncation)).map_err(|error| anyhow!("{error}"))?;
        Ok(Self { tokenizer })
    }

    /// A batch of sentences with their labels.
    pub fn sentences(&self, sentences: &[&Sentence], labels: &[String]) -> Result<Batch> {
        let words: Vec<Vec<String>> = sentences.iter().map(|sentence| sentence.words.clone()).collect();
        let rows = self.tokenizer.encode_batch(words, true).map_err(|error| anyhow!("{error}"))?;
        let mut batch = batch(&rows);
        let columns = batch.size.1;
        for (row, (encoding, sentence)) in rows.iter().zip(sentences).enumerate() {
            let first = firsts(encoding);
            let (found, count) = (first.len(), sentence.words.len());
            ensure!(found == count, "{found} of {count} words have tokens: {}", sentence.words.join(" "));
            for (token, label) in first.into_iter().zip(&sentence.labels) {
                let number = labels.iter().position(|known| known == label);
                batch.labels[row * columns + token] = number.context("an unknown label")? as i64;
            }
        }
        Ok(batch)
    }

    /// A text as it is, as a batch of one row, and its words: whatever the tokenizer parts at spaces and marks.
    pub fn text(&self, text: &str) -> Result<(Batch, Vec<Word>)> {
        let encoding = self.tokenizer.encode(text, true).map_err(|error| anyhow!("{error}"))?;
        let word = |token: usize| {
            let (from, to) = encoding.word_to_chars(encoding.get_word_ids()[token]?, 0)?;
            Some(Word { text: text.get(from..to)?.to_owned(), token })
        };
        let words = firsts(&encoding).into_iter().filter_map(word).collect();
        Ok((batch(std::slice::from_ref(&encoding)), words))
    }
}

/// The places of the first token of every word.
fn firsts(encoding: &Encoding) -> Vec<usize> {
    let words = encoding.get_word_ids();
    (0..words.len()).filter(|k| words[*k].is_some() && (*k == 0 || words[*k - 1] != words[*k])).collect()
}

fn batch(rows: &[Encoding]) -> Batch {
    let flat = |part: fn(&Encoding) -> &[u32]| -> Vec<i64> {
        rows.iter().flat_map(|row| part(row).iter().map(|id| i64::from(*id))).collect()
    };
    let ids = flat(Encoding::get_ids);
    Batch {
        mask: flat(Encoding::get_attention_mask),
        segments: flat(Encoding::get_type_ids),
        labels: vec![IGNORED; ids.len()],
        size: (rows.len(), ids.len() / rows.len().max(1)),
        ids,
    }
}
