"""The HCCL rank table, version 1.0: which device of which server is which rank.

Ranks fill the servers in order, so that the innermost axis of the mesh lies inside a server (`placement.places`).
"""

import ipaddress
import json
from dataclasses import dataclass
from pathlib import Path

from pangu.foundation.best_effort import reason_of
from pangu.foundation.errors import UserError
from parallel_strategy.spec.strategy import Setup

# What stands in the table where no hosts were given; `export` says that it has to be filled in.
PLACEHOLDER = "FILL_IN"


@dataclass(frozen=True)
class ServerEntry:
    """One server: the address by which others reach it, and one of each device's network card."""

    address: str
    devices: tuple[str, ...]


def read_hosts(path: Path, devices_per_server: int) -> list[ServerEntry]:
    """Return a line a server, `ADDRESS DEVICE_ADDRESS…`, as many devices as a server has (hccn_tool shows theirs).

    Raises UserError that names the line.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {reason_of(error)}") from None
    hosts, seen = [], dict[str, int]()
    for number, line in enumerate(lines, 1):
        words = line.split("#")[0].split()
        if not words:
            continue
        for word in words:
            try:
                ipaddress.ip_address(word)
            except ValueError:
                raise UserError(f"{path}, line {number}: {word!r} is not an IP address") from None
            if word in seen:
                raise UserError(f"{path}, line {number}: {word} is there twice (line {seen[word]})")
            seen[word] = number
        if len(words) != 1 + devices_per_server:
            raise UserError(
                f"{path}, line {number}: has {len(words) - 1} device addresses, "
                f"a server of this cluster has {devices_per_server} devices"
            )
        hosts.append(ServerEntry(words[0], tuple(words[1:])))
    return hosts


def devices_used(setup: Setup) -> tuple[int, int]:
    """Return servers, and devices of each, that the strategy uses."""
    devices = setup.strategy.mesh.devices
    a_server = min(devices, setup.cluster.devices_per_server)
    if devices % a_server:
        raise UserError(f"mesh: {devices} devices do not fill servers of {a_server}")
    return devices // a_server, a_server


def rank_table(setup: Setup, hosts: list[ServerEntry] | None) -> str:
    """Return the table as JSON text. Raises UserError where there are too few hosts."""
    servers, a_server = devices_used(setup)
    if hosts is None:
        hosts = [
            ServerEntry(f"{PLACEHOLDER}_{s}", tuple(f"{PLACEHOLDER}_{s}_{d}" for d in range(a_server)))
            for s in range(servers)
        ]
    if len(hosts) < servers:
        raise UserError(f"--hosts names {len(hosts)} servers, the strategy needs {servers}")
    server_list = [
        {
            "server_id": host.address,
            "device": [
                {"device_id": str(device), "device_ip": address, "rank_id": str(server * a_server + device)}
                for device, address in enumerate(host.devices[:a_server])
            ],
            "host_nic_ip": "reserve",
        }
        for server, host in enumerate(hosts[:servers])
    ]
    table = {"version": "1.0", "server_count": str(servers), "server_list": server_list, "status": "completed"}
    return json.dumps(table, indent=2) + "\n"
