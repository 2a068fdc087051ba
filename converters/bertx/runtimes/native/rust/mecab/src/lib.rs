//! The MeCab contract of docs/tokenizers.md: what happens to Japanese text before tokenizer.json gets it.
//!
//! ```no_run
//! use bertx_mecab::{Place, Words};
//!
//! # fn main() -> anyhow::Result<()> {
//! let place = Place { dictionary: "unidic_lite/dicdir".into(), library: None };
//! let mut words = Words::open("bert-base-japanese-v3/mecab_contract.json".as_ref(), &place)?;
//! assert_eq!(words.of("ＢＥＲＴは[MASK]を食べる")?, "BERT は [MASK] を 食べる");
//! # Ok(())
//! # }
//! ```
//!
//! MeCab itself divides the text, loaded when it is needed: other programs divide some texts in another way. The
//! dictionary must be the contract's, file by file.

mod contract;
mod library;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use unicode_normalization::UnicodeNormalization;

pub use contract::{Contract, Subwords};
use library::Tagger;

/// Where MeCab is: the folder of the dictionary, and the library, which is the system's where none is named.
#[derive(Clone, Debug)]
pub struct Place {
    pub dictionary: PathBuf,
    pub library: Option<PathBuf>,
}

/// Does what a contract says. It may go from thread to thread, and serves one at a time.
pub struct Words {
    contract: Contract,
    tagger: Tagger,
}

impl Words {
    /// Reads a mecab_contract.json and opens MeCab; refuses another dictionary than the contract's.
    pub fn open(path: &Path, place: &Place) -> Result<Self> {
        let contract = Contract::read(path)?;
        contract.check(&place.dictionary).with_context(|| path.display().to_string())?;
        let tagger = Tagger::open(&contract.options(&place.dictionary)?, place.library.as_deref())?;
        Ok(Self { contract, tagger })
    }

    /// The text as tokenizer.json takes it: words and special tokens with a space between them.
    pub fn of(&mut self, text: &str) -> Result<String> {
        let mut words = Vec::new();
        for (part, special) in parts(text, &self.contract.special_tokens) {
            if special {
                words.push(part.to_owned());
            } else {
                self.divide(part, &mut words)?;
            }
        }
        Ok(words.join(&self.contract.separator))
    }

    fn divide(&mut self, part: &str, words: &mut Vec<String>) -> Result<()> {
        let normal = if self.contract.normalization.is_some() { part.nfkc().collect() } else { part.to_owned() };
        for surface in self.tagger.surfaces(&normal)? {
            let word = if self.contract.lower_case && !self.contract.keeps(&surface) {
                surface.to_lowercase()
            } else {
                surface
            };
            words.push(match self.contract.subwords {
                Subwords::Character => word.nfkc().collect(),
                // Python's str.split takes these four for spaces, and the tokenizers library does not.
                Subwords::Wordpiece => word.replace(|c| ('\u{1c}'..='\u{1f}').contains(&c), " "),
            });
        }
        Ok(())
    }
}

/// A text divided at special tokens: from the left, at each place the longest. (a part, whether it is such a token)
fn parts<'a>(text: &'a str, special: &[String]) -> Vec<(&'a str, bool)> {
    let (mut found, mut start, mut place) = (Vec::new(), 0, 0);
    while let Some(next) = text[place..].chars().next() {
        let here = special.iter().map(String::as_str).filter(|token| text[place..].starts_with(token));
        match here.max_by_key(|token| token.len()) {
            Some(token) => {
                found.push((&text[start..place], false));
                found.push((&text[place..place + token.len()], true));
                place += token.len();
                start = place;
            }
            None => place += next.len_utf8(),
        }
    }
    found.push((&text[start..], false));
    found.retain(|(part, _)| !part.is_empty());
    found
}
