//! `kfwatch completions`: prints the completion script for a shell, for packages.

use clap::{Command, CommandFactory};
use clap_complete::Shell;

use super::{Cli, CliError, output};

#[derive(Debug, clap::Args)]
pub(super) struct CompletionsArgs {
    /// The shell
    shell: Shell,
}

pub(super) async fn run(args: &CompletionsArgs) -> Result<(), CliError> {
    output::print(script(args.shell)).await
}

fn script(shell: Shell) -> String {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut visible(&Cli::command()), "kfwatch", &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

/// The program without its hidden commands, which the script would complete too.
fn visible(program: &Command) -> Command {
    Command::new("kfwatch")
        .version(env!("CARGO_PKG_VERSION"))
        .args(program.get_arguments().cloned())
        .subcommands(program.get_subcommands().filter(|command| !command.is_hide_set()).cloned())
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::*;

    #[test]
    fn scripts_complete_all_but_hidden_commands() {
        for shell in Shell::value_variants() {
            let script = script(*shell);
            for word in ["simulate", "online", "load-accounts"] {
                assert!(script.contains(word), "{word} for {shell}");
            }
            assert!(!script.contains("Print completions") && !script.contains("__completions"), "{shell}");
        }
    }
}
