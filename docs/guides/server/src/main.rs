//! A web server for sentence embeddings: a bundle of bertx, its TorchScript file in libtorch.
//!
//!     embed-server BUNDLE [--listen 127.0.0.1:8080] [--threads N] [--most 32] [--queue 512]

mod api;
mod bundle;
mod golden;
mod model;
mod queue;
mod texts;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{ensure, Context, Result};
use axum::serve::{Listener, ListenerExt};
use tokio::net::TcpListener;
use tokio::signal::unix::{signal, SignalKind};

use crate::api::LONGEST_WAIT;
use crate::bundle::Bundle;
use crate::model::Model;
use crate::queue::Queue;
use crate::texts::Texts;

const USAGE: &str = "embed-server BUNDLE [--listen 127.0.0.1:8080] [--threads N] [--most 32] [--queue 512]";

struct Options {
    bundle: PathBuf,
    listen: SocketAddr,
    /// How many threads libtorch computes with; its own choice where None.
    threads: Option<i32>,
    /// The most texts in one request.
    most: usize,
    /// The most texts that wait or are computed.
    queue: usize,
}

impl Options {
    fn parse(mut words: impl Iterator<Item = String>) -> Result<Self> {
        let mut bundle = None;
        let mut options = Self {
            bundle: PathBuf::new(),
            listen: SocketAddr::from(([127, 0, 0, 1], 8080)),
            threads: None,
            most: 32,
            queue: 512,
        };
        while let Some(word) = words.next() {
            let mut value = || words.next().with_context(|| format!("{word} needs a value"));
            match word.as_str() {
                "--listen" => options.listen = value()?.parse().context("--listen takes ADDRESS:PORT")?,
                "--threads" => options.threads = Some(value()?.parse().context("--threads takes a number")?),
                "--most" => options.most = value()?.parse().context("--most takes a number")?,
                "--queue" => options.queue = value()?.parse().context("--queue takes a number")?,
                option if option.starts_with('-') => anyhow::bail!("unknown option {option}"),
                _ => bundle = Some(PathBuf::from(word)),
            }
        }
        options.bundle = bundle.context("which bundle?")?;
        ensure!(options.threads.is_none_or(|threads| threads > 0), "--threads must be 1 or more");
        ensure!(
            0 < options.most && options.most <= options.queue,
            "--most must be 1 or more, and no more than --queue"
        );
        Ok(options)
    }
}

fn main() -> ExitCode {
    let options = match Options::parse(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(error) => {
            eprintln!("embed-server: {error:#}; usage: {USAGE}");
            return ExitCode::from(2);
        }
    };
    match run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("embed-server: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<()> {
    let started = Instant::now();
    if let Some(threads) = options.threads {
        tch::set_num_threads(threads);
    }
    let bundle = Bundle::read(&options.bundle)?;
    let texts = Texts::open(&options.bundle.join("tokenizer.json"))?;
    let model = Model::load(&bundle)?;
    // This also warms the model up: its first runs are slower.
    let tokens = golden::check_tokens(&options.bundle, &texts)?;
    let error = golden::check_numbers(&bundle, &model)?;
    let seconds = started.elapsed().as_secs_f64();
    eprintln!("{}: {tokens} golden texts, error {error:.2} of what is allowed, {seconds:.1} s", bundle.name);

    let (queue, worker) = Queue::start(model, options.queue);
    let Bundle { name, dimensions, normalized, .. } = bundle;
    let service = api::Service { name, dimensions, normalized, texts: Arc::new(texts), queue, most: options.most };
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(serve(options.listen, service))?;
    worker.join().map_err(|_| anyhow::anyhow!("the computing thread panicked"))
}

/// Serves until SIGTERM or SIGINT; then takes no more requests, and ends when those in flight are answered.
async fn serve(listen: SocketAddr, service: api::Service) -> Result<()> {
    let listener = TcpListener::bind(listen).await.with_context(|| listen.to_string())?;
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let listener = listener.tap_io(|connection| drop(connection.set_nodelay(true)));
    println!("listening on http://{}", listener.local_addr()?);
    let stopped = async move {
        tokio::select! { _ = term.recv() => (), _ = int.recv() => () }
        tokio::spawn(async {
            tokio::time::sleep(LONGEST_WAIT).await;
            eprintln!("embed-server: some connections did not end in {LONGEST_WAIT:?}");
            // Not exit: that would take libtorch apart while its thread may be computing.
            unsafe { libc::_exit(1) }
        });
    };
    Ok(axum::serve(listener, api::router(service)).with_graceful_shutdown(stopped).await?)
}
