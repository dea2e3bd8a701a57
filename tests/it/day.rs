//! A day of five official accounts, run in seconds: from six in the morning to six the next morning in China, with
//! ticks by their cron schedules. Each account has its own fault. At the end, the events must be those that a poller
//! can know according to the simulator's ledger, and during each fault there must be no more calls than the backoff of
//! its class allows.
//!
//! | official account | token | ticks | fault |
//! |---|---|---|---|
//! | office | stable | a minute, 9 to 18 | no polls at night, and no event that it is blind |
//! | desk | stable | 30 seconds | kf accounts are unbound at 8; one is bound at noon, one at a random moment |
//! | depot | classic | a minute | the address is off the allowlist from 10 to 12:30 |
//! | merchant | component | a minute | the authorization is withdrawn from 14:00 to 15:30 |
//! | mall | stable | a minute | the day's quota is used up at 19, and there is another from midnight |

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    time::{Duration, Instant},
};

use crate::support::{
    events::{Account, Event},
    history::{Exchange, History, Life, Observed, Then},
    replay::{self, Tally},
    stage::{Stage, StagedAccount, Tick},
};
use jiff::Timestamp;
use kfwatch::simulator::{
    ApiCall, ComponentParameter, ComponentScript, CustomerFlow, KfAccountScript, KfState, Ledger,
    OfficialAccountScript, RandomDuration, RecordedResponse, RefreshTokenRotation, ResponseStyle, Scenario,
    TokenRoute, TransferPolicy,
};

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

/// Not a multiple of any schedule's interval, so that milliseconds do not decide whether a tick comes before or after
/// it.
const BLIND_AFTER: Duration = Duration::from_secs(4 * 60 + 30);

/// Name, source of tokens, schedule, number of kf accounts.
const OFFICIAL_ACCOUNTS: [(&str, &str, &str, usize); 5] = [
    ("office", "stable", "0 * 9-17 * * *", 2),
    ("desk", "stable", "*/30 * * * * *", 3),
    ("depot", "classic", "0 * * * * *", 2),
    ("merchant", "component", "0 * * * * *", 2),
    ("mall", "stable", "0 * * * * *", 3),
];

/// The calls that the mall needs from six in the morning until seven in the evening.
const MALL_DAILY_CALLS: u64 = 3 * 60 * 13;

#[tokio::test]
async fn day_of_failures_yields_exactly_the_true_events() {
    let begun = Instant::now();
    let mut day = Day::begin().await;
    day.unbind_accounts_and_rebind_one().await;
    day.refuse_address_and_bind_last_account().await;
    day.withdraw_and_grant_authorization().await;
    day.exhaust_quota_until_midnight().await;
    day.until(30, 0).await;
    day.assert_token_fetches();
    day.assert_state_changes().await;
    day.assert_events_match_ledger().await;
    println!("day: {:?}", begun.elapsed());
}

struct Day {
    stage: Stage,
    midnight: Timestamp,
}

impl Day {
    /// Starts at six in the morning of tomorrow, so that no clock has to be set back.
    async fn begin() -> Self {
        let china = 8 * 3600;
        let today = (crate::support::wait::wall_ms() / 1000 + china) / 86_400;
        let midnight = Timestamp::from_second((today + 1) * 86_400 - china).unwrap();
        let scenario = scenario(midnight + 6 * HOUR);
        let stage = Stage::start(scenario.clone(), |base_url| configuration(base_url, &scenario)).await;
        Self { stage, midnight }
    }

    fn at(&self, hour: u32, minute: u32) -> Timestamp {
        self.midnight + hour * HOUR + minute * MINUTE
    }

    async fn until(&mut self, hour: u32, minute: u32) {
        let moment = self.at(hour, minute);
        self.stage.run_until(moment).await;
    }

    fn requests(&self, name: &str, endpoint: ApiCall) -> u64 {
        self.stage.control.requests_of(&appid(name), endpoint).unwrap()
    }

    fn polls(&self, kf_account: &str) -> u64 {
        self.stage.control.polls_of(&appid("desk"), kf_account).unwrap()
    }

    fn gauge(&self, name: &str, official_account: &str, kf_account: &str) -> f64 {
        let series = format!("{name}{{official_account=\"{official_account}\",kf_account=\"{kf_account}\"}}");
        self.stage.metric(&series).unwrap()
    }

    /// Returns the number of getsessionlist calls since this moment that were refused with this errcode.
    fn refused(&self, name: &str, errcode: i64, since: Timestamp) -> u64 {
        let polls = self.stage.ledger().polls;
        let is_refused = polls.iter().filter(|poll| {
            *poll.appid == *appid(name)
                && poll.received_at_ms >= since.as_millisecond()
                && poll.response == RecordedResponse::Refused(errcode)
        });
        is_refused.count() as u64
    }

    async fn unbind_accounts_and_rebind_one(&mut self) {
        self.until(8, 0).await;
        let control = self.stage.control.clone();
        let desk = appid("desk");
        control.set_kf_state(&desk, "kf1@desk", KfState::Unbound).unwrap();
        control.set_kf_state(&desk, "kf2@desk", KfState::UnboundWaiting).unwrap();
        let before = ["kf1@desk", "kf2@desk", "kf3@desk"].map(|name| self.polls(name));
        let moment = Duration::from_secs(fastrand::Rng::with_seed(7).u64(600..6000));
        self.stage.run_for(moment).await;
        let unbound =
            ["kf1@desk", "kf2@desk"].map(|name| self.gauge("wechat_kf_account_unbound", "desk", name));
        assert_eq!(unbound, [1.0; 2]);
        control.set_kf_state(&desk, "kf2@desk", KfState::Bound).unwrap();
        let after = ["kf1@desk", "kf2@desk", "kf3@desk"].map(|name| self.polls(name));
        let ceiling = most_calls(Duration::ZERO, MINUTE, MINUTE / 2, moment);
        for at in [0, 1] {
            let asked = after[at] - before[at];
            assert!((ceiling / 2..=ceiling).contains(&asked), "{asked} of {ceiling}");
        }
        println!("65402: {} and {} calls of {ceiling}", after[0] - before[0], after[1] - before[1]);
        assert_eq!(after[2] - before[2], moment.as_secs() / 30, "the bound account is polled at every tick");
        // At the first tick after a minute.
        self.stage.run_for(MINUTE + MINUTE / 2).await;
        assert_eq!(self.gauge("wechat_kf_account_unbound", "desk", "kf2@desk"), 0.0);
        assert_eq!(self.gauge("wechat_kf_account_up", "desk", "kf2@desk"), 1.0);
    }

    async fn refuse_address_and_bind_last_account(&mut self) {
        self.until(10, 0).await;
        let control = self.stage.control.clone();
        control.refuse_address(&appid("depot")).unwrap();
        let before = self.requests("depot", ApiCall::Token);
        self.until(12, 0).await;
        control.set_kf_state(&appid("desk"), "kf1@desk", KfState::Bound).unwrap();
        self.until(12, 2).await;
        assert_eq!(self.gauge("wechat_kf_account_unbound", "desk", "kf1@desk"), 0.0);
        self.until(12, 30).await;
        assert_eq!(self.gauge("wechat_kf_account_up", "depot", "kf1@depot"), 0.0);
        control.allow_address(&appid("depot")).unwrap();
        // The last token expires at 11:52. In its last four minutes a new one is requested at each tick, and the old
        // one stays in use.
        let ceiling = 4 + most_calls(MINUTE / 2, 2 * MINUTE, MINUTE, 38 * MINUTE);
        let fetches = self.requests("depot", ApiCall::Token) - before;
        assert!((ceiling / 2..=ceiling).contains(&fetches), "{fetches} of {ceiling}");
        println!("40164: {fetches} calls of {ceiling}");
        self.until(12, 33).await;
        assert_eq!(self.gauge("wechat_kf_account_up", "depot", "kf1@depot"), 1.0, "by itself");
    }

    async fn withdraw_and_grant_authorization(&mut self) {
        self.until(14, 0).await;
        let control = self.stage.control.clone();
        let counted = [ApiCall::GetSessionList, ApiCall::AuthorizerToken, ApiCall::AuthorizerList];
        let count = |day: &Self| {
            let [polls, tokens] = [counted[0], counted[1]].map(|endpoint| day.requests("merchant", endpoint));
            [polls, tokens, control.requests(counted[2])]
        };
        let before = count(self);
        control.revoke_authorization(&appid("merchant")).unwrap();
        self.until(15, 30).await;
        let after = count(self);
        control.grant_authorization(&appid("merchant")).unwrap();
        let ceiling = most_calls(MINUTE, 5 * MINUTE, MINUTE, HOUR + 30 * MINUTE);
        let [polls, tokens, lists] = [0, 1, 2].map(|at| after[at] - before[at]);
        println!("withdrawn: {polls} polls, {tokens} token calls and {lists} lists of {ceiling}");
        // Both kf accounts had a token that was refused.
        assert!(polls <= 2, "{polls} polls without a token");
        assert!((ceiling / 2..=ceiling).contains(&tokens), "{tokens} of {ceiling}");
        assert!(lists <= ceiling, "{lists} of {ceiling}");
        self.until(15, 36).await;
        assert_eq!(self.gauge("wechat_kf_account_up", "merchant", "kf1@merchant"), 1.0, "by itself");
    }

    async fn exhaust_quota_until_midnight(&mut self) {
        self.until(18, 59).await;
        let evening = self.at(18, 59);
        assert_eq!(self.refused("mall", 45009, self.at(0, 0)), 0);
        self.until(24, 0).await;
        let refused = self.refused("mall", 45009, evening);
        // Three concurrent polls every half hour.
        let ceiling = 3 * most_calls(30 * MINUTE, 30 * MINUTE, MINUTE, 5 * HOUR);
        assert!((9..=ceiling).contains(&refused), "{refused} of {ceiling}");
        println!("45009: {refused} calls of {ceiling}");
        assert_eq!(self.gauge("wechat_kf_account_up", "mall", "kf1@mall"), 0.0);
        self.until(24, 2).await;
        assert_eq!(
            self.gauge("wechat_kf_account_up", "mall", "kf1@mall"),
            1.0,
            "just after midnight in China"
        );
        assert_eq!(self.refused("mall", 45009, evening), refused, "no poll before the day was over");
    }

    /// Asserts that each token was used for its two hours and renewed four minutes before it expired.
    fn assert_token_fetches(&self) {
        for (name, endpoint, most) in [
            ("desk", ApiCall::StableToken, 13),
            ("mall", ApiCall::StableToken, 13),
            ("office", ApiCall::StableToken, 6),
        ] {
            let fetches = self.requests(name, endpoint);
            assert!((most - 2..=most).contains(&fetches), "{name}: {fetches} tokens");
        }
        let component = self.stage.control.requests_of(COMPONENT, ApiCall::ComponentToken).unwrap();
        assert!((11..=13).contains(&component), "{component} tokens of the component");
    }

    async fn assert_state_changes(&self) {
        let events = self.stage.events().await;
        for account in self.stage.kf_accounts() {
            let of_account = events.get(&key(&account)).cloned().unwrap_or_default();
            let changes = of_account.iter().filter(|event| event.text("/type") == "kf.account.state_changed");
            let reported: Vec<String> = changes
                .map(|event| {
                    let [from, to, source] =
                        ["/data/from", "/data/to", "/data/source"].map(|pointer| event.text(pointer));
                    format!("{from}>{to} {} {source}", event.json["data"]["errcode"])
                })
                .collect();
            let blind = |errcode: i64, source| {
                vec![format!("ok>blind {errcode} {source}"), "blind>ok null getsessionlist".to_owned()]
            };
            let expected = match (&*account.official_account, &*account.kf_account) {
                ("desk", "kf1@desk" | "kf2@desk") => vec![
                    "ok>unbound 65402 getsessionlist".to_owned(),
                    "unbound>ok null getsessionlist".to_owned(),
                ],
                ("depot", _) => blind(40164, "token"),
                ("merchant", _) => blind(61003, "api_authorizer_token"),
                ("mall", _) => blind(45009, "getsessionlist"),
                _ => Vec::new(),
            };
            assert_eq!(reported, expected, "{account:?}");
        }
    }

    async fn assert_events_match_ledger(&self) {
        let ledger = self.stage.ledger();
        let mut events = self.stage.events().await;
        let mut tally = Tally::default();
        let mut transfers = 0;
        for account in self.stage.kf_accounts() {
            let staged_account = self.stage.staged_account(&account.official_account);
            let history = history(&account, staged_account, &ledger);
            let mut reported = events.remove(&key(&account)).unwrap_or_default();
            transfers += check_origins(&account, staged_account, &ledger, &mut reported);
            tally += replay::compare(&history, &reported).unwrap();
            assert_comparison_detects_errors(&history, &reported);
            assert_one_start_and_end(&account, &ledger, &reported);
        }
        assert!(events.is_empty(), "events of others: {events:?}");
        let (sessions, polls) = (ledger.sessions.len(), ledger.polls.len());
        let transferred = ledger.transfers.len();
        println!(
            "{sessions} sessions, {transfers} of {transferred} transfers reported, {polls} polls: {tally:?}"
        );
        assert!(tally.ended > 200 && transfers > 30, "too quiet a day to prove anything: {tally:?}");
        assert_eq!(tally.repeated, 0);
    }
}

fn key(account: &Account) -> (String, String) {
    (account.appid.clone(), account.kf_account.clone())
}

/// Checks the origins of transferred customers against the ledger, and removes them from the events. Returns the number
/// of events with an origin.
fn check_origins(
    account: &Account,
    staged_account: &StagedAccount,
    ledger: &Ledger,
    reported: &mut [Event],
) -> usize {
    let mut transfers = 0;
    for event in reported {
        let said = event.json["data"].as_object_mut().unwrap().remove("transferred_from");
        let said = said.as_ref().map(|from| from.as_str().unwrap());
        let openid = event.text("/data/openid");
        let is_ours = |appid: &str, of: &str| appid == account.appid && of == openid;
        let mut true_transfers = ledger.transfers.iter();
        let truth = true_transfers.find(|transfer| {
            is_ours(&transfer.appid, &transfer.openid) && *transfer.to == *account.kf_account
        });
        match (said, truth) {
            (Some(from), Some(transfer)) => {
                assert_eq!((from, event.text("/type")), (&*transfer.from, "kf.session.started"));
                assert_eq!(event.json["data"]["baseline"], false);
                transfers += 1;
            }
            (Some(from), None) => panic!("no customer came from {from}: {}", event.line),
            (None, Some(transfer)) if event.json["data"]["baseline"] == false => {
                let observed_ms = event.ms("/time").unwrap();
                let tick = staged_account.ticks.iter().rfind(|tick| tick.from_ms <= observed_ms).unwrap();
                let last = ledger.polls.iter().rfind(|poll| {
                    *poll.appid == *account.appid
                        && poll.kf_account == transfer.from
                        && poll.received_at_ms < tick.from_ms
                        && matches!(poll.response, RecordedResponse::Listed(_))
                });
                let listed = last.map(|poll| listed(&poll.response)).unwrap_or_default();
                let known =
                    listed.iter().any(|session| *ledger.sessions[*session as usize].openid == *openid);
                assert!(!known, "was last seen at {}: {}", transfer.from, event.line);
            }
            _ => {}
        }
    }
    transfers
}

fn listed(answer: &RecordedResponse) -> Vec<u32> {
    match answer {
        RecordedResponse::Listed(sessions) => sessions.clone(),
        _ => Vec::new(),
    }
}

/// Returns the answers that the account got, with silences in between: ticks without a conclusive answer.
fn history(account: &Account, staged_account: &StagedAccount, ledger: &Ledger) -> History {
    let life = Life { from_ms: 0, to_ms: i64::MAX / 4, killed: false, client_timeout_ms: i64::MAX };
    let mut history = History::of(account, ledger, &[life]);
    let mut failing_since: Option<i64> = None;
    let mut exchanges = Vec::new();
    let mut answers = std::mem::take(&mut history.exchanges).into_iter().peekable();
    for tick in &staged_account.ticks {
        let mut conclusive = false;
        while let Some(answer) = answers.next_if(|answer| answer.received_ms <= tick.to_ms) {
            conclusive = matches!(
                answer.observed,
                Observed::Listed(_) | Observed::Keyless | Observed::Refused(65401 | 65402)
            );
            let [sent_ms, taken_ms] = [[tick.from_ms, answer.received_ms], [answer.received_ms, tick.to_ms]];
            exchanges.push(Exchange { sent_ms, taken_ms, ..answer });
        }
        if conclusive {
            failing_since = None;
        } else if tick.from_ms - *failing_since.get_or_insert(tick.from_ms) >= millis(BLIND_AFTER) {
            exchanges.push(silence(&account.official_account, tick));
        }
    }
    history.exchanges = exchanges;
    history
}

fn silence(official_account: &str, tick: &Tick) -> Exchange {
    let (errcode, source) = match official_account {
        "depot" => (40164, "token"),
        "merchant" => (61003, "api_authorizer_token"),
        _ => (45009, "getsessionlist"),
    };
    let window = [tick.from_ms, tick.to_ms];
    Exchange {
        received_ms: tick.to_ms,
        observed: Observed::Silence { errcode: Some(errcode), source },
        uncertain: false,
        sent_ms: window,
        taken_ms: window,
        then: Then::GoesOn,
    }
}

/// Asserts, without the model, that every listed session has one start, and one end if it was over when the account was
/// last seen.
fn assert_one_start_and_end(account: &Account, ledger: &Ledger, reported: &[Event]) {
    let polls = ledger
        .polls
        .iter()
        .filter(|poll| *poll.appid == *account.appid && *poll.kf_account == *account.kf_account);
    let good: Vec<_> = polls.filter(|poll| matches!(poll.response, RecordedResponse::Listed(_))).collect();
    let seen: BTreeSet<u32> = good.iter().flat_map(|poll| listed(&poll.response)).collect();
    let last: BTreeSet<u32> = listed(&good.last().unwrap().response).into_iter().collect();
    let first = listed(&good[0].response).len();
    let count = |kind: &str, baseline: Option<bool>| {
        let of_kind = reported.iter().filter(|event| event.text("/type") == kind);
        of_kind.filter(|event| baseline.is_none_or(|is| event.json["data"]["baseline"] == is)).count()
    };
    assert_eq!(count("kf.session.started", None), seen.len(), "{account:?}");
    assert_eq!(
        count("kf.session.started", Some(true)),
        first,
        "one baseline, of the first answer: {account:?}"
    );
    assert_eq!(count("kf.session.ended", None), seen.len() - last.len(), "{account:?}");
}

/// A comparison that accepts everything would prove nothing.
fn assert_comparison_detects_errors(history: &History, reported: &[Event]) {
    for left_out in (0..reported.len()).step_by(7) {
        let altered = [&reported[..left_out], &reported[left_out + 1..]].concat();
        assert!(replay::compare(history, &altered).is_err(), "not detected: {}", reported[left_out].line);
    }
    let is_silence = |exchange: &Exchange| matches!(exchange.observed, Observed::Silence { .. });
    if history.exchanges.iter().any(is_silence) {
        let mut seeing = history.clone();
        seeing.exchanges.retain(|exchange| !is_silence(exchange));
        assert!(replay::compare(&seeing, reported).is_err(), "blind without a reason: {:?}", history.account);
    }
}

/// Returns the maximum number of calls while a fault lasts, if the first is made at its start. After each call there is
/// a backoff, which doubles up to `longest`, is shortened by a fifth at most, and ends with a tick.
fn most_calls(first: Duration, longest: Duration, interval: Duration, lasting: Duration) -> u64 {
    let (mut calls, mut passed, mut wait) = (1, Duration::ZERO, first);
    loop {
        let ticks = wait.mul_f64(0.8).as_secs_f64() / interval.as_secs_f64();
        passed += interval.mul_f64(ticks.ceil().max(1.0));
        if passed > lasting {
            return calls;
        }
        calls += 1;
        wait = (wait * 2).clamp(Duration::from_secs(2), longest);
    }
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap()
}

const COMPONENT: &str = "wx00000000000000c1";

fn appid(name: &str) -> String {
    let at = OFFICIAL_ACCOUNTS.iter().position(|(other, ..)| *other == name).unwrap();
    format!("wx{at:016}")
}

fn scenario(starts_at: Timestamp) -> Scenario {
    let minutes =
        |mean, min, max| RandomDuration { mean: mean * MINUTE, min: min * MINUTE, max: max * MINUTE };
    let kf_account = |number| KfAccountScript {
        prefix: format!("kf{number}"),
        nickname: None,
        state: KfState::Bound,
        customers: None,
    };
    let official_account = |(name, _, _, kf_accounts): (&str, &str, &str, usize)| OfficialAccountScript {
        name: name.to_owned(),
        appid: appid(name),
        secret: format!("5ec2e7{name:0>26}"),
        wechat_id: name.to_owned(),
        session_lists_per_day: if name == "mall" { MALL_DAILY_CALLS } else { 100_000_000 },
        style: ResponseStyle { shuffle: 0.1, duplicate: 0.05, ..ResponseStyle::default() },
        kf_accounts: (1..=kf_accounts).map(kf_account).collect(),
    };
    Scenario {
        seed: 11,
        starts_at: Some(starts_at),
        customers: CustomerFlow {
            initial: 1,
            gap: Some(minutes(25, 1, 120)),
            wait: minutes(1, 0, 5),
            stay: Some(minutes(30, 2, 180)),
            returning: 0.0,
        },
        transfers: TransferPolicy { probability: 0.15, renew_createtime: false },
        official_accounts: OFFICIAL_ACCOUNTS.map(official_account).into(),
        components: vec![ComponentScript {
            component_appid: COMPONENT.to_owned(),
            secret: "c1".repeat(16),
            authorizers: vec!["merchant".to_owned()],
            component_parameter: ComponentParameter::AccessToken,
            rotate_refresh_tokens: RefreshTokenRotation::AtOnce,
            ticket_header: None,
        }],
        ..Scenario::default()
    }
}

fn configuration(base_url: &str, scenario: &Scenario) -> String {
    let mut text = format!(
        "api.base_url = \"{base_url}\"\npoll.blind_after = \"{}s\"\n[[sinks]]\nname = \"file\"\n\
         type = \"jsonl\"\npath = \"events.jsonl\"\n",
        BLIND_AFTER.as_secs()
    );
    for (account, (name, source, schedule, _)) in scenario.accounts().iter().zip(OFFICIAL_ACCOUNTS) {
        let (appid, secret, kf_accounts) = (&account.appid, &account.secret, &account.kf_accounts);
        let token = match scenario.token_route(appid) {
            TokenRoute::Component { component, refresh_token } => format!(
                "component_appid = \"{COMPONENT}\"\nsecret = \"{}\"\nrefresh_token = \"{refresh_token}\"\n\
                 ticket_url = \"{base_url}/simulator/tickets/{COMPONENT}\"\n",
                component.secret
            ),
            _ => format!("secret = \"{secret}\"\n"),
        };
        write!(
            text,
            "[[official_accounts]]\nname = \"{name}\"\nappid = \"{appid}\"\nkf_accounts = {kf_accounts:?}\n\
             schedule = \"{schedule}\"\n[official_accounts.token]\nsource = \"{source}\"\n{token}"
        )
        .unwrap();
    }
    text
}
