# Reads an iCalendar from standard input with the library icalendar and prints what
# it finds as JSON. Ends with an error where RFC 5545 is broken.
import json
import sys

from icalendar import Calendar

raw = sys.stdin.buffer.read()
for line in raw.split(b"\r\n"):
    assert len(line) <= 75, line
    assert b"\n" not in line and b"\r" not in line, line
assert raw.endswith(b"\r\n")
calendar = Calendar.from_ical(raw)
assert calendar["VERSION"] == "2.0" and calendar["PRODID"]
out = []
for c in calendar.subcomponents:
    assert not c.errors, c.errors
    assert c["DTSTAMP"].dt.tzinfo is not None  # UTC, section 3.8.7.2
    day = c["DTSTART" if c.name == "VEVENT" else "DUE"]
    assert day.params["VALUE"] == "DATE", day.params
    out.append({"kind": c.name, "uid": c["UID"], "day": day.dt.isoformat(), "summary": c["SUMMARY"], "description": c["DESCRIPTION"]})
assert len({c["uid"] for c in out}) == len(out), "two entries have one UID"
json.dump(out, sys.stdout)
