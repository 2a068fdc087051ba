//! OUT.safetensors: what a runner computed, and what it says of itself.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use anyhow::Result;
use safetensors::tensor::TensorView;
use safetensors::Dtype;

use crate::{Case, Values};

/// One output of a case, float32, row-major.
pub struct Output {
    pub name: String,
    pub shape: Vec<usize>,
    pub values: Vec<f32>,
}

impl Output {
    pub fn new(name: impl Into<String>, shape: Vec<usize>, values: Vec<f32>) -> Self {
        Self { name: name.into(), shape, values }
    }
}

/// What computed: goes into the report.
pub struct Facts {
    pub version: String,
    pub provider: String,
    /// How many threads it computes with, where it tells.
    pub threads: Option<usize>,
}

/// Everything that was computed, as it is written.
#[derive(Default)]
pub(crate) struct Answers {
    tensors: Vec<(String, Dtype, Vec<usize>, Vec<u8>)>,
    seconds: BTreeMap<String, f64>,
}

impl Answers {
    pub(crate) fn add(&mut self, case: &Case, outputs: Vec<Output>) {
        for output in outputs {
            let bytes = output.values.iter().flat_map(|value| value.to_le_bytes()).collect();
            self.tensors.push((format!("{}/{}", case.name, output.name), Dtype::F32, output.shape, bytes));
        }
    }

    /// The inputs that were made of a case's texts, so that whoever asked can look at them.
    pub(crate) fn give_back(&mut self, case: &Case) {
        for input in &case.inputs {
            if let Values::Int64(values) = &input.values {
                let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
                self.tensors.push((format!("{}/{}", case.name, input.name), Dtype::I64, input.shape.clone(), bytes));
            }
        }
    }

    pub(crate) fn time(&mut self, case: &Case, seconds: f64) {
        self.seconds.insert(case.name.clone(), seconds);
    }

    pub(crate) fn write(&self, runtime: &str, facts: &Facts, path: &Path) -> Result<()> {
        let mut metadata = HashMap::from([
            ("runtime".to_owned(), runtime.to_owned()),
            ("version".to_owned(), facts.version.clone()),
            ("provider".to_owned(), facts.provider.clone()),
            ("device".to_owned(), "cpu".to_owned()),
            ("dtype".to_owned(), "float32".to_owned()),
            ("seconds".to_owned(), serde_json::to_string(&self.seconds)?),
        ]);
        if let Some(threads) = facts.threads {
            metadata.insert("threads".to_owned(), threads.to_string());
        }
        let mut views = Vec::new();
        for (name, dtype, shape, bytes) in &self.tensors {
            views.push((name.as_str(), TensorView::new(*dtype, shape.clone(), bytes)?));
        }
        Ok(safetensors::serialize_to_file(views, Some(metadata), path)?)
    }
}
