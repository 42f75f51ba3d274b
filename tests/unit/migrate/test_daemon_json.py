"""migrate.daemon_json: one entry in and out, every other byte as it was."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrate.daemon_json import add_runtime, registered_path, remove_runtime
from migrate.errors import ConfigBroken

PATH = "/usr/local/bin/migrate-runc"
ENTRY = {"migrate": {"path": PATH}}

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=())),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip
runtimes = st.dictionaries(
    st.text().filter(lambda name: name != "migrate"),
    st.fixed_dictionaries({"path": st.text()}),
    max_size=3,
)
configs = st.builds(
    lambda first, known, last: first | known | last,
    st.dictionaries(st.text().filter(lambda key: key != "runtimes"), values, max_size=3),
    st.just({}) | st.fixed_dictionaries({"runtimes": runtimes}),
    st.dictionaries(st.sampled_from(["dns", "debug", "é"]), values, max_size=2),
)
texts = st.builds(
    lambda config, indent, ascii_only, separators, line_end, tail: (
        json.dumps(config, indent=indent, ensure_ascii=ascii_only, separators=separators).replace(
            "\n", line_end
        )
        + tail
    ),
    configs,
    st.sampled_from([None, 0, 2, 4, "\t"]),
    st.booleans(),
    st.sampled_from([(",", ":"), (", ", ": "), (" , ", " : ")]),
    st.sampled_from(["\n", "\r\n"]),
    st.sampled_from(["", "\n", "\n\n"]),
)


def without_empty_runtimes(config: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if (key, value) != ("runtimes", {})}


@given(texts)
def test_added_is_what_dockerd_wants_and_nothing_else_changes(text: str) -> None:
    before = json.loads(text)
    after = json.loads(add_runtime(text, "migrate", PATH))
    assert after["runtimes"] == before.get("runtimes", {}) | ENTRY
    assert list(after) == list(before | {"runtimes": {}})  # the order of the keys
    assert {k: v for k, v in after.items() if k != "runtimes"} == {
        k: v for k, v in before.items() if k != "runtimes"
    }


@given(texts)
def test_adding_and_removing_gives_the_file_as_it_was(text: str) -> None:
    before = json.loads(text)
    back = remove_runtime(add_runtime(text, "migrate", PATH), "migrate", PATH)
    if before.get("runtimes") == {} or not before:
        # An empty `runtimes` says nothing, so it is taken out with the last entry.
        assert json.loads(back or "{}") == without_empty_runtimes(before)
    else:
        assert back == text


@given(texts)
def test_adding_twice_is_adding_once(text: str) -> None:
    once = add_runtime(text, "migrate", PATH)
    assert add_runtime(once, "migrate", PATH) == once


@given(st.none() | texts)
def test_what_does_not_know_the_name_is_not_touched(text: str | None) -> None:
    assert remove_runtime(text, "migrate", PATH) == text


@given(texts)
def test_keep_empty_leaves_the_key_that_makes_dockerd_forget(text: str) -> None:
    before = json.loads(text)
    kept = remove_runtime(add_runtime(text, "migrate", PATH), "migrate", PATH, keep_empty=True)
    assert kept is not None
    assert json.loads(kept)["runtimes"] == before.get("runtimes", {})


@pytest.mark.parametrize("nothing", [None, "", "\n", "{}", "{ }\n"])
def test_a_file_of_our_own_making_goes_again(nothing: str | None) -> None:
    made = add_runtime(nothing, "migrate", PATH)
    assert json.loads(made) == {"runtimes": ENTRY}
    assert remove_runtime(made, "migrate", PATH) is None


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (
            '{\n    "dns": ["1.1.1.1", "8.8.8.8"]\n}\n',
            '{\n    "dns": ["1.1.1.1", "8.8.8.8"],\n    "runtimes": {\n        "migrate": {\n'
            f'            "path": "{PATH}"\n        }}\n    }}\n}}\n',
        ),
        (
            '{\r\n\t"debug": true\r\n}',
            '{\r\n\t"debug": true,\r\n\t"runtimes": {\r\n\t\t"migrate": {\r\n'
            f'\t\t\t"path": "{PATH}"\r\n\t\t}}\r\n\t}}\r\n}}',
        ),
        ('{"a": 1.10}', f'{{"a": 1.10, "runtimes": {{"migrate": {{"path": "{PATH}"}}}}}}'),
        (
            '{\n  "runtimes": {"kata": {"path": "/k"}}\n}\n',
            '{\n  "runtimes": {"kata": {"path": "/k"}, '
            f'"migrate": {{"path": "{PATH}"}}}}\n}}\n',
        ),
        (
            '{\n  "runtimes": {},\n  "debug": true\n}\n',
            '{\n  "runtimes": {\n    "migrate": {\n'
            f'      "path": "{PATH}"\n    }}\n  }},\n  "debug": true\n}}\n',
        ),
        (
            '\ufeff{\n  "debug": true\n}\n',
            '\ufeff{\n  "debug": true,\n  "runtimes": {\n    "migrate": {\n'
            f'      "path": "{PATH}"\n    }}\n  }}\n}}\n',
        ),
    ],
)
def test_the_style_of_the_file_is_kept(before: str, after: str) -> None:
    assert add_runtime(before, "migrate", PATH) == after


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{\n  "debug": true,\n}\n', r"line \d column \d.*not JSON"),
        ('{"debug": true\n  "dns": 1}', r"line 2 column 3.*not JSON"),
        ('["runtimes"]', r"line 1 column 1.*not an object"),
        ("\n  3", r"line 2 column 3.*not an object"),
        ('{"a": 1,\n "runtimes": []}', r'line 2 column 14.*"runtimes" is not an object'),
        ('{"runtimes": null}', r'"runtimes" is not an object'),
        ('{"a": 1,\n "a": 2}', r'line 2 column 2.*"a" is there twice'),
        ('{"x": [{"b": 1, "c": 2, "b": 3}]}', r'column 25.*"b" is there twice'),
        ('{"a": NaN}', r"line 1 column 7.*NaN is not JSON"),
        ('{"runtimes": {"migrate": {"path": "/other"}}}', r"not /usr.* but \"/other\""),
        ('{"runtimes": {"migrate": {"runtimeType": "x"}}}', r"but null"),
        ('{"runtimes": {"migrate": 3}}', r"but 3"),
        ("[" * 100_000, r"not JSON|cannot be read"),
        ('{"a": ' + "9" * 5000 + "}", r"cannot be read"),
    ],
)
def test_what_we_must_not_touch_is_refused_with_a_place_and_a_remedy(text: str, says: str) -> None:
    with pytest.raises(ConfigBroken, match=says) as adding:
        add_runtime(text, "migrate", PATH)
    assert adding.value.remedy
    with pytest.raises(ConfigBroken, match=says):
        remove_runtime(text, "migrate", PATH)


def test_the_registered_path_is_read() -> None:
    assert registered_path(add_runtime(None, "migrate", PATH), "migrate") == PATH
    assert registered_path('{"runtimes": {"migrate": {"runtimeType": "x"}}}', "migrate") is None
    assert registered_path('{"debug": true}', "migrate") is None
    assert registered_path(None, "migrate") is None
