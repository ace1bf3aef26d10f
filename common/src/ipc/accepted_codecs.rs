//! Which codecs the reader of a stream accepts in its messages, whatever they are stored with.

use http::HeaderMap;

use super::compress::BodyCodec;

/// The header of a DoGet with the codecs that its reader accepts, separated by commas. Without the prefix of options: coordinators
/// remove those when they forward a call, and members of earlier versions, which do not know it, ignore it.
pub const ACCEPT_CODECS_HEADER: &str = "volley-accept-codecs";
/// Its value for a reader that accepts all codecs of Arrow.
pub const ALL_CODECS: &str = "lz4, zstd";

/// The codecs that a reader accepts besides plain messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AcceptedCodecs {
    /// LZ4 frames.
    pub lz4: bool,
    /// Zstandard.
    pub zstd: bool,
}

impl AcceptedCodecs {
    /// Those of a call's headers. Names that are not known are left out: a later version may have further codecs.
    pub fn of(headers: &HeaderMap) -> Self {
        let lists = headers.get_all(ACCEPT_CODECS_HEADER).iter().filter_map(|value| value.to_str().ok());
        lists.flat_map(|list| list.split(',')).fold(AcceptedCodecs::default(), |accepted, name| match name.trim() {
            name if name.eq_ignore_ascii_case("lz4") => AcceptedCodecs { lz4: true, ..accepted },
            name if name.eq_ignore_ascii_case("zstd") => AcceptedCodecs { zstd: true, ..accepted },
            _ => accepted,
        })
    }

    /// Whether there is one.
    pub fn any(self) -> bool {
        self.lz4 || self.zstd
    }

    /// Whether this is one of them.
    pub fn accepts(self, codec: BodyCodec) -> bool {
        match codec {
            BodyCodec::Lz4 => self.lz4,
            BodyCodec::Zstd => self.zstd,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn codecs_are_those_that_are_known() {
        let of = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(ACCEPT_CODECS_HEADER, value.parse().unwrap());
            }
            let AcceptedCodecs { lz4, zstd } = AcceptedCodecs::of(&headers);
            (lz4, zstd)
        };
        assert_eq!(of(&[ALL_CODECS]), (true, true));
        assert_eq!((of(&[]), of(&[""]), of(&["brotli"])), ((false, false), (false, false), (false, false)));
        assert_eq!(
            (of(&["LZ4"]), of(&["snappy,zstd"]), of(&["lz4", "zstd"])),
            ((true, false), (false, true), (true, true))
        );
        assert!(
            AcceptedCodecs::default() == AcceptedCodecs { lz4: false, zstd: false } && !AcceptedCodecs::default().any()
        );
    }
}
