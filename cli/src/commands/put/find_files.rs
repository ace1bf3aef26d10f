//! Which files a put reads: those that are named, all of a folder, and those that match a pattern, sorted by name. Folders
//! named `column=value`, as Hive and Spark write them, give their files that column.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use glob::Pattern;
use volley_common::{Error, Result};

use crate::formats::{RemoteUrl, io_error};

/// Folders within each other. Symbolic links may form a loop.
const MAX_DEPTH: usize = 64;
/// The value of a folder that stands for null.
const NULL_PARTITION: &str = "__HIVE_DEFAULT_PARTITION__";

/// A column and its value, as a folder names them.
type PartitionValue = (String, Option<String>);

/// A file, with the columns that its folders give it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PartitionedFile {
    /// The file.
    pub path: PathBuf,
    /// The columns with the text of their value, in the order of the folders.
    pub partitions: Vec<PartitionValue>,
}

/// The files that arguments stand for.
///
/// # Errors
/// NOT_FOUND: a folder or a pattern without files. INVALID_ARGUMENT: `-` twice, or a name that is no text in UTF-8 where it
/// matters. Those of the operating system. All name the path. A file that is named and does not exist is not an error here.
pub fn find_files(paths: &[PathBuf]) -> Result<Vec<PartitionedFile>> {
    let mut found = Vec::new();
    if paths.iter().filter(|path| path.as_os_str() == "-").count() > 1 {
        return Err(Error::invalid("- is given twice: the standard input can be read once"));
    }
    for path in paths {
        let before = found.len();
        if let Some(url) = RemoteUrl::of(path) {
            found.extend(find_objects(&url)?);
            if found.len() == before {
                return Err(Error::not_found(format!("{}: no object there", path.display())));
            }
            continue;
        }
        let is_folder = path != Path::new("-") && path.is_dir();
        let mut search = FileSearch { found: &mut found, partitions: Vec::new(), depth: 0 };
        if is_folder {
            search.folder(path)?;
        } else if has_wildcard(path.as_os_str()) && std::fs::metadata(path).is_err() {
            search.pattern(path)?;
            // Several ways lead through `**` to a folder.
            let mut seen = HashSet::new();
            let matched = found.split_off(before);
            found.extend(matched.into_iter().filter(|file| seen.insert(file.path.clone())));
        } else {
            search.file(path);
        }
        if found.len() == before {
            let why = if is_folder { "the folder has no file" } else { "no file matches" };
            return Err(Error::not_found(format!("{}: {why}", path.display())));
        }
    }
    Ok(found)
}

fn has_wildcard(text: &OsStr) -> bool {
    text.as_encoded_bytes().iter().any(|byte| b"*?[".contains(byte))
}

/// Whether programs hide a file of this name, as `.crc` files and `_SUCCESS`. A partition's column may begin with `_`.
fn is_hidden(name: &OsStr) -> bool {
    let name = name.as_encoded_bytes();
    name.starts_with(b".") || (name.starts_with(b"_") && !name.contains(&b'='))
}

struct FileSearch<'a> {
    found: &'a mut Vec<PartitionedFile>,
    /// The columns of the folders above.
    partitions: Vec<PartitionValue>,
    depth: usize,
}

impl FileSearch<'_> {
    fn file(&mut self, path: &Path) {
        self.found.push(PartitionedFile { path: path.to_path_buf(), partitions: self.partitions.clone() });
    }

    /// All files of a folder and of those in it.
    fn folder(&mut self, folder: &Path) -> Result<()> {
        for name in names(folder)?.into_iter().filter(|name| !is_hidden(name)) {
            let path = folder.join(&name);
            let meta = std::fs::metadata(&path).map_err(|e| io_error(&path, &e))?;
            if meta.is_dir() {
                self.within(&path, |search| search.folder(&path))?;
            } else if meta.is_file() {
                self.file(&path);
            } else {
                return Err(Error::invalid(format!("{} is neither a file nor a folder", path.display())));
            }
        }
        Ok(())
    }

    /// Searches a folder, whose name may be a column with a value.
    fn within(&mut self, folder: &Path, search: impl FnOnce(&mut Self) -> Result<()>) -> Result<()> {
        if self.depth == MAX_DEPTH {
            let text = format!("more than {MAX_DEPTH} folders within each other: do symbolic links form a loop?");
            return Err(Error::invalid(format!("{}: {text}", folder.display())));
        }
        let columns = self.partitions.len();
        self.partitions.extend(partition(folder)?);
        self.depth += 1;
        let result = search(self);
        self.depth -= 1;
        self.partitions.truncate(columns);
        result
    }

    /// The files that match a pattern. Folders before its first wildcard give no column, as those of a folder that is named.
    fn pattern(&mut self, pattern: &Path) -> Result<()> {
        let (mut base, mut components) = (PathBuf::new(), Vec::new());
        for component in pattern.components().map(|component| component.as_os_str()) {
            if components.is_empty() && !has_wildcard(component) {
                base.push(component);
                continue;
            }
            let text = component.to_str().ok_or_else(|| not_utf8(pattern))?;
            let compiled = Pattern::new(text)
                .map_err(|e| Error::invalid(format!("{}: the pattern is not valid: {e}", pattern.display())))?;
            components.push(compiled);
        }
        // Twice in a row they would find files twice.
        components.dedup_by(|a, b| a.as_str() == "**" && b.as_str() == "**");
        self.matching(&base, &components, false)
    }

    /// The files below a folder that match; `any_depth`: below `**`, where folders are searched anyway.
    fn matching(&mut self, folder: &Path, pattern: &[Pattern], any_depth: bool) -> Result<()> {
        let Some((first, rest)) = pattern.split_first() else { return Ok(()) };
        if first.as_str() == "**" {
            if rest.is_empty() {
                return self.folder(folder);
            }
            self.matching(folder, rest, true)?;
        }
        let wildcard = has_wildcard(OsStr::new(first.as_str()));
        for name in names(folder)? {
            let text = name.to_str().ok_or_else(|| not_utf8(&folder.join(&name)))?;
            let path = folder.join(&name);
            // A pattern finds what programs hide only if it says so.
            let hidden = is_hidden(&name) && !first.as_str().starts_with(['.', '_']);
            if (wildcard && hidden) || !first.matches(text) {
                continue;
            }
            let is_folder = path.is_dir();
            if first.as_str() == "**" {
                if is_folder {
                    self.within(&path, |search| search.matching(&path, pattern, true))?;
                }
            } else if !rest.is_empty() {
                if is_folder {
                    self.within(&path, |search| search.matching(&path, rest, any_depth))?;
                }
            } else if !is_folder {
                self.file(&path);
            } else if !any_depth {
                self.within(&path, |search| search.folder(&path))?;
            }
        }
        Ok(())
    }
}

/// The objects that a URL stands for: one, those below a folder, which ends with /, or those that match a pattern.
fn find_objects(url: &RemoteUrl) -> Result<Vec<PartitionedFile>> {
    let key = url.key();
    let is_pattern = has_wildcard(OsStr::new(key));
    if !url.is_object_storage() || !(is_pattern || key.is_empty() || key.ends_with('/')) {
        // An HTTP URL has its query, which is no pattern.
        return Ok(vec![PartitionedFile { path: url.path(), partitions: Vec::new() }]);
    }
    let wildcard = key.find(['*', '?', '[']).unwrap_or(key.len());
    let folder = key[..wildcard].rfind('/').map_or("", |end| &key[..=end]);
    select_objects(url, folder, url.list(folder)?)
}

/// Those objects of a folder that a folder or a pattern stands for.
fn select_objects(url: &RemoteUrl, folder: &str, objects: Vec<String>) -> Result<Vec<PartitionedFile>> {
    let key = url.key();
    if objects.iter().any(|object| object == key) {
        // As of files: the one of that name is meant.
        return Ok(vec![PartitionedFile { path: url.path(), partitions: Vec::new() }]);
    }
    let compiled = |text: &str| {
        Pattern::new(text)
            .map_err(|e| Error::invalid(format!("{}: the pattern is not valid: {e}", url.name().display())))
    };
    let rest = if has_wildcard(OsStr::new(key)) { &key[folder.len()..] } else { "**" };
    let pattern = rest.split('/').map(compiled).collect::<Result<Vec<_>>>()?;
    let mut found = Vec::new();
    for object in objects {
        let Some(below) = object.strip_prefix(folder) else { continue };
        let below: Vec<&str> = below.split('/').collect();
        if !key_matches(&pattern, &below) {
            continue;
        }
        let folders = below[..below.len() - 1].iter().map(|name| partition(Path::new(name)));
        let partitions = folders.collect::<Result<Vec<_>>>()?.into_iter().flatten().collect();
        found.push(PartitionedFile { path: url.with_key(&object).path(), partitions });
    }
    Ok(found)
}

/// Whether the components of a key match. Hidden ones do so only if the pattern begins as they do.
fn key_matches(pattern: &[Pattern], components: &[&str]) -> bool {
    let Some((first, rest)) = pattern.split_first() else { return components.is_empty() };
    let Some((component, after)) = components.split_first() else {
        return first.as_str() == "**" && key_matches(rest, components);
    };
    let hidden = is_hidden(OsStr::new(component)) && !first.as_str().starts_with(['.', '_']);
    if first.as_str() == "**" {
        return key_matches(rest, components) || (!hidden && key_matches(pattern, after));
    }
    !hidden && first.matches(component) && key_matches(rest, after)
}

/// The names in a folder, sorted.
fn names(folder: &Path) -> Result<Vec<OsString>> {
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let failed = |e: std::io::Error| io_error(folder, &e);
    let entries = std::fs::read_dir(folder).map_err(failed)?;
    let mut names: Vec<OsString> =
        entries.map(|entry| entry.map(|entry| entry.file_name())).collect::<std::io::Result<_>>().map_err(failed)?;
    names.sort_unstable();
    Ok(names)
}

fn not_utf8(path: &Path) -> Error {
    Error::invalid(format!("{}: the name is not UTF-8: rename it, or name its file", path.display()))
}

/// The column and value that a folder's name has.
fn partition(folder: &Path) -> Result<Option<PartitionValue>> {
    let name = folder.file_name().unwrap_or_default();
    if !name.as_encoded_bytes().contains(&b'=') {
        return Ok(None);
    }
    let text = name.to_str().ok_or_else(|| not_utf8(folder))?;
    let Some((column, value)) = text.split_once('=').filter(|(column, _)| !column.is_empty()) else { return Ok(None) };
    let decoded = |text: &str| percent_decoded(text).ok_or_else(|| not_utf8(folder));
    let value = if value == NULL_PARTITION { None } else { Some(decoded(value)?) };
    Ok(Some((decoded(column)?, value)))
}

/// The text with `%2F` as `/`; `None` if the bytes are not UTF-8. A `%` before anything else is itself, as for Hive.
fn percent_decoded(text: &str) -> Option<String> {
    let (mut bytes, mut rest) = (Vec::with_capacity(text.len()), text.as_bytes());
    while let Some((first, after)) = rest.split_first() {
        let digit = |at: usize| char::from(*after.get(at)?).to_digit(16);
        match (first, digit(0), digit(1)) {
            (b'%', Some(high), Some(low)) => {
                bytes.push((high << 4 | low) as u8);
                rest = &after[2..];
            }
            _ => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::TempDir;
    use volley_common::Code;

    fn folder(files: &[&str]) -> TempDir {
        let folder = TempDir::new().unwrap();
        for file in files {
            let path = folder.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        }
        folder
    }

    /// Found files as their paths below the folder with the values of their partitions.
    fn found(folder: &TempDir, arguments: &[&str]) -> Vec<String> {
        let paths: Vec<PathBuf> = arguments.iter().map(|argument| folder.path().join(argument)).collect();
        let text = |file: PartitionedFile| {
            let path = file.path.strip_prefix(folder.path()).unwrap().display().to_string();
            let values = file.partitions.into_iter().map(|(name, value)| format!(" {name}:{value:?}"));
            path + &values.collect::<String>()
        };
        find_files(&paths).unwrap().into_iter().map(text).collect()
    }

    #[test]
    fn files_of_folders_are_sorted_and_hidden_ones_ignored() {
        let folder = folder(&["d/b.csv", "d/a.csv", "d/c/x.csv", "d/.a.csv.crc", "d/_SUCCESS", "d/_temporary/0/y.csv"]);
        assert_eq!(found(&folder, &["d", "none.csv"]), ["d/a.csv", "d/b.csv", "d/c/x.csv", "none.csv"]);
        assert!(find_files(&["-".into(), "-".into()]).is_err_and(|e| e.message.contains("twice")));
        let error = find_files(&[folder.path().join("d/_temporary")]).map(|files| files.len());
        assert_eq!(error.ok(), Some(1), "a folder that is named is read, whatever its name");
        std::fs::create_dir(folder.path().join("empty")).unwrap();
        let error = find_files(&[folder.path().join("empty")]).unwrap_err();
        assert!(error.code == Code::NotFound && error.message.contains("empty: the folder has no file"), "{error}");
        std::os::unix::fs::symlink("..", folder.path().join("d/c/up")).unwrap();
        assert!(find_files(&[folder.path().join("d")]).unwrap_err().message.contains("form a loop"));
    }

    #[test]
    fn folders_name_columns_and_values() {
        let folder = folder(&[
            "t/y=2024/m=01/a.csv",
            "t/y=__HIVE_DEFAULT_PARTITION__/m=%2Fx%25%zz/b.csv",
            "t/y=a=b/m=/c.csv",
            "t/_p=1/=2/d.csv",
        ]);
        let expected = [
            "t/_p=1/=2/d.csv _p:Some(\"1\")",
            "t/y=2024/m=01/a.csv y:Some(\"2024\") m:Some(\"01\")",
            "t/y=__HIVE_DEFAULT_PARTITION__/m=%2Fx%25%zz/b.csv y:None m:Some(\"/x%%zz\")",
            "t/y=a=b/m=/c.csv y:Some(\"a=b\") m:Some(\"\")",
        ];
        assert_eq!(found(&folder, &["t"]), expected);
        assert_eq!(found(&folder, &["t/y=2024"]), ["t/y=2024/m=01/a.csv m:Some(\"01\")"]);
        assert_eq!(found(&folder, &["t/y=2024/m=*"]), ["t/y=2024/m=01/a.csv m:Some(\"01\")"]);
        assert_eq!(found(&folder, &["t/y=2*/m=01/*.csv"]), [expected[1]]);
        assert_eq!(found(&folder, &["t/y=2024/m=01/a.csv"]), ["t/y=2024/m=01/a.csv"]);
        assert_eq!(percent_decoded("%ff"), None);
        assert_eq!(percent_decoded("%C3%A9%2"), Some("\u{e9}%2".into()));
    }

    #[test]
    fn keys_of_objects_match_as_paths_do() {
        let matches = |pattern: &str, key: &str| {
            let pattern: Vec<Pattern> = pattern.split('/').map(|text| Pattern::new(text).unwrap()).collect();
            key_matches(&pattern, &key.split('/').collect::<Vec<_>>())
        };
        for (pattern, key) in [("**", "a/b.csv"), ("y=*/*.csv", "y=1/a.csv"), ("**/a.csv", "a.csv"), ("_*", "_a")] {
            assert!(matches(pattern, key), "{pattern} {key}");
        }
        for (pattern, key) in
            [("**", "_SUCCESS"), ("**", "_temporary/0/a.csv"), ("*.csv", "y=1/a.csv"), ("*/*", "a"), ("*", ".a.crc")]
        {
            assert!(!matches(pattern, key), "{pattern} {key}");
        }
        let select = |url: &str, objects: &[&str]| {
            let url = RemoteUrl::of(Path::new(url)).unwrap();
            let found = select_objects(&url, "d/", objects.iter().map(|key| key.to_string()).collect()).unwrap();
            found.into_iter().map(|file| file.path.display().to_string()).collect::<Vec<_>>()
        };
        assert_eq!(select("s3://b/d/a[1].csv", &["d/a1.csv", "d/b.csv"]), ["s3://b/d/a1.csv"]);
        assert_eq!(select("s3://b/d/a[1].csv", &["d/a1.csv", "d/a[1].csv"]), ["s3://b/d/a[1].csv"], "that is meant");
        assert_eq!(select("s3://b/d/", &["d/a.csv", "d/e/b.csv"]), ["s3://b/d/a.csv", "s3://b/d/e/b.csv"]);
        let http = Path::new("https://h/a.csv?x=[1]*");
        let found = find_files(&[http.to_path_buf()]).unwrap();
        assert_eq!(found[0].path, http, "the query of a URL is no pattern, and stays");
    }

    #[test]
    fn patterns_find_each_file_once() {
        let folder = folder(&["a.csv", "b.csv", "b.json", "[x].csv", "_c.csv", ".d.csv", "s/e.csv", "s/t/f.csv"]);
        assert_eq!(found(&folder, &["*.csv"]), ["[x].csv", "a.csv", "b.csv"]);
        assert_eq!(found(&folder, &["[ab].csv"]), ["a.csv", "b.csv"]);
        assert_eq!(found(&folder, &["[x].csv"]), ["[x].csv"], "a file of that name is meant");
        assert_eq!(found(&folder, &["_*"]), ["_c.csv"]);
        assert_eq!(found(&folder, &["?.json", "*/e.csv"]), ["b.json", "s/e.csv"]);
        assert_eq!(found(&folder, &["s*"]), ["s/e.csv", "s/t/f.csv"]);
        for pattern in ["**/*.csv", "**/**/*.csv"] {
            assert_eq!(found(&folder, &[pattern]), ["[x].csv", "a.csv", "b.csv", "s/e.csv", "s/t/f.csv"]);
        }
        assert_eq!(found(&folder, &["s/**"]), ["s/e.csv", "s/t/f.csv"]);
        assert_eq!(found(&folder, &["**/*"]).len(), 6);
        let nested = self::folder(&["s/s/g.csv"]);
        assert_eq!(found(&nested, &["**/s/**/*.csv"]), ["s/s/g.csv"]);
        let error = find_files(&[folder.path().join("*.parquet")]).unwrap_err();
        assert!(error.code == Code::NotFound && error.message.ends_with("*.parquet: no file matches"), "{error}");
        assert!(find_files(&[folder.path().join("[a")]).unwrap_err().message.contains("the pattern is not valid"));
    }
}
