"""Reads a Bicep file, says which resources it makes for given parameters, and translates it to an ARM template.

The translation stands in for `az bicep build`, which was not at hand. Not known: modules, existing resources, user-defined types.
"""

from pathlib import Path

import cloud
from expression import BICEP, TemplateError, Tokens, evaluate, expression, names_in


class Bicep:
    def __init__(self, path, text=None):
        self.path = Path(path)
        self.parameters, self.variables, self.resources, self.outputs = {}, {}, {}, {}
        tokens = Tokens(self.path.read_text() if text is None else text, BICEP, self.path.name)
        decorators = []
        tokens.skip_lines()
        while tokens.peek()[0] != "end":
            if tokens.take("@"):
                decorators.append(expression(tokens))
            else:
                self._declare(tokens, decorators)
                decorators = []
            tokens.skip_lines()

    def _declare(self, tokens, decorators):
        keyword, name = tokens.next()[1], tokens.next()[1]
        if keyword == "targetScope":
            expression(tokens)
        elif keyword == "param":
            kind = tokens.next()[1]
            default = expression(tokens) if tokens.take("=") else None
            self.parameters[name] = (kind, default, {tree[1]: tree[2] for tree in decorators})
        elif keyword == "var":
            tokens.expect("=")
            self.variables[name] = expression(tokens)
        elif keyword == "resource":
            kind, api = tokens.next()[1][0].split("@")
            tokens.expect("=")
            condition = expression(tokens) if tokens.take("if") else None
            self.resources[name] = Resource(name, kind, api, condition, expression(tokens))
        elif keyword == "output":
            kind = tokens.next()[1]
            tokens.expect("=")
            self.outputs[name] = (kind, expression(tokens))
        else:
            tokens.at -= 2
            tokens.fail("expected a declaration")
        if tokens.peek()[0] not in ("line", "end"):
            tokens.fail(f"{name} goes on")

    def load_text(self, relative):
        return (self.path.parent / relative).read_text()

    def deploy(self, given):
        """The resources that these parameters make, by their ids."""
        return Deployment(self, given).resources()

    def needs(self, tree, seen=frozenset()):
        """The resources that an expression speaks of, through variables too."""
        found = {}
        for name in sorted(names_in(tree) - seen):
            if name in self.resources:
                found[name] = True
            elif name in self.variables:
                found |= self.needs(self.variables[name], seen | {name})
        return found

    def unused(self):
        """Parameters and variables that nothing uses."""
        trees = [*self.variables.values(), *(tree for _, tree in self.outputs.values())]
        trees += [tree for _, tree, _ in self.parameters.values() if tree]
        trees += [tree for one in self.resources.values() for tree in (one.condition, one.tree) if tree]
        used = set().union(*map(names_in, trees))
        return sorted((self.parameters.keys() | self.variables.keys()) - used)


class Resource:
    def __init__(self, symbol, kind, api, condition, tree):
        self.symbol, self.kind, self.api, self.condition, self.tree = symbol, kind, api, condition, tree

    @property
    def body(self):
        return self.tree[4] if self.tree[0] == "for" else self.tree

    @property
    def name(self):
        return next(value for key, value in self.body[1] if key == ("text", ["name"]))


class Deployment:
    def __init__(self, bicep, given):
        self.bicep, self.given, self.values = bicep, given, {}
        self.functions = cloud.FUNCTIONS | {"loadTextContent": bicep.load_text}
        if unknown := given.keys() - bicep.parameters.keys():
            raise TemplateError(f"{bicep.path.name} has no parameters {sorted(unknown)}")

    def value(self, tree, local=None):
        local = local or {}
        return evaluate(tree, lambda name: local[name] if name in local else self.lookup(name), self.functions)

    def lookup(self, name):
        if name in self.given:
            return self.given[name]
        if name not in self.values:
            self.values[name] = self._find(name)
        return self.values[name]

    def _find(self, name):
        if name in self.bicep.parameters:
            default = self.bicep.parameters[name][1]
            if default is None:
                raise TemplateError(f"parameter {name} is not given")
            return self.value(default)
        if name in self.bicep.variables:
            return self.value(self.bicep.variables[name])
        resource = self.bicep.resources[name]
        if resource.tree[0] != "for":
            return self._reference(resource, {})
        return [self._reference(resource, local) for local in self._rounds(resource)]

    def _reference(self, resource, local):
        made = cloud.resource_id(resource.kind, *str(self.value(resource.name, local)).split("/"))
        return {"id": made, "name": made.split("/")[-1], "properties": cloud.known_at_run_time(made)}

    def _rounds(self, resource):
        return [{resource.tree[1][0]: item} for item in self.value(resource.tree[2])]

    def resources(self):
        made = {}
        for resource in self.bicep.resources.values():
            if resource.condition and not self.value(resource.condition):
                continue
            for local in self._rounds(resource) if resource.tree[0] == "for" else [{}]:
                entries = [(key, value) for key, value in resource.body[1] if key != ("text", ["dependsOn"])]
                one = self.value(("map", entries), local)
                one |= {"type": resource.kind, "apiVersion": resource.api}
                made[self._reference(resource, local)["id"]] = one
        return made
