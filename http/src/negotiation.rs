//! Which format and which content coding a client gets (RFC 9110, section 12), and which format a body has.

use axum::http::header::{ACCEPT, ACCEPT_ENCODING};
use axum::http::{HeaderMap, StatusCode};
use volley_common::Error;
use volley_common::options::fields::cut;
use volley_formats::Format;

use crate::problem::Problem;

/// An Arrow stream.
pub const ARROW_STREAM: &str = "application/vnd.apache.arrow.stream";
const CSV: &str = "text/csv";
const NDJSON: &str = "application/x-ndjson";
const PARQUET: &str = "application/vnd.apache.parquet";

/// What rows are sent as, in the order of preference: media type, value of the parameter `format`, format.
pub(crate) const ROW_FORMATS: [(&str, &str, Format); 4] = [
    (ARROW_STREAM, "arrow", Format::Arrows),
    (CSV, "csv", Format::Csv),
    (NDJSON, "ndjson", Format::Jsonl),
    (PARQUET, "parquet", Format::Parquet),
];

/// What a client gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Representation {
    /// The format of the rows.
    pub format: Format,
    /// How the whole response is compressed.
    pub coding: ContentCoding,
    /// Whether the buffers of an Arrow stream may be compressed, as they are stored, or for a slow link.
    pub as_stored: bool,
}

/// How a response is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ContentCoding {
    Identity,
    Gzip,
    Zstd,
}

impl ContentCoding {
    /// Its name in headers; none for what needs none.
    pub fn name(self) -> Option<&'static str> {
        match self {
            ContentCoding::Identity => None,
            ContentCoding::Gzip => Some("gzip"),
            ContentCoding::Zstd => Some("zstd"),
        }
    }
}

impl Representation {
    /// What the headers ask for; `format`: the parameter, which overrides `Accept`.
    ///
    /// # Errors
    /// 406: no such format, or nothing of what the client accepts.
    pub fn of(headers: &HeaderMap, format: Option<&str>) -> Result<Self, Problem> {
        let accept = joined(headers, ACCEPT.as_str());
        let ranges: Vec<WeightedItem<'_>> = items(&accept);
        let format = match format {
            Some(name) => ROW_FORMATS.iter().find(|(_, known, _)| *known == name).map(|(_, _, format)| *format),
            None => preferred(&ranges),
        };
        let Some(format) = format else { return Err(not_acceptable(headers)) };
        let as_stored = format == Format::Arrows && accepts_both_codecs(&ranges);
        // Parquet is compressed in itself, and so are stored buffers.
        let coding = if format == Format::Parquet || as_stored { ContentCoding::Identity } else { coding(headers) };
        Ok(Representation { format, coding, as_stored })
    }

    /// The media type, with the codecs of its buffers.
    pub fn content_type(&self) -> String {
        let [(arrow, ..), (csv, ..), (ndjson, ..), (parquet, ..)] = ROW_FORMATS;
        match self.format {
            Format::Csv | Format::Tsv => format!("{csv}; charset=utf-8; header=present"),
            Format::Jsonl => ndjson.to_string(),
            Format::Parquet => parquet.to_string(),
            Format::Arrow | Format::Arrows if self.as_stored => format!("{arrow}; codecs=\"lz4, zstd\""),
            Format::Arrow | Format::Arrows => arrow.to_string(),
        }
    }

    /// The extension of a file with it.
    pub fn extension(&self) -> &'static str {
        match self.format {
            Format::Csv | Format::Tsv => "csv",
            Format::Jsonl => "ndjson",
            Format::Parquet => "parquet",
            Format::Arrow | Format::Arrows => "arrows",
        }
    }
}

/// The format of a request's body.
///
/// # Errors
/// 415: another one, or none.
pub(crate) fn format_of_body(content_type: Option<&str>) -> Result<Format, Problem> {
    let given = content_type.unwrap_or_default();
    let essence = given.split(';').next().unwrap_or_default().trim();
    let known = ROW_FORMATS.iter().find(|(media, _, _)| media.eq_ignore_ascii_case(essence));
    known.map(|(_, _, format)| *format).ok_or_else(|| {
        let types: Vec<&str> = ROW_FORMATS.iter().map(|(media, _, _)| *media).collect();
        let text = format!("the content-type is {:?}, and must be one of {}", cut(given), types.join(", "));
        Problem::with_status(StatusCode::UNSUPPORTED_MEDIA_TYPE, Error::invalid(text))
    })
}

fn not_acceptable(headers: &HeaderMap) -> Problem {
    let types: Vec<String> = ROW_FORMATS.iter().map(|(media, name, _)| format!("{media} (format={name})")).collect();
    let text = format!(
        "there is no such format: the formats are {}, by the header accept ({:?}) or the parameter format",
        types.join(", "),
        cut(&joined(headers, ACCEPT.as_str()))
    );
    Problem::with_status(StatusCode::NOT_ACCEPTABLE, Error::invalid(text))
}

/// All values of a header as one list.
fn joined(headers: &HeaderMap, name: &str) -> String {
    let values: Vec<&str> = headers.get_all(name).iter().filter_map(|value| value.to_str().ok()).collect();
    values.join(",")
}

/// An item of a list with its parameters.
#[derive(Debug)]
struct WeightedItem<'a> {
    name: &'a str,
    codecs: &'a str,
    /// In thousandths.
    weight: u32,
}

fn items(list: &str) -> Vec<WeightedItem<'_>> {
    split_unquoted(list, ',').filter(|item| !item.trim().is_empty()).map(item).collect()
}

fn item(text: &str) -> WeightedItem<'_> {
    let mut parts = split_unquoted(text, ';').map(str::trim);
    let name = parts.next().unwrap_or_default();
    let (mut codecs, mut weight) = ("", 1000);
    for (key, value) in parts.filter_map(|part| part.split_once('=')) {
        let value = value.trim();
        match key.trim() {
            key if key.eq_ignore_ascii_case("q") => weight = thousandths(value),
            key if key.eq_ignore_ascii_case("codecs") => codecs = value.trim_matches('"'),
            _ => {}
        }
    }
    WeightedItem { name, codecs, weight }
}

/// What is no weight counts as 0: the client wanted to say less than 1.
fn thousandths(text: &str) -> u32 {
    let weight = text.parse::<f64>().ok().filter(|weight| (0.0..=1.0).contains(weight));
    (weight.unwrap_or(0.0) * 1000.0) as u32
}

/// The parts between separators that are not in quotes.
fn split_unquoted(text: &str, separator: char) -> impl Iterator<Item = &str> {
    let mut quoted = false;
    text.split(move |c: char| {
        quoted ^= c == '"';
        c == separator && !quoted
    })
}

/// The format that the client prefers; that of `*/*`, and of no header, is an Arrow stream.
fn preferred(ranges: &[WeightedItem<'_>]) -> Option<Format> {
    if ranges.is_empty() {
        return Some(Format::Arrows);
    }
    let mut best: Option<(u32, Format)> = None;
    for (media, _, format) in ROW_FORMATS {
        let weight = weight_of(ranges, media);
        if weight > best.map_or(0, |(weight, _)| weight) {
            best = Some((weight, format));
        }
    }
    best.map(|(_, format)| format)
}

/// The weight of the range that describes a media type most closely.
fn weight_of(ranges: &[WeightedItem<'_>], media: &str) -> u32 {
    let kind = media.split('/').next().unwrap_or_default();
    let closeness = |range: &WeightedItem<'_>| match range.name {
        name if name.eq_ignore_ascii_case(media) => Some(2),
        "*/*" | "*" => Some(0),
        name => name.strip_suffix("/*").filter(|name| name.eq_ignore_ascii_case(kind)).map(|_| 1),
    };
    let found = ranges.iter().filter_map(|range| Some((closeness(range)?, range.weight)));
    found.max().map_or(0, |(_, weight)| weight)
}

/// Whether the client reads Arrow streams whose buffers are compressed by either codec.
fn accepts_both_codecs(ranges: &[WeightedItem<'_>]) -> bool {
    let arrow = ranges.iter().filter(|range| range.name.eq_ignore_ascii_case(ARROW_STREAM) && range.weight > 0);
    let has = |codecs: &str, one: &str| codecs.split(',').any(|codec| codec.trim().eq_ignore_ascii_case(one));
    arrow.into_iter().any(|range| has(range.codecs, "lz4") && has(range.codecs, "zstd"))
}

/// The content coding that the client prefers among those that it names.
fn coding(headers: &HeaderMap) -> ContentCoding {
    let accept = joined(headers, ACCEPT_ENCODING.as_str());
    let accepted = items(&accept);
    let weight =
        |name: &str| accepted.iter().find(|item| item.name.eq_ignore_ascii_case(name)).map_or(0, |item| item.weight);
    let (zstd, gzip, identity) = (weight("zstd"), weight("gzip"), weight("identity"));
    match zstd.max(gzip) {
        0 => ContentCoding::Identity,
        best if best < identity => ContentCoding::Identity,
        best if best == zstd => ContentCoding::Zstd,
        _ => ContentCoding::Gzip,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn of(accept: &str, encoding: &str) -> Option<(Format, ContentCoding, bool)> {
        let mut headers = HeaderMap::new();
        for (name, value) in [(ACCEPT, accept), (ACCEPT_ENCODING, encoding)] {
            if !value.is_empty() {
                headers.insert(name, value.parse().unwrap());
            }
        }
        let found = Representation::of(&headers, None).ok()?;
        Some((found.format, found.coding, found.as_stored))
    }

    #[test]
    fn format_is_what_the_client_prefers() {
        let format = |accept: &str| of(accept, "").map(|(format, ..)| format);
        for (accept, expected) in [
            ("", Some(Format::Arrows)),
            ("*/*", Some(Format::Arrows)),
            ("text/csv", Some(Format::Csv)),
            ("TEXT/CSV; charset=utf-8", Some(Format::Csv)),
            ("text/*", Some(Format::Csv)),
            ("text/csv;q=0.5, application/x-ndjson;q=0.6", Some(Format::Jsonl)),
            ("text/csv;q=0.5, application/vnd.apache.arrow.stream;q=0.5", Some(Format::Arrows)),
            ("application/vnd.apache.arrow.stream;q=0, */*;q=0.1", Some(Format::Csv)),
            ("application/vnd.apache.parquet, */*;q=0.8", Some(Format::Parquet)),
            ("text/html, application/xhtml+xml, */*;q=0.8", Some(Format::Arrows)),
            ("text/html", None),
            ("text/csv;q=0", None),
            ("text/csv;q=x", None),
            (",,;=,", None),
        ] {
            assert_eq!(format(accept), expected, "{accept}");
        }
    }

    #[test]
    fn coding_is_one_that_the_client_names() {
        let coding = |encoding: &str| of("text/csv", encoding).unwrap().1;
        for (encoding, expected) in [
            ("", ContentCoding::Identity),
            ("gzip, deflate, br, zstd", ContentCoding::Zstd),
            ("gzip;q=1.0, zstd;q=0.5", ContentCoding::Gzip),
            ("identity, gzip;q=0.5", ContentCoding::Identity),
            ("lz4", ContentCoding::Identity),
            ("*", ContentCoding::Identity),
            ("zstd;q=0", ContentCoding::Identity),
        ] {
            assert_eq!(coding(encoding), expected, "{encoding}");
        }
        let parquet = of("application/vnd.apache.parquet", "zstd").unwrap();
        assert_eq!(parquet, (Format::Parquet, ContentCoding::Identity, false));
    }

    #[test]
    fn stored_buffers_are_for_clients_that_read_both_codecs() {
        let arrow = |codecs: &str| of(&format!("{ARROW_STREAM}; codecs={codecs}"), "zstd").unwrap();
        assert_eq!(arrow("\"zstd, lz4\""), (Format::Arrows, ContentCoding::Identity, true));
        assert_eq!(arrow("\"zstd\""), (Format::Arrows, ContentCoding::Zstd, false));
    }

    #[test]
    fn body_has_a_known_type() {
        assert_eq!(format_of_body(Some("text/csv; charset=utf-8")).ok(), Some(Format::Csv));
        assert_eq!(format_of_body(Some(ARROW_STREAM)).ok(), Some(Format::Arrows));
        for other in [None, Some(""), Some("text/plain"), Some("application/json"), Some("multipart/form-data")] {
            assert!(format_of_body(other).is_err(), "{other:?}");
        }
    }
}
