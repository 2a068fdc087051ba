//! A TorchScript file in libtorch, through tch: one Tensor out, the inputs by position.

use anyhow::{ensure, Result};
use bertx_protocol::{Arguments, Case, Cases, Facts, Input, Output, Runner, Values};
use tch::{CModule, Device, IValue, Kind, Tensor};

struct Tch {
    module: CModule,
    output: String,
    hidden_states: bool,
}

impl Runner for Tch {
    fn open(arguments: &Arguments, cases: &Cases) -> Result<Self> {
        tch::set_num_threads(i32::try_from(cases.threads)?);
        // As it was saved, without set_eval(): a program that does not call it either gets the same.
        let module = CModule::load_on_device(&arguments.artifact, Device::Cpu)?;
        for (name, parameter) in module.named_parameters()? {
            let kind = parameter.kind();
            let right = !parameter.is_floating_point() || kind == Kind::Float;
            ensure!(right, "the parameter {name} is {} where {} is claimed", dtype(kind), cases.dtype);
        }
        let output = cases.outputs.first().map_or("output", |spec| &spec.name).to_owned();
        Ok(Self { module, output, hidden_states: true })
    }

    fn run(&mut self, case: &Case) -> Result<Vec<Output>> {
        let fed = case.inputs.iter().map(tensor).collect::<Result<Vec<_>>>()?;
        let made = tch::no_grad(|| self.module.forward_ts(&fed))?;
        Ok(vec![output(&self.output, &made)?])
    }

    /// A file that bertx wrote has a second method, which gives the states at all layer boundaries.
    fn taps(&mut self, case: &Case) -> Result<Vec<Output>> {
        if !self.hidden_states {
            return Ok(Vec::new());
        }
        let fed = case.inputs.iter().map(|input| Ok(IValue::Tensor(tensor(input)?))).collect::<Result<Vec<_>>>()?;
        let states = match tch::no_grad(|| self.module.method_is("hidden_states", &fed)) {
            Ok(IValue::Tensor(stacked)) => stacked.f_unbind(0)?,
            Ok(IValue::TensorList(states)) => states,
            Ok(IValue::Tuple(values)) => values.into_iter().map(Tensor::try_from).collect::<Result<_, _>>()?,
            Ok(_) => anyhow::bail!("hidden_states gave something else than tensors"),
            Err(error) if error.to_string().contains("is not defined") => {
                self.hidden_states = false;
                Vec::new()
            }
            Err(error) => return Err(error.into()),
        };
        states.iter().enumerate().map(|(k, state)| output(&format!("hidden_states.{k}"), state)).collect()
    }

    fn facts(&self) -> Facts {
        Facts {
            version: format!("{}, tch {}", env!("LIBTORCH_VERSION"), env!("CARGO_PKG_VERSION")),
            provider: "libtorch".to_owned(),
            threads: usize::try_from(tch::get_num_threads()).ok(),
        }
    }
}

fn tensor(input: &Input) -> Result<Tensor> {
    let flat = match &input.values {
        Values::Int64(values) => Tensor::f_from_slice(values)?,
        Values::Int32(values) => Tensor::f_from_slice(values)?,
        Values::Float32(values) => Tensor::f_from_slice(values)?,
    };
    let shape: Vec<i64> = input.shape.iter().map(|size| *size as i64).collect();
    Ok(flat.f_view(shape.as_slice())?)
}

fn output(name: &str, tensor: &Tensor) -> Result<Output> {
    ensure!(tensor.kind() == Kind::Float, "output {name} is {} where float32 is claimed", dtype(tensor.kind()));
    let shape = tensor.size().iter().map(|size| *size as usize).collect();
    let mut values = vec![0.0_f32; tensor.numel()];
    tensor.f_contiguous()?.f_copy_data(&mut values, tensor.numel())?;
    Ok(Output::new(name, shape, values))
}

/// A kind as bertx writes it.
fn dtype(kind: Kind) -> String {
    match kind {
        Kind::Float => "float32".to_owned(),
        Kind::Half => "float16".to_owned(),
        Kind::BFloat16 => "bfloat16".to_owned(),
        Kind::Double => "float64".to_owned(),
        other => format!("{other:?}"),
    }
}

fn main() {
    bertx_protocol::main::<Tch>("tch")
}
