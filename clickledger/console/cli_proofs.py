"""`clickledger audit prove`, `audit checkpoint` and `audit key`: what others can hold the ledger to."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from clickledger import errors, verify_bundle
from clickledger.console import cli_audit, output, proofs
from clickledger.console.acting import ActorOption, person
from clickledger.console.cli_services import HomeOption, JsonOption
from clickledger.console.recovery_words import attached, connected, ledger
from clickledger.ledger import (
    checkpoint_key_file,
    checkpoint_keys,
    checkpoints,
    database,
    log,
    merkle_tiles,
    proof_bundle,
    provenance,
    signed_note,
)
from clickledger.ledger.rights import Role

ReasonOption = Annotated[str, typer.Option("--reason", help="Why; it goes into the log.")]
OutputOption = Annotated[Path | None, typer.Option("-o", "--output", help="Write it to this file.")]


def register(app: typer.Typer) -> None:
    """Add these commands to the group `audit`."""
    auditing = cli_audit.group(app)
    auditing.command()(prove)
    auditing.command()(checkpoint)
    auditing.command("continue")(continue_)
    keys = typer.Typer(help="The key that signs checkpoints.", no_args_is_help=True)
    keys.command("new")(key_new)
    keys.command("show")(key_show)
    keys.command("rotate")(key_rotate)
    auditing.add_typer(keys, name="key")


def _role(key: signed_note.SigningKey | None) -> Role:
    """Who signs writes an entry; who has nothing to sign with reads."""
    return Role.AUDITOR_READER if key is None else Role.REPLAYER


def prove(
    click: Annotated[str, typer.Argument(help="A click id, or the sender's own id of it.")],
    file: OutputOption = None,
    actor: ActorOption = None,
    folder: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write a bundle that proves a click's bill to anybody, offline, down to a signed checkpoint."""
    chosen = attached(folder)
    key = checkpoint_key_file.of(chosen)
    with connected(chosen, _role(key)) as conn:
        click_id = provenance.find(conn, click)
        bundle = proof_bundle.build(conn, click_id, key, person(actor))
        verified = proofs.checked(conn, bundle)
        signer = checkpoint_keys.in_force(checkpoint_keys.history(conn), verified.statement["as_of"])
    place = file or Path(f"proof-{click_id}.json")
    _write(place, bundle.text)
    by = "live" if verified.statement["run_id"] is None else f"run {verified.statement['run_id']}"
    output.say(f"{place}: click {click_id} is {verified.statement['verdict']} ({by})")
    output.say(f"as of entry {verified.statement['as_of']} of {verified.origin}")
    if not verified.attested:
        output.say("no key here: nobody signed that the bundle is complete (see docs/audit.md)")
    complete = " --complete" if verified.attested else ""
    output.hint(f"python {verify_bundle.__file__} {place} --key {signer}{complete}")
    if as_json:
        told = {"file": place, "verifier_key": str(signer), "attested": verified.attested}
        output.result({**told, "origin": verified.origin, "statement": verified.statement})


def checkpoint(
    file: OutputOption = None,
    show: Annotated[bool, typer.Option("--show", help="Sign nothing; the newest one there is.")] = False,
    rebuild: Annotated[bool, typer.Option("--rebuild-tiles", help="Make the tree's cache again from the log.")] = False,
    actor: ActorOption = None,
    folder: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Sign a checkpoint over the log as it is now, and print it or write it to a file for others to keep."""
    chosen = attached(folder)
    key = None if show else checkpoint_key_file.of(chosen)
    role = Role.OWNER if rebuild else _role(key)  # a cache, but nobody else deletes anything
    with connected(chosen, role) as conn, output.progress("hashing entries") as bar:
        advance = cli_audit.advance(bar)
        if rebuild:
            merkle_tiles.rebuild(conn, log.head(conn).position, advance)
        if not show and key is None:
            raise errors.NotFound("expected a key that signs checkpoints, got none: clickledger audit key new")
        point = checkpoints.sign(conn, key, person(actor), advance) if key else checkpoints.newest(conn)
    if point is None:
        raise errors.NotFound("the ledger has no checkpoint yet: clickledger audit checkpoint")
    output.say(f"checkpoint over {point.size} entries of {point.origin}")
    if file:
        _write(file, point.note)
    elif not as_json:
        sys.stdout.write(point.note)
    output.hint(f"clickledger audit verify --checkpoint {file or 'FILE'}")
    if as_json:
        output.result({"origin": point.origin, "size": point.size, "root": point.root.hex(), "note": point.note})


def continue_(
    held: Annotated[Path, typer.Argument(help="A checkpoint that somebody keeps.")],
    file: OutputOption = None,
    actor: ActorOption = None,
    folder: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write what shows the holder of a checkpoint, offline, that the log has only grown since."""
    chosen = attached(folder)
    key = checkpoint_key_file.of(chosen)
    with connected(chosen, _role(key)) as conn:
        proof = proof_bundle.consistency(conn, proofs.read_checkpoint(held), key, person(actor))
        known = checkpoint_keys.history(conn)
    old, new = (checkpoints.parse(proof.fields[side]) for side in ("old", "new"))
    signers = dict.fromkeys(f"--key {checkpoint_keys.in_force(known, point.size)}" for point in (old, new))
    place = file or Path(f"continued-{old.size}-{new.size}.json")
    _write(place, proof.text)
    output.say(f"{place}: the {new.size} entries of {new.origin} begin with the {old.size} signed before")
    output.hint(f"python {verify_bundle.__file__} {place} {' '.join(signers)}")
    if as_json:
        output.result({"file": place, "origin": new.origin, "old_size": old.size, "size": new.size, "note": new.note})


def key_new(
    reason: ReasonOption = "the first key",
    actor: ActorOption = None,
    folder: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make the key that signs checkpoints, and record it in the log."""
    chosen = attached(folder)
    with connected(chosen) as conn:
        key = proofs.new_key(conn, chosen, person(actor), reason)
    _show_key(str(key.verifier), as_json)


def key_rotate(
    reason: ReasonOption,
    lost: Annotated[
        bool, typer.Option("--lost", help="The old key is gone: only the log vouches for the new.")
    ] = False,
    to: Annotated[Path | None, typer.Option(help="Write the new key to this file, leave the old one alone.")] = None,
    actor: ActorOption = None,
    folder: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Put a new key in place of the one in force; the old one signs that it did so."""
    chosen = attached(folder)
    with connected(chosen) as conn:
        key = proofs.rotate_key(conn, chosen, person(actor), reason, lost=lost, to=to)
    if to:
        output.say(f"the new key is in {to}: put it in place of the old one")
    _show_key(str(key.verifier), as_json)


def key_show(folder: HomeOption = None, as_json: JsonOption = False) -> None:
    """The verifier keys of this ledger, oldest first, and since which entry each was in force."""
    with ledger(folder, Role.AUDITOR_READER) as conn:
        keys, problems = _keys(conn)
    if not keys:
        raise errors.NotFound("the ledger has no key: clickledger audit key new")
    for key in keys:  # no table: it would fold what is to be copied
        output.say(f"since entry {key['since']}: {key['verifier_key']}")
    for problem in problems:
        output.say(f"FAILED {problem}")
    output.hint("clickledger audit checkpoint")
    if as_json:
        output.result({"keys": keys, "in_force": keys[-1]["verifier_key"], "problems": problems})
    if problems:
        raise typer.Exit(1)


def _keys(conn: database.Connection) -> tuple[list[dict[str, Any]], list[str]]:
    known = checkpoint_keys.history(conn)
    told = [{"since": k.position, "verifier_key": str(k.verifier), "statement": k.statement} for k in known]
    return told, checkpoint_keys.problems(known, checkpoint_keys.origin(conn))


def _show_key(verifier: str, as_json: bool) -> None:
    output.say(f"verifier key: {verifier}")
    output.say("give it to whoever is to verify; the key itself stays where it is")
    output.hint("clickledger audit checkpoint")
    if as_json:
        output.result({"verifier_key": verifier})


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise errors.InvalidInput(f"output: expected a file to write, got {path}: {error}") from error
