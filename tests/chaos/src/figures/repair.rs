//! How fast the copies of a lost node are repaired, compared with the rates of disk and loopback.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::{FigureResult, LIMIT, client, put, start_cluster, until};
use crate::copies;

/// Tables and rows of each: about 1 GB in all, one copy counted.
const TABLES: usize = 20;
const ROWS: i64 = 330_000;

pub(super) async fn measure(coordinator_config: &str) -> FigureResult {
    for (what, config) in [("unthrottled", "copy_bytes_per_second = 0\n"), ("with the defaults", "")] {
        let (bytes, time) = repair(coordinator_config, config).await?;
        let rate = bytes as f64 / time.as_secs_f64() / 1e6;
        let (disk, wire) = (disk()?, loopback().map_err(|error| error.to_string())?);
        println!(
            "repair {what}: {:.0} MB in {:.1} s, {rate:.0} MB/s; the disk writes and fsyncs {disk:.0} MB/s, loopback carries {wire:.0} MB/s: {:.0} % of the slower",
            bytes as f64 / 1e6,
            time.as_secs_f64(),
            100.0 * rate / disk.min(wire)
        );
    }
    Ok(())
}

/// Kills one node of four: how many bytes were copied, and the time from the first byte to the last.
async fn repair(coordinator_config: &str, node_config: &str) -> Result<(u64, Duration), String> {
    let quick = format!("node_timeout_ms = 2000\nrepair_delay_ms = 3000\n{coordinator_config}\n");
    let mut cluster = start_cluster(4, &quick, node_config).await?;
    let writer = client(&cluster.coordinators[0].address).await?;
    for table in 0..TABLES {
        put(&writer, &format!("t{table}"), ROWS, 8).await.map_err(|error| error.message)?;
    }
    // Wait until misplaced copies on writing nodes are deleted.
    let folders: Vec<PathBuf> = cluster.nodes.iter().map(|node| node.folder.clone()).collect();
    let wanted = |folders: &[PathBuf]| folders.iter().map(|folder| held(folder)).sum::<u64>();
    let mut last = 0;
    until("misplaced copies of the puts are deleted", LIMIT, async || {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let now = wanted(&folders);
        (std::mem::replace(&mut last, now) == now).then_some(())
    })
    .await?;
    let (all, lost) = (wanted(&folders), held(&folders[3]));
    cluster.nodes[3].kill();
    let left = || wanted(&folders[..3]);
    let begin = until("the repair begins", LIMIT, async || (left() > all - lost).then(Instant::now)).await?;
    until("the repair is done", LIMIT, async || (left() >= all).then_some(())).await?;
    Ok((lost, begin.elapsed()))
}

/// Bytes of a node's parts.
fn held(folder: &Path) -> u64 {
    let sizes = copies::parts_of(folder).into_iter().map(|(_, path)| fs::metadata(path).map_or(0, |m| m.len()));
    sizes.sum()
}

/// MB/s of a plain file of 512 MB, written and fsynced.
fn disk() -> Result<f64, String> {
    let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
    let (block, begin) = (vec![1; 1 << 20], Instant::now());
    let mut file = File::create(folder.path().join("file")).map_err(|error| error.to_string())?;
    (0..512).try_for_each(|_| file.write_all(&block)).and_then(|()| file.sync_all()).map_err(|e| e.to_string())?;
    Ok((512 << 20) as f64 / begin.elapsed().as_secs_f64() / 1e6)
}

/// MB/s of one TCP connection over loopback, 2 GB.
fn loopback() -> std::io::Result<f64> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let begin = Instant::now();
    let sender = std::thread::spawn(move || -> std::io::Result<()> {
        let mut stream = TcpStream::connect(address)?;
        let block = vec![1; 1 << 20];
        (0..2048).try_for_each(|_| stream.write_all(&block))
    });
    let (mut stream, _) = listener.accept()?;
    let mut block = vec![0; 1 << 20];
    while stream.read(&mut block)? > 0 {}
    sender.join().map_err(|_| std::io::Error::other("the sender panicked"))??;
    Ok((2048u64 << 20) as f64 / begin.elapsed().as_secs_f64() / 1e6)
}
