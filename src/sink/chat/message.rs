//! Writes messages: what happened to which kf account, since when, and what to do, in English, Chinese or both.
//!
//! A message is cut between two lines, and then says how many are missing.

use std::fmt::Write as _;

use super::{Nicknames, digest::AccountDigest, vendor::Vendor};
use crate::domain::{
    account::AccountState, language::Language, local_time::LocalZone, peer_text::PeerText, remedy::Remedy,
};

/// The longest nickname in a message, in bytes. WeChat allows 16 characters.
const MAX_NICKNAME_BYTES: usize = 64;

/// How many earlier states of a kf account a line has, the newest ones.
const EARLIER_STATES: usize = 3;

/// Room for the line that says how many are missing.
const MISSING_BYTES: usize = 80;

/// A text in both languages.
type Phrase = (&'static str, &'static str);

const AND_MORE: Phrase = ("and {} more", "另有 {} 个");
const EVENTS: Phrase = ("{} events", "{} 条事件");
const SESSIONS: Phrase = ("sessions", "会话");
const STARTED: Phrase = ("started {}", "开始 {}");
const ENDED: Phrase = ("ended {}", "结束 {}");
const UNREADABLE: Phrase = ("unreadable", "无法读取");
const OF: Phrase = ("of", "公众号");
const SINCE: Phrase = ("since", "自");
const BEFORE: Phrase = ("before", "此前");
const CHANGES: Phrase = ("{} changes", "共变化 {} 次");
const TEST: Phrase = (
    "kfwatch: this is a test of the sink {}. It will report here when the state of a kf account changes.",
    "kfwatch：这是接收端 {} 的测试消息。客服帐号的状态发生变化时，将在此通知。",
);

/// Writes messages for one robot.
pub(super) struct MessageWriter<'a> {
    pub(super) vendor: Vendor,
    pub(super) language: Language,
    pub(super) zone: LocalZone,
    /// `None` leaves them out.
    pub(super) nicknames: Option<&'a dyn Nicknames>,
}

/// What is said of kf accounts.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Topic {
    State(AccountState),
    /// No state changed.
    Sessions,
    /// The event log is damaged here.
    Unreadable,
}

/// Kf accounts of which the same is said.
struct Section {
    topic: Topic,
    remedy: Option<Remedy>,
    lines: Vec<String>,
}

impl MessageWriter<'_> {
    /// What happened to these accounts.
    pub(super) fn report(&self, accounts: &[AccountDigest]) -> String {
        let sections = self.sections(accounts);
        let mut text = self.heading(&sections, accounts.iter().map(|account| account.events.len()).sum());
        let mut missing = 0;
        for section in &sections {
            missing += self.append(section, &mut text);
        }
        if missing > 0 {
            // Writing to a string cannot fail.
            let _ = write!(text, "\n\n… {}", self.counted(AND_MORE, missing));
        }
        text
    }

    /// A message that says that it is a test.
    pub(super) fn test(&self, sink: &str) -> String {
        let (en, zh) = TEST;
        let [en, zh] = [en, zh].map(|text| text.replace("{}", sink));
        match self.language {
            Language::English => en,
            Language::Chinese => zh,
            Language::Both => format!("{en}\n{zh}"),
        }
    }

    /// The most urgent first.
    fn sections(&self, accounts: &[AccountDigest]) -> Vec<Section> {
        let mut sections: Vec<Section> = Vec::new();
        for account in accounts {
            let (topic, remedy) = topic(account);
            let line = self.line(account);
            match sections.iter_mut().find(|section| section.topic == topic && section.remedy == remedy) {
                Some(section) => section.lines.push(line),
                None => sections.push(Section { topic, remedy, lines: vec![line] }),
            }
        }
        sections.sort_by_key(|section| urgency(section.topic));
        sections
    }

    /// The first line, which notifications show.
    fn heading(&self, sections: &[Section], events: usize) -> String {
        let mut counts: Vec<(String, usize)> = Vec::new();
        for section in sections {
            let word = self.word(section.topic);
            match counts.iter_mut().find(|(known, _)| *known == word) {
                Some((_, count)) => *count += section.lines.len(),
                None => counts.push((word, section.lines.len())),
            }
        }
        let kf_accounts: usize = counts.iter().map(|(_, count)| count).sum();
        let counts: Vec<String> = counts.iter().map(|(word, count)| format!("{word} {count}")).collect();
        let mut heading = format!("kfwatch: {}", counts.join(", "));
        if events > kf_accounts {
            let _ = write!(heading, " ({})", self.counted(EVENTS, events));
        }
        heading
    }

    /// Appends a section as far as there is room. Returns how many lines are missing.
    fn append(&self, section: &Section, text: &mut String) -> usize {
        let heading = format!("\n\n{}:", self.word(section.topic));
        let remedy = section.remedy.map(|remedy| self.remedy(remedy)).unwrap_or_default();
        let around = text.len() + heading.len() + remedy.len() + MISSING_BYTES;
        let room = self.vendor.max_text_bytes().saturating_sub(around);
        let (mut shown, mut lines) = (0, String::new());
        for line in &section.lines {
            if lines.len() + 1 + line.len() > room {
                break;
            }
            let _ = write!(lines, "\n{line}");
            shown += 1;
        }
        if shown > 0 {
            text.extend([heading, lines, remedy]);
        }
        section.lines.len() - shown
    }

    /// One kf account.
    fn line(&self, account: &AccountDigest) -> String {
        let AccountDigest { official_account, kf_account, states, .. } = account;
        if kf_account.is_empty() {
            return format!("- {}", self.counted(EVENTS, account.events.len()));
        }
        let mut line = format!("- {}", self.vendor.escaped(kf_account));
        let nickname = self.nicknames.and_then(|known| known.nickname(official_account, kf_account));
        let nickname = nickname.unwrap_or_default();
        let nickname = PeerText::with_limit(&nickname, MAX_NICKNAME_BYTES);
        if !nickname.is_empty() {
            // People are notified by their names after this sign, also if it is a kf account's.
            let _ = write!(line, " ({})", self.vendor.escaped(&nickname).replace('@', "＠"));
        }
        let _ = write!(line, " {} {official_account}", self.phrase(OF));
        if let [earlier @ .., last] = &states[..] {
            let _ = write!(line, ", {} {}", self.phrase(SINCE), self.zone.show(last.since));
            let shown = &earlier[earlier.len().saturating_sub(EARLIER_STATES)..];
            let shown = shown.iter().map(|change| {
                format!(
                    "{} {}",
                    self.word(Topic::State(change.state)),
                    self.zone.show_beside(change.since, last.since)
                )
            });
            if !earlier.is_empty() {
                let _ = write!(line, "; {}: {}", self.phrase(BEFORE), shown.collect::<Vec<_>>().join(", "));
            }
            if earlier.len() > EARLIER_STATES {
                let _ = write!(line, "; {}", self.counted(CHANGES, states.len()));
            }
        }
        for (phrase, count) in [(STARTED, account.sessions_started), (ENDED, account.sessions_ended)] {
            if count > 0 {
                let _ = write!(line, ", {}", self.counted(phrase, count));
            }
        }
        line
    }

    fn remedy(&self, Remedy { en, zh }: Remedy) -> String {
        match self.language {
            Language::English => format!("\n→ {en}"),
            Language::Chinese => format!("\n→ {zh}"),
            Language::Both => format!("\n→ {zh}\n→ {en}"),
        }
    }

    fn word(&self, topic: Topic) -> String {
        self.phrase(match topic {
            Topic::State(AccountState::Unknown) => ("unknown", "未知"),
            Topic::State(AccountState::Ok) => ("ok", "正常"),
            Topic::State(AccountState::Unbound) => ("unbound", "未绑定微信号"),
            Topic::State(AccountState::Invalid) => ("invalid", "帐号不存在"),
            Topic::State(AccountState::Blind) => ("blind", "无法获知状态"),
            Topic::State(AccountState::Unwatched) => ("unwatched", "不再监控"),
            Topic::Sessions => SESSIONS,
            Topic::Unreadable => UNREADABLE,
        })
    }

    fn counted(&self, (en, zh): Phrase, count: usize) -> String {
        self.phrase((en, zh)).replace("{}", &count.to_string())
    }

    fn phrase(&self, (en, zh): Phrase) -> String {
        match self.language {
            Language::English => en.to_owned(),
            Language::Chinese => zh.to_owned(),
            Language::Both => format!("{zh} {en}"),
        }
    }
}

fn topic(account: &AccountDigest) -> (Topic, Option<Remedy>) {
    match account.last_state() {
        Some(change) => (Topic::State(change.state), change.remedy),
        None if account.kf_account.is_empty() => (Topic::Unreadable, None),
        None => (Topic::Sessions, None),
    }
}

fn urgency(topic: Topic) -> u8 {
    match topic {
        Topic::State(AccountState::Unbound) => 0,
        Topic::State(AccountState::Invalid) => 1,
        Topic::State(AccountState::Blind) => 2,
        Topic::State(AccountState::Unknown | AccountState::Unwatched) => 3,
        Topic::State(AccountState::Ok) => 4,
        Topic::Sessions | Topic::Unreadable => 5,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        domain::event::EventType,
        sink::chat::digest::digest,
        store::{AccountId, StoredEvent},
    };

    struct Names(&'static str);

    impl Nicknames for Names {
        fn nickname(&self, _: &str, _: &str) -> Option<Arc<str>> {
            Some(self.0.into()).filter(|name: &Arc<str>| !name.is_empty())
        }
    }

    fn event(account: i64, event_type: EventType, at: &str, data: &str) -> Arc<StoredEvent> {
        let json = format!(
            "{{\"data\":{{\"official_account\":\"shop\",\"kf_account\":\"kf{account}@shop\",\"openid\":\"oDF3\",{data}}}}}"
        );
        Arc::new(StoredEvent {
            account: AccountId(account),
            event_type,
            observed_at: at.parse().unwrap(),
            ..StoredEvent::sample(&json)
        })
    }

    fn state(account: i64, to: &str, at: &str) -> Arc<StoredEvent> {
        event(account, EventType::StateChanged, at, &format!("\"to\":\"{to}\""))
    }

    fn report(vendor: Vendor, language: Language, name: &'static str, events: &[Arc<StoredEvent>]) -> String {
        let zone = LocalZone::named("Asia/Shanghai").unwrap();
        MessageWriter { vendor, language, zone, nicknames: Some(&Names(name)) }.report(&digest(events))
    }

    #[test]
    fn message_groups_kf_accounts_and_says_what_to_do() {
        let events = [
            state(1, "ok", "2026-11-28T15:59:00Z"),
            state(2, "unbound", "2026-11-28T16:00:00Z"),
            state(1, "unbound", "2026-11-28T16:00:05Z"),
            state(3, "ok", "2026-11-28T16:00:06Z"),
            event(4, EventType::SessionStarted, "2026-11-28T16:00:07Z", "\"x\":1"),
            event(4, EventType::SessionEnded, "2026-11-28T16:00:07Z", "\"x\":1"),
        ];
        assert_eq!(
            report(Vendor::WeCom, Language::English, "小王", &events),
            "kfwatch: unbound 2, ok 1, sessions 1 (6 events)\n\n\
             unbound:\n\
             - kf1@shop (小王) of shop, since 2026-11-29 00:00:05; before: ok 2026-11-28 23:59:00\n\
             - kf2@shop (小王) of shop, since 2026-11-29 00:00:00\n\
             → bind a WeChat user to this kf account: invite the agent in the console (or call inviteworker); the agent must \
             accept the invitation in WeChat\n\n\
             ok:\n\
             - kf3@shop (小王) of shop, since 2026-11-29 00:00:06\n\n\
             sessions:\n\
             - kf4@shop (小王) of shop, started 1, ended 1"
        );
        assert_eq!(
            report(Vendor::WeCom, Language::Chinese, "", &events[1..2]),
            "kfwatch: 未绑定微信号 1\n\n未绑定微信号:\n- kf2@shop 公众号 shop, 自 2026-11-29 00:00:00\n\
             → 请为该客服帐号绑定微信号：在公众平台（或调用 inviteworker）邀请客服人员，并由其在微信中接受邀请"
        );
        let both = report(Vendor::WeCom, Language::Both, "", &events[1..2]);
        assert!(
            both.starts_with("kfwatch: 未绑定微信号 unbound 1\n\n") && both.contains("\n→ bind a"),
            "{both}"
        );
    }

    #[test]
    fn long_message_is_cut_between_lines() {
        let events: Vec<_> = (0..500).map(|n| state(n, "blind", "2026-11-28T16:00:00Z")).collect();
        for (vendor, limit) in [(Vendor::WeCom, 2048), (Vendor::Slack, 8000)] {
            for language in [Language::English, Language::Chinese, Language::Both] {
                let text = report(vendor, language, "客服客服客服客服客服客服客服客服", &events);
                assert!(text.len() <= limit && text.len() > limit - 300, "{} bytes", text.len());
                let shown = text.matches("\n- kf").count();
                assert!(text.lines().last().unwrap().contains(&(500 - shown).to_string()), "{text}");
            }
        }
    }

    #[test]
    fn nickname_mentions_nobody_and_breaks_no_line() {
        let name = "@all <at user_id=\"all\">x</at> <!channel>&\n@138";
        for vendor in [Vendor::WeCom, Vendor::DingTalk, Vendor::Feishu, Vendor::Slack] {
            let text = report(vendor, Language::English, name, &[state(1, "ok", "2026-11-28T16:00:00Z")]);
            for mention in ["@all", "@138", "<at", "<!", "\n@", "\n ("] {
                assert!(!text.contains(mention), "{text}");
            }
        }
    }
}
