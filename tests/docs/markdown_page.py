"""What the checks of the documentation need to know of a page in Markdown: its links, its headings, how it opens."""

import posixpath
import re

LINK = re.compile(r"\]\(([^()\s]*(?:\([^()\s]*\)[^()\s]*)*)\)")
INDEX = re.compile(r"\]\(((?:[\w.-]+/)*)README\.md(#[^)\s]*)?\)")
HEADING = re.compile(r"^#{1,6} +(.*?)(?: +#+)?$")
# A page does not open with one of these: a heading, a table, a list, a quotation, code, HTML, a picture.
NO_PROSE = ("#", "|", "- ", "* ", "1. ", ">", "```", "    ", "<", "![")


def prose(text):
    """The lines that are not in a block of code."""
    fenced, lines = False, []
    for line in text.splitlines():
        if line.lstrip().startswith("```"):
            fenced = not fenced
        elif not fenced:
            lines.append(line)
    return lines


def links(text):
    """Path and anchor of each link to a file of the repository; without a path it is the page itself."""
    for line in prose(text):
        for target in LINK.findall(re.sub(r"`[^`]*`", "", line)):
            if not re.match(r"[a-z][a-z0-9+.-]*:", target):
                path, _, anchor = target.partition("#")
                yield path, anchor


def resolved(page, target):
    """The path in the repository that a link of a page leads to."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(page), target))


def anchors(text):
    """The anchors that GitHub gives the headings of a page."""
    found = set()
    for line in prose(text):
        if heading := HEADING.match(line):
            words = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading[1]).lower()
            anchor = re.sub(r"[^\w\- ]", "", words).replace(" ", "-")
            same = [anchor, *(f"{anchor}-{n}" for n in range(1, len(found) + 2))]
            found.add(next(name for name in same if name not in found))
    return found


def has_opening(text):
    """Whether the first thing after the title is a paragraph."""
    lines = [line for line in text.splitlines() if line.strip()]
    return len(lines) > 1 and lines[0].startswith("# ") and not lines[1].startswith(NO_PROSE)


def with_indexes(text):
    """A page whose links to a `README.md` lead to the `index.md` that mdBook makes of it."""
    fenced, lines = False, []
    for line in text.splitlines(keepends=True):
        fenced ^= line.lstrip().startswith("```")
        lines.append(line if fenced else INDEX.sub(r"](\1index.md\2)", line))
    return "".join(lines)


def rebased(text, page):
    """A page whose links are relative to the root of the repository."""
    return LINK.sub(lambda link: f"]({resolved(page, link[1])})", text)
