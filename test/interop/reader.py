"""Reads a signed document with cbor2, an implementation of CBOR that shares no
code with ours, and writes what the signature covers: FILE.tbs and FILE.sig.

Usage: reader.py FILE EXTERNAL_AAD
Prints one JSON object: alg, kid, typ, and the payload with text keys.
"""
import json
import sys

import cbor2


def plain(v):
    if isinstance(v, dict):
        return {str(k): plain(x) for k, x in v.items()}
    if isinstance(v, (list, tuple)):
        return [plain(x) for x in v]
    if isinstance(v, bytes):
        return v.hex()
    return v


def floats(v):
    if isinstance(v, float):
        return True
    if isinstance(v, dict):
        return any(floats(k) or floats(x) for k, x in v.items())
    if isinstance(v, (list, tuple)):
        return any(floats(x) for x in v)
    return False


def main():
    path, aad = sys.argv[1], sys.argv[2].encode()
    with open(path, "rb") as f:
        data = f.read()
    doc = cbor2.loads(data)
    if cbor2.dumps(doc, canonical=True) != data:
        sys.exit("the document is not encoded canonically")
    if doc.tag == 61:
        doc = doc.value
    if doc.tag != 18:
        sys.exit(f"tag {doc.tag} is not COSE_Sign1")
    protected, unprotected, payload, signature = doc.value
    if unprotected:
        sys.exit("the unprotected header is not empty")
    head, claims = cbor2.loads(protected), cbor2.loads(payload)
    if cbor2.dumps(claims, canonical=True) != payload:
        sys.exit("the payload is not encoded canonically")
    if floats(claims):
        sys.exit("the payload has a float")
    with open(path + ".tbs", "wb") as f:
        f.write(cbor2.dumps(["Signature1", protected, aad, payload], canonical=True))
    with open(path + ".sig", "wb") as f:
        f.write(signature)
    json.dump({"alg": head[1], "kid": head[4].hex(), "typ": head[16], "payload": plain(claims)}, sys.stdout)


main()
