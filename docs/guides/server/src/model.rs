//! The TorchScript file in libtorch: rows of ids in, an embedding for each out.

use anyhow::{ensure, Context, Result};
use tch::{CModule, Device, Kind, Tensor};

use crate::bundle::{Bundle, Input};
use crate::texts::Row;

pub struct Model {
    module: CModule,
    inputs: Vec<Input>,
    dimensions: usize,
    padding: u32,
}

/// The most numbers that one batch holds in each input, padding included. On a CPU more at a time is no faster, and
/// rows of one batch would differ more in length.
const BATCH_TOKENS: usize = 1024;

impl Model {
    pub fn load(bundle: &Bundle) -> Result<Self> {
        let path = bundle.model.display().to_string();
        let mut module = CModule::load_on_device(&bundle.model, Device::Cpu).context(path)?;
        module.f_set_eval()?;
        for (name, weight) in module.named_parameters()? {
            let right = !weight.is_floating_point() || weight.kind() == Kind::Float;
            ensure!(right, "{name} is {:?} where bertx.json says float32", weight.kind());
        }
        let (inputs, dimensions, padding) = (bundle.inputs.clone(), bundle.dimensions, bundle.padding);
        Ok(Self { module, inputs, dimensions, padding })
    }

    /// The embedding of each row, in the order of the rows. Rows of like length share a batch, so little is padding.
    pub fn embed(&self, rows: &[Row]) -> Result<Vec<Vec<f32>>> {
        let mut embeddings = vec![Vec::new(); rows.len()];
        let lengths: Vec<usize> = rows.iter().map(|row| row.ids.len()).collect();
        for batch in batches(&lengths) {
            let chosen: Vec<&Row> = batch.iter().map(|place| &rows[*place]).collect();
            let fed = self.inputs.iter().map(|input| self.padded(*input, &chosen)).collect::<Result<Vec<_>>>()?;
            for (place, embedding) in batch.iter().zip(self.forward(&fed)?.chunks_exact(self.dimensions)) {
                ensure!(embedding.iter().all(|number| number.is_finite()), "the embedding of a text is not finite");
                embeddings[*place] = embedding.to_vec();
            }
        }
        Ok(embeddings)
    }

    /// One batch, its inputs in the model's order: (batch, dimensions), row-major.
    pub fn forward(&self, inputs: &[Tensor]) -> Result<Vec<f32>> {
        let made = tch::no_grad(|| self.module.forward_ts(inputs))?;
        let wanted = [inputs[0].size()[0], self.dimensions as i64];
        ensure!(made.kind() == Kind::Float && made.size() == wanted, "the model gave {made:?}, not float32 {wanted:?}");
        let mut numbers = vec![0.0; made.numel()];
        made.f_contiguous()?.f_copy_data(&mut numbers, made.numel())?;
        Ok(numbers)
    }

    /// One input of a batch, its rows padded on the right to the longest.
    fn padded(&self, input: Input, rows: &[&Row]) -> Result<Tensor> {
        let longest = rows.iter().map(|row| row.ids.len()).max().unwrap_or(0);
        let mut numbers = Vec::with_capacity(rows.len() * longest);
        for row in rows {
            let filling = longest - row.ids.len();
            match input {
                Input::Ids => numbers.extend(row.ids.iter().map(|id| i64::from(*id))),
                Input::Mask => numbers.extend(row.ids.iter().map(|_| 1)),
                Input::Segments => numbers.extend(row.segments.iter().map(|id| i64::from(*id))),
            }
            let fill = if input == Input::Ids { i64::from(self.padding) } else { 0 };
            numbers.extend(std::iter::repeat_n(fill, filling));
        }
        Ok(Tensor::f_from_slice(&numbers)?.f_view([rows.len() as i64, longest as i64])?)
    }
}

/// Places of rows, by length, in batches of at most [`BATCH_TOKENS`] (a row that is longer has one of its own).
fn batches(lengths: &[usize]) -> Vec<Vec<usize>> {
    let mut places: Vec<usize> = (0..lengths.len()).collect();
    places.sort_by_key(|place| lengths[*place]);
    let mut batches: Vec<Vec<usize>> = Vec::new();
    for place in places {
        match batches.last_mut() {
            Some(batch) if (batch.len() + 1) * lengths[place] <= BATCH_TOKENS => batch.push(place),
            _ => batches.push(vec![place]),
        }
    }
    batches
}
