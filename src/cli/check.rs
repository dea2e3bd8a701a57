//! `kfwatch check`: validates the configuration and shows its effect. With `--online`, also checks every account with WeChat.

mod online;
mod overview;

use super::{
    CliError, ConfigArgs,
    account_args::{AccountArgs, ExtentArgs},
    language::Language,
    output,
    signals::Shutdown,
};
use crate::{
    config::{Config, LoadedConfig, SinkTarget},
    domain::account_filter::AccountFilter,
    sink::jsonl,
    store::Store,
};

#[derive(Debug, clap::Args)]
pub(super) struct CheckArgs {
    #[command(flatten)]
    config: ConfigArgs,

    /// Check tokens, quotas and every kf account with WeChat, and list what to fix; exits 69 if something needs a human
    #[arg(long)]
    online: bool,

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

pub(super) async fn run(args: CheckArgs, shutdown: Shutdown) -> Result<(), CliError> {
    let loaded = args.config.load()?;
    if args.online {
        return online::run(&loaded, args, &shutdown).await;
    }
    let LoadedConfig { config, warnings } = loaded;
    for warning in warnings {
        output::message(format_args!("warning: {warning}"));
    }
    for problem in problems_of_files(&config) {
        output::message(format_args!("warning: {problem}"));
    }
    let filter = AccountFilter::from(args.accounts);
    output::print(overview::overview(&config, &filter, args.extent)?).await
}

/// What would keep the daemon from writing its files. No mistakes of the configuration: this may be another machine.
fn problems_of_files(config: &Config) -> Vec<String> {
    let store = Store::problems_at(&config.store.path).into_iter().map(|problem| format!("store: {problem}"));
    let sinks = config.sinks.iter().filter_map(|sink| match &sink.target {
        SinkTarget::File { path, .. } => {
            Some(format!("sink {:?}: {}: {}", sink.name, path.display(), jsonl::problem_at(path)?))
        }
        _ => None,
    });
    store.chain(sinks).collect()
}
