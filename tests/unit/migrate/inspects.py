"""Inspects as Docker 20.10 (API 1.41), 26 (1.45) and 28 (1.51) give them.

Written from api/docs/v1.41.yaml, v1.45.yaml and v1.51.yaml and the code of moby, cut down to what
matters and what could be in the way. The container: `docker run -d --name web -p 8080:80 -p 53/udp
-m 256m --network app redis:7`, in an `app` with the subnet 172.30.0.0/24.
"""

from __future__ import annotations

import copy
from typing import Any

ID = "4fa6e0f0c6786287e131c3852c58a2e01cc697a68231826813597e4994f1d6e2"
NETWORK_ID = "7ea29fc1412292a2d7bba362f9253545fecdfa8ce9a6e37dd10ba8bee7129812"
IMAGE_ID = "sha256:6a8ba7f0c7e14e45b2c5e3a2a1c24f0d1ac3b66b8f8d6a8b1d8e0b8f1c2d3e4f"
LAYERS = ("sha256:aaaa", "sha256:bbbb")
VOLUME_ID = "0123456789abcdef" * 4
APIS = ("1.41", "1.45", "1.51")

_CONTAINER: dict[str, Any] = {
    "Id": ID,
    "Created": "2026-11-22T20:00:00.000000000Z",
    "Path": "docker-entrypoint.sh",
    "Args": ["redis-server"],
    "State": {
        "Status": "running",
        "Running": True,
        "Paused": False,
        "Restarting": False,
        "OOMKilled": False,
        "Dead": False,
        "Pid": 4321,
        "ExitCode": 0,
    },
    "Image": IMAGE_ID,
    "Name": "/web",
    "RestartCount": 0,
    "Driver": "overlay2",
    "Platform": "linux",
    "AppArmorProfile": "docker-default",
    "ExecIDs": None,
    "HostConfig": {
        "Binds": None,
        "ContainerIDFile": "",
        "LogConfig": {"Type": "json-file", "Config": {}},
        "NetworkMode": "app",
        "PortBindings": {
            "53/udp": [{"HostIp": "", "HostPort": ""}],
            "80/tcp": [{"HostIp": "", "HostPort": "8080"}],
        },
        "RestartPolicy": {"Name": "unless-stopped", "MaximumRetryCount": 0},
        "AutoRemove": False,
        "VolumeDriver": "",
        "VolumesFrom": None,
        "ConsoleSize": [24, 80],
        "CapAdd": None,
        "CapDrop": ["NET_RAW"],
        "CgroupnsMode": "private",
        "Dns": [],
        "DnsOptions": [],
        "DnsSearch": [],
        "ExtraHosts": None,
        "GroupAdd": None,
        "IpcMode": "private",
        "Cgroup": "",
        "Links": None,
        "OomScoreAdj": 0,
        "PidMode": "",
        "Privileged": False,
        "PublishAllPorts": False,
        "ReadonlyRootfs": False,
        "SecurityOpt": None,
        "UTSMode": "",
        "UsernsMode": "",
        "ShmSize": 67108864,
        "Runtime": "runc",
        "Isolation": "",
        "CpuShares": 0,
        "Memory": 268435456,
        "NanoCpus": 0,
        "CgroupParent": "",
        "BlkioWeight": 0,
        "BlkioWeightDevice": [],
        "CpuPeriod": 0,
        "CpusetCpus": "",
        "Devices": [],
        "DeviceCgroupRules": None,
        "DeviceRequests": None,
        "MemoryReservation": 0,
        "MemorySwap": 536870912,
        "MemorySwappiness": None,
        "OomKillDisable": None,
        "PidsLimit": None,
        "Ulimits": [],
        "CpuCount": 0,
        "CpuPercent": 0,
        "IOMaximumIOps": 0,
        "IOMaximumBandwidth": 0,
        "MaskedPaths": ["/proc/kcore", "/sys/firmware"],
        "ReadonlyPaths": ["/proc/sys"],
    },
    "Mounts": [],
    "Config": {
        "Hostname": ID[:12],
        "Domainname": "",
        "User": "",
        "AttachStdin": False,
        "AttachStdout": True,
        "AttachStderr": True,
        "ExposedPorts": {"53/udp": {}, "80/tcp": {}},
        "Tty": False,
        "OpenStdin": False,
        "StdinOnce": False,
        "Env": ["PATH=/usr/local/bin:/usr/bin:/bin", "MODE=test"],
        "Cmd": ["redis-server"],
        "Image": "redis:7",
        "Volumes": None,
        "WorkingDir": "/data",
        "Entrypoint": ["docker-entrypoint.sh"],
        "OnBuild": None,
        "Labels": {"team": "game"},
    },
    "NetworkSettings": {
        "Ports": {
            "53/udp": [
                {"HostIp": "0.0.0.0", "HostPort": "32768"},
                {"HostIp": "::", "HostPort": "32768"},
            ],
            "80/tcp": [
                {"HostIp": "0.0.0.0", "HostPort": "8080"},
                {"HostIp": "::", "HostPort": "8080"},
            ],
            "9000/tcp": None,
        },
        "Networks": {
            "app": {
                "IPAMConfig": None,
                "Links": None,
                "Aliases": None,
                "MacAddress": "02:42:ac:1e:00:05",
                "NetworkID": NETWORK_ID,
                "Gateway": "172.30.0.1",
                "IPAddress": "172.30.0.5",
                "IPPrefixLen": 24,
                "IPv6Gateway": "",
                "GlobalIPv6Address": "",
                "GlobalIPv6PrefixLen": 0,
                "DriverOpts": None,
            }
        },
    },
}


def container(api: str) -> dict[str, Any]:
    """The running container as the Docker of that API version shows it; free to be changed."""
    result = copy.deepcopy(_CONTAINER)
    endpoint = result["NetworkSettings"]["Networks"]["app"]
    if api == "1.41":
        endpoint["Aliases"] = ["cache", ID[:12]]
        result["HostConfig"] |= {"CgroupnsMode": "host", "KernelMemory": 0, "KernelMemoryTCP": 0}
        result["HostConfig"]["RestartPolicy"] = {"Name": "always", "MaximumRetryCount": 0}
    else:
        endpoint["Aliases"] = ["cache"]
        endpoint["DNSNames"] = ["web", "cache", ID[:12]]
    if api == "1.51":
        endpoint["GwPriority"] = 0
        endpoint["MacAddress"] = "f2:0a:11:22:33:44"
        result["ImageManifestDescriptor"] = {"mediaType": "application/vnd.oci.image.manifest.v1"}
        result["HostConfig"]["ConsoleSize"] = [0, 0]
    return result


def image() -> dict[str, Any]:
    """`GET /images/redis:7/json`."""
    return {
        "Id": IMAGE_ID,
        "RepoTags": ["redis:7"],
        "RepoDigests": ["redis@sha256:cccc"],
        "Architecture": "amd64",
        "Os": "linux",
        "RootFS": {"Type": "layers", "Layers": list(LAYERS)},
    }


def network(name: str = "app", subnet: str = "172.30.0.0/24", **more: Any) -> dict[str, Any]:
    """One entry of `GET /networks`: a bridge network whose gateway is the first address."""
    gateway = subnet.rpartition(".")[0] + ".1"
    return {
        "Name": name,
        "Id": NETWORK_ID if name == "app" else name * 8,
        "Scope": "local",
        "Driver": "bridge",
        "EnableIPv6": False,
        "IPAM": {
            "Driver": "default",
            "Options": {},
            "Config": [{"Subnet": subnet, "Gateway": gateway}],
        },
        "Internal": False,
        "Attachable": False,
        "Options": {"com.docker.network.driver.mtu": "1400"},
        "Labels": {"com.docker.compose.network": "app"},
        **more,
    }


def listed(name: str, state: str = "running", **more: Any) -> dict[str, Any]:
    """One entry of `GET /containers/json`."""
    return {
        "Id": f"id-of-{name}",
        "Names": [f"/{name}"],
        "State": state,
        "Ports": [],
        "NetworkSettings": {"Networks": {}},
        **more,
    }


def volume(name: str, target: str) -> dict[str, Any]:
    """One entry of the top-level Mounts of an inspect: a local volume."""
    return {"Type": "volume", "Name": name, "Destination": target, "Driver": "local", "RW": True}
