//! The output of `valgrind --tool=dhat --mode=copy`: bytes copied by call site.
//!
//! The format: <https://valgrind.org/docs/manual/dh-manual.html>, and the viewer's source. It must be made with
//! `--fullpath-after=ROOT/`, which makes this project's paths relative and leaves all others absolute.

use serde::Deserialize;

use crate::profile::CostProfile;

/// Characters of a function's name that are shown.
const SHOWN: usize = 90;

#[derive(Deserialize)]
struct DhatOutput<'a> {
    mode: &'a str,
    pps: Vec<DhatPoint>,
    /// Frames, as text.
    #[serde(rename = "ftbl")]
    frames: Vec<String>,
}

/// One call stack that ended in a copy.
#[derive(Deserialize)]
struct DhatPoint {
    #[serde(rename = "tb")]
    bytes: i64,
    /// Indexes of frames, the copying one first.
    #[serde(rename = "fs")]
    stack: Vec<usize>,
}

/// Reads a profile.
///
/// # Errors
/// One sentence: it is not a profile of copies, or it is incomplete.
pub fn parse(text: &str) -> Result<CostProfile, String> {
    let output: DhatOutput = serde_json::from_str(text).map_err(|e| format!("DHAT's output cannot be read: {e}"))?;
    if output.mode != "copy" {
        return Err(format!("DHAT's output is of mode {:?}, not of copies", output.mode));
    }
    let mut profile = CostProfile::default();
    for point in &output.pps {
        let stack = point.stack.iter().map(|at| output.frames.get(*at).map(|frame| DhatFrame::parse(frame)));
        let stack: Option<Vec<DhatFrame>> = stack.collect();
        let stack = stack.ok_or("DHAT's output names a frame that it does not have")?;
        profile.add(&place(&stack), point.bytes);
    }
    Ok(profile)
}

/// `0x9E3E60: function (file:line)`, or `0x9E3E60: function (in object)`.
struct DhatFrame<'a> {
    function: &'a str,
    source: &'a str,
}

impl<'a> DhatFrame<'a> {
    fn parse(text: &'a str) -> Self {
        let text = text.split_once(": ").map_or(text, |(_, rest)| rest);
        let (function, source) = text.rsplit_once(" (").unwrap_or((text, ""));
        DhatFrame { function, source: source.trim_end_matches(')') }
    }

    /// Whether its source is a file of this project.
    fn is_own(&self) -> bool {
        !self.source.is_empty() && !self.source.starts_with('/') && !self.source.starts_with("in ")
    }

    /// Whether it is the copying function itself, or the standard library between that and its caller.
    fn is_below(&self) -> bool {
        self.source.starts_with("/rustc/") || self.source.contains("vgpreload_")
    }
}

/// The function that copied, and the line of this project that called it.
fn place(stack: &[DhatFrame]) -> String {
    let copier = stack.iter().find(|frame| !frame.is_below()).or(stack.first());
    let own = stack.iter().find(|frame| frame.is_own());
    match (copier, own) {
        (Some(copier), Some(own)) if std::ptr::eq(copier, own) => shown(own),
        (Some(copier), Some(own)) => format!("{}, under {}", shortened(copier.function), shown(own)),
        (Some(copier), None) => shortened(copier.function),
        (None, _) => "no stack".into(),
    }
}

fn shown(frame: &DhatFrame) -> String {
    format!("{} ({})", shortened(frame.function), frame.source)
}

fn shortened(name: &str) -> String {
    if name.chars().count() <= SHOWN { name.into() } else { name.chars().take(SHOWN).chain(['…']).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: &str = r#"{"dhatFileVersion":2
,"mode":"copy","verb":"Copied"
,"pps":
 [{"tb":1000,"tbk":2,"fs":[1,2,3,4,5]}
 ,{"tb":500,"tbk":1,"fs":[1,2,3,4,7]}
 ,{"tb":70,"tbk":7,"fs":[1,5]}
 ,{"tb":9,"tbk":1,"fs":[6,8]}
 ]
,"ftbl":
 ["[root]"
 ,"0x484ADBD: memmove (in /usr/libexec/valgrind/vgpreload_dhat-amd64-linux.so)"
 ,"0x9E42CA: copy_nonoverlapping<u8> (/rustc/598/library/core/src/ptr/mod.rs:547)"
 ,"0x9E42CA: from_slice_ref (/home/me/.cargo/registry/arrow-buffer/src/buffer/immutable.rs:139)"
 ,"0x9E3E60: volley_common::ipc::decode::aligned (common/src/ipc/decode.rs:160)"
 ,"0x9EE421: {closure#1} (common/src/ipc/decode.rs:104)"
 ,"0x1: mempcpy (in /usr/libexec/valgrind/vgpreload_dhat-amd64-linux.so)"
 ,"0x2: volley_node::main (node/src/main.rs:9)"
 ,"0x3: _IO_new_file_xsputn (in /usr/lib/x86_64-linux-gnu/libc.so.6)"
 ]
}"#;

    #[test]
    fn copies_count_for_the_line_that_caused_them() {
        let profile = parse(SAMPLE).unwrap();
        assert_eq!(profile.total(), 1579);
        let aligned = "from_slice_ref, under volley_common::ipc::decode::aligned (common/src/ipc/decode.rs:160)";
        let places = [(aligned, 1500), ("{closure#1} (common/src/ipc/decode.rs:104)", 70), ("_IO_new_file_xsputn", 9)];
        assert_eq!(profile.top(5), places);
    }

    #[test]
    fn other_profile_is_an_error() {
        assert!(parse(&SAMPLE[..300]).unwrap_err().contains("cannot be read"));
        assert!(parse(&SAMPLE.replace(r#""mode":"copy""#, r#""mode":"heap""#)).unwrap_err().contains("\"heap\""));
        assert!(parse(&SAMPLE.replace("[6,8]", "[6,99]")).unwrap_err().contains("does not have"));
    }

    #[test]
    fn long_names_are_truncated() {
        let name = "é".repeat(SHOWN + 1);
        assert_eq!(shortened(&name).chars().count(), SHOWN + 1);
        assert_eq!(shortened(&name[..2 * SHOWN]), name[..2 * SHOWN]);
    }
}
