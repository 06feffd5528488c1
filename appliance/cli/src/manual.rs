//! `gabion completion` and `gabion man`, both made from the command line's own definition.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::CommandFactory;
use clap_complete::Shell;

/// Prints a completion script for a shell
///
/// For instance: gabion completion bash > /etc/bash_completion.d/gabion
#[derive(Debug, clap::Args)]
pub(crate) struct Completion {
    #[arg(value_enum)]
    shell: Shell,
}

/// Prints the manual page, or writes one for each command
#[derive(Debug, clap::Args)]
pub(crate) struct Manual {
    /// Writes gabion.1, gabion-push.1 and so on to this directory
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

impl Completion {
    pub(crate) fn run<C: CommandFactory>(&self) {
        clap_complete::generate(self.shell, &mut C::command(), "gabion", &mut std::io::stdout());
    }
}

impl Manual {
    /// # Errors
    /// If the pages cannot be written.
    pub(crate) fn run<C: CommandFactory>(&self) -> Result<()> {
        match &self.dir {
            Some(directory) => {
                std::fs::create_dir_all(directory)
                    .with_context(|| format!("cannot make {}", directory.display()))?;
                clap_mangen::generate_to(C::command(), directory)
                    .with_context(|| format!("cannot write to {}", directory.display()))
            }
            None => clap_mangen::Man::new(C::command())
                .render(&mut std::io::stdout())
                .context("cannot print the manual page"),
        }
    }
}
