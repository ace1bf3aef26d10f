"""Builds the documentation as a site with mdBook, and checks that every link of it leads somewhere: on the site and on GitHub.

    python tests/docs/book.py --mdbook .venv/bin/mdbook --out target/book

The pages are those of docs/SUMMARY.md. They are laid out below OUT/src under their paths in the repository, so that links between them
stay as they are; files that they link to, such as pictures, come along. The site is in OUT/html. Links to other sites are not followed.
"""

import argparse
import pathlib
import shutil
import subprocess
import sys

import markdown_page
import site_links

ROOT = pathlib.Path(__file__).resolve().parents[2]
SUMMARY = "docs/SUMMARY.md"
# These have no page of their own: the summary is the table of contents.
NO_PAGES = {SUMMARY}


def pages_of(summary):
    """The pages that the summary lists, by their paths in the repository."""
    return [markdown_page.resolved(SUMMARY, target) for target, _ in markdown_page.links(summary)]


def problems_of_summary(pages, documents):
    """Pages that are listed twice, or do not exist, and documents that are not listed."""
    found = [f"{SUMMARY} lists {page} twice" for page in sorted({page for page in pages if pages.count(page) > 1})]
    found += [f"{SUMMARY} lists {page}, which does not exist" for page in pages if not (ROOT / page).is_file()]
    return found + [f"{SUMMARY} does not list {document}" for document in documents if document not in pages]


def problems_of_page(page, texts):
    """Links of a page that lead nowhere on GitHub, or nowhere on the site, and a missing opening."""
    found = []
    for target, anchor in markdown_page.links(texts[page]):
        path = markdown_page.resolved(page, target) if target else page
        shown = f"{page} links to {target}{anchor and '#' + anchor}"
        if path in texts:
            if anchor and anchor not in markdown_page.anchors(texts[path]):
                found.append(f"{shown}, but {path} has no such heading")
        elif not (ROOT / path).exists():
            found.append(f"{shown}, which does not exist")
        elif (ROOT / path).is_dir():
            found.append(f"{shown}, a folder, which the site does not have: link to a file")
        elif path.endswith(".md"):
            found.append(f"{shown}, which {SUMMARY} does not list")
    if page.startswith("docs/") and "/adr/" not in page and not markdown_page.has_opening(texts[page]):
        found.append(f"{page} does not open with a sentence that says what it is for and who needs it")
    return found


def lay_out(out, texts, summary):
    """Writes the pages, the files that they link to and the configuration into a folder."""
    for folder in ("src", "html"):
        shutil.rmtree(out / folder, ignore_errors=True)
    files = set(texts)
    for page, text in texts.items():
        files |= {markdown_page.resolved(page, target) for target, _ in markdown_page.links(text) if target}
    for path in sorted(files):
        (out / "src" / path).parent.mkdir(parents=True, exist_ok=True)
        if path in texts:
            (out / "src" / path).write_text(markdown_page.with_indexes(texts[path]))
        else:
            shutil.copyfile(ROOT / path, out / "src" / path)
    (out / "src" / "SUMMARY.md").write_text(markdown_page.rebased(summary, SUMMARY))
    shutil.copyfile(ROOT / "docs" / "book.toml", out / "book.toml")


def build(mdbook, out):
    """Runs mdBook; a warning is a failure."""
    done = subprocess.run([mdbook, "build", str(out)], capture_output=True, text=True)
    lines = (done.stdout + done.stderr).splitlines()
    found = [f"mdbook: {line.strip()}" for line in lines if "WARN" in line or "ERROR" in line]
    return found if found or done.returncode == 0 else [f"mdbook ended with {done.returncode}: {lines}"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mdbook", required=True, help="the program of mdBook")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="the folder of the site")
    options = parser.parse_args()
    summary = (ROOT / SUMMARY).read_text()
    pages = pages_of(summary)
    documents = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md"))
    found = problems_of_summary(pages, [document for document in documents if document not in NO_PAGES])
    if not found:
        texts = {page: (ROOT / page).read_text() for page in pages}
        found = [problem for page in pages for problem in problems_of_page(page, texts)]
    if not found:
        lay_out(options.out, texts, summary)
        found = build(options.mdbook, options.out) or site_links.problems(options.out / "html")
    if found:
        sys.exit("\n".join(["the documentation has problems:", *found]))
    print(f"{len(pages)} pages, every link leads somewhere: {options.out / 'html' / 'index.html'}")


if __name__ == "__main__":
    main()
