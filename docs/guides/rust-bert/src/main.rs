//! model.safetensors of a bundle in rust-bert: its `BertModel`, loaded by its `VarStore::load` as its pipelines do it.

use anyhow::{ensure, Context, Result};
use bertx_protocol::{Arguments, Case, Cases, Embedding, Facts, Output, Runner};
use rust_bert::bert::{BertConfig, BertEmbeddings, BertModel, BertModelOutput};
use rust_bert::Config;
use tch::nn::VarStore;
use tch::{Device, Kind, Tensor};

struct RustBert {
    bert: BertModel<BertEmbeddings>,
    embedding: Option<Embedding>,
}

impl Runner for RustBert {
    fn open(arguments: &Arguments, cases: &Cases) -> Result<Self> {
        ensure!(cases.dtype == "float32", "this program computes in float32, not in {}", cases.dtype);
        let folder = arguments.artifact.parent().context("the artifact is in no folder")?;
        let names = Tensor::read_safetensors(&arguments.artifact)?;
        let has = |start: &str| names.iter().any(|(name, _)| name.contains(start));
        let mut config = BertConfig::from_file(folder.join("config.json"));
        config.output_hidden_states = Some(true);
        let mut store = VarStore::new(Device::Cpu);
        let root =
            if names.iter().any(|(name, _)| name.starts_with("bert.")) { store.root() / "bert" } else { store.root() };
        let bert = BertModel::new_with_optional_pooler(&root, &config, has("pooler.dense.weight"));
        store.load(&arguments.artifact)?;
        let pooled = cases.task == "sentence-similarity";
        let embedding = if pooled { Some(Embedding::read(folder)?) } else { None };
        Ok(Self { bert, embedding })
    }

    fn run(&mut self, case: &Case) -> Result<Vec<Output>> {
        let made = self.forward(case)?;
        let mut outputs = vec![output("last_hidden_state", &made.hidden_state)?];
        if let Some(pooled) = made.pooled_output {
            outputs.push(output("pooler_output", &pooled)?);
        }
        if let Some(embedding) = &self.embedding {
            outputs.push(embedding.of(&outputs[0], case)?);
        }
        Ok(outputs)
    }

    /// The states after each layer; rust-bert does not give those before the first.
    fn taps(&mut self, case: &Case) -> Result<Vec<Output>> {
        let states = self.forward(case)?.all_hidden_states.unwrap_or_default();
        states.iter().enumerate().map(|(k, state)| output(&format!("hidden_states.{}", k + 1), state)).collect()
    }

    fn facts(&self) -> Facts {
        Facts {
            version: concat!(env!("CARGO_PKG_VERSION"), ", libtorch ", env!("LIBTORCH_VERSION")).to_owned(),
            provider: "libtorch".to_owned(),
            threads: usize::try_from(tch::get_num_threads()).ok(),
        }
    }
}

impl RustBert {
    fn forward(&self, case: &Case) -> Result<BertModelOutput> {
        let (batch, sequence) = case.size()?;
        let tensor = |values: &[i64]| Tensor::f_from_slice(values)?.f_view([batch as i64, sequence as i64]);
        let ids = tensor(case.ids("input_ids")?)?;
        let mask = tensor(case.ids("attention_mask")?)?;
        let segments = tensor(&case.ids_or_zeros("token_type_ids")?)?;
        let given = (Some(&ids), Some(&mask), Some(&segments));
        Ok(tch::no_grad(|| self.bert.forward_t(given.0, given.1, given.2, None, None, None, None, false))?)
    }
}

fn output(name: &str, tensor: &Tensor) -> Result<Output> {
    ensure!(tensor.kind() == Kind::Float, "output {name} is {:?}", tensor.kind());
    let shape = tensor.size().iter().map(|size| *size as usize).collect();
    let mut values = vec![0.0_f32; tensor.numel()];
    tensor.f_contiguous()?.f_copy_data(&mut values, tensor.numel())?;
    Ok(Output::new(name, shape, values))
}

fn main() {
    bertx_protocol::main::<RustBert>("rust-bert")
}
