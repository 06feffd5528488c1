"""Others' tools on the templates: parsers, Microsoft's models, checkov; each of them sees a fault that was made on purpose."""

import json
import os
import re
import shutil
import subprocess
import tempfile
import unittest
from pathlib import Path

import hcl2
import pycep
import tree_sitter
import tree_sitter_bicep

import cloud
import schema
from bicep import Bicep
from compare import differences
from rules import first_boot, machines
from templates import GIVEN, HERE, SCENARIOS, Templates
from terraform import Module, Plan
from test_templates import BICEP, FEW, TERRAFORM, replaced
from translate import translate


def bicep_errors(text):
    """Places that the grammar of tree-sitter-bicep does not know."""
    tree = tree_sitter.Parser(tree_sitter.Language(tree_sitter_bicep.language())).parse(text.encode())
    found, waiting = [], [tree.root_node]
    while waiting:
        node = waiting.pop()
        if node.type == "ERROR" or node.is_missing:
            found.append(f"line {node.start_point[0] + 1}: {node.text[:60]}")
        waiting += node.children
    return found


def checkov(folder, framework):
    """Names of checks that failed, and how many passed."""
    command = ["checkov", "--directory", folder, "--framework", framework, "--output", "json", "--compact", "--quiet", "--skip-download"]
    quiet = os.environ | {"LOG_LEVEL": "ERROR"}
    done = subprocess.run(command, capture_output=True, text=True, env=quiet, check=False)
    report = json.loads(done.stdout)
    failed = [f"{one['check_id']} {one['check_name']}: {one['resource']}" for one in report["results"]["failed_checks"]]
    return failed + report["results"].get("parsing_errors", []), report["summary"]["passed"]


class ParsersTest(unittest.TestCase):
    def test_bicep_parses(self):
        self.assertEqual(bicep_errors(BICEP), [])

    def test_bicep_parses_for_pycep(self):
        # It knows functions by name, and cidrHost() is younger than its list.
        parsed = pycep.BicepParser().parse(text=BICEP.replace("cidrHost(", "union("))
        mine = Bicep(HERE / "bicep/main.bicep")
        for kind, names in (("parameters", mine.parameters), ("variables", mine.variables), ("resources", mine.resources)):
            self.assertEqual(parsed[kind].keys(), names.keys())

    def test_terraform_parses(self):
        for name, text in TERRAFORM.items():
            with self.subTest(name):
                self.assertTrue(hcl2.loads(text))

    def test_a_fault_is_seen(self):
        self.assertNotEqual(bicep_errors(replaced(BICEP, "param nodes int = 2", "param nodes int = = 2")), [])
        with self.assertRaises(Exception):
            hcl2.loads(replaced(TERRAFORM["nodes.tf"], "boot_diagnostics {}", "boot_diagnostics {"))


class TerraformTest(unittest.TestCase):
    def test_terraform_evaluates_as_we_do(self):
        """Where there is a terraform: the module's locals, without provider, and so without what Azure alone knows."""
        terraform = shutil.which("terraform")
        if not terraform:
            self.skipTest("no terraform")
        module = Module(HERE / "terraform")
        known = {"data.azurerm_resource_group.group.id": cloud.GROUP["id"], "azurerm_public_ip.in.ip_address": "198.18.0.1"}
        wanted = "jsonencode({" + ", ".join(f"{name} = local.{name}" for name in module.locals) + "})\n"
        with tempfile.TemporaryDirectory() as folder:
            for name in ("variables.tf", "locals.tf"):
                text = TERRAFORM[name].replace("  sensitive   = true\n", "")
                text = re.sub(r'data "azurerm_resource_group".*?\n}\n', "", text, flags=re.DOTALL)
                for unknown, value in known.items():
                    text = text.replace(unknown, f'"{value}"')
                (Path(folder) / name).write_text(text.replace("${path.module}", str(HERE / "terraform")))
            for name in SCENARIOS:
                with self.subTest(name):
                    given = Templates.variables(GIVEN | SCENARIOS[name])
                    (Path(folder) / "given.tfvars.json").write_text(json.dumps(given))
                    command = [terraform, "console", "-var-file=given.tfvars.json"]
                    done = subprocess.run(command, cwd=folder, input=wanted, capture_output=True, text=True, check=False)
                    self.assertEqual(done.returncode, 0, done.stderr)
                    theirs = json.loads(json.loads(done.stdout.strip().splitlines()[-1]))
                    plan = Plan(module, given)
                    plan.scope["azurerm_public_ip"] = {"in": {"ip_address": known["azurerm_public_ip.in.ip_address"]}}
                    self.assertEqual(differences(theirs, {local: plan.scope["local"][local] for local in module.locals}), [])


class ProvisionTest(unittest.TestCase):
    def test_the_node_takes_its_custom_data(self):
        """By the program that reads it at the first boot, where that and the daemon are built."""
        provision, gabiond = os.environ.get("GABION_PROVISION"), os.environ.get("GABIOND")
        if not provision or not gabiond:
            self.skipTest("GABION_PROVISION and GABIOND are not set")
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "custom-data"
            for name, (_, arm, _) in Templates().made.items():
                if "own policy" in name:
                    continue
                for machine, _ in machines(arm):
                    file.write_text(json.dumps(first_boot(machine), separators=(",", ":")))
                    done = subprocess.run([provision, "--gabiond", gabiond, "check", file], capture_output=True, text=True, check=False)
                    self.assertEqual(done.returncode, 0, f"{name}: {done.stdout}{done.stderr}")


class SchemaTest(unittest.TestCase):
    def problems(self, templates):
        return sorted({one for _, _, arm in templates.deployed() for resource in arm.values() for one in schema.problems(resource)})

    def test_properties_are_those_of_microsofts_models(self):
        self.assertEqual(self.problems(Templates()), [])

    def test_a_fault_is_seen(self):
        for old, new in (
            ("enableIPForwarding: true", "enableIpForwarding: true"),
            ("caching: 'ReadOnly'", "caching: 'ReadMostly'"),
            ("idleTimeoutInMinutes: idleMinutes", "idleTimeoutInMinutes: string(idleMinutes)"),
            ("          direction: 'Outbound'\n", ""),
            ("principalType: ", "principleType: "),
        ):
            with self.subTest(new):
                text = replaced(BICEP, old, new)
                templates = Templates(FEW, bicep=text, arm=translate(Bicep(HERE / "bicep/main.bicep", text)))
                self.assertNotEqual(self.problems(templates), [])


class CheckovTest(unittest.TestCase):
    def test_checkov_has_no_complaint(self):
        for folder, framework in (("arm", "arm"), ("terraform", "terraform")):
            with self.subTest(framework):
                failed, passed = checkov(HERE / folder, framework)
                self.assertEqual(failed, [])
                self.assertGreater(passed, 10)

    def test_a_fault_is_seen(self):
        with tempfile.TemporaryDirectory() as folder:
            text = replaced(TERRAFORM["nodes.tf"], "disable_password_authentication = true", "disable_password_authentication = false")
            for name, one in (TERRAFORM | {"nodes.tf": text}).items():
                (Path(folder) / name).write_text(one)
            failed, _ = checkov(folder, "terraform")
            self.assertTrue(failed)


if __name__ == "__main__":
    unittest.main()
