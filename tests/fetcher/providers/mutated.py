"""Bad bodies made of a good one: what a fixture holds, with values, rows and bytes gone wrong in every way that vendors know."""

import csv
import io
import json
import random
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

Path = tuple[str | int, ...]
MOST = 700  # mutations of one body; of more, a fixed choice


@dataclass(frozen=True)
class Token:
    """Written into JSON as it is: numbers that Python would not write, or not so."""

    text: str


VALUES: dict[str, object] = {
    "null": None,
    "true": True,
    "no text": "",
    "a word": "n/a",
    "zero": 0,
    "zero as text": "0.0000",
    "minus one": -1,
    "minus 999": -999.0,
    "a negative number": -12.5,
    "the largest int64": 9223372036854775807,
    "the largest uint64 as text": "18446744073709551615",
    "the largest float": 1.7976931348623157e308,
    "the smallest float": 5e-324,
    "a number of 400 digits": Token("9" * 400),
    "1e999": Token("1e999"),
    "NaN": Token("NaN"),
    "Infinity": Token("-Infinity"),
    "NaN as text": "nan",
    "Infinity as text": "Infinity",
    "a list": [],
    "a list of a list": [[1]],
    "an object": {},
    "an object of nulls": {"raw": None, "fmt": None},
    "a very long text": "x" * 5000,
    "a text with a null character": "A\u0000\nB",
    "half a surrogate": Token('"\\ud800"'),
    "the last instant": "9999-12-31T23:59:59Z",
    "the first instant": "0001-01-01T00:00:00+14:00",
    "a month 13": "2024-13-45",
    "milliseconds": 1710532800000,
    "nanoseconds": 1710532800000000000,
    "the year 3000": 32503680000,
    "the year 3000 as text": "3000-01-01",
    "before 1970": -1710532800,
}
KEYS = ("", "9999-12-31", "0000-00-00", "NaN", "x" * 300)


@dataclass(frozen=True)
class Document:
    """A body as a tree, and how the tree is written."""

    tree: Any
    write: Callable[[Any], bytes]


def document_of(body: object) -> Document | None:
    """The body of a fixture: JSON, JSON a line, or a table with a header; None for a text that is none of them."""
    if not isinstance(body, str):
        return Document(body, as_json)
    lines = body.splitlines()
    try:
        return (
            Document([json.loads(line) for line in lines if line], _as_lines)
            if body.strip().startswith(("{", "["))
            else _table(body)
        )
    except ValueError:
        return None


def _table(body: str) -> Document | None:
    rows = list(csv.DictReader(io.StringIO(body)))
    return Document(rows, _as_table) if rows and len(rows[0]) > 1 else None


def as_json(tree: Any) -> bytes:
    """JSON, with each `Token` as it is."""
    tokens: list[str] = []

    def mark(value: object) -> str:
        assert isinstance(value, Token)
        tokens.append(value.text)
        return f"\u2402{len(tokens) - 1}\u2402"

    text = json.dumps(tree, default=mark)
    for number, token in enumerate(tokens):
        text = text.replace(json.dumps(f"\u2402{number}\u2402"), token)
    return text.encode()


def _as_lines(tree: Any) -> bytes:
    return b"".join(as_json(row) + b"\n" for row in tree) if isinstance(tree, list) else as_json(tree)


def _as_table(tree: Any) -> bytes:
    if not isinstance(tree, list) or not all(isinstance(row, dict) for row in tree):
        return as_json(tree)
    out = io.StringIO()
    writer = csv.DictWriter(out, list(dict.fromkeys(name for row in tree for name in row)), restval="")
    writer.writeheader()
    writer.writerows({name: value.text if isinstance(value, Token) else value for name, value in row.items()} for row in tree)
    return out.getvalue().encode(errors="surrogatepass")


def mutations(document: Document) -> list[tuple[str, bytes]]:
    """What was done, and the body that came of it; the same ones every time."""
    found = [*_values(document), *_shapes(document), *_alike(document)]
    chosen = found if len(found) <= MOST else random.Random(7).sample(found, MOST)
    return [*chosen, *_bytes(document.write(document.tree))]


def harmless(document: Document) -> Iterator[tuple[str, bytes]]:
    """Changes that change nothing: rows in another order, and names that nobody asked for."""
    for path in paths(document.tree):
        node = at(document.tree, path)
        if isinstance(node, list) and len(node) > 1 and all(isinstance(row, dict) for row in node):
            yield f"{spelt(path)}: the other way round", document.write(replaced(document.tree, path, node[::-1]))
        if (
            isinstance(node, dict)
            and "new_in_2031" not in node
            and path
            and all(isinstance(value, int | float) for value in node.values())
        ):
            yield f"{spelt(path)}: one more name", document.write(replaced(document.tree, path, node | {"new_in_2031": [None]}))


def _values(document: Document) -> Iterator[tuple[str, bytes]]:
    """Every leaf, one after the other, replaced by everything."""
    for path in paths(document.tree):
        if path and not isinstance(at(document.tree, path), dict | list):
            for name, value in VALUES.items():
                yield f"{spelt(path)} = {name}", document.write(replaced(document.tree, path, value))


def _shapes(document: Document) -> Iterator[tuple[str, bytes]]:
    """Lists and objects of another length, order and depth."""
    for path in paths(document.tree):
        node = at(document.tree, path)
        changed: dict[str, object] = {"null": None, "a number": 7, "a text": "none", "empty": type(node)()}
        if isinstance(node, list) and node:
            shuffled = random.Random(3).sample(node, len(node))
            changed |= {"shuffled": shuffled, "twice": node + node, "one more": [*node, None], "one less": node[:-1]}
            changed |= {"deeper": [node], "a row of nothing": [{}, *node], "a row of text": ["x", *node], "an object": {"0": node}}
        elif isinstance(node, dict) and node:
            changed |= {f"without {name[:20]}": {k: v for k, v in node.items() if k != name} for name in list(node)[:12]}
            first, *others = node.items()
            changed |= {f"a name {name[:12]!r}": dict([(name, first[1]), *others]) for name in KEYS}
            changed |= {"in a list": [node]}
        else:
            continue
        for what, value in changed.items():
            yield f"{spelt(path)}: {what}", document.write(replaced(document.tree, path, value))


def _alike(document: Document) -> Iterator[tuple[str, bytes]]:
    """The same value in every row at once: a whole column gone wrong."""
    leaves = [path for path in paths(document.tree, every=True) if not isinstance(at(document.tree, path), dict | list)]
    columns = sorted({tuple(part for part in path if isinstance(part, str)) for path in leaves}, key=str)
    for column in columns:
        for name, value in VALUES.items():
            tree = document.tree
            for path in leaves:
                if path and tuple(part for part in path if isinstance(part, str)) == column:
                    tree = replaced(tree, path, value)
            yield f"every {spelt(column)} = {name}", document.write(tree)


def _bytes(body: bytes) -> Iterator[tuple[str, bytes]]:
    """The body cut short, or with bytes that are none of its own."""
    for part in (1, 2, 3):
        yield f"cut after {part} quarters", body[: len(body) * part // 4]
    yield "without its last byte", body[:-1]
    yield "twice in a row", body + body
    yield "with bytes that are no text", body.replace(b"a", b"\xff\xfe", 3)
    yield "with a null byte", body[:-1] + b"\0" + body[-1:]
    yield "nested too deep", b"[" * 100_000 + body + b"]" * 100_000
    yield "an object nested too deep", b'{"data":' * 100_000 + b"1" + b"}" * 100_000
    if body[:1] == b"{":
        yield "every name twice", b"{" + body[1:-1] + b"," + body[1:]


def paths(tree: Any, path: Path = (), *, every: bool = False) -> Iterator[Path]:
    """Where there is something. Of a list, or of an object of many alike, only the first and the last part, unless `every`."""
    yield path
    parts: list[Any] = list(range(len(tree))) if isinstance(tree, list) else list(tree) if isinstance(tree, dict) else []
    many = isinstance(tree, list) or len(parts) > 40
    for part in parts if every or not many or len(parts) < 3 else (parts[0], parts[-1]):
        yield from paths(tree[part], (*path, part), every=every)


def at(tree: Any, path: Path) -> Any:
    for part in path:
        tree = tree[part]
    return tree


def replaced(tree: Any, path: Path, value: object) -> Any:
    """The tree with another value there."""
    if not path:
        return deepcopy(value)
    changed = list(tree) if isinstance(tree, list) else dict(tree)
    changed[path[0]] = replaced(tree[path[0]], path[1:], value)
    return changed


def spelt(path: Path) -> str:
    """The path as a reader would write it."""
    return ".".join(str(part)[:30] for part in path) or "the whole body"
