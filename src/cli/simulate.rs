//! `kfwatch simulate`: the simulated WeChat API alone, for tests, rehearsals and load.
//!
//! It prints a configuration for kfwatch to standard output, so that `kfwatch simulate > config.toml` prepares a rehearsal, and
//! serves until a signal.

use std::fmt::Write as _;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;

use super::{CliError, output, parse_listen, signals::Shutdown};
use crate::app::listen_remedy;
use crate::domain::text_file;
use crate::simulator::{AccountToWatch, ApiCall, RequiredHeader, Scenario, Simulator, TokenRoute};

#[derive(Debug, clap::Args)]
pub(super) struct SimulateArgs {
    /// The address to listen on; a port alone is one of 127.0.0.1
    #[arg(long, value_name = "ADDRESS", value_parser = parse_listen, default_value = "127.0.0.1:8390")]
    listen: SocketAddr,

    /// A scenario in TOML [default: the scenario of `kfwatch demo`]
    #[arg(long, value_name = "FILE", conflicts_with = "load_accounts")]
    scenario: Option<PathBuf>,

    /// The scenario of a third-party platform: the accounts of `kfwatch demo`, with tokens from a component and from a
    /// token server
    #[arg(long, conflicts_with_all = ["scenario", "load_accounts"])]
    platform: bool,

    /// Seed of the scenario: another seed plays another history
    #[arg(long, value_name = "N")]
    seed: Option<u64>,

    /// A scenario for load tests, with this number of kf accounts on each official account
    #[arg(long, value_name = "N")]
    load_accounts: Option<usize>,

    /// Official accounts of the load test
    #[arg(long, value_name = "N", default_value_t = 1, requires = "load_accounts")]
    load_official_accounts: usize,

    /// Open sessions on each kf account of the load test
    #[arg(long, value_name = "N", default_value_t = 10, requires = "load_accounts")]
    load_sessions: u32,

    /// Share of the sessions that is replaced by new ones every minute
    #[arg(long, value_name = "SHARE", default_value_t = 0.0, requires = "load_accounts")]
    load_churn: f64,
}

/// How long requests may take to end.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// Serves until a signal.
pub(super) async fn run(args: SimulateArgs, shutdown: Shutdown) -> Result<(), CliError> {
    let (simulator, configuration) = start(&args).await?;
    let serving = async {
        output::print(configuration).await?;
        std::future::pending().await
    };
    let done = tokio::select! {
        failed = serving => failed,
        () = shutdown.within(STOP_TIMEOUT) => Ok(()),
    };
    simulator.stop().await;
    done
}

/// Starts the simulator, and returns a configuration for it.
async fn start(args: &SimulateArgs) -> anyhow::Result<(Simulator, String)> {
    if !args.listen.ip().is_loopback() {
        tracing::warn!(listen = %args.listen, "Anyone who reaches {} can use the simulator", args.listen);
    }
    let scenario = scenario(args)?;
    let simulator = Simulator::start(scenario.clone(), args.listen)
        .await
        .map_err(|error| cannot_listen(args.listen, error))?;
    tracing::info!(listen = %simulator.address(), "Simulating the WeChat API on {}", simulator.base_url());
    let configuration = configuration_of(&simulator.base_url(), &scenario);
    Ok((simulator, configuration))
}

/// The error of an address that --listen gives.
pub(super) fn cannot_listen(address: SocketAddr, error: io::Error) -> anyhow::Error {
    let remedy = listen_remedy(address, &error, "--listen");
    anyhow::Error::new(error).context(format!("cannot listen on {address}: {remedy}"))
}

/// A configuration for a daemon that watches these accounts on a simulator and fetches tokens with their AppSecrets.
pub fn configuration(base_url: &str, accounts: &[AccountToWatch]) -> String {
    render(base_url, accounts.iter().map(|account| (account, &TokenRoute::Secret)))
}

/// A configuration for a daemon that watches all accounts of this scenario, with the token sources of the scenario.
pub(super) fn configuration_of(base_url: &str, scenario: &Scenario) -> String {
    let accounts = scenario.accounts();
    let routes: Vec<TokenRoute> =
        accounts.iter().map(|account| scenario.token_route(&account.appid)).collect();
    render(base_url, accounts.iter().zip(&routes))
}

fn render<'a>(
    base_url: &str,
    accounts: impl Iterator<Item = (&'a AccountToWatch, &'a TokenRoute)>,
) -> String {
    let mut text = format!(
        "# A configuration for kfwatch that watches the simulated WeChat API.\n\n[api]\nbase_url = {}\n",
        quoted(base_url)
    );
    for (account, route) in accounts {
        let kf_accounts: Vec<String> = account.kf_accounts.iter().map(|name| quoted(name)).collect();
        let [name, appid] = [&account.name, &account.appid].map(|value| quoted(value));
        // Writing to a string cannot fail.
        let _ = write!(
            text,
            "\n[[official_accounts]]\nname = {name}\nappid = {appid}\nkf_accounts = [{}]\n\
             [official_accounts.token]\n{}",
            kf_accounts.join(", "),
            token(base_url, account, route)
        );
    }
    text
}

/// The keys of an account's token source.
fn token(base_url: &str, account: &AccountToWatch, route: &TokenRoute) -> String {
    match route {
        TokenRoute::Secret => format!("source = \"stable\"\nsecret = {}\n", quoted(&account.secret)),
        TokenRoute::TokenServer(header) => {
            let url = format!("{base_url}{}{}", ApiCall::TokenServer.path(), account.appid);
            format!(
                "source = \"server\"\nurl = {}\njson_pointer = \"/access_token\"\n{}",
                quoted(&url),
                header_file("token-server.header", header.as_ref())
            )
        }
        TokenRoute::Component { component, refresh_token } => {
            let url = format!("{base_url}{}{}", ApiCall::TicketServer.path(), component.component_appid);
            format!(
                "source = \"component\"\ncomponent_appid = {}\nsecret = {}\nticket_url = {}\n\
                 refresh_token = {}\n{}",
                quoted(&component.component_appid),
                quoted(&component.secret),
                quoted(&url),
                quoted(refresh_token),
                header_file("ticket-server.header", component.ticket_header.as_ref())
            )
        }
    }
}

/// The key for a header that the scenario requires. The header itself cannot be in the configuration.
fn header_file(path: &str, header: Option<&RequiredHeader>) -> String {
    let line = |RequiredHeader { name, value }: &RequiredHeader| {
        format!("header_file = {}  # create it with this line: {name}: {value}\n", quoted(path))
    };
    header.map_or_else(String::new, line)
}

fn quoted(text: &str) -> String {
    toml::Value::from(text).to_string()
}

fn scenario(args: &SimulateArgs) -> anyhow::Result<Scenario> {
    let scenario = match (&args.scenario, args.load_accounts) {
        (Some(path), _) => {
            let content = std::fs::read(path).with_context(|| format!("read scenario {}", path.display()))?;
            let text = text_file::decode(&content).map_err(|problem| {
                anyhow::anyhow!("scenario {} {}", path.display(), problem.with_conversion(path))
            })?;
            Scenario::from_toml(&text).with_context(|| format!("use scenario {}", path.display()))?
        }
        (None, Some(kf_accounts)) => {
            Scenario::load(args.load_official_accounts, kf_accounts, args.load_sessions, args.load_churn)
        }
        (None, None) if args.platform => Scenario::platform(0),
        (None, None) => Scenario::demo(0),
    };
    let seed = args.seed.unwrap_or(scenario.seed);
    // Only tests in the same process could read the ledger.
    Ok(Scenario { seed, ledger: false, ..scenario })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Program {
        #[command(flatten)]
        args: SimulateArgs,
    }

    fn args(words: &str) -> Result<SimulateArgs, clap::Error> {
        let program = Program::try_parse_from(["simulate"].into_iter().chain(words.split_whitespace()));
        program.map(|program| program.args)
    }

    fn printed(scenario: &Scenario) -> toml::Table {
        toml::from_str(&configuration_of("http://127.0.0.1:1", scenario)).unwrap()
    }

    #[test]
    fn printed_configuration_has_every_account() {
        let parsed = printed(&Scenario::demo(1));
        assert_eq!(parsed["api"]["base_url"].as_str(), Some("http://127.0.0.1:1"));
        let officials = parsed["official_accounts"].as_array().unwrap();
        assert_eq!(officials.len(), 3);
        assert_eq!(officials[0]["kf_accounts"].as_array().unwrap().len(), 10);
        let secret = &Scenario::demo(1).accounts()[0].secret;
        assert_eq!(officials[0]["token"]["secret"].as_str(), Some(&**secret));
        let accounts = Scenario::demo(1).accounts();
        let by_accounts = configuration("http://127.0.0.1:1", &accounts);
        assert_eq!(by_accounts, configuration_of("http://127.0.0.1:1", &Scenario::demo(1)));
    }

    #[test]
    fn platform_accounts_use_component_and_token_server() {
        let mut scenario = Scenario::platform(1);
        scenario.token_server.header = Some(RequiredHeader { name: "X-Key".into(), value: "k1".into() });
        let component = scenario.components[0].clone();
        let parsed = printed(&scenario);
        let token = |index: usize, key: &str| {
            parsed["official_accounts"][index]["token"].get(key).and_then(toml::Value::as_str)
        };
        assert_eq!((token(0, "source"), token(2, "source")), (Some("component"), Some("server")));
        assert_eq!(token(0, "component_appid"), Some(&*component.component_appid));
        let ticket_url = format!("http://127.0.0.1:1/simulator/tickets/{}", component.component_appid);
        assert_eq!(token(0, "ticket_url"), Some(&*ticket_url));
        assert_ne!(token(0, "refresh_token"), token(1, "refresh_token"));
        let appid = &scenario.official_accounts[2].appid;
        assert_eq!(token(2, "url"), Some(&*format!("http://127.0.0.1:1/simulator/tokens/{appid}")));
        assert_eq!((token(0, "header_file"), token(2, "header_file")), (None, Some("token-server.header")));
    }

    #[test]
    fn load_options_build_load_scenario() {
        let args = args("--load-accounts 4 --load-official-accounts 2 --load-sessions 3 --seed 9").unwrap();
        let scenario = scenario(&args).unwrap();
        assert_eq!(scenario, Scenario { seed: 9, ..Scenario::load(2, 4, 3, 0.0) });
    }

    #[test]
    fn conflicting_options_are_refused() {
        assert!(args("--load-churn 0.5").is_err());
        assert!(args("--load-accounts 4 --scenario x.toml").is_err());
        assert!(args("--platform --scenario x.toml").is_err());
    }

    #[test]
    fn missing_scenario_file_is_named() {
        let args = args("--scenario /nonexistent/x.toml").unwrap();
        let error = format!("{:#}", scenario(&args).unwrap_err());
        assert!(error.starts_with("read scenario /nonexistent/x.toml: "), "{error}");
    }
}
