//! The refresh tokens in WeChat's list of the official accounts that have authorized a component.
//!
//! kfwatch reads the list for official accounts whose refresh token is unknown or no longer works. One reading serves all
//! of them. This module keeps the state of a reading; [`super::component`] fetches the pages.

use std::{collections::HashMap, time::Duration};

use secrecy::SecretString;

use crate::{
    domain::clock::Moment,
    wechat::{error::CallFailure, wire::tokens::AuthorizerPage},
};

/// A reading is used for this long after its last page. A cancelled reading is continued within this time.
const LIST_LIFETIME: Duration = Duration::from_secs(60);

/// The number of official accounts on a page; WeChat allows no more.
pub(super) const PAGE_SIZE: usize = 500;

/// The limit of pages, enough for the maximum number of configured official accounts.
const MAX_PAGES: usize = 200;

/// One reading of the list. If it is cancelled after some pages, because reading a long list can take longer than its
/// caller may, the next caller continues it.
pub(super) struct AuthorizerList {
    /// The time of the last page or failure; before that, of the start.
    updated_at: Moment,
    pages: usize,
    /// The number of official accounts read so far.
    offset: usize,
    /// By appid.
    refresh_tokens: HashMap<String, SecretString>,
    /// The result, once the reading has ended.
    outcome: Option<Result<(), CallFailure>>,
}

impl AuthorizerList {
    pub(super) fn new(now: Moment) -> Self {
        Self { updated_at: now, pages: 0, offset: 0, refresh_tokens: HashMap::new(), outcome: None }
    }

    /// Whether it can still be used or continued.
    pub(super) fn is_current(&self, now: Moment) -> bool {
        now.since(&self.updated_at) < LIST_LIFETIME
    }

    /// The offset of the next page; `None` once the reading has ended.
    pub(super) fn next_offset(&self) -> Option<usize> {
        self.outcome.is_none().then_some(self.offset)
    }

    pub(super) fn add(
        &mut self,
        page: Result<AuthorizerPage, CallFailure>,
        component_appid: &str,
        now: Moment,
    ) {
        self.updated_at = now;
        let page = match page {
            Ok(page) => page,
            Err(failure) => {
                self.outcome = Some(Err(failure));
                return;
            }
        };
        self.pages += 1;
        self.offset += page.length;
        self.refresh_tokens.extend(page.refresh_tokens);
        let is_complete = |total| i64::try_from(self.offset).is_ok_and(|read| read >= total);
        if page.length == 0 || page.total.is_some_and(is_complete) {
            self.outcome = Some(Ok(()));
        } else if self.pages == MAX_PAGES {
            self.outcome = Some(Ok(()));
            tracing::warn!(
                component_appid,
                "The list of official accounts that have authorized {component_appid} is longer than {MAX_PAGES} pages; \
                 the rest is ignored"
            );
        }
    }

    /// The refresh token of an official account, if the list has one.
    pub(super) fn refresh_token(&self, appid: &str) -> Result<Option<SecretString>, CallFailure> {
        if let Some(Err(failure)) = &self.outcome {
            return Err(failure.clone());
        }
        Ok(self.refresh_tokens.get(appid).cloned())
    }
}
