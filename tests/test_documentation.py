"""Documentation: what it names exists."""

from __future__ import annotations

import re
from pathlib import Path

from clickledger.settings import PREFIX, Settings

REPOSITORY = Path(__file__).parents[1]
PAGES = [REPOSITORY / "README.md", REPOSITORY / "ARCHITECTURE.md", *sorted((REPOSITORY / "docs").glob("*.md"))]


def test_every_setting_is_documented_and_no_other() -> None:
    text = (REPOSITORY / "docs" / "settings.md").read_text()
    documented = set(re.findall(rf"^\| `{PREFIX}(\w+)`", text, re.MULTILINE))
    assert documented == {name.upper() for name in Settings.model_fields}


def test_links_lead_to_files() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_modules_named_in_the_architecture_exist() -> None:
    text = (REPOSITORY / "ARCHITECTURE.md").read_text()
    for name in re.findall(r"`((?:ledger|scoring|recovery|console|migrations)/[\w/]+\.(?:py|sql|lua))`", text):
        assert (REPOSITORY / "clickledger" / name).exists(), name
