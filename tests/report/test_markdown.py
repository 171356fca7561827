"""The report's HTML as Markdown: every kind of element that the page uses."""

import re

import pytest

from analysis.report.html import bullets, facts, html_table
from analysis.report.markdown import markdown
from analysis.report.provenance import provenance
from analysis.report.summary import summary
from analysis.report.tables import tables


@pytest.mark.parametrize(
    ("html", "expected"),
    [
        ("<h2>Growth</h2><p>η* at\n B* ∝ T<sup>−0.5</sup></p>", "## Growth\n\nη\\* at B\\* ∝ T^−0.5\n"),
        (
            bullets(["<strong>At T = 2<sup>18</sup></strong>, use B", "B<sub>crit</sub> ≥ 3"]),
            "- **At T = 2^18**, use B\n- B_crit ≥ 3\n",
        ),
        (facts([("Study", "a &lt; b")]), "- **Study**: a &lt; b\n"),
        (html_table(["T", "B"], [["1", "a|b"], ["2", ""]], "x"), "| T | B |\n|---|---|\n| 1 | a\\|b |\n| 2 |  |\n"),
        ('<p>see <a href="#t">tables</a>, <a href="https://x.org">x</a></p>', "see tables, [x](https://x.org)\n"),
        ("<details><summary>3 more</summary><ul><li>x</li></ul></details>", "**3 more**\n\n- x\n"),
    ],
)
def test_elements(html, expected):
    assert markdown(html) == expected


def test_a_report_keeps_its_words(report):
    from analysis.check import with_status

    table = with_status(report.table)
    for html in (summary(report.analysis), provenance(table, report.analysis), tables(table, report.analysis)):
        text = markdown(html)
        assert not re.search(r"</?[a-z]+[ >]", text), "no element is left"
        rows = [line.count("|") - line.count("\\|") for line in text.splitlines() if line.startswith("|")]
        assert len(rows) >= html.count("<tr>"), "every row is there, and a rule under each head"
        numbers = re.findall(r"\d+\.\d+", re.sub("<[^>]*>", " ", html))
        assert [number for number in numbers if number not in text] == []
