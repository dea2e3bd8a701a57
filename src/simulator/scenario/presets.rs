//! The built-in scenarios: those of `kfwatch demo`, of a third-party platform, and of a load test.

use std::time::Duration;

use super::accounts::unlimited;
use super::mistakes::SHORTEST_GAP;
use super::{
    AgentListStyle, ComponentParameter, ComponentScript, CustomerFlow, KfAccountScript, KfState,
    OfficialAccountScript, RandomDuration, RefreshTokenRotation, ResponseStyle, Scenario, TokenServerScript,
    TransferPolicy,
};
use crate::simulator::api_call::ApiCall;
use crate::simulator::fault::{Fault, FaultRule};

/// Kf accounts of each official account of the demo: 24 in all.
const DEMO_KF_ACCOUNTS: [(&str, &str, usize); 3] =
    [("flowers", "flowers_cn", 10), ("books", "gh_0a81e05b394e", 8), ("tea", "teahouse", 6)];
/// Nicknames of agents, at most 16 characters each.
const DEMO_NICKNAMES: [&str; 11] =
    ["小明", "Ming", "阿花", "Lily", "王老师", "Tea & More", "小李", "Fang \"F\"", "客服小张", "Bo", "晓晓"];
/// Enough for polls every 3 seconds, and few enough to be seen to dwindle.
const DEMO_SESSION_LISTS_PER_DAY: u64 = 500_000;
const MINUTE: Duration = Duration::from_secs(60);

impl Scenario {
    /// Three official accounts with 24 kf accounts, lively enough to be watched: customers stay for 10 to 90 seconds,
    /// some kf accounts are not bound, one is invalid, now and then a session is transferred, WeChat is busy or a token
    /// expires.
    pub fn demo(seed: u64) -> Scenario {
        let official_accounts = DEMO_KF_ACCOUNTS
            .iter()
            .enumerate()
            .map(|(index, (name, wechat_id, kf_accounts))| OfficialAccountScript {
                wechat_id: (*wechat_id).to_owned(),
                kf_accounts: (1..=*kf_accounts).map(|number| demo_kf_account(index, number)).collect(),
                session_lists_per_day: DEMO_SESSION_LISTS_PER_DAY,
                style: demo_style(index),
                ..official_account(name, index)
            })
            .collect();
        let now_and_then = |fault, every| FaultRule {
            endpoint: Some(ApiCall::GetSessionList),
            every: Some(every),
            ..FaultRule::new(fault)
        };
        Scenario {
            seed,
            customers: CustomerFlow {
                initial: 1,
                gap: Some(spread_secs(25, 2, 90)),
                wait: spread_secs(4, 1, 20),
                stay: Some(spread_secs(35, 10, 90)),
                returning: 0.2,
            },
            transfers: TransferPolicy { probability: 0.05, renew_createtime: false },
            official_accounts,
            faults: vec![now_and_then(Fault::Errcode(-1), 47), now_and_then(Fault::ExpireTokens, 301)],
            ..Scenario::default()
        }
    }

    /// The demo as a third-party platform has it: of its three official accounts, `flowers` and `books` have granted a
    /// component whose refresh tokens rotate, and the tokens of `tea` come from the operator's central token server.
    pub fn platform(seed: u64) -> Scenario {
        let component = ComponentScript {
            component_appid: format!("wx{:016x}", 0xc0_4702_e470_u64),
            secret: format!("{:032x}", 0x5ec2_e7c0_4702_e470_u128),
            authorizers: ["flowers", "books"].map(str::to_owned).into(),
            component_parameter: ComponentParameter::Either,
            rotate_refresh_tokens: RefreshTokenRotation::WhenUsed,
            ticket_header: None,
        };
        Scenario {
            components: vec![component],
            token_server: TokenServerScript { official_accounts: vec!["tea".to_owned()], header: None },
            ..Scenario::demo(seed)
        }
    }

    /// For benchmarks: so many sessions on each kf account from the start, of which the share `churn_per_minute` is
    /// replaced by others every minute. Without a ledger.
    pub fn load(
        official_accounts: usize,
        kf_accounts: usize,
        sessions: u32,
        churn_per_minute: f64,
    ) -> Scenario {
        let script = |index| OfficialAccountScript {
            kf_accounts: (1..=kf_accounts).map(|number| kf_account(format!("kf{number}"))).collect(),
            ..official_account(&format!("load{index}"), index)
        };
        Scenario {
            ledger: false,
            customers: steady_flow(sessions, churn_per_minute),
            official_accounts: (0..official_accounts).map(script).collect(),
            ..Scenario::default()
        }
    }
}

fn official_account(name: &str, index: usize) -> OfficialAccountScript {
    OfficialAccountScript {
        name: name.to_owned(),
        appid: format!("wx{:016x}", 0x00d0_5eed_0000_0000_u64 + index as u64),
        secret: format!("{:032x}", 0x5ec2_e700_0000_0000_u128 + index as u128),
        wechat_id: format!("oa{index}"),
        session_lists_per_day: unlimited(),
        style: ResponseStyle::default(),
        kf_accounts: Vec::new(),
    }
}

fn kf_account(prefix: String) -> KfAccountScript {
    KfAccountScript { prefix, nickname: None, state: KfState::Bound, customers: None }
}

fn demo_kf_account(official_account: usize, number: usize) -> KfAccountScript {
    let state = match (official_account, number) {
        // Early in the list, so that it is seen at once.
        (0, 2) => KfState::UnboundWaiting,
        (0, 10) => KfState::Unbound,
        (1, 8) => KfState::UnboundRejected,
        (2, 6) => KfState::Invalid,
        _ => KfState::Bound,
    };
    KfAccountScript {
        nickname: Some(DEMO_NICKNAMES[(official_account * 7 + number) % DEMO_NICKNAMES.len()].to_owned()),
        state,
        ..kf_account(format!("kf{}", 2000 + number))
    }
}

/// Each official account of the demo answers in its own way, as the real ones do.
fn demo_style(official_account: usize) -> ResponseStyle {
    let plain = ResponseStyle { shuffle: 0.1, ..ResponseStyle::default() };
    match official_account {
        0 => plain,
        1 => ResponseStyle {
            createtime_as_text: true,
            escaped_slashes: true,
            agents: AgentListStyle {
                expiry_as_text: true,
                kf_id_of_other_type: true,
                accepted_case_as_text: true,
                ..AgentListStyle::default()
            },
            ..plain
        },
        _ => ResponseStyle {
            text_plain: true,
            explicit_ok: true,
            duplicate: 0.05,
            agents: AgentListStyle { lists_offline: true, old_wait_cases: true, ..AgentListStyle::default() },
            ..plain
        },
    }
}

/// Arrivals and departures in balance, so that the number of sessions stays near `sessions`.
fn steady_flow(sessions: u32, churn_per_minute: f64) -> CustomerFlow {
    if sessions == 0 || churn_per_minute <= 0.0 {
        return CustomerFlow { initial: sessions, ..CustomerFlow::default() };
    }
    let stay = MINUTE.div_f64(churn_per_minute);
    let gap = (stay / sessions).max(SHORTEST_GAP);
    CustomerFlow {
        initial: sessions,
        gap: Some(RandomDuration { mean: gap, min: SHORTEST_GAP, max: gap * 10 }),
        stay: Some(RandomDuration { mean: stay, min: Duration::ZERO, max: stay * 10 }),
        ..CustomerFlow::default()
    }
}

fn spread_secs(mean: u64, min: u64, max: u64) -> RandomDuration {
    let [mean, min, max] = [mean, min, max].map(Duration::from_secs);
    RandomDuration { mean, min, max }
}
