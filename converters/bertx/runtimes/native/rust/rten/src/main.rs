//! An ONNX file in rten, which reads .onnx directly and computes in Rust alone. It takes int64 inputs as int32.

use std::collections::HashSet;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use anyhow::{ensure, Context, Result};
use bertx_protocol::{Arguments, Case, Cases, Facts, Input, Output, Runner, Unsupported, Values};
use rten::{LoadError, LoadErrorKind, Model, NodeId, RunOptions, ThreadPool, Value, ValueOrView};
use rten_onnx::onnx::{ModelProto, ValueInfoProto};
use rten_tensor::prelude::*;
use rten_tensor::Tensor;

struct Rten {
    model: Model,
    inputs: Vec<(NodeId, String)>,
    outputs: Vec<(NodeId, String)>,
    threads: usize,
    options: RunOptions,
}

impl Runner for Rten {
    fn open(arguments: &Arguments, cases: &Cases) -> Result<Self> {
        let model = Model::load_file(&arguments.artifact).map_err(refusal)?;
        let named = |ids: &[NodeId]| -> Result<Vec<(NodeId, String)>> {
            let name = |id: &NodeId| model.node_info(*id).and_then(|node| node.name().map(str::to_owned));
            ids.iter().map(|id| Ok((*id, name(id).context("a value has no name")?))).collect()
        };
        let outputs = named(model.output_ids())?;
        let theirs: Vec<String> = named(model.input_ids())?.into_iter().map(|(_, name)| name).collect();
        let inputs: Vec<(NodeId, String)> = model.input_ids().iter().copied().zip(cases.bind(&theirs)?).collect();
        // rten widens float16 and narrows int64 in silence: what the file declares is read from the file.
        let (taken, given) = declared(&arguments.artifact)?;
        for (dtype, (_, name)) in given.iter().zip(&outputs) {
            ensure!(dtype == "float32", "output {name} is {dtype} where {} is claimed", cases.dtype);
        }
        for (dtype, (_, name)) in taken.iter().zip(&inputs) {
            cases.all[0].input(name)?.check(dtype)?;
        }
        let pool = Arc::new(ThreadPool::with_num_threads(cases.threads));
        let options = RunOptions::default().with_thread_pool(Some(pool));
        Ok(Self { model, inputs, outputs, threads: cases.threads, options })
    }

    fn run(&mut self, case: &Case) -> Result<Vec<Output>> {
        let mut fed: Vec<(NodeId, ValueOrView)> = Vec::new();
        for (id, name) in &self.inputs {
            fed.push((*id, value(case.input(name)?)?.into()));
        }
        let ids: Vec<NodeId> = self.outputs.iter().map(|(id, _)| *id).collect();
        let made = self.model.run(fed, &ids, Some(self.options.clone()))?;
        self.outputs.iter().zip(made).map(|((_, name), value)| output(name, value)).collect()
    }

    fn facts(&self) -> Facts {
        let version = env!("CARGO_PKG_VERSION").to_owned();
        Facts { version, provider: "rten".to_owned(), threads: Some(self.threads) }
    }
}

/// An operator that rten does not know, or not so, is its own affair; a file that it cannot read is the file's.
fn refusal(error: LoadError) -> anyhow::Error {
    match error.kind() {
        LoadErrorKind::OperatorInvalid => Unsupported::new(error).into(),
        _ => error.into(),
    }
}

/// The types of a file's inputs and of its outputs, as bertx writes them.
fn declared(artifact: &Path) -> Result<(Vec<String>, Vec<String>)> {
    let graph = ModelProto::parse_file(File::open(artifact)?)?.graph.context("the file holds no graph")?;
    let weights: HashSet<_> = graph.initializer.iter().map(|weight| weight.name.clone()).collect();
    let dtypes = |values: &[ValueInfoProto]| values.iter().filter(|v| !weights.contains(&v.name)).map(dtype).collect();
    Ok((dtypes(&graph.input), dtypes(&graph.output)))
}

fn dtype(value: &ValueInfoProto) -> String {
    let tensor = value.r#type.as_ref().and_then(|kind| kind.tensor_type.as_ref());
    let name = tensor.and_then(|tensor| tensor.elem_type.as_ref()?.name().map(str::to_lowercase));
    match name.as_deref() {
        Some("float") => "float32".to_owned(),
        Some("double") => "float64".to_owned(),
        Some(other) => other.to_owned(),
        None => "of no stated type".to_owned(),
    }
}

fn value(input: &Input) -> Result<Value> {
    Ok(match &input.values {
        Values::Float32(values) => Tensor::from_data(&input.shape, values.clone()).into(),
        Values::Int32(values) => Tensor::from_data(&input.shape, values.clone()).into(),
        Values::Int64(values) => {
            let narrow = values.iter().map(|value| i32::try_from(*value)).collect::<Result<Vec<_>, _>>()?;
            Tensor::from_data(&input.shape, narrow).into()
        }
    })
}

fn output(name: &str, value: Value) -> Result<Output> {
    let dtype = value.dtype();
    let tensor = Tensor::<f32>::try_from(value).ok().with_context(|| format!("output {name} is {dtype}, not float32"))?;
    Ok(Output::new(name, tensor.shape().to_vec(), tensor.to_vec()))
}

fn main() {
    bertx_protocol::main::<Rten>("rten")
}
