//! mecab_contract.json: read whole or refused, and held against the dictionary that is here.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::Path;

use anyhow::{bail, ensure, Context, Result};
use serde::{Deserialize, Deserializer};
use sha2::{Digest, Sha256};

const SCHEMA: &str = "bertx.mecab/1";
/// What MeCab reads of a dictionary.
const FILES: [&str; 6] = ["char.bin", "dicrc", "matrix.bin", "mecabrc", "sys.dic", "unk.dic"];
/// What the contract's options call the dictionary's folder.
const FOLDER: &str = "DICTIONARY";
/// Bytes of the largest contract that is read.
const MOST: u64 = 4 << 20;

/// Text to words, as a checkpoint's tokenizer does it. docs/tokenizers.md says what each field means.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Contract {
    schema: String,
    pub special_tokens: Vec<String>,
    #[serde(deserialize_with = "stated")]
    pub normalization: Option<Normalization>,
    mecab: Mecab,
    pub lower_case: bool,
    pub never_split: Vec<String>,
    pub subwords: Subwords,
    pub separator: String,
}

#[derive(Clone, Copy, Debug, Deserialize)]
pub enum Normalization {
    #[serde(rename = "NFKC")]
    Nfkc,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Subwords {
    Wordpiece,
    Character,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Mecab {
    options: Vec<String>,
    #[serde(rename = "fugashi")]
    _fugashi: String,
    dictionary: Dictionary,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Dictionary {
    name: String,
    #[serde(deserialize_with = "stated")]
    version: Option<String>,
    #[serde(rename = "named_by")]
    _named_by: String,
    files: BTreeMap<String, Entry>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    sha256: String,
    bytes: u64,
}

/// A field that may be null and must be there.
fn stated<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    Option::deserialize(deserializer)
}

impl Contract {
    pub fn read(path: &Path) -> Result<Self> {
        let told = || format!("{} is malformed", path.display());
        let size = fs::metadata(path).with_context(|| path.display().to_string())?.len();
        ensure!(size <= MOST, "{} is larger than {MOST} bytes", path.display());
        let text = fs::read_to_string(path).with_context(told)?;
        let read: Self = serde_json::from_str(&text).with_context(told)?;
        ensure!(read.schema == SCHEMA, "{} is {}, not {SCHEMA}", path.display(), read.schema);
        ensure!(!read.special_tokens.iter().any(String::is_empty), "{}: a special token is empty", told());
        ensure!(read.mecab.dictionary.files.keys().eq(FILES), "{}: it must list {}", told(), FILES.join(", "));
        Ok(read)
    }

    /// Whether a word keeps its capitals.
    pub(crate) fn keeps(&self, word: &str) -> bool {
        self.never_split.iter().chain(&self.special_tokens).any(|kept| kept == word)
    }

    /// MeCab's options, with the dictionary's folder in them.
    pub(crate) fn options(&self, folder: &Path) -> Result<Vec<String>> {
        let folder = folder.to_str().with_context(|| format!("{} is no text", folder.display()))?;
        Ok(self.mecab.options.iter().map(|option| option.replace(FOLDER, folder)).collect())
    }

    /// Refuses a folder that does not hold the contract's dictionary, file by file.
    pub fn check(&self, folder: &Path) -> Result<()> {
        let dictionary = &self.mecab.dictionary;
        let (name, version) = (&dictionary.name, dictionary.version.as_deref().unwrap_or("of unknown version"));
        for (file, entry) in &dictionary.files {
            let path = folder.join(file);
            let Ok(mut stream) = File::open(&path) else {
                bail!("it needs the MeCab dictionary {name} {version}, and there is no {}", path.display());
            };
            let different = || format!("{} is not the {file} of {name} {version}: its sha256 differs", path.display());
            ensure!(stream.metadata()?.len() == entry.bytes, different());
            let mut hash = Sha256::new();
            io::copy(&mut stream, &mut hash).with_context(|| path.display().to_string())?;
            ensure!(format!("{:x}", hash.finalize()) == entry.sha256, different());
        }
        Ok(())
    }
}
