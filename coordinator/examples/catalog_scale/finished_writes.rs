//! The stage of finished writes: tables are replaced again and again, with the expiry of a leader.

use std::path::Path;
use std::time::Instant;

use futures::future::join_all;
use rand::SeedableRng;
use rand::rngs::StdRng;
use volley_common::wire::catalog::command::Op;
use volley_common::wire::catalog::{self as wire, WriteMode};

use crate::figures::{FigureList, ProcessMemory, ScaleFigure};
use crate::model::ScaleModel;
use crate::storage::{begin, commit, start};

/// Tables that are replaced at once, at most, and how often.
const MAX_WRITERS: u64 = 500;
const ROUNDS: u64 = 20;

/// Needs an empty folder. Keeps as many finished writes as ten rounds have.
pub async fn replace_often(model: &ScaleModel, dir: &Path) -> Vec<ScaleFigure> {
    let mut figures = FigureList::new("writes");
    let raft = start(model, dir).await;
    let writers = model.tables.min(MAX_WRITERS);
    let limits =
        wire::Expire { write_id_retention_ms: u64::MAX, max_finished_writes: 10 * writers, max_finished_bytes: 0 };
    let nodes = (1..=3).collect::<Vec<u64>>();
    let placement = vec![wire::ShardPlacement { nodes }; model.shards_per_table as usize];
    let began = Instant::now();
    for round in 0..ROUNDS {
        let put = |writer: u64| {
            let (raft, placement, write) = (&raft, placement.clone(), format!("{:032x}", round * writers + writer));
            async move {
                let mut random = StdRng::seed_from_u64(model.seed.wrapping_add(round * writers + writer));
                let part = model.part(&mut random, 0, &placement);
                begin(model, raft, &write, writer, WriteMode::Replace, placement).await;
                commit(raft, write, vec![part]).await;
            }
        };
        join_all((0..writers).map(put)).await;
        if round % 5 == 4 {
            let (writes, kept) = ((round + 1) * writers, raft.view().finished_writes());
            figures.seconds(format!("{writes} replaces, {kept} finished writes kept"), began.elapsed());
            figures.bytes("anonymous memory then", ProcessMemory::now().anonymous);
            raft.propose(Op::Expire(limits)).await.unwrap();
        }
    }
    raft.shutdown().await;
    figures.bytes("database", std::fs::metadata(dir.join("catalog.redb")).unwrap().len());
    figures.into_figures()
}
