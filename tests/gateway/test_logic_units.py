"""Units of literals: what converts, into what, and what does not."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.logic.canonical import canonical
from gateway.logic.infer import resolve
from gateway.logic.kinds import Kind, Scope, Symbol
from gateway.logic.parse import parse
from gateway.logic.units import convert, convert_gas, has_offset, needs_molar_mass, unit_of

# Figures of people's tables (SI brochure, handbooks), not of this program.
EXACT = [
    (5.0, "kPa", "MPa", 0.005),
    (1.0, "bar", "kPa", 100.0),
    (1013.25, "hPa", "bar", 1.01325),
    (250.0, "mbar", "Pa", 25_000.0),
    (300.0, "K", "°C", 26.85),
    (0.0, "°C", "K", 273.15),
    (212.0, "°F", "°C", 100.0),
    (-40.0, "℃", "℉", -40.0),
    (1.5, "mm", "m", 0.0015),
    (2.0, "in", "mm", 50.8),
    (3.6, "km/h", "m/s", 1.0),
    (36.0, "m3/h", "L/s", 10.0),
    (60.0, "L/min", "m³/h", 3.6),
    (1.0, "t/h", "kg/s", 1000 / 3600),
    (3000.0, "rpm", "Hz", 50.0),
    (1.0, "1/s", "1/min", 60.0),
    (1.5, "%CH4", "ppm-CH4", 15_000.0),
    (20.0, "‰", "%", 2.0),
    (500.0, "ppb", "ppm", 0.5),
    (4.0, "mA", "A", 0.004),
    (0.4, "kV", "V", 400.0),
    (1500.0, "kW", "MW", 1.5),
    (1.0, "kWh", "MJ", 3.6),
    (90.0, "min", "h", 1.5),
    (2.0, "mg/m^3", "µg/m3", 2000.0),
    (6.0, "K/min", "°C/s", 0.1),
    (5.0, "%CH4/s", "ppmCH4/min", 3_000_000.0),
]
APART = [
    ("%CH4", "%LEL"), ("%", "%CH4"), ("kPa", "kg"), ("m", "m2"), ("m/s", "m"), ("m3/h", "Nm3/h"),
    ("kg/s", "m3/s"), ("kW", "kVA"), ("V", "A"), ("foo", "foo2"), ("", "m"), ("m", ""),
    ("mPa", "Pa"), ("ppm", "mg/m3"), ("/s", "1/s"), ("m/foo", "m/s"), ("rpm", "km"),
]  # fmt: skip


@pytest.mark.parametrize(("value", "source", "target", "expected"), EXACT)
def test_exact(value: float, source: str, target: str, expected: float) -> None:
    assert convert(value, source, target) == expected
    back = convert(expected, target, source)
    assert back is not None
    assert math.isclose(back, value, rel_tol=1e-15, abs_tol=1e-12)


@pytest.mark.parametrize(("source", "target"), APART)
def test_apart(source: str, target: str) -> None:
    assert convert(1.0, source, target) is None
    assert convert(1.0, target, source) is None


@given(st.floats(-1e12, 1e12), st.sampled_from([row[1:3] for row in EXACT]))
def test_a_step_of_a_difference_has_no_offset(value: float, units: tuple[str, str]) -> None:
    source, target = units
    zero = convert(0.0, source, target, difference=True)
    assert zero == 0.0
    whole, apart = convert(value, source, target), convert(value, source, target, difference=True)
    assert whole is not None
    assert apart is not None
    assert (whole == apart) or has_offset(source, target)


def test_gas_converts_by_its_molar_mass() -> None:
    # NIOSH's limit of carbon monoxide: 35 ppm (40 mg/m3).
    assert convert_gas(35.0, "ppm", "mg/m3", 28.01) == pytest.approx(40.0, abs=0.1)
    assert convert_gas(50.0, "ppm", "mg/m3", 28.01) == pytest.approx(57.28, abs=0.005)
    assert convert_gas(1.0, "%CH4", "g/m3", 16.04) == pytest.approx(6.5603, abs=5e-5)
    back = convert_gas(57.280163599182, "mg/m3", "ppmCO", 28.01)
    assert back == pytest.approx(50.0, rel=1e-12)
    for odd in ("%LEL", "%RH", "mg", "kPa"):
        assert not needs_molar_mass(odd, "mg/m3")
        assert convert_gas(1.0, odd, "mg/m3", 16.04) is None


def test_a_slip_of_case_is_no_unit() -> None:
    assert unit_of("mPa") is None
    assert unit_of("kpa") is None


SCOPE = Scope(
    symbols={
        "p": Symbol(Kind.NUMBER, "MPa", (0.0, 1.0)),
        "q": Symbol(Kind.NUMBER, "MPa"),
        "t": Symbol(Kind.NUMBER, "°C"),
        "u": Symbol(Kind.NUMBER, "°C"),
        "co": Symbol(Kind.NUMBER, "ppm", molar_mass=28.01),
        "dust": Symbol(Kind.NUMBER, "mg/m3"),
        "plain": Symbol(Kind.NUMBER, ""),
        "flow": Symbol(Kind.NUMBER, "m3/h"),
    }
)

CONVERTED = {
    "p > 500 kPa": "p > 0.5",
    "500 kPa < p": "0.5 < p",
    "p > -5 kPa": "p > -0.005",
    "p >= 5 bar until < 300 kPa": "p >= 0.5 until < 0.3",
    "p - q > 5 kPa": "(p - q) > 0.005",
    "p + 5 kPa > q": "(p + 0.005) > q",
    "5 kPa + p > q": "(0.005 + p) > q",
    "max(5 kPa, p) > 0.5 MPa": "max(0.005, p) > 0.5",
    "abs(p - q) > 5 kPa": "abs(p - q) > 0.005",
    "mean(p, 1m) > 5 bar": "mean(p, 1m) > 0.5",
    "rate(p, 1m) > 60 kPa/min": "rate(p, 1m) > 0.001",
    "delta(flow, 1m) > 1 L/s": "delta(flow, 1m) > 3.6",
    "p * 2 > 500 kPa": "(p * 2) > 0.5",
    "t > 300 K": "t > 26.85",
    "t > 212 °F": "t > 100",
    "max(t, u) > 300 K": "max(t, u) > 26.85",
    "max(t, 300 K) > 30 °C": "max(t, 26.85) > 30",
    "mean(t, 1m) > 300 K": "mean(t, 1m) > 26.85",
    "t - u > 5 K": "(t - u) > 5",
    "abs(t - u) > 9 °F": "abs(t - u) > 5",
    "t + 5 K > u": "(t + 5) > u",
    "t + 5 K > 300 K": "(t + 5) > 26.85",
    "t - (u - t) > 300 K": "(t - (u - t)) > 26.85",
    "(t - u) * 2 > 5 K": "((t - u) * 2) > 5",
    "rate(t, 1m) > 6 K/min": "rate(t, 1m) > 0.1",
    "delta(t, 1m) > 5 K": "delta(t, 1m) > 5",
    "co > 0.01 %": "co > 100",
}
KEPT_APART = {
    "t - 5 K > 300 °F": [(4, "here it may be a reading or a difference")],
    "t * 2 > 300 K": [(8, "a reading or a difference")],
    "total(t, 1m) > 300 K": [(15, "a reading or a difference")],
    "-t > 300 K": [(5, "a reading or a difference")],
    "p > 500 kPA": [(4, 'found the unit "kPA", expected "MPa"; did you mean "kPa"?')],
    "p > 5 mPa": [(4, 'found the unit "mPa", expected "MPa"')],
    "p > 2000 kPa": [(4, "found 2, which p never reaches within its range [0, 1]")],
    "p >= 500 kPa until < 6 bar": [(21, "found < 0.6, which is true together with >= 0.5")],
    "dust > 5 ppm": [(7, "(or molar_mass = … (g/mol), by which ppm converts, on tag dust)")],
    "plain > 5 kPa": [(8, 'expected no unit (or unit = "kPa", on tag plain)')],
    "p > 2 * 5 kPa": [(8, 'found the unit "kPa", expected "MPa"')],
    "p > 5 kPa + 3 kPa": [(4, 'found the unit "kPa", expected "MPa"')],
    "flow > 5 Nm3/h": [(7, 'expected "m3/h"')],
}


@pytest.mark.parametrize("text", CONVERTED)
def test_literals_take_the_unit_of_their_tag(text: str) -> None:
    checked = resolve(parse(text), SCOPE)
    assert checked.flaws == []
    assert canonical(checked.tree) == CONVERTED[text]
    again = resolve(checked.tree, SCOPE)
    assert (again.tree, list(again.conversions)) == (checked.tree, [])


@pytest.mark.parametrize("text", KEPT_APART)
def test_what_does_not_convert_is_refused(text: str) -> None:
    flaws = resolve(parse(text), SCOPE).flaws
    assert [flaw.at for flaw in flaws] == [at for at, _ in KEPT_APART[text]]
    for flaw, (_, part) in zip(flaws, KEPT_APART[text], strict=True):
        assert part in flaw.text


def test_the_unit_that_is_expected_is_not_proposed_again() -> None:
    (flaw,) = resolve(parse("p > 5 mPa"), SCOPE).flaws
    assert "did you mean" not in flaw.text


def test_conversions_are_told_as_they_were_written() -> None:
    checked = resolve(parse("co > 57.28 mg/m3 or (p >= 5 bar until < 0.3 MPa)"), SCOPE)
    said = [conversion.text for conversion in checked.conversions]
    assert said[1] == "5 bar = 0.5 MPa"
    assert said[0].startswith("57.28 mg/m3 = 49.99985")
    assert len(said) == 2
