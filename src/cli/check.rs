//! `kfwatch check`: validates the configuration and shows its effect, and examines what `kfwatch run` needs on this machine. With
//! `--online`, it checks every account with WeChat instead.

mod environment;
mod online;
pub(super) mod overview;

use self::environment::Examined;
use super::{
    CliError, ConfigArgs,
    account_args::{AccountArgs, ExtentArgs},
    language::Language,
    output,
    signals::Shutdown,
};
use crate::{config::LoadedConfig, domain::account_filter::AccountFilter};

#[derive(Debug, clap::Args)]
pub(super) struct CheckArgs {
    #[command(flatten)]
    config: ConfigArgs,

    /// Check tokens, quotas and every kf account with WeChat, and list what to fix; exits 69 if something needs a human
    #[arg(long)]
    online: bool,

    /// Leave out what depends on this machine: directories, ports, the control socket, the database, files and variables with secrets
    #[arg(long, conflicts_with = "online")]
    no_environment: bool,

    #[command(flatten)]
    accounts: AccountArgs,

    #[command(flatten)]
    extent: ExtentArgs,

    /// How to print the result of --online
    #[arg(long, value_enum, default_value = "table", requires = "online")]
    format: output::OutputFormat,

    /// The language of remedies: English, or English and Chinese [default: from LC_ALL, LC_MESSAGES or LANG]
    #[arg(long, value_enum, requires = "online")]
    lang: Option<Language>,
}

/// The result if this machine lacks files or variables with secrets, and nothing depends on it.
const VALID_ELSEWHERE: &str = "The configuration is valid. This machine does not have all its files and variables, which were left out.\n";

pub(super) async fn run(args: CheckArgs, shutdown: Shutdown) -> Result<(), CliError> {
    let loaded = match args.config.load() {
        Err(mistakes) if args.no_environment => match mistakes.without_machine() {
            Some(mistakes) => return Err(mistakes.into()),
            None => return output::print(VALID_ELSEWHERE.to_owned()).await,
        },
        loaded => loaded?,
    };
    if args.online {
        return online::run(&loaded, args, &shutdown).await;
    }
    let LoadedConfig { config, warnings } = loaded;
    for warning in warnings {
        output::message(format_args!("warning: {warning}"));
    }
    let examined =
        if args.no_environment { Examined::default() } else { environment::examine(&config).await };
    for warning in &examined.warnings {
        output::message(format_args!("warning: {warning}"));
    }
    for note in &examined.notes {
        output::message(format_args!("note: {note}"));
    }
    let filter = AccountFilter::from(args.accounts);
    output::print(overview::overview(&config, &filter, args.extent)?).await?;
    if examined.problems.is_empty() { Ok(()) } else { Err(CliError::NotReady(examined.problems)) }
}
