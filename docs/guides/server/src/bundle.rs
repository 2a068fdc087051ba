//! What bertx.json says of the TorchScript file: where it lies, and what it takes and gives, in which order.
//!
//! A swapped mask is no error to TorchScript, only a wrong number. So whatever is not said here is refused.

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{bail, ensure, Context, Result};
use serde::de::DeserializeOwned;
use serde::Deserialize;

/// An input of a text model.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Input {
    Ids,
    Mask,
    Segments,
}

impl Input {
    const ALL: [Input; 3] = [Input::Ids, Input::Mask, Input::Segments];

    /// As bertx.json and the golden cases call it.
    pub fn name(self) -> &'static str {
        match self {
            Input::Ids => "input_ids",
            Input::Mask => "attention_mask",
            Input::Segments => "token_type_ids",
        }
    }
}

/// A bundle that gives one sentence embedding per text.
pub struct Bundle {
    pub folder: PathBuf,
    pub name: String,
    pub model: PathBuf,
    /// The inputs in the order in which the model takes them.
    pub inputs: Vec<Input>,
    /// How many numbers an embedding has.
    pub dimensions: usize,
    /// Whether embeddings have length one.
    pub normalized: bool,
    /// The id that fills short rows.
    pub padding: u32,
}

/// The one output that is served.
pub const OUTPUT: &str = "sentence_embedding";

#[derive(Deserialize)]
struct Manifest {
    schema: String,
    artifacts: Vec<Artifact>,
}

#[derive(Deserialize)]
struct Artifact {
    path: PathBuf,
    format: String,
    dtype: String,
    signature: Option<Signature>,
}

#[derive(Deserialize)]
struct Signature {
    inputs: Vec<Spec>,
    outputs: Vec<Spec>,
}

#[derive(Deserialize)]
struct Spec {
    name: String,
    dtype: String,
    shape: Vec<serde_json::Value>,
}

#[derive(Deserialize)]
struct Module {
    r#type: String,
}

#[derive(Deserialize)]
struct Config {
    pad_token_id: Option<u32>,
}

impl Bundle {
    /// Reads bertx.json and the small files beside it. Refuses a bundle without a float32 TorchScript file of sentence embeddings.
    pub fn read(folder: &Path) -> Result<Self> {
        let manifest: Manifest = json(&folder.join("bertx.json"))?;
        ensure!(manifest.schema == "bertx.bundle/1", "bertx.json is of schema {}, not bertx.bundle/1", manifest.schema);
        let wanted = |artifact: &Artifact| artifact.format == "torchscript" && artifact.dtype == "float32";
        let artifact = manifest.artifacts.into_iter().find(wanted);
        let artifact = artifact.context("it has no TorchScript file in float32: make one with `bertx trace`")?;
        let path = artifact.path.display().to_string();
        let signature = artifact.signature.with_context(|| format!("bertx.json does not say what {path} takes"))?;
        let inputs = signature.inputs.iter().map(Spec::input).collect::<Result<Vec<_>>>().context(path.clone())?;
        let [output] = signature.outputs.as_slice() else { bail!("{path} gives more than one output") };
        ensure!(output.name == OUTPUT && output.dtype == "float32", "{path} gives {}, not {OUTPUT}", output.name);
        let dimensions = output.shape.last().and_then(serde_json::Value::as_u64);
        let mecab = folder.join("mecab_contract.json").exists();
        ensure!(!mecab, "its texts go through MeCab first (mecab_contract.json), which this server does not do");
        let modules: Vec<Module> = json(&folder.join("modules.json"))?;
        let config: Config = json(&folder.join("config.json"))?;
        Ok(Self {
            name: folder.canonicalize()?.file_name().map_or_else(String::new, |name| name.to_string_lossy().into()),
            model: folder.join(artifact.path),
            inputs,
            dimensions: dimensions.context("the size of an embedding is not fixed")? as usize,
            normalized: modules.last().is_some_and(|module| module.r#type.ends_with("Normalize")),
            padding: config.pad_token_id.context("config.json has no pad_token_id")?,
            folder: folder.to_owned(),
        })
    }
}

impl Spec {
    fn input(&self) -> Result<Input> {
        ensure!(self.dtype == "int64", "{} is {}, not int64", self.name, self.dtype);
        let known = Input::ALL.into_iter().find(|input| input.name() == self.name);
        known.with_context(|| format!("it takes {}, which is not made of text", self.name))
    }
}

fn json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let file = File::open(path).with_context(|| path.display().to_string())?;
    serde_json::from_reader(std::io::BufReader::new(file)).with_context(|| path.display().to_string())
}
