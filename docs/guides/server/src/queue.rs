//! One thread computes, for libtorch uses all processors by itself. Before it is a queue of bounded length: when it is
//! full, a request is refused at once rather than kept waiting. What waits together is computed together.

use std::sync::Arc;
use std::thread::JoinHandle;

use anyhow::Result;
use tokio::sync::{mpsc, oneshot, OwnedSemaphorePermit, Semaphore};

use crate::model::Model;
use crate::texts::Row;

/// Room for the texts of one request; dropping it gives it back.
pub type Room = OwnedSemaphorePermit;

/// What a request waits for: an embedding per row.
type Answer = Result<Vec<Vec<f32>>>;

struct Job {
    rows: Vec<Row>,
    answer: oneshot::Sender<Answer>,
    room: Room,
}

#[derive(Clone)]
pub struct Queue {
    length: usize,
    rooms: Arc<Semaphore>,
    jobs: mpsc::UnboundedSender<Job>,
}

/// As soon as this many texts are collected, they are computed.
const TOGETHER: usize = 64;

impl Queue {
    /// Starts the thread. It ends when the last clone of the queue is dropped and all that waited is computed.
    ///
    /// `length`: how many texts may wait or be computed at one time.
    pub fn start(model: Model, length: usize) -> (Self, JoinHandle<()>) {
        let (jobs, waiting) = mpsc::unbounded_channel();
        let thread = std::thread::spawn(move || work(&model, waiting));
        (Self { length, rooms: Arc::new(Semaphore::new(length)), jobs }, thread)
    }

    /// Room for this many texts; None where the queue is full.
    pub fn enter(&self, texts: usize) -> Option<Room> {
        self.rooms.clone().try_acquire_many_owned(u32::try_from(texts).ok()?).ok()
    }

    /// How many texts wait or are computed now.
    pub fn waiting(&self) -> usize {
        self.length - self.rooms.available_permits()
    }

    pub async fn embed(&self, room: Room, rows: Vec<Row>) -> Answer {
        let (answer, waiting) = oneshot::channel();
        self.jobs.send(Job { rows, answer, room }).map_err(|_| anyhow::anyhow!("nothing computes any more"))?;
        waiting.await?
    }
}

fn work(model: &Model, mut waiting: mpsc::UnboundedReceiver<Job>) {
    while let Some(first) = waiting.blocking_recv() {
        let mut jobs = vec![first];
        while jobs.iter().map(|job| job.rows.len()).sum::<usize>() < TOGETHER {
            match waiting.try_recv() {
                Ok(job) => jobs.push(job),
                Err(_) => break,
            }
        }
        jobs.retain(|job| !job.answer.is_closed()); // nobody waits any more
        let counts: Vec<usize> = jobs.iter().map(|job| job.rows.len()).collect();
        let (rows, asked): (Vec<_>, Vec<_>) = jobs.into_iter().map(|job| (job.rows, (job.answer, job.room))).unzip();
        let made = model.embed(&rows.into_iter().flatten().collect::<Vec<_>>());
        let mut embeddings = match made {
            Ok(embeddings) => embeddings.into_iter(),
            Err(error) => {
                eprintln!("embed-server: {error:#}");
                asked.into_iter().for_each(|(answer, _)| drop(answer.send(Err(anyhow::anyhow!("{error:#}")))));
                continue;
            }
        };
        for ((answer, room), count) in asked.into_iter().zip(counts) {
            drop(room);
            drop(answer.send(Ok(embeddings.by_ref().take(count).collect())));
        }
    }
}
