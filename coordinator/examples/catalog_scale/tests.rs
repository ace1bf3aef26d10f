//! All stages with tiny numbers, and how figures are printed.

use std::time::Duration;

use super::figures::{FigureList, percentile};
use super::*;

fn tiny() -> ScaleModel {
    ScaleModel { statistics_bytes: 8, seed: 7, ..ScaleModel::new(12, 24, 240, 2).unwrap() }
}

fn value(figures: &[ScaleFigure], name: &str) -> f64 {
    let found: Vec<f64> = figures.iter().filter(|figure| figure.name == name).map(|figure| figure.value).collect();
    assert_eq!(found.len(), 1, "{name}");
    found[0]
}

#[test]
fn stages_of_a_tiny_cluster_follow_each_other() {
    let (dir, model) = (tempfile::TempDir::new().unwrap(), tiny());
    let figures: Vec<ScaleFigure> = STAGES.into_iter().flat_map(|stage| run_here(stage, &model, dir.path())).collect();
    assert_eq!(value(&figures, "parts"), 240.0);
    assert_eq!(value(&figures, "copies of shards, which `max_shard_replicas` limits"), 72.0);
    assert_eq!(value(&figures, "parts that lack copies afterwards"), 0.0);
    assert_eq!(value(&figures, "a lost zone: copies after less urgent ones"), 0.0);
    assert!(value(&figures, "a lost zone: copies") >= 240.0, "a third of all copies was there");
    assert!(value(&figures, "heartbeats handled") > 0.0);
    assert!(value(&figures, "welcome of a session") > 12.0 * 60.0, "it has all nodes");
    assert!(figures.iter().all(|figure| figure.value.is_finite()), "{figures:?}");
}

#[test]
fn stage_of_finished_writes_keeps_as_many_as_it_may() {
    let (dir, model) = (tempfile::TempDir::new().unwrap(), ScaleModel::new(6, 5, 5, 5).unwrap());
    let figures = run_here(ScaleStage::Writes, &model, dir.path());
    value(&figures, "25 replaces, 25 finished writes kept");
    value(&figures, "100 replaces, 75 finished writes kept");
}

#[test]
fn parts_depend_on_the_seed_alone() {
    let model = tiny();
    let placement = vec![volley_common::wire::catalog::ShardPlacement { nodes: vec![1, 2, 3] }; 12];
    let parts = model.parts_of(1, &placement);
    assert_eq!((parts.len(), parts[13].shard, parts[13].statistics.len()), (120, 1, 8));
    assert_eq!(parts, model.parts_of(1, &placement));
    assert_ne!(parts, model.parts_of(0, &placement));
    assert_ne!(parts, ScaleModel { seed: 8, ..model }.parts_of(1, &placement));
}

#[test]
fn sizes_that_make_no_cluster_are_refused() {
    let model = ScaleModel::new(10_000, 1_000_000, 10_000_000, 0).unwrap();
    assert_eq!((model.tables, model.shards_per_table, model.parts_per_table), (1000, 1000, 10_000));
    assert_eq!((model.shards(), model.parts(), model.replicas()), (1_000_000, 10_000_000, 3_000_000));
    assert!(ScaleModel::new(5, 10, 10, 0).unwrap_err().contains("--nodes"));
    assert!(ScaleModel::new(6, 10, 9, 10).unwrap_err().contains("10 tables"));
}

#[test]
fn stage_gets_the_options_of_the_whole_run() {
    let options = ScaleOptions::parse_from(["catalog_scale", "--nodes", "9", "--seed", "4", "--json"]);
    let arguments = options.arguments(ScaleStage::Serve, Path::new("/f"));
    let of_stage = ScaleOptions::parse_from(std::iter::once("catalog_scale".to_string()).chain(arguments));
    assert_eq!((of_stage.nodes, of_stage.seed, of_stage.json), (9, 4, false));
    assert_eq!((of_stage.stage, of_stage.folder), (Some(ScaleStage::Serve), Some(PathBuf::from("/f"))));
}

#[test]
fn figures_are_printed_with_their_goals() {
    let mut list = FigureList::new("load");
    list.bytes("memory", 3 << 30).at_most(f64::from(1 << 30));
    list.seconds("p99", Duration::from_micros(2500)).at_most(0.01);
    list.per_second("heartbeats", 30, Duration::from_secs(2)).at_least(10.0);
    list.ratio("moves", 0, 0);
    list.count("parts", 7);
    let figures = list.into_figures();
    let text = markdown(&figures);
    let rows = [
        "| stage | what | measured | goal |",
        "|---|---|---|---|",
        "| load | memory | 3.00 GiB | at most 1.00 GiB: **missed** |",
        "| load | p99 | 2.5 ms | at most 10.0 ms |",
        "| load | heartbeats | 15/s | at least 10/s |",
        "| load | moves | 1.000 |  |",
        "| load | parts | 7 |  |",
    ];
    assert_eq!(text.lines().collect::<Vec<_>>(), rows);
    let json = serde_json::to_string(&figures[0]).unwrap();
    assert_eq!(serde_json::from_str::<ScaleFigure>(&json).unwrap(), figures[0]);
    assert!(json.contains("\"unit\":\"bytes\",\"goal\":{\"at_most\":1073741824.0}"), "{json}");
}

#[test]
fn percentile_is_the_nearest_rank() {
    let durations: Vec<Duration> = (1..=100).rev().map(Duration::from_millis).collect();
    let of = |percent| percentile(&durations, percent).as_millis();
    assert_eq!((of(50), of(99), of(100)), (50, 99, 100));
    assert_eq!(percentile(&durations[..1], 99).as_millis(), 100);
    assert_eq!(percentile(&[], 50), Duration::ZERO);
}
