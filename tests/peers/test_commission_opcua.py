"""``browse``, ``read``, ``watch`` and ``write`` at node-opcua, with nothing but its address."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from drivers.opcua_browse import BrowsedNode
from gateway.__main__ import main
from gateway.check import check_site
from gateway.commission.nodes import node_tags
from tests.helpers.commands import Shell
from tests.helpers.opcua_server import OpcUaServer, opcua_server

pytestmark = pytest.mark.timeout(90)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpcUaServer]:
    with opcua_server(tmp_path_factory.mktemp("pki"), many=3, analog=True) as running:
        yield running


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


def insecure(server: OpcUaServer) -> str:
    return f"{server.url}?security=None&insecure=true"


async def test_the_tree_and_a_site_file_of_it(
    server: OpcUaServer, shell: Shell, tmp_path: Path
) -> None:
    server.set("temp", 20.5)
    file = tmp_path / "site.toml"
    answer = await shell.run(f"browse '{insecure(server)}' --emit {file}")
    assert answer.code == 0, answer.err
    assert ". . Level" in answer.out
    assert any(line.split() == [".", "temp", "Double", "20.5", "-", "ns=1;s=temp"]
               for line in answer.out.splitlines())  # fmt: skip
    tags = {tag.id: tag for tag in check_site(file).config.tag}
    assert {"temp", "level", "flag", "n0", "n1", "n2"} <= tags.keys()
    assert not {"word", "array"} & tags.keys()  # no single number
    assert not [tag.id for tag in tags.values() if tag.point and tag.point.address[:3] != "ns="]
    pressure = tags["pressure"]  # its unit, and what the instrument can measure: EURange is 2 to 8
    assert (pressure.unit, pressure.range) == ("bar", (0.0, 16.0))
    assert any(line.split()[-5:] == ["0.0", "to", "16.0", "-", "ns=1;s=pressure-InstrumentRange"]
               for line in answer.out.splitlines())  # fmt: skip
    flag = tags["flag"].point
    assert flag is not None
    assert (flag.address, flag.type) == ("ns=1;s=flag", "bool")
    # The rows fit the import, and the tags are readable by their ids.
    rows = tmp_path / "rows.csv"
    answer = await shell.run(f"browse opcua ns=1;i=1001 --site {file} --emit {rows}")
    assert answer.code == 0, answer.err
    answer = await shell.run(f"tags --import {rows} --site {file}")
    assert (answer.code, "1 same" in answer.out) == (0, True), answer
    answer = await shell.run(f"read temp level --site {file} --json")
    assert [row["value"] for row in answer.json()] == [20.5, 1.25]


async def test_what_goes_wrong_is_one_line(server: OpcUaServer, shell: Shell) -> None:
    for words, said in (
        (f"'{insecure(server)}' ns=9;s=none", "nothing below ns=9;s=none: is there such a node?"),
        (server.url, "an address alone has no trust list: name a device with --site"),
        ("'opc.tcp://127.0.0.1:1?security=None&insecure=true'", "Connection refused"),
    ):
        answer = await shell.run(f"browse {words}")
        assert (answer.code, answer.out, len(answer.err.splitlines())) == (1, "", 1), answer
        assert said in answer.err


@pytest.mark.alone  # a site of another test that is in trouble refuses every write
async def test_reads_and_writes_by_address(server: OpcUaServer, shell: Shell) -> None:
    server.set("temp", 20.5)
    url = insecure(server)
    answer = await shell.run(f"read '{url}#ns=1;s=temp' 0:Objects/1:Plant/1:Tank/1:Level ns=1;s=no")
    assert answer.code == 1
    assert "20.5" in answer.out
    assert "1.25" in answer.out
    assert "BadNodeIdUnknown" in answer.out
    answer = await shell.run(f"write '{url}#ns=1;s=temp' 31.25 --yes")
    assert answer.code == 0, answer
    assert "20.5 -> 31.25, read back 31.25" in answer.out
    assert server.get("temp") == 31.25
    assert (shell.state / "writes.jsonl").exists()
    # A boolean says so behind its node; a number that it cannot hold is not sent.
    answer = await shell.run(f"read {url} ns=1;s=flag:bool ns=1;s=flag --json")
    assert [(one["value"], one["quality"]) for one in answer.json()] == [(1, "GOOD"), (None, "BAD")]
    assert 'a boolean needs type = "bool"' in answer.json()[1]["note"]
    answer = await shell.run(f"write {url} ns=1;s=flag 3 --yes")
    assert (answer.code, "takes 0 or 1" in answer.err) == (1, True), answer
    answer = await shell.run(f"write {url} ns=1;s=flag:bool off --yes")
    assert (answer.code, "1 -> 0, read back 0" in answer.out) == (0, True), answer
    answer = await shell.run(f"watch '{url}#ns=1;s=temp' --every 100ms --for 1s")
    assert (answer.code, answer.out.split()[1:3]) == (0, ["ns=1;s=temp", "31.25"])


async def test_what_is_refused(server: OpcUaServer, shell: Shell) -> None:
    answer = await shell.run(f"browse {server.url}")  # secure unless it is said
    assert answer.code == 1
    assert "no certificate of this server is trusted" in answer.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("tcp://h", "expected an OPC UA server"),
        ("opc.tcp://h", "expected a server such as"),
        ("opc.tcp://h:4840?security=None", "without insecure = true"),
        ("opc.tcp://h:4840 nonsense", "found"),
        ("opc.tcp://h:4840 --depth 0", "expected levels"),
    ],
)
def test_bad_input_is_one_line(words: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code = main(["browse", *words.split()])
    except SystemExit as end:  # argparse's own refusal
        code = int(str(end.code))
    assert code == 2
    assert said in capsys.readouterr().err


def test_ids_of_nodes() -> None:
    def node(name: str, path: str = "") -> BrowsedNode:
        return BrowsedNode(1, name, path, "shown", variable=True, type="Double")

    found = [
        node("ns=2;s=Tank.Level"),
        node("ns=2;s=Tank/Level"),
        node("ns=3;s=tank_level"),
        node("ns=2;i=7", "0:Objects/2:Tank/2:T 1"),
        node("ns=2;s=液位"),
        node("ns=2;s=7up"),
        node(f"ns=2;s={'x' * 80}"),
        node(f"ns=3;s={'x' * 80}"),
    ]
    assert [tag.ident for tag in node_tags(found)] == [
        "tank.level", "tank_level", "tank_level_2", "tank.t_1", "n_", "n_7up",
        "x" * 63, "x" * 61 + "_2",
    ]  # fmt: skip
