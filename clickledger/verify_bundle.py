"""Verify what `clickledger audit prove` or `audit continue` wrote: `python verify_bundle.py FILE --key VERIFIERKEY`.

Needs nothing but Python's standard library and this file, shares no code with the ledger, and believes nothing but the
keys that are given. Everything a bundle says is derived again from bytes under a signed Merkle root:

    checkpoint  signed note: origin, number of entries, root           Ed25519, RFC 8032; c2sp.org/tlog-checkpoint
    entries     each hashes to a leaf, its path leads to the root      RFC 6962
    click       its row is a leaf of its entry, at its line
    runs        each decision is a leaf of a chunk, the chunks give the digest that staging recorded
    statement   follows from the rows and the publications and reverts in the bundle

or, from a checkpoint that was held to a newer one, that the log only grew.

One file on purpose: an auditor reads it, copies it and runs it elsewhere.

Exit codes: 0 everything holds; 1 something does not, named in one line; 2 there is nothing to verify, or the command
line is wrong. What a bundle cannot prove is printed as well.
"""

from __future__ import annotations

import argparse
import base64
import binascii
import hashlib
import json
import math
import struct
import sys
import uuid
from pathlib import Path
from typing import Any, NamedTuple

FORMAT = "clickledger:proof-bundle:1"
CONSISTENCY_FORMAT = "clickledger:consistency-proof:1"
KEY_FORMAT = "clickledger:checkpoint-key:1"
DECISION = (
    "click_id:uuid cost_micros:int8 deployment_epoch:int4 model_version:int4 calibration_version:int4 score:float4 "
    "threshold:float4 carried:bool advertiser_id:text campaign_id:text currency:text slice:text verdict:text "
    "reason:text"
)
CLICK = (
    "click_id:uuid user_key:uuid session_key:uuid ip_key:uuid cost_micros:int8 seq:int8 intake_digest:bytes "
    "feature_schema:int4 counter_epoch:int4 source:text external_id:text device:text device_kind:text "
    "advertiser_id:text campaign_id:text currency:text logged_in:bool slice:text features:bytes"
)
DELAYED = "run_id:int8 log_position:int8 line:int4 " + DECISION
SIGNED_FIELDS = ("click_id", "advertiser_id", "campaign_id", "currency", "cost_micros", "slice")
DECIDED_FIELDS = ("verdict", "reason", "model_version", "calibration_version", "score", "threshold", "carried")

Json = dict[str, Any]


class Refused(Exception):
    """Something in the bundle does not hold; the message names it."""


class BadKey(Exception):
    """A verifier key that was given is none."""


class Key(NamedTuple):
    """A verifier key: its name, its four-byte id, its 32 public bytes."""

    name: str
    key_id: bytes
    public: bytes


class Verified(NamedTuple):
    """What a bundle proves: the statement, and by which ledger and key."""

    statement: Json
    origin: str
    signer: Key
    attested: bool


class Continued(NamedTuple):
    """Two checkpoints of a ledger, of which the newer one begins with the older one's entries."""

    origin: str
    old: int
    new: int


def verify(text: str, keys: list[Key], follow_rotations: bool = False) -> Verified:
    """Verify a bundle with the given keys. Raises Refused naming what does not hold."""
    try:
        return _verify(text, keys, follow_rotations)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError, struct.error) as error:
        raise Refused(f"bundle: it is not of the form that {FORMAT} has: {error!r}") from error


def verify_consistency(text: str, keys: list[Key]) -> Continued:
    """Verify that one checkpoint continues another. Raises Refused naming what does not hold."""
    try:
        bundle = _canonical(text)
        _exactly(bundle, "format origin old new proof", "proof")
        notes = [_own(_text(bundle, side), keys, f"{side} checkpoint")[0] for side in ("old", "new")]
        sides = [_checkpoint(note) for note in notes]
        path = [_hex({"proof": part}, "proof", 32) for part in _list(bundle, "proof")]
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise Refused(f"proof: it is not of the form that {CONSISTENCY_FORMAT} has: {error!r}") from error
    (origin, old, old_root), (other, new, new_root) = sides
    if bundle["format"] != CONSISTENCY_FORMAT or not origin == other == bundle["origin"]:
        raise Refused(f"proof: expected {CONSISTENCY_FORMAT} of one ledger, got {origin} and {other}")
    if not _continues(old, new, path, old_root, new_root):
        raise Refused(f"proof: the log of {new} entries does not begin with the {old} that were signed")
    return Continued(origin, old, new)


def _verify(text: str, keys: list[Key], follow_rotations: bool) -> Verified:
    bundle = _canonical(text)
    _exactly(bundle, "format origin checkpoint click runs entries statement attestation", "bundle")
    if bundle["format"] != FORMAT:
        raise Refused(f"format: expected {FORMAT}, got {bundle['format']}")
    entries = [_entry(item) for item in _list(bundle, "entries")]
    trusted = _followed(entries, keys) if follow_rotations else keys
    note, signer = _own(_text(bundle, "checkpoint"), trusted, "checkpoint")
    origin, size, root = _checkpoint(note)
    if origin != bundle["origin"]:
        raise Refused(f"origin: expected {origin} as in the checkpoint, got {bundle['origin']}")
    log = _log(entries, size, root)
    _check_signer(log, signer)
    click = _click(bundle["click"], log)
    runs = [_run(item, click, log) for item in _list(bundle, "runs")]
    statement = _statement(click, runs, log, size)
    _check_statement(bundle["statement"], statement)
    return Verified(statement, origin, signer, _attested(bundle, origin, size, signer))


# --- what the log says -----------------------------------------------------------------------------------------------


def _entry(item: Any) -> Json:
    names = "position kind recorded_at_ms actor reason payload row_count content_digest previous path"
    _exactly(item, names, "entry")
    entry: Json = {name: _text(item, name) for name in ("kind", "actor", "reason", "payload")}
    entry |= {name: _int(item, name) for name in ("position", "recorded_at_ms", "row_count")}
    entry |= {name: _hex(item, name, 32) for name in ("content_digest", "previous")}
    entry["path"] = [_hex({"path": part}, "path", 32) for part in _list(item, "path")]
    return entry


def _log(entries: list[Json], size: int, root: bytes) -> dict[int, Json]:
    """The entries by position, each of them under the root."""
    positions = [entry["position"] for entry in entries]
    if positions != sorted(set(positions)):
        raise Refused("entries: expected each once and in order")
    for entry in entries:
        hashed = hashlib.sha256(
            b"clickledger:entry:1"
            + struct.pack(">q", entry["position"])
            + _prefixed(entry["kind"])
            + struct.pack(">q", entry["recorded_at_ms"])
            + b"".join(_prefixed(entry[name]) for name in ("actor", "reason", "payload"))
            + struct.pack(">q", entry["row_count"])
            + _prefixed(entry["content_digest"])
            + entry["previous"]
        ).digest()
        leaf = hashlib.sha256(b"\x00clickledger:entry-leaf:1" + hashed).digest()
        if not _included(leaf, entry["position"] - 1, size, entry["path"], root):
            raise Refused(f"entry {entry['position']}: it does not lead to the root of the checkpoint over {size}")
    return dict(zip(positions, entries, strict=True))


def _included(leaf: bytes, at: int, size: int, path: list[bytes], root: bytes) -> bool:
    """RFC 9162, 2.1.3.2."""
    last, found = size - 1, leaf
    if not 0 <= at <= last:
        return False
    for sibling in path:
        if last == 0:
            return False
        if at % 2 or at == last:
            found = hashlib.sha256(b"\x01" + sibling + found).digest()
            while at and not at % 2:
                at, last = at // 2, last // 2
        else:
            found = hashlib.sha256(b"\x01" + found + sibling).digest()
        at, last = at // 2, last // 2
    return last == 0 and found == root


def _continues(old: int, new: int, path: list[bytes], old_root: bytes, new_root: bytes) -> bool:
    """RFC 9162, 2.1.4.2."""
    if not 0 < old < new:
        return old == new and not path and old_root == new_root
    hashes = [old_root, *path] if old & (old - 1) == 0 else path
    at, last = old - 1, new - 1
    while at % 2:
        at, last = at // 2, last // 2
    found_old = found_new = hashes[0] if hashes else b""
    for sibling in hashes[1:]:
        if last == 0:
            return False
        if at % 2 or at == last:
            found_old = hashlib.sha256(b"\x01" + sibling + found_old).digest()
            found_new = hashlib.sha256(b"\x01" + sibling + found_new).digest()
            while at and not at % 2:
                at, last = at // 2, last // 2
        else:
            found_new = hashlib.sha256(b"\x01" + found_new + sibling).digest()
        at, last = at // 2, last // 2
    return last == 0 and (found_old, found_new) == (old_root, new_root)


def _said(log: dict[int, Json], position: Any, kinds: str, what: str) -> Json:
    """The payload of the entry that `what` needs."""
    entry = log.get(position) if isinstance(position, int) else None
    if entry is None or entry["kind"] not in kinds.split():
        raise Refused(f"{what}: expected an entry of kind {kinds} at position {position} in the bundle, got none")
    return _payload(entry)


def _payload(entry: Json) -> Json:
    payload = json.loads(entry["payload"])
    if not isinstance(payload, dict):
        raise Refused(f"entry {entry['position']}: expected a payload with fields")
    return payload


def _all_of(log: dict[int, Json], kinds: str) -> list[tuple[int, Json]]:
    return [(position, _payload(entry)) for position, entry in log.items() if entry["kind"] in kinds.split()]


# --- the click, its runs, and what follows ---------------------------------------------------------------------------


def _click(item: Any, log: dict[int, Json]) -> Json:
    """The click's fields and those of its live decision, under its entry."""
    _exactly(item, "position line leaves click decision", "click")
    position, line, leaves = _int(item, "position"), _int(item, "line"), _hex(item, "leaves")
    _said(log, position, "clicks_decided", "click")
    entry = log[position]
    if hashlib.sha256(leaves).digest() != entry["content_digest"] or len(leaves) != 32 * entry["row_count"]:
        raise Refused(f"click: its leaves are not those of entry {position}")
    click, click_bytes = _row(item, "click", CLICK)
    decision, decision_bytes = _row(item, "decision", DECISION)
    leaf = hashlib.sha256(b"\x00clickledger:decided-click:1" + click_bytes + decision_bytes).digest()
    if line < 0 or leaves[32 * line : 32 * line + 32] != leaf:
        raise Refused(f"click: its row is not the one at line {line} of entry {position}")
    _check_versions(decision, log, "live decision")
    return {"click": click, "decision": decision, "position": position, "line": line, "entry": entry}


def _run(item: Any, click: Json, log: dict[int, Json]) -> Json:
    """A staged run's decision on the click, under the digest that staging recorded."""
    _exactly(item, "run_id staged chunks chunk leaves decision", "run")
    run_id, number, leaves = _int(item, "run_id"), _int(item, "chunk"), _hex(item, "leaves")
    what = f"run {run_id}"
    decision, row = _row(item, "decision", DELAYED)
    chunks = [_chunk(part) for part in _list(item, "chunks")]
    total = hashlib.sha256(b"clickledger:run:1")
    for lo, hi, rows, digest in chunks:
        total.update(struct.pack(">qqq", lo, hi, rows) + _prefixed(digest))
    staged = _said(log, item["staged"], "replay_staged", what)
    if (staged.get("run_id"), staged.get("content_digest")) != (run_id, total.hexdigest()):
        raise Refused(f"{what}: its chunks do not give the digest recorded at position {item['staged']}")
    if not 0 <= number < len(chunks) or hashlib.sha256(leaves).digest() != chunks[number][3]:
        raise Refused(f"{what}: its leaves are not those of chunk {number}")
    leaf = hashlib.sha256(b"\x00clickledger:delayed-decision:1" + row).digest()
    if leaf not in {leaves[i : i + 32] for i in range(0, len(leaves), 32)}:
        raise Refused(f"{what}: its decision is not in chunk {number}")
    where = decision["run_id"], decision["log_position"], decision["line"], decision["click_id"]
    if where != (run_id, click["position"], click["line"], click["click"]["click_id"]):
        raise Refused(f"{what}: expected its decision on the click at line {click['line']}, got one on another")
    planned = _said(log, run_id, "replay_planned", what)
    if not _covers(planned.get("positions"), click["position"]):
        raise Refused(f"{what}: its plan does not cover entry {click['position']}")
    _check_versions(decision, log, what)
    return {"run_id": run_id, "decision": decision}


def _chunk(part: Any) -> tuple[int, int, int, bytes]:
    _exactly(part, "lo hi row_count digest", "chunk")
    return _int(part, "lo"), _int(part, "hi"), _int(part, "row_count"), _hex(part, "digest", 32)


def _check_versions(decision: Json, log: dict[int, Json], what: str) -> None:
    """Deployment, model and calibration of a decision were recorded: the bundle has their entries."""
    deployed = ("epoch", "deployment_changed rollback_declared")
    needs = {"deployment_epoch": deployed if decision["deployment_epoch"] else ("deployment_epoch", "ledger_created")}
    versions = {"model_version": "model_registered", "calibration_version": "calibration_set"}
    needs |= {name: (name, kind) for name, kind in versions.items() if decision[name]}  # 0: decided without
    for name, (field, kinds) in needs.items():
        if not any(_dump(said.get(field)) == _dump(decision[name]) for _, said in _all_of(log, kinds)):
            raise Refused(f"{what}: expected the entry that recorded {name} {decision[name]}, got none")


def _statement(click: Json, runs: list[Json], log: dict[int, Json], size: int) -> Json:
    """What is in force for the click after `size` entries, by the publications and reverts in the bundle."""
    at, live = click["position"], click["decision"]
    reverted = {said.get("publication") for _, said in _all_of(log, "replay_reverted")}
    above = [
        (position, said.get("run_id"))
        for position, said in _all_of(log, "replay_published")
        if position not in reverted and _covers(said.get("positions"), at)
    ]
    publication, run_id = max(above, default=(None, None))
    by_run = {run["run_id"]: run["decision"] for run in runs}
    if run_id is not None and run_id not in by_run:
        raise Refused(f"statement: run {run_id}, published at {publication}, is in force, its decision is missing")
    decision = live if run_id is None else by_run[run_id]
    for name in SIGNED_FIELDS:
        if not click["click"][name] == live[name] == decision[name]:
            raise Refused(f"statement: click and decisions differ in {name}")
    return {
        "as_of": size,
        "log_position": at,
        "line": click["line"],
        "recorded_at_ms": click["entry"]["recorded_at_ms"],
        "event_time_ms": uuid.UUID(live["click_id"]).int >> 80,
        "run_id": run_id,
        "publication": publication,
        "billed_micros": decision["cost_micros"] if decision["verdict"] == "valid" else 0,
        **{name: decision[name] for name in (*SIGNED_FIELDS, *DECIDED_FIELDS)},
    }


def _check_statement(said: Any, proven: Json) -> None:
    _exactly(said, " ".join(proven), "statement")
    for name, value in proven.items():
        if _dump(said[name]) != _dump(value):
            raise Refused(f"statement: {name}: expected {value!r} by what is proven, got {said[name]!r}")


def _covers(positions: Any, at: int) -> bool:
    if not isinstance(positions, list) or len(positions) != 2 or not all(isinstance(p, int) for p in positions):
        raise Refused(f"statement: expected a publication of a range, got {positions!r}")
    return bool(positions[0] <= at < positions[1])


# --- rows ------------------------------------------------------------------------------------------------------------


def _row(item: Json, name: str, columns: str) -> tuple[Json, bytes]:
    """The fields of a row by its canonical bytes, which must be what the bundle shows; and those bytes."""
    _exactly(item[name], "bytes fields", name)
    raw, fields, at = _hex(item[name], "bytes"), {}, 0
    for column in columns.split():
        field, _, form = column.partition(":")
        (length,) = struct.unpack_from(">i", raw, at)
        value, at = raw[at + 4 : at + 4 + max(length, 0)], at + 4 + max(length, 0)
        fields[field] = None if length == -1 else _value(value, form, f"{name}: {field}")
    if at != len(raw):
        raise Refused(f"{name}: expected {at} bytes, got {len(raw)}")
    if _dump(item[name]["fields"]) != _dump(fields):
        raise Refused(f"{name}: its fields are not what its bytes say")
    return fields, raw


def _value(raw: bytes, form: str, what: str) -> Any:
    """PostgreSQL's binary form of one value as JSON: ids and bytes in hex, a float that is no number by its name."""
    widths = {"uuid": 16, "int4": 4, "int8": 8, "float4": 4, "bool": 1}
    if len(raw) != widths.get(form, len(raw)):
        raise Refused(f"{what}: expected {widths[form]} bytes, got {len(raw)}")
    match form:
        case "uuid":
            return str(uuid.UUID(bytes=raw))
        case "int4" | "int8":
            return int.from_bytes(raw, signed=True)
        case "float4":
            number = struct.unpack(">f", raw)[0]
            return number if math.isfinite(number) else str(number)
        case "bool":
            return raw != b"\x00"
        case "bytes":
            return raw.hex()
    return raw.decode()


# --- signatures ------------------------------------------------------------------------------------------------------


def key(text: str) -> Key:
    """A verifier key, `name+id+base64`. Raises BadKey."""
    name, _, rest = text.partition("+")
    key_id, _, encoded = rest.partition("+")
    raw = _base64(encoded)
    if raw is None or raw[:1] != b"\x01" or len(raw) != 33 or not name:
        raise BadKey(f"expected a verifier key NAME+ID+KEY of Ed25519, got {text!r}")
    expected = hashlib.sha256(name.encode() + b"\n" + raw).digest()[:4]
    if key_id != expected.hex():
        raise BadKey(f"verifier key of {name}: expected id {expected.hex()}, got {key_id}")
    return Key(name, expected, raw[1:])


def _open(note: str, keys: list[Key], what: str) -> tuple[str, Key]:
    """Text and signer of a note that one of the keys signed."""
    text, blank, lines = note.rpartition("\n\n")
    if not blank or not lines.endswith("\n"):
        raise Refused(f"{what}: expected text, a blank line and signatures")
    signers, by = [], []
    for line in lines[:-1].split("\n"):
        dash, name, encoded = (*line.split(" "), "", "", "")[:3]
        raw = _base64(encoded)
        if dash != "—" or raw is None or len(raw) != 68 or line.count(" ") != 2:
            raise Refused(f"{what}: expected a signature line, got {line!r}")
        signers.append(f"{name}+{raw[:4].hex()}")
        for known in keys:
            if (known.name, known.key_id) == (name, raw[:4]):
                if not _signed(known.public, (text + "\n").encode(), raw[4:]):
                    raise Refused(f"{what}: the signature of {signers[-1]} does not hold")
                by.append(known)
    if not by:
        raise Refused(f"{what}: expected the signature of a given key, got that of {', '.join(signers)}")
    return text + "\n", by[0]


def _own(note: str, keys: list[Key], what: str) -> tuple[str, Key]:
    """Text and signer of a checkpoint, by a key of the ledger it is of, whose name it has."""
    origin = note.partition("\n")[0]
    return _open(note, [known for known in keys if known.name == origin], what)


def _checkpoint(text: str) -> tuple[str, int, bytes]:
    lines = text.split("\n")
    root = _base64(lines[2]) if len(lines) == 4 else None
    if root is None or len(root) != 32 or not lines[1].isdecimal() or lines[1] != str(int(lines[1])):
        raise Refused(f"checkpoint: expected origin, size and root, got {text!r}")
    return lines[0], int(lines[1]), root


def _followed(entries: list[Json], keys: list[Key]) -> list[Key]:
    """The given keys, and those that one of them named as its successor, in log order."""
    trusted = list(keys)
    for entry in entries:
        if entry["kind"] == "checkpoint_key_rotated":
            try:
                text, by = _open(_text(_payload(entry), "statement"), trusted, f"key entry {entry['position']}")
            except Refused:
                continue  # not by a key that is trusted; the checkpoint's own signature decides
            lines = text.split("\n")
            if lines[0] == KEY_FORMAT and lines[1] == by.name and (following := _key_in(lines[2])).name == by.name:
                trusted.append(following)
    return trusted


def _check_signer(log: dict[int, Json], signer: Key) -> None:
    """The key in force, by the key entries in the bundle, is the one that signed."""
    for _, said in _all_of(log, "checkpoint_key_set checkpoint_key_rotated")[-1:]:
        if (expected := _key_in(_text(said, "verifier_key"))) != signer:
            raise Refused(f"checkpoint: expected it signed by {expected.name}+{expected.key_id.hex()}, then in force")


def _key_in(text: str) -> Key:
    try:
        return key(text)
    except BadKey as error:
        raise Refused(str(error)) from error


def _attested(bundle: Json, origin: str, size: int, signer: Key) -> bool:
    """Whether the ledger's key also signed the bundle as a whole; a signature that is there must hold."""
    if bundle["attestation"] is None:
        return False
    body = _dump({name: value for name, value in bundle.items() if name != "attestation"})
    digest = base64.b64encode(hashlib.sha256(body.encode()).digest()).decode()
    text, _ = _open(_text(bundle, "attestation"), [signer], "attestation")
    if text != f"{FORMAT}\n{origin}\n{size}\n{digest}\n":
        raise Refused("attestation: it is not of this bundle")
    return True


# --- Ed25519 (RFC 8032, 5.1): verification only, which has no secrets to leak -----------------------------------------

_P = 2**255 - 19
_L = 2**252 + 27742317777372353535851937790883648493
_D = -121665 * pow(121666, -1, _P) % _P
_ROOT = pow(2, (_P - 1) // 4, _P)

Point = tuple[int, int, int, int]  # extended coordinates X, Y, Z, T: x = X / Z, y = Y / Z, x * y = T / Z


def _signed(public: bytes, message: bytes, signature: bytes) -> bool:
    """Whether `signature` (64 bytes) is that of the key over the message."""
    a, r, s = _point(public), _point(signature[:32]), int.from_bytes(signature[32:], "little")
    if a is None or r is None or s >= _L:
        return False
    k = int.from_bytes(hashlib.sha512(signature[:32] + public + message).digest(), "little") % _L
    left, right = _times(s, _BASE), _add(r, _times(k, a))
    same_x = (left[0] * right[2] - right[0] * left[2]) % _P == 0
    return same_x and (left[1] * right[2] - right[1] * left[2]) % _P == 0


def _point(raw: bytes) -> Point | None:
    """A point from its 32 bytes, None when they are not the one encoding of one."""
    number = int.from_bytes(raw, "little")
    sign, y = number >> 255, number & ((1 << 255) - 1)
    if len(raw) != 32 or y >= _P:
        return None
    squared = (y * y - 1) * pow(_D * y * y + 1, -1, _P) % _P
    x = pow(squared, (_P + 3) // 8, _P)
    if (x * x - squared) % _P:
        x = x * _ROOT % _P
    if (x * x - squared) % _P or (x == 0 and sign):
        return None
    x = _P - x if x % 2 != sign else x
    return x, y, 1, x * y % _P


def _add(p: Point, q: Point) -> Point:
    a, b = (p[1] - p[0]) * (q[1] - q[0]) % _P, (p[1] + p[0]) * (q[1] + q[0]) % _P
    c, d = 2 * p[3] * q[3] * _D % _P, 2 * p[2] * q[2] % _P
    e, f, g, h = b - a, d - c, d + c, b + a
    return e * f % _P, g * h % _P, f * g % _P, e * h % _P


def _times(scalar: int, point: Point) -> Point:
    total: Point = (0, 1, 1, 0)
    while scalar:
        if scalar & 1:
            total = _add(total, point)
        point, scalar = _add(point, point), scalar >> 1
    return total


_BASE = _point((4 * pow(5, -1, _P) % _P).to_bytes(32, "little")) or (0, 1, 1, 0)


# --- the bundle's JSON: one spelling only ----------------------------------------------------------------------------


def _canonical(text: str) -> Json:
    """The bundle, whose text must be the one spelling of it: every byte of the file counts."""
    try:
        bundle = json.loads(text)
        same = _dump(bundle) + "\n" == text
    except (ValueError, RecursionError) as error:
        raise Refused(f"bundle: expected JSON, got: {error}") from error
    if not same or not isinstance(bundle, dict):
        raise Refused("bundle: expected sorted keys, no spaces and one line break at the end: its text was changed")
    return bundle


def _dump(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def _exactly(item: Any, names: str, what: str) -> None:
    if not isinstance(item, dict) or set(item) != set(names.split()):
        got = ", ".join(sorted(item)) if isinstance(item, dict) else type(item).__name__
        raise Refused(f"{what}: expected the fields {', '.join(names.split())}, got {got}")


def _text(item: Json, name: str) -> str:
    if not isinstance(item.get(name), str):
        raise Refused(f"{name}: expected text, got {item.get(name)!r}")
    return str(item[name])


def _int(item: Json, name: str) -> int:
    value = item[name]
    if not isinstance(value, int) or isinstance(value, bool) or not -(2**63) <= value < 2**63:
        raise Refused(f"{name}: expected a whole number of 64 bits, got {value!r}")
    return value


def _list(item: Json, name: str) -> list[Any]:
    if not isinstance(item[name], list):
        raise Refused(f"{name}: expected a list, got {item[name]!r}")
    return list(item[name])


def _hex(item: Json, name: str, length: int | None = None) -> bytes:
    text = _text(item, name)
    try:
        raw = bytes.fromhex(text)
    except ValueError:
        raw = b""
    if raw.hex() != text or (length is not None and len(raw) != length):
        raise Refused(f"{name}: expected {length or 'an even number of'} bytes in lower case hex, got {text[:80]!r}")
    return raw


def _base64(text: str) -> bytes | None:
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    return raw if base64.b64encode(raw).decode() == text else None


def _prefixed(value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack(">i", len(raw)) + raw


# --- command line ----------------------------------------------------------------------------------------------------


def main(words: list[str] | None = None) -> int:
    """Verify a file; the exit code."""
    parser = argparse.ArgumentParser(prog="verify_bundle", description="Verify a proof of clickledger, offline.")
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--key", action="append", required=True, help="a verifier key that you trust; repeatable")
    parser.add_argument("--follow-rotations", action="store_true", help="also trust keys that a trusted one named")
    parser.add_argument("--complete", action="store_true", help="refuse what the ledger did not sign as complete")
    parser.add_argument("--json", action="store_true", help="print the statement as JSON on stdout")
    asked = parser.parse_args(words)
    try:
        keys = [key(text) for text in asked.key]
        raw = asked.bundle.read_bytes()
    except BadKey as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: bundle: expected a file to read, got {asked.bundle}: {error.strerror}", file=sys.stderr)
        return 2
    try:
        told = _told(raw.decode(), keys, asked)
    except (Refused, UnicodeDecodeError) as error:
        print(_printable(f"REFUSED {asked.bundle}: {error}"), file=sys.stderr)
        return 1
    if asked.json:
        print(json.dumps({"ok": True, **told}, sort_keys=True))  # ASCII: a file or pipe may know no other letters
    return 0


def _told(text: str, keys: list[Key], asked: argparse.Namespace) -> Json:
    """Verify either kind of file and say what it proves; the same as JSON fields."""
    if _canonical(text).get("format") == CONSISTENCY_FORMAT:
        grown = verify_consistency(text, keys)
        print(
            f"ok: the {grown.new} entries of {grown.origin} begin with the {grown.old} signed before", file=sys.stderr
        )
        return grown._asdict()
    verified = verify(text, keys, asked.follow_rotations)
    if asked.complete and not verified.attested:
        raise Refused("attestation: expected the ledger's signature under the whole bundle, got none")
    _show(verified)
    told = {"attested": verified.attested, "origin": verified.origin, "signer": _named(verified.signer)}
    return {**told, **verified.statement}


def _show(verified: Verified) -> None:
    said = verified.statement
    by = "live" if said["run_id"] is None else f"run {said['run_id']}, published at entry {said['publication']}"
    lines = [
        f"ok: click {said['click_id']} is {said['verdict']} ({by}) as of entry {said['as_of']} of {verified.origin}",
        f"billed: {said['billed_micros'] / 1e6:.6f} {said['currency']} to advertiser {said['advertiser_id']}",
        f"signed by {_named(verified.signer)}",
        "not proven: that the sender's fields are true, or that no publication or revert was left out; "
        + ("the ledger's key signed this bundle as complete" if verified.attested else "nobody signed it as complete"),
    ]
    print("\n".join(map(_printable, lines)), file=sys.stderr)


def _named(signer: Key) -> str:
    return f"{signer.name}+{signer.key_id.hex()}"


def _printable(line: str) -> str:
    """A line in which what a sender wrote can neither begin another one nor move the cursor over this one."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)


if __name__ == "__main__":
    sys.exit(main())
