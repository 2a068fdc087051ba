//! CASES.safetensors: named batches of inputs.

use std::collections::{BTreeMap, HashMap};

use anyhow::{bail, ensure, Context, Result};
use safetensors::{Dtype, SafeTensors};

use crate::texts::Texts;
use crate::{processors, Arguments, Output};

/// One input of a case, row-major.
pub struct Input {
    pub name: String,
    pub shape: Vec<usize>,
    pub values: Values,
}

/// Ids and masks are int64, or int32 where the artifact wants it; images and the like float32.
pub enum Values {
    Int64(Vec<i64>),
    Int32(Vec<i32>),
    Float32(Vec<f32>),
}

/// A named batch; its inputs stand in the artifact's order.
pub struct Case {
    pub name: String,
    /// Whether its inputs were made of texts.
    pub text: bool,
    pub inputs: Vec<Input>,
}

impl Input {
    /// Refuses to feed this to an artifact that wants another dtype: `wanted` as bertx writes it, "int64".
    pub fn check(&self, wanted: &str) -> Result<()> {
        let here = match self.values {
            Values::Int64(_) => "int64",
            Values::Int32(_) => "int32",
            Values::Float32(_) => "float32",
        };
        ensure!(here == wanted, "the artifact takes {} in {wanted}, and is given {here}", self.name);
        Ok(())
    }
}

impl Case {
    /// An input by name.
    pub fn input(&self, name: &str) -> Result<&Input> {
        self.inputs.iter().find(|input| input.name == name).with_context(|| format!("there is no input {name}"))
    }

    /// The values of an int64 input by name.
    pub fn ids(&self, name: &str) -> Result<&[i64]> {
        match &self.input(name)?.values {
            Values::Int64(values) => Ok(values),
            _ => bail!("input {name} is not int64"),
        }
    }

    /// The same, zeros where the artifact takes no input of this name.
    pub fn ids_or_zeros(&self, name: &str) -> Result<Vec<i64>> {
        let (batch, sequence) = self.size()?;
        self.input(name).map_or_else(|_| Ok(vec![0; batch * sequence]), |_| Ok(self.ids(name)?.to_vec()))
    }

    /// (batch, sequence) of a batch of tokens.
    pub fn size(&self) -> Result<(usize, usize)> {
        match self.inputs.first().map(|input| input.shape.as_slice()) {
            Some([batch, sequence]) => Ok((*batch, *sequence)),
            _ => bail!("its inputs are no batch of tokens"),
        }
    }
}

/// What the signature says of an output; its shape mixes names and numbers, and is empty where nothing is said.
pub struct Spec {
    pub name: String,
    pub shape: Vec<serde_json::Value>,
}

impl Spec {
    /// Refuses an output of another shape than is claimed.
    pub(crate) fn check(&self, output: &Output) -> Result<()> {
        let fits = |(size, claimed): (&usize, &serde_json::Value)| {
            claimed.as_u64().is_none_or(|claimed| claimed == *size as u64)
        };
        let same = output.shape.len() == self.shape.len() && output.shape.iter().zip(&self.shape).all(fits);
        let claimed = serde_json::Value::Array(self.shape.clone());
        ensure!(same || self.shape.is_empty(), "{} has shape {:?} where {claimed} is claimed", self.name, output.shape);
        Ok(())
    }
}

/// All cases of a file, and what is claimed of the artifact.
pub struct Cases {
    pub all: Vec<Case>,
    /// The names of the inputs, in the artifact's order.
    pub order: Vec<String>,
    /// The outputs that must be given.
    pub outputs: Vec<Spec>,
    /// What the model computes.
    pub task: String,
    /// What it computes in.
    pub dtype: String,
    /// How many threads to compute with: two runners run side by side.
    pub threads: usize,
}

impl Cases {
    /// Our names for an artifact's inputs: the cases name them in its order, which was decided before.
    pub fn bind(&self, theirs: &[String]) -> Result<Vec<String>> {
        let (given, wanted) = (self.order.join(", "), theirs.join(", "));
        ensure!(theirs.len() == self.order.len(), "the artifact takes {wanted} and is given {given}");
        Ok(self.order.clone())
    }

    /// Reads a file of cases; with a tokenizer the inputs of those that have texts are made of these.
    pub(crate) fn read(arguments: &Arguments) -> Result<Self> {
        let path = &arguments.inputs;
        let bytes = std::fs::read(path).with_context(|| path.display().to_string())?;
        let (_, header) = SafeTensors::read_metadata(&bytes).context("the cases are no safetensors file")?;
        let metadata = header.metadata().clone().unwrap_or_default();
        let order: Vec<String> = serde_json::from_str(stated(&metadata, "inputs")?)?;
        let signature: serde_json::Value = serde_json::from_str(stated(&metadata, "signature")?)?;
        let outputs = signature["outputs"].as_array().context("the signature has no outputs")?;
        let tensors = SafeTensors::deserialize(&bytes)?;
        let mut found: BTreeMap<String, Case> = BTreeMap::new();
        for full in tensors.names() {
            let (case, _) = full.split_once('/').with_context(|| format!("{full} is no tensor of a case"))?;
            if !found.contains_key(case) {
                found.insert(case.to_owned(), read_case(&tensors, case, &order)?);
            }
        }
        if let Some(tokenizer) = &arguments.tokenizer {
            let mut encoder = Texts::open(tokenizer, stated(&metadata, "longest")?.parse()?, arguments)?;
            let texts: HashMap<String, Vec<String>> = serde_json::from_str(stated(&metadata, "texts")?)?;
            for (name, texts) in texts {
                let inputs = encoder.encode(&texts, &order).with_context(|| format!("texts of {name}"))?;
                found.insert(name.clone(), Case { name, text: true, inputs });
            }
        }
        ensure!(!found.is_empty(), "there are no cases");
        let threads = metadata.get("threads").map_or_else(|| Ok(processors()), |text| text.parse())?;
        Ok(Self {
            all: found.into_values().collect(),
            order,
            outputs: outputs.iter().filter_map(spec).collect(),
            task: stated(&metadata, "task")?.to_owned(),
            dtype: stated(&metadata, "dtype")?.to_owned(),
            threads,
        })
    }
}

fn spec(document: &serde_json::Value) -> Option<Spec> {
    let shape = document["shape"].as_array().cloned().unwrap_or_default();
    Some(Spec { name: document["name"].as_str()?.to_owned(), shape })
}

fn stated<'a>(metadata: &'a HashMap<String, String>, key: &str) -> Result<&'a str> {
    Ok(metadata.get(key).with_context(|| format!("the cases do not state their {key}"))?)
}

fn read_case(tensors: &SafeTensors, case: &str, order: &[String]) -> Result<Case> {
    let mut inputs = Vec::new();
    for name in order {
        let view = tensors.tensor(&format!("{case}/{name}")).with_context(|| format!("{case} lacks the input {name}"))?;
        let values = match view.dtype() {
            Dtype::I64 => Values::Int64(words(view.data(), i64::from_le_bytes)),
            Dtype::I32 => Values::Int32(words(view.data(), i32::from_le_bytes)),
            Dtype::F32 => Values::Float32(words(view.data(), f32::from_le_bytes)),
            other => bail!("{case}/{name} is {other:?}, not int64, int32 or float32"),
        };
        inputs.push(Input { name: name.clone(), shape: view.shape().to_vec(), values });
    }
    Ok(Case { name: case.to_owned(), text: false, inputs })
}

fn words<T, const N: usize>(bytes: &[u8], word: fn([u8; N]) -> T) -> Vec<T> {
    bytes.chunks_exact(N).map(|chunk| word(chunk.try_into().expect("a whole word"))).collect()
}
