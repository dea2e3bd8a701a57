//! WeChat's list of the official accounts that have authorized a component, with their refresh tokens.
//!
//! It is asked for those of whom no refresh token is known, or none that works. One reading serves all.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use secrecy::SecretString;

use super::{Component, caller::Caller, component::ComponentCall};
use crate::{
    domain::clock::Moment,
    wechat::{
        Endpoint,
        error::CallFailure,
        wire::component::{Authorizer, authorizer_page},
    },
};

/// The least time between two readings, from the last page of the former; one that was cancelled goes on for so long.
const LIST_FLOOR: Duration = Duration::from_secs(60);

/// How many official accounts a page has; WeChat gives no more.
const PAGE: usize = 500;

/// The most pages that are read: for as many official accounts as can be configured.
const MAX_PAGES: usize = 200;

/// The last reading, if there was one. The lock is held by whoever reads.
#[derive(Default)]
pub(super) struct AuthorizerList(tokio::sync::Mutex<Option<Reading>>);

/// A reading. A list of many pages may take longer than whoever reads it has: the next one goes on where it stopped.
struct Reading {
    /// When it last had a page or failed; before that, when it began.
    touched_at: Moment,
    pages: usize,
    /// How many official accounts were read.
    offset: usize,
    /// By appid.
    refresh_tokens: HashMap<String, SecretString>,
    /// How it ended, once it has.
    outcome: Option<Result<(), CallFailure>>,
}

impl AuthorizerList {
    /// The refresh token of an official account, if it is in the list. Everybody is answered from the last reading for
    /// a minute, be it a failure.
    pub(super) async fn refresh_token(
        &self,
        appid: &str,
        component: &Component,
        caller: Caller<'_>,
    ) -> Result<Option<SecretString>, CallFailure> {
        let mut last = self.0.lock().await;
        // Without a token the list cannot be asked for, and the minute does not begin.
        component.token(caller).await?;
        let now = caller.client.now();
        let reading = match &mut *last {
            Some(reading) if now.since(&reading.touched_at) < LIST_FLOOR => reading,
            outdated => outdated.insert(Reading::begun(now)),
        };
        reading.finish(component, caller).await?;
        Ok(reading.refresh_tokens.get(appid).cloned())
    }
}

impl Reading {
    fn begun(now: Moment) -> Self {
        Self { touched_at: now, pages: 0, offset: 0, refresh_tokens: HashMap::new(), outcome: None }
    }

    /// Reads the pages that are left. Whoever does may be cancelled between two of them, or at one.
    async fn finish(&mut self, component: &Component, caller: Caller<'_>) -> Result<(), CallFailure> {
        loop {
            if let Some(outcome) = &self.outcome {
                return outcome.clone();
            }
            let page = page(self.offset, component, caller).await;
            self.touched_at = caller.client.now();
            match page {
                Ok(page) => self.take_in(page, component.appid()),
                Err(failure) => self.outcome = Some(Err(failure)),
            }
        }
    }

    fn take_in(&mut self, page: Page, component_appid: &str) {
        self.pages += 1;
        self.offset += page.length;
        self.refresh_tokens.extend(page.refresh_tokens);
        let all_read = |total| i64::try_from(self.offset).is_ok_and(|read| read >= total);
        if page.length == 0 || page.total.is_some_and(all_read) {
            self.outcome = Some(Ok(()));
        } else if self.pages == MAX_PAGES {
            self.outcome = Some(Ok(()));
            tracing::warn!(
                component_appid,
                "The list of official accounts that have authorized {component_appid} goes on after {MAX_PAGES} pages; \
                 the rest is not read"
            );
        }
    }
}

/// What is kept of a page.
struct Page {
    /// By appid.
    refresh_tokens: Vec<(String, SecretString)>,
    /// How many official accounts it has, with or without a refresh token.
    length: usize,
    /// How many the list has.
    total: Option<i64>,
}

async fn page(offset: usize, component: &Component, caller: Caller<'_>) -> Result<Page, CallFailure> {
    let fields = BTreeMap::from([
        ("component_appid", component.appid().into()),
        ("offset", offset.into()),
        ("count", PAGE.into()),
    ]);
    let call = ComponentCall { endpoint: Endpoint::AuthorizerList, fields, secret: "" };
    let read = |answer: &str| {
        let page = authorizer_page(answer)?;
        let tokens = page.list.iter().filter_map(Authorizer::tokens);
        let owned = tokens.map(|(appid, token)| (appid.to_owned(), SecretString::from(token)));
        Ok(Page { refresh_tokens: owned.collect(), length: page.list.len(), total: page.total_count })
    };
    component.call(&call, read, caller).await
}
