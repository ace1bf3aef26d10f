//! `volley man`: pages of man, from the definitions of the command line.

use std::fs;
use std::path::Path;

use clap::{Command, CommandFactory};
use clap_mangen::Man;
use volley_common::{Error, Result};

use crate::args::Args;
use crate::output::{self, plural};

/// Writes a page for each command into `dir`: `volley.1`, `volley-put.1`.
///
/// # Errors
/// UNAVAILABLE: a file cannot be written.
pub fn run(dir: &Path) -> Result<()> {
    fs::create_dir_all(dir).map_err(|e| Error::unavailable(format!("cannot create {}: {e}", dir.display())))?;
    let mut command = Args::command().disable_help_subcommand(true);
    command.build();
    let pages = write(&command, dir)?;
    output::line(format!(
        "wrote {} into {}: `man {}` shows the first",
        plural(pages, "page"),
        dir.display(),
        dir.join("volley.1").display()
    ))
}

/// Writes the pages of a command and of those below it; returns how many.
fn write(command: &Command, dir: &Path) -> Result<i64> {
    let man = Man::new(command.clone()).manual("Volley");
    let path = dir.join(man.get_filename());
    let mut page = Vec::new();
    // A Vec takes everything.
    let rendered = man.render(&mut page).and_then(|()| fs::write(&path, page));
    rendered.map_err(|e| Error::unavailable(format!("cannot write {}: {e}", path.display())))?;
    let below = command.get_subcommands().filter(|one| !one.is_hide_set());
    below.map(|one| write(one, dir)).try_fold(1, |sum, pages| Ok(sum + pages?))
}
