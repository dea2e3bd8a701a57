//! The options that select accounts, and how much of a result is shown.

use super::CliError;
use crate::{
    app::accounts,
    config::Config,
    domain::account_filter::{AccountFilter, AccountNames, UnknownAccount},
};

/// A table with more kf accounts is a summary, unless everything or some accounts are asked for.
pub(super) const MAX_SHOWN_WHOLE: usize = 100;

#[derive(Clone, Debug, clap::Args)]
pub(super) struct AccountArgs {
    /// Only this kf account: test1@test, shop/test1@test, a nickname, or shop for all kf accounts of the official account
    #[arg(long, value_name = "ACCOUNT")]
    account: Option<String>,

    /// Only kf accounts of this official account
    #[arg(long, value_name = "NAME")]
    official_account: Option<String>,
}

#[derive(Clone, Copy, Debug, clap::Args)]
pub(super) struct ExtentArgs {
    /// Show only accounts with a problem
    #[arg(long)]
    problems: bool,

    /// Show every account, however many there are [default: a summary and the problems, of more than 100 kf accounts]
    #[arg(long, conflicts_with = "problems")]
    all: bool,
}

/// How much of a result is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Extent {
    Everything,
    Problems,
    /// Numbers, and the problems without their accounts.
    Summary,
}

impl From<AccountArgs> for AccountFilter {
    fn from(AccountArgs { account, official_account }: AccountArgs) -> Self {
        Self { account, official_account }
    }
}

impl From<UnknownAccount> for CliError {
    fn from(unknown: UnknownAccount) -> Self {
        Self::Other(unknown.into())
    }
}

/// The error if the filter selects nothing of this configuration, nor what getkflist lists.
pub(super) fn unknown_in(config: &Config, filter: &AccountFilter) -> UnknownAccount {
    let known: Vec<_> = config.official_accounts.iter().flat_map(accounts).collect();
    let known = known.iter().map(|account| AccountNames {
        official_account: &account.official_account,
        kf_account: &account.kf_account,
        nickname: None,
    });
    filter.unknown(config.official_accounts.iter().map(|of| of.name.as_str()), known)
}

impl ExtentArgs {
    /// What a table of so many kf accounts shows.
    pub(super) fn of_table(self, filter: &AccountFilter, kf_accounts: usize) -> Extent {
        match self {
            Self { problems: true, .. } => Extent::Problems,
            Self { all: false, .. } if filter.is_empty() && kf_accounts > MAX_SHOWN_WHOLE => Extent::Summary,
            Self { .. } => Extent::Everything,
        }
    }

    /// Whether output for programs has the rows without a problem, too.
    pub(super) fn includes_sound(self) -> bool {
        !self.problems
    }
}

/// Ends a summary.
pub(super) const REST_ON_DEMAND: &str = "Show every account with --all, some with --account or --official-account, those with a problem with --problems.\n";
