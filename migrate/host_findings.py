"""Judge a host's facts: what is missing for a migration, and what to do about it."""

from __future__ import annotations

from migrate.host_facts import (
    FATAL_OPTIONS,
    RUNTIME,
    SILENT_OPTIONS,
    DockerFacts,
    Finding,
    HostFacts,
    parse_version,
)

# The oldest criu that Debian 12 and Ubuntu 22.04 have, and the oldest this is made for.
CRIU_AT_LEAST = (3, 17)
# From Linux 6.16 on, criu before 4.2 fails at every inet socket with `Can't get 1:16 opt`, though
# `criu check` is content (criu issues 2705, 2718, 2829; seen with Debian 13's 4.1.1).
KERNEL_NEEDS_NEW_CRIU = (6, 16)
CRIU_FOR_NEW_KERNEL = (4, 2)
DOCKER_AT_LEAST = (20, 10)


def findings(facts: HostFacts) -> list[Finding]:
    """Everything that was looked at, good and bad, in the order in which to put it right."""
    return [
        *_kernel(facts),
        _criu(facts),
        _pycriu(facts),
        *_docker(facts.docker, facts.docker_reason),
        _runc(facts),
        _firewall(facts),
        _runtime(facts),
    ]


def criu_needed(kernel: str) -> tuple[int, ...]:
    """The oldest criu version that can dump sockets on a kernel of this release."""
    version = parse_version(kernel)
    new = version is not None and version >= KERNEL_NEEDS_NEW_CRIU
    return CRIU_FOR_NEW_KERNEL if new else CRIU_AT_LEAST


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(str(part) for part in version)


def _kernel(facts: HostFacts) -> list[Finding]:
    options = facts.kernel_options
    if options is None:
        what = f"Linux {facts.kernel} does not say how it was built"
        return [Finding(True, what, "the CRIU probe has to tell whether it can checkpoint")]
    found = [
        Finding(
            False,
            f"Linux {facts.kernel} was built without CONFIG_{option}",
            "boot a kernel that has it, such as your distribution's own",
            "HostUnfit",
        )
        for option in FATAL_OPTIONS
        if not options.get(option)
    ]
    weak = [
        f"CONFIG_{option}"
        for option, value in options.items()
        if not value and option not in FATAL_OPTIONS + SILENT_OPTIONS
    ]
    if weak:
        what = f"Linux {facts.kernel} was built without {', '.join(weak)}"
        found.append(Finding(True, what, "containers that use it cannot be dumped"))
    return found or [Finding(True, f"Linux {facts.kernel} can checkpoint and restore")]


def _criu(facts: HostFacts) -> Finding:
    install = "install it: `apt-get install criu`"
    if facts.criu_path is None:
        return Finding(False, "criu is not installed", install, "CriuUnfit")
    if facts.criu_version is None:
        what = f"{facts.criu_path} does not run or does not tell its version"
        return Finding(False, what, f"see what `{facts.criu_path} --version` says", "CriuUnfit")
    needed = criu_needed(facts.kernel)
    has = f"criu {_dotted(facts.criu_version)}"
    if facts.criu_version >= needed:
        return Finding(True, has)
    if needed == CRIU_FOR_NEW_KERNEL:
        what = f"{has} cannot dump network sockets on Linux {facts.kernel}: 4.2 is needed there"
    else:
        what = f"{has} is too old: {_dotted(needed)} is needed"
    return Finding(
        False,
        what,
        "take criu, libcompel1, libnet9 and python3-pycriu from Debian testing (README, Install)",
        "CriuUnfit",
    )


def _pycriu(facts: HostFacts) -> Finding:
    if facts.pycriu:
        return Finding(True, "pycriu can be imported")
    return Finding(
        False,
        f"pycriu cannot be imported: {facts.pycriu_reason}",
        "install it with criu: `apt-get install python3-pycriu`, and let migrate's virtual"
        " environment see the system's packages (install.sh does)",
        "HostUnfit",
    )


def _docker(docker: DockerFacts | None, reason: str) -> list[Finding]:
    if docker is None:
        remedy = "start dockerd (`systemctl start docker`), or install it; be root or in its group"
        return [Finding(False, reason, remedy, "DockerUnavailable")]
    version = parse_version(docker.version)
    if version is not None and version < DOCKER_AT_LEAST:
        what = f"Docker {docker.version} is too old: {_dotted(DOCKER_AT_LEAST)} is needed"
        return [Finding(False, what, "upgrade Docker", "HostUnfit")]
    return [Finding(True, f"Docker {docker.version}, storage driver {docker.storage_driver}")]


def _runc(facts: HostFacts) -> Finding:
    if facts.runc_version is None:
        remedy = "install it: `apt-get install runc`, or Docker's own containerd.io"
        return Finding(False, "runc is missing or does not run", remedy, "HostUnfit")
    return Finding(True, f"runc {_dotted(facts.runc_version)}")


def _firewall(facts: HostFacts) -> Finding:
    if not facts.nft:
        return Finding(
            False,
            "nft is missing: connections could not be held during a move",
            "install it: `apt-get install nftables`",
            "HostUnfit",
        )
    if not facts.iptables:
        # Docker's own rules, and the lock of a criu built without nftables.
        return Finding(True, "nft, but no iptables", "`apt-get install iptables`, should CRIU ask")
    return Finding(True, "nft and iptables")


def _runtime(facts: HostFacts) -> Finding:
    if facts.docker is None:
        return Finding(True, f"whether Docker knows the runtime `{RUNTIME}` cannot be told")
    setup = "run `migrate setup`"
    if facts.runtime_path is None:
        what = f"Docker does not know the runtime `{RUNTIME}`"
        return Finding(False, what, setup, "RuntimeMissing")
    if not facts.runtime_runs:
        what = f"Docker's runtime `{RUNTIME}` is {facts.runtime_path}, which cannot be run"
        remedy = "install migrate again, or run `migrate setup --undo` and `migrate setup`"
        return Finding(False, what, remedy, "RuntimeMissing")
    return Finding(True, f"Docker's runtime `{RUNTIME}` is {facts.runtime_path}")
