//! Checks a well-formed scenario, and returns all mistakes with their places.

use std::collections::HashSet;
use std::time::Duration;

use super::{CustomerFlow, OfficialAccountScript, Scenario};
use crate::simulator::fault::FaultRule;
use crate::simulator::random::is_probability;

/// Limits the work to play the history of an account that was not polled for a while.
pub(super) const SHORTEST_GAP: Duration = Duration::from_millis(10);

impl Scenario {
    pub(super) fn mistakes(&self) -> Vec<String> {
        let mut mistakes = Vec::new();
        if self.tokens.overlap >= self.tokens.lifetime {
            mistakes.push("tokens.overlap: must be shorter than tokens.lifetime".to_owned());
        }
        mistakes.extend(self.customers.mistakes("customers"));
        if !is_probability(self.transfers.probability) {
            mistakes.push("transfers.probability: must be between 0 and 1".to_owned());
        }
        let mut names = HashSet::new();
        for official in &self.official_accounts {
            for (key, value) in [("name", &official.name), ("appid", &official.appid)] {
                if !names.insert((key, value)) {
                    mistakes.push(format!("official_accounts: {key} `{value}` is given twice"));
                }
            }
            mistakes.extend(official.mistakes());
        }
        mistakes.extend(self.token_route_mistakes());
        for (number, rule) in self.faults.iter().enumerate() {
            mistakes.extend(self.fault_mistakes(rule).map(|mistake| format!("faults[{number}]: {mistake}")));
        }
        mistakes
    }

    fn fault_mistakes(&self, rule: &FaultRule) -> Option<String> {
        if let Some(wanted) = rule.official_account.as_ref().filter(|wanted| self.official(wanted).is_none())
        {
            return Some(format!("there is no official account `{wanted}`"));
        }
        rule.mistake().map(str::to_owned)
    }

    /// Each official account has only one way to get tokens, so that a client can be configured.
    fn token_route_mistakes(&self) -> Vec<String> {
        let mut mistakes = Vec::new();
        let mut appids = HashSet::new();
        let mut routes = vec![("token_server".to_owned(), &self.token_server.official_accounts)];
        for component in &self.components {
            let appid = &component.component_appid;
            if !appids.insert(appid) || self.official(appid).is_some() {
                mistakes.push(format!("components: component_appid `{appid}` is given twice"));
            }
            routes.push((format!("component `{appid}`"), &component.authorizers));
        }
        let mut taken = HashSet::new();
        for (route, wanted) in
            routes.iter().flat_map(|(route, names)| names.iter().map(move |name| (route, name)))
        {
            match self.official(wanted) {
                None => mistakes.push(format!("{route}: there is no official account `{wanted}`")),
                Some(official) if !taken.insert(&official.appid) => {
                    mistakes.push(format!("{route}: `{wanted}` gets its tokens in another way already"));
                }
                Some(_) => {}
            }
        }
        mistakes
    }

    fn official(&self, wanted: &str) -> Option<&OfficialAccountScript> {
        self.official_accounts.iter().find(|official| official.is(wanted))
    }
}

impl OfficialAccountScript {
    fn mistakes(&self) -> Vec<String> {
        let name = &self.name;
        let mut mistakes = Vec::new();
        let mut prefixes = HashSet::new();
        for kf in &self.kf_accounts {
            if !prefixes.insert(&kf.prefix) {
                mistakes.push(format!("official account `{name}`: prefix `{}` is given twice", kf.prefix));
            }
            if let Some(customers) = &kf.customers {
                mistakes.extend(customers.mistakes(&format!("customers of `{}`", self.full_name(kf))));
            }
        }
        for (key, value) in [("shuffle", self.style.shuffle), ("duplicate", self.style.duplicate)] {
            if !is_probability(value) {
                mistakes.push(format!("official account `{name}`: style.{key} must be between 0 and 1"));
            }
        }
        mistakes
    }
}

impl CustomerFlow {
    fn mistakes(&self, of: &str) -> Vec<String> {
        let mut mistakes = Vec::new();
        let spreads = [("gap", self.gap.as_ref()), ("wait", Some(&self.wait)), ("stay", self.stay.as_ref())];
        for (key, spread) in spreads {
            if spread.is_some_and(|spread| spread.mean < spread.min || spread.mean > spread.max) {
                mistakes.push(format!("{of}: {key}.mean must be between {key}.min and {key}.max"));
            }
        }
        if self.gap.as_ref().is_some_and(|gap| gap.min < SHORTEST_GAP) {
            mistakes.push(format!("{of}: gap.min must be at least 10ms"));
        }
        if !is_probability(self.returning) {
            mistakes.push(format!("{of}: returning must be between 0 and 1"));
        }
        mistakes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_contradiction_is_named() {
        let text = r#"
            tokens = { lifetime = "5m", overlap = "5m" }
            [customers]
            returning = 2.0
            gap = { mean = "1s", min = "2s", max = "1s" }
            [[official_accounts]]
            name = "shop"
            appid = "wx1"
            secret = "s"
            wechat_id = "test"
            kf_accounts = [{ prefix = "kf1" }, { prefix = "kf1" }]
            [[official_accounts]]
            name = "other"
            appid = "wx1"
            secret = "s"
            wechat_id = "test"
            style = { shuffle = -1.0 }
            [[faults]]
            fault = "hang"
            official_account = "nowhere"
            [[faults]]
            fault = "list_null"
            endpoint = "token"
            [transfers]
            probability = 1.5
            [token_server]
            official_accounts = ["shop"]
            [[components]]
            component_appid = "wx1"
            secret = "s"
            authorizers = ["shop", "nowhere"]
        "#;
        let expected = [
            "tokens.overlap: must be shorter than tokens.lifetime",
            "customers: gap.mean must be between gap.min and gap.max",
            "customers: returning must be between 0 and 1",
            "transfers.probability: must be between 0 and 1",
            "official account `shop`: prefix `kf1` is given twice",
            "official_accounts: appid `wx1` is given twice",
            "official account `other`: style.shuffle must be between 0 and 1",
            "components: component_appid `wx1` is given twice",
            "component `wx1`: `shop` gets its tokens in another way already",
            "component `wx1`: there is no official account `nowhere`",
            "faults[0]: there is no official account `nowhere`",
            "faults[1]: this fault applies to getsessionlist only",
        ];
        assert_eq!(Scenario::from_toml(text).unwrap_err().to_string(), expected.join("\n"));
    }
}
