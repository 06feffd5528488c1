"""Reads an ARM template (JSON) and says which resources it makes for given parameters."""

import json
import re
from pathlib import Path

import cloud
from expression import ARM, TemplateError, Tokens, evaluate, parse


class Template:
    def __init__(self, path, text=None):
        self.path = Path(path)
        self.text = self.path.read_text() if text is None else text
        try:
            self.json = json.loads(self.text)
        except ValueError as error:
            raise TemplateError(f"{self.path.name}: {error}") from None

    def deploy(self, given):
        """The resources that these parameters make, by their ids; dependsOn, and whose properties are asked for, as sets of ids."""
        return Deployment(self, given).resources()

    def unused(self):
        """Parameters and variables that nothing uses."""
        said = set(re.findall(r"(?:parameters|variables)\('([^']*)'\)", self.text))
        variables = [name for name in self.json["variables"] if name != "copy"]
        variables += [copy["name"] for copy in self.json["variables"].get("copy", [])]
        return sorted({*self.json["parameters"], *variables} - said)


class Deployment:
    def __init__(self, template, given):
        self.template, self.given, self.values = template, given, {}
        json_ = template.json
        self.variables = dict(json_.get("variables", {}))
        self.copied = {copy["name"]: copy for copy in self.variables.pop("copy", [])}
        self.counters = [{}]
        if unknown := given.keys() - json_["parameters"].keys():
            raise TemplateError(f"{template.path.name} has no parameters {sorted(unknown)}")

        def choose(value_of, condition, then, otherwise):
            return value_of(then if value_of(condition) else otherwise)

        choose.lazy = True
        self.functions = cloud.FUNCTIONS | {
            "parameters": self.parameter,
            "variables": self.variable,
            "reference": self.reference,
            "copyIndex": lambda name="": self.counters[-1][name],
            "if": choose,
            "equals": lambda a, b: a == b,
            "not": lambda a: not a,
            "and": lambda *all_: all(all_),
            "or": lambda *any_: any(any_),
            "greater": lambda a, b: a > b,
            "add": lambda a, b: a + b,
            "mul": lambda a, b: a * b,
            "div": lambda a, b: a // b,
            "mod": lambda a, b: a % b,
            "format": lambda text, *arguments: text.format(*arguments),
            "createArray": lambda *items: list(items),
            "createObject": lambda *pairs: dict(zip(pairs[::2], pairs[1::2])),
            "null": lambda: None,
            "true": lambda: True,
            "false": lambda: False,
        }

    def reference(self, resource, _api=None):
        self.referenced.add(resource)
        return cloud.known_at_run_time(resource)

    def parameter(self, name):
        if name in self.given:
            return self.given[name]
        declared = self.template.json["parameters"].get(name)
        if declared is None:
            raise TemplateError(f"parameter {name} is not defined")
        if "defaultValue" not in declared:
            raise TemplateError(f"parameter {name} is not given")
        return self.value(declared["defaultValue"])

    def variable(self, name):
        if name not in self.values:
            if name in self.copied:
                self.values[name] = self.repeat(self.copied[name])
            elif name in self.variables:
                self.values[name] = self.value(self.variables[name])
            else:
                raise TemplateError(f"variable {name} is not defined")
        return self.values[name]

    def repeat(self, copy, name=None):
        made = []
        for index in range(self.value(copy["count"])):
            self.counters.append(self.counters[-1] | {copy["name"] if name is None else name: index})
            made.append(self.value(copy["input"]))
            self.counters.pop()
        return made

    def value(self, written):
        if isinstance(written, dict):
            made = {self.value(k): self.value(v) for k, v in written.items() if k != "copy"}
            for copy in written.get("copy", []):
                made[copy["name"]] = self.repeat(copy)
            return made
        if isinstance(written, list):
            return [self.value(item) for item in written]
        if not isinstance(written, str) or not written.startswith("["):
            return written
        if written.startswith("[["):
            return written[1:]
        try:
            tree = parse(Tokens(written[1:-1], ARM, self.template.path.name))
            return evaluate(tree, lambda name: {}[name], self.functions)
        except (TemplateError, ValueError) as error:
            raise TemplateError(f"{error}, in {written[:200]}") from None

    def resources(self):
        made = {}
        for resource in self.template.json["resources"]:
            for index in range(self.value(resource["copy"]["count"]) if "copy" in resource else 1):
                self.counters, self.referenced = [{"": index}], set()
                if not self.value(resource.get("condition", True)):
                    continue
                one = self.value({k: v for k, v in resource.items() if k not in ("copy", "condition")})
                one["dependsOn"] = set(one.get("dependsOn", []))
                one["referenced"] = self.referenced
                made[cloud.resource_id(one["type"], *one["name"].split("/"))] = one
        return made
