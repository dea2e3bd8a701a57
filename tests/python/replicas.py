"""Runs two kfwatch as replicas of one PostgreSQL, each with the configuration and the variables of its container, against a simulated
WeChat API. Checks that they share the shards, and that the one goes on alone when the other stops.

    replicas.py KFWATCH WORK

WORK/1 and WORK/2 have config.toml, and variables.json with the variables of the container. The official account is that of the shipped
configurations.
"""

import json
import pathlib
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

SCENARIO = """
[[official_accounts]]
name = "shop"
appid = "wx0123456789abcdef"
secret = "00000000000000005ec2e70000000000"
wechat_id = "test"
kf_accounts = [{ prefix = "kf1" }]
"""
POLLED = 'kfwatch_polls_total{official_account="shop",kf_account="kf1@test"}'
# Far longer than it takes: a takeover of released shards takes two seconds.
LIMIT_SECONDS = 60


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def fetch(url):
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError as error:
        return None, str(error)


def eventually(what, condition):
    until = time.monotonic() + LIMIT_SECONDS
    while not condition():
        assert time.monotonic() < until, f"not in {LIMIT_SECONDS} s: {what}"
        time.sleep(0.2)


class Replica:
    def __init__(self, kfwatch, directory, base_url):
        self.kfwatch, self.directory = kfwatch, directory
        self.page = f"127.0.0.1:{free_port()}"
        self.variables = json.loads((directory / "variables.json").read_text())
        # A container has an address of its own, and a directory for its control socket.
        self.environment = self.variables | {
            "KFWATCH_CONFIG": str(directory / "config.toml"),
            "KFWATCH__WEB__LISTEN": self.page,
            "KFWATCH__API__BASE_URL": base_url,
            "KFWATCH__POLL__SCHEDULE": "* * * * * *",
            "RUNTIME_DIRECTORY": str(directory),
        }
        self.log = directory / "kfwatch.log"
        self.process = None

    def run(self, *command):
        done = subprocess.run(
            [self.kfwatch, *command], env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        assert done.returncode == 0, f"kfwatch {' '.join(command)} exits with {done.returncode}: {done.stdout}"

    def start(self):
        with self.log.open("w") as log:
            self.process = subprocess.Popen([self.kfwatch, "run"], env=self.environment, stdout=log, stderr=log)

    def samples(self):
        _, text = fetch(f"http://{self.page}/metrics")
        return dict(line.rsplit(" ", 1) for line in text.splitlines() if line.startswith("kfwatch_"))

    def value(self, sample):
        return float(self.samples().get(sample, "nan"))

    def stop(self):
        self.process.terminate()
        status = self.process.wait(timeout=LIMIT_SECONDS)
        assert status == 0, f"exits with {status}"


def share_the_shards(replicas):
    pages = [replica.samples() for replica in replicas]
    in_both = {
        "kfwatch_cluster_replicas": "2",
        "kfwatch_cluster_shards_unowned": "0",
        "kfwatch_cluster_config_mismatch": "0",
    }
    owned = [int(page.get("kfwatch_shards_owned", 0)) for page in pages]
    return all(in_both.items() <= page.items() for page in pages) and all(owned) and sum(owned) == 64


def check_replicas(replicas):
    for replica in replicas:
        replica.run("check")
        replica.start()
    eventually("two replicas share 64 shards", lambda: share_the_shards(replicas))
    for replica in replicas:
        assert fetch(f"http://{replica.page}/-/ready")[0] == 200
        replica.run("health")
        _, page = fetch(f"http://{replica.page}/")
        [other] = [other for other in replicas if other is not replica]
        name, address = (other.variables[f"KFWATCH__CLUSTER__{key}"] for key in ("NAME", "ADVERTISE"))
        assert f'<a href="{address}">{name}</a>' in page, f"the page has no link to {name} at {address}"
    eventually("one of them polls", lambda: any(replica.value(POLLED) > 0 for replica in replicas))
    polling, other = sorted(replicas, key=lambda replica: POLLED not in replica.samples())
    assert POLLED not in other.samples(), "both poll"
    polling.stop()
    eventually("the other one has all shards", lambda: other.value("kfwatch_shards_owned") == 64)
    eventually("the other one polls", lambda: other.value(POLLED) > 0)
    other.stop()
    print("two replicas share 64 shards, and the one goes on polling when the other stops")


def simulate(kfwatch, work):
    """Starts the simulated WeChat API. Returns the process and the base URL."""
    (work / "scenario.toml").write_text(SCENARIO)
    simulator = subprocess.Popen(
        [kfwatch, "simulate", "--listen", "127.0.0.1:0", "--scenario", work / "scenario.toml"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    for line in simulator.stdout:
        if found := re.match(r'base_url = "(.*)"', line):
            return simulator, found[1]
    raise AssertionError("the simulator has printed no base_url")


def main(kfwatch, work):
    work = pathlib.Path(work)
    simulator, base_url = simulate(kfwatch, work)
    replicas = [Replica(kfwatch, work / number, base_url) for number in ("1", "2")]
    try:
        check_replicas(replicas)
    except Exception:
        for replica in replicas:
            if replica.log.exists():
                print(f"{replica.log}:\n{replica.log.read_text()[-4000:]}", file=sys.stderr)
        raise
    finally:
        for process in [simulator, *(replica.process for replica in replicas if replica.process)]:
            process.kill()
            process.wait()


if __name__ == "__main__":
    main(*sys.argv[1:])
