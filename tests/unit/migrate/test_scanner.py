"""migrate.scanner: what a scanner reads of processes and images, and what it cannot."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from migrate.address_spaces import Region
from migrate.page_batch import LITERAL, PAGE, ZERO, PageBatch, decode
from migrate.page_compare import Tally
from migrate.pagemap import PE_LAZY, PE_PARENT, PE_PRESENT, Entry, write
from migrate.process_memory import ProcessMemory
from migrate.scanner import (
    BATCH,
    FAILED,
    FRAME,
    REPORT,
    Command,
    Forget,
    Images,
    Report,
    Scan,
    Scanner,
    Setup,
    as_tally,
    read_frames,
)
from tests.unit.migrate.guinea_pig import CGROUP, GuineaPig
from tests.unit.migrate.store_lab import SEED, Lab, store_lab

SETUP = Setup(seed=SEED, worker=0, workers=1, cgroup=CGROUP)
STRIPE = 32 << 20


def frames(data: bytes) -> Iterator[tuple[int, bytes]]:
    while data:
        length, kind = FRAME.unpack(data[: FRAME.size])
        yield kind, data[FRAME.size : FRAME.size + length]
        data = data[FRAME.size + length :]


class Bench:
    """A scanner in this process, and a store that gets what it sends."""

    def __init__(self, lab: Lab, setup: Setup = SETUP) -> None:
        self.lab = lab
        self.out = io.BytesIO()
        self.scanner = Scanner(setup, self.out)
        self.batches: list[PageBatch] = []

    def do(self, *commands: Command) -> None:
        for command in commands:
            self.scanner.carry_out(command)

    def report(self) -> Tally:
        self.scanner.carry_out(Report())
        *batches, (kind, tally) = frames(self.out.getvalue())
        self.out.seek(0)
        self.out.truncate()
        assert kind == REPORT
        self.batches.clear()
        for kind, payload in batches:
            assert kind == BATCH
            self.lab.store.apply(payload)
            self.batches.append(decode(payload))
        return as_tally(tally)


@pytest.fixture
def bench() -> Iterator[Bench]:
    with store_lab() as lab:
        lab.store.announce(1, "1")
        lab.store.announce(2, "2")
        yield Bench(lab)


@pytest.fixture
def pig() -> Iterator[GuineaPig]:
    with GuineaPig(64 * PAGE) as made:
        yield made


# -- processes ------------------------------------------------------------------------------------


def test_round_by_round(bench: Bench, pig: GuineaPig) -> None:
    pig.put(1, b"a", b"b")
    pig.put(40, b"c")
    bench.do(Scan([pig.region()]))
    assert vars(bench.report()) | {"sent": 0} == vars(Tally(scanned=3, dirty=3, literal=3))
    bench.do(Scan([pig.region()]))
    assert vars(bench.report()) == vars(Tally(scanned=3))
    pig.put(2, b"d")
    pig.put(60, b"e")
    bench.do(Scan([pig.region()]))
    tally = bench.report()
    assert (tally.scanned, tally.dirty) == (4, 2)
    for page in (1, 2, 40, 60):
        assert bench.lab.page(1, pig.page + page) == pig.memory(pig.page + page)


def test_a_part_of_the_same_round(bench: Bench, pig: GuineaPig) -> None:
    pig.put(1, b"a")
    region = pig.region()
    bench.do(Scan([region]), Scan([region], begin=False))
    assert bench.report().scanned == 2
    bench.do(Scan([region]), Scan([]))
    assert bench.report().scanned == 0


def test_a_segments_pages_are_numbered_in_it(bench: Bench, pig: GuineaPig) -> None:
    address = int(pig.do("s = mmap.mmap(-1, 8 * PAGE); s[:8 * PAGE] = b'x' * 8 * PAGE; said=at(s)"))
    bench.do(Scan([Region(2, pig.pid, address + 2 * PAGE, address + 8 * PAGE, 5, True)]))
    assert bench.report().scanned == 6
    assert bench.lab.page(2, 5) == bench.lab.page(2, 10) == b"x" * PAGE
    assert bench.lab.page(2, 4) in (b"", bytes(PAGE))


def test_others_are_not_read(bench: Bench, pig: GuineaPig) -> None:
    pig.put(0, b"a")
    bench.scanner = Scanner(Setup(seed=SEED, worker=0, workers=1, cgroup="0" * 64), bench.out)
    bench.do(Scan([pig.region()]))
    assert bench.report().scanned == 0


def test_those_that_have_gone_do_not_stop_it(bench: Bench, pig: GuineaPig) -> None:
    with GuineaPig(4 * PAGE) as other:
        other.put(0, b"x")
        regions = [other.region(2), pig.region()]
    pig.put(0, b"a")
    bench.do(Scan(regions))
    assert bench.report().scanned == 1
    assert bench.lab.page(1, pig.page) == b"a" * PAGE


def test_one_that_goes_while_it_is_read(
    bench: Bench, pig: GuineaPig, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = ProcessMemory._fast
    with GuineaPig(64 * PAGE) as other:
        other.put(0, *[b"x"] * 64)
        regions = [other.region(2), other.region(2), pig.region()]

        def dies(memory: ProcessMemory, start: int, size: int) -> int:
            got = real(memory, start, size)
            other.kill()
            return got

        monkeypatch.setattr(ProcessMemory, "_fast", dies)
        monkeypatch.setattr("migrate.process_memory.CHUNK", 16 * PAGE)
        pig.put(0, b"a")
        bench.do(Scan(regions))
    assert 0 < bench.report().scanned < 64
    assert bench.lab.page(1, pig.page) == b"a" * PAGE


def test_what_is_hashed_is_what_is_sent(
    bench: Bench, pig: GuineaPig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page that changes between reading and hashing: the next round sees it."""
    pig.put(0, b"a")
    real = ProcessMemory._fast

    def changes(memory: ProcessMemory, start: int, size: int) -> int:
        got = real(memory, start, size)
        pig.put(0, b"b")
        return got

    monkeypatch.setattr(ProcessMemory, "_fast", changes)
    bench.do(Scan([pig.region()]))
    bench.report()
    assert bench.lab.page(1, pig.page) == b"a" * PAGE
    bench.do(Scan([pig.region()]))
    assert bench.report().dirty == 1
    assert bench.lab.page(1, pig.page) == b"b" * PAGE


def test_what_is_forgotten_is_sent_anew(bench: Bench, pig: GuineaPig) -> None:
    pig.put(0, b"a")
    bench.do(Scan([pig.region()]))
    bench.report()
    bench.do(Forget([1, 99]), Scan([pig.region()]))
    assert bench.report().dirty == 1


def test_workers_share_what_is_read(pig: GuineaPig) -> None:
    with GuineaPig(3 * STRIPE) as pig, store_lab() as lab:
        lab.store.announce(1, "1")
        pages = [0, 1, 5000, STRIPE // PAGE, 2 * STRIPE // PAGE - 1, 3 * STRIPE // PAGE - 1]
        for page in pages:
            pig.put(page, b"a%d" % (page % 10))
        tallies = []
        for worker in (0, 1):
            bench = Bench(lab, Setup(seed=SEED, worker=worker, workers=2, cgroup=CGROUP))
            bench.do(Scan([pig.region()]))
            tallies.append(bench.report().scanned)
        assert sum(tallies) == len(pages)
        assert all(tallies)
        for page in pages:
            assert lab.page(1, pig.page + page) == pig.memory(pig.page + page)


# -- images ---------------------------------------------------------------------------------------


class Dump:
    """An image directory of object `1`, the guinea pig."""

    def __init__(self, top: Path, pig: GuineaPig) -> None:
        self.top = top / "images"
        self.top.mkdir()
        self.pig = pig

    def write(self, *entries: tuple[int, int, int], content: bytes = b"") -> None:
        """`entries` by page of `m`, count, flags."""
        found = [Entry(self.pig.page + page, count, flags) for page, count, flags in entries]
        write(self.top / "pagemap-1.img", 4, found)
        (self.top / "pages-4.img").write_bytes(content)

    def images(self, **settings: Any) -> Images:
        return Images(str(self.top), {"1": 1}, {"1": self.pig.pid}, **settings)


@pytest.fixture
def dump(tmp_path: Path, pig: GuineaPig) -> Dump:
    return Dump(tmp_path, pig)


def test_what_criu_lists_and_was_not_read_is_read(bench: Bench, pig: GuineaPig, dump: Dump) -> None:
    pig.put(3, b"a", b"b", b"c", b"d")
    first = Region(1, pig.pid, pig.address, pig.address + 5 * PAGE, pig.page, False)
    bench.do(Scan([first]))
    dump.write((3, 4, PE_LAZY), (20, 1, PE_LAZY))
    bench.do(dump.images())
    tally = bench.report()
    # Page 20 was never written to: it is zero, and listed all the same.
    assert (tally.scanned, tally.literal, tally.zero) == (5, 4, 1)
    for page in (3, 4, 5, 6, 20):
        assert bench.lab.page(1, pig.page + page) == pig.memory(pig.page + page)


def test_what_was_read_before_the_last_round_is_read_again(
    bench: Bench, pig: GuineaPig, dump: Dump
) -> None:
    pig.put(0, b"a", b"b")
    bench.do(Scan([pig.region()]))
    bench.report()
    pig.put(0, b"x")
    dump.write((0, 2, PE_LAZY))
    bench.do(Scan([]), dump.images())
    assert bench.report().dirty == 1
    assert bench.lab.page(1, pig.page) == b"x" * PAGE


def test_with_tracking_only_what_was_never_read(bench: Bench, pig: GuineaPig, dump: Dump) -> None:
    pig.put(0, b"a", b"b")
    first = Region(1, pig.pid, pig.address, pig.address + PAGE, pig.page, False)
    bench.do(Scan([first]))
    bench.report()
    dump.write((0, 2, PE_LAZY))
    bench.do(Scan([]), dump.images(tracked=True))
    assert bench.report().scanned == 1
    assert bench.lab.page(1, pig.page + 1) == b"b" * PAGE
    bench.do(Forget([1]), Scan([]), dump.images(tracked=True))
    assert bench.report().scanned == 2


def test_what_criu_has_written_counts_most(bench: Bench, pig: GuineaPig, dump: Dump) -> None:
    """CRIU's word against ours: the stack of its parasite, for instance."""
    pig.put(0, b"a", b"b", b"c")
    bench.do(Scan([pig.region()]))
    present = PE_PRESENT | PE_LAZY
    dump.write((0, 1, PE_PRESENT), (2, 1, present), content=b"y" * PAGE + bytes(PAGE))
    bench.do(dump.images())
    bench.report()
    assert bench.lab.page(1, pig.page) == b"y" * PAGE
    assert bench.lab.page(1, pig.page + 1) == b"b" * PAGE
    assert bench.lab.page(1, pig.page + 2) == bytes(PAGE)
    assert [run.kind for run in bench.batches[-1].runs][-2:] == [LITERAL, ZERO]


def test_a_new_round_of_images(bench: Bench, dump: Dump) -> None:
    dump.write((0, 1, PE_PRESENT), content=b"y" * PAGE)
    bench.do(dump.images(begin=True))
    assert bench.report().literal == 1
    dump.write((0, 1, PE_PARENT), (1, 1, PE_PRESENT), content=b"z" * PAGE)
    bench.do(dump.images(begin=True))
    assert (tally := bench.report()).scanned == 1
    assert tally.dirty == 1


def test_a_parent_that_was_never_seen_is_an_error(bench: Bench, dump: Dump) -> None:
    dump.write((0, 1, PE_PARENT))
    with pytest.raises(ValueError, match="never read"):
        bench.do(dump.images(begin=True))


@pytest.mark.parametrize("how", ["gone", "ended", "no pid", "not mapped"])
def test_listed_pages_that_cannot_be_read_are_an_error(
    bench: Bench, pig: GuineaPig, dump: Dump, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    dump.write((0, 1, PE_LAZY))
    images = dump.images()
    if how == "gone":
        pig.kill()
    elif how == "ended":
        monkeypatch.setattr(ProcessMemory, "_fast", lambda *_: 0)
        monkeypatch.setattr("migrate.process_memory.os.preadv", lambda *_: 0)
    elif how == "no pid":
        images.pids["1"] = 0
    else:
        write(dump.top / "pagemap-1.img", 4, [Entry(1, 1, PE_LAZY)])
    with pytest.raises(ValueError, match="cannot be read"):
        bench.do(images)


def test_an_object_without_pages_needs_nothing(bench: Bench, dump: Dump) -> None:
    dump.write()
    (dump.top / "pages-4.img").unlink()
    bench.do(dump.images(begin=True))
    assert bench.report().scanned == 0


# -- the process ----------------------------------------------------------------------------------


def frame(payload: bytes) -> bytes:
    return struct.pack("<I", len(payload)) + payload


def serve(*payloads: bytes) -> tuple[int, list[tuple[int, bytes]], bytes]:
    """A scanner process; gives its exit code, what it said, and what is in its stderr."""
    done = subprocess.run(
        [sys.executable, "-I", "-m", "migrate.scanner"], input=b"".join(map(frame, payloads)),
        capture_output=True, timeout=60, check=False,
    )  # fmt: skip
    return done.returncode, list(frames(done.stdout)), done.stderr


encode = msgspec.msgpack.encode


def test_it_serves_until_its_input_ends() -> None:
    code, said, errors = serve(encode(SETUP), encode(Scan([])), encode(Report()))
    assert (code, errors) == (0, b"")
    assert [kind for kind, _ in said] == [REPORT]
    assert as_tally(said[0][1]) == Tally()
    assert serve() == (0, [], b"")


@pytest.mark.parametrize(
    "payloads",
    [
        [encode(Report())],
        [encode(SETUP), b"noise"],
        [encode(SETUP), encode(Images("/nonexistent", {}, {})), b""],
    ],
    ids=["no setup", "noise", "nothing"],
)
def test_it_says_why_it_ends(payloads: list[bytes]) -> None:
    code, said, errors = serve(*payloads)
    assert (code, errors) == (1, b"")
    assert [kind for kind, _ in said] == [FAILED]
    assert said[0][1]


def test_nobody_listens() -> None:
    """The one who leads was killed: no traceback on its terminal."""
    process = subprocess.Popen(
        [sys.executable, "-I", "-m", "migrate.scanner"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout
    process.stdout.close()
    process.stdout = None
    _, errors = process.communicate(frame(encode(SETUP)) + frame(encode(Report())), timeout=60)
    assert (process.returncode, errors) == (1, b"")


def test_frames_that_are_cut_off() -> None:
    assert list(read_frames(io.BytesIO(frame(b"abc") + frame(b"")))) == [b"abc", b""]
    assert list(read_frames(io.BytesIO(b""))) == []
