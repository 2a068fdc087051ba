//! An ONNX file in ONNX Runtime, through ort. The library is loaded when the program starts: `--library PATH`.

use anyhow::{ensure, Context, Result};
use bertx_protocol::{Arguments, Case, Cases, Facts, Input, Output, Runner, Values};
use ort::session::{builder::GraphOptimizationLevel, Session, SessionInputValue};
use ort::value::{Tensor, TensorElementType, ValueType};

struct Ort {
    session: Session,
    inputs: Vec<(String, String)>,
    threads: usize,
}

impl Runner for Ort {
    fn open(arguments: &Arguments, cases: &Cases) -> Result<Self> {
        let library = arguments.library.as_deref().context("--library is missing")?;
        let environment = ort::init_from(library)?.with_telemetry(false).build()?;
        let builder = Session::builder(&environment)?;
        let builder = builder.with_optimization_level(GraphOptimizationLevel::All).map_err(told)?;
        let session = builder
            .with_intra_threads(cases.threads)
            .map_err(told)?
            .commit_from_file(&arguments.artifact)?;
        for output in session.outputs() {
            let ty = match output.dtype() {
                ValueType::Tensor { ty, .. } => *ty,
                other => anyhow::bail!("output {} is {other}, no tensor", output.name()),
            };
            let float = ty == TensorElementType::Float32;
            ensure!(float, "output {} is {} where {} is claimed", output.name(), dtype(ty), cases.dtype);
        }
        let theirs: Vec<String> = session.inputs().iter().map(|input| input.name().to_owned()).collect();
        let ours = cases.bind(&theirs)?;
        for (input, name) in session.inputs().iter().zip(&ours) {
            if let ValueType::Tensor { ty, .. } = input.dtype() {
                cases.all[0].input(name)?.check(&dtype(*ty))?;
            }
        }
        Ok(Self { session, inputs: theirs.into_iter().zip(ours).collect(), threads: cases.threads })
    }

    fn run(&mut self, case: &Case) -> Result<Vec<Output>> {
        let mut fed = Vec::new();
        for (theirs, ours) in &self.inputs {
            fed.push((theirs.as_str(), tensor(case.input(ours)?)?));
        }
        let made = self.session.run(fed)?;
        let mut outputs = Vec::new();
        for (name, value) in made.iter() {
            let (shape, values) = value.try_extract_tensor::<f32>()?;
            let shape = shape.iter().map(|size| *size as usize).collect();
            outputs.push(Output::new(name, shape, values.to_vec()));
        }
        Ok(outputs)
    }

    fn facts(&self) -> Facts {
        // "ORT Build Info: …" and the like follow the version in some builds: the first word that is a number is it.
        let library = ort::info().split(|c: char| !(c.is_ascii_digit() || c == '.')).find(|word| word.contains('.'));
        Facts {
            version: format!("{}, ort {}", library.unwrap_or("unknown"), env!("CARGO_PKG_VERSION")),
            provider: "CPUExecutionProvider".to_owned(),
            threads: Some(self.threads),
        }
    }
}

fn tensor(input: &Input) -> Result<SessionInputValue<'static>> {
    Ok(match &input.values {
        Values::Int64(values) => Tensor::from_array((input.shape.clone(), values.clone()))?.into(),
        Values::Int32(values) => Tensor::from_array((input.shape.clone(), values.clone()))?.into(),
        Values::Float32(values) => Tensor::from_array((input.shape.clone(), values.clone()))?.into(),
    })
}

/// An element's type as bertx writes it.
fn dtype(element: TensorElementType) -> String {
    match element {
        TensorElementType::Float32 => "float32".to_owned(),
        TensorElementType::Float16 => "float16".to_owned(),
        TensorElementType::Bfloat16 => "bfloat16".to_owned(),
        TensorElementType::Int64 => "int64".to_owned(),
        TensorElementType::Int32 => "int32".to_owned(),
        other => other.to_string(),
    }
}

/// A builder's error holds the builder, which no thread may share; its words are what matters.
fn told(error: impl std::fmt::Display) -> anyhow::Error {
    anyhow::anyhow!("{error}")
}

fn main() {
    bertx_protocol::main::<Ort>("ort")
}
