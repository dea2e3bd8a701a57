# Checks the shipped Alertmanager files with amtool: the configuration, the routes and the message.
. tests/lib.sh
command -v amtool >/dev/null || install_packages prometheus-alertmanager
configuration=deploy/alertmanager/alertmanager.yml
amtool check-config "$configuration"

# Checks which receivers get an alert with these labels.
goes_to() {
    local receivers=$1
    shift
    amtool config routes test --config.file="$configuration" --verify.receivers="$receivers" "$@"
}
goes_to nobody alertname=WechatKfTargetDownInhibitor severity=none official_account=shop
goes_to operators alertname=WechatKfAccountUnbound severity=warning official_account=shop kf_account=kf1@shop
goes_to operators alertname=WechatKfCollectorStale severity=info official_account=shop collector=online
goes_to everybody alertname=WechatKfTargetDown severity=critical job=kfwatch instance=127.0.0.1:9877
goes_to everybody alertname=WechatKfTokenRefreshFailing severity=critical official_account=shop
goes_to everybody alertname=WechatKfSinkSuspended severity=critical instance=127.0.0.1:9877 sink=crm
goes_to operators alertname=WechatKfEventLogFilling severity=warning instance=127.0.0.1:9877 sink=crm
goes_to operators alertname=WechatKfDeadLetters severity=warning instance=127.0.0.1:9877 sink=crm
for name in CustomersWaitLong NobodyOnline SessionsOnOfflineAccount; do
    goes_to team-lead "alertname=WechatKf$name" severity=warning official_account=shop
done
goes_to team-lead alertname=WechatKfSessionOpenTooLong severity=info official_account=shop kf_account=kf1@shop

# Six firing alerts, of which the message describes one and lists three more, and one resolved alert.
data=$(mktemp)
trap 'rm -f "$data"' EXIT
alert() {
    printf '{"status":"%s","labels":{"official_account":"shop","kf_account":"%s"},"annotations":{"description":"%s is so. / 如此。"}}' \
        "$1" "$2" "$2"
}
printf '{"commonLabels":{"severity":"warning","official_account":"shop"},"commonAnnotations":{"summary":"%s","runbook_url":"%s"},"alerts":[%s,%s,%s,%s,%s,%s,%s]}' \
    "It is so." "https://example.com/#it" \
    "$(alert firing one)" "$(alert firing two)" "$(alert firing three)" "$(alert firing four)" \
    "$(alert firing five)" "$(alert firing six)" "$(alert resolved 七)" >"$data"
expected='[warning] shop: It is so.
Firing / 触发 (6):
- one is so. / 如此。
- two
- three
- four
- … 6 in all / 共 6 条
Resolved / 恢复 (1):
- 七
Runbook / 处理手册: https://example.com/#it'
message=$(amtool template render --template.glob='deploy/alertmanager/*.tmpl' --template.data="$data" \
    --template.text='{{ template "kfwatch.message" . }}')
diff <(echo "$expected") <(echo "$message")
