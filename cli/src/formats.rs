//! Files of all formats of `volley-formats`, on this machine or in a storage service (see [`remote`]), and those that are written.

use std::path::Path;

use volley_common::{Error, Result};

pub use volley_formats::{
    CsvOptions, Format, InputFile, Int96Needs, OutputOptions, ReadProgress, ascii_character, check_named_text,
    file_error, int96_needs, io_error, json_lines, message_path, open, schema, text,
};

mod output_file;
mod remote;
mod target;
#[cfg(test)]
mod tests;
mod write;

pub use remote::RemoteUrl;
pub use target::is_stdout;
pub use write::create;

/// Opens a file, as [`InputFile::new`]; a URL is downloaded, so that this must not be called where async code runs.
///
/// # Errors
/// Those of [`InputFile::new`], of the download, and without a format those of [`check_named_text`].
pub fn input_file(path: &Path, format: Option<Format>) -> Result<InputFile> {
    let file = open_input(path, format)?;
    if format.is_none() {
        check_named_text(&file)?;
    }
    Ok(file)
}

fn open_input(path: &Path, format: Option<Format>) -> Result<InputFile> {
    let Some(url) = RemoteUrl::of(path) else { return InputFile::new(path, format) };
    let name = url.name();
    let format = match format {
        Some(format) => format,
        None => Format::of(&name)?,
    };
    let mut copy = tempfile::tempfile().map_err(|e| io_error(&std::env::temp_dir(), &e))?;
    let bytes = url.download(&mut copy)?;
    InputFile::of_copy(&name, format, bytes, copy)
}

/// The format of an output: the one that is given, else that of the path's extension.
///
/// # Errors
/// INVALID_ARGUMENT: the extension is that of another format than the one given, as which the file would be read later; or no
/// format is given, and the extension is unknown.
pub fn output_format(path: &Path, given: Option<Format>) -> Result<Format> {
    // Readers tell files and streams of Arrow apart by their content.
    let is_arrow = |format: Format| matches!(format, Format::Arrow | Format::Arrows);
    match (given, Format::of(path)) {
        (Some(given), Ok(named)) if given != named && !(is_arrow(given) && is_arrow(named)) => {
            let text =
                "its extension is that of another format than --format: leave out --format, or give another name";
            Err(Error::invalid(format!("{}: {text}", message_path(path).display())))
        }
        (Some(given), _) => Ok(given),
        (None, named) => named,
    }
}

/// The schema of a file of this machine, as [`text::schema_file`].
///
/// # Errors
/// INVALID_ARGUMENT: a URL, and those of [`text::schema_file`].
pub fn schema_file(path: &Path) -> Result<arrow::datatypes::SchemaRef> {
    if RemoteUrl::of(path).is_some() {
        return Err(Error::invalid(format!(
            "{}: a schema is read from a file of this machine",
            message_path(path).display()
        )));
    }
    text::schema_file(path)
}
