"""Docker's `daemon.json` as text: put one OCI runtime in, take it out, leave all else alone.

The file belongs to the administrator. So it is not decoded and written anew (that would spread
out `"dns": ["1.1.1.1", "8.8.8.8"]` over lines and rewrite numbers) but cut open at one place.

What dockerd reads: `{"runtimes": {"NAME": {"path": "/absolute/path"}}}`
(https://docs.docker.com/reference/cli/dockerd/#daemon-configuration-file); an empty file counts
as `{}`, and a byte order mark is allowed (moby, daemon/config/config.go).
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any, NoReturn

from migrate.errors import ConfigBroken

WHERE = "daemon.json"
BOM = "\ufeff"
TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\],:]|[^\s{}\[\],:"]+')


@dataclass
class Member:
    """`"key": value` in the text: where the key starts, where the value starts and ends."""

    key: str
    start: int
    value: int = 0
    end: int = 0


@dataclass
class Object:
    """A JSON object in the text, from its `{` (start) to behind its `}` (end)."""

    start: int
    end: int = 0
    members: list[Member] = field(default_factory=list)

    def get(self, key: str) -> Member | None:
        return next((member for member in self.members if member.key == key), None)


def add_runtime(text: str | None, name: str, path: str) -> str:
    """`text` with the runtime `name` at `path` in it; the same text when it is there already.

    `text` is the file's content, None when there is no file. Raises `ConfigBroken` when it is not
    JSON, has a key twice, or knows the name with another path.
    """
    text = text or ""
    if not text.strip(BOM + " \t\r\n"):
        text += "{}\n"
    config, top, runtimes = _read(text)
    if _registered(config, name, path):
        return text
    unit, newline = _style(text, top)
    entry: Any = {"path": path}
    if runtimes is None:
        return _insert(text, top, "runtimes", {name: entry}, unit, newline, 1)
    return _insert(text, runtimes, name, entry, unit, newline, 2)


def remove_runtime(
    text: str | None, name: str, path: str, *, keep_empty: bool = False
) -> str | None:
    """`text` without the runtime `name`; None when nothing would be left, so the file can go.

    A text that does not know the name comes back as it is. An emptied `runtimes` goes as well;
    with `keep_empty` it stays as `{}`, because that is what makes a running dockerd forget: at
    a reload it looks at its runtimes only when the key is there (moby, daemon/reload_unix.go:
    `if conf.IsValueSet("runtimes")`). Raises `ConfigBroken` as `add_runtime` does.
    """
    if text is None or not text.strip(BOM + " \t\r\n"):
        return text
    config, top, runtimes = _read(text)
    if not _registered(config, name, path) or runtimes is None:
        return text
    if len(runtimes.members) > 1 or keep_empty:
        return _cut(text, runtimes, name)
    return None if len(top.members) == 1 else _cut(text, top, "runtimes")


def registered_path(text: str | None, name: str) -> str | None:
    """The path that the runtime `name` has in the file, or None. Raises `ConfigBroken`."""
    if text is None or not text.strip(BOM + " \t\r\n"):
        return None
    config, _, _ = _read(text)
    entry = config.get("runtimes", {}).get(name)
    path = entry.get("path") if isinstance(entry, dict) else None
    return path if isinstance(path, str) else None


def _registered(config: dict[str, Any], name: str, path: str) -> bool:
    runtimes = config.get("runtimes", {})
    if name not in runtimes:
        return False
    entry = runtimes[name]
    if isinstance(entry, dict) and entry.get("path") == path:
        return True
    other = entry.get("path") if isinstance(entry, dict) else entry
    raise ConfigBroken(
        f"{WHERE} has a runtime `{name}` that is not {path} but {json.dumps(other)}",
        f"if it is an older migrate's, run `migrate setup --undo` and then `migrate setup`; "
        f'else rename the entry "{name}" under "runtimes"',
    )


def _broken(text: str, at: int, what: str, remedy: str) -> NoReturn:
    line = text.count("\n", 0, at) + 1
    column = at - (text.rfind("\n", 0, at) + 1) + 1
    raise ConfigBroken(f"{WHERE} line {line} column {column}: {what}", remedy)


def _read(text: str) -> tuple[dict[str, Any], Object, Object | None]:
    """Give the file as a value, and where in the text the whole and its `runtimes` stand."""
    repair = f"correct it by hand; `python3 -m json.tool /etc/docker/{WHERE}` checks it"

    def refuse(constant: str) -> NoReturn:
        # Python reads NaN and Infinity, JSON and dockerd do not.
        _broken(text, text.find(constant), f"{constant} is not JSON", repair)

    # A BOM is replaced, not cut off, so that all positions stay those of the file.
    plain = " " + text[1:] if text.startswith(BOM) else text
    try:
        config = json.loads(plain, parse_constant=refuse)
    except json.JSONDecodeError as error:
        _broken(text, error.pos, f"this is not JSON ({error.msg})", repair)
    except (RecursionError, ValueError) as error:  # nested too deep; a number of 5000 digits
        _broken(text, 0, f"this cannot be read ({error})", repair)
    if not isinstance(config, dict):
        at = len(plain) - len(plain.lstrip())
        _broken(text, at, "the file is not an object", "it must look like {...}; see `man dockerd`")
    top, under = _scan(plain)
    member = top.get("runtimes")
    if member is not None and "runtimes" not in under:
        _broken(
            text,
            member.value,
            '"runtimes" is not an object',
            'it must look like {"NAME": {"path": "/path"}}; correct it by hand',
        )
    return config, top, under.get("runtimes")


def _scan(text: str) -> tuple[Object, dict[str, Object]]:
    """Find the top object, and the objects right under it by key, in a text known to be JSON.

    Refuses an object with a key twice: the decoders keep the last, a person may mean the first.
    """
    top, under = Object(0), {}
    stack: list[Object | None] = []  # what encloses the token; None: an array
    previous = ""
    for match in TOKEN.finditer(text):
        token, at = match.group(), match.start()
        around = stack[-1] if stack else None
        if token in "{[":
            if around is not None:
                around.members[-1].value = at
            stack.append(Object(at) if token == "{" else None)
        elif token in "}]":
            ended = stack.pop()
            around = stack[-1] if stack else None
            if ended is not None:
                ended.end = match.end()
                if not stack:
                    top = ended
                elif len(stack) == 1 and around is not None:
                    under[around.members[-1].key] = ended
        elif around is not None and previous in ("{", ","):
            key = json.loads(token)
            if around.get(key) is not None:
                _broken(text, at, f"the key {token} is there twice", "take one of the two out")
            around.members.append(Member(key, at))
        elif around is not None and previous == ":":
            around.members[-1].value = at
        if around is not None and around.members and token != ",":
            around.members[-1].end = match.end()
        previous = token
    return top, under


def _style(text: str, top: Object) -> tuple[str, str]:
    """What one level of indentation is ("" when all stands on one line), and the line ending."""
    newline = "\r\n" if "\r\n" in text else "\n"
    if not top.members:
        return "  ", newline
    before = text[top.start + 1 : top.members[0].start]
    return before.rpartition("\n")[2] if "\n" in before else "", newline


def _insert(
    text: str, into: Object, key: str, value: Any, unit: str, newline: str, depth: int
) -> str:
    until = into.members[0].start if into.members else into.end
    multi_line = "\n" in text[into.start : until] or (bool(unit) and not into.members)
    if multi_line:
        if into.members:  # as the neighbours are indented, whatever the rest of the file does
            line_start = text.rfind("\n", 0, into.members[0].start) + 1
            indent = text[line_start : into.members[0].start]
        else:
            indent = unit * depth
        body = json.dumps(value, indent=unit or "  ", ensure_ascii=False)
        body = body.replace("\n", newline + indent)
        member = f"{newline}{indent}{json.dumps(key)}: {body}"
    else:
        member = f"{json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}"
    if into.members:
        at = into.members[-1].end
        return text[:at] + ("," if multi_line else ", ") + member + text[at:]
    closing = newline + unit * (depth - 1) if multi_line else ""
    return text[: into.start] + "{" + member + closing + "}" + text[into.end :]


def _cut(text: str, out_of: Object, key: str) -> str:
    index = next(i for i, member in enumerate(out_of.members) if member.key == key)
    member = out_of.members[index]
    if index > 0:
        return text[: out_of.members[index - 1].end] + text[member.end :]
    if len(out_of.members) > 1:
        return text[: member.start] + text[out_of.members[1].start :]
    return text[: out_of.start] + "{}" + text[out_of.end :]
