//! Access tokens of one official account: issuing and judging them. Pure: the time comes in as an argument.
//!
//! Two lines that know nothing of each other, as at WeChat: `classic` (GET /cgi-bin/token) issues a new token at every
//! call, `stable` (POST /cgi-bin/stable_token) returns the same one until the last overlap period of its life. In both,
//! a new token makes the former one void after the overlap, and the one before that at once.

use std::collections::VecDeque;

/// Tokens remembered per line, the current one included, to tell expired ones from unknown ones.
const REMEMBERED_TOKENS: usize = 16;
/// Characters of a token behind its prefix.
const TOKEN_RANDOM_CHARS: usize = 124;
/// A forced refresh earlier than this after the last one refreshes nothing.
const FORCED_REFRESH_GAP_MS: i64 = 30_000;
const FORCED_REFRESHES_PER_DAY: u64 = 20;
const CLASSIC_TOKENS_PER_DAY: u64 = 2_000;
const STABLE_TOKENS_PER_MINUTE: u64 = 10_000;

const MINUTE_MS: i64 = 60_000;
const DAY_MS: i64 = 24 * 60 * MINUTE_MS;
/// Quotas of a day begin anew at midnight in China.
const CHINA_OFFSET_MS: i64 = 8 * 60 * MINUTE_MS;

/// How long tokens live.
#[derive(Debug, Clone, Copy)]
pub(super) struct TokenLife {
    pub(super) lifetime_ms: i64,
    pub(super) overlap_ms: i64,
}

/// What a presented token is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Valid,
    /// Its announced life is over: 42001.
    Expired,
    /// Never issued, or void because a newer one took its place: 40001.
    NotLatest,
}

/// A token as handed out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Issued {
    pub(super) value: Box<str>,
    pub(super) expires_in_s: i64,
}

/// Why no token was handed out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    DayQuota,
    MinuteQuota,
}

/// Issues and judges the tokens of one official account.
#[derive(Debug)]
pub(super) struct TokenDesk {
    life: TokenLife,
    mint: Mint,
    classic: Line,
    classic_quota: Quota,
    stable: Line,
    stable_quota: Quota,
    forced_quota: Quota,
    forced_ms: Option<i64>,
}

impl TokenDesk {
    /// `number` is the official account's place in the scenario; its tokens carry it, so that a call finds its account.
    pub(super) fn new(life: TokenLife, number: usize, seed: u64) -> Self {
        TokenDesk {
            life,
            mint: Mint { number, rng: fastrand::Rng::with_seed(seed) },
            classic: Line::default(),
            classic_quota: Quota::per_day(CLASSIC_TOKENS_PER_DAY),
            stable: Line::default(),
            stable_quota: Quota::per_minute(STABLE_TOKENS_PER_MINUTE),
            forced_quota: Quota::per_day(FORCED_REFRESHES_PER_DAY),
            forced_ms: None,
        }
    }

    /// A new token; the former one stays valid for the overlap.
    pub(super) fn issue_classic(&mut self, now_ms: i64) -> Result<Issued, Refusal> {
        if !self.classic_quota.take(now_ms) {
            return Err(Refusal::DayQuota);
        }
        self.classic.renew(self.mint.token(), self.life, now_ms);
        Ok(self.classic.issued(now_ms))
    }

    /// The current token with what is left of its life, or a new one in the last overlap period.
    pub(super) fn issue_stable(&mut self, now_ms: i64) -> Result<Issued, Refusal> {
        if !self.stable_quota.take(now_ms) {
            return Err(Refusal::MinuteQuota);
        }
        if self.stable.current_until_ms() <= now_ms + self.life.overlap_ms {
            self.stable.renew(self.mint.token(), self.life, now_ms);
        }
        Ok(self.stable.issued(now_ms))
    }

    /// As [`TokenDesk::issue_stable`] with force_refresh: a new token, unless the last forced one is too young.
    pub(super) fn force_stable(&mut self, now_ms: i64) -> Result<Issued, Refusal> {
        if self.forced_ms.is_some_and(|forced_ms| now_ms - forced_ms < FORCED_REFRESH_GAP_MS) {
            return self.issue_stable(now_ms);
        }
        if !self.forced_quota.take(now_ms) {
            return Err(Refusal::DayQuota);
        }
        self.forced_ms = Some(now_ms);
        self.stable.renew(self.mint.token(), self.life, now_ms);
        Ok(self.stable.issued(now_ms))
    }

    pub(super) fn judge(&self, value: &str, now_ms: i64) -> Verdict {
        let known = self.classic.find(value).or_else(|| self.stable.find(value));
        match known {
            Some(token) if now_ms < token.usable_until_ms => Verdict::Valid,
            Some(token) if now_ms >= token.expires_ms => Verdict::Expired,
            _ => Verdict::NotLatest,
        }
    }

    /// Ends the announced life of every token now.
    pub(super) fn expire_all(&mut self, now_ms: i64) {
        for token in self.classic.tokens.iter_mut().chain(&mut self.stable.tokens) {
            token.expires_ms = token.expires_ms.min(now_ms);
            token.usable_until_ms = token.usable_until_ms.min(now_ms);
        }
    }

    /// Forgets every token, as if none had been issued.
    pub(super) fn revoke_all(&mut self) {
        self.classic.tokens.clear();
        self.stable.tokens.clear();
    }
}

/// The number of the official account that a token claims to belong to.
pub(super) fn official_account_number(token: &str) -> Option<usize> {
    let number = token.strip_prefix(TOKEN_PREFIX)?.get(..NUMBER_DIGITS)?;
    usize::from_str_radix(number, 16).ok()
}

const TOKEN_PREFIX: &str = "92_";
const NUMBER_DIGITS: usize = 8;

#[derive(Debug)]
struct Mint {
    number: usize,
    rng: fastrand::Rng,
}

impl Mint {
    fn token(&mut self) -> Box<str> {
        let mut value = format!("{TOKEN_PREFIX}{:0NUMBER_DIGITS$x}", self.number);
        value.extend((0..TOKEN_RANDOM_CHARS).map(|_| self.rng.alphanumeric()));
        value.into()
    }
}

/// The tokens of one way to fetch them, newest first.
#[derive(Debug, Default)]
struct Line {
    tokens: VecDeque<Token>,
}

#[derive(Debug)]
struct Token {
    value: Box<str>,
    expires_ms: i64,
    /// Not later than `expires_ms`; earlier when a newer token took its place.
    usable_until_ms: i64,
}

impl Line {
    fn renew(&mut self, value: Box<str>, life: TokenLife, now_ms: i64) {
        for (age, token) in self.tokens.iter_mut().enumerate() {
            let overlap_ms = if age == 0 { life.overlap_ms } else { 0 };
            token.usable_until_ms = token.usable_until_ms.min(now_ms + overlap_ms);
        }
        let expires_ms = now_ms + life.lifetime_ms;
        self.tokens.truncate(REMEMBERED_TOKENS - 1);
        self.tokens.push_front(Token { value, expires_ms, usable_until_ms: expires_ms });
    }

    fn current_until_ms(&self) -> i64 {
        self.tokens.front().map_or(i64::MIN, |token| token.usable_until_ms)
    }

    fn issued(&self, now_ms: i64) -> Issued {
        self.tokens.front().map_or_else(
            || Issued { value: "".into(), expires_in_s: 0 },
            |token| Issued { value: token.value.clone(), expires_in_s: (token.expires_ms - now_ms) / 1_000 },
        )
    }

    fn find(&self, value: &str) -> Option<&Token> {
        self.tokens.iter().find(|token| *token.value == *value)
    }
}

/// So many calls in a minute, or in a day of China.
#[derive(Debug)]
pub(super) struct Quota {
    limit: u64,
    period_ms: i64,
    period: i64,
    used: u64,
}

impl Quota {
    pub(super) fn per_day(limit: u64) -> Self {
        Quota { limit, period_ms: DAY_MS, period: 0, used: 0 }
    }

    fn per_minute(limit: u64) -> Self {
        Quota { limit, period_ms: MINUTE_MS, period: 0, used: 0 }
    }

    /// Counts one call, unless the quota is used up.
    pub(super) fn take(&mut self, now_ms: i64) -> bool {
        self.roll(now_ms);
        let allowed = self.used < self.limit;
        self.used += u64::from(allowed);
        allowed
    }

    pub(super) fn limit(&self) -> u64 {
        self.limit
    }

    pub(super) fn used(&mut self, now_ms: i64) -> u64 {
        self.roll(now_ms);
        self.used
    }

    fn roll(&mut self, now_ms: i64) {
        let period = (now_ms + CHINA_OFFSET_MS).div_euclid(self.period_ms);
        if period != self.period {
            self.period = period;
            self.used = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIFE: TokenLife = TokenLife { lifetime_ms: 7_200_000, overlap_ms: 300_000 };
    const NOW: i64 = 1_795_331_551_000;

    fn desk() -> TokenDesk {
        TokenDesk::new(LIFE, 7, 1)
    }

    #[test]
    fn a_classic_token_outlives_its_successor_by_the_overlap() {
        let mut desk = desk();
        let first = desk.issue_classic(NOW).unwrap();
        let second = desk.issue_classic(NOW + 1_000).unwrap();
        assert_ne!(first.value, second.value);
        assert_eq!(desk.judge(&first.value, NOW + 300_999), Verdict::Valid);
        assert_eq!(desk.judge(&first.value, NOW + 301_000), Verdict::NotLatest);
        assert_eq!(desk.judge(&first.value, NOW + 7_200_000), Verdict::Expired);
        assert_eq!(desk.judge(&second.value, NOW + 7_200_999), Verdict::Valid);
        assert_eq!(desk.judge(&second.value, NOW + 7_201_000), Verdict::Expired);
    }

    #[test]
    fn only_the_last_former_token_overlaps() {
        let mut desk = desk();
        let first = desk.issue_classic(NOW).unwrap();
        let second = desk.issue_classic(NOW).unwrap();
        desk.issue_classic(NOW).unwrap();
        assert_eq!(desk.judge(&first.value, NOW), Verdict::NotLatest);
        assert_eq!(desk.judge(&second.value, NOW), Verdict::Valid);
    }

    #[test]
    fn a_stable_token_stays_until_the_last_overlap_period() {
        let mut desk = desk();
        let first = desk.issue_stable(NOW).unwrap();
        assert_eq!(first.expires_in_s, 7_200);
        let again = desk.issue_stable(NOW + 6_899_000).unwrap();
        assert_eq!((&again.value, again.expires_in_s), (&first.value, 301));
        let next = desk.issue_stable(NOW + 6_900_000).unwrap();
        assert_ne!(next.value, first.value);
        assert_eq!(desk.judge(&first.value, NOW + 7_199_999), Verdict::Valid);
        assert_eq!(desk.judge(&first.value, NOW + 7_200_000), Verdict::Expired);
    }

    #[test]
    fn the_two_lines_do_not_touch_each_other() {
        let mut desk = desk();
        let stable = desk.issue_stable(NOW).unwrap();
        let classic = desk.issue_classic(NOW).unwrap();
        desk.issue_classic(NOW).unwrap();
        desk.issue_classic(NOW).unwrap();
        assert_eq!(desk.judge(&stable.value, NOW), Verdict::Valid);
        assert_eq!(desk.judge(&classic.value, NOW), Verdict::NotLatest);
        assert_eq!(desk.issue_stable(NOW).unwrap().value, stable.value);
    }

    #[test]
    fn two_forced_refreshes_thirty_seconds_apart_kill_a_leaked_token() {
        let mut desk = desk();
        let leaked = desk.issue_stable(NOW).unwrap();
        let forced = desk.force_stable(NOW).unwrap();
        assert_eq!(desk.judge(&leaked.value, NOW), Verdict::Valid);
        assert_eq!(
            desk.force_stable(NOW + 29_999).unwrap().value,
            forced.value,
            "too early: nothing happens"
        );
        desk.force_stable(NOW + 30_000).unwrap();
        assert_eq!(desk.judge(&leaked.value, NOW + 30_000), Verdict::NotLatest);
        assert_eq!(desk.judge(&forced.value, NOW + 30_000), Verdict::Valid);
    }

    #[test]
    fn fetching_is_limited() {
        let mut desk = desk();
        for nth in 0..20 {
            desk.force_stable(NOW + nth * 30_000).unwrap();
        }
        assert_eq!(desk.force_stable(NOW + 20 * 30_000), Err(Refusal::DayQuota));
        for _ in 0..CLASSIC_TOKENS_PER_DAY {
            desk.issue_classic(NOW).unwrap();
        }
        assert_eq!(desk.issue_classic(NOW), Err(Refusal::DayQuota));
        assert!(desk.issue_classic(NOW + DAY_MS).is_ok());
    }

    #[test]
    fn expired_and_revoked_tokens_differ() {
        let mut desk = desk();
        let expired = desk.issue_stable(NOW).unwrap();
        desk.expire_all(NOW);
        assert_eq!(desk.judge(&expired.value, NOW), Verdict::Expired);
        let revoked = desk.issue_stable(NOW).unwrap();
        assert_ne!(revoked.value, expired.value);
        desk.revoke_all();
        assert_eq!(desk.judge(&revoked.value, NOW), Verdict::NotLatest);
    }

    #[test]
    fn a_token_tells_its_official_account() {
        let token = desk().issue_stable(NOW).unwrap();
        assert_eq!(official_account_number(&token.value), Some(7));
        assert_eq!(official_account_number("92_x"), None);
        assert_eq!(official_account_number(""), None);
    }
}
