"""Reads a CoRIM with cbor2 and holds it against draft-ietf-rats-corim: each map has
the keys that its definition there has, of their types, and those that it must have.
Only what occurs here is written down; anything else is refused.

Usage: corim.py FILE
Prints one JSON object: the measurements by CoMID and key.
"""
import json
import sys

import cbor2


def fail(where, what):
    sys.exit(f"{where}: {what}")


def typed(*kinds):
    def check(where, v):
        if isinstance(v, bool) or not isinstance(v, kinds):
            fail(where, f"{v!r} is none of {kinds}")
        return v
    return check


text, data, number = typed(str), typed(bytes), typed(int)


def uint(where, v):
    if number(where, v) < 0:
        fail(where, f"{v} is negative")
    return v


def nonempty(check):
    def run(where, v):
        if not v:
            fail(where, "empty")
        return check(where, v)
    return run


def tag(n, check):
    def run(where, v):
        if not isinstance(v, cbor2.CBORTag) or v.tag != n:
            fail(where, f"{v!r} is not tag {n}")
        return check(where, v.value)
    return run


def array(check, least=1):
    def run(where, v):
        typed(list)(where, v)
        if len(v) < least:
            fail(where, f"{len(v)} items")
        return [check(f"{where}[{i}]", x) for i, x in enumerate(v)]
    return run


def group(*checks):
    def run(where, v):
        typed(list)(where, v)
        if len(v) != len(checks):
            fail(where, f"{len(v)} items, want {len(checks)}")
        return [c(f"{where}[{i}]", x) for i, (c, x) in enumerate(zip(checks, v))]
    return run


def table(must, may):
    def run(where, v):
        typed(dict)(where, v)
        for k in must:
            if k not in v:
                fail(where, f"no key {k}")
        out = {}
        for k, x in v.items():
            check = must.get(k) or may.get(k)
            if check is None:
                fail(where, f"key {k!r}")
            out[k] = check(f"{where}.{k}", x)
        return out
    return run


def within(check):
    def run(where, v):
        return check(where, cbor2.loads(data(where, v)))
    return run


def either(*checks):
    def run(where, v):
        if isinstance(v, cbor2.CBORTag):
            return checks[-1](where, v)
        return checks[0](where, v)
    return run


def bound(where, v):
    return v if v is None else number(where, v)


def roles(*allowed):
    def run(where, v):
        for r in array(uint)(where, v):
            if r not in allowed:
                fail(where, f"role {r}")
        return v
    return run


def entities(*allowed):
    return array(table({0: text, 2: roles(*allowed)}, {1: text}))


def digests(where, v):
    size = {1: 32, 7: 48, 8: 64}
    for algorithm, value in array(group(uint, data))(where, v):
        if size.get(algorithm) != len(value):
            fail(where, f"algorithm {algorithm} with {len(value)} bytes")
    return v


values = nonempty(table({}, {0: table({0: text}, {}), 2: digests, 4: tag(560, data), 11: text, 15: either(number, tag(564, group(bound, bound)))}))
environment = nonempty(table({}, {0: nonempty(table({}, {1: text, 2: text, 3: uint, 4: uint}))}))
measurement = table({1: values}, {0: text})
triple = group(environment, array(measurement))
comid = table({1: table({0: text}, {1: uint}), 4: nonempty(table({}, {0: array(triple)}))}, {0: text, 2: entities(0, 1, 2)})


def moment(where, v):
    # cbor2 has taken tag 1 for us.
    if not hasattr(v, "timestamp"):
        fail(where, f"{v!r} is not tag 1")
    return v


corim = tag(501, table({0: text, 1: array(tag(506, within(comid)))}, {4: table({1: moment}, {0: moment}), 5: entities(1, 2)}))


def plain(v):
    if isinstance(v, cbor2.CBORTag):
        return plain(v.value)
    if isinstance(v, dict):
        return {str(k): plain(x) for k, x in v.items()}
    if isinstance(v, (list, tuple)):
        return [plain(x) for x in v]
    if isinstance(v, bytes):
        return v.hex()
    return v


def main():
    with open(sys.argv[1], "rb") as f:
        raw = f.read()
    doc = cbor2.loads(raw)
    top = corim("corim", doc)
    out = {}
    for t in top[1]:
        if cbor2.dumps(cbor2.loads(cbor2.dumps(t)), canonical=True) != cbor2.dumps(t, canonical=True):
            fail("corim", "a CoMID is not encoded canonically")
        name = t[1][0]
        for (env, list_) in t[4][0]:
            for m in list_:
                out.setdefault(name, []).append([env[0].get(4, 0), m[0], plain(m[1])])
    json.dump({"id": top[0], "comids": out, "until": int(top[4][1].timestamp())}, sys.stdout)


main()
