//! What earlier software wrote to disk is read, and written on, by this.

use std::fs;
use std::path::Path;

use volley_common::options::{Mode, Options};
use volley_tests::recorded::Recorded;
use volley_tests::rows;

#[tokio::test(flavor = "multi_thread")]
async fn folders_that_earlier_software_wrote_are_taken_up() {
    let records = Path::new(env!("CARGO_MANIFEST_DIR")).join("recorded");
    let mut formats = 0;
    for format in fs::read_dir(records).unwrap().map(|entry| entry.unwrap()).filter(|entry| entry.path().is_dir()) {
        formats += 1;
        let format = format.file_name().into_string().unwrap();
        let mut recorded = Recorded::of(&format).await;
        // Twice: what this software wrote into the old folders is read again as well.
        for start in 0..2 {
            recorded.coordinator.restart().await;
            recorded.node.restart().await;
            let client = recorded.coordinator.client().await;
            let (keyed, last) = (rows::get_sorted(&client, "by/key").await.unwrap(), 2000 + start * 100);
            assert_eq!(keyed, Vec::from_iter(0..1000), "{format}, start {start}");
            assert_eq!(
                rows::get(&client, "in order").await.unwrap(),
                Vec::from_iter(0..last),
                "{format}, start {start}"
            );
            let append =
                |id: &str| Options { mode: Some(Mode::Append), write_id: Some(id.into()), ..Options::default() };
            rows::put(&client, "in order", &append(&format!("later-{start}")), last..last + 100).await.unwrap();
            assert!(recorded.node.stop().await.success() && recorded.coordinator.stop().await.success());
        }
    }
    assert!(formats > 0, "no format was recorded");
}
