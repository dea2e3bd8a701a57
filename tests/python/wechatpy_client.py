"""Tests the simulated WeChat API with wechatpy, an independent client.

Usage: wechatpy_client.py BASE_URL APPID SECRET KF_ACCOUNT UNBOUND_KF_ACCOUNT INVALID_KF_ACCOUNT

Prints one JSON object with what wechatpy made of the answers.
"""

import json
import sys
import warnings

import requests.adapters
from wechatpy import WeChatClient
from wechatpy.exceptions import WeChatClientException

WECHAT = "https://api.weixin.qq.com"


class ToSimulator(requests.adapters.HTTPAdapter):
    """Sends session calls to the simulator: wechatpy has a fixed host for them."""

    def __init__(self, base_url):
        super().__init__()
        self.base_url = base_url

    def send(self, request, **kwargs):
        request.url = request.url.replace(WECHAT, self.base_url, 1)
        return super().send(request, **kwargs)


def errcode_of(call, *arguments):
    try:
        call(*arguments)
    except WeChatClientException as error:
        return error.errcode
    return 0


def main():
    base_url, appid, secret, bound, unbound, invalid = sys.argv[1:]
    warnings.simplefilter("ignore")
    WeChatClient.API_BASE_URL = base_url + "/cgi-bin/"
    client = WeChatClient(appid, secret, timeout=10)
    client._http.trust_env = False
    client._http.mount(WECHAT, ToSimulator(base_url))

    kf = client.customservice
    stranger = WeChatClient(appid, "wrong" + secret, timeout=10)
    stranger._http.mount(WECHAT, ToSimulator(base_url))
    seen = {
        "expires_in": client.fetch_access_token()["expires_in"],
        "accounts": kf.get_accounts(),
        "online": kf.get_online_accounts(),
        "sessions": kf.get_session_list(bound),
        "wait_case": kf.get_wait_case(),
        "unbound": errcode_of(kf.get_session_list, unbound),
        "invalid": errcode_of(kf.get_session_list, invalid),
        "wrong_secret": errcode_of(stranger.fetch_access_token),
    }
    # wechatpy fetches a new token by itself when this one is refused.
    client.session.set(client.access_token_key, "no-such-token")
    seen["sessions_after_refusal"] = kf.get_session_list(bound)
    json.dump(seen, sys.stdout)


main()
