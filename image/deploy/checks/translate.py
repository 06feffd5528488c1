"""Writes the ARM template that a Bicep file stands for, as `az bicep build` would, but for its metadata."""

import json

from expression import TemplateError

FUNCTIONS = {"+": "add", "*": "mul", "/": "div", "%": "mod", "==": "equals", ">": "greater", "&&": "and", "||": "or"}
SCHEMA = "https://schema.management.azure.com/schemas/2019-04-01/deploymentTemplate.json#"
CONSTRAINTS = ("minValue", "maxValue", "minLength", "maxLength")


def translate(bicep):
    """The template's text."""
    writer = Writer(bicep)
    template = {
        "$schema": SCHEMA,
        "contentVersion": "1.0.0.0",
        "metadata": {"comments": "Made from bicep/main.bicep by `image/deploy/check --write`. Change that, not this."},
        "parameters": {name: writer.parameter(*declared) for name, declared in bicep.parameters.items()},
        "variables": writer.variables(),
        "resources": [writer.resource(resource) for resource in bicep.resources.values()],
        "outputs": {
            name: {"type": kind, "value": writer.json(tree)} for name, (kind, tree) in bicep.outputs.items()
        },
    }
    return json.dumps(template, indent=2, ensure_ascii=False) + "\n"


class Writer:
    def __init__(self, bicep):
        self.bicep = bicep
        # What loop variables stand for: name -> the expression in ARM's words.
        self.loops = {}

    def parameter(self, kind, default, decorators):
        made = {"type": kind if "secure" not in decorators else {"string": "securestring", "object": "secureObject"}[kind]}
        if default is not None:
            made["defaultValue"] = self.json(default)
        if "allowed" in decorators:
            made["allowedValues"] = self.json(decorators["allowed"][0])
        made |= {name: self.json(decorators[name][0]) for name in CONSTRAINTS if name in decorators}
        made["metadata"] = {"description": self.json(decorators["description"][0])}
        return made

    def variables(self):
        """Variables that speak of resources are written where they are used instead: ARM allows no other way."""
        plain, copies = {}, []
        for name, tree in self.bicep.variables.items():
            if self.bicep.needs(tree):
                continue
            if tree[0] == "for":
                copies.append(self.copy(name, tree))
            else:
                plain[name] = self.json(tree)
        return {"copy": copies} | plain

    def resource(self, resource):
        made = {}
        if resource.condition:
            made["condition"] = self.json(resource.condition)
        made |= {"type": resource.kind, "apiVersion": resource.api}
        if resource.tree[0] == "for":
            self.enter(resource.tree, "")
            made["copy"] = {"name": resource.symbol, "count": self.count(resource.tree)}
        entries = [(key, value) for key, value in resource.body[1] if key != ("text", ["dependsOn"])]
        made |= self.json(("map", entries))
        if depends := self.depends(resource):
            made["dependsOn"] = depends
        self.loops = {}
        return made

    def depends(self, resource):
        return [f"[{self.identity(self.bicep.resources[name])}]" for name in self.bicep.needs(resource.body)]

    def identity(self, resource):
        """resourceId() of a resource; of a loop's resource, of that with the same number as the one in hand."""
        return f"resourceId('{resource.kind}', {self.text(resource.name)})"

    def enter(self, tree, counter):
        """Makes a loop's variables known: the index, or the item and the index."""
        names, over = tree[1], tree[2]
        index = f"copyIndex('{counter}')" if counter else "copyIndex()"
        if over[0] == "call" and over[1] == "range":
            if over[2][0] != ("value", 0) or len(names) != 1:
                raise TemplateError("only range(0, ...) can be translated")
            self.loops[names[0]] = index
        else:
            self.loops[names[0]] = f"{self.text(over)}[{index}]"
            if len(names) == 2:
                self.loops[names[1]] = index

    def count(self, tree):
        over = tree[2]
        is_range = over[0] == "call" and over[1] == "range"
        return self.json(over[2][1]) if is_range else f"[length({self.text(over)})]"

    def copy(self, name, tree):
        outer = dict(self.loops)
        self.enter(tree, name)
        made = {"name": name, "count": self.count(tree), "input": self.json(tree[4])}
        self.loops = outer
        return made

    def json(self, tree):
        """A value as JSON, with expressions only where they must be."""
        kind = tree[0]
        if kind == "value":
            return tree[1]
        if kind == "text" and all(isinstance(part, str) for part in tree[1]):
            text = "".join(tree[1])
            return f"[{text}" if text.startswith("[") else text
        if kind == "list":
            return [self.json(item) for item in tree[1]]
        if kind == "map":
            made, copies = {}, []
            for key, value in tree[1]:
                if value[0] == "for":
                    copies.append(self.copy(self.json(key), value))
                else:
                    made[self.json(key)] = self.json(value)
            return ({"copy": copies} if copies else {}) | made
        if kind == "call" and tree[1] == "loadTextContent":
            return self.bicep.load_text(tree[2][0][1][0])
        return f"[{self.text(tree)}]"

    def text(self, tree):
        """A value within an expression."""
        kind = tree[0]
        if kind == "value":
            return {True: "true()", False: "false()", None: "null()"}[tree[1]] if not isinstance(tree[1], int) or isinstance(tree[1], bool) else str(tree[1])
        if kind == "text":
            return self.string(tree[1])
        if kind == "name":
            return self.name(tree[1])
        if kind == "member":
            return self.member(tree)
        if kind == "index":
            return f"{self.text(tree[1])}[{self.text(tree[2])}]"
        if kind == "call":
            return f"{tree[1]}({', '.join(self.text(argument) for argument in tree[2])})"
        if kind == "unary" and tree[1] == "!":
            return f"not({self.text(tree[2])})"
        if kind == "binary":
            return f"{FUNCTIONS[tree[1]]}({self.text(tree[2])}, {self.text(tree[3])})"
        if kind == "choose":
            return f"if({', '.join(self.text(part) for part in tree[1:])})"
        if kind == "list":
            return f"createArray({', '.join(self.text(item) for item in tree[1])})"
        if kind == "map":
            pairs = [self.text(part) for pair in tree[1] for part in pair]
            return f"createObject({', '.join(pairs)})"
        raise TemplateError(f"cannot translate {kind} within an expression")

    def string(self, parts):
        if all(isinstance(part, str) for part in parts):
            return "'" + "".join(parts).replace("'", "''") + "'"
        pattern, arguments = "", []
        for part in parts:
            if isinstance(part, str):
                pattern += part.replace("{", "{{").replace("}", "}}").replace("'", "''")
            else:
                pattern += f"{{{len(arguments)}}}"
                arguments.append(self.text(part))
        if pattern == "{0}":
            return arguments[0]
        return f"format('{pattern}', {', '.join(arguments)})"

    def name(self, name):
        if name in self.loops:
            return self.loops[name]
        if name in self.bicep.parameters:
            return f"parameters('{name}')"
        if name in self.bicep.variables:
            tree = self.bicep.variables[name]
            return self.text(tree) if self.bicep.needs(tree) else f"variables('{name}')"
        raise TemplateError(f"{name} cannot be translated")

    def member(self, tree):
        _, of, name = tree
        symbol = of[1] if of[0] == "name" else of[1][1] if of[0] == "index" and of[1][0] == "name" else None
        resource = self.bicep.resources.get(symbol)
        if resource and name == "id":
            return self.identity(resource)
        if resource and name == "properties":
            return f"reference({self.identity(resource)}, '{resource.api}')"
        return f"{self.text(of)}.{name}"
