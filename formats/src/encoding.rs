//! Encodings of CSV. What a text does not say for certain is refused: bytes without a character, half of a surrogate pair, a
//! byte order that is not known.

use std::fmt;
use std::io::{Error, ErrorKind, Read, Result};

use clap::ValueEnum;

/// Bytes decoded at a time.
const READ_BYTES: usize = 128 << 10;
/// Bytes of the longest mark at the start of a text, and of the longest character.
const MIN_BYTES: usize = 4;
/// A byte that Windows-1252 does not define.
const NONE: char = '\0';
/// The characters of the bytes 0x80 to 0x9f.
const WINDOWS_1252: [char; 32] = [
    '€', NONE, '‚', 'ƒ', '„', '…', '†', '‡', 'ˆ', '‰', 'Š', '‹', 'Œ', NONE, 'Ž', NONE, NONE, '‘', '’', '“', '”', '•',
    '–', '—', '˜', '™', 'š', '›', 'œ', NONE, 'ž', 'Ÿ',
];

/// The encoding of a text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum TextEncoding {
    /// UTF-8, with or without a byte order mark.
    #[default]
    #[value(name = "utf-8", alias = "utf8")]
    Utf8,
    /// ISO 8859-1.
    #[value(name = "latin-1", aliases = ["latin1", "iso-8859-1"])]
    Latin1,
    /// Western Windows.
    #[value(name = "windows-1252", alias = "cp1252")]
    Windows1252,
    /// UTF-16 with a byte order mark; little-endian where it is written.
    #[value(name = "utf-16", alias = "utf16")]
    Utf16,
    /// UTF-16, little-endian.
    #[value(name = "utf-16le")]
    Utf16Le,
    /// UTF-16, big-endian.
    #[value(name = "utf-16be")]
    Utf16Be,
}

impl fmt::Display for TextEncoding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            TextEncoding::Utf8 => "utf-8",
            TextEncoding::Latin1 => "latin-1",
            TextEncoding::Windows1252 => "windows-1252",
            TextEncoding::Utf16 => "utf-16",
            TextEncoding::Utf16Le => "utf-16le",
            TextEncoding::Utf16Be => "utf-16be",
        })
    }
}

/// The character of a byte in Windows-1252.
fn windows_1252(byte: u8) -> Option<char> {
    match byte {
        0x80..=0x9f => Some(WINDOWS_1252[usize::from(byte - 0x80)]).filter(|c| *c != NONE),
        _ => Some(char::from(byte)),
    }
}

/// The byte of a character in Windows-1252.
fn windows_1252_byte(c: char) -> Option<u8> {
    match u8::try_from(u32::from(c)) {
        Ok(byte) if !(0x80..=0x9f).contains(&byte) => Some(byte),
        _ => WINDOWS_1252.iter().position(|known| *known == c && c != NONE).map(|at| at as u8 + 0x80),
    }
}

impl TextEncoding {
    /// The bytes before the first character of a text that is written.
    pub fn mark(self) -> &'static [u8] {
        if self == TextEncoding::Utf16 { b"\xff\xfe" } else { b"" }
    }

    /// The first character of the text that the encoding lacks.
    pub fn missing(self, text: &str) -> Option<char> {
        match self {
            TextEncoding::Latin1 => text.chars().find(|c| u32::from(*c) > 0xff),
            TextEncoding::Windows1252 => text.chars().find(|c| windows_1252_byte(*c).is_none()),
            TextEncoding::Utf8 | TextEncoding::Utf16 | TextEncoding::Utf16Le | TextEncoding::Utf16Be => None,
        }
    }

    /// Appends the bytes of a text to `out`; a character that is [`TextEncoding::missing`] is an error.
    pub fn encode(self, text: &str, out: &mut Vec<u8>) -> Result<()> {
        let missing = || Error::new(ErrorKind::InvalidData, format!("a character is not in {self}"));
        match self {
            TextEncoding::Utf8 => out.extend_from_slice(text.as_bytes()),
            TextEncoding::Latin1 => {
                for c in text.chars() {
                    out.push(u8::try_from(u32::from(c)).map_err(|_| missing())?);
                }
            }
            TextEncoding::Windows1252 => {
                for c in text.chars() {
                    out.push(windows_1252_byte(c).ok_or_else(missing)?);
                }
            }
            TextEncoding::Utf16 | TextEncoding::Utf16Le => out.extend(text.encode_utf16().flat_map(u16::to_le_bytes)),
            TextEncoding::Utf16Be => out.extend(text.encode_utf16().flat_map(u16::to_be_bytes)),
        }
        Ok(())
    }
}

/// Reads a text of another encoding as UTF-8, without its byte order mark.
pub struct Utf8Reader<R> {
    input: R,
    encoding: TextEncoding,
    /// Bytes that are not decoded yet.
    bytes: Vec<u8>,
    /// Decoded text, and how much of it was read.
    text: String,
    at: usize,
    /// Line ends before `text`.
    lines: usize,
    started: bool,
}

impl<R: Read> Utf8Reader<R> {
    /// Decodes `input`.
    pub fn new(input: R, encoding: TextEncoding) -> Self {
        let (bytes, text) = (Vec::new(), String::new());
        Utf8Reader { input, encoding, bytes, text, at: 0, lines: 0, started: false }
    }

    fn invalid(&self, text: impl fmt::Display) -> Error {
        let line = self.lines + self.text.matches('\n').count() + 1;
        Error::new(ErrorKind::InvalidData, format!("line {line}: {text}"))
    }

    /// Decodes the next text; none is left if that is empty.
    fn refill(&mut self) -> Result<()> {
        self.lines += self.text.matches('\n').count();
        self.text.clear();
        self.at = 0;
        let mut is_end = false;
        while self.text.is_empty() && !is_end {
            is_end = self.read_bytes()?;
            if !self.started && !self.bytes.is_empty() {
                self.started = true;
                self.skip_mark()?;
            }
            let decoded = self.decode()?;
            self.bytes.drain(..decoded);
            if is_end && !self.bytes.is_empty() {
                return Err(self.invalid("the text ends within a character"));
            }
        }
        Ok(())
    }

    /// Reads some bytes; whether these are the last ones.
    fn read_bytes(&mut self) -> Result<bool> {
        loop {
            let before = self.bytes.len();
            self.bytes.resize(before + READ_BYTES, 0);
            let read = self.input.read(&mut self.bytes[before..]);
            self.bytes.truncate(before + read.as_ref().map_or(0, |read| *read));
            match read? {
                0 => return Ok(true),
                _ if self.bytes.len() >= MIN_BYTES => return Ok(false),
                _ => {}
            }
        }
    }

    /// Removes the byte order mark, which tells the order of UTF-16.
    fn skip_mark(&mut self) -> Result<()> {
        let (little, big) = (self.bytes.starts_with(b"\xff\xfe"), self.bytes.starts_with(b"\xfe\xff"));
        match self.encoding {
            TextEncoding::Utf16 if little => self.encoding = TextEncoding::Utf16Le,
            TextEncoding::Utf16 if big => self.encoding = TextEncoding::Utf16Be,
            TextEncoding::Utf16 => {
                return Err(self.invalid(
                    "UTF-16 without a byte order mark: give --encoding utf-16le, as Windows writes it, or utf-16be",
                ));
            }
            TextEncoding::Utf16Le if big => return Err(self.invalid("the byte order mark is that of utf-16be")),
            TextEncoding::Utf16Be if little => return Err(self.invalid("the byte order mark is that of utf-16le")),
            TextEncoding::Latin1 | TextEncoding::Windows1252 if self.bytes.starts_with(b"\xef\xbb\xbf") => {
                return Err(self.invalid("the byte order mark is that of UTF-8: leave out --encoding"));
            }
            _ if little || big => {}
            _ => return Ok(()),
        }
        if matches!(self.encoding, TextEncoding::Utf16Le | TextEncoding::Utf16Be) {
            self.bytes.drain(..2);
        }
        Ok(())
    }

    /// Decodes whole characters; returns the number of their bytes.
    fn decode(&mut self) -> Result<usize> {
        match self.encoding {
            TextEncoding::Latin1 => self.text.extend(self.bytes.iter().map(|byte| char::from(*byte))),
            TextEncoding::Windows1252 => {
                for byte in &self.bytes {
                    match windows_1252(*byte) {
                        Some(c) => self.text.push(c),
                        None => {
                            let text = format!("the byte 0x{byte:02x} is no character of windows-1252");
                            return Err(self.invalid(text));
                        }
                    }
                }
            }
            TextEncoding::Utf16Be => return self.decode_utf16(u16::from_be_bytes),
            TextEncoding::Utf16 | TextEncoding::Utf16Le => return self.decode_utf16(u16::from_le_bytes),
            TextEncoding::Utf8 => return Err(Error::other("UTF-8 is read as it is")),
        }
        Ok(self.bytes.len())
    }

    fn decode_utf16(&mut self, unit: fn([u8; 2]) -> u16) -> Result<usize> {
        let units: Vec<u16> = self.bytes.chunks_exact(2).map(|pair| unit([pair[0], pair[1]])).collect();
        // The second half of the last character may come with the next bytes.
        let is_split = units.last().is_some_and(|last| (0xd800..0xdc00).contains(last));
        let whole = units.len() - usize::from(is_split);
        for c in char::decode_utf16(units[..whole].iter().copied()) {
            match c {
                Ok(c) => self.text.push(c),
                Err(e) => {
                    let text = format!("0x{:04x} is half of a character of UTF-16", e.unpaired_surrogate());
                    return Err(self.invalid(text));
                }
            }
        }
        Ok(whole * 2)
    }
}

impl<R: Read> Read for Utf8Reader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        if self.at == self.text.len() {
            self.refill()?;
        }
        let length = buffer.len().min(self.text.len() - self.at);
        buffer[..length].copy_from_slice(&self.text.as_bytes()[self.at..self.at + length]);
        self.at += length;
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives one byte at a time, so that every character is split.
    struct SingleBytes<'a>(&'a [u8]);

    impl Read for SingleBytes<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
            let length = self.0.len().min(buffer.len()).min(1);
            buffer[..length].copy_from_slice(&self.0[..length]);
            self.0 = &self.0[length..];
            Ok(length)
        }
    }

    fn decode(bytes: &[u8], encoding: TextEncoding) -> std::result::Result<String, String> {
        let mut text = String::new();
        let read = Utf8Reader::new(SingleBytes(bytes), encoding).read_to_string(&mut text);
        read.map(|_| text).map_err(|e| e.to_string())
    }

    #[test]
    fn text_of_every_encoding_comes_back() {
        use TextEncoding::*;
        for (encoding, text) in [
            (Latin1, "a,\u{e9}\n\u{85}\u{ff}"),
            (Windows1252, "a,\u{e9}\n\u{20ac}\u{178}\u{a0}"),
            (Utf16, "a,\u{e9}\n\u{1f600}\u{20ac}"),
            (Utf16Le, "\u{1f600}"),
            (Utf16Be, "a\u{1f600}b"),
            (Latin1, ""),
            (Utf16, ""),
        ] {
            let mut bytes = encoding.mark().to_vec();
            encoding.encode(text, &mut bytes).unwrap();
            assert_eq!(decode(&bytes, encoding).as_deref(), Ok(text), "{encoding}");
        }
        assert_eq!(decode(b"\xfe\xff\0a", Utf16).as_deref(), Ok("a"));
        assert_eq!(decode(b"", Utf16).as_deref(), Ok(""));
        let long = "\u{1f600}\n".repeat(READ_BYTES);
        let mut bytes = Vec::new();
        Utf16Be.encode(&long, &mut bytes).unwrap();
        let mut back = String::new();
        Utf8Reader::new(&bytes[..], Utf16Be).read_to_string(&mut back).unwrap();
        assert_eq!(back.len(), long.len());
    }

    #[test]
    fn bytes_without_a_character_are_named_by_their_line() {
        use TextEncoding::*;
        let cases: [(&[u8], TextEncoding, &str); 8] = [
            (b"a\nb\x81", Windows1252, "line 2: the byte 0x81 is no character"),
            (b"\xef\xbb\xbfa", Latin1, "the byte order mark is that of UTF-8"),
            (b"a\0", Utf16, "line 1: UTF-16 without a byte order mark"),
            (b"\xfe\xff\0a", Utf16Le, "that of utf-16be"),
            (b"a\0b", Utf16Le, "ends within a character"),
            (b"\n\0\x3d\xd8", Utf16Le, "line 2: the text ends within a character"),
            (b"\n\0\x3d\xd8a\0", Utf16Le, "line 2: 0xd83d is half of a character"),
            (b"\0\xde", Utf16Le, "0xde00 is half"),
        ];
        for (bytes, encoding, expected) in cases {
            let error = decode(bytes, encoding).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
        assert_eq!(Latin1.missing("a\u{20ac}"), Some('\u{20ac}'));
        assert_eq!(Windows1252.missing("\u{20ac}\u{81}"), Some('\u{81}'));
        assert_eq!((Utf16.missing("\u{1f600}"), Windows1252.missing("a\0")), (None, None));
    }
}
