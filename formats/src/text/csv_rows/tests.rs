//! Records of delimited text.

use super::*;

fn comma() -> CsvDialect {
    let limits = TextLimits::default();
    CsvDialect { delimiter: b',', quote: Some(b'"'), comment: None, names: ColumnNames::Header, limits }
}

fn rows(text: &[u8]) -> Result<Vec<Vec<String>>, String> {
    rows_of(text, comma())
}

fn rows_of(text: &[u8], dialect: CsvDialect) -> Result<Vec<Vec<String>>, String> {
    let mut rows = CsvRows::new(text, dialect).map_err(|e| e.to_string())?;
    let mut all = Vec::new();
    while rows.next_row().map_err(|e| e.to_string())? {
        let cell = |index| {
            let CsvCell { text, quoted, line } = rows.cell(index);
            format!("{line}{}{text}", if quoted { "q" } else { ":" })
        };
        all.push((0..rows.header().len()).map(cell).collect());
    }
    Ok(all)
}

#[test]
fn cells_keep_quotes_and_line_breaks() {
    let text = b"\xef\xbb\xbfa,b\r\n1,\"x\"\"y\r\nz\"\"\"\r\n\n\"\",\n5\" disk,\"\xc3\xa9,\"\"\xc3\xa9\"";
    let expected = [["2:1", "2qx\"y\r\nz\""], ["5q", "5:"], ["6:5\" disk", "6qé,\"é"]];
    assert_eq!(rows(text).unwrap(), expected);
    assert_eq!(rows(b"a\n1\n\n2").unwrap(), [["2:1"], ["3:"], ["4:2"]]);
}

#[test]
fn other_characters_delimit_quote_and_comment() {
    let dialect = CsvDialect { delimiter: b';', quote: Some(b'\''), comment: Some(b'#'), ..comma() };
    let text = b"# by hand\na;b\n#1;2\n'x''#;';\"y\n'#';\n";
    assert_eq!(rows_of(text, dialect).unwrap(), [["4qx'#;", "4:\"y"], ["5q#", "5:"]]);
    let dialect = CsvDialect { delimiter: b'\t', quote: None, ..comma() };
    assert_eq!(rows_of(b"a\tb\n\"x\t\n", dialect).unwrap(), [["2:\"x", "2:"]]);
}

#[test]
fn row_over_a_limit_is_refused_with_its_line() {
    let limits = TextLimits { row_bytes: 20, columns: 3 };
    let limited = |text: &[u8]| rows_of(text, CsvDialect { limits, ..comma() });
    assert_eq!(limited(b"a,b,c\n1,2,3\n").unwrap(), [["2:1", "2:2", "2:3"]]);
    assert_eq!(limited(b",,,,,,\n").unwrap_err(), "Csv error: line 1: it has more than 3 cells");
    assert!(limited(b"a,b\n1,2\n1,2,3,4\n").unwrap_err().contains("line 3: it has more than 3 cells"));
    assert!(limited(b"a,b\n1,\"xxxxxxxxxx\nxxxxxxxxxx\"\n").unwrap_err().contains("a row of more than"));
}

#[test]
fn first_record_is_a_row_without_a_header() {
    let numbered = CsvDialect { names: ColumnNames::Numbered, ..comma() };
    assert_eq!(rows_of(b"\n1,x\n2,y\n", numbered.clone()).unwrap(), [["2:1", "2:x"], ["3:2", "3:y"]]);
    assert_eq!(CsvRows::new(&b"1,x\n"[..], numbered.clone()).unwrap().header(), ["c0", "c1"]);
    assert!(rows_of(b"1,x\n2\n", numbered.clone()).unwrap_err().contains("line 2: 1 cell instead of 2"));
    assert!(rows_of(b"", numbered.clone()).unwrap_err().contains("--schema"));
    assert!(rows_of(b"\n1\n", numbered).unwrap_err().contains("line 1: an empty line before"));
    let known = |names: &[&str]| CsvDialect {
        names: ColumnNames::Known(names.iter().map(ToString::to_string).collect()),
        ..comma()
    };
    assert_eq!(rows_of(b"\n1\n", known(&["a"])).unwrap(), [["1:"], ["2:1"]]);
    assert!(rows_of(b"", known(&["a"])).unwrap().is_empty());
    assert!(rows_of(b"1,2\n", known(&["a"])).unwrap_err().contains("line 1: 2 cells instead of 1"));
    assert!(rows_of(b"1,2\n", known(&["a", "a"])).unwrap_err().contains("both named"));
}

#[test]
fn invalid_rows_are_named_by_their_line() {
    let cases: [(&[u8], &str); 12] = [
        (b"a,b\n\"x\ny\",2\n3\n", "line 4: 1 cell instead of 2: \"3"),
        (b"a,b\n1,2,3\n", "line 2: 3 cells"),
        (b"a,b\n1,2\n3,\"x\n\n", "line 3: a quote is not closed: \"\\\"x"),
        (b"a,b\n1,\"x\"y\n", "line 2: text after a closing quote: \"y"),
        (b"a,b\n1,2\n3,\xff\n", "line 3: column \"b\": it is not UTF-8: \"\\xff\""),
        (b"a,b\n1,\0\n", "line 2: it has a NUL"),
        (b"a,b\r1,2\r", "line 1: a carriage return"),
        (b"a,a\n", "line 1: the columns 1 and 2 are both named \"a\""),
        (b",b\n", "line 1: column 1 has no name"),
        (b"", "empty"),
        (b"\xef\xbb\xbf", "empty"),
        (b"\xff\xfea\0", "UTF-16"),
    ];
    for (text, expected) in cases {
        let error = rows(text).unwrap_err();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn rows_after_a_bad_one_can_be_read() {
    let text = b"a,b\n1,2,3\n\xff,x\n\"x\"y,1\n\"p\nq\"z,1\n\0,1\n1\r,2\n5,6\n\"7,8\n9,0\n";
    let mut rows = CsvRows::new(&text[..], comma()).unwrap();
    for line in [2, 3, 4, 6, 7, 8] {
        let error = rows.next_row().unwrap_err().to_string();
        assert!(error.contains(&format!("line {line}: ")) && rows.can_continue(), "{error}");
    }
    assert!(rows.next_row().unwrap());
    assert_eq!((rows.cell(0).text, rows.cell(0).line), ("5", 9));
    // The quote may contain all other rows.
    assert!(rows.next_row().unwrap_err().to_string().contains("line 10: a quote is not closed"));
    assert!(!rows.can_continue());
}
