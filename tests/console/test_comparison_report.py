"""The page of a comparison, where names of others become labels."""

from __future__ import annotations

import matplotlib as mpl

from clickledger.console import comparison_report, report_page
from clickledger.recovery.effects import Rates


def test_an_advertiser_whose_name_looks_like_a_formula_is_a_label_like_others() -> None:
    name = "$^$ & <b>"
    changed = Rates(2, 1, 0, 0.5, 0.0, None, None, {"EUR": 1_000_000})
    with mpl.rc_context(report_page.LOOK):
        made = comparison_report._money("advertisers", "Change by advertiser", {name: changed}, across=False)
    assert made is not None
    assert ">$^$ &amp; &lt;b&gt;<" in made.svg
