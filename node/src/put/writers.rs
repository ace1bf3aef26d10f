//! The threads that write the rows of puts: a bounded number for all puts of a node. A put uses one only while it has
//! messages to write, and for a limited time if others wait.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, mpsc};
use volley_common::{Error, Result};

use super::write::{MessageWriter, WriterInput};
use crate::storage::BlockingDrop;

/// How long a put may use a thread before another that waits gets its turn.
const TURN: Duration = Duration::from_millis(50);

/// What a writer is to do after its turn.
enum Turn {
    /// It waits for the next message.
    Waiting,
    /// All parts are sealed.
    Done,
}

/// Writes the queued messages to their end. `writers` has a permit for each thread.
///
/// # Errors
/// Bad input and disk errors. CANCELLED: the queue closed without [`WriterInput::End`]; parts that are not sealed are
/// discarded.
pub async fn write_messages(
    writers: Arc<Semaphore>,
    writer: MessageWriter,
    mut queue: mpsc::Receiver<WriterInput>,
) -> Result<()> {
    // Open parts are removed when the writer is dropped.
    let mut writer = BlockingDrop::new(writer);
    loop {
        let Some(first) = queue.recv().await else { return Err(Error::cancelled("the put was cancelled")) };
        let permit = writers.clone().acquire_owned().await;
        let permit = permit.map_err(|_| Error::internal("the permits of writers are never closed"))?;
        let mut at_work = writer.into_inner();
        let turn = tokio::task::spawn_blocking(move || {
            let turn = take_turn(&mut at_work, first, &mut queue);
            drop(permit);
            (at_work, queue, turn)
        });
        let (back, rest, turn) =
            turn.await.map_err(|_| Error::internal("a put's writer panicked; see the node's log"))?;
        (writer, queue) = (BlockingDrop::new(back), rest);
        if let Turn::Done = turn? {
            return Ok(());
        }
    }
}

/// Writes what is queued, `first` before it.
fn take_turn(writer: &mut MessageWriter, first: WriterInput, queue: &mut mpsc::Receiver<WriterInput>) -> Result<Turn> {
    let end = Instant::now() + TURN;
    let mut next = Some(first);
    while let Some(input) = next {
        if let WriterInput::End = input {
            writer.finish()?;
            return Ok(Turn::Done);
        }
        writer.write(input)?;
        next = if Instant::now() < end { queue.try_recv().ok() } else { None };
    }
    Ok(Turn::Waiting)
}
