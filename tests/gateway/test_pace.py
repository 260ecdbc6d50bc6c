"""Bytes a day: by the last day alone, and nothing said of less than a minute."""

from gateway.store.pace import DAY_S, READINGS_MAX, Pace


def test_the_pace_of_the_last_day() -> None:
    pace = Pace()
    assert pace.per_day(5.0, 10) is None
    for second in range(0, 3 * int(DAY_S), 30):
        written = 1_000_000 + 2 * second if second < DAY_S else 3_000_000 + 5 * second
        pace.look(float(second), written)
        if second == 30:
            assert pace.per_day(59.0, written) is None
        if second == 60:
            assert pace.per_day(60.0, written) == 2 * DAY_S
    assert pace.per_day(3 * DAY_S, 3_000_000 + 15 * int(DAY_S)) == 5 * DAY_S
    assert len(pace._readings) == READINGS_MAX
