//! An ONNX file in rten, which reads .onnx directly and computes in Rust alone. It takes int64 inputs as int32.

use anyhow::{ensure, Context, Result};
use bertx_protocol::{Arguments, Case, Cases, Facts, Output, Runner};
use rten::{DataType, Model, NodeId, Value, ValueType};
use rten_tensor::prelude::*;
use rten_tensor::Tensor;

struct Rten {
    model: Model,
    inputs: Vec<(NodeId, String)>,
    outputs: Vec<(NodeId, String)>,
}

impl Runner for Rten {
    fn open(arguments: &Arguments, cases: &Cases) -> Result<Self> {
        let model = Model::load_file(&arguments.artifact)?;
        let named = |ids: &[NodeId]| -> Result<Vec<(NodeId, String)>> {
            let name = |id: &NodeId| model.node_info(*id).and_then(|node| node.name().map(str::to_owned));
            ids.iter().map(|id| Ok((*id, name(id).context("a value has no name")?))).collect()
        };
        let outputs = named(model.output_ids())?;
        let theirs: Vec<String> = named(model.input_ids())?.into_iter().map(|(_, name)| name).collect();
        let inputs = model.input_ids().iter().copied().zip(cases.bind(&theirs)?).collect();
        for (id, name) in &outputs {
            let dtype = model.node_info(*id).and_then(|node| node.dtype());
            ensure!(
                dtype.is_none() || dtype == Some(ValueType::Tensor(DataType::Float)),
                "output {name} is {dtype:?}, not {}",
                cases.dtype
            );
        }
        Ok(Self { model, inputs, outputs })
    }

    fn run(&mut self, case: &Case) -> Result<Vec<Output>> {
        let mut fed = Vec::new();
        for (id, name) in &self.inputs {
            let values = case.input(name)?.iter().map(|value| i32::try_from(*value)).collect::<Result<Vec<_>, _>>()?;
            fed.push((*id, Tensor::from_data(&[case.batch, case.sequence], values).into()));
        }
        let ids: Vec<NodeId> = self.outputs.iter().map(|(id, _)| *id).collect();
        let made = self.model.run(fed, &ids, None)?;
        self.outputs.iter().zip(made).map(|((_, name), value)| output(name, value)).collect()
    }

    fn facts(&self) -> Facts {
        let threads = std::thread::available_parallelism().ok().map(usize::from);
        Facts { version: env!("CARGO_PKG_VERSION").to_owned(), provider: "rten".to_owned(), threads }
    }
}

fn output(name: &str, value: Value) -> Result<Output> {
    let dtype = value.dtype();
    let tensor = Tensor::<f32>::try_from(value).ok().with_context(|| format!("output {name} is {dtype}, not float32"))?;
    Ok(Output::new(name, tensor.shape().to_vec(), tensor.to_vec()))
}

fn main() {
    bertx_protocol::main::<Rten>("rten")
}
