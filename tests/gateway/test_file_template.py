"""Text templates of file uplinks: what they see, what they may not do, what becomes of slips."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.check import check_site
from gateway.errors import ConfigError
from gateway.site.file_template import (
    ALERT_FIELDS,
    OUTPUT_BYTES_MAX,
    SAMPLE_FIELDS,
    SOURCE_BYTES_MAX,
    FileTemplate,
    TemplateError,
)
from gateway.store.alert import Alert
from gateway.uplink.base import ACCEPTED, GapItem, LinkRefusedError, Outgoing, Refused
from gateway.uplink.file import FileUplink
from gateway.uplink.message import encode
from tests.helpers.uplinks import EPOCH, SENDER, T0_NS, alert_out, config_of, row_out

pytest.importorskip("jinja2", reason="jinja2 is not installed")

CSV = """\
# {{ gateway }} {{ lane }}
{% for m in messages %}{% for r in m.rows -%}
{{ r.time | local("%Y-%m-%d %H:%M:%S", "Asia/Shanghai") }};{{ r.tag }};{{ r.value }};{{ r.quality }}
{% endfor %}{% endfor %}"""
ALERTS = "{% for a in messages %}{{ a.seq }} {{ a.kind }} {{ a.source.id }}\n{% endfor %}"


@pytest.fixture
def uplink(tmp_path: Path) -> Callable[[str, str], FileUplink]:
    def made(name: str, source: str) -> FileUplink:
        (tmp_path / name).write_text(source)
        (tmp_path / "out").mkdir()
        url, template = f"file://{tmp_path}/out", str(tmp_path / name)
        return FileUplink(config_of(url, kind="file", template=template), SENDER)

    return made


def files(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "out").iterdir())


async def test_each_send_is_a_whole_file(
    tmp_path: Path, uplink: Callable[[str, str], FileUplink]
) -> None:
    writer = uplink("values.csv.j2", CSV)
    await writer.connect()
    assert await writer.send("live", [row_out(1), row_out(2)]) == [ACCEPTED, ACCEPTED]
    (path,) = files(tmp_path)  # under its final name at once
    assert path.name.endswith("-gw-1.platform-live.csv")
    assert path.stat().st_mode & 0o777 == 0o640
    heading, first, *rest = path.read_text().splitlines()
    assert heading == "# gw-1 live"
    assert first == "2025-11-25 00:00:01;ch4.t1;1.25;GOOD"
    assert len(rest) == 5  # three samples each: the second tag has none at the second time
    await writer.send("live", [row_out(3)])
    await writer.close()
    assert len(files(tmp_path)) == 2


async def test_the_message_that_a_template_cannot_take_is_found(
    tmp_path: Path, uplink: Callable[[str, str], FileUplink]
) -> None:
    slip = "{% for a in messages %}{{ a.seq }} {{ 1 / (a.seq - 3) }}\n{% endfor %}"
    writer = uplink("alerts.txt.j2", slip)
    await writer.connect()
    verdicts = await writer.send("alert", [alert_out(seq) for seq in range(1, 6)])
    await writer.close()
    assert [verdict == ACCEPTED for verdict in verdicts] == [True, True, False, True, True]
    refused = verdicts[2]
    assert isinstance(refused, Refused)
    assert refused.reason == "template"
    assert refused.detail == "line 1: ZeroDivisionError: division by zero"
    text = "".join(path.read_text() for path in files(tmp_path))
    assert [line.split()[0] for line in text.splitlines()] == ["1", "2", "4", "5"]


async def test_gap_markers_pass_through_a_template(
    tmp_path: Path, uplink: Callable[[str, str], FileUplink]
) -> None:
    writer = uplink("alerts.j2", ALERTS)
    await writer.connect()
    gap = Outgoing(GapItem(3, 4, "shed", T0_NS), epoch=EPOCH)
    assert await writer.send("alert", [gap]) == [ACCEPTED]
    await writer.close()
    (path,) = files(tmp_path)
    assert path.name.endswith("-alerts.txt")
    assert path.read_text() == "4 gap platform\n"


async def test_a_template_that_is_gone_is_a_link_refused(
    tmp_path: Path, uplink: Callable[[str, str], FileUplink]
) -> None:
    writer = uplink("alerts.j2", ALERTS)
    (tmp_path / "alerts.j2").unlink()
    with pytest.raises(LinkRefusedError, match=r"alerts\.j2 cannot be read"):
        await writer.connect()


async def test_a_template_that_is_none_is_a_link_refused_and_no_messages_fault(
    tmp_path: Path, uplink: Callable[[str, str], FileUplink]
) -> None:
    writer = uplink("alerts.j2", "{% for a in messages %}")
    with pytest.raises(LinkRefusedError, match="template: line 1: Unexpected end of template"):
        await writer.connect()
    (tmp_path / "alerts.j2").write_text(ALERTS)
    await writer.connect()
    assert await writer.send("alert", [alert_out(1)]) == [ACCEPTED]
    await writer.close()


def test_names_are_those_of_the_messages() -> None:
    assert {*Alert.__struct_fields__, "gap"} <= set(ALERT_FIELDS)
    gap = Outgoing(GapItem(3, 4, "shed", T0_NS), epoch=EPOCH)
    for out in (row_out(), gap):
        sent = json.loads(encode(SENDER, "live", out))
        assert set(sent) <= set(SAMPLE_FIELDS)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("{% for a in messages %}", "line 1: Unexpected end of template"),
        ("\n{{ a.b.c }}", "line 2: UndefinedError: 'a' is undefined"),
        ("{{ messages[0].priorty }}", "has no attribute 'priorty'"),
        ("{{ ''.__class__.__mro__ }}", "SecurityError"),
        ("{{ messages[0].update(id=1) }}", "SecurityError"),
        ("{% for i in range(9999999) %}{% endfor %}", "OverflowError"),
        ("{% for i in range(99999) %}{{ '%0999d' % i }}{% endfor %}", "more than 4 MiB"),
        ("{% include '/etc/passwd' %}", "no loader"),
        ("x" * (SOURCE_BYTES_MAX + 1), "longer than 64 KiB"),
    ],
)
def test_a_slip_is_an_error_of_the_check(tmp_path: Path, source: str, said: str) -> None:
    assert OUTPUT_BYTES_MAX == 4 * 1024 * 1024
    path = tmp_path / "a.txt.j2"
    path.write_text(source)
    with pytest.raises(TemplateError) as caught:
        FileTemplate.read(path).attempt(["alert", "live"])
    assert said.lower() in str(caught.value).lower()
    site = tmp_path / "site.toml"
    (tmp_path / "out").mkdir()
    site.write_text(
        '[site]\nid = "s"\n[[uplink]]\nid = "f"\nkind = "file"\n'
        f'url = "file://{tmp_path}/out"\nrotate_after = "1m"\ntemplate = "a.txt.j2"\n'
    )
    with pytest.raises(ConfigError) as refused:
        check_site(site, require_credentials=False)
    rotate, template = refused.value.errors
    assert rotate.startswith(f"{site}:7: uplink[f].rotate_after: found it with a template")
    assert template.startswith(f'{site}:8: uplink[f].template: found "a.txt.j2": ')


def test_a_good_template_passes_the_check(tmp_path: Path) -> None:
    (tmp_path / "a.csv.j2").write_text(CSV)
    (tmp_path / "out").mkdir()
    site = tmp_path / "site.toml"
    site.write_text(
        '[site]\nid = "s"\n[[uplink]]\nid = "f"\nkind = "file"\nlanes = ["backfill"]\n'
        f'url = "file://{tmp_path}/out"\ntemplate = "a.csv.j2"\n'
        '[[uplink]]\nid = "g"\nkind = "file"\n'
        f'url = "file://{tmp_path}/out"\n'
    )
    uplink, _other = check_site(site).config.uplink
    assert uplink.template == str(tmp_path / "a.csv.j2")
