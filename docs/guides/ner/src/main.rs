//! Fine-tunes a token-classification checkpoint in Rust, and labels the words of a text with it.
//!
//!     ner train CHECKPOINT SENTENCES OUT [EPOCHS]
//!     ner tag CHECKPOINT TEXT

mod checkpoint;
mod in_candle;
mod sentences;
mod tokens;

use std::path::Path;
use std::process::ExitCode;

use anyhow::{bail, ensure, Context, Result};
use tch::nn::{AdamW, OptimizerConfig};
use tch::{Kind, Reduction, Tensor};

use checkpoint::{open, Opened};
use in_candle::InCandle;
use sentences::{labels, Sentence};
use tokens::{Batch, Encoder, IGNORED};

const EPOCHS: usize = 10;
const RATE: f64 = 3e-4;
const DECAY: f64 = 0.01;
/// How many sentences are learned from at once.
const ROWS: usize = 4;
/// The longest step: the norm of the gradient is cut at it.
const NORM: f64 = 1.0;
const SEED: i64 = 0;

fn train(from: &Path, data: &Path, to: &Path, epochs: usize) -> Result<()> {
    ensure!(!to.exists(), "{} is there already", to.display());
    tch::manual_seed(SEED);
    let opened = open(from)?;
    println!("{}: {} tensors, all of them the model's", from.display(), opened.store.len());
    let sentences = sentences::read(data)?;
    let labels = labels(opened.config.labels()?, &sentences)?;
    println!("{}: {} sentences, labels {}", data.display(), sentences.len(), labels.join(" "));
    let encoder = Encoder::open(from, opened.config.max_position_embeddings as usize)?;
    let all = encoder.sentences(&sentences.iter().collect::<Vec<_>>(), &labels)?;
    let (moved, still) = (spread(&opened, &all, true)?, spread(&opened, &all, false)?);
    println!("dropout: two passes differ by {moved:.2} in training, by {still} in evaluation");

    let mut optimizer = AdamW { wd: DECAY, ..AdamW::default() }.build(&opened.store, RATE)?;
    for epoch in 1..=epochs {
        let order = Vec::<i64>::try_from(Tensor::f_randperm(sentences.len() as i64, (Kind::Int64, tch::Device::Cpu))?)?;
        let mut sum = 0.0;
        for rows in order.chunks(ROWS) {
            let chosen: Vec<&Sentence> = rows.iter().map(|row| &sentences[*row as usize]).collect();
            let batch = encoder.sentences(&chosen, &labels)?;
            let loss = loss(&opened.logits(&batch, true)?, &batch)?;
            optimizer.backward_step_clip_norm(&loss, NORM);
            sum += loss.double_value(&[]) * rows.len() as f64;
        }
        let mean = sum / sentences.len() as f64;
        ensure!(mean.is_finite(), "the loss is {mean} in epoch {epoch}");
        println!("epoch {epoch:2}: loss {mean:.4}");
    }

    let found = tch::no_grad(|| opened.logits(&all, false))?.f_argmax(-1, false)?;
    let expected = all.tensor(&all.labels)?;
    let (right, count) = (found.f_eq_tensor(&expected)?.f_sum(Kind::Int64)?, expected.f_ne(IGNORED)?.f_sum(Kind::Int64)?);
    println!("{} of {} words are labelled rightly", right.int64_value(&[]), count.int64_value(&[]));
    opened.save(from, &labels, to)?;
    println!("{}: written", to.display());
    Ok(())
}

/// Cross-entropy over the tokens that have a label.
fn loss(logits: &Tensor, batch: &Batch) -> Result<Tensor> {
    let (rows, labels) = (logits.f_flatten(0, 1)?, batch.tensor(&batch.labels)?.f_flatten(0, 1)?);
    Ok(rows.f_cross_entropy_loss::<Tensor>(&labels, None, Reduction::Mean, IGNORED, 0.0)?)
}

/// By how much two passes over the same batch differ.
fn spread(opened: &Opened, batch: &Batch, train: bool) -> Result<f64> {
    let pass = || tch::no_grad(|| opened.logits(batch, train));
    Ok((pass()? - pass()?).f_abs()?.f_max()?.double_value(&[]))
}

fn tag(folder: &Path, text: &str) -> Result<()> {
    let opened = open(folder)?;
    let labels = opened.config.labels()?;
    let encoder = Encoder::open(folder, opened.config.max_position_embeddings as usize)?;
    let (batch, words) = encoder.text(text)?;
    let logits = tch::no_grad(|| opened.logits(&batch, false))?.f_squeeze_dim(0)?;
    let (scores, numbers) = logits.f_softmax(-1, Kind::Float)?.f_max_dim(-1, false)?;
    for word in &words {
        let token = [word.token as i64];
        let label = &labels[numbers.int64_value(&token) as usize];
        println!("{:16} {label:6} {:.3}", word.text, scores.double_value(&token));
    }
    let theirs = InCandle::open(folder, labels.len())?.logits(&batch)?;
    let ours = Vec::<f32>::try_from(logits.f_flatten(0, 1)?)?;
    ensure!(ours.len() == theirs.len(), "candle gives {} numbers, and tch {}", theirs.len(), ours.len());
    let apart = ours.iter().zip(&theirs).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    println!("candle: logits differ from those of tch by {apart:.1e} at most");
    Ok(())
}

fn run(words: &[String]) -> Result<()> {
    match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["train", from, data, to] => train(from.as_ref(), data.as_ref(), to.as_ref(), EPOCHS),
        ["train", from, data, to, epochs] => {
            train(from.as_ref(), data.as_ref(), to.as_ref(), epochs.parse().context("EPOCHS is a number")?)
        }
        ["tag", folder, text] => tag(folder.as_ref(), text),
        _ => bail!("ner train CHECKPOINT SENTENCES OUT [EPOCHS], or ner tag CHECKPOINT TEXT"),
    }
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match run(&words) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ner: {error:#}");
            ExitCode::FAILURE
        }
    }
}
