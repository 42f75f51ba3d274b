"""migrate.scanners: real scanner processes, which read real memory, and end in all ways."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from migrate.address_spaces import Objects
from migrate.errors import DumpFailed
from migrate.page_batch import PAGE, digest
from migrate.page_compare import Tally
from migrate.scanner import Cached, Forget, Images, Scan
from migrate.scanners import Scanners
from tests.unit.migrate.guinea_pig import CGROUP, GuineaPig
from tests.unit.migrate.store_lab import SEED, Lab, store_lab
from transport.errors import ConnectionLost

STRIPE = 32 << 20


@contextmanager
def scanning(
    send: Callable[[bytes], None], workers: int = 2, cgroup: str = CGROUP
) -> Iterator[Scanners]:
    made = Scanners(SEED, cgroup, send, workers)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def pig() -> Iterator[GuineaPig]:
    with GuineaPig(4 * STRIPE) as made:
        yield made


@pytest.fixture
def lab() -> Iterator[Lab]:
    with store_lab() as made:
        made.store.announce(1, "1")
        yield made


class Taking:
    """Takes batches from several threads into a store."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.threads: set[str] = set()
        self.bytes = 0
        self._lock = threading.Lock()

    def __call__(self, payload: bytes) -> None:
        with self._lock:
            self.threads.add(threading.current_thread().name)
            self.lab.store.apply(payload)
            self.bytes += len(payload)


def talk(scanners: Scanners) -> None:
    """Commands, until the pipe does not take them any more."""
    for _ in range(1000):
        scanners.command(Forget(list(range(1000))))


def pids_of(scanners: Scanners) -> list[int]:
    return [process.pid for process in scanners._processes]


def test_two_workers_bring_all_of_it(pig: GuineaPig, lab: Lab) -> None:
    step = 97
    pig.do(
        f"for i in range(0, len(m) // PAGE, {step}): "
        "m[i*PAGE:(i+1)*PAGE] = (i + 1).to_bytes(8, 'big') * 512"
    )
    where = range(0, pig.size // PAGE, step)
    taking = Taking(lab)
    with scanning(taking) as scanners:
        scanners.command(Scan([pig.region()]))
        tally = scanners.report()
        assert (tally.scanned, tally.literal) == (len(where), len(where))
        assert tally.sent == taking.bytes
        assert taking.threads == {"scanner-0", "scanner-1"}
        for page in where:
            assert lab.page(1, pig.page + page) == (page + 1).to_bytes(8, "big") * 512
        pig.put(2 * step, b"new")
        pig.put(STRIPE // PAGE + 5, b"new")
        scanners.command(Scan([pig.region()]))
        tally = scanners.report()
        assert (tally.scanned, tally.dirty) == (len(where) + 1, 2)
        for page in (2 * step, STRIPE // PAGE + 5):
            assert lab.page(1, pig.page + page) == pig.memory(pig.page + page)


def test_all_memory_of_a_process(lab: Lab, pig: GuineaPig) -> None:
    """All mappings of a stopped process: its heap, stack, libraries' data."""
    pig.put(0, b"a", b"b", b"\0")
    pig.do("s = mmap.mmap(-1, 20 * PAGE); s[:3 * PAGE] = b'shared' * 2048")
    pig.stop()
    objects = Objects(pig.pid)
    regions = objects.regions([pig.pid], frozen=False)
    for number, name in objects.take_new():
        if number > 1:
            lab.store.announce(number, name)
    with scanning(Taking(lab)) as scanners:
        scanners.command(Scan(regions))
        first = scanners.report()
        assert first.scanned > 100
        scanners.command(Scan(regions))
        assert vars(scanners.report()) == vars(Tally(scanned=first.scanned))
    checked = 0
    for region in regions:
        for at in range(region.start, region.end, PAGE):
            page = region.page + (at - region.start) // PAGE
            if lab.store._objects[region.object].given.has(page, 1):
                assert lab.page(region.object, page) == pig.memory(at // PAGE)
                checked += 1
    assert checked == first.scanned


def test_cached_pages_are_known(pig: GuineaPig, lab: Lab) -> None:
    content = b"k" * PAGE
    pig.put(0, b"k")
    lab.cache[digest(content, SEED)] = content
    with scanning(Taking(lab)) as scanners:
        scanners.command(Cached(digest(content, SEED) + digest(b"other" * PAGE, SEED)))
        scanners.command(Scan([pig.region()]))
        assert scanners.report().cached == 1
    assert lab.page(1, pig.page) == content


def test_a_process_that_ends_in_the_middle(pig: GuineaPig, lab: Lab) -> None:
    count = pig.size // PAGE
    pig.do(f"for i in range({count}): m[i*PAGE:i*PAGE+8] = (i + 1).to_bytes(8, 'big')")
    taking = Taking(lab)

    def take(payload: bytes) -> None:
        pig.kill()
        taking(payload)

    with scanning(take) as scanners:
        scanners.command(Scan([pig.region()]))
        assert 0 < scanners.report().scanned < count
        scanners.command(Scan([pig.region()]))
        assert scanners.report().scanned == 0


def test_one_that_is_not_of_the_cgroup_is_not_read(pig: GuineaPig) -> None:
    pig.put(0, b"secret")
    sent: list[bytes] = []
    with scanning(sent.append, cgroup="0" * 64) as scanners:
        scanners.command(Scan([pig.region()]))
        assert scanners.report() == Tally()
    assert sent == []


@pytest.mark.parametrize("worker", [0, 1])
def test_one_that_is_killed_is_a_failure_and_nothing_hangs(pig: GuineaPig, worker: int) -> None:
    with scanning(lambda payload: None) as scanners:
        scanners.command(Scan([pig.region()]))
        scanners.report()
        os.kill(pids_of(scanners)[worker], signal.SIGKILL)
        for _ in range(3):
            with pytest.raises(DumpFailed, match="has ended"):
                scanners.report()
        with pytest.raises(DumpFailed, match="has ended"):
            talk(scanners)


def test_one_that_is_killed_while_it_is_waited_for(pig: GuineaPig) -> None:
    with scanning(lambda payload: None, workers=1) as scanners:
        (pid,) = pids_of(scanners)
        os.kill(pid, signal.SIGSTOP)
        timer = threading.Timer(0.2, lambda: os.kill(pid, signal.SIGKILL))
        timer.start()
        with pytest.raises(DumpFailed, match="has ended"):
            scanners.report()


def test_what_a_scanner_says_is_what_is_raised(tmp_path: Path) -> None:
    """Also when its end is noticed by a command that cannot be written any more."""
    with scanning(lambda payload: None) as scanners:
        (tmp_path / "pagemap-1.img").write_bytes(b"no pagemap")
        scanners.command(Images(str(tmp_path), {"1": 1}, {"1": 0}))
        with pytest.raises(DumpFailed, match="no pagemap"):
            talk(scanners)
        with pytest.raises(DumpFailed, match="no pagemap"):
            scanners.report()


def test_a_link_that_breaks_is_what_is_raised(pig: GuineaPig) -> None:
    """Not that the scanner was ended for it: a lost link is another case for the one who asks."""
    pig.do("for i in range(0, len(m), PAGE): m[i:i+8] = i.to_bytes(8, 'big')")

    def broken(payload: bytes) -> None:
        raise ConnectionLost("no more")

    with scanning(broken) as scanners:
        scanners.command(Scan([pig.region()]))
        for _ in range(2):
            with pytest.raises(ConnectionLost, match="no more"):
                scanners.report()
        with pytest.raises(ConnectionLost, match="no more"):
            talk(scanners)


def test_it_can_be_ended_in_the_middle_of_a_round(pig: GuineaPig) -> None:
    pig.do("for i in range(0, len(m), PAGE): m[i:i+8] = i.to_bytes(8, 'big')")
    begun = threading.Event()

    def slow(payload: bytes) -> None:
        begun.set()
        time.sleep(0.02)

    before = len(os.listdir("/proc/self/fd"))
    with scanning(slow) as scanners:
        scanners.command(Scan([pig.region()]))
        assert begun.wait(30)
        pids = pids_of(scanners)
    for pid in pids:
        assert not Path(f"/proc/{pid}").exists()
    assert not any(t.name.startswith("scanner-") for t in threading.enumerate())
    assert len(os.listdir("/proc/self/fd")) == before


def test_ctrl_c_is_not_for_them(pig: GuineaPig) -> None:
    with scanning(lambda payload: None) as scanners:
        for pid in pids_of(scanners):
            assert os.getpgid(pid) == pid != os.getpgrp()


def test_a_folder_in_which_things_are_called_like_modules(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "struct.py").write_text("raise SystemExit(3)")
    (tmp_path / "migrate").mkdir()
    (tmp_path / "migrate" / "scanner.py").write_text("raise SystemExit(3)")
    monkeypatch.chdir(tmp_path)
    with scanning(lambda payload: None) as scanners:
        assert scanners.report() == Tally()


def test_as_many_as_there_are_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("migrate.scanners.os.cpu_count", lambda: 1)
    with scanning(lambda payload: None, workers=0) as scanners:
        assert len(scanners._processes) == 1
    monkeypatch.setattr("migrate.scanners.os.cpu_count", lambda: 64)
    with scanning(lambda payload: None, workers=0) as scanners:
        assert len(scanners._processes) == 2


def test_one_that_cannot_begin_leaves_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    before = len(os.listdir("/proc/self/fd"))

    def refuse(*_: object) -> None:
        raise DumpFailed("no")

    monkeypatch.setattr(Scanners, "_tell", refuse)
    with pytest.raises(DumpFailed, match="no"):
        Scanners(SEED, CGROUP, lambda payload: None)
    assert not any(t.name.startswith("scanner-") for t in threading.enumerate())
    assert len(os.listdir("/proc/self/fd")) == before
