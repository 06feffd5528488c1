"""What Azure's functions answer, without Azure: for Bicep and ARM templates alike.

Ids and addresses that only Azure knows are stand-ins, the same ones whichever template asks.
"""

import base64
import ipaddress
import json
import uuid
import zlib

SUBSCRIPTION = "/subscriptions/00000000-0000-0000-0000-000000000000"
GROUP = {"id": f"{SUBSCRIPTION}/resourceGroups/group", "name": "group", "location": "westeurope"}


def resource_id(*arguments):
    """resourceId([group,] type, name, ...)"""
    group, arguments = (arguments[0], arguments[1:]) if "/" not in arguments[0] else (GROUP["name"], arguments)
    provider, *types = arguments[0].split("/")
    if len(types) != len(arguments) - 1:
        raise ValueError(f"{arguments[0]} takes {len(types)} names, not {len(arguments) - 1}")
    path = "".join(f"/{kind}/{name}" for kind, name in zip(types, arguments[1:]))
    return f"{SUBSCRIPTION}/resourceGroups/{group}/providers/{provider}{path}"


def known_at_run_time(resource):
    """The properties that a deployed resource would have, as far as templates ask for them."""
    number = zlib.crc32(resource.encode())
    return {
        "ipAddress": f"198.18.{number >> 8 & 255}.{number & 255}",
        "principalId": guid(resource, "principal"),
    }


def guid(*texts):
    return str(uuid.uuid5(uuid.NAMESPACE_URL, "-".join(texts)))


def cidr_host(prefix, index):
    """Azure counts hosts, so 0 is the first behind the network's own address."""
    network = ipaddress.ip_network(prefix)
    if not 0 <= index < network.num_addresses - 2:
        raise ValueError(f"{prefix} has no host {index}")
    return str(network[index + 1])


def concat(*parts):
    return "".join(str(part) for part in parts) if isinstance(parts[0], str) else sum(parts, [])


def union(*objects):
    made = {}
    for one in objects:
        made.update(one)
    return made


def string(value):
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"), ensure_ascii=False)


FUNCTIONS = {
    "resourceId": resource_id,
    "resourceGroup": lambda: GROUP,
    "guid": guid,
    "cidrHost": cidr_host,
    "concat": concat,
    "union": union,
    "string": string,
    "empty": lambda value: len(value) == 0,
    "length": len,
    "range": lambda start, count: list(range(start, start + count)),
    "join": lambda values, between: between.join(values),
    "replace": lambda text, old, new: text.replace(old, new),
    "base64": lambda text: base64.b64encode(text.encode()).decode(),
}
