"""Runs the rules in Debian's vmalert, against VictoriaMetrics: an outage of several official accounts must fire the alert that needs
recordings and ALERTS, with the reason in its text, and no rule may fail.

    vmalert.py RULES.yml DIRECTORY

RULES.yml has no keep_firing_for. In DIRECTORY are the data and the logs of both programs. A minute of the rules becomes a second.
"""

import contextlib
import json
import pathlib
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

# Without the label cluster, as in most installations: templates must cope with a label that does not exist.
LABELS = 'job="kfwatch",namespace="red",instance="red/kfwatch-0"'
ALERT = "WechatKfMostOfficialAccountsFailing"
TEXT = "Reason / 原因: 40164, add this host's address to the IP allowlist"
PATIENCE = 180


def free_port():
    with socket.socket() as it:
        it.bind(("127.0.0.1", 0))
        return it.getsockname()[1]


def minutes_as_seconds(rules):
    """Shortens the windows, offsets and `for` of the rules."""
    units = {"h": 60, "m": 1}
    return re.sub(r"(?<=[\[: ])(\d+)([hm])(?=[\]:,\s)])", lambda found: f"{int(found[1]) * units[found[2]]}s", rules)


@contextlib.contextmanager
def started(directory, *command):
    with open(directory / f"{command[0]}.log", "w") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            yield
        finally:
            process.terminate()


def get(address, path):
    """Returns what a server answers, or nothing while it does not."""
    try:
        with urllib.request.urlopen(f"http://{address}{path}") as answer:
            return answer.read()
    except (urllib.error.URLError, ConnectionError):
        return None


def series(second):
    """What a daemon exports whose address WeChat refuses since the tenth second. One official account has no kf accounts."""
    errors = max(0, second - 10)
    for account in "abcd":
        labels = f'{LABELS},official_account="{account}"'
        yield f"kfwatch_token_refreshes_total{{{labels}}} 1"
        yield f"kfwatch_token_last_refresh_successful{{{labels}}} {int(not errors)}"
        yield f"wechat_kf_accounts_watched{{{labels}}} {int(account != 'a')}"
        if errors:
            yield f'kfwatch_api_errors_total{{{labels},endpoint="stable_token",code="40164"}} {errors}'


def firing(alerts):
    return [it["annotations"]["description"] for it in alerts if it["name"] == ALERT and it["state"] == "firing"]


def main(rules, directory):
    directory = pathlib.Path(directory)
    shortened = directory / "vmalert.rules.yml"
    shortened.write_text(minutes_as_seconds(pathlib.Path(rules).read_text()))
    metrics, ruler = (f"127.0.0.1:{free_port()}" for _ in range(2))
    storage = f"-storageDataPath={directory}/data"
    evaluation = [f"-rule={shortened}", "-evaluationInterval=1s", "-remoteWrite.flushInterval=200ms", "-notifier.url=http://127.0.0.1:9"]
    urls = [f"-{use}.url=http://{metrics}" for use in ("datasource", "remoteWrite", "remoteRead")]
    with contextlib.ExitStack() as programs:
        programs.enter_context(
            started(directory, "victoria-metrics", storage, f"-httpListenAddr={metrics}", "-search.latencyOffset=0s")
        )
        while get(metrics, "/health") is None:
            time.sleep(0.1)
        programs.enter_context(started(directory, "vmalert", f"-httpListenAddr={ruler}", *evaluation, *urls))
        alerts = []
        for second in range(PATIENCE):
            request = urllib.request.Request(f"http://{metrics}/api/v1/import/prometheus", "\n".join(series(second)).encode())
            urllib.request.urlopen(request).close()
            time.sleep(1)
            # Without alerts the list is null.
            alerts = json.loads(get(ruler, "/api/v1/alerts") or '{"data": {"alerts": null}}')["data"]["alerts"] or []
            if any(TEXT in text for text in firing(alerts)):
                break
        else:
            sys.exit(f"no {ALERT} with its reason, but {[(it['name'], it['state']) for it in alerts]}")
        # While it runs: when it ends, it breaks off the queries in flight, and logs that they failed.
        log = (directory / "vmalert.log").read_text()
    failures = [line for line in log.splitlines() if "failed to execute" in line]
    if failures:
        sys.exit(f"rules failed: {failures[0]}")
    print(f"vmalert fired {len(alerts)} alerts: {sorted({it['name'] for it in alerts})}")


if __name__ == "__main__":
    main(*sys.argv[1:])
