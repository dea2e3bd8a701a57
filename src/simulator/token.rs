//! Access tokens of one official account, or of one component: issuing and judging them. Pure: the time comes in as an
//! argument.
//!
//! Lines that know nothing of each other, as at WeChat: `classic` (GET /cgi-bin/token) and `authorizer`
//! (api_authorizer_token) issue a new token at every call, `stable` (POST /cgi-bin/stable_token) returns the same one
//! until the last overlap period of its life. In all, a new token makes the former one void after the overlap, and the
//! one before that at once.

use std::collections::VecDeque;

use super::quota::{Quota, Refusal};

/// Tokens remembered per line, the current one included, to tell expired ones from unknown ones.
const REMEMBERED_TOKENS: usize = 16;
/// Characters of a token behind its prefix.
const TOKEN_RANDOM_CHARS: usize = 124;
/// A forced refresh earlier than this after the last one refreshes nothing.
const FORCED_REFRESH_GAP_MS: i64 = 30_000;
const FORCED_REFRESHES_PER_DAY: u64 = 20;
const CLASSIC_TOKENS_PER_DAY: u64 = 2_000;
const STABLE_TOKENS_PER_MINUTE: u64 = 10_000;
/// The real limit is not documented.
const AUTHORIZER_TOKENS_PER_DAY: u64 = 2_000;

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

/// Issues and judges the tokens of one official account or component; a component has but the classic line.
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
    authorizer: Line,
    authorizer_quota: Quota,
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
            authorizer: Line::default(),
            authorizer_quota: Quota::per_day(AUTHORIZER_TOKENS_PER_DAY),
        }
    }

    /// A new token; the former one stays valid for the overlap.
    pub(super) fn issue_classic(&mut self, now_ms: i64) -> Result<Issued, Refusal> {
        if !self.classic_quota.take(now_ms) {
            return Err(Refusal::Day);
        }
        self.classic.renew(self.mint.token(), self.life, now_ms);
        Ok(self.classic.issued(now_ms))
    }

    /// The current token with what is left of its life, or a new one in the last overlap period.
    pub(super) fn issue_stable(&mut self, now_ms: i64) -> Result<Issued, Refusal> {
        if !self.stable_quota.take(now_ms) {
            return Err(Refusal::Minute);
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
            return Err(Refusal::Day);
        }
        self.forced_ms = Some(now_ms);
        self.stable.renew(self.mint.token(), self.life, now_ms);
        Ok(self.stable.issued(now_ms))
    }

    /// A new token for the component that acts for the official account; the former one stays valid for the overlap.
    pub(super) fn issue_authorizer(&mut self, now_ms: i64) -> Result<Issued, Refusal> {
        if !self.authorizer_quota.take(now_ms) {
            return Err(Refusal::Day);
        }
        self.authorizer.renew(self.mint.token(), self.life, now_ms);
        Ok(self.authorizer.issued(now_ms))
    }

    /// A token that looks like the others and was never valid.
    pub(super) fn invalid(&mut self) -> Box<str> {
        self.mint.token()
    }

    pub(super) fn judge(&self, value: &str, now_ms: i64) -> Verdict {
        let known = self.lines().into_iter().find_map(|line| line.find(value));
        match known {
            Some(token) if now_ms < token.usable_until_ms => Verdict::Valid,
            Some(token) if now_ms >= token.expires_ms => Verdict::Expired,
            _ => Verdict::NotLatest,
        }
    }

    /// Whether a component fetched this token, valid or not.
    pub(super) fn is_authorizer_token(&self, value: &str) -> bool {
        self.authorizer.find(value).is_some()
    }

    /// Ends the announced life of every token now.
    pub(super) fn expire_all(&mut self, now_ms: i64) {
        for token in self.lines_mut().into_iter().flat_map(|line| &mut line.tokens) {
            token.expires_ms = token.expires_ms.min(now_ms);
            token.usable_until_ms = token.usable_until_ms.min(now_ms);
        }
    }

    /// Forgets every token, as if none had been issued.
    pub(super) fn revoke_all(&mut self) {
        self.lines_mut().into_iter().for_each(|line| line.tokens.clear());
    }

    /// Forgets the tokens that a component fetched.
    pub(super) fn revoke_authorizer(&mut self) {
        self.authorizer.tokens.clear();
    }

    fn lines(&self) -> [&Line; 3] {
        [&self.classic, &self.stable, &self.authorizer]
    }

    fn lines_mut(&mut self) -> [&mut Line; 3] {
        [&mut self.classic, &mut self.stable, &mut self.authorizer]
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

#[cfg(test)]
mod tests {
    use super::super::quota::DAY_MS;
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
    fn an_authorizers_token_is_revoked_alone() {
        let mut desk = desk();
        let stable = desk.issue_stable(NOW).unwrap();
        let former = desk.issue_authorizer(NOW).unwrap();
        let latest = desk.issue_authorizer(NOW).unwrap();
        assert!([&former, &latest].iter().all(|token| desk.judge(&token.value, NOW) == Verdict::Valid));
        assert!(desk.is_authorizer_token(&latest.value) && !desk.is_authorizer_token(&stable.value));
        desk.revoke_authorizer();
        assert_eq!(desk.judge(&latest.value, NOW), Verdict::NotLatest);
        assert_eq!(desk.judge(&stable.value, NOW), Verdict::Valid);
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
        assert_eq!(desk.force_stable(NOW + 20 * 30_000), Err(Refusal::Day));
        for _ in 0..CLASSIC_TOKENS_PER_DAY {
            desk.issue_classic(NOW).unwrap();
        }
        assert_eq!(desk.issue_classic(NOW), Err(Refusal::Day));
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
