//! The runner protocol of docs/runners.md, for programs in Rust.
//!
//! A runner implements [`Runner`] and calls [`main`] with its name. What it is given and what it answers are plain
//! vectors; the files are read and written here.

mod cases;
mod outputs;
mod pooling;
mod texts;
mod unsupported;

use std::path::PathBuf;
use std::process::exit;
use std::time::Instant;

use anyhow::{bail, Context, Result};

pub use cases::{Case, Cases, Input, Spec, Values};
pub use outputs::{Facts, Output};
pub use pooling::Embedding;
pub use unsupported::Unsupported;

/// The command line.
pub struct Arguments {
    pub artifact: PathBuf,
    pub inputs: PathBuf,
    pub outputs: PathBuf,
    pub device: String,
    /// `--library`: of runners that load their runtime when they start.
    pub library: Option<PathBuf>,
    /// `--tokenizer`: the inputs of cases that have texts are made of these, by this tokenizer.json.
    pub tokenizer: Option<PathBuf>,
    /// `--dictionary` and `--mecab`: MeCab's dictionary and library, for a tokenizer.json with a MeCab contract beside it.
    pub dictionary: Option<PathBuf>,
    pub mecab: Option<PathBuf>,
}

impl Arguments {
    fn parse(mut words: impl Iterator<Item = String>) -> Result<Self> {
        let (mut artifact, mut inputs, mut outputs, mut device) = (None, None, None, None);
        let (mut library, mut tokenizer, mut dictionary, mut mecab) = (None, None, None, None);
        while let Some(option) = words.next() {
            let value = words.next().with_context(|| format!("{option} needs a value"))?;
            match option.as_str() {
                "--artifact" => artifact = Some(PathBuf::from(value)),
                "--inputs" => inputs = Some(PathBuf::from(value)),
                "--outputs" => outputs = Some(PathBuf::from(value)),
                "--device" => device = Some(value),
                "--tokenizer" => tokenizer = Some(PathBuf::from(value)),
                "--dictionary" => dictionary = Some(PathBuf::from(value)),
                "--mecab" => mecab = Some(PathBuf::from(value)),
                "--library" => library = Some(PathBuf::from(value)),
                _ => bail!("unknown option {option}"),
            }
        }
        Ok(Self {
            artifact: artifact.context("--artifact is missing")?,
            inputs: inputs.context("--inputs is missing")?,
            outputs: outputs.context("--outputs is missing")?,
            device: device.context("--device is missing")?,
            library,
            tokenizer,
            dictionary,
            mecab,
        })
    }
}

/// A program that runs an artifact: opened once, then given case by case.
pub trait Runner: Sized {
    /// Loads the artifact, and refuses one that is not what the cases claim; with [`Unsupported`] one that is whole and
    /// needs what the library lacks.
    fn open(arguments: &Arguments, cases: &Cases) -> Result<Self>;

    /// Computes one case. This is what is timed.
    fn run(&mut self, case: &Case) -> Result<Vec<Output>>;

    /// The hidden states of one case, where the runner can give them: `hidden_states.0` is the embeddings.
    fn taps(&mut self, _case: &Case) -> Result<Vec<Output>> {
        Ok(Vec::new())
    }

    /// What computed; asked after the last case.
    fn facts(&self) -> Facts;
}

/// Runs a runner that knows the CPU alone, and ends the process as the protocol says: exit code 0, or one line on
/// standard error and another code.
pub fn main<R: Runner>(name: &str) -> ! {
    let told = name.to_owned();
    std::panic::set_hook(Box::new(move |panic| fail(&format!("{told}: {panic}"), 1)));
    match Arguments::parse(std::env::args().skip(1)) {
        Ok(arguments) if arguments.device != "cpu" => {
            fail(&format!("E_DEVICE: {name} cannot use {}; use --device cpu", arguments.device), 5)
        }
        Ok(arguments) => match serve::<R>(name, &arguments) {
            Ok(()) => exit(0),
            Err(error) => fail(&format!("{name}: {error:#}"), 1),
        },
        Err(error) => fail(&format!("{name}: {error:#}"), 2),
    }
}

fn serve<R: Runner>(name: &str, arguments: &Arguments) -> Result<()> {
    let cases = Cases::read(arguments)?;
    // Once a case is computed, nothing is unsupported any more: what goes wrong then is a failure.
    let mut runner = R::open(arguments, &cases).inspect_err(|error| {
        if error.is::<Unsupported>() {
            fail(&format!("E_UNSUPPORTED: {name}: {error:#}"), 6)
        }
    })?;
    let mut answers = outputs::Answers::default();
    for case in &cases.all {
        let started = Instant::now();
        let made = runner.run(case).with_context(|| format!("case {}", case.name))?;
        answers.time(case, started.elapsed().as_secs_f64());
        for (output, spec) in made.iter().filter_map(|o| Some((o, cases.outputs.iter().find(|s| s.name == o.name)?))) {
            spec.check(output)?;
        }
        answers.add(case, made);
        if case.text {
            answers.give_back(case);
        }
        answers.add(case, runner.taps(case).with_context(|| format!("hidden states of {}", case.name))?);
    }
    answers.write(name, &runner.facts(), &arguments.outputs)
}

/// How many threads a runtime gets where the cases do not say.
fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Ends the process with one line on standard error.
fn fail(message: &str, code: i32) -> ! {
    eprintln!("{}", message.split_whitespace().collect::<Vec<_>>().join(" "));
    exit(code)
}
