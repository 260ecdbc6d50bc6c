"""Standard Webhooks at the receiving platform: a published example, and OpenSSL's HMAC."""

import base64
import gzip
import json
import subprocess
import time
from pathlib import Path

import aiohttp
import pytest

from gateway.errors import GatewayError
from gateway.receiver.signature import Verifier
from tests.helpers.programs import find
from tests.helpers.receiving import Receiver, alert_of, receiving

# The example of the specification's own libraries.
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
BODY = b'{"test": 2432232314}'
HEADERS = {
    "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
    "webhook-timestamp": "1614265330",
    "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
}
NOW_NS = 1_614_265_330_000_000_000


@pytest.mark.parametrize("away_s", [0, 299, -299])
@pytest.mark.parametrize("secret", [SECRET, SECRET.removeprefix("whsec_"), SECRET + "\n"])
def test_the_published_example_is_taken(secret: str, away_s: int) -> None:
    verifier = Verifier(secret, lambda: NOW_NS + away_s * 1_000_000_000)
    assert verifier.refusal(HEADERS, BODY) == ""
    several = {**HEADERS, "webhook-signature": f"v1,AAAA v2,x {HEADERS['webhook-signature']}"}
    assert verifier.refusal(several, BODY) == ""


@pytest.mark.parametrize(
    ("changes", "body", "away_s", "why"),
    [
        ({}, BODY + b" ", 0, "secret and body"),
        ({"webhook-id": "msg_other"}, BODY, 0, "secret and body"),
        ({"webhook-signature": HEADERS["webhook-signature"].replace("v1", "v2")}, BODY, 0, "body"),
        ({"webhook-signature": ""}, BODY, 0, "no signature"),
        ({"webhook-id": ""}, BODY, 0, "no signature"),
        ({"webhook-timestamp": "yesterday"}, BODY, 0, "seconds"),
        ({"webhook-timestamp": "\u0663"}, BODY, 0, "seconds"),
        ({}, BODY, 301, "301 s away"),
        ({}, BODY, -400, "400 s away"),
    ],
)
def test_anything_else_is_refused(
    changes: dict[str, str], body: bytes, away_s: int, why: str
) -> None:
    verifier = Verifier(SECRET, lambda: NOW_NS + away_s * 1_000_000_000)
    assert why in verifier.refusal({**HEADERS, **changes}, body)


@pytest.mark.parametrize("secret", ["", "whsec_", "whsec_???", "not base64!"])
def test_a_secret_that_is_none(secret: str) -> None:
    with pytest.raises(GatewayError):
        Verifier(secret)


def _signed(body: bytes) -> dict[str, str]:
    """By OpenSSL."""
    stamp = str(time.time_ns() // 1_000_000_000)
    key = base64.b64decode(SECRET.removeprefix("whsec_")).hex()
    digest = subprocess.run(
        [find("openssl"), "dgst", "-sha256", "-mac", "HMAC", "-macopt", f"hexkey:{key}", "-binary"],
        input=f"msg_1.{stamp}.".encode() + body, check=True, capture_output=True,
    ).stdout  # fmt: skip
    return {
        "webhook-id": "msg_1",
        "webhook-timestamp": stamp,
        "webhook-signature": f"v1,{base64.b64encode(digest).decode()}",
    }


async def test_only_what_is_signed_is_stored(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text(SECRET)
    body = json.dumps({"alerts": [alert_of(1)]}).encode()
    other = json.dumps({"alerts": [alert_of(2)]}).encode()
    async with receiving(secret_file=secret) as url, aiohttp.ClientSession() as session:
        for content, headers, status in [
            (other, {}, 401),
            (other, _signed(body), 401),
            (body, _signed(body), 200),
            (gzip.compress(body), {**_signed(body), "Content-Encoding": "gzip"}, 200),
        ]:
            async with session.post(f"{url}/alerts", data=content, headers=headers) as response:
                assert response.status == status
        report = await Receiver(session, url).report()
    assert (report["alerts"], report["duplicates"]) == (1, 1)
    assert report["refused"] == {"signature": 2}
