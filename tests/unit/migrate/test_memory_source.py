"""migrate.memory_source: rounds over a real process arrive; what each source asks, in its order."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from migrate import memory_source as module
from migrate.address_spaces import Objects
from migrate.criu import DumpTarget
from migrate.errors import DumpFailed
from migrate.memory_source import CriuPreDump, MemoryScan, objects_in
from migrate.messages import DropObjects, MemoryObject, MemoryRound
from migrate.page_batch import DIGEST, PAGE, digest
from migrate.page_compare import Tally
from migrate.pagemap import PE_LAZY, PE_PARENT, PE_PRESENT, Entry, write
from migrate.protocol import MESSAGE, PAGES, decode_request
from migrate.scanner import Cached, Command, Forget, Images, Scan
from migrate.undo import start_time
from tests.unit.migrate.guinea_pig import GuineaPig, container
from tests.unit.migrate.memory_channel import MemoryChannel, pair
from tests.unit.migrate.store_lab import SEED, Lab, store_lab


class Far:
    """The other end: gives everything to a store, as the agent would."""

    def __init__(self, channel: MemoryChannel, lab: Lab) -> None:
        self.channel = channel
        self.lab = lab
        self.names: dict[str, int] = {}
        self.rounds = 0

    def take(self) -> list[str]:
        """All that has come; gives the names of its messages."""
        heard = []
        while not self.channel.inbox.empty():
            frame = self.channel.receive()
            if frame.kind == PAGES:
                self.lab.store.apply(frame.payload)
                continue
            assert frame.kind == MESSAGE
            message = decode_request(frame.payload)
            heard.append(type(message).__name__)
            match message:
                case MemoryObject(number, name):
                    self.lab.store.announce(number, name)
                    self.names[name] = number
                case DropObjects(numbers):
                    self.lab.store.drop(numbers)
                    self.names = {n: i for n, i in self.names.items() if i not in numbers}
                case MemoryRound():
                    self.rounds += 1
        return heard

    def has(self, pig: GuineaPig, *pages: int) -> None:
        number = self.names[str(pig.pid)]
        for page in pages:
            assert self.lab.page(number, pig.page + page) == pig.memory(pig.page + page)


@pytest.fixture
def pig() -> Iterator[GuineaPig]:
    with GuineaPig(64 * PAGE) as made:
        yield made


@pytest.fixture
def lab() -> Iterator[Lab]:
    with store_lab() as made:
        yield made


def target(top: Path, *pids: int) -> DumpTarget:
    return DumpTarget(pids[0], {"root": {"path": "/"}}, container(top, *pids))


# -- reading all of it ----------------------------------------------------------------------------


@pytest.fixture
def scan(tmp_path: Path, pig: GuineaPig, lab: Lab) -> Iterator[tuple[MemoryScan, Far]]:
    here, there = pair()
    known = digest(b"k" * PAGE, SEED)
    lab.cache[known] = b"k" * PAGE
    # More digests than one command takes.
    cached = bytes(module.CACHED_AT_ONCE) + known
    source = MemoryScan(target(tmp_path, pig.pid), here, SEED, cached)
    yield source, Far(there, lab)
    source.close()


def test_from_the_first_round_to_the_last(
    scan: tuple[MemoryScan, Far], pig: GuineaPig, lab: Lab
) -> None:
    source, far = scan
    pig.put(0, b"a", b"k", b"\0", b"c")
    first = source.round()
    assert first.cached == 1
    heard = far.take()
    assert (heard[0], heard[-1], far.rounds) == ("MemoryObject", "MemoryRound", 1)
    far.has(pig, 0, 1, 2, 3)
    pig.put(3, b"d", b"e")
    again = source.round()
    assert 2 <= again.dirty < first.dirty  # Python itself has written, too
    assert far.take() == ["MemoryRound"]
    far.has(pig, 3, 4)
    # Frozen: the scan begins while CRIU dumps.
    pig.put(10, b"f")
    pig.stop()
    source.frozen()
    number = far.names[str(pig.pid)]
    entries = [Entry(pig.page, 12, PE_LAZY), Entry(pig.page + 20, 1, PE_PRESENT)]
    write(lab.images / f"pagemap-{pig.pid}.img", 3, entries)
    (lab.images / "pages-3.img").write_bytes(b"z" * PAGE)
    write(lab.images / "pagemap-shmem-7.img", 4, [Entry(0, 1, PE_PRESENT)])
    (lab.images / "pages-4.img").write_bytes(b"s" * PAGE)
    source.dumped(lab.images)
    last = source.finish()
    assert last.dirty >= 3
    assert "MemoryRound" not in far.take()
    far.has(pig, *range(12))
    assert lab.page(number, pig.page + 20) == b"z" * PAGE
    assert lab.page(far.names["shmem-7"], 0) == b"s" * PAGE
    for image in lab.images.glob("pages-*.img"):  # these are not sent
        image.unlink()
    lab.store.adopt(lab.images)  # nothing is missing


def test_a_process_that_has_gone_is_dropped(
    scan: tuple[MemoryScan, Far], pig: GuineaPig, tmp_path: Path
) -> None:
    source, far = scan
    with GuineaPig(4 * PAGE) as other:
        other.put(0, b"x", b"y")
        container(tmp_path, pig.pid, other.pid)
        source.round()
        far.take()
        far.has(other, 0, 1)
    pig.put(0, b"x")  # not to be copied from the one that has gone
    source.round()
    assert far.take() == ["DropObjects", "MemoryRound"]
    assert set(far.names) == {str(pig.pid)}
    far.has(pig, 0)


def test_a_failure_is_raised_and_closing_ends_all(scan: tuple[MemoryScan, Far]) -> None:
    source, _ = scan
    source.close()
    with pytest.raises((DumpFailed, ValueError)):
        source.round()


# -- what is asked, in which order ----------------------------------------------------------------


class Recorder:
    """Stands for the scanners."""

    log: list[Any]

    def __init__(self, seed: int, cgroup: str, send: Any) -> None:
        self.log = []
        self.closed = False
        self.refuse = False

    def command(self, command: Command) -> None:
        self.log.append(command)
        if isinstance(command, Cached) and command.digests == b"x" * DIGEST:
            raise DumpFailed("no")

    def report(self) -> Tally:
        self.log.append("report")
        return Tally()

    def close(self) -> None:
        self.closed = True


class PreDumps:
    """Stands for CRIU's pre-dumps of the guinea pig."""

    def __init__(self, pig: GuineaPig) -> None:
        self.pig = pig
        self.parents: list[str] = []
        self.names = [str(pig.pid)]

    def __call__(self, target: DumpTarget, images: Path, work: Path, parent: str) -> None:
        assert work.is_dir()
        if parent:
            assert (images / parent).is_dir()
        self.parents.append(parent)
        for number, name in enumerate(self.names):
            write(images / f"pagemap-{name}.img", number, [Entry(self.pig.page, 1, PE_PRESENT)])
            (images / f"pages-{number}.img").write_bytes(b"p" * PAGE)


class PreDumped:
    def __init__(self, base: Path, pig: GuineaPig, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "Scanners", Recorder)
        self.dumps = PreDumps(pig)
        monkeypatch.setattr(module, "pre_dump", self.dumps)
        here, self.far = pair()
        (base / "work").mkdir()
        self.base = base
        self.source = CriuPreDump(target(base, pig.pid), here, SEED, base)

    @property
    def log(self) -> list[Any]:
        found: list[Any] = self.source._scanners.log  # type: ignore[attr-defined]
        return found

    def heard(self) -> list[Any]:
        found = []
        while not self.far.inbox.empty():
            found.append(decode_request(self.far.receive().payload))
        return found


@pytest.fixture
def dumped(tmp_path: Path, pig: GuineaPig, monkeypatch: pytest.MonkeyPatch) -> PreDumped:
    return PreDumped(tmp_path, pig, monkeypatch)


def test_pre_dumps_follow_each_other(dumped: PreDumped, pig: GuineaPig) -> None:
    dumped.source.round()
    dumped.source.round()
    assert dumped.dumps.parents == ["", "../pre-1"]
    images = [command for command in dumped.log if isinstance(command, Images)]
    assert [Path(command.directory).name for command in images] == ["pre-1", "pre-2"]
    assert all(command.begin and not command.tracked for command in images)
    assert images[0].numbers == images[1].numbers == {str(pig.pid): 1}
    assert dumped.log == [images[0], "report", images[1], "report"]
    # What was read is needed no more; which pages there were is.
    for directory in ("pre-1", "pre-2"):
        assert (dumped.base / directory / "pages-0.img").stat().st_size == 0
        assert (dumped.base / directory / f"pagemap-{pig.pid}.img").stat().st_size > 0
    assert dumped.heard() == [
        MemoryObject(number=1, name=str(pig.pid)), MemoryRound(), MemoryRound()
    ]  # fmt: skip


def test_what_a_pre_dump_has_no_more_is_dropped(dumped: PreDumped, pig: GuineaPig) -> None:
    dumped.dumps.names += ["99", "shmem-4"]
    dumped.source.round()
    del dumped.dumps.names[1:]
    dumped.heard()
    dumped.log.clear()
    dumped.source.round()
    assert dumped.heard()[0] == DropObjects(numbers=dumped.log[0].objects)
    assert len(dumped.log[0].objects) == 2
    assert isinstance(dumped.log[1], Images)


def scans(log: list[Any]) -> list[Scan]:
    return [command for command in log if isinstance(command, Scan)]


def test_the_last_round_reads_what_was_written_to_also_code(
    dumped: PreDumped, pig: GuineaPig, tmp_path: Path
) -> None:
    """Executable memory waits until CRIU has taken its own code out of it; that nobody has read it
    in this round does not mean that it is as it was: a JIT compiler writes there."""
    pig.do("x = private(PAGE, prot=7)")
    code = int(pig.do("said = at(x)"))
    dumped.source.round()
    dumped.source.frozen()
    (first,) = scans(dumped.log)
    assert first.begin
    assert first.tracked
    assert not any(region.start <= code < region.end for region in first.regions)
    final = tmp_path / "final"
    final.mkdir()
    write(final / f"pagemap-{pig.pid}.img", 1, [Entry(pig.page, 1, PE_PARENT)])
    dumped.log.clear()
    dumped.source.dumped(final)
    second, images = dumped.log
    assert (second.begin, second.tracked) == (False, True)
    assert any(region.start <= code < region.end for region in second.regions)
    assert images == Images(str(final), {str(pig.pid): 1}, {str(pig.pid): pig.pid}, False, True)


def test_without_a_pre_dump_nothing_is_tracked(dumped: PreDumped, tmp_path: Path) -> None:
    dumped.source.frozen()
    dumped.source.dumped(tmp_path)
    assert [scan.tracked for scan in scans(dumped.log)] == [False, False]
    assert [command.tracked for command in dumped.log if isinstance(command, Images)] == [False]


def test_a_process_that_is_the_same_keeps_its_pages(dumped: PreDumped) -> None:
    dumped.source.round()
    dumped.source.frozen()
    assert [each.objects for each in dumped.log if isinstance(each, Forget)] in ([], [[]])


@pytest.mark.parametrize("when", ["born again", "born since"])
def test_one_that_was_forked_since_has_none(
    dumped: PreDumped, pig: GuineaPig, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """The kernel calls its pages clean, as its parent's are; the destination may have others at
    that pid."""
    dumped.source.round()
    if when == "born since":
        dumped.source._born.clear()
    else:
        real = start_time(pig.pid)
        assert real
        monkeypatch.setattr(module, "start_time", lambda pid: real + 1)
    dumped.source.frozen()
    forgotten = [each.objects for each in dumped.log if isinstance(each, Forget)]
    assert forgotten == [[1]]
    assert isinstance(dumped.log[-1], Scan)  # after it
    # The destination keeps what it has: the pages are written in their places.
    assert not any(isinstance(each, DropObjects) for each in dumped.heard())


def test_a_pre_dump_that_fails_is_no_round(
    dumped: PreDumped, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise DumpFailed("no")

    monkeypatch.setattr(module, "pre_dump", fail)
    with pytest.raises(DumpFailed, match="no"):
        dumped.source.round()
    assert dumped.heard() == []
    assert "report" not in dumped.log


def test_scanners_that_cannot_be_told_are_ended(
    tmp_path: Path, pig: GuineaPig, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Recorder] = []

    class Kept(Recorder):
        def __init__(self, *given: Any) -> None:
            super().__init__(*given)
            made.append(self)

    monkeypatch.setattr(module, "Scanners", Kept)
    with pytest.raises(DumpFailed):
        MemoryScan(target(tmp_path, pig.pid), pair()[0], SEED, b"x" * DIGEST)
    assert made[0].closed


def test_the_last_round_of_a_scan_reads_everything(
    tmp_path: Path, pig: GuineaPig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "Scanners", Recorder)
    source = MemoryScan(target(tmp_path, pig.pid), pair()[0], SEED)
    source.round()
    source.frozen()
    source.dumped(tmp_path)
    log: list[Any] = source._scanners.log  # type: ignore[attr-defined]
    first, report, last, images = log
    assert report == "report"
    assert first.begin
    assert last.begin
    assert not last.tracked
    assert not images.tracked
    assert not images.begin
    executable = Objects(pig.pid)
    executable.regions([pig.pid], frozen=True)
    assert len(first.regions) - len(last.regions) == len(executable.executable)


def test_names_of_a_directory(tmp_path: Path) -> None:
    for name in ("pagemap-1.img", "pagemap-shmem-4.img", "pages-1.img", "core-1.img"):
        (tmp_path / name).touch()
    assert sorted(objects_in(tmp_path)) == ["1", "shmem-4"]
