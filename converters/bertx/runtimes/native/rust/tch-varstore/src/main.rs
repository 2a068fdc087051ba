//! model.safetensors in libtorch, through tch: a whole BERT over a `VarStore`, loaded strictly. config.json, and for
//! sentence embeddings modules.json, lie beside the file.

use anyhow::{ensure, Context, Result};
use bertx_protocol::{Arguments, Case, Cases, Embedding, Facts, Output, Runner};
use run_tch_varstore::{load_strictly, Bert, Config, TokenClassifier};
use tch::nn::VarStore;
use tch::{Device, Kind, Tensor};

/// What a checkpoint may hold beside what is asked for: other heads, and a pooler below a head that reads none.
const HEADS: [&str; 4] = ["cls.", "classifier.", "qa_outputs.", POOLER];
const POOLER: &str = "bert.pooler.";

enum Store {
    Encoder(Bert, Option<Embedding>),
    Labels(TokenClassifier),
}

impl Runner for Store {
    fn open(arguments: &Arguments, cases: &Cases) -> Result<Self> {
        ensure!(cases.dtype == "float32", "this program computes in float32, not in {}", cases.dtype);
        tch::set_num_threads(i32::try_from(cases.threads)?);
        let folder = arguments.artifact.parent().context("the artifact is in no folder")?;
        let config = Config::read(&folder.join("config.json"))?;
        let store = VarStore::new(Device::Cpu);
        if cases.task == "token-classification" {
            let model = TokenClassifier::new(&store.root(), &config)?;
            load_strictly(&store, &arguments.artifact, &[POOLER])?;
            return Ok(Self::Labels(model));
        }
        let names = Tensor::read_safetensors(&arguments.artifact)?;
        let has = |end: &str| names.iter().any(|(name, _)| name.ends_with(end));
        let prefixed = names.iter().any(|(name, _)| name.starts_with("bert."));
        let root = if prefixed { store.root() / "bert" } else { store.root() };
        let bert = Bert::new(&root, &config, has("pooler.dense.weight"));
        load_strictly(&store, &arguments.artifact, &HEADS)?;
        let pooled = cases.task == "sentence-similarity";
        Ok(Self::Encoder(bert, if pooled { Some(Embedding::read(folder)?) } else { None }))
    }

    fn run(&mut self, case: &Case) -> Result<Vec<Output>> {
        let last = self.states(case)?.pop().context("there is no layer")?;
        match self {
            Self::Labels(model) => Ok(vec![output("logits", &tch::no_grad(|| model.head(last, false))?)?]),
            Self::Encoder(bert, embedding) => {
                let mut outputs = vec![output("last_hidden_state", &last)?];
                if let Some(pooled) = tch::no_grad(|| bert.pooled(&last)) {
                    outputs.push(output("pooler_output", &pooled)?);
                }
                if let Some(embedding) = embedding {
                    outputs.push(embedding.of(&outputs[0], case)?);
                }
                Ok(outputs)
            }
        }
    }

    fn taps(&mut self, case: &Case) -> Result<Vec<Output>> {
        let states = self.states(case)?;
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

impl Store {
    fn states(&self, case: &Case) -> Result<Vec<Tensor>> {
        let (batch, sequence) = case.size()?;
        let tensor = |values: &[i64]| Tensor::f_from_slice(values)?.f_view([batch as i64, sequence as i64]);
        let ids = tensor(case.ids("input_ids")?)?;
        let mask = tensor(case.ids("attention_mask")?)?;
        let segments = tensor(&case.ids_or_zeros("token_type_ids")?)?;
        let (Self::Encoder(bert, _) | Self::Labels(TokenClassifier { bert, .. })) = self;
        tch::no_grad(|| bert.states(&ids, &mask, &segments, false))
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
    bertx_protocol::main::<Store>("tch-varstore")
}
