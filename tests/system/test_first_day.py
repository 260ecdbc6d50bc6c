"""README's first day, command by command as it stands there, at a device that nobody knows."""

import asyncio
import json
import re
import shlex
import signal
from pathlib import Path

import pytest

from tests.helpers.commands import Shell
from tests.helpers.harness import ROOT, until
from tests.helpers.modbus_server import ModbusServer

pytestmark = [pytest.mark.system, pytest.mark.timeout(180)]

POINTS = "位号;设备;寄存器地址;数据类型;字节序;单位;量程\nCH4.T1;unit-1;30101;REAL;CDAB;%CH4;0-4\n"
POINTS += "fan.running;unit-1;10005;BOOL;;;\n"


def commands() -> list[str]:
    """The ten, without the program's name."""
    text = (ROOT / "README.md").read_text()
    section = text.partition("### The first day")[2].partition("\n###")[0]
    return re.findall(r"^    sitewarden (.*)$", section, re.MULTILINE)


@pytest.mark.alone  # a site of another test that is in trouble refuses every write
async def test_ten_commands_from_nothing_to_a_running_site(tmp_path: Path) -> None:
    ten = commands()
    assert len(ten) == 10
    shell = Shell(tmp_path)
    (tmp_path / "points.csv").write_bytes(POINTS.encode("gbk"))
    async with ModbusServer() as plc:
        plc.send("only 1")
        plc.send("window ir 100 119")
        plc.set("ir", 100, 0x0000, 0x3F40)  # 0.75, low word first
        plc.set("di", 4, 1)
        await plc.sync()
        said = []
        for command in ten[:-1]:
            words = command.replace("192.168.10.20", plc.address)
            words = words.replace("--units 1-5", "--units 1-2")  # silence takes its time
            words += " --yes" if words.startswith("write") else ""
            answer = await shell.run(words, cwd=tmp_path)
            assert answer.code == 0, (words, answer)
            said.append(answer.out)
        scanned, emitted, read, watched, dry, _, checked, by_tag, written = said
        assert re.search(r"1 +answers", scanned)
        assert "ir:100-119" in emitted
        assert re.search(r"ir:100 .* 0\.75 ", read)
        assert re.search(r"ir:100:float32:CDAB  0\.75  GOOD", watched)
        assert "2 added" in dry
        assert checked.startswith("OK site.toml")
        assert [line.split()[1] for line in by_tag.splitlines()[2:]] == ["0.75", "1"]
        assert "0 -> 15, read back 15" in written
        assert await plc.get("hr", 40) == [15]
        site = tmp_path / "site.toml"
        site.write_text(f'{site.read_text()}\n[view]\nlisten = "127.0.0.1:0"\n')
        process = await shell.start(ten[-1], cwd=tmp_path)
        endpoints = Path(shell.environment["SITEWARDEN_RUNTIME_DIR"]) / "endpoints.json"

        async def ch4_is_good() -> bool:
            if not endpoints.exists():
                return False
            tags = (await shell.run("tags --json")).json()
            found = {tag["id"]: (tag["value"], tag["quality"]) for tag in tags}
            return found["ch4.t1"] == (0.75, "GOOD")

        try:
            await until("the tag is polled", ch4_is_good, 60)
            assert json.loads(endpoints.read_text())["site"] == "new-site"
        finally:
            process.send_signal(signal.SIGTERM)
            _, err = await asyncio.wait_for(process.communicate(), 30)
        assert process.returncode == 0, err.decode()
        assert shlex.split(ten[-1]) == ["run", "site.toml"]
