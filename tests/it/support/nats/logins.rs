//! Keys and JWTs for test servers.

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use nkeys::KeyPair;
use serde_json::{Value, json};

/// A site as nsc creates it: an operator, an account with JetStream, and a user of that account.
pub(crate) struct Site {
    /// The server's configuration.
    pub(crate) configuration: String,
    /// The user's credentials file, as nsc writes it.
    pub(crate) credentials: String,
    /// The secret in the credentials file.
    pub(crate) seed: String,
}

impl Site {
    pub(crate) fn new() -> Self {
        let [operator, system, account, user] =
            [KeyPair::new_operator(), KeyPair::new_account(), KeyPair::new_account(), KeyPair::new_user()];
        let unlimited = json!({"subs": -1, "conn": -1, "leaf": -1, "imports": -1, "exports": -1, "data": -1, "payload": -1,
            "wildcards": true, "mem_storage": -1, "disk_storage": -1, "streams": -1, "consumer": -1});
        let of_operator = jwt(
            &operator,
            &operator,
            json!({"type": "operator", "version": 2, "system_account": system.public_key()}),
        );
        let of_system = jwt(
            &operator,
            &system,
            json!({"type": "account", "version": 2, "limits": {"subs": -1, "conn": -1,
            "leaf": -1, "imports": -1, "exports": -1, "data": -1, "payload": -1, "wildcards": true}}),
        );
        let of_account =
            jwt(&operator, &account, json!({"type": "account", "version": 2, "limits": unlimited}));
        let of_user = jwt(
            &account,
            &user,
            json!({"type": "user", "version": 2, "subs": -1, "data": -1, "payload": -1}),
        );
        let seed = user.seed().unwrap();
        Self {
            configuration: format!(
                "operator: {of_operator}\nsystem_account: {}\nresolver: MEMORY\nresolver_preload: {{\n{}: {of_system}\n{}: {of_account}\n}}\n",
                system.public_key(),
                system.public_key(),
                account.public_key()
            ),
            credentials: format!(
                "-----BEGIN NATS USER JWT-----\n{of_user}\n------END NATS USER JWT------\n\n\
                 ************************* IMPORTANT *************************\n\
                 NKEY Seed printed below can be used to sign and prove identity.\n\n\
                 -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
            ),
            seed,
        }
    }
}

fn jwt(issuer: &KeyPair, subject: &KeyPair, nats: Value) -> String {
    let subject = subject.public_key();
    let claims = json!({"jti": "T", "iat": 1_795_000_000, "iss": issuer.public_key(), "name": "test", "sub": subject, "nats": nats});
    let part = |value: &Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!("{}.{}", part(&json!({"typ": "JWT", "alg": "ed25519-nkey"})), part(&claims));
    let signature = issuer.sign(signed.as_bytes()).unwrap();
    format!("{signed}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature))
}
