//! The target `schemas` under libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(init: volley_fuzz::entry::prepare("schemas"), |data: &[u8]| volley_fuzz::entry::feed(data));
