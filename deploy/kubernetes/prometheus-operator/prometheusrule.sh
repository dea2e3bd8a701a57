#!/bin/sh
# Generates prometheusrule.yaml: the rules of deploy/prometheus/kfwatch.rules.yml as an object of the Prometheus Operator.
# kustomize cannot include a file in an object's spec. Run this script after each change of the rules; tests compare the two.
set -eu
cd "$(dirname "$0")"
{
    cat <<'HEAD'
# Made by prometheusrule.sh from deploy/prometheus/kfwatch.rules.yml: change that file, then run the script.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: kfwatch
  labels:
    app.kubernetes.io/name: kfwatch
spec:
HEAD
    sed 's/^\(.\)/  \1/' ../../prometheus/kfwatch.rules.yml
} > prometheusrule.yaml
