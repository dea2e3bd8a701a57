//! The script of a simulation: official accounts, their kf accounts and customers, token lifetimes, faults.
//!
//! Read from TOML, or built by [`Scenario::demo`], [`Scenario::platform`] and [`Scenario::load`]. A scenario is plain data;
//! the same scenario always plays the same history of sessions. `tests/scenarios` has samples with comments.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;

use super::fault::FaultRule;
use super::random::RefreshTokenGenerator;

mod accounts;
mod customers;
mod mistakes;
mod platform;
mod presets;
mod response_style;

pub use self::accounts::{KfAccountScript, KfState, OfficialAccountScript};
pub use self::customers::{CustomerFlow, RandomDuration};
pub use self::platform::{
    ComponentParameter, ComponentScript, RefreshTokenRotation, RequiredHeader, TokenRoute, TokenServerScript,
};
pub use self::response_style::{AgentListStyle, ResponseStyle};

/// A whole simulation. `Default` has no accounts.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Scenario {
    /// Of sessions, tokens and random faults.
    pub seed: u64,
    /// The simulated time at the start. The default is the time of the wall clock.
    pub starts_at: Option<Timestamp>,
    /// How far the Date header is ahead of the simulated clock. It may be negative.
    pub date_skew: SignedDuration,
    pub tokens: TokenPolicy,
    /// Whether the [`Ledger`](super::Ledger) is recorded, for tests. It takes memory for each session and response.
    pub ledger: bool,
    /// The customers of kf accounts without `customers` of their own.
    pub customers: CustomerFlow,
    pub transfers: TransferPolicy,
    pub official_accounts: Vec<OfficialAccountScript>,
    /// Third-party platforms.
    pub components: Vec<ComponentScript>,
    pub token_server: TokenServerScript,
    /// The first rule that fires wins.
    pub faults: Vec<FaultRule>,
}

/// How long access tokens are valid.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TokenPolicy {
    /// The value of expires_in.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub lifetime: Duration,
    /// How long a replaced token stays valid, and how early stable_token renews.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub overlap: Duration,
}

/// How sessions are transferred between the kf accounts of an official account.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TransferPolicy {
    /// The probability that a session is transferred, to a kf account that is bound at the start.
    pub probability: f64,
    /// Whether createtime becomes the time of the transfer. WeChat does not document this.
    pub renew_createtime: bool,
}

/// An official account as a client needs to know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccountToWatch {
    pub name: String,
    pub appid: String,
    pub secret: String,
    /// The full names of all its kf accounts, including invalid ones.
    pub kf_accounts: Vec<String>,
}

/// Why a scenario cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ScenarioError {
    #[error("read the scenario")]
    Syntax(#[from] toml::de::Error),
    /// All mistakes of a well-formed scenario, one per line.
    #[error("{}", .0.join("\n"))]
    Mistakes(Vec<String>),
}

impl Scenario {
    /// Reads and checks a scenario.
    pub fn from_toml(text: &str) -> Result<Scenario, ScenarioError> {
        let scenario: Scenario = toml::from_str(text)?;
        let mistakes = scenario.mistakes();
        if mistakes.is_empty() { Ok(scenario) } else { Err(ScenarioError::Mistakes(mistakes)) }
    }

    /// The official accounts that a client should watch.
    pub fn accounts(&self) -> Vec<AccountToWatch> {
        let account = |official: &OfficialAccountScript| AccountToWatch {
            name: official.name.clone(),
            appid: official.appid.clone(),
            secret: official.secret.clone(),
            kf_accounts: official.kf_accounts.iter().map(|kf| official.full_name(kf)).collect(),
        };
        self.official_accounts.iter().map(account).collect()
    }

    /// Where a client should get the tokens of an official account, by its appid.
    pub fn token_route(&self, appid: &str) -> TokenRoute {
        let Some(official) = self.official_accounts.iter().find(|official| official.appid == appid) else {
            return TokenRoute::Secret;
        };
        if self.token_server.official_accounts.iter().any(|wanted| official.is(wanted)) {
            return TokenRoute::TokenServer(self.token_server.header.clone());
        }
        let grants = |component: &ComponentScript| component.authorizers.iter().any(|name| official.is(name));
        match self.components.iter().position(grants) {
            None => TokenRoute::Secret,
            Some(number) => TokenRoute::Component {
                component: self.components[number].clone(),
                refresh_token: RefreshTokenGenerator::new(self.seed, appid).generate().into(),
            },
        }
    }
}

impl Default for Scenario {
    fn default() -> Self {
        Scenario {
            seed: 0,
            starts_at: None,
            date_skew: SignedDuration::ZERO,
            tokens: TokenPolicy::default(),
            ledger: true,
            customers: CustomerFlow::default(),
            transfers: TransferPolicy::default(),
            official_accounts: Vec::new(),
            components: Vec::new(),
            token_server: TokenServerScript::default(),
            faults: Vec::new(),
        }
    }
}

impl Default for TokenPolicy {
    fn default() -> Self {
        TokenPolicy { lifetime: Duration::from_secs(7_200), overlap: Duration::from_secs(300) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sample_scenarios_are_valid() {
        let faults = Scenario::from_toml(include_str!("../../tests/scenarios/faults.toml")).unwrap();
        assert!(faults.faults.len() > 5);
        let platform = Scenario::from_toml(include_str!("../../tests/scenarios/platform.toml")).unwrap();
        assert!(matches!(platform.token_route("wx00000000000000a1"), TokenRoute::Component { .. }));
        assert!(matches!(platform.token_route("wx00000000000000a2"), TokenRoute::TokenServer(Some(_))));
    }

    #[test]
    fn presets_are_valid() {
        assert_eq!(Scenario::demo(1).mistakes(), Vec::<String>::new());
        assert_eq!(Scenario::platform(1).mistakes(), Vec::<String>::new());
        assert_eq!(Scenario::load(3, 10, 10, 0.1).mistakes(), Vec::<String>::new());
    }

    #[test]
    fn demo_has_every_kind_of_kf_account() {
        let accounts = Scenario::demo(1).accounts();
        assert_eq!(accounts.len(), 3);
        assert_eq!(accounts.iter().map(|account| account.kf_accounts.len()).sum::<usize>(), 24);
        let states: Vec<KfState> = Scenario::demo(1)
            .official_accounts
            .iter()
            .flat_map(|official| official.kf_accounts.iter().map(|kf| kf.state))
            .collect();
        assert_eq!(states.iter().filter(|state| **state == KfState::Invalid).count(), 1);
        assert!(
            states.iter().filter(|state| !matches!(state, KfState::Bound | KfState::Invalid)).count() >= 2
        );
    }

    #[test]
    fn unknown_key_is_rejected_with_its_line() {
        let error = toml::from_str::<Scenario>("seed = 1\nsead = 2").unwrap_err().to_string();
        assert!(error.contains("line 2") && error.contains("sead"), "{error}");
    }
}
