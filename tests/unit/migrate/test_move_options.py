"""migrate.move_options: the words of the command line, a front end and its mode above all."""

from __future__ import annotations

import pytest

from migrate import arguments
from migrate.cli import parser
from migrate.move_options import Options, options_of
from transport.errors import BadTarget


def options(*words: str) -> Options:
    return options_of(parser().parse_args(["move", "app", "b", *words]), "b")


def test_a_front_end_alone_says_the_mode() -> None:
    for words in (["--frontend", "f"], ["--frontend", "f", "--network-mode", "frontend"]):
        found = options(*words)
        assert (found.network, found.frontend) == ("frontend", "f")
    assert (options().network, options().frontend) == ("auto", None)


@pytest.mark.parametrize(
    "words",
    [["--network-mode", "frontend"], ["--frontend", "f", "--network-mode", "none"],
     ["--frontend", "f", "--network-mode", "forward"]],
)  # fmt: skip
def test_one_without_the_other(words: list[str]) -> None:
    with pytest.raises(BadTarget, match="--frontend"):
        options(*words)


@pytest.mark.parametrize("words", [["--frontend", "root@f:2222"], ["--network-mode", "none"]])
def test_a_run_of_many_passes_it_on(words: list[str]) -> None:
    given = parser().parse_args(["evacuate", "b", *words])
    again = options(*arguments.way_words(given))
    assert again == options(*words)
