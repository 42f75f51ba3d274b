"""migrate.files_pass: items travel in batches; only a pass that is not the last is ended."""

from __future__ import annotations

from typing import Any

import pytest

from migrate import files_pass
from migrate.files_pass import BATCH, FilesPass
from migrate.protocol import MESSAGE, ROOTFS_ITEMS, RootfsPass, decode_items, decode_request
from migrate.rootfs_items import Data, Item, Remove
from migrate.rootfs_send import PassReport
from tests.unit.migrate.memory_channel import MemoryChannel, pair


class Sender:
    """Emits what it is given, one pass after the other."""

    def __init__(self, *passes: list[Item]) -> None:
        self._passes = list(passes)
        self.final: list[bool] = []
        self.failure: Exception | None = None

    def send_pass(self, emit: Any, *, final: bool) -> PassReport:
        self.final.append(final)
        items = self._passes.pop(0)
        for item in items:
            emit(item)
        if self.failure:
            raise self.failure
        size = sum(len(item.content) for item in items if isinstance(item, Data))
        return PassReport(
            entries=1, files=1, items=len(items), bytes=size, dirty_bytes=size, failed=0,
            seconds=0.0, settle_seconds=0.0,
        )  # fmt: skip


def arrived(channel: MemoryChannel) -> tuple[list[list[Item]], list[Any]]:
    """Batches of items, and messages."""
    batches: list[list[Item]] = []
    messages: list[Any] = []
    while not channel.inbox.empty():
        frame = channel.receive()
        if frame.kind == ROOTFS_ITEMS:
            assert not messages, "a pass was ended before its items"
            batches.append(decode_items(frame.payload))
        else:
            assert frame.kind == MESSAGE
            messages.append(decode_request(frame.payload))
    return batches, messages


def made(*passes: list[Item]) -> tuple[FilesPass, Any, MemoryChannel, list[int]]:
    here, there = pair()
    sender: Any = Sender(*passes)
    counted: list[int] = []
    return FilesPass(sender, here, counted.append), sender, there, counted


def test_small_items_travel_together() -> None:
    items: list[Item] = [Remove(b"file-%d" % i) for i in range(100)]
    files, sender, there, counted = made(items)
    report = files.run(final=False)
    assert report.items == 100
    assert arrived(there) == ([items], [RootfsPass()])
    assert sender.final == [False]
    assert counted == []


def test_content_is_sent_while_it_is_read_and_counted() -> None:
    piece = Data(0, b"x" * (BATCH // 2))
    items: list[Item] = [*[piece] * 5, Remove(b"z")]
    files, _, there, counted = made(items, items)
    files.run(final=False)
    batches, _ = arrived(there)
    assert [item for batch in batches for item in batch] == items
    assert len(batches) == 3
    assert sum(counted) == files.bytes == 5 * BATCH // 2
    files.run(final=True)
    assert sum(counted) == files.bytes == 5 * BATCH


def test_the_last_pass_is_not_announced() -> None:
    files, sender, there, _ = made([Remove(b"a")], [])
    files.run(final=True)
    assert arrived(there) == ([[Remove(b"a")]], [])
    files.run(final=True)
    assert arrived(there) == ([], [])
    assert sender.final == [True, True]


def test_many_empty_items_do_not_wait_for_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files_pass, "BATCH", 10 * files_pass.ITEM)
    files, _, there, _ = made([Remove(b"%d" % i) for i in range(25)])
    files.run(final=True)
    batches, _ = arrived(there)
    assert [len(batch) for batch in batches] == [10, 10, 5]


def test_a_pass_that_fails_is_not_ended() -> None:
    files, sender, there, _ = made([Remove(b"a")])
    sender.failure = OSError("disk")
    with pytest.raises(OSError, match="disk"):
        files.run(final=False)
    assert arrived(there) == ([], [])
