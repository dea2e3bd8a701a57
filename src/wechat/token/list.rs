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
        error::{CallError, CallFailure},
        wire::component::{Authorizer, authorizer_page},
    },
};

/// The least time between two readings.
const LIST_FLOOR: Duration = Duration::from_secs(60);

/// How many official accounts a page has; WeChat gives no more.
const PAGE: usize = 500;

/// The most pages that are read: for as many official accounts as can be configured.
const MAX_PAGES: usize = 200;

/// The last reading, if there was one. The lock is held by whoever reads.
#[derive(Default)]
pub(super) struct AuthorizerList(tokio::sync::Mutex<Option<Reading>>);

struct Reading {
    begun_at: Moment,
    /// By appid.
    refresh_tokens: Result<HashMap<String, SecretString>, CallFailure>,
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
        if last.as_ref().is_none_or(|reading| now.since(&reading.begun_at) >= LIST_FLOOR) {
            // Whoever reads it may be cancelled half way: the minute has begun all the same.
            let not_yet = CallFailure::new(Endpoint::AuthorizerList, CallError::TokenNotYet, now);
            *last = Some(Reading { begun_at: now, refresh_tokens: Err(not_yet) });
            let refresh_tokens = read(component, caller).await;
            *last = Some(Reading { begun_at: now, refresh_tokens });
        }
        match last.as_ref().map(|reading| &reading.refresh_tokens) {
            Some(Ok(refresh_tokens)) => Ok(refresh_tokens.get(appid).cloned()),
            Some(Err(failure)) => Err(failure.clone()),
            None => Ok(None),
        }
    }
}

/// All pages.
async fn read(
    component: &Component,
    caller: Caller<'_>,
) -> Result<HashMap<String, SecretString>, CallFailure> {
    let mut refresh_tokens = HashMap::new();
    let mut offset = 0;
    for _ in 0..MAX_PAGES {
        let fields = BTreeMap::from([
            ("component_appid", component.appid().into()),
            ("offset", offset.into()),
            ("count", PAGE.into()),
        ]);
        let call = ComponentCall { endpoint: Endpoint::AuthorizerList, fields, secret: "" };
        let page = |answer: &str| {
            let page = authorizer_page(answer)?;
            let tokens = page.list.iter().filter_map(Authorizer::tokens);
            let owned = tokens.map(|(appid, token)| (appid.to_owned(), SecretString::from(token)));
            Ok((owned.collect::<Vec<_>>(), page.list.len(), page.total_count))
        };
        let (tokens, length, total) = component.call(&call, page, caller).await?;
        refresh_tokens.extend(tokens);
        offset += length;
        if length == 0 || total.is_some_and(|total| i64::try_from(offset).is_ok_and(|read| read >= total)) {
            return Ok(refresh_tokens);
        }
    }
    tracing::warn!(
        component_appid = %component.appid(),
        "The list of official accounts that have authorized {} goes on after {MAX_PAGES} pages; the rest is not read",
        component.appid()
    );
    Ok(refresh_tokens)
}
