//! The third-party platforms ("components") of official accounts.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures_util::{FutureExt, TryFutureExt, future::BoxFuture};

use super::{token_journal::NullTokenJournal, token_records::TokenRecords};
use crate::{
    config::ComponentCredentials,
    domain::{
        clock::Moment,
        shared_token::{SealedToken, SharedToken},
    },
    store::Cluster,
    wechat::token::{ClaimTerms, Component, SharedTokens},
};

/// The components in use, by component_appid. Each is built for the first official account that names it.
#[derive(Default)]
pub(super) struct Components {
    by_appid: Mutex<HashMap<Arc<str>, Arc<Component>>>,
    /// Where replicas share their tokens. Without it, this process alone uses them.
    shared: Option<Arc<dyn SharedTokens>>,
}

impl Components {
    /// Components whose tokens all replicas share.
    pub(super) fn of_cluster(cluster: Cluster) -> Self {
        Self { by_appid: Mutex::default(), shared: Some(Arc::new(ClusterTokens(cluster))) }
    }

    /// The component with these credentials. Its fetches are recorded, or shared.
    pub(super) fn get(
        &self,
        credentials: &Arc<ComponentCredentials>,
        records: &Arc<TokenRecords>,
        now: Moment,
    ) -> Arc<Component> {
        let mut components = self.lock();
        if let Some(component) = components.get(&credentials.appid) {
            component.set_credentials(Arc::clone(credentials));
            return Arc::clone(component);
        }
        let component = match &self.shared {
            Some(shared) => Component::new(Arc::clone(credentials), Arc::new(NullTokenJournal), None, now)
                .sharing(Arc::clone(shared)),
            None => {
                let ago = records.last_fetch_ago(&credentials.appid, now);
                Component::new(Arc::clone(credentials), Arc::<TokenRecords>::clone(records), ago, now)
            }
        };
        let component = Arc::new(component);
        components.insert(Arc::clone(&credentials.appid), Arc::clone(&component));
        component
    }

    /// Forgets those without official accounts. One that comes back is built again.
    pub(super) fn forget_unused(&self) {
        self.lock().retain(|_, component| Arc::strong_count(component) > 1);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Arc<str>, Arc<Component>>> {
        self.by_appid.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Shares tokens in the database.
struct ClusterTokens(Cluster);

impl SharedTokens for ClusterTokens {
    fn read<'a>(&'a self, component_appid: &'a str) -> BoxFuture<'a, Result<SharedToken, String>> {
        self.0.component_token(component_appid).map_err(|error| crate::chain(&error)).boxed()
    }

    fn claim<'a>(
        &'a self,
        component_appid: &'a str,
        generation: i64,
        ClaimTerms { min_interval, time }: ClaimTerms,
    ) -> BoxFuture<'a, Result<bool, String>> {
        let claimed = self.0.claim_component_token(component_appid, generation, min_interval, time);
        claimed.map_err(|error| crate::chain(&error)).boxed()
    }

    fn publish<'a>(
        &'a self,
        component_appid: &'a str,
        generation: i64,
        token: Option<SealedToken>,
    ) -> BoxFuture<'a, Result<(), String>> {
        let published = self.0.publish_component_token(component_appid, generation, token);
        published.map_err(|error| crate::chain(&error)).boxed()
    }
}
