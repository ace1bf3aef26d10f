//! The header with which a node tells a coordinator which parts a read with a filter can leave out.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderValue};
use prost::Message;

use crate::wire::cluster::PartFilter;

/// The header: a [`PartFilter`] in base64, beside [`FILTER_CHECKED_HEADER`](super::sql::FILTER_CHECKED_HEADER). Coordinators of
/// earlier versions ignore it, and plan all parts. A client that sends it itself gets what it asks for: fewer rows of what it may
/// read.
pub const PART_FILTER_HEADER: &str = "volley-part-filter";

/// Maximum bytes of its value; nodes send half of that at most.
const MAX_BYTES: usize = 4096;

/// The header's value; `None` if it would be too long.
pub fn header_value(filter: &PartFilter) -> Option<HeaderValue> {
    let text = STANDARD.encode(filter.encode_to_vec());
    HeaderValue::try_from(text).ok().filter(|value| value.len() <= MAX_BYTES)
}

/// What the headers of a call say; `None`: nothing that can be read.
pub fn from_headers(headers: &HeaderMap) -> Option<PartFilter> {
    let value = headers.get(PART_FILTER_HEADER).filter(|value| value.len() <= MAX_BYTES)?;
    PartFilter::decode(&STANDARD.decode(value.as_bytes()).ok()?[..]).ok()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::wire::cluster::BoundCondition;

    #[test]
    fn filter_comes_back_from_its_header() {
        let condition =
            Some(BoundCondition { test: 5, column: 7, value: vec![1, 2].into(), ..BoundCondition::default() });
        let filter = PartFilter { schema: u64::MAX, condition };
        let mut headers = HeaderMap::new();
        headers.insert(PART_FILTER_HEADER, header_value(&filter).unwrap());
        assert_eq!(from_headers(&headers), Some(filter));
    }

    #[test]
    fn header_that_cannot_be_read_says_nothing() {
        let mut headers = HeaderMap::new();
        assert_eq!(from_headers(&headers), None);
        for value in ["no base64!", "/////w==", &"A".repeat(MAX_BYTES + 4)] {
            headers.insert(PART_FILTER_HEADER, value.parse().unwrap());
            assert_eq!(from_headers(&headers), None, "{value}");
        }
        let condition = Some(BoundCondition { value: vec![7; MAX_BYTES].into(), ..BoundCondition::default() });
        assert_eq!(header_value(&PartFilter { schema: 1, condition }), None);
    }
}
