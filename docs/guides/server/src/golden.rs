//! The check before the first request: what this process computes here is what PyTorch computed when the bundle was
//! made. The bundle's golden files say what that is, and how far rounding alone may lead from it.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use anyhow::{bail, ensure, Context, Result};
use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;
use tch::Tensor;

use crate::bundle::{Bundle, Input, OUTPUT};
use crate::model::Model;
use crate::texts::Texts;

#[derive(Deserialize)]
struct Line {
    text: String,
    pair: Option<String>,
    ids: Vec<u32>,
    type_ids: Vec<u32>,
}

#[derive(Deserialize)]
struct Statistics {
    rms: f64,
    max: f64,
}

/// golden_tokens.jsonl: texts that hurt, and their ids. Returns how many.
pub fn check_tokens(folder: &Path, texts: &Texts) -> Result<usize> {
    let lines = read(&folder.join("golden_tokens.jsonl"))?;
    let mut count = 0;
    for line in std::str::from_utf8(&lines)?.lines() {
        let line: Line = serde_json::from_str(line)?;
        let made = match line.pair {
            Some(pair) => texts.encode((line.text.as_str(), pair))?,
            None => texts.encode(line.text.as_str())?,
        };
        ensure!(made.ids == line.ids && made.segments == line.type_ids, "other tokens for {:?}", line.text);
        count += 1;
    }
    ensure!(count > 0, "there are no golden tokens");
    Ok(count)
}

/// parity/: batches of ids and their embeddings in float64. Returns the largest error, in units of what is allowed.
pub fn check_numbers(bundle: &Bundle, model: &Model) -> Result<f64> {
    let folder = bundle.folder.join("parity");
    let (cases, expected) = (read(&folder.join("cases.safetensors"))?, read(&folder.join("expected.safetensors"))?);
    let (_, header) = SafeTensors::read_metadata(&expected)?;
    let told = header.metadata().clone().unwrap_or_default();
    let noise = stated::<HashMap<String, Statistics>>(&told, "noise")?;
    let noise = noise.get(OUTPUT).with_context(|| format!("the golden cases have no {OUTPUT}"))?;
    let limits = stated::<Statistics>(&told, "limits")?;
    let (cases, expected) = (SafeTensors::deserialize(&cases)?, SafeTensors::deserialize(&expected)?);
    let (mut squares, mut count, mut largest) = (0.0, 0_usize, 0.0_f64);
    for full in expected.names() {
        let Some((case, OUTPUT)) = full.split_once('/') else { continue };
        let fed = bundle.inputs.iter().map(|input| tensor(&cases, case, *input)).collect::<Result<Vec<_>>>()?;
        let made = model.forward(&fed).with_context(|| format!("golden case {case}"))?;
        let right = expected.tensor(full)?;
        ensure!(right.dtype() == Dtype::F32, "{full} is {:?}, not float32", right.dtype());
        let right: Vec<f32> =
            right.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        ensure!(made.len() == right.len(), "golden case {case} has another shape");
        for (made, right) in made.iter().zip(right) {
            let error = (f64::from(*made) - f64::from(right)).abs();
            ensure!(error.is_finite(), "golden case {case} is not finite");
            (squares, count, largest) = (squares + error * error, count + 1, largest.max(error));
        }
    }
    ensure!(count > 0, "there are no golden cases of {OUTPUT}");
    let rms = (squares / count as f64).sqrt() / (noise.rms * limits.rms);
    let max = largest / (noise.max * limits.max);
    if !(rms <= 1.0 && max <= 1.0) {
        bail!("the model is wrong here: its error is {:.3e} times what rounding may do", rms.max(max));
    }
    Ok(rms.max(max))
}

fn tensor(cases: &SafeTensors, case: &str, input: Input) -> Result<Tensor> {
    let name = input.name();
    let view = cases.tensor(&format!("{case}/{name}")).with_context(|| format!("golden case {case} lacks {name}"))?;
    ensure!(view.dtype() == Dtype::I64, "{case}/{name} is {:?}, not int64", view.dtype());
    let words = view.data().chunks_exact(8);
    let numbers: Vec<i64> = words.map(|b| i64::from_le_bytes(b.try_into().expect("eight bytes"))).collect();
    let shape: Vec<i64> = view.shape().iter().map(|size| *size as i64).collect();
    Ok(Tensor::f_from_slice(&numbers)?.f_view(shape.as_slice())?)
}

fn stated<T: serde::de::DeserializeOwned>(told: &HashMap<String, String>, key: &str) -> Result<T> {
    let text = told.get(key).with_context(|| format!("the golden cases do not state their {key}"))?;
    serde_json::from_str(text).with_context(|| format!("{key} of the golden cases"))
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| path.display().to_string())
}
