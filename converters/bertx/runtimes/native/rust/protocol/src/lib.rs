//! The runner protocol of docs/runners.md, for programs in Rust.
//!
//! A runner implements [`Runner`] and calls [`main`] with its name. What it is given and what it answers are plain
//! vectors; the files are read and written here.

mod cases;
mod outputs;
mod pooling;

use std::path::PathBuf;
use std::process::exit;
use std::time::Instant;

use anyhow::{bail, Context, Result};

pub use cases::{Case, Cases, Input};
pub use outputs::{Facts, Output};
pub use pooling::Embedding;

/// The command line.
pub struct Arguments {
    pub artifact: PathBuf,
    pub inputs: PathBuf,
    pub outputs: PathBuf,
    pub device: String,
    /// `--library`: of runners that load their runtime when they start.
    pub library: Option<PathBuf>,
    /// `--repeat`: how many more times each case is run, to measure the time.
    pub repeat: usize,
}

impl Arguments {
    fn parse(mut words: impl Iterator<Item = String>) -> Result<Self> {
        let (mut artifact, mut inputs, mut outputs, mut device) = (None, None, None, None);
        let (mut library, mut repeat) = (None, 0);
        while let Some(option) = words.next() {
            let value = words.next().with_context(|| format!("{option} needs a value"))?;
            match option.as_str() {
                "--artifact" => artifact = Some(PathBuf::from(value)),
                "--inputs" => inputs = Some(PathBuf::from(value)),
                "--outputs" => outputs = Some(PathBuf::from(value)),
                "--device" => device = Some(value),
                "--library" => library = Some(PathBuf::from(value)),
                "--repeat" => repeat = value.parse().context("--repeat needs a number")?,
                _ => bail!("unknown option {option}"),
            }
        }
        Ok(Self {
            artifact: artifact.context("--artifact is missing")?,
            inputs: inputs.context("--inputs is missing")?,
            outputs: outputs.context("--outputs is missing")?,
            device: device.context("--device is missing")?,
            library,
            repeat,
        })
    }
}

/// A program that runs an artifact: opened once, then given case by case.
pub trait Runner: Sized {
    /// Loads the artifact, and refuses one that is not what the cases claim.
    fn open(arguments: &Arguments, cases: &Cases) -> Result<Self>;

    /// Computes one case.
    fn run(&mut self, case: &Case) -> Result<Vec<Output>>;

    /// What computed; asked after the last case.
    fn facts(&self) -> Facts;
}

/// Runs a runner that knows the CPU alone, and ends the process as the protocol says: exit code 0, or one line on
/// standard error and another code.
pub fn main<R: Runner>(name: &str) -> ! {
    die_with_parent();
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
    let cases = Cases::read(&arguments.inputs)?;
    let mut runner = R::open(arguments, &cases)?;
    let mut answers = outputs::Answers::default();
    for case in &cases.all {
        let mut seconds = Vec::new();
        for round in 0..=arguments.repeat {
            let started = Instant::now();
            let made = runner.run(case).with_context(|| format!("case {}", case.name))?;
            seconds.push(started.elapsed().as_secs_f64());
            if round == 0 {
                answers.add(case, made);
            }
        }
        answers.time(case, &seconds);
    }
    answers.write(name, &runner.facts(), &arguments.outputs)
}

/// Ends the process with one line on standard error.
fn fail(message: &str, code: i32) -> ! {
    eprintln!("{}", message.split_whitespace().collect::<Vec<_>>().join(" "));
    exit(code)
}

/// Asks Linux to end this process when the one that started it ends: a killed verification must not leave it running.
fn die_with_parent() {
    #[cfg(target_os = "linux")]
    unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
    }
}
