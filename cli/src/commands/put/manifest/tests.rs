//! What is loaded again after an interruption at each moment.

use arrow::datatypes::{DataType, Field};
use tempfile::TempDir;

use super::*;

struct LoadFolder(TempDir);

fn columns() -> Schema {
    Schema::new(vec![Field::new("n", DataType::Int64, true)])
}

impl LoadFolder {
    fn with(files: &[&str]) -> LoadFolder {
        let folder = LoadFolder(TempDir::new().unwrap());
        files.iter().for_each(|name| folder.write(name, "x"));
        folder
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    fn open(&self) -> Result<LoadManifest> {
        LoadManifest::open(&self.path("m"), "t")
    }

    /// A manifest of a load that has begun.
    fn started(&self) -> LoadManifest {
        let mut manifest = self.open().unwrap();
        manifest.start("t".into(), ModeArg::Create, &columns()).unwrap();
        manifest
    }

    fn plan(&self, manifest: &LoadManifest, names: &[&str]) -> Result<(Vec<LoadGroup>, usize)> {
        let file = |name: &&str| PartitionedFile { path: self.path(name), partitions: Vec::new() };
        manifest.plan(names.iter().map(file).collect(), clock::now_ms())
    }
}

/// The groups as the ids and names of their files.
fn shown(groups: &[LoadGroup]) -> Vec<String> {
    let name = |file: &PartitionedFile| file.path.file_name().unwrap().to_str().unwrap().to_string();
    let files = |group: &LoadGroup| group.files.iter().map(name).collect::<Vec<_>>().join(",");
    groups
        .iter()
        .map(|group| format!("{} {}", if group.id.is_some() { "begun" } else { "new" }, files(group)))
        .collect()
}

#[test]
fn committed_files_are_skipped_and_begun_ones_repeated() {
    let folder = LoadFolder::with(&["a", "b", "c"]);
    let mut manifest = folder.started();
    let (groups, _) = folder.plan(&manifest, &["a"]).unwrap();
    let first = manifest.begin(&groups[0]).unwrap();
    assert!(first.is_first && matches!(first.mode, ModeArg::Create));
    drop(manifest);

    // The first write was begun: it is repeated with its id.
    let mut manifest = folder.open().unwrap();
    let (groups, loaded) = folder.plan(&manifest, &["a", "b"]).unwrap();
    assert_eq!((shown(&groups), loaded), (vec!["begun a".into(), "new b".into()], 0));
    let again = manifest.begin(&groups[0]).unwrap();
    assert!(again.id == first.id && again.is_first && matches!(again.mode, ModeArg::Create));
    manifest.commit(&again.id).unwrap();
    let second = manifest.begin(&groups[1]).unwrap();
    assert!(second.id != first.id && !second.is_first && matches!(second.mode, ModeArg::Append));
    manifest.commit(&second.id).unwrap();
    drop(manifest);

    let manifest = folder.open().unwrap();
    let (groups, loaded) = folder.plan(&manifest, &["a", "b", "c", "m"]).unwrap();
    assert_eq!((shown(&groups), loaded), (vec!["new c".into()], 2), "the manifest itself is no file of the load");
    assert_eq!(manifest.schema().unwrap().unwrap().as_ref(), &columns());
}

#[test]
fn record_that_was_cut_off_has_not_happened() {
    let folder = LoadFolder::with(&["a"]);
    let mut manifest = folder.started();
    let (groups, _) = folder.plan(&manifest, &["a"]).unwrap();
    let write = manifest.begin(&groups[0]).unwrap();
    manifest.commit(&write.id).unwrap();
    drop(manifest);
    let whole = std::fs::read(folder.path("m")).unwrap();
    let ends: Vec<usize> = (0..whole.len()).filter(|at| whole[*at] == b'\n').collect();
    assert_eq!(ends.len(), 3);
    for length in 0..=whole.len() {
        std::fs::write(folder.path("m"), &whole[..length]).unwrap();
        let manifest = folder.open().unwrap();
        let (groups, loaded) = folder.plan(&manifest, &["a"]).unwrap();
        let expected = match length {
            _ if length <= ends[1] => (vec!["new a".to_string()], 0),
            _ if length <= ends[2] => (vec!["begun a".to_string()], 0),
            _ => (Vec::new(), 1),
        };
        assert_eq!((shown(&groups), loaded), expected, "{length} bytes");
        assert_eq!(manifest.header.is_some(), length > ends[0]);
    }
}

#[test]
fn changed_missing_and_repeated_files_are_refused() {
    let folder = LoadFolder::with(&["a", "b", "c"]);
    let mut manifest = folder.started();
    for name in ["a", "b"] {
        let (groups, _) = folder.plan(&manifest, &[name]).unwrap();
        let write = manifest.begin(&groups[0]).unwrap();
        if name == "a" {
            manifest.commit(&write.id).unwrap();
        }
    }
    let error = |names: &[&str]| folder.plan(&manifest, names).unwrap_err().message;
    assert!(error(&["a", "c"]).contains("was begun with ") && error(&["a"]).contains("/b: name that file, too"));
    assert!(error(&["a"]).contains(r#"add the line {"abort":{"write":"#), "what helps if it is gone");
    assert!(error(&["b", "c", "c"]).contains("c: the file is named twice"));
    folder.write("b", "longer");
    let (groups, _) = folder.plan(&manifest, &["a", "b"]).unwrap();
    assert!(groups[0].is_changed);
    folder.write("a", "longer");
    assert!(error(&["a", "b"]).contains("/a: the file has changed since it was loaded"));
    let later = clock::now_ms() + REPEATABLE_MS + 60_000;
    let found = vec![PartitionedFile { path: folder.path("b"), partitions: Vec::new() }];
    let refused = manifest.plan(found, later).unwrap_err().message;
    assert!(
        refused.contains("more than an hour ago") && refused.contains("{\"abort\":{\"write\":\"load-"),
        "{refused}"
    );
    // As that text says.
    let id = manifest.writes[1].id.clone();
    drop(manifest);
    let mut text = std::fs::read_to_string(folder.path("m")).unwrap();
    text += &format!("{{\"abort\":{{\"write\":\"{id}\"}}}}\n");
    folder.write("m", &text);
    let (groups, _) = folder.plan(&folder.open().unwrap(), &["b"]).unwrap();
    assert_eq!(shown(&groups), ["new b"]);
}

#[test]
fn manifest_is_of_one_load_and_one_process() {
    let folder = LoadFolder::with(&["data.csv"]);
    let manifest = folder.started();
    assert!(folder.open().unwrap_err().message.contains("another load uses it"));
    drop(manifest);
    let error = LoadManifest::open(&folder.path("m"), "u").unwrap_err();
    assert!(error.message.contains("it is of a load into t"), "{error}");
    // A file that is named by mistake stays as it is.
    let error = LoadManifest::open(&folder.path("data.csv"), "t").unwrap_err();
    assert!(error.message.contains("it is no manifest"), "{error}");
    assert_eq!(std::fs::read_to_string(folder.path("data.csv")).unwrap(), "x");
}

#[test]
fn writes_have_a_limited_number_of_files_and_bytes() {
    let file = |bytes: u64| (LoadedFile { path: String::new(), bytes, modified_ns: 0 }, PartitionedFile::default());
    let sizes = |files: Vec<u64>| {
        let groups = new_groups(files.into_iter().map(file));
        groups.iter().map(|group| group.files.len()).collect::<Vec<_>>()
    };
    assert_eq!(sizes(vec![1; 2500]), [1000, 1000, 500]);
    assert_eq!(sizes(vec![WRITE_BYTES - 1, 1, 1, WRITE_BYTES * 2, 1]), [2, 1, 1, 1]);
    assert!(sizes(Vec::new()).is_empty());
}

#[test]
fn refused_url_is_named_without_its_signature() {
    let error = LoadedFile::of(Path::new("https://h/a.csv?signature=secret")).unwrap_err().message;
    assert!(error.starts_with("https://h/a.csv: --resume is for files") && !error.contains("secret"), "{error}");
}

#[test]
fn load_continues_with_the_mode_with_which_it_began() {
    let folder = LoadFolder::with(&["a"]);
    folder.open().unwrap().check_mode(ModeArg::Replace).unwrap();
    let manifest = folder.started();
    manifest.check_mode(ModeArg::Create).unwrap();
    let error = manifest.check_mode(ModeArg::Replace).unwrap_err().message;
    assert!(error.contains("began with --mode create"), "{error}");
}
