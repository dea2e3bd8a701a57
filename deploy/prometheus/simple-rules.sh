#!/bin/sh
# Generates kfwatch-simple.rules.yml: kfwatch.rules.yml without the alerts of severity none. They are useless, and a nuisance, where
# the configuration of Alertmanager cannot be changed. Run this script after each change of the rules; tests compare the two.
set -eu
cd "$(dirname "$0")"
{
    cat <<'HEAD'
# Made by simple-rules.sh from kfwatch.rules.yml, without the alerts that only inhibit others. One cause raises more alerts than with
# the inhibitions: if you can change the configuration of Alertmanager, use kfwatch.rules.yml. Its first lines are true here too.
HEAD
    # A blank line separates rules.
    sed '/^#/d' kfwatch.rules.yml |
        awk 'BEGIN { RS = ""; ORS = "" } !/severity: none/ { print separator $0 "\n"; separator = "\n" }'
} > kfwatch-simple.rules.yml
