"""The HTTP uplink behind Debian's nginx: client certificates, sizes, rates, redirects, outages."""

from pathlib import Path
from typing import Any

import pytest

from gateway.site.model import Size
from gateway.uplink.base import ACCEPTED, LinkRefusedError, Refused, Retry
from tests.helpers.certificates import make_authority
from tests.helpers.http_script import Held, Script, connected
from tests.helpers.nginx import nginx
from tests.helpers.uplinks import MemoryLedger, alert_out, row_out


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_authority(tmp_path_factory.mktemp("nginx"))


def passing(server: Script) -> str:
    return f"location / {{ proxy_pass {server.url.removesuffix('/in')}; }}"


async def test_a_client_certificate_is_asked_for(authority: Path, tmp_path: Path) -> None:
    ours: Any = Held(
        ca_path=authority / "ca.pem",
        cert_path=authority / "client.pem",
        key_path=authority / "client-key.pem",
    )
    async with Script().serving() as server, nginx(tmp_path, passing(server), tls=authority) as url:
        async with connected(f"{url}/in", credentials=ours, gzip_above=Size(100)) as uplink:
            assert await uplink.send("alert", [alert_out(1)]) == [ACCEPTED]
            assert await uplink.send("live", [row_out(1)]) == [ACCEPTED]
            assert uplink.certificate_not_after_utc_ns > 1_700_000_000_000_000_000
        nobody = Held(ca_path=authority / "ca.pem")
        async with connected(f"{url}/in", credentials=nobody) as uplink:
            with pytest.raises(LinkRefusedError, match="does not accept our certificate"):
                await uplink.send("alert", [alert_out(2)])
    assert [path for path, _ in server.posts] == ["/in/alerts", "/in/samples"]


async def test_a_certificate_of_another_authority_is_a_link_refused(
    authority: Path, tmp_path: Path
) -> None:
    stranger = make_authority(tmp_path / "stranger")
    held: Any = Held(
        ca_path=authority / "ca.pem",
        cert_path=stranger / "client.pem",
        key_path=stranger / "client-key.pem",
    )
    async with (
        nginx(tmp_path, "location / { return 204; }", tls=authority) as url,
        connected(url, credentials=held) as uplink,
    ):
        with pytest.raises(LinkRefusedError, match="does not accept our certificate"):
            await uplink.send("alert", [alert_out(1)])


async def test_the_one_item_that_is_too_large_is_found(tmp_path: Path) -> None:
    ledger = MemoryLedger()
    ledger.put(kind="alarm", cause="x" * 20_000)
    items = [alert_out(seq) for seq in range(1, 12)]
    items[6] = alert_out(7, ledger.bodies[0].replace(b'"seq":1', b'"seq":7'))
    async with (
        Script().serving() as server,
        nginx(tmp_path, "client_max_body_size 16k;", passing(server)) as url,
        connected(f"{url}/in") as uplink,
    ):
        verdicts = await uplink.send("alert", items)
    assert [verdict == ACCEPTED for verdict in verdicts] == [n != 6 for n in range(11)]
    refused = verdicts[6]
    assert isinstance(refused, Refused)
    assert refused.reason == "http_413"
    stored = [event["data"]["seq"] for _path, body in server.posts for event in body["alerts"]]
    assert stored == [seq for seq in range(1, 12) if seq != 7]


async def test_too_many_requests_wait_as_long_as_they_are_asked_to(tmp_path: Path) -> None:
    limit = "limit_req_zone $binary_remote_addr zone=one:1m rate=1r/m;"
    location = (  # the rate is counted before a file is looked for, not before a return
        "location / { limit_req zone=one; limit_req_status 429; "
        "add_header Retry-After 37 always; try_files /none =204; }"
    )
    async with nginx(tmp_path, location, http=[limit]) as url, connected(url) as uplink:
        assert await uplink.send("alert", [alert_out(1)]) == [ACCEPTED]
        (verdict,) = await uplink.send("alert", [alert_out(2)])
    assert isinstance(verdict, Retry)
    assert verdict.after_s == 37.0
    assert not verdict.denied


@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_no_redirect_is_followed(tmp_path: Path, status: int) -> None:
    async with Script().serving() as server:
        location = f"location / {{ return {status} {server.url}$request_uri; }}"
        async with nginx(tmp_path, location) as url, connected(url) as uplink:
            (verdict,) = await uplink.send("alert", [alert_out(1)])
    assert isinstance(verdict, Retry)
    assert str(status) in verdict.reason
    assert server.posts == []


async def test_a_platform_that_is_down_behind_it_is_asked_again(tmp_path: Path) -> None:
    async with Script().serving() as server:
        pass
    async with nginx(tmp_path, passing(server)) as url, connected(url) as uplink:
        (verdict,) = await uplink.send("alert", [alert_out(1)])
    assert isinstance(verdict, Retry)
    assert "502" in verdict.reason
