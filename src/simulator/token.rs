//! Issues and validates the access tokens of one official account or component. Pure: the time is an argument.
//!
//! As at WeChat, there are three independent ways to fetch a token: `classic` (GET /cgi-bin/token) and `authorizer`
//! (api_authorizer_token) issue a new token at every call; `stable` (POST /cgi-bin/stable_token) returns the same token
//! until its last overlap period. In each of them a new token invalidates the previous one after the overlap, and any
//! older one at once.

use std::collections::VecDeque;

use super::quota::DayQuota;
use super::random::push_alphanumeric;

/// Tokens kept for each way, including the current one, to distinguish expired tokens from unknown ones.
const REMEMBERED_TOKENS: usize = 16;
/// Random characters of a token, after its prefix.
const TOKEN_RANDOM_CHARS: usize = 124;
const CLASSIC_TOKENS_PER_DAY: u64 = 2_000;
/// WeChat does not document the real limit.
const AUTHORIZER_TOKENS_PER_DAY: u64 = 2_000;

#[derive(Debug, Clone, Copy)]
pub(super) struct TokenLifetimes {
    pub(super) lifetime_ms: i64,
    pub(super) overlap_ms: i64,
}

/// The errcode of a token whose announced lifetime is over.
const TOKEN_EXPIRED: i64 = 42001;
/// The errcode of a token that was never issued, or was replaced by a newer one.
const TOKEN_NOT_LATEST: i64 = 40001;

/// A token as returned to a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct IssuedToken {
    pub(super) value: Box<str>,
    pub(super) expires_in_s: i64,
}

/// Issues and validates the tokens of one official account or component. A component uses only `classic`.
#[derive(Debug)]
pub(super) struct TokenIssuer {
    lifetimes: TokenLifetimes,
    generator: TokenGenerator,
    classic: TokenHistory,
    classic_quota: DayQuota,
    stable: TokenHistory,
    authorizer: TokenHistory,
    authorizer_quota: DayQuota,
}

impl TokenIssuer {
    /// Tokens contain `number`, the index of the official account, so that a request finds its account.
    pub(super) fn new(lifetimes: TokenLifetimes, number: usize, seed: u64) -> Self {
        TokenIssuer {
            lifetimes,
            generator: TokenGenerator { number, rng: fastrand::Rng::with_seed(seed) },
            classic: TokenHistory::default(),
            classic_quota: DayQuota::new(CLASSIC_TOKENS_PER_DAY),
            stable: TokenHistory::default(),
            authorizer: TokenHistory::default(),
            authorizer_quota: DayQuota::new(AUTHORIZER_TOKENS_PER_DAY),
        }
    }

    /// Issues a new token. The previous one stays valid for the overlap.
    pub(super) fn issue_classic(&mut self, now_ms: i64) -> Result<IssuedToken, i64> {
        self.classic_quota.count_call(now_ms)?;
        self.classic.renew(self.generator.generate(), self.lifetimes, now_ms);
        Ok(self.classic.issued(now_ms))
    }

    /// Returns the current token with its remaining lifetime, or a new token in the last overlap period.
    pub(super) fn issue_stable(&mut self, now_ms: i64) -> IssuedToken {
        if self.stable.current_until_ms() <= now_ms + self.lifetimes.overlap_ms {
            self.stable.renew(self.generator.generate(), self.lifetimes, now_ms);
        }
        self.stable.issued(now_ms)
    }

    /// Issues a new token for the component. The previous one stays valid for the overlap.
    pub(super) fn issue_authorizer(&mut self, now_ms: i64) -> Result<IssuedToken, i64> {
        self.authorizer_quota.count_call(now_ms)?;
        self.authorizer.renew(self.generator.generate(), self.lifetimes, now_ms);
        Ok(self.authorizer.issued(now_ms))
    }

    /// Returns a well-formed token that was never valid.
    pub(super) fn invalid_token(&mut self) -> Box<str> {
        self.generator.generate()
    }

    /// Returns an errcode unless the token is valid.
    pub(super) fn validate(&self, value: &str, now_ms: i64) -> Result<(), i64> {
        let histories = [&self.classic, &self.stable, &self.authorizer];
        match histories.into_iter().find_map(|history| history.find(value)) {
            Some(token) if now_ms < token.usable_until_ms => Ok(()),
            Some(token) if now_ms >= token.expires_ms => Err(TOKEN_EXPIRED),
            _ => Err(TOKEN_NOT_LATEST),
        }
    }

    /// Whether a component fetched this token. It may be invalid by now.
    pub(super) fn is_authorizer_token(&self, value: &str) -> bool {
        self.authorizer.find(value).is_some()
    }

    /// Ends the lifetime of every token now.
    pub(super) fn expire_all(&mut self, now_ms: i64) {
        for token in self.histories_mut().into_iter().flat_map(|history| &mut history.tokens) {
            token.expires_ms = token.expires_ms.min(now_ms);
            token.usable_until_ms = token.usable_until_ms.min(now_ms);
        }
    }

    /// Removes every token, as if none had been issued.
    pub(super) fn revoke_all(&mut self) {
        self.histories_mut().into_iter().for_each(|history| history.tokens.clear());
    }

    /// Removes the tokens that the component fetched.
    pub(super) fn revoke_authorizer(&mut self) {
        self.authorizer.tokens.clear();
    }

    fn histories_mut(&mut self) -> [&mut TokenHistory; 3] {
        [&mut self.classic, &mut self.stable, &mut self.authorizer]
    }
}

/// Returns the index of the official account that a token names.
pub(super) fn official_account_number(token: &str) -> Option<usize> {
    let number = token.strip_prefix(TOKEN_PREFIX)?.get(..NUMBER_DIGITS)?;
    usize::from_str_radix(number, 16).ok()
}

const TOKEN_PREFIX: &str = "92_";
const NUMBER_DIGITS: usize = 8;

#[derive(Debug)]
struct TokenGenerator {
    number: usize,
    rng: fastrand::Rng,
}

impl TokenGenerator {
    fn generate(&mut self) -> Box<str> {
        let mut value = format!("{TOKEN_PREFIX}{:0NUMBER_DIGITS$x}", self.number);
        push_alphanumeric(&mut value, &mut self.rng, TOKEN_RANDOM_CHARS);
        value.into()
    }
}

/// The tokens of one way to fetch them, newest first.
#[derive(Debug, Default)]
struct TokenHistory {
    tokens: VecDeque<Token>,
}

#[derive(Debug)]
struct Token {
    value: Box<str>,
    expires_ms: i64,
    /// At most `expires_ms`. Earlier if a newer token has replaced this one.
    usable_until_ms: i64,
}

impl TokenHistory {
    fn renew(&mut self, value: Box<str>, lifetimes: TokenLifetimes, now_ms: i64) {
        for (age, token) in self.tokens.iter_mut().enumerate() {
            let overlap_ms = if age == 0 { lifetimes.overlap_ms } else { 0 };
            token.usable_until_ms = token.usable_until_ms.min(now_ms + overlap_ms);
        }
        let expires_ms = now_ms + lifetimes.lifetime_ms;
        self.tokens.truncate(REMEMBERED_TOKENS - 1);
        self.tokens.push_front(Token { value, expires_ms, usable_until_ms: expires_ms });
    }

    fn current_until_ms(&self) -> i64 {
        self.tokens.front().map_or(i64::MIN, |token| token.usable_until_ms)
    }

    fn issued(&self, now_ms: i64) -> IssuedToken {
        self.tokens.front().map_or_else(
            || IssuedToken { value: "".into(), expires_in_s: 0 },
            |token| IssuedToken {
                value: token.value.clone(),
                expires_in_s: (token.expires_ms - now_ms) / 1_000,
            },
        )
    }

    fn find(&self, value: &str) -> Option<&Token> {
        self.tokens.iter().find(|token| *token.value == *value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simulator::quota::{DAY_LIMIT_REACHED, DAY_MS};

    const LIFE: TokenLifetimes = TokenLifetimes { lifetime_ms: 7_200_000, overlap_ms: 300_000 };
    const NOW: i64 = 1_795_331_551_000;

    fn issuer() -> TokenIssuer {
        TokenIssuer::new(LIFE, 7, 1)
    }

    #[test]
    fn replaced_classic_token_stays_valid_for_overlap() {
        let mut issuer = issuer();
        let first = issuer.issue_classic(NOW).unwrap();
        let second = issuer.issue_classic(NOW + 1_000).unwrap();
        assert_ne!(first.value, second.value);
        assert_eq!(issuer.validate(&first.value, NOW + 300_999), Ok(()));
        assert_eq!(issuer.validate(&first.value, NOW + 301_000), Err(TOKEN_NOT_LATEST));
        assert_eq!(issuer.validate(&first.value, NOW + 7_200_000), Err(TOKEN_EXPIRED));
        assert_eq!(issuer.validate(&second.value, NOW + 7_200_999), Ok(()));
        assert_eq!(issuer.validate(&second.value, NOW + 7_201_000), Err(TOKEN_EXPIRED));
    }

    #[test]
    fn only_previous_token_overlaps() {
        let mut issuer = issuer();
        let first = issuer.issue_classic(NOW).unwrap();
        let second = issuer.issue_classic(NOW).unwrap();
        issuer.issue_classic(NOW).unwrap();
        assert_eq!(issuer.validate(&first.value, NOW), Err(TOKEN_NOT_LATEST));
        assert_eq!(issuer.validate(&second.value, NOW), Ok(()));
    }

    #[test]
    fn stable_token_stays_until_last_overlap_period() {
        let mut issuer = issuer();
        let first = issuer.issue_stable(NOW);
        assert_eq!(first.expires_in_s, 7_200);
        let again = issuer.issue_stable(NOW + 6_899_000);
        assert_eq!((&again.value, again.expires_in_s), (&first.value, 301));
        let next = issuer.issue_stable(NOW + 6_900_000);
        assert_ne!(next.value, first.value);
        assert_eq!(issuer.validate(&first.value, NOW + 7_199_999), Ok(()));
        assert_eq!(issuer.validate(&first.value, NOW + 7_200_000), Err(TOKEN_EXPIRED));
    }

    #[test]
    fn authorizer_token_is_revoked_alone() {
        let mut issuer = issuer();
        let stable = issuer.issue_stable(NOW);
        let former = issuer.issue_authorizer(NOW).unwrap();
        let latest = issuer.issue_authorizer(NOW).unwrap();
        assert!([&former, &latest].iter().all(|token| issuer.validate(&token.value, NOW) == Ok(())));
        assert!(issuer.is_authorizer_token(&latest.value) && !issuer.is_authorizer_token(&stable.value));
        issuer.revoke_authorizer();
        assert_eq!(issuer.validate(&latest.value, NOW), Err(TOKEN_NOT_LATEST));
        assert_eq!(issuer.validate(&stable.value, NOW), Ok(()));
    }

    #[test]
    fn token_fetches_are_limited() {
        let mut issuer = issuer();
        for _ in 0..CLASSIC_TOKENS_PER_DAY {
            issuer.issue_classic(NOW).unwrap();
        }
        assert_eq!(issuer.issue_classic(NOW), Err(DAY_LIMIT_REACHED));
        assert!(issuer.issue_classic(NOW + DAY_MS).is_ok());
    }

    #[test]
    fn token_contains_official_account_number() {
        let token = issuer().issue_stable(NOW);
        assert_eq!(official_account_number(&token.value), Some(7));
        assert_eq!(official_account_number("92_x"), None);
        assert_eq!(official_account_number(""), None);
    }
}
