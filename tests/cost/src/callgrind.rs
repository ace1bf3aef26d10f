//! The output of `valgrind --tool=callgrind`: instructions by function.
//!
//! The format: <https://valgrind.org/docs/manual/cl-format.html>. Each function counts only its own instructions, so the sum over
//! functions is the program's.

use std::collections::HashMap;

use crate::profile::CostProfile;

/// Functions whose cost grows with the running time, not with the bytes moved: reading the clock; lazy initialization (quanta
/// calibrates one clock against another for a while); Raft, which in debug builds validates its state at every tick.
const TIME_DEPENDENT: [&str; 3] = ["clock_gettime", "once_cell::imp::OnceCell<T>::initialize", "validit::"];

/// Reads a profile, without the functions whose cost depends on time.
///
/// # Errors
/// One sentence: it is not a profile of instructions, or it is incomplete.
pub fn parse(text: &str) -> Result<CostProfile, String> {
    let mut reader = CallgrindReader::default();
    for (at, line) in text.lines().enumerate() {
        reader.line(line).map_err(|why| format!("line {} of callgrind's output, {line:?}: {why}", at + 1))?;
    }
    reader.end()
}

#[derive(Default)]
struct CallgrindReader<'a> {
    profile: CostProfile,
    /// Names by their numbers in the profile.
    names: HashMap<&'a str, &'a str>,
    function: &'a str,
    /// The next cost is that of a called function.
    in_call: bool,
    total: Option<i64>,
}

impl<'a> CallgrindReader<'a> {
    fn line(&mut self, line: &'a str) -> Result<(), String> {
        let first = line.bytes().next().unwrap_or(b'#');
        if first.is_ascii_digit() || b"+-*".contains(&first) {
            return self.cost(line);
        }
        if let Some(name) = line.strip_prefix("fn=") {
            self.function = self.name(name)?;
        } else if let Some(name) = line.strip_prefix("cfn=") {
            self.name(name)?;
        } else if line.starts_with("calls=") {
            self.in_call = true;
        } else if let Some(events) = line.strip_prefix("events:") {
            if events.split_whitespace().next() != Some("Ir") {
                return Err("instructions (Ir) are expected first".into());
            }
        } else if let Some(total) = line.strip_prefix("totals:") {
            self.total = Some(number(total.trim())?);
        }
        Ok(())
    }

    /// A line of a function's cost: its position, then instructions (none for zero).
    fn cost(&mut self, line: &str) -> Result<(), String> {
        let of_callee = std::mem::take(&mut self.in_call);
        if let Some(count) = line.split_whitespace().nth(1).filter(|_| !of_callee) {
            self.profile.add(self.function, number(count)?);
        }
        Ok(())
    }

    /// `(12) name` the first time, `(12)` after that.
    fn name(&mut self, text: &'a str) -> Result<&'a str, String> {
        let (number, name) = text.split_once(')').ok_or("a name without a number")?;
        let name = name.trim();
        if !name.is_empty() {
            self.names.insert(number, base_name(name));
        }
        self.names.get(number).copied().ok_or_else(|| "a name that was not defined before".to_string())
    }

    fn end(self) -> Result<CostProfile, String> {
        let sum = self.profile.total();
        match self.total {
            Some(total) if total == sum => Ok(self.profile.only(|function| !is_time_dependent(function))),
            Some(total) => {
                Err(format!("callgrind counted {total} instructions, but its functions have {sum} together"))
            }
            None => Err("callgrind's output ends before its total".into()),
        }
    }
}

fn is_time_dependent(function: &str) -> bool {
    TIME_DEPENDENT.iter().any(|name| function.contains(name))
}

/// The name without the `'2` of a recursive call.
fn base_name(name: &str) -> &str {
    match name.rsplit_once('\'') {
        Some((base, depth)) if !depth.is_empty() && depth.bytes().all(|b| b.is_ascii_digit()) => base,
        _ => name,
    }
}

fn number(text: &str) -> Result<i64, String> {
    text.parse().map_err(|_| format!("{text:?} is not a count"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: &str = "\
# callgrind format
version: 1
positions: line
events: Ir
summary: 1000

ob=(3) /usr/lib/libc.so.6
fl=(634) ./socket/recv.c
fn=(6410) recv
28 196
-4
+4 4
cfi=(491) ./nptl/cancellation.c
cfn=(4116) volley_node::serve
calls=196 +4 
* 33320
* 100

fn=(4116)
12 300
fi=(7) /rustc/option.rs
fn=(4117) volley_node::walk'2
7 350
fn=(4118) volley_node::walk
* 50

totals: 1000
";

    #[test]
    fn callees_do_not_count_for_their_caller() {
        let profile = parse(SAMPLE).unwrap();
        assert_eq!(profile.total(), 1000);
        assert_eq!(profile.top(3), [("volley_node::walk", 400), ("recv", 300), ("volley_node::serve", 300)]);
    }

    #[test]
    fn time_dependent_functions_are_left_out() {
        let timed = SAMPLE.replace("(6410) recv", "(6410) clock_gettime@@GLIBC_2.17");
        assert_eq!(parse(&timed).unwrap().total(), 700);
    }

    #[test]
    fn incomplete_profile_is_an_error() {
        let cut = SAMPLE.replace("totals: 1000\n", "");
        assert!(parse(&cut).unwrap_err().contains("ends before"));
        let lost = SAMPLE.replace("7 350\n", "");
        assert!(parse(&lost).unwrap_err().contains("have 650 together"));
        let cache = SAMPLE.replace("events: Ir", "events: Dr Ir");
        assert!(parse(&cache).unwrap_err().contains("line 4"));
        let unknown = SAMPLE.replace("fn=(4116)\n", "fn=(9)\n");
        assert!(parse(&unknown).unwrap_err().contains("was not defined before"));
        assert!(parse(&SAMPLE.replace("12 300", "12 3x")).unwrap_err().contains("\"3x\" is not a count"));
    }
}
