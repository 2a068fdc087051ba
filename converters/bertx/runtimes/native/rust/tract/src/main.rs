//! An ONNX file in tract, which computes in Rust alone, on one thread. Batch and sequence stay symbols: one plan runs
//! every case.

use anyhow::{ensure, Context, Result};
use bertx_protocol::{Arguments, Case, Cases, Facts, Input, Output, Runner, Values};
use tract_onnx::prelude::*;

struct Tract {
    plan: Arc<TypedRunnableModel>,
    inputs: Vec<String>,
    outputs: Vec<String>,
}

impl Runner for Tract {
    fn open(arguments: &Arguments, cases: &Cases) -> Result<Self> {
        let graph = tract_onnx::onnx().model_for_path(&arguments.artifact)?;
        let theirs: Vec<String> = graph.input_outlets()?.iter().map(|at| graph.node(at.node).name.clone()).collect();
        let named = graph.output_outlets()?.iter().map(|at| {
            graph.outlet_label(*at).map_or_else(|| graph.node(at.node).name.clone(), str::to_owned)
        });
        let outputs: Vec<String> = named.collect();
        let model = graph.into_optimized()?;
        for (k, name) in outputs.iter().enumerate() {
            let found = model.output_fact(k)?.datum_type;
            ensure!(found == DatumType::F32, "output {name} is {} where {} is claimed", dtype(found), cases.dtype);
        }
        let inputs = cases.bind(&theirs)?;
        for (k, name) in inputs.iter().enumerate() {
            cases.all[0].input(name)?.check(&dtype(model.input_fact(k)?.datum_type))?;
        }
        Ok(Self { plan: model.into_runnable()?, inputs, outputs })
    }

    fn run(&mut self, case: &Case) -> Result<Vec<Output>> {
        let fed = self.inputs.iter().map(|name| tensor(case.input(name)?)).collect::<Result<TVec<_>>>()?;
        let made = self.plan.run(fed)?;
        let mut outputs = Vec::new();
        for (name, value) in self.outputs.iter().zip(made.iter()) {
            let values = value.try_as_plain_ram()?.as_slice::<f32>().with_context(|| format!("output {name}"))?;
            outputs.push(Output::new(name, value.shape().to_vec(), values.to_vec()));
        }
        Ok(outputs)
    }

    fn facts(&self) -> Facts {
        let version = env!("CARGO_PKG_VERSION").to_owned();
        Facts { version, provider: "tract".to_owned(), threads: Some(1) }
    }
}

fn tensor(input: &Input) -> Result<TValue> {
    Ok(match &input.values {
        Values::Int64(values) => Tensor::from_shape(&input.shape, values)?.into(),
        Values::Int32(values) => Tensor::from_shape(&input.shape, values)?.into(),
        Values::Float32(values) => Tensor::from_shape(&input.shape, values)?.into(),
    })
}

/// A type as bertx writes it.
fn dtype(datum: DatumType) -> String {
    match datum {
        DatumType::F32 => "float32".to_owned(),
        DatumType::F16 => "float16".to_owned(),
        DatumType::I64 => "int64".to_owned(),
        DatumType::I32 => "int32".to_owned(),
        other => format!("{other:?}"),
    }
}

fn main() {
    bertx_protocol::main::<Tract>("tract")
}
