"""Each question of the documentation's first page links to a heading that exists."""

import re

import pytest
from helpers import ROOT

DOCS = ROOT / "docs"
QUESTIONS = (DOCS / "index.md").read_text().partition("## Questions\n")[2].partition("\n## ")[0]
LINKS = re.findall(r"^- \[(.+)\]\((\w+\.md)#([\w-]+)\)$", QUESTIONS, re.MULTILINE)


def anchors(page: str) -> list[str]:
    """The anchors of the headings of a page, as GitHub and MyST make them."""
    text = re.sub(r"^```.*?^```", "", (DOCS / page).read_text(), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#{1,3} (.+)$", text, re.MULTILINE)
    return [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]


def test_there_are_ten_questions():
    assert len(LINKS) == len(QUESTIONS.split("\n- ")) - 1 == 10


@pytest.mark.parametrize(("question", "page", "anchor"), LINKS)
def test_the_answer_of_a_question_exists(question, page, anchor):
    assert anchors(page).count(anchor) == 1, question
