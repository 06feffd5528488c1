"""Reads a Terraform module and says which resources it makes for given variables, in ARM's words."""

import base64
import ipaddress
import json
from pathlib import Path

import cloud
from expression import TERRAFORM, TemplateError, Tokens, evaluate, expression
from provider import KINDS, PARTS, PART_WRITERS, WRITERS

class Lazy(dict):
    """Values that are made when somebody asks."""

    def __init__(self, make):
        super().__init__()
        self.make = make

    def __missing__(self, key):
        self[key] = self.make(key)
        return self[key]


class Block:
    def __init__(self, kind, labels):
        self.kind, self.labels, self.attributes, self.blocks = kind, labels, {}, []


def body(tokens, block):
    while True:
        tokens.skip_lines()
        if tokens.peek()[0] == "end" or tokens.take("}"):
            return block
        name = tokens.next()[1]
        if tokens.take("="):
            block.attributes[name] = expression(tokens)
            continue
        labels = []
        while not tokens.take("{"):
            kind, value, _ = tokens.next()
            if kind not in ("text", "name"):
                tokens.fail("expected a block")
            labels.append(value if kind == "name" else "".join(value))
        block.blocks.append(body(tokens, Block(name, labels)))


def trees(block):
    """All expressions of a block, with those of the blocks in it."""
    found = list(block.attributes.values())
    for inner in block.blocks:
        found += trees(inner)
    return found


def members_in(tree, of):
    """Names that stand behind `var.` or `local.`"""
    found = set()
    if isinstance(tree, tuple) and tree[:2] == ("member", ("name", of)):
        found.add(tree[2])
    if isinstance(tree, (tuple, list)):
        for item in tree:
            found |= members_in(item, of)
    return found


class Module:
    def __init__(self, folder, texts=None):
        self.folder = Path(folder)
        self.variables, self.locals, self.resources, self.outputs = {}, {}, {}, {}
        texts = texts or {path.name: path.read_text() for path in sorted(self.folder.glob("*.tf"))}
        self.blocks = []
        for name, text in texts.items():
            self.blocks += body(Tokens(text, TERRAFORM, name), Block("file", [])).blocks
        for block in self.blocks:
            if block.kind == "variable":
                self.variables[block.labels[0]] = block
            elif block.kind == "locals":
                self.locals |= block.attributes
            elif block.kind == "resource":
                self.resources[tuple(block.labels)] = block
            elif block.kind == "output":
                self.outputs[block.labels[0]] = block.attributes["value"]

    def deploy(self, given):
        return Plan(self, given).resources()

    def unused(self):
        """Variables and locals that nothing uses."""
        everything = [tree for block in self.blocks if block.kind != "variable" for tree in trees(block)]
        used = {of: set().union(*[members_in(tree, of) for tree in everything]) for of in ("var", "local")}
        return sorted((self.variables.keys() - used["var"]) | (self.locals.keys() - used["local"]))


class Plan:
    def __init__(self, module, given):
        self.module = module
        if unknown := given.keys() - module.variables.keys():
            raise TemplateError(f"the module has no variables {sorted(unknown)}")
        self.given = given
        self.scope = {
            "var": Lazy(self._variable),
            "local": Lazy(self._local),
            "path": {"module": str(module.folder)},
            "data": {"azurerm_resource_group": {"group": cloud.GROUP}},
        }
        for kind, label in module.resources:
            self.scope.setdefault(kind, Lazy(lambda label, kind=kind: self._references(kind, label)))
        self.functions = {
            "base64encode": lambda text: base64.b64encode(text.encode()).decode(),
            "cidrhost": lambda prefix, index: str(ipaddress.ip_network(prefix)[index]),
            "concat": lambda *lists: sum(lists, []),
            "file": lambda path: Path(path).read_text(),
            "floor": lambda number: number,
            "join": lambda between, values: between.join(values),
            "jsonencode": lambda value: json.dumps(value),
            "length": len,
            "range": lambda count: list(range(count)),
            "replace": lambda text, old, new: text.replace(old, new),
            "tostring": str,
        }

    def value(self, tree, local=None):
        local = local or {}

        def lookup(name):
            return local[name] if name in local else self.scope[name]

        return evaluate(tree, lookup, self.functions)

    def _variable(self, name):
        if name in self.given:
            return self.given[name]
        if name not in self.module.variables:
            raise TemplateError(f"variable {name} is not defined")
        if "default" not in self.module.variables[name].attributes:
            raise TemplateError(f"variable {name} is not given")
        return self.value(self.module.variables[name].attributes["default"])

    def _local(self, name):
        if name not in self.module.locals:
            raise TemplateError(f"local {name} is not defined")
        return self.value(self.module.locals[name])

    def _rounds(self, block):
        """The local names of each instance, and whether there may be several."""
        if "count" not in block.attributes:
            return [{}], False
        return [{"count": {"index": i}} for i in range(self.value(block.attributes["count"]))], True

    def _references(self, kind, label):
        if (kind, label) not in self.module.resources:
            raise TemplateError(f"{kind}.{label} is not defined")
        block = self.module.resources[kind, label]
        rounds, several = self._rounds(block)
        made = [self._reference(kind, block, local) for local in rounds]
        return made if several else made[0]

    def _reference(self, kind, block, local):
        name = self.value(block.attributes["name"], local)
        if kind in PARTS:
            of, where = PARTS[kind]
            return {"id": f"{self.value(block.attributes[of], local)}/{where}/{name}"}
        made = cloud.resource_id(KINDS[kind], name)
        run_time = cloud.known_at_run_time(made)
        return {
            "id": made,
            "ip_address": run_time["ipAddress"],
            "principal_id": run_time["principalId"],
            "role_definition_resource_id": made,
        }

    def _plain(self, block, local):
        """A block as values: attributes, and lists of the blocks in it."""
        made = {
            name: self.value(tree, local)
            for name, tree in block.attributes.items()
            if name not in ("count", "depends_on", "ignore_changes")
        }
        for inner in block.blocks:
            if inner.kind != "dynamic":
                made.setdefault(inner.kind, []).append(self._plain(inner, local))
                continue
            kind, content = inner.labels[0], inner.blocks[0]
            for index, item in enumerate(self.value(inner.attributes["for_each"], local)):
                iterator = {kind: {"key": index, "value": item}}
                made.setdefault(kind, []).append(self._plain(content, local | iterator))
        return made

    def resources(self):
        made, parts = {}, []
        for (kind, label), block in self.module.resources.items():
            for local in self._rounds(block)[0]:
                plain = self._plain(block, local)
                if kind in PARTS:
                    parts.append((kind, plain))
                elif kind in KINDS:
                    name = plain.get("name", f"{label}-of-no-name")
                    made[cloud.resource_id(KINDS[kind], name)] = self._resource(kind, name, plain)
                else:
                    raise TemplateError(f"{kind} is not known to this checker")
        for kind, plain in parts:
            whole = made.get(plain[PARTS[kind][0]])
            if whole is None:
                raise TemplateError(f"{kind} is of {plain[PARTS[kind][0]]}, which is not there")
            PART_WRITERS[kind](whole, plain)
        return made

    def _resource(self, kind, name, plain):
        made = {"type": KINDS[kind], "name": name, **WRITERS[kind](plain)}
        made |= {key: plain[key] for key in ("location", "tags") if key in plain}
        return made
