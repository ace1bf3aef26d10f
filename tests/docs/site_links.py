"""Checks the links of a built site: each leads to a file of the site, and to an element that is there."""

import html.parser
import pathlib
import posixpath
import re
import urllib.parse

# Pages that repeat others, or are shown for addresses that do not exist.
SKIPPED = {"print.html", "404.html", "toc.html"}


class Page(html.parser.HTMLParser):
    """The ids of a page, and what it refers to."""

    def __init__(self, text):
        super().__init__()
        self.ids, self.targets = set(), []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        for name, value in attributes:
            if name == "id":
                self.ids.add(value)
            elif name in ("href", "src") and value:
                self.targets.append(value)


def problems(site):
    """The links of the site in a folder that lead nowhere."""
    found, pages = [], {}
    for path in sorted(pathlib.Path(site).rglob("*.html")):
        pages[path.relative_to(site).as_posix()] = Page(path.read_text())
    if not pages:
        return [f"{site} has no page"]
    for name, page in pages.items():
        if name not in SKIPPED:
            found += [f"{name} links to {target}" for target in page.targets if not leads(site, name, target, pages)]
    return found


def leads(site, name, target, pages):
    """Whether the target of a link of the page `name` is there."""
    if re.match(r"[a-z][a-z0-9+.-]*:|//", target):
        return True
    path, _, anchor = urllib.parse.unquote(target).partition("#")
    path = posixpath.normpath(posixpath.join(posixpath.dirname(name), path)) if path else name
    if not (pathlib.Path(site) / path).is_file():
        return False
    return not anchor or path not in pages or anchor in pages[path].ids
