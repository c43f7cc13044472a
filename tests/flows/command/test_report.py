"""``cpt report``: one page that is complete in itself."""

import json
import re
from html.parser import HTMLParser

from tests.conftest import write_jsonl
from tests.pipeline import packed


def test_a_page_shows_what_is_in_the_store(command, make_config, tmp_path):
    """Two sources, one of them in a file whose name is an element of HTML; pictures are in the page itself."""
    write_jsonl(tmp_path / "corpus" / "<script>alert(1)<!--.jsonl", ["ab", "c"])
    write_jsonl(tmp_path / "more" / "a.jsonl", ["def"])
    sources = [{"name": name, "uris": [str(tmp_path / folder)]} for name, folder in (("a", "corpus"), ("b", "more"))]
    config = make_config(discovery={"sources": sources}, training=None)
    (tmp_path / "config.yaml").write_text(config.model_dump_json(), encoding="utf-8")
    packed(config)

    result = command("report", "config.yaml", "--json")
    assert json.loads(result.stdout) == {"report": f"{config.name}-report.html", "artifacts_missing": 0}
    page = Page((tmp_path / f"{config.name}-report.html").read_text(encoding="utf-8"))

    assert page.tables["Tokenization"] == [
        ["source", "files", "shards", "documents", "quarantined", "tokens"],
        ["a", "1", "1", "2", "none", "7"],
        ["b", "1", "1", "1", "none", "5"],
        ["all", "2", "2", "3", "none", "12"],
    ]
    assert [heading for heading in page.tables if heading != "Tokenization"] == [
        "Documents", "Rows", "Where everything lies",
    ]  # fmt: skip
    assert page.elements.isdisjoint({"script", "link", "iframe", "a", "object"})
    assert [address.partition(",")[0] for address in page.addresses] == ["data:image/svg+xml;base64"] * 2


def test_nothing_to_report_on_is_one_line(command, make_config, tmp_path):
    """With what is missing and what to do; no page is left."""
    write_jsonl(tmp_path / "corpus" / "a.jsonl", ["ab"])
    config = make_config()
    (tmp_path / "config.yaml").write_text(config.model_dump_json(), encoding="utf-8")
    result = command("report", "config.yaml")
    assert (result.returncode, result.stdout) == (1, "")
    assert re.fullmatch(r"cpt: nothing to report on yet: .*: run it, then this again\n", result.stderr)
    assert not list(tmp_path.glob("*.html"))


class Page(HTMLParser):
    """What a browser would make of a page: its elements, the addresses it asks, its tables by the heading above."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: set[str] = set()
        self.addresses: list[str] = []
        self.tables: dict[str, list[list[str]]] = {}
        self._open: list[str] = []
        self._heading = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        """Notes it."""
        self.elements.add(tag)
        self._open.append(tag)
        self.addresses += [value for name, value in attrs if name in ("src", "href")]
        if tag == "h2":
            self._heading = ""
        elif tag == "tr":
            self.tables.setdefault(self._heading, []).append([])
        elif tag in ("td", "th"):
            self.tables[self._heading][-1].append("")

    def handle_endtag(self, tag):
        """Closes it and what was left open in it."""
        while self._open and self._open.pop() != tag:
            pass

    def handle_data(self, data):
        """Text of a heading or of a cell."""
        if "h2" in self._open:
            self._heading += data
        elif {"td", "th"} & set(self._open):
            self.tables[self._heading][-1][-1] += data.strip()
