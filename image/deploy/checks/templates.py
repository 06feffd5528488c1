"""The three descriptions of the deployment, and what they make in every scenario."""

import re
from pathlib import Path

import cloud
from arm import Template
from bicep import Bicep
from terraform import Module

HERE = Path(__file__).resolve().parent.parent
REPOSITORY = HERE.parent.parent

GIVEN = {
    "imageId": f"{cloud.SUBSCRIPTION}/resourceGroups/images/providers/Microsoft.Compute/galleries/g/images/gabion/versions/1.0.0",
    "adminSshKey": "ssh-ed25519 AAAA operator",
    "tokens": {str(i): f"token-of-node-{i}-0123456789" for i in range(1, 17)},
    "operatorPrefixes": ["192.168.7.0/24"],
}
SCENARIOS = {
    "one node": {"nodes": 1},
    "two nodes": {},
    "three nodes": {"nodes": 3},
    "sixteen nodes in the smallest subnets": {
        "nodes": 16,
        "subnets": {
            "mgmt": {"name": "m", "prefix": "10.0.0.0/27"},
            "ext": {"name": "e", "prefix": "10.0.0.32/27"},
            "int": {"name": "i", "prefix": "10.0.0.64/27"},
        },
    },
    "zones": {"nodes": 3, "zones": ["1", "2"]},
    "inbound SNAT": {"variant": "inbound-snat", "name": "edge"},
    "active/passive with its role": {"variant": "active-passive", "failoverRole": True},
    "workers": {"nodes": 2, "workers": 3},
    "existing network, on-premises, own policy": {
        "existingNetwork": True,
        "networkName": "hub",
        "networkResourceGroup": "hubs",
        "spokePrefixes": ["10.1.0.0/16", "10.2.0.0/16"],
        "onPremisesPrefixes": ["172.16.0.0/12"],
        "policy": "apiVersion: gabion/v1\nzones: {}\n# 203.0.113.7 \"quoted\" 'and' \\ back\n",
    },
    "much published": {
        "published": [
            {"name": "dns", "protocol": "Udp", "port": 53},
            {"name": "https", "protocol": "Tcp", "port": 443},
        ],
        "encryptionAtHost": False,
        "server": "10.1.0.99",
    },
}


def snake(name):
    return re.sub("(?<=[a-z])([A-Z])", r"_\1", name).lower()


class Templates:
    """The three descriptions, and what they make in every scenario. Texts may be given in place of the files."""

    def __init__(self, scenarios=tuple(SCENARIOS), bicep=None, arm=None, terraform=None):
        self.bicep = Bicep(HERE / "bicep/main.bicep", bicep)
        self.arm = Template(HERE / "arm/azuredeploy.json", arm)
        self.module = Module(HERE / "terraform", terraform)
        self.made = {
            name: (
                self.bicep.deploy(GIVEN | SCENARIOS[name]),
                self.arm.deploy(GIVEN | SCENARIOS[name]),
                self.module.deploy(self.variables(GIVEN | SCENARIOS[name])),
            )
            for name in scenarios
        }

    @staticmethod
    def variables(given):
        """Parameters in Terraform's words."""
        made = {snake(name): value for name, value in given.items()}
        return made | {"resource_group_name": cloud.GROUP["name"], "location": cloud.GROUP["location"]}

    def deployed(self):
        for name, (_, arm, _) in self.made.items():
            yield name, GIVEN | SCENARIOS[name], arm
