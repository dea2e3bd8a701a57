//! Environment variables that override the configuration: one `NAME=VALUE` a line.

#![no_main]

use std::path::Path;

use kfwatch::config::{Config, Environment};
use kfwatch_fuzz::check_mistakes;
use libfuzzer_sys::fuzz_target;

const CONFIG: &str = "[[official_accounts]]\nname = 'shop'\nappid = 'wx0123456789abcdef'\nkf_accounts = ['test1@test']\n\
                      [official_accounts.token]\nsource = 'stable'\nsecret_env = 'SHOP'\n";

fuzz_target!(|input: &str| {
    let environment = input.split('\n').filter_map(|line| line.split_once('=')).collect::<Environment>();
    if let Err(mistakes) = Config::from_toml(CONFIG, Path::new("/nonexistent"), &environment) {
        check_mistakes(&mistakes);
    }
});
