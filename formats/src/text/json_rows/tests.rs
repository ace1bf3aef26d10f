//! Objects of a text.

use super::*;

fn rows(text: &str) -> Result<Vec<String>, String> {
    // A buffer of three bytes: every state is met at the end of one.
    let input = std::io::BufReader::with_capacity(3, text.as_bytes());
    let mut rows = JsonRows::new(input).map_err(|e| e.to_string())?;
    let mut all = Vec::new();
    while let Some(text) = rows.next_row().map_err(|e| e.to_string())? {
        all.push(text.to_string());
    }
    Ok(all)
}

#[test]
fn lines_arrays_and_printed_objects_are_rows() {
    assert_eq!(rows("\u{feff}{\"a\":1}\n\n{\"a\":\"}\\\"{\"}\n").unwrap(), ["{\"a\":1}", "{\"a\":\"}\\\"{\"}"]);
    assert_eq!(rows(" [ {\"a\":[1]} ,\n{} ] \n").unwrap(), ["{\"a\":[1]}", "{}"]);
    assert_eq!(rows("{\n \"a\": 1\n}\n{\"a\":2}").unwrap(), ["{\n \"a\": 1\n}", "{\"a\":2}"]);
    assert_eq!(rows("[]").unwrap().len() + rows(" \n").unwrap().len(), 0);
}

#[test]
fn lines_after_a_bad_one_can_be_read() {
    let text = b"{\"a\":1}\n\n {\"a\":\n\xff\n7\n{\"a\":1}{}\n \t{\"a\":\"}\"} \r\n{\"a\":2";
    let input = std::io::BufReader::with_capacity(3, &text[..]);
    let mut rows = JsonRows::new(input).unwrap().one_a_line().unwrap();
    let mut all = Vec::new();
    loop {
        match rows.next_row().map(|row| row.map(str::to_string)) {
            Ok(Some(row)) => all.push(row),
            Ok(None) => break,
            Err(e) => {
                assert!(rows.can_continue());
                all.push(e.to_string().split(": ").nth(1).unwrap().to_string());
            }
        }
    }
    let expected = [
        "{\"a\":1}",
        "line 3, byte 6",
        "line 4, byte 1",
        "line 5, byte 1",
        "line 6, byte 8",
        "{\"a\":\"}\"}",
        "line 8, byte 6",
    ];
    assert_eq!(all, expected);
    let array = JsonRows::new(&b"[{}]"[..]).unwrap().one_a_line();
    assert!(array.is_err_and(|e| e.to_string().contains("this is an array")));
}

#[test]
fn invalid_rows_are_named_by_line_and_byte() {
    for (text, expected) in [
        ("{\"a\":1}\n{\"a\": \n{\"a\":2}\n", "line 2, byte 5: EOF while parsing a value: \"{\\\"a\\\":\""),
        ("{\"a\":1}\n{\"a\":\n", "line 2, byte 5: EOF while parsing a value: \"{\\\"a\\\":\""),
        ("{\"a\":1,\n\"b\"\n \n\n", "line 2, byte 3: EOF while parsing an object: \"\\\"b\\\"\""),
        ("{\"a\":1}\n{\"a\":x}\n", "line 2, byte 6: expected value"),
        ("{\"a\":1}\n{\"a\":\"x}\n{\"a\":\"y\"}\n", "line 2, byte"),
        ("{\"a\":1}\n 7\n", "line 2, byte 2: each row must be a JSON object, not \"7"),
        ("{\"a\":1},\n{\"a\":2}", "line 1, byte 8: each row must be a JSON object, not \",\""),
        ("[{\"a\":1}\n{\"a\":2}]", "line 2, byte 1: a comma"),
        ("[{\"a\":1},]", "line 1, byte 10: each row"),
        ("[{\"a\":1}", "line 1, byte 9: a comma or the end"),
        ("[{\"a\":1}] x", "line 1, byte 11: text after"),
        ("{\"a\":[1}}", "line 1, byte 8"),
        ("{\"a\":01}", "line 1, byte 7: invalid number"),
    ] {
        let error = rows(text).unwrap_err();
        assert!(error.contains(expected), "{text:?}: {error}");
    }
}
