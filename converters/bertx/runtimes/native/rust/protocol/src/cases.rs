//! CASES.safetensors: named batches of inputs, all of them int64 of shape (batch, sequence).

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use anyhow::{ensure, Context, Result};
use safetensors::{Dtype, SafeTensors};

/// One input of a case, row by row.
#[derive(Clone)]
pub struct Input {
    pub name: String,
    pub values: Vec<i64>,
}

/// A named batch; its inputs stand in the artifact's order.
pub struct Case {
    pub name: String,
    pub batch: usize,
    pub sequence: usize,
    pub inputs: Vec<Input>,
}

impl Case {
    /// An input by name.
    pub fn input(&self, name: &str) -> Result<&[i64]> {
        let found = self.inputs.iter().find(|input| input.name == name);
        Ok(&found.with_context(|| format!("there is no input {name}"))?.values)
    }

    /// An input by name, zeros where the artifact takes none of this name.
    pub fn input_or_zeros(&self, name: &str) -> Vec<i64> {
        self.input(name).map_or_else(|_| vec![0; self.batch * self.sequence], <[i64]>::to_vec)
    }
}

/// All cases of a file, and what is claimed of the artifact.
pub struct Cases {
    pub all: Vec<Case>,
    /// The names of the inputs, in the artifact's order.
    pub order: Vec<String>,
    /// The names of the outputs that must be given.
    pub outputs: Vec<String>,
    /// What the model computes.
    pub task: String,
    /// What it computes in.
    pub dtype: String,
}

impl Cases {
    /// Our names for the inputs that an artifact calls `theirs`: by name where all are known, else by position.
    pub fn bind(&self, theirs: &[String]) -> Result<Vec<String>> {
        if theirs.iter().all(|name| self.order.contains(name)) {
            return Ok(theirs.to_vec());
        }
        let (given, wanted) = (self.order.join(", "), theirs.join(", "));
        ensure!(theirs.len() == self.order.len(), "inputs {wanted} cannot be matched with {given}");
        Ok(self.order.clone())
    }

    pub fn read(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).with_context(|| path.display().to_string())?;
        let (_, header) = SafeTensors::read_metadata(&bytes).context("E_FORMAT: the cases are no safetensors file")?;
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
        ensure!(!found.is_empty(), "there are no cases");
        Ok(Self {
            all: found.into_values().collect(),
            order,
            outputs: outputs.iter().filter_map(|each| each["name"].as_str().map(str::to_owned)).collect(),
            task: stated(&metadata, "task")?.to_owned(),
            dtype: stated(&metadata, "dtype")?.to_owned(),
        })
    }
}

fn stated<'a>(metadata: &'a HashMap<String, String>, key: &str) -> Result<&'a str> {
    Ok(metadata.get(key).with_context(|| format!("the cases do not state their {key}"))?)
}

fn read_case(tensors: &SafeTensors, case: &str, order: &[String]) -> Result<Case> {
    let mut inputs = Vec::new();
    let mut shape = None;
    for name in order {
        let view = tensors.tensor(&format!("{case}/{name}"))?;
        ensure!(
            view.dtype() == Dtype::I64 && view.shape().len() == 2,
            "{case}/{name} is {:?} {:?}, not int64 (batch, sequence)",
            view.dtype(),
            view.shape()
        );
        ensure!(
            shape.is_none_or(|before| before == (view.shape()[0], view.shape()[1])),
            "the inputs of {case} differ in shape"
        );
        shape = Some((view.shape()[0], view.shape()[1]));
        let words = view.data().chunks_exact(8);
        let values = words.map(|word| i64::from_le_bytes(word.try_into().expect("eight bytes"))).collect();
        inputs.push(Input { name: name.clone(), values });
    }
    let (batch, sequence) = shape.with_context(|| format!("case {case} has no inputs"))?;
    Ok(Case { name: case.to_owned(), batch, sequence, inputs })
}
