//! An ONNX file in tract, which computes in Rust alone, on one thread. Batch and sequence stay symbols: one plan runs
//! every case.

use std::collections::BTreeSet;

use anyhow::{ensure, Context, Result};
use bertx_protocol::{Arguments, Case, Cases, Facts, Input, Output, Runner, Unsupported, Values};
use tract_onnx::prelude::*;
use tract_onnx::tract_core::ops::array::{CumSum, GatherElements};
use tract_onnx::tract_core::ops::cast::cast;
use tract_onnx::tract_hir::ops::unimpl::UnimplementedOp;

struct Tract {
    plan: Arc<TypedRunnableModel>,
    inputs: Vec<String>,
    outputs: Vec<String>,
}

impl Runner for Tract {
    fn open(arguments: &Arguments, cases: &Cases) -> Result<Self> {
        // What a file notes of shapes inside it may have names of its own for sizes that tract knows by others.
        let graph = tract_onnx::onnx().with_ignore_value_info(true).model_for_path(&arguments.artifact)?;
        let theirs: Vec<String> = graph.input_outlets()?.iter().map(|at| graph.node(at.node).name.clone()).collect();
        let named = graph.output_outlets()?.iter().map(|at| {
            graph.outlet_label(*at).map_or_else(|| graph.node(at.node).name.clone(), str::to_owned)
        });
        let outputs: Vec<String> = named.collect();
        let model = analysed(graph).map_err(Unsupported::new)?;
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

/// A graph with every type and shape known, ready to run; an error where tract lacks something for that.
fn analysed(graph: InferenceModel) -> TractResult<TypedModel> {
    let unknown = graph.nodes().iter().filter(|node| node.op_is::<UnimplementedOp>()).map(|node| node.op.name());
    let unknown: BTreeSet<_> = unknown.collect();
    ensure!(unknown.is_empty(), "{}", unknown.into_iter().collect::<Vec<_>>().join(", "));
    let mut model = graph.into_typed()?;
    make_numbers_of_sizes(&mut model)?;
    model.into_optimized()
}

/// Gives numbers to operators that know no sizes. What a file casts to int64 may be a size of a tensor, and is one to
/// tract, a `TDim`: CumSum does not add it up, by which RoBERTa and MPNet count positions, and GatherElements does not
/// look up what it stands for, as DeBERTa does with distances.
fn make_numbers_of_sizes(model: &mut TypedModel) -> TractResult<()> {
    let wants_numbers = |node: &&TypedNode| node.op_is::<CumSum>() || node.op_is::<GatherElements>();
    let found: Vec<TypedNode> = model.nodes().iter().filter(wants_numbers).cloned().collect();
    for node in found {
        let mut patch = TypedModelPatch::default();
        let mut given = TVec::new();
        for (k, input) in node.inputs.iter().enumerate() {
            given.push(patch.tap_model(model, *input)?);
            if model.outlet_fact(*input)?.datum_type == TDim::datum_type() {
                given[k] = patch.wire_node(format!("{}.number.{k}", node.name), cast(DatumType::I64), &[given[k]])?[0];
            }
        }
        let made = patch.wire_node(&node.name, node.op.clone(), &given)?;
        let before = cast(node.outputs[0].fact.datum_type);
        let made = patch.wire_node(format!("{}.as-before", node.name), before, &made)?;
        patch.shunt_outside(model, node.id.into(), made[0])?;
        patch.apply(model)?;
    }
    Ok(())
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
