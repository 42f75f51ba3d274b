"""The passes over the writable layer, from the sender to the channel."""

from __future__ import annotations

from collections.abc import Callable

from migrate.messages import RootfsPass
from migrate.protocol import ROOTFS_ITEMS, encode_items, send
from migrate.rootfs_items import Data, Item
from migrate.rootfs_send import PassReport, Sender
from transport.channel import Channel

BATCH = 1 << 19  # bytes of rootfs items that travel in one frame
ITEM = 100  # bytes that an item counts for, beside its content


class FilesPass:
    """Sends passes of a Sender. `progress` is told of bytes; `bytes` counts them."""

    def __init__(
        self, sender: Sender, channel: Channel, progress: Callable[[int], object] = lambda n: None
    ) -> None:
        self._sender = sender
        self._channel = channel
        self._progress = progress
        self._batch: list[Item] = []
        self._waiting = 0
        self.bytes = 0

    def run(self, *, final: bool) -> PassReport:
        """One pass. One that is not `final` is answered by `Done` when it is applied."""
        report = self._sender.send_pass(self._emit, final=final)
        self._flush()
        self.bytes += report.bytes
        if not final:
            send(self._channel, RootfsPass())
        return report

    def _emit(self, item: Item) -> None:
        self._batch.append(item)
        size = len(item.content) if isinstance(item, Data) else 0
        self._waiting += size + ITEM
        if self._waiting >= BATCH:
            self._flush()
        if size:
            self._progress(size)

    def _flush(self) -> None:
        if self._batch:
            self._channel.send(ROOTFS_ITEMS, encode_items(self._batch))
            self._batch.clear()
            self._waiting = 0
