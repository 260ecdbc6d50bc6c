"""Lists of points from vendors and engineers into a site, and a site's tags out again."""

import csv
import io
import json
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.__main__ import main
from gateway.check import check_site
from gateway.commission.tag_export import export_cells
from gateway.commission.tag_table import read_table, translated, write_table
from gateway.site import tags_csv
from gateway.site.complaints import Complaints, Origin
from gateway.site.convert import convert
from gateway.site.model import Duration, Point, Tag
from gateway.site.spreadsheet import text_of_csv

SITE = """
[site]
id = "plant"
tags = "tags.csv"

[[device]]
id = "plc"
driver = "modbus-tcp"
address = "10.0.0.5:502"

[[device]]
id = "one"
driver = "modbus-tcp"
address = "10.0.0.6:502"
base = 1

[[tag]]
id = "own"
device = "plc"
point = { address = "hr:7" }
unit = "V"
"""
CSV = "id,device,address,type,description\nlevel,plc,hr:1,int16,kept\nflow,plc,hr:2,,\n"


class Desk:
    """A site with its CSV, and the command line over it."""

    def __init__(self, directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.directory = directory
        self.site = directory / "site.toml"
        self.csv = directory / "tags.csv"
        self.list = directory / "points.csv"
        self.site.write_text(SITE)
        self.csv.write_text(CSV)
        self._capsys = capsys

    def run(self, *words: str) -> tuple[int, str, str]:
        """Exit code, stdout, stderr of ``tags`` with the site."""
        code = main(["tags", *words, "--site", str(self.site)])
        said = self._capsys.readouterr()
        assert "Traceback" not in said.err
        return code, said.out, said.err

    def imported(self, text: str | bytes, *words: str) -> tuple[int, str, str]:
        """Import a list with this content."""
        self.list.write_bytes(text.encode() if isinstance(text, str) else text)
        return self.run("--import", str(self.list), *words)

    def tags(self) -> dict[str, Tag]:
        """What the site has by its own reader."""
        return {tag.id: tag for tag in check_site(self.site).config.tag}


@pytest.fixture
def desk(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Desk:
    return Desk(tmp_path, capsys)


VENDOR = """点表 2026,,,,,,,,
位号;设备;寄存器地址;数据类型;字节序;单位;量程;说明;柜号
CH4.T1;plc;30101;REAL;小端;%CH4;0~4;甲烷;A1
FAN RUN;plc;10005;BOOL;;;;;A1
one.t;one;400101;DINT;ABCD;℃;-20至80;;A2
level;plc;hr:1;UINT;;mm;;kept;A2
own;plc;hr:7;;;V;;;
"""


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "gb18030", "utf-16"])
@pytest.mark.parametrize("separator", [";", "\t", "|"])
def test_a_vendors_list_becomes_tags(desk: Desk, encoding: str, separator: str) -> None:
    before = desk.csv.read_bytes()
    data = VENDOR.replace(";", separator).encode(encoding)
    code, out, _ = desk.imported(data)
    assert code == 0
    assert "3 added, 1 changed, 1 same; nothing is written without --write" in out
    assert "type: int16 -> uint16" in out
    assert "row 3: 30101 is ir:100" in out
    assert "柜号" in out
    assert desk.csv.read_bytes() == before
    code, out, _ = desk.imported(data, "--write", "--json")
    assert code == 0
    backup = Path(json.loads(out)["backup"])
    assert backup.read_bytes() == before
    tags = desk.tags()
    assert tags["ch4.t1"].point == Point(address="ir:100", type="float32", order="DCBA")
    assert (tags["ch4.t1"].range, tags["ch4.t1"].description) == ((0.0, 4.0), "甲烷")
    assert tags["fan_run"].point == Point(address="di:4", type="bool")
    assert tags["one.t"].point == Point(address="hr:101", type="int32", order="ABCD")  # base 1
    assert tags["one.t"].range == (-20.0, 80.0)
    assert tags["level"].point == Point(address="hr:1", type="uint16")
    assert tags["flow"].point == Point(address="hr:2")  # not in the list: left as it is
    code, out, _ = desk.imported(data, "--write")
    assert (code, out.splitlines()[-1]) == (0, "5 same")


def test_full_width_letters_and_digits(desk: Desk) -> None:
    text = (
        "位号，设备，地址，类型\n".replace("，", ",")
        + "ＣＨ４．Ｔ１,plc,３０１０１,ＲＥＡＬ\nx,plc,ｈｒ：５,\n"
    )
    code, out, err = desk.imported(text, "--write")
    assert code == 0, err
    assert "row 2: ３０１０１ is ir:100" in out
    tags = desk.tags()
    assert tags["ch4.t1"].point == Point(address="ir:100", type="float32")
    assert tags["x"].point == Point(address="hr:5")


def test_columns_that_mean_nothing_are_not_all_told(desk: Desk) -> None:
    wide = ",".join(["id", "device", "address", *(f"x{i}" for i in range(500))])
    code, out, _ = desk.imported(f"{wide}\n")
    assert code == 0
    assert "x19 and 480 more" in out
    assert "x20" not in out


WESTERN = """Name;Register;Type;Units;Min;Max;Scaling
Füllstand;40001;REAL;m;0;12,5;
Temperatur;40003;REAL;°C;-50;150;
Durchfluß;40005;INT;m³/h;0;100;0,1
"""


@pytest.mark.parametrize("encoding", ["utf-8", "cp1252", "utf-16"])
def test_a_western_spreadsheets_letters_and_commas(desk: Desk, encoding: str) -> None:
    data = WESTERN.replace("ü", "ue").replace("ß", "ss").encode(encoding)
    code, out, err = desk.imported(data, "--device", "plc", "--write")
    assert code == 0, err
    assert "added  plc hr:0 float32 m 0..12.5" in out
    assert "note: 2 of two or four registers name no byte order (row 2 ...)" in out
    assert ("note: it is no UTF-8 and was read as cp1252" in out) is (encoding == "cp1252")
    tags = desk.tags()
    assert [tags[name].unit for name in ("fuellstand", "temperatur", "durchfluss")] == [
        "m", "°C", "m³/h",
    ]  # fmt: skip
    assert tags["fuellstand"].range == (0.0, 12.5)
    assert tags["durchfluss"].point == Point(address="hr:4", type="int16", scale=0.1)
    # The site's own CSV, saved by such a spreadsheet, says the same.
    desk.csv.write_bytes(WESTERN_SITE.encode(encoding))
    assert desk.tags()["t"].unit == "°C"
    assert desk.tags()["t"].range == (0.5, 99.5)


WESTERN_SITE = """id;device;address;type;unit;low;high
t;plc;hr:1;float32;°C;0,5;99,5
"""


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("Medição;Posição;sucção", "cp1252"),
        ("MEDIÇÃO;POSIÇÃO;VAZÃO", "cp1252"),
        ("Meßgröße;Größe;öß;°C;m³/h", "cp1252"),
        ("Température;Débit;créée", "cp1252"),
        ("A相B相C相;a相;b相;泵a;泵b;阀x;℃", "gb18030"),
        ("ch4浓度;co浓度;1号泵run;甲烷;罐", "gb18030"),
    ],
)
def test_which_code_page_a_file_has_is_seen_by_its_letters(text: str, encoding: str) -> None:
    complaints = Complaints("site.toml")
    assert text_of_csv("list.csv", text.encode(encoding), complaints) == text
    assert not complaints


def test_hexadecimal_digits_are_no_coil(desk: Desk) -> None:
    code, _, err = desk.imported("id,device,address,type\nx,plc,0x0064,uint16\n")
    assert (code, 'found "0x0064", expected an address such as "hr:100"' in err) == (2, True)
    code, out, _ = desk.imported("id,device,address,type\nx,plc,0x0064,BOOL\n")
    assert (code, "0x0064 is c:63" in out) == (0, True)


BAD = """id,device,address,type,low,high,poll
Ä,plc,hr:1,,,,
x,plx,hr:1,,,,
y,plc,40000,REAL,,,
x,plc,hr:99999,int16,a,5,
,plc,hr:1,,,,
z,plc,hr:1,FLAOT,1,,
w,plc,hr:1,,,,1000
own,plc,hr:8,,,,
"""
BAD_LINES = [
    ':2: tag[Ä].id: found "Ä", expected an id',
    ':3: tag[x].device: found "plx"',
    ':4: tag[y].point.address: found "40000"',
    ":5: tag[x]",
    ':5: tag[x].low: found "a", expected a number',
    ':5: tag[x].point.address: found "hr:99999"',
    ':6: tag[#6].id: found ""',
    ":7: tag[z].low: found low alone",
    ':7: tag[z].point.type: found "FLAOT"',
    ':8: tag[w].poll: found "1000", expected a duration',
    ":9: tag[own]: found another address than",
]


def test_every_error_of_every_row_at_once_and_nothing_written(desk: Desk) -> None:
    code, out, err = desk.imported(BAD, "--write")
    assert (code, out) == (2, "")
    lines = err.splitlines()
    assert len(lines) == len(BAD_LINES), err
    for line, said in zip(lines, BAD_LINES, strict=True):
        assert line.startswith(f"{desk.list}{said}"), line
    assert desk.csv.read_text() == CSV
    assert not list(desk.directory.glob("*.bak"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"", "expected headings"),
        (b"a,b\n1,2\n", "expected headings"),
        (b"\x81\xff\xff,\n", "unknown encoding"),
        (b"PK\x03\x04,\n", "found a workbook, expected CSV"),
        (b'id,address\nx,"hr:1\n', "broken row"),
        (b"id,tag,address\nx,y,hr:1\n", "a second heading for id"),
        (b"id,address\nx,hr:1,7\n", "more cells than headings"),
    ],
)
def test_what_is_no_list(desk: Desk, text: bytes, said: str) -> None:
    code, _, err = desk.imported(text)
    assert code == 2
    assert said in err


def test_a_list_that_nobody_wrote(desk: Desk) -> None:
    """A device, a directory, a site file that is neither: a line each, and no memory used up."""
    for name, why in (("/dev/zero", "more than 16 MiB"), (str(desk.directory), "Is a directory")):
        code, _, err = desk.run("--import", name)
        assert (code, err) == (2, f"{name}:1: cannot be read: {why}\n")
    for site, why in ((desk.directory, "Is a directory"), ("none", "No such file or directory")):
        desk.site = Path(site)
        code, _, err = desk.imported(VENDOR)
        assert (code, err) == (2, f"{site}:1: cannot be read: {why}\n")


def test_every_list_that_is_replaced_is_kept(desk: Desk) -> None:
    for number in range(3):  # within one second
        assert desk.imported(f"id,device,address\nlevel,plc,hr:{number + 5}\n", "--write")[0] == 0
    kept = {path.read_text() for path in desk.directory.glob("*.bak")}
    assert len(kept) == 3
    assert CSV in kept


def test_usage(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tags", "--export"]) == 2
    assert main(["tags", "--import", "x", "--write"]) == 2
    assert desk.run("--import", "x", "--export")[0] == 2
    assert "no such file" in desk.run("--import", str(desk.directory / "none"))[2].lower()
    desk.site.write_text(SITE.replace('tags = "tags.csv"', ""))
    code, _, err = desk.imported("id,device,address\nx,plc,hr:1\n", "--write")
    assert code == 2
    assert "site.tags" in err
    # Without a site a list is read alone.
    assert main(["tags", "--import", str(desk.list), "--device", "plc"]) == 0
    assert "1 read" in capsys.readouterr().out


def test_the_device_of_rows_that_name_none(desk: Desk) -> None:
    code, out, _ = desk.imported("name,register\nPT 101,40001\n", "--device", "one", "--write")
    assert code == 0, out
    tag = desk.tags()["pt_101"]
    assert (tag.device, tag.point) == ("one", Point(address="hr:1"))


def test_what_no_column_says_is_told_and_chinese_headings_stay(desk: Desk) -> None:
    limited = '\n[[tag]]\nid = "c"\nvalue = "own * 2"\n'
    desk.site.write_text(SITE + "limits = { high = 3 }\n" + limited)
    target = desk.directory / "out.csv"
    code, out, err = desk.run("--export", str(target), "--chinese")
    assert (code, out) == (0, "")
    assert "own: limits has no column" in err
    assert "c is computed" in err
    assert target.read_text(encoding="utf-8-sig").startswith("位号,设备,地址")
    shutil.copy(target, desk.csv)
    desk.site.write_text(SITE.partition("[[tag]]")[0])
    assert desk.imported("id,device,address\nnew,plc,hr:9\n", "--write")[0] == 0
    assert desk.csv.read_text(encoding="utf-8-sig").startswith("位号,设备,地址")
    assert set(desk.tags()) == {"level", "flow", "own", "new"}


WORDS = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"])
    | st.sampled_from(',;|"\t\n' + "'=+-@"),
    max_size=12,
).map(str.strip)
FORMULA = ("=", "+", "-", "@", "\t", "\r")
NEVER_GUARDED = ("low", "high", "scale", "offset")
NUMBERS = st.floats(-1e12, 1e12, allow_nan=False)
DURATIONS = st.integers(1, 10**15).map(Duration)


@st.composite
def tags_strategy(draw: st.DrawFn) -> Tag:
    """A measured tag that a CSV has columns for."""
    kind = draw(st.sampled_from(["", "int16", "uint32", "float32", "float64"]))
    low = draw(NUMBERS)
    return Tag(
        id=draw(st.from_regex(r"[a-z][a-z0-9_.-]{0,20}", fullmatch=True)),
        device=draw(st.sampled_from(["plc", "one"])),
        point=Point(
            address=draw(st.sampled_from(["hr:1", "ir:0x10", "hr:65530", "c:3"])),
            type=kind,
            order=draw(st.sampled_from(["", "ABCD", "BADC", "CDAB", "DCBA"])),
            scale=draw(NUMBERS.filter(bool)),
            offset=draw(NUMBERS),
        ),
        unit=draw(WORDS),
        range=draw(st.sampled_from([None, (low, low + 1e3)])),
        poll=draw(st.none() | DURATIONS),
        stale_after=draw(st.none() | DURATIONS),
        description=draw(WORDS),
    )


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(tags_strategy(), max_size=5), st.booleans())
def test_export_and_import_give_the_same_tags(tags: list[Tag], chinese: bool) -> None:
    rows = [export_cells(tag) for tag in tags]
    data = write_table(rows, list(tags_csv.HEADINGS), chinese=chinese)
    for written in list(csv.reader(io.StringIO(data.decode("utf-8-sig"), newline="")))[1:]:
        for name, cell in zip(tags_csv.HEADINGS, written, strict=True):
            assert name in NEVER_GUARDED or not cell.startswith(FORMULA)
            assert name not in NEVER_GUARDED or not cell.startswith("'")
    complaints = Complaints("x.csv")
    table = read_table("x.csv", data, complaints)
    again = []
    for row in table.rows:
        cells = translated(row, modbus=lambda _: 0).cells
        assert cells == row.cells
        origin = Origin("x.csv", "tag", row=row.number)
        read = tags_csv.row_of(cells, origin, complaints)
        again.append(convert(Tag, read.table, origin, complaints).item)
    assert not complaints.lines()
    assert again == tags
    # The site's own reader sees the same.
    own = [convert(Tag, r.table, r.origin, complaints).item
           for r in tags_csv.read("x.csv", data, complaints)]  # fmt: skip
    assert own == tags


@pytest.mark.parametrize(
    "text", ["=1+1", "-", "+1", "@A1", "'=1", "''-", "'", "=cmd|' /C calc'!A0"]
)
def test_a_servers_own_words_are_no_formula_and_come_back(text: str) -> None:
    row = {"id": "a", "address": text, "low": "-5", "high": "+5", "unit": text, "description": text}
    data = write_table([row], list(row), chinese=False)
    (_, written) = csv.reader(io.StringIO(data.decode("utf-8-sig"), newline=""))
    assert not any(written[at].startswith(FORMULA) for at in (1, 4, 5))
    assert written[2:4] == ["-5", "+5"]
    (found,) = read_table("x.csv", data, Complaints("x.csv")).rows
    assert found.cells == row
    (own,) = tags_csv.read("x.csv", data, Complaints("x.csv"))
    assert (own.table["point"]["address"], own.table["unit"]) == (text, text)


def test_a_list_with_a_guarded_cell_is_what_it_says(desk: Desk) -> None:
    text = "id,device,address,unit,description\nnew,plc,hr:9,'-,'=A1\n"
    assert desk.imported(text, "--write")[0] == 0
    assert (desk.tags()["new"].unit, desk.tags()["new"].description) == ("-", "=A1")
    assert desk.csv.read_text(encoding="utf-8-sig").splitlines()[-1] == "new,plc,hr:9,,'=A1,'-"
