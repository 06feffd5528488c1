"""Resources against Microsoft's own models of them: names, types and allowed values of every property.

The models are those of Azure's SDK for Python, which Microsoft makes from the descriptions of the API. They are of the API's
newest version, ours are of 2024: what Azure has added since then would not be noticed. The two kinds of roles are
written down by hand.
"""

import functools
import types
import typing
from enum import Enum

import azure.mgmt.compute.models as compute
import azure.mgmt.network.models as network

MODELS = {
    "Microsoft.Compute/availabilitySets": compute.AvailabilitySet,
    "Microsoft.Compute/virtualMachines": compute.VirtualMachine,
    "Microsoft.Network/loadBalancers": network.LoadBalancer,
    "Microsoft.Network/networkInterfaces": network.NetworkInterface,
    "Microsoft.Network/networkSecurityGroups": network.NetworkSecurityGroup,
    "Microsoft.Network/publicIPAddresses": network.PublicIPAddress,
    "Microsoft.Network/routeTables": network.RouteTable,
    "Microsoft.Network/virtualNetworks": network.VirtualNetwork,
}
BY_HAND = {
    "Microsoft.ManagedIdentity/userAssignedIdentities": set(),
    "Microsoft.Authorization/roleDefinitions": {"roleName", "description", "type", "permissions", "assignableScopes"},
    "Microsoft.Authorization/roleAssignments": {"roleDefinitionId", "principalId", "principalType"},
}
# Sizes that Microsoft's list, which it does not keep up, lacks.
OPEN = (compute.VirtualMachineSizeTypes,)
# What the template's language adds to a resource.
TEMPLATE = {"type", "apiVersion", "dependsOn", "referenced"}


def problems(resource):
    kind = resource["type"]
    if kind in BY_HAND:
        return [f"{kind}: no property {name}" for name in sorted(resource.get("properties", {}).keys() - BY_HAND[kind])]
    if kind not in MODELS:
        return [f"{kind}: not known"]
    body = {name: value for name, value in resource.items() if name not in TEMPLATE}
    return against_model(body, MODELS[kind], kind.rsplit("/", 1)[1])


@functools.cache
def fields(model):
    """A model's properties by the names that the API uses, with their types."""
    package = compute if model.__module__.startswith(compute.__name__) else network
    known = {"_models": package, "_types": types.SimpleNamespace()}
    made = {}
    for one in reversed(model.__mro__):
        rest = {name: field for name, field in vars(one).items() if hasattr(field, "_rest_name_input")}
        hints = typing.get_type_hints(one, localns=known) if rest else {}
        made |= {field._rest_name_input or name: hints[name] for name, field in rest.items()}
    return made


def against_model(value, model, path):
    if not isinstance(value, dict):
        return [f"{path}: {value!r} is no {model.__name__}"]
    there = fields(model)
    found = [
        f"{path}: lacks {name}"
        for name, hint in there.items()
        if type(None) not in typing.get_args(hint) and value.get(name) is None
    ]
    for name, inner in value.items():
        if name not in there:
            found.append(f"{path}: no property {name} in {model.__name__}")
        elif inner is not None:
            found += against_type(inner, there[name], f"{path}.{name}")
    return found


def against_type(value, hint, path):
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        enums = [one for one in arguments if isinstance(one, type) and issubclass(one, Enum)]
        if set(enums) & set(OPEN):
            return []
        if enums:
            allowed = {member.value for enum in enums for member in enum}
            return [] if value in allowed else [f"{path}: {value!r} is none of {sorted(allowed)}"]
        [hint] = [one for one in arguments if one is not type(None)]
        return against_type(value, hint, path)
    if origin is list:
        if not isinstance(value, list):
            return [f"{path}: {value!r} is no list"]
        return [one for i, item in enumerate(value) for one in against_type(item, arguments[0], f"{path}[{i}]")]
    if origin is dict:
        return [one for key, item in value.items() for one in against_type(item, arguments[1], f"{path}.{key}")]
    if isinstance(hint, type) and hint.__module__.startswith("azure."):
        return against_model(value, hint, path)
    if hint in (str, int, bool) and type(value) is not hint:
        return [f"{path}: {value!r} is no {hint.__name__}"]
    return []
