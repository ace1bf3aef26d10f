//! Colours of text for people: at terminals only, and not if `NO_COLOR` or `--color never` says so.

use std::io::{stderr, stdout};

use anstream::{AutoStream, ColorChoice};
use anstyle::{AnsiColor, Style};
use clap::ValueEnum;

/// When there are colours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum ColourChoice {
    /// At a terminal that shows them, unless NO_COLOR is set.
    #[default]
    Auto,
    /// In files and pipes, too.
    Always,
    /// Nowhere.
    Never,
}

impl ColourChoice {
    /// Sets the choice for this process.
    pub fn apply(self) {
        let choice = match self {
            ColourChoice::Auto => ColorChoice::Auto,
            ColourChoice::Always => ColorChoice::AlwaysAnsi,
            ColourChoice::Never => ColorChoice::Never,
        };
        choice.write_global();
    }
}

/// What a coloured word means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    /// All is well.
    Good,
    /// It works, and somebody should know.
    Warning,
    /// It does not work.
    Bad,
    /// A title.
    Title,
    /// Less important than the text around.
    Aside,
}

impl Tone {
    fn style(self) -> Style {
        match self {
            Tone::Good => AnsiColor::Green.on_default(),
            Tone::Warning => AnsiColor::Yellow.on_default(),
            Tone::Bad => AnsiColor::Red.on_default().bold(),
            Tone::Title => Style::new().bold(),
            Tone::Aside => Style::new().dimmed(),
        }
    }

    /// The text in this tone, for standard output. It may have no characters that are not visible.
    pub fn out(self, text: &str) -> String {
        self.paint(text, has_coloured_output())
    }

    /// The same for standard error.
    pub fn err(self, text: &str) -> String {
        self.paint(text, has_coloured_errors())
    }

    fn paint(self, text: &str, has_colours: bool) -> String {
        let style = self.style();
        if has_colours { format!("{style}{text}{style:#}") } else { text.into() }
    }
}

/// Whether standard output has colours.
pub fn has_coloured_output() -> bool {
    AutoStream::choice(&stdout()) != ColorChoice::Never
}

/// Whether standard error has colours.
pub fn has_coloured_errors() -> bool {
    AutoStream::choice(&stderr()) != ColorChoice::Never
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_without_colours_is_plain() {
        for tone in [Tone::Good, Tone::Warning, Tone::Bad, Tone::Title, Tone::Aside] {
            assert_eq!(tone.paint("ok", false), "ok");
            let painted = tone.paint("ok", true);
            assert!(painted.starts_with("\u{1b}[") && painted.ends_with("ok\u{1b}[0m"), "{painted:?}");
        }
    }
}
