//! Checks a sink of type "chat". The address of a robot contains its key, so no message shows it.

use std::time::Duration;

use reqwest::Url;
use secrecy::SecretString;

use super::ca_file::check_ca_file;
use super::raw;
use super::secret::SecretSetting;
use super::setting::Setting;
use super::table::Table;
use super::urls::usable_url;
use crate::domain::language::Language;
use crate::sink::chat::{ChatOptions, Vendor};

const VENDORS: [(&str, Vendor); 4] = [
    ("wecom", Vendor::WeCom),
    ("dingtalk", Vendor::DingTalk),
    ("feishu", Vendor::Feishu),
    ("slack", Vendor::Slack),
];

const LANGUAGES: [(&str, Language); 3] =
    [("both", Language::Both), ("zh", Language::Chinese), ("en", Language::English)];

/// A valid address.
const EXAMPLE: &str = "https://qyapi.weixin.qq.com/cgi-bin/webhook/send?key=…";

/// An attempt delays all later messages until it times out.
const MAX_TIMEOUT: Duration = Duration::from_secs(10 * 60);

pub(super) fn check_chat(mut keys: raw::Sink, sink: &mut Table<'_>) -> Option<ChatOptions> {
    let vendor = sink.require("vendor", std::mem::take(&mut keys.vendor), "vendor = \"wecom\"");
    let vendor = vendor.and_then(|vendor| sink.word("vendor", Setting::Given(vendor), &VENDORS));
    if let Some(vendor) = vendor {
        reject_secret_without_signature(&keys, vendor, sink);
    }
    reject_address(&mut keys.url_file);
    reject_address(&mut keys.url_env);
    let allow_insecure = sink.take("allow_insecure", keys.allow_insecure).unwrap_or(false);
    let key = if !keys.url.is_absent() {
        "url"
    } else if keys.url_env.is_absent() {
        "url_file"
    } else {
        "url_env"
    };
    let url = SecretSetting::new("url", keys.url_file, keys.url_env, keys.url).read(sink);
    let url = url.map(|url| url.try_map(move |url| robot_url(url, vendor, allow_insecure)));
    let url = url.and_then(|url| url.map_err(|problem| sink.wrong(key, problem)).ok());
    let secret = SecretSetting::new("secret", keys.secret_file, keys.secret_env, keys.secret);
    let secret = if secret.is_set() { secret.read(sink) } else { None };
    let language = sink.word("lang", keys.lang, &LANGUAGES).unwrap_or(Language::Both);
    let ca_file = check_ca_file(keys.ca_file, sink);
    let timeouts = Duration::from_millis(1)..=MAX_TIMEOUT;
    let timeout = sink.duration("timeout", keys.timeout, Duration::from_secs(15), timeouts);
    Some(ChatOptions { vendor: vendor?, url: url?, secret, language, ca_file, timeout })
}

/// Parses an address, and finds out whether it is that of another vendor's robot.
fn robot_url(text: &SecretString, vendor: Option<Vendor>, allow_insecure: bool) -> Result<Url, String> {
    let url = usable_url(text, (EXAMPLE, allow_insecure))?;
    let actual = url.host_str().and_then(Vendor::from_host);
    match (actual, vendor) {
        (Some(actual), Some(vendor)) if actual != vendor => {
            Err(format!("is the address of a robot of {}; set vendor = {:?}", actual.name(), word(actual)))
        }
        _ => Ok(url),
    }
}

/// The value of the key `vendor`.
fn word(vendor: Vendor) -> &'static str {
    VENDORS.iter().find(|(_, known)| *known == vendor).map_or("", |(word, _)| word)
}

fn reject_secret_without_signature(keys: &raw::Sink, vendor: Vendor, sink: &mut Table<'_>) {
    let signing: Vec<&str> =
        VENDORS.iter().filter(|(_, vendor)| vendor.signs()).map(|(word, _)| *word).collect();
    let keys = [
        ("secret_file", keys.secret_file.is_absent(), &*signing),
        ("secret_env", keys.secret_env.is_absent(), &*signing),
        ("secret", keys.secret.is_absent(), &*signing),
    ];
    sink.reject_inapplicable(("vendor", word(vendor)), &keys);
}

/// Removes an address from a key that takes the name of a file or of a variable: messages quote such names.
fn reject_address(setting: &mut Setting<String>) {
    if let Setting::Given(text) = setting
        && text.contains("://")
    {
        let problem = "is an address; write it into a file that only kfwatch can read, and set url_file to the path of that file";
        *setting = Setting::Wrong(problem.to_owned());
    }
}
