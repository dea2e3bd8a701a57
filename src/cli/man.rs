//! `kfwatch man`: writes the manual pages, for packages: one for kfwatch and one for each command and subcommand.
//!
//! Synopsis and options come from the definition of the command line. The sections on exit status, signals, environment and files
//! are written by hand, in `man/operator.roff`.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use clap::{Command, CommandFactory};
use clap_mangen::{
    Man,
    roff::{Roff, bold, roman},
};

use super::{Cli, CliError};

/// The handwritten sections of kfwatch(1).
const OPERATOR: &str = include_str!("man/operator.roff");

/// Source, issues and documentation.
const HOME: &str = "https://github.com/kfwatch/kfwatch";

#[derive(Debug, clap::Args)]
pub(super) struct ManArgs {
    /// The directory to write the pages to; created if missing
    directory: PathBuf,
}

pub(super) fn run(args: &ManArgs) -> Result<(), CliError> {
    let directory = &args.directory;
    write_to(directory)
        .with_context(|| format!("write manual pages to {}", directory.display()))
        .map_err(CliError::Other)
}

fn write_to(directory: &Path) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    for (name, page) in pages()? {
        fs::write(directory.join(name), page)?;
    }
    Ok(())
}

/// The file name and the roff text of each page; kfwatch(1) comes first.
fn pages() -> io::Result<Vec<(String, Vec<u8>)>> {
    let mut program = Cli::command().disable_help_subcommand(true).subcommand_help_heading("COMMANDS");
    program.build();
    let mut pages = vec![page(&program, OPERATOR, &names_below(&program))?];
    add_pages_below(&program, "kfwatch", &mut pages)?;
    Ok(pages)
}

fn add_pages_below(parent: &Command, name: &str, pages: &mut Vec<(String, Vec<u8>)>) -> io::Result<()> {
    for command in commands_below(parent) {
        let see_also: Vec<&str> = [name].into_iter().chain(names_below(command)).collect();
        pages.push(page(command, "", &see_also)?);
        add_pages_below(command, command.get_display_name().unwrap_or_default(), pages)?;
    }
    Ok(())
}

fn commands_below(parent: &Command) -> impl Iterator<Item = &Command> {
    parent.get_subcommands().filter(|command| !command.is_hide_set())
}

fn names_below(parent: &Command) -> Vec<&str> {
    commands_below(parent).filter_map(Command::get_display_name).collect()
}

fn page(command: &Command, sections: &str, see_also: &[&str]) -> io::Result<(String, Vec<u8>)> {
    let man = Man::new(command.clone())
        .source(concat!("kfwatch ", env!("CARGO_PKG_VERSION")))
        .manual("User Commands");
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    if command.has_subcommands() {
        man.render_subcommands_section(&mut page)?;
    }
    page.extend_from_slice(sections.as_bytes());
    see_also_section(see_also).to_writer(&mut page)?;
    Ok((man.get_filename(), page))
}

fn see_also_section(names: &[&str]) -> Roff {
    let mut roff = Roff::new();
    roff.control("SH", ["SEE ALSO"]);
    for name in names {
        roff.text([bold(*name), roman("(1),")]);
    }
    roff.text([roman(HOME)]);
    roff
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{EX_CONFIG, EX_UNAVAILABLE};

    fn page_of(name: &str) -> String {
        let page = pages().unwrap().into_iter().find(|(file, _)| file == name);
        String::from_utf8(page.unwrap_or_else(|| panic!("no page {name}")).1).unwrap()
    }

    #[test]
    fn every_visible_command_has_a_page() {
        let names: Vec<String> = pages().unwrap().into_iter().map(|(name, _)| name).collect();
        let commands = "run demo check poll sessions events events-replay events-dead sinks sinks-test sinks-stop \
                        sinks-resume backup restore simulate";
        let expected = commands.split(' ').map(|command| format!("kfwatch-{command}.1"));
        assert_eq!(names, std::iter::once("kfwatch.1".to_owned()).chain(expected).collect::<Vec<_>>());
        assert!(page_of("kfwatch-events-dead.1").contains(r"\-\-retry"));
        assert!(page_of("kfwatch-events.1").contains(r"\-\-since"));
        assert!(page_of("kfwatch.1").contains("kfwatch\\-poll(1)"));
    }

    #[test]
    fn main_page_has_all_sections() {
        let page = page_of("kfwatch.1");
        for section in ["OPTIONS", "COMMANDS", "EXIT STATUS", "SIGNALS", "ENVIRONMENT", "FILES", "SEE ALSO"] {
            let heading = format!("\n.SH {section}\n");
            let quoted = format!("\n.SH \"{section}\"\n");
            assert!(page.contains(&heading) || page.contains(&quoted), "{section} in {page}");
        }
    }

    #[test]
    fn exit_codes_match_the_program_and_the_reference() {
        let status = OPERATOR.split(".SH ").find(|section| section.starts_with("EXIT STATUS")).unwrap();
        let of_page: Vec<&str> =
            status.split(".TP\n.B ").skip(1).filter_map(|item| item.lines().next()).collect();
        let reference = include_str!("../../docs/en/reference/command-line.md");
        let of_reference: Vec<&str> = reference
            .lines()
            .skip_while(|line| !line.starts_with("| exit code |"))
            .skip(2)
            .map_while(|line| line.strip_prefix("| ")?.split(' ').next())
            .collect();
        assert_eq!(of_page, of_reference);
        for code in [EX_UNAVAILABLE, EX_CONFIG] {
            assert!(of_page.contains(&code.to_string().as_str()), "{code}");
        }
    }

    #[test]
    fn pages_are_written_into_new_directory() {
        let parent = tempfile::tempdir().unwrap();
        let directory = parent.path().join("share/man1");
        run(&ManArgs { directory: directory.clone() }).unwrap();
        assert!(fs::read_to_string(directory.join("kfwatch-run.1")).unwrap().contains(".TH"));
        let error = run(&ManArgs { directory: directory.join("kfwatch.1") }).unwrap_err();
        assert!(crate::chain(&error).starts_with("write manual pages to /"), "{error}");
    }
}
