//! Blocks of any size give what one thread gives.

use arrow::datatypes::DataType;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tempfile::TempDir;

use super::super::{BadRows, TextLimits};
use super::*;
use crate::csv_options::{CsvOptions, CsvQuote};
use crate::encoding::TextEncoding;

/// Rows of two columns, which can be read.
const CSV_ROWS: [&str; 9] = [
    "1,2\n",
    "\"x\ny\",-7\n",
    "\"\n\n\"\"\",\"\"\n",
    "5\" disk,6\"\n",
    ",\r\n",
    "\n",
    "7,\"a,\"\"\r\n\"\r\n",
    "2024-01-01,0.5\n",
    "007,2024-01-01T10:00:00Z\n",
];
/// Rows that are bad.
const BAD_CSV_ROWS: [&str; 6] = ["x\n", "\"q\"r,\"\n", "\0,1\n", "1\r,\"\n", "1,2,\"\n\"\n", "\"a\n\"b\",\"\n"];
const JSON_ROWS: [&str; 8] = [
    "{\"a\":1}\n",
    "{\"b\":\"}\",\"a\":0.5}\r\n",
    " {\"c\":{\"y\":1,\"x\":[]}}\n",
    "{\"c\":{\"x\":[{\"q\":\"\\n\"}],\"z\":null}}\n",
    "\n",
    "{\"a\":[7]}\n",
    "{}\n",
    "{\"d\":9007199254740993}\n",
];
const BAD_JSON_ROWS: [&str; 5] = ["{\"e\":\n", "{\"f\":1,\"f\":2}\n", "[{\"g\":1}]\n", "\u{feff}{\"h\":1}\n", "7\n"];

fn types(stats: &FieldStats) -> Vec<(String, DataType)> {
    stats.columns().map(|(name, column)| (name.to_string(), column.data_type())).collect()
}

fn file(folder: &TempDir, name: &str, text: impl AsRef<[u8]>) -> InputFile {
    let path = folder.path().join(name);
    std::fs::write(&path, text).unwrap();
    InputFile::new(&path, None).unwrap()
}

fn skipping() -> TextOptions {
    TextOptions { bad_rows: Some(BadRows::default()), ..TextOptions::default() }
}

/// Compares blocks of these sizes with one thread; returns how many sizes needed no other reading of the text.
fn compare(input: &InputFile, options: &TextOptions, sizes: impl IntoIterator<Item = usize>) -> usize {
    let expected = infer(input, options).map(|stats| types(&stats)).map_err(|e| e.message);
    let mut inferred = 0;
    for bytes in sizes {
        if let Some(stats) = infer_blocks(input, options, 3, bytes) {
            assert_eq!(expected, Ok(types(&stats)), "blocks of {bytes} bytes of {}", input.path.display());
            inferred += 1;
        }
    }
    inferred
}

/// As [`compare`], for all sizes up to the text's own.
fn compare_all(name: &str, text: impl AsRef<[u8]>, options: &TextOptions) -> (usize, usize) {
    let length = text.as_ref().len();
    let folder = TempDir::new().unwrap();
    (compare(&file(&folder, name, text), options, 1..=length), length)
}

#[test]
fn csv_blocks_of_any_size_give_the_types_of_all_rows() {
    let csv = |csv: CsvOptions| TextOptions { csv, ..TextOptions::default() };
    let no_header = || CsvOptions { no_header: true, ..CsvOptions::default() };
    let other = CsvOptions { delimiter: Some(b';'), quote: Some(CsvQuote::Character(b'\'')), ..CsvOptions::default() };
    let unquoted = CsvOptions { quote: Some(CsvQuote::None), ..CsvOptions::default() };
    let latin = CsvOptions { encoding: Some(TextEncoding::Latin1), ..CsvOptions::default() };
    let commented = TextOptions { comment: Some(b'#'), ..TextOptions::default() };
    let named = TextOptions { names: Some(vec!["a".into()]), ..csv(no_header()) };
    let nulls = TextOptions { nulls: vec!["NA".into()], ..TextOptions::default() };
    let typed = TextOptions { typed: vec!["a".into()], ..TextOptions::default() };
    let cases: [(&[u8], TextOptions); 14] = [
        (b"a,b\n1,\"x\ny\"\n2,\"\"\"\n\"\n3,\"5\"\" disk,\n\n\"\n", TextOptions::default()),
        (b"v,d,t\n1,2024-01-01,7\n2,2024-01-01 10:00,8\n20.75,2024-01-02,007\n", TextOptions::default()),
        (b"\xef\xbb\xbfa,b\r\n1,\"x\r\ny\"\r\n\r\n2.5,z", TextOptions::default()),
        (b"a,b\n5\" disk,1\n6\",2\n\"7\",1e400\n", TextOptions::default()),
        (b"a\n1\n\n2\n\"\"\n", TextOptions::default()),
        (b"a,b\n", TextOptions::default()),
        (b"# \"by hand\na\n1\n# \"\n2\n#\n3.5\n", commented),
        (b"\xef\xbb\xbf1\n2\n3\n", named),
        (b"1,x\n2.5,\"\n\"\n3,\n", csv(no_header())),
        (b"a;b\n1;'x''\n'\n2;\"\n", csv(other)),
        (b"a,b\n\"1,2\n3,\"\n4,5\n", csv(unquoted)),
        (b"a,b\n\xe9,\"\n\xe9\"\n1,2\n", csv(latin)),
        (b"a,b\nNA,\n1,\"NA\"\n2,3\n", nulls),
        (b"a,b\n1,2\nx,2.5\n", typed),
    ];
    for (index, (text, options)) in cases.iter().enumerate() {
        let (inferred, sizes) = compare_all(&format!("{index}.csv"), text, options);
        assert_eq!(inferred, sizes, "case {index}");
    }
}

#[test]
fn json_blocks_of_any_size_give_types_and_order_of_keys() {
    let nested = "{\"z\":1,\"a\":2}\n{\"m\":3,\"z\":4}\n{\"b\":{\"y\":1,\"x\":2}}\n\
        {\"b\":{\"w\":[{\"q\":1}],\"y\":2.5}}\n{\"a\":\"7\",\"b\":{\"w\":[{\"p\":\"\"},{\"q\":null}]}}";
    let typed = TextOptions { typed: vec!["b".into()], ..TextOptions::default() };
    for (text, options) in [
        (nested, TextOptions::default()),
        (nested, typed),
        (nested, TextOptions { all_text: true, ..TextOptions::default() }),
        ("\u{feff}{\"v\":20}\r\n\r\n{\"v\":21} {\"u\":1}\r\n{\"v\":20.75}", TextOptions::default()),
        ("{\"l\":\"x\",\"c\":7}\n{\"l\":[\"y\",null]}\n{\"c\":\"B7\"}\n", TextOptions::default()),
        ("{\"a\":1}\n{\"a\":\n{\"z\":1,\"z\":2}\nnone\n[{\"y\":1}]\n{\"b\":[2.5]}\n", skipping()),
    ] {
        let (inferred, sizes) = compare_all("t.jsonl", text, &options);
        assert_eq!(inferred, sizes, "{text}");
    }
}

#[test]
fn blocks_with_a_fault_are_left_to_one_thread() {
    let cases: [(&str, &[u8], TextOptions); 10] = [
        ("t.csv", b"a,b\n1,2\n3\n4,5\n", TextOptions::default()),
        ("t.csv", b"a,b\n1,2\n\"3,4\n5,6\n", TextOptions::default()),
        ("t.csv", b"a,b\n1,2\n\"3,4\n5,6\n", skipping()),
        ("t.csv", b"a,b\n1,\xff\n2,3\n", TextOptions::default()),
        ("t.csv", b"a,a\n1,2\n", TextOptions::default()),
        ("t.jsonl", b"{\"a\":1}\n{\"a\":1,\"a\":2}\n{\"a\":3}\n", TextOptions::default()),
        ("t.jsonl", b"{\"a\":1}\n[{\"a\":2}]\n", TextOptions::default()),
        ("t.jsonl", b"{\"a\":1}\n\xef\xbb\xbf{\"a\":2}\n", TextOptions::default()),
        ("t.jsonl", b"{\"a\":1}\n{\"a\":\"x\n\"}\n", TextOptions::default()),
        ("t.jsonl", b"{}\n{}\n", TextOptions::default()),
    ];
    for (name, text, options) in cases {
        let inferred = compare_all(name, text, &options).0;
        assert_eq!(inferred, 0, "{}", text.escape_ascii());
    }
}

#[test]
fn rows_that_cannot_be_in_blocks_are_left_to_one_thread() {
    let first = TextOptions { infer_rows: Some(1), ..TextOptions::default() };
    let limited = TextOptions::limited(TextLimits { columns: 9, ..TextLimits::default() });
    let lines = "{\"a\":1}\n{\"a\":0.5}\n";
    for (text, options) in [(lines, first), (lines, limited), ("[{\"a\":1},\n{\"a\":0.5}]\n", TextOptions::default())] {
        assert_eq!(compare_all("t.json", text, &options).0, 0, "{text}");
    }
    // A block of up to 25 bytes ends within the object; a larger one has all 28.
    let printed = "{\"a\": [\n{\"b\":1},\n{\"b\":2}\n]}\n";
    let folder = TempDir::new().unwrap();
    let input = file(&folder, "t.json", printed);
    assert_eq!(compare(&input, &TextOptions::default(), 1..=25), 0);
    assert_eq!(compare(&input, &TextOptions::default(), 26..=28), 3);
}

#[test]
fn random_rows_in_blocks_of_random_sizes_have_the_same_types() {
    let mut rng = StdRng::seed_from_u64(13);
    let folder = TempDir::new().unwrap();
    for round in 0..400 {
        let (is_csv, skips) = (round % 2 == 0, round % 4 < 2);
        let (name, good, bad) = if is_csv {
            ("t.csv", &CSV_ROWS[..], &BAD_CSV_ROWS[..])
        } else {
            ("t.jsonl", &JSON_ROWS[..], &BAD_JSON_ROWS[..])
        };
        let rows = if skips { [good, bad].concat() } else { good.to_vec() };
        let mut text = if is_csv { "a,b\n" } else { "{\"a\":null}\n" }.to_string();
        for _ in 0..rng.random_range(0..30) {
            text += rows[rng.random_range(0..rows.len())];
        }
        let sizes = [1_usize, rng.random_range(2..20), rng.random_range(20..200)];
        let options = if skips { skipping() } else { TextOptions::default() };
        let inferred = compare(&file(&folder, name, &text), &options, sizes);
        // After a bad row of CSV a block may be cut within quotes, which its reader finds.
        assert!(inferred == sizes.len() || (is_csv && skips), "{inferred} of {sizes:?}: {text}");
    }
}

#[test]
fn large_file_has_the_types_and_the_error_of_one_thread() {
    let folder = TempDir::new().unwrap();
    let text = format!("n,t\n{}0.5,z\n", "7,\"x\ny\"\n".repeat(600_000));
    let options = TextOptions::default();
    let input = file(&folder, "t.csv", &text);
    assert!(is_large(&input) && infer_blocks(&input, &options, 2, BLOCK_BYTES).is_some());
    let parallel = infer_parallel(&input, &options, 2).unwrap();
    assert_eq!(types(&parallel), [("n".to_string(), DataType::Float64), ("t".to_string(), DataType::Utf8)]);
    let input = file(&folder, "bad.csv", text + "8\n");
    let error = infer_parallel(&input, &options, 2).unwrap_err().message;
    assert!(error.contains("bad.csv: line 1200003: 1 cell instead of 2"), "{error}");
}
