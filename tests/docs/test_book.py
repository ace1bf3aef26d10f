"""The checks of the documentation find what they are for."""

import book
import markdown_page
import site_links

PAGE = """# Title

What it is for. [a](other.md#part) `[no](link.md)` [web](https://example.org/x#y) [c](#c-and-c)

```
[code](gone.md)
# no heading
```

## C++ and `C`

## Part [one](other.md)

## Part one
"""


def test_links_are_those_of_prose_to_files():
    assert list(markdown_page.links(PAGE)) == [("other.md", "part"), ("", "c-and-c"), ("other.md", "")]


def test_anchors_are_those_of_github():
    assert markdown_page.anchors(PAGE) == {"title", "c-and-c", "part-one", "part-one-1"}


def test_links_are_resolved_from_the_folder_of_their_page():
    assert markdown_page.resolved("docs/how-to/a.md", "../sql.md") == "docs/sql.md"
    assert markdown_page.resolved("docs/a.md", "../README.md") == "README.md"
    assert markdown_page.rebased("- [A](a.md)\n- [R](../README.md)\n", "docs/SUMMARY.md") == "- [A](docs/a.md)\n- [R](README.md)\n"


def test_links_to_a_readme_lead_to_the_index_of_its_folder():
    page = "[a](../README.md#two) [b](how-to/README.md)\n```\n[c](README.md)\n```\n[d](https://example.org/README.md)\n"
    changed = "[a](../index.md#two) [b](how-to/index.md)\n```\n[c](README.md)\n```\n[d](https://example.org/README.md)\n"
    assert markdown_page.with_indexes(page) == changed


def test_page_without_opening_is_found():
    assert markdown_page.has_opening(PAGE)
    for text in ("# T\n\n## S\n", "# T\n\n| a |\n", "# T\n", "no title\n\ntext\n", "# T\n\n    code\n"):
        assert not markdown_page.has_opening(text), text


def test_summary_that_lacks_or_repeats_pages_is_found():
    pages = book.pages_of("[R](README.md)\n- [A](sql.md)\n- [B](sql.md)\n- [C](gone.md)\n")
    assert book.problems_of_summary(pages, ["docs/sql.md", "docs/python.md"]) == [
        "docs/SUMMARY.md lists docs/sql.md twice",
        "docs/SUMMARY.md lists docs/gone.md, which does not exist",
        "docs/SUMMARY.md does not list docs/python.md",
    ]


def test_links_to_nothing_are_found():
    texts = {"docs/x.md": "# X\n\n- [a](y.md#no) [b](gone.md) [c](../tests) [d](../CONTRIBUTING.md)\n", "docs/y.md": "# Y\n\nText.\n"}
    assert book.problems_of_page("docs/x.md", texts) == [
        "docs/x.md links to y.md#no, but docs/y.md has no such heading",
        "docs/x.md links to gone.md, which does not exist",
        "docs/x.md links to ../tests, a folder, which the site does not have: link to a file",
        "docs/x.md links to ../CONTRIBUTING.md, which docs/SUMMARY.md does not list",
        "docs/x.md does not open with a sentence that says what it is for and who needs it",
    ]


def test_links_of_a_site_that_lead_nowhere_are_found(tmp_path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.html").write_text('<a href="b.html#there"></a><a href="b.html#gone"></a><img src="p.svg">')
    (tmp_path / "docs" / "b.html").write_text('<p id="there"><a href="#gone"></a><a href="https://example.org/"></a>')
    assert site_links.problems(tmp_path) == [
        "docs/a.html links to b.html#gone",
        "docs/a.html links to p.svg",
        "docs/b.html links to #gone",
    ]
    assert site_links.problems(tmp_path / "docs" / "gone") == [f"{tmp_path}/docs/gone has no page"]
