"""Whether two sets of resources are the same, and where not."""

import base64
import json

ROLES = ("Microsoft.Authorization/roleDefinitions", "Microsoft.Authorization/roleAssignments")

# What Terraform's provider decides by itself, with the reason why that is no difference.
TERRAFORM_DECIDES = {
    "createOption": "a machine with an image is made from it",
    "deleteOption": "the provider deletes disks itself, and keeps interfaces, which are resources of their own",
}


def normal(resources):
    """Resources in a form that does not depend on who wrote them, by id; roles, whose names are random, by type."""
    made = {}
    for key, resource in resources.items():
        kind = resource["type"]
        one = {k: v for k, v in resource.items() if k not in ("apiVersion", "dependsOn", "referenced")}
        if kind in ROLES:
            one.pop("name")
            one["properties"] = {k: v for k, v in one["properties"].items() if k != "roleDefinitionId"}
            key = kind
        made[key] = tidy(one)
    return made


def tidy(value, key=None):
    """Without what says nothing, lists of named things in the order of their names, custom data opened."""
    if key == "customData":
        return json.loads(base64.b64decode(value))
    if isinstance(value, dict):
        inner = {k: tidy(v, k) for k, v in value.items() if k not in TERRAFORM_DECIDES}
        return {k: v for k, v in inner.items() if v not in (None, [])}
    if isinstance(value, list):
        named = all(isinstance(item, dict) and "name" in item for item in value)
        return [tidy(item) for item in (sorted(value, key=lambda item: item["name"]) if named else value)]
    return value


def differences(left, right, path=""):
    """Each place where two values differ, as text."""
    if isinstance(left, dict) and isinstance(right, dict):
        found = []
        for key in sorted(left.keys() | right.keys(), key=str):
            where = f"{path}/{key}" if path else str(key)
            if key not in left or key not in right:
                found.append(f"{where}: only in the {'first' if key in left else 'second'}")
            else:
                found += differences(left[key], right[key], where)
        return found
    if isinstance(left, list) and isinstance(right, list) and len(left) == len(right):
        return [one for i, (a, b) in enumerate(zip(left, right)) for one in differences(a, b, f"{path}[{i}]")]
    return [] if left == right and isinstance(left, bool) == isinstance(right, bool) else [f"{path}: {left!r} and {right!r}"]
