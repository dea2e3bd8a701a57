"""A common kind of script: polls kf accounts with wechatpy and sets gauges of prometheus_client.

Usage: wechatpy_loop.py THREADS POLLS < CONFIGURATION

Reads the configuration that the simulator prints, takes accounts in turn until there are POLLS, and prints the
microseconds of CPU per poll and the polls per second.
"""

import concurrent.futures
import itertools
import sys
import time
import tomllib
import warnings

import requests.adapters
from prometheus_client import Counter, Gauge, Histogram
from wechatpy import WeChatClient

WECHAT = "https://api.weixin.qq.com"
SESSIONS = Gauge("kf_active_sessions", "Open sessions.", ["official_account", "kf_account"])
EVENTS = Counter("kf_events", "Sessions that started or ended.", ["official_account", "kf_account"])
DURATION = Histogram("kf_poll_duration_seconds", "How long polls took.")


class ToSimulator(requests.adapters.HTTPAdapter):
    """Sends session calls to the simulator, because wechatpy hard-codes the host in them."""

    def __init__(self, base_url, threads):
        super().__init__(pool_maxsize=threads)
        self.base_url = base_url

    def send(self, request, **kwargs):
        request.url = request.url.replace(WECHAT, self.base_url, 1)
        return super().send(request, **kwargs)


class Account:
    def __init__(self, client, official_account, kf_account):
        self.client = client
        self.labels = (official_account, kf_account)
        self.kf_account = kf_account
        self.known = None

    def poll(self):
        with DURATION.time():
            sessions = self.client.customservice.get_session_list(self.kf_account)
        seen = {(session["openid"], session["createtime"]) for session in sessions}
        if self.known is not None and seen != self.known:
            EVENTS.labels(*self.labels).inc(len(seen ^ self.known))
        self.known = seen
        SESSIONS.labels(*self.labels).set(len(seen))


def accounts(configuration, threads):
    base_url = configuration["api"]["base_url"]
    WeChatClient.API_BASE_URL = base_url + "/cgi-bin/"
    # All accounts share one connection pool.
    adapter = ToSimulator(base_url, threads)
    for official in configuration["official_accounts"]:
        client = WeChatClient(official["appid"], official["token"]["secret"], timeout=10)
        client._http.trust_env = False
        client._http.mount(WECHAT, adapter)
        for kf_account in official["kf_accounts"]:
            yield Account(client, official["name"], kf_account)


def main():
    threads, polls = map(int, sys.argv[1:])
    warnings.simplefilter("ignore")
    configuration = tomllib.load(sys.stdin.buffer)
    watched = list(itertools.islice(accounts(configuration, threads), polls))
    with concurrent.futures.ThreadPoolExecutor(threads) as executor:
        # The first round fetches all tokens and opens all connections.
        list(executor.map(Account.poll, watched))
        begun, cpu = time.monotonic(), time.process_time()
        list(executor.map(Account.poll, watched))
        cpu, elapsed = time.process_time() - cpu, time.monotonic() - begun
    print(cpu * 1e6 / len(watched), len(watched) / elapsed)


main()
