# Checks the shipped Alertmanager files with amtool: the configuration, the routes and the message.
. tests/lib.sh
command -v amtool >/dev/null || install_packages prometheus-alertmanager
work=$(mktemp --directory)
trap 'rm -rf "$work"' EXIT

derive() {
    "$venv/bin/python" tests/python/alertmanager.py "$@"
}
derive compare

# The shipped files send nothing to anybody. They are also right after somebody has uncommented the integrations.
cp deploy/alertmanager/kfwatch.tmpl "$work"
for file in deploy/alertmanager/*.yml; do
    amtool check-config "$file"
    derive uncomment "$file" >"$work/uncommented.yml"
    amtool check-config "$work/uncommented.yml"
    [[ $file == */alertmanager-demo.yml ]] || grep --quiet '^    wechat_configs:' "$work/uncommented.yml"
done

# The files of others: own-alertmanager.yml with our routes as its first, and what the Prometheus Operator makes of our
# AlertmanagerConfig and a configuration like that of kube-prometheus-stack.
derive merge tests/deploy/own-alertmanager.yml >"$work/merged.yml"
cat >"$work/stack.yml" <<'EOF'
route: { receiver: "null", group_by: [namespace], routes: [{ matchers: [alertname = Watchdog], receiver: "null" }] }
time_intervals: []
inhibit_rules: []
receivers: [{ name: "null" }]
EOF
derive operator "$work/stack.yml" >"$work/operator.yml"
amtool check-config "$work/merged.yml" "$work/operator.yml"

# Checks which receivers of a configuration get an alert with these labels.
goes_to() {
    local configuration=$1 receivers=$2
    shift 2
    amtool config routes test --config.file="$configuration" --verify.receivers="$receivers" "$@" 2>"$work/error" ||
        { echo "$configuration, $*:"; cat "$work/error"; return 1; } >&2
}

# Checks where an alert of ours goes in each of them.
ours_goes_to() {
    local receiver=$1 small=shop
    shift
    goes_to deploy/alertmanager/alertmanager.yml "$receiver" "$@"
    goes_to "$work/merged.yml" "$receiver" "$@"
    goes_to "$work/merged.yml" "$receiver" "$@" cluster=north namespace=kfwatch
    goes_to "$work/operator.yml" "kfwatch/kfwatch/$receiver" "$@" namespace=kfwatch
    goes_to "$work/operator.yml" "null" "$@" namespace=another
    [[ $receiver != nobody ]] || small=nobody
    goes_to deploy/alertmanager/alertmanager-small.yml "$small" "$@"
    goes_to deploy/alertmanager/alertmanager-demo.yml nobody "$@"
}
for name in TargetDownInhibitor MostFailingInhibitor; do
    ours_goes_to nobody "alertname=WechatKf$name" severity=none official_account=shop
done
ours_goes_to operators alertname=WechatKfAccountUnbound severity=warning official_account=shop kf_account=kf1@shop
ours_goes_to operators alertname=WechatKfNoAccountsWatched severity=warning official_account=shop
ours_goes_to operators alertname=WechatKfCollectorStale severity=info official_account=shop collector=online
ours_goes_to everybody alertname=WechatKfTargetDown severity=critical job=kfwatch instance=127.0.0.1:9877
for name in ShardsUnowned DatabaseUnreachable; do
    ours_goes_to everybody "alertname=WechatKf$name" severity=critical
done
ours_goes_to operators alertname=WechatKfReplicaDown severity=warning job=kfwatch instance=127.0.0.1:9877
ours_goes_to operators alertname=WechatKfReplicasDisagree severity=warning
ours_goes_to everybody alertname=WechatKfTokenRefreshFailing severity=critical official_account=shop
ours_goes_to everybody alertname=WechatKfMostOfficialAccountsFailing severity=critical instance=127.0.0.1:9877
ours_goes_to everybody alertname=WechatKfSinkSuspended severity=critical instance=127.0.0.1:9877 sink=crm
ours_goes_to operators alertname=WechatKfEventLogFilling severity=warning instance=127.0.0.1:9877 sink=crm
ours_goes_to operators alertname=WechatKfDeadLetters severity=warning instance=127.0.0.1:9877 sink=crm
for name in CustomersWaitLong NobodyOnline SessionsOnOfflineAccount; do
    ours_goes_to team-lead "alertname=WechatKf$name" severity=warning official_account=shop
done
ours_goes_to team-lead alertname=WechatKfSessionOpenTooLong severity=info official_account=shop kf_account=kf1@shop

# The alerts of other programs go where they went before.
for configuration in tests/deploy/own-alertmanager.yml "$work/merged.yml"; do
    goes_to "$configuration" heartbeat alertname=Watchdog severity=none
    goes_to "$configuration" pager alertname=DiskFull severity=critical namespace=kfwatch
    goes_to "$configuration" shop-team,chat alertname=KubePodNotReady severity=warning namespace=kfwatch
    goes_to "$configuration" on-call alertname=WithoutSeverity
done
goes_to deploy/alertmanager/alertmanager.yml nobody alertname=DiskFull severity=critical
goes_to deploy/alertmanager/alertmanager-small.yml shop alertname=DiskFull severity=critical
goes_to "$work/operator.yml" "null" alertname=KubePodNotReady namespace=kfwatch

# Six firing alerts, of which the message describes one and lists two more, and one resolved alert.
data=$work/data.json
alert() {
    printf '{"status":"%s","labels":{"official_account":"shop","kf_account":"%s"},"annotations":{"description":"%s is so. / 如此。"}}' \
        "$1" "$2" "$2"
}
printf '{"commonLabels":{"severity":"warning","cluster":"north","namespace":"watch","official_account":"shop"},"commonAnnotations":{"summary":"%s","runbook_url":"%s"},"alerts":[%s,%s,%s,%s,%s,%s,%s]}' \
    "It is so." "https://example.com/#it" \
    "$(alert firing one)" "$(alert firing two)" "$(alert firing three)" "$(alert firing four)" \
    "$(alert firing five)" "$(alert firing six)" "$(alert resolved 七)" >"$data"
expected='[warning] north: watch: shop: It is so.
Firing / 触发 (6):
- one is so. / 如此。
- two
- three
- … 6 in all / 共 6 条
Resolved / 恢复 (1):
- 七
Runbook / 处理手册: https://example.com/#it'
message=$(amtool template render --template.glob='deploy/alertmanager/*.tmpl' --template.data="$data" \
    --template.text='{{ template "kfwatch.message" . }}')
diff <(echo "$expected") <(echo "$message")
