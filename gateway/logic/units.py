"""Units of literals: which of them can be converted into a tag's unit, and how.

Exact conversions only: every factor is a rational number and the result is rounded once, to the
nearest float64. Of one dimension are units whose numerators and denominators are (``m3/h`` and
``L/min``, ``km/h`` and ``m/s``). Fractions of volume keep what stands behind the sign: ``%CH4``
and ``ppm-CH4`` are of one kind, ``%CH4`` and ``%LEL`` are not.

The one conversion that needs a declaration is that of a gas between a fraction of volume and mass
per volume. It takes the molar volume at 25 °C and 101.325 kPa, 24.45 L/mol, by which occupational
exposure limits are stated (NIOSH Manual of Analytical Methods; ACGIH TLVs): mg/m3 = ppm x M /
24.45 with M in g/mol.
"""

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Final

MOLAR_VOLUME_L: Final = Fraction("24.45")  # 25 °C, 101.325 kPa

_MILLI, _MICRO, _KILO, _MEGA = Fraction(1, 1_000), Fraction(1, 1_000_000), 1_000, 1_000_000
_SCALED: Final[dict[str, tuple[str, dict[str, Fraction | int]]]] = {
    "pressure": (
        "Pa",
        {"hPa": 100, "kPa": _KILO, "MPa": _MEGA, "mbar": 100, "bar": 100_000},  # mPa is a slip
    ),
    "length": (
        "m",
        {
            "nm": Fraction(1, 10**9), "um": _MICRO, "mm": _MILLI, "cm": Fraction(1, 100),
            "dm": Fraction(1, 10), "km": _KILO, "in": Fraction("0.0254"), "ft": Fraction("0.3048"),
        },
    ),
    "area": ("m2", {"mm2": _MICRO, "cm2": Fraction(1, 10_000), "km2": _MEGA, "ha": 10_000}),
    "volume": (
        "m3",
        {
            "L": _MILLI, "l": _MILLI, "dm3": _MILLI, "hL": Fraction(1, 10), "mL": _MICRO,
            "ml": _MICRO, "cm3": _MICRO,
        },
    ),
    "normal volume": ("Nm3", {"NL": _MILLI, "Nl": _MILLI}),
    "mass": ("kg", {"t": _KILO, "g": _MILLI, "mg": _MICRO, "ug": Fraction(1, 10**9)}),
    "time": (
        "s",
        {
            "ns": Fraction(1, 10**9), "us": _MICRO, "ms": _MILLI, "min": 60, "h": 3_600,
            "d": 86_400,
        },
    ),
    "current": ("A", {"uA": _MICRO, "mA": _MILLI, "kA": _KILO}),
    "voltage": ("V", {"uV": _MICRO, "mV": _MILLI, "kV": _KILO}),
    "power": ("W", {"mW": _MILLI, "kW": _KILO, "MW": _MEGA, "GW": 10**9}),
    "apparent power": ("VA", {"kVA": _KILO, "MVA": _MEGA}),
    "reactive power": ("var", {"kvar": _KILO, "Mvar": _MEGA}),
    "energy": (
        "J", {"kJ": _KILO, "MJ": _MEGA, "GJ": 10**9, "Wh": 3_600, "kWh": 3_600_000,
              "MWh": 3_600_000_000},
    ),
    "force": ("N", {"kN": _KILO, "MN": _MEGA}),
    "torque": ("Nm", {"kNm": _KILO}),
    "resistance": ("Ω", {"mΩ": _MILLI, "kΩ": _KILO, "MΩ": _MEGA}),
    "conductance": ("S", {"uS": _MICRO, "mS": _MILLI}),
}  # fmt: skip
_FREQUENCIES: Final = {"Hz": Fraction(1), "kHz": Fraction(1_000), "rpm": Fraction(1, 60)}
# Kelvin = (reading + offset) x factor
_TEMPERATURES: Final = {
    "K": (Fraction(1), Fraction(0)),
    "°C": (Fraction(1), Fraction("273.15")),
    "°F": (Fraction(5, 9), Fraction("459.67")),
}
_FRACTIONS: Final = {"%": Fraction(1, 100), "‰": _MILLI, "ppm": _MICRO, "ppb": Fraction(1, 10**9)}
_FRACTION: Final = re.compile(r"(%|‰|ppm|ppb)[-_.]?(.*)")
_FORMULA: Final = re.compile(r"(?:(?:Cl|Br|Si|[HCNOSFP])[0-9]*)*")  # of a gas; LEL or RH is none
_SAME: Final = str.maketrans({"²": "2", "³": "3", "µ": "u", "μ": "u", "^": None})
_SPELLINGS: Final = {"℃": "°C", "℉": "°F"}


@dataclass(frozen=True, slots=True)
class Unit:
    """A unit that is known here. Dimensions are names; base value = (value + offset) x factor."""

    above: str
    below: tuple[str, ...]
    factor: Fraction
    offset: Fraction = Fraction(0)

    def like(self, other: "Unit") -> bool:
        """Whether one converts into the other."""
        return (self.above, self.below) == (other.above, other.below)


def _table() -> dict[str, Unit]:
    known = {"1": Unit("", (), Fraction(1))}
    for dimension, (base, scaled) in _SCALED.items():
        known[base] = Unit(dimension, (), Fraction(1))
        known |= {name: Unit(dimension, (), Fraction(size)) for name, size in scaled.items()}
    known |= {name: Unit("", ("time",), size) for name, size in _FREQUENCIES.items()}
    for name, (factor, offset) in _TEMPERATURES.items():
        known[name] = Unit("temperature", (), factor, offset)
    return known


_KNOWN: Final = _table()


@lru_cache(maxsize=1024)
def unit_of(text: str) -> Unit | None:
    """The unit of that name, None where it is not known here."""
    head, *rest = map(_single, text.translate(_SAME).split("/"))
    if head is None:
        return None
    factor, below = head.factor, list(head.below)
    for unit in rest:
        if unit is None or unit.below:
            return None
        factor /= unit.factor
        below.append(unit.above)
    # Of a change per time only the size of a degree counts.
    offset = Fraction(0) if rest else head.offset
    return Unit(head.above, tuple(sorted(below)), factor, offset)


def names_like(target: str) -> list[str]:
    """The names of the other units that convert into this one."""
    unit = unit_of(target)
    if unit is None:
        return []
    return [name for name, known in _KNOWN.items() if known.like(unit) and name != target]


def has_offset(source: str, target: str) -> bool:
    """Whether a reading and a difference convert in two ways, as between K and °C."""
    a, b = unit_of(source), unit_of(target)
    return a is not None and b is not None and a.like(b) and a.offset != b.offset


def convert(value: float, source: str, target: str, *, difference: bool = False) -> float | None:
    """``value`` of one unit in another, None where they do not convert exactly."""
    a, b = unit_of(source), unit_of(target)
    if a is None or b is None or not a.like(b):
        return None
    exact = Fraction(repr(value))
    if not difference:
        exact += a.offset
    exact *= a.factor / b.factor
    return _rounded(exact if difference else exact - b.offset)


def needs_molar_mass(source: str, target: str) -> bool:
    """Whether these are a gas's fraction of volume and its mass per volume."""
    return _gas_fraction(source) != _gas_fraction(target) and (
        _mass_per_volume(source) != _mass_per_volume(target)
    )


def convert_gas(value: float, source: str, target: str, molar_mass: float) -> float | None:
    """``value`` between fraction of volume and mass per volume; ``molar_mass`` in g/mol."""
    a, b = unit_of(source), unit_of(target)
    if a is None or b is None or not needs_molar_mass(source, target):
        return None
    # One whole volume of the gas weighs M / 24.45 grams a litre, which is kg/m3.
    density = Fraction(repr(molar_mass)) / MOLAR_VOLUME_L
    base = Fraction(repr(value)) * a.factor
    return _rounded((base * density if _gas_fraction(source) else base / density) / b.factor)


def number_text(value: float) -> str:
    """A number as short as it can be and still be the same number."""
    text = repr(value)
    return text.removesuffix(".0")


def _single(text: str) -> Unit | None:
    fraction = _FRACTION.fullmatch(text)
    if fraction:
        return Unit(f"fraction {fraction[2]}", (), _FRACTIONS[fraction[1]])
    return _KNOWN.get(_SPELLINGS.get(text, text))


def _gas_fraction(text: str) -> bool:
    fraction = _FRACTION.fullmatch(text)
    return fraction is not None and _FORMULA.fullmatch(fraction[2]) is not None


def _mass_per_volume(text: str) -> bool:
    unit = unit_of(text)
    return unit is not None and (unit.above, unit.below) == ("mass", ("volume",))


def _rounded(exact: Fraction) -> float | None:
    try:
        return float(exact)
    except OverflowError:
        return None
