"""The templates keep every rule, and a template that was broken on purpose is found by the rule that is meant to."""

import json
import os
import re
import shutil
import subprocess
import unittest

import rules
from bicep import Bicep
from expression import TemplateError
from templates import HERE, REPOSITORY, Templates
from translate import translate

BICEP = (HERE / "bicep/main.bicep").read_text()
ARM = (HERE / "arm/azuredeploy.json").read_text()
TERRAFORM = {path.name: path.read_text() for path in sorted((HERE / "terraform").glob("*.tf"))}


def replaced(text, old, new):
    assert old in text, f"{old!r} is not there any more: the test breaks nothing"
    return text.replace(old, new)


class RulesTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.templates = Templates()

    def check(self, rule):
        found = rule(self.templates)
        self.assertEqual(found, [], "\n" + "\n".join(found[:40]))


for _rule in rules.RULES:
    setattr(RulesTest, f"test_{_rule.__name__}", lambda self, rule=_rule: self.check(rule))


class PoliciesTest(unittest.TestCase):
    def test_the_policies_are_good(self):
        """`gabion check`, where it is built; with the addresses that the template puts in, too."""
        gabion = os.environ.get("GABION") or shutil.which("gabion")
        if not gabion:
            self.skipTest("no gabion: name it in GABION")
        policies = sorted((HERE / "policies").glob("*.yaml"))
        self.assertEqual(len(policies), 3)
        done = subprocess.run([gabion, "check", "--deny", "warnings", *policies], capture_output=True, text=True, check=False)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        for name, (_, arm, _) in Templates().made.items():
            if name.startswith("existing network"):
                continue
            for machine, _ in rules.machines(arm):
                document = rules.first_boot(machine)
                done = subprocess.run([gabion, "check", "-"], input=document["policy"], capture_output=True, text=True, check=False)
                self.assertEqual(done.returncode, 0, name + done.stdout + done.stderr)


class GuideTest(unittest.TestCase):
    GUIDE = (REPOSITORY / "docs/deploy-azure.md").read_text()

    def test_the_guide_names_every_parameter(self):
        table = self.GUIDE.split("### What the parameters mean")[1].split("### ")[0]
        named = set(re.findall(r"`(\w+)`", "".join(line.split("|")[1] for line in table.splitlines() if line.startswith("| `"))))
        self.assertEqual(named, Templates(FEW).bicep.parameters.keys() - {"location"})

    def test_its_parameters_file_is_enough(self):
        [text] = re.findall(r"```json\n(.*?)```", self.GUIDE, re.DOTALL)
        given = {name: one["value"] for name, one in json.loads(text)["parameters"].items()}
        self.assertTrue(Templates(FEW).arm.deploy(given))

    def test_its_module_is_enough(self):
        [text] = re.findall(r"```hcl\n(.*?)```", self.GUIDE, re.DOTALL)
        names = set(re.findall(r"^  (\w+) +=", text, re.MULTILINE)) - {"source"}
        variables = Templates(FEW).module.variables
        required = {name for name, block in variables.items() if "default" not in block.attributes}
        self.assertLessEqual(required, names)
        self.assertLessEqual(names, variables.keys())


# What is broken in main.bicep (and so in the ARM template made of it), and who must say so.
BROKEN_EVERYWHERE = [
    ("ports_are_ours", "machine: 6084", "machine: 6085"),
    ("ports_are_ours", "perWorker: 16", "perWorker: 8"),
    ("balancers_end_first", "var idleMinutes = 30", "var idleMinutes = 100"),
    ("first_boot_is_right", "token: tokens[string(i + 1)]", "token: tokens['1']"),
    ("first_boot_is_right", "port: ports.health\n            tcp_port", "port: ports.healthTcp\n            tcp_port"),
    ("first_boot_is_right", "out: 'int'\n", "out: 'ext'\n"),
    ("first_boot_is_right", "gabion/first-boot/v1", "gabion/first-boot/v2"),
    ("first_boot_is_right", "nodes > 1 ? {\n          number: i + 1\n        } : {}", "{}"),
    ("first_boot_is_right", "replace(insidePolicy, '203.0.113.7', publicIn.properties.ipAddress)", "insidePolicy"),
    ("machines_are_closed", "provisionVMAgent: false", "provisionVMAgent: true"),
    ("machines_are_closed", "allowExtensionOperations: false", "allowExtensionOperations: true"),
    ("machines_are_closed", "enableIPForwarding: true", "enableIPForwarding: false"),
    ("machines_are_closed", "enabled: true", "enabled: false"),
    ("filters_are_narrow", "sourceAddressPrefixes: operatorPrefixes", "sourceAddressPrefix: '*'"),
    ("filters_are_narrow", "sourceAddressPrefix: 'AzureLoadBalancer'", "sourceAddressPrefix: '*'"),
    ("filters_are_narrow", "sourceAddressPrefixes: extAddresses", "sourceAddressPrefixes: intAddresses"),
    ("filters_are_narrow", "priority: 4096", "priority: 150"),
    ("filters_are_narrow", "name: 'to-inside'", "name: 'to-nowhere'"),
    ("balancers_fit", "enableFloatingIP: true", "enableFloatingIP: false"),
    ("balancers_fit", "requestPath: '/'", "requestPath: '/healthz'"),
    ("balancers_fit", "64000 / nodes / 8 * 8", "64000 / nodes"),
    ("routes_lead_inside", "addressPrefix: '0.0.0.0/0'", "addressPrefix: '10.0.0.0/8'"),
    ("routes_lead_inside", "cidrHost(subnets.int.prefix, 9)", "cidrHost(subnets.int.prefix, 10)"),
    ("routes_lead_inside", "cidrHost(subnets.int.prefix, 9)", "cidrHost(subnets.ext.prefix, 9)"),
    ("identity_is_off", "= if (failoverRole) {\n  name: '${name}-failover'", "= {\n  name: '${name}-failover'"),
    ("identity_is_off", "'Microsoft.Network/routeTables/routes/write'", "'Microsoft.Network/*'"),
    ("nothing_unused", "var tags = {", "var forgotten = 1\nvar tags = {"),
    ("references_resolve", "'${name}-external', 'health')", "'${name}-external', 'heath')"),
    ("references_resolve", "dependsOn: [\n    network\n    external\n  ]", "dependsOn: [\n    network\n  ]"),
    ("parameters_agree", "@secure()\n", ""),
    ("parameters_agree", "param workers int = 1", "param workers int = 1\n@description('More.')\nparam threads int = workers"),
]
# What is broken in one Terraform file alone: the comparison must see it.
BROKEN_TERRAFORM = [
    ("locals.tf", "idle_minutes = 30", "idle_minutes = 29"),
    ("locals.tf", "i + 11)]\n  ext", "i + 12)]\n  ext"),
    ("locals.tf", 'out = "ext" }', 'out = "int" }'),
    ("network.tf", "priority                   = 120", "priority                   = 121"),
    ("network.tf", "default_outbound_access_enabled = false", "default_outbound_access_enabled = true"),
    ("balancers.tf", "floating_ip_enabled            = true", "floating_ip_enabled            = false"),
    ("balancers.tf", 'ip_version          = "IPv4"', 'ip_version          = "IPv6"'),
    ("nodes.tf", "azurerm_network_security_group.int.id", "azurerm_network_security_group.ext.id"),
    ("nodes.tf", "azurerm_lb_backend_address_pool.internal.id", "azurerm_lb_backend_address_pool.external.id"),
    ("nodes.tf", "  boot_diagnostics {}\n", ""),
    ("identity.tf", '      "Microsoft.Network/publicIPAddresses/read",\n', ""),
]


# Enough to see each fault.
FEW = ("one node", "three nodes", "active/passive with its role")


class BrokenTemplatesTest(unittest.TestCase):
    def expect(self, rule, templates):
        found = [one.__name__ for one in rules.RULES if one(templates)]
        self.assertIn(rule, found)

    def test_a_broken_template_is_found_by_its_rule(self):
        for rule, old, new in BROKEN_EVERYWHERE:
            with self.subTest(old):
                bicep = replaced(BICEP, old, new)
                templates = Templates(FEW, bicep=bicep, arm=translate(Bicep(HERE / "bicep/main.bicep", bicep)))
                self.expect(rule, templates)

    def test_a_difference_in_terraform_is_found(self):
        for file, old, new in BROKEN_TERRAFORM:
            with self.subTest(f"{file}: {old}"):
                broken = TERRAFORM | {file: replaced(TERRAFORM[file], old, new)}
                self.expect("the_same_everywhere", Templates(FEW, terraform=broken))

    def test_a_difference_in_the_arm_template_is_found(self):
        templates = Templates(FEW, arm=replaced(ARM, '"enableIPForwarding": true', '"enableIPForwarding": false'))
        self.expect("the_same_everywhere", templates)
        self.expect("translated", templates)

    def test_a_missing_dependency_is_found(self):
        broken = json.loads(ARM)
        for resource in broken["resources"]:
            if resource["type"].endswith("/virtualMachines"):
                resource["dependsOn"] = [one for one in resource["dependsOn"] if "networkInterfaces" not in one]
        self.expect("references_resolve", Templates(FEW, arm=json.dumps(broken)))

    def test_what_is_not_defined_is_an_error(self):
        for text in (
            replaced(BICEP, "nextHopIpAddress: frontendAddress", "nextHopIpAddress: frontendAdress"),
            replaced(BICEP, "ports.machine)", "ports.machines)"),
            replaced(BICEP, "param imageId string", "param imageIds string"),
            replaced(BICEP, "cidrHost(", "cidrHosts("),
            replaced(BICEP, "      vmSize: vmSize\n    }", "      vmSize: vmSize"),
        ):
            with self.assertRaises(TemplateError):
                Templates(FEW, bicep=text, arm=translate(Bicep(HERE / "bicep/main.bicep", text)))
        for file, old, new in (
            ("nodes.tf", "local.mgmt_addresses", "local.management_addresses"),
            ("network.tf", "var.operator_prefixes", "var.operators"),
            ("nodes.tf", "azurerm_lb_backend_address_pool.external", "azurerm_lb_backend_address_pool.outside"),
        ):
            with self.assertRaises(TemplateError):
                Templates(FEW, terraform=TERRAFORM | {file: replaced(TERRAFORM[file], old, new)})


if __name__ == "__main__":
    unittest.main()
