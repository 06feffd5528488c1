"""What must hold of the templates. Each rule gives the problems that it found, as text."""

import base64
import ipaddress
import json
import re

import cloud
from compare import differences, normal
from expression import TemplateError
from templates import GIVEN, REPOSITORY, snake
from translate import translate

# UDP through the load balancer: four minutes, and no setting.
AZURE_UDP_IDLE_SECONDS = 240
CUSTOM_DATA_BYTES_MAX = 65_535
WORKERS_MAX = 16

def of_kind(resources, kind):
    return {key: one for key, one in resources.items() if one["type"].endswith(f"/{kind}")}


def named(items):
    return {item["name"]: item.get("properties", {}) for item in items}


def the_same_everywhere(templates):
    """Bicep, ARM and Terraform make the same resources."""
    found = []
    for name, (bicep, arm, terraform) in templates.made.items():
        versions = [{key: one["apiVersion"] for key, one in made.items()} for made in (bicep, arm)]
        found += [f"{name}, Bicep and ARM: {one}" for one in differences(*versions)]
        found += [f"{name}, Bicep and ARM: {one}" for one in differences(normal(bicep), normal(arm))]
        found += [f"{name}, ARM and Terraform: {one}" for one in differences(normal(arm), normal(terraform))]
    return found


def parameters_agree(templates):
    """The three take the same parameters with the same defaults."""
    bicep, arm, variables = templates.bicep.parameters, templates.arm.json["parameters"], templates.module.variables
    found = [f"{name}: not a parameter everywhere" for name in sorted(bicep.keys() ^ arm.keys())]
    terraform_only = {"resource_group_name"}
    names = {snake(name) for name in bicep} ^ (variables.keys() - terraform_only)
    found += [f"{name}: not a variable and a parameter" for name in sorted(names)]
    for name, (_, default, _) in bicep.items():
        block = variables.get(snake(name))
        if block and name != "location" and (default is None) != ("default" not in block.attributes):
            found.append(f"{name}: required in one, with a default in the other")
    for name in ("tokens",):
        if not arm.get(name, {}).get("type", "").lower().startswith("secure"):
            found.append(f"{name}: not secure in the ARM template")
        if variables[name].attributes.get("sensitive") != ("value", True):
            found.append(f"{name}: not sensitive in Terraform")
    return found


def translated(templates):
    """The ARM template is what the Bicep file says today."""
    if translate(templates.bicep) == templates.arm.text:
        return []
    return ["arm/azuredeploy.json is not made from bicep/main.bicep: run image/deploy/check --write"]


def nothing_unused(templates):
    found = [f"Bicep: nothing uses {name}" for name in templates.bicep.unused()]
    found += [f"ARM: nothing uses {name}" for name in templates.arm.unused()]
    return found + [f"Terraform: nothing uses {name}" for name in templates.module.unused()]


def ids_in(value):
    if isinstance(value, dict):
        return set().union(*map(ids_in, value.values()), *map(ids_in, value)) if value else set()
    if isinstance(value, list):
        return set().union(*map(ids_in, value)) if value else set()
    return {value} if isinstance(value, str) and "/providers/Microsoft." in value else set()


def references_resolve(templates):
    """Every id is of something that is made, or given; and made before."""
    found = []
    for name, given, resources in templates.deployed():
        network = cloud.resource_id(
            given.get("networkResourceGroup", "group"), "Microsoft.Network/virtualNetworks", given.get("networkName", "fw-net")
        )
        there = {network} if given.get("existingNetwork") else set()
        for key, one in resources.items():
            before = needed_before(resources, key)
            for wanted in sorted(ids_in(one["properties"] if "properties" in one else {}) | ids_in(one.get("identity")) | one["referenced"]):
                if wanted in GIVEN.values():
                    continue
                whole = next((each for each in [*resources, *there] if (wanted + "/").startswith(each + "/")), None)
                if whole is None or not has_part(resources.get(whole), wanted[len(whole) + 1 :]):
                    found.append(f"{name}: {one['name']} speaks of {wanted}, which nothing makes")
                elif whole != key and whole not in before | there:
                    found.append(f"{name}: {one['name']} needs {whole}, and does not depend on it")
            for wanted in one["dependsOn"] - resources.keys():
                if not any(resource.get("condition") for resource in templates.arm.json["resources"] if resource["type"] in wanted):
                    found.append(f"{name}: {one['name']} depends on {wanted}, which nothing makes")
    return found


def needed_before(resources, key):
    before, waiting = set(), [key]
    while waiting:
        for one in resources.get(waiting.pop(), {}).get("dependsOn", ()):
            if one not in before:
                before.add(one)
                waiting.append(one)
    if key in before:
        raise TemplateError(f"{key} depends on itself")
    return before


def has_part(resource, part):
    """Whether a resource has a part such as probes/health; of one that is not ours, nobody knows."""
    if not part or resource is None:
        return True
    kind, name = part.split("/")
    return any(item["name"] == name for item in resource["properties"].get(kind, []))


def documented_defaults():
    """Defaults of docs/configuration.md: (section, setting) -> text."""
    found, section = {}, None
    for line in (REPOSITORY / "docs/configuration.md").read_text().splitlines():
        if heading := re.match(r"## \[(\w+)\]", line):
            section = heading.group(1)
        elif row := re.match(r"\| `(\w+)` \| ([^|]*) \|", line):
            found[section, row.group(1)] = row.group(2).strip().strip("`").replace(",", "")
    return found


def ports_are_ours(templates):
    """Ports are the defaults of docs/configuration.md, and packaging/gabiond.toml's for the API."""
    defaults = documented_defaults()
    wanted = {
        "health": defaults["health", "port"],
        "healthTcp": defaults["health", "tcp_port"],
        "wrapped": defaults["cluster", "wrapped_port"],
        "sync": defaults["cluster", "sync_port"],
        "session": defaults["cluster", "session_port"],
        "machine": defaults["cluster", "machine_port"],
        "api": re.search(r'listen = \["[^"]*:(\d+)"\]', (REPOSITORY / "packaging/gabiond.toml").read_text()).group(1),
        "perWorker": re.search(r"(\d+) higher than those of the one before", (REPOSITORY / "docs/configuration.md").read_text()).group(1),
    }
    ports = templates.arm.json["variables"]["ports"]
    return [f"ports.{key} is {ports.get(key)}, and documented as {value}" for key, value in wanted.items() if str(ports.get(key)) != value]


def seconds(duration):
    units = {"s": 1, "m": 60, "h": 3600, "d": 86400}
    return sum(int(number) * units[unit] for number, unit in re.findall(r"(\d+)([smhd])", duration))


def balancers_end_first(templates):
    """No timer of ours is shorter than the load balancer's, which forgets without a word."""
    rows = dict(re.findall(r"\| `(tcp-established)` \|[^|]*\| (\w+) \|", (REPOSITORY / "docs/policy.md").read_text()))
    udp = re.search(r"\| `udp`, `udp-unreplied` \|[^|]*\| (\w+),", (REPOSITORY / "docs/policy.md").read_text()).group(1)
    found = []
    if seconds(udp) < AZURE_UDP_IDLE_SECONDS:
        found.append(f"UDP ends after {udp}, before Azure's {AZURE_UDP_IDLE_SECONDS} s")
    for name, _, resources in templates.deployed():
        for one in of_kind(resources, "loadBalancers").values():
            rules = one["properties"]["loadBalancingRules"] + one["properties"].get("outboundRules", [])
            for rule, properties in named(rules).items():
                minutes = properties["idleTimeoutInMinutes"]
                if not 4 <= minutes <= 30:
                    found.append(f"{name}: {rule} of {one['name']} idles {minutes} minutes, and Azure takes 4 to 30")
                if minutes * 60 > seconds(rows["tcp-established"]):
                    found.append(f"{name}: {rule} of {one['name']} idles {minutes} minutes, longer than our {rows['tcp-established']}")
    return found


def machines(resources):
    """Each machine's properties with its three interfaces' properties, in the order of the nodes."""
    for one in of_kind(resources, "virtualMachines").values():
        yield one, [resources[item["id"]]["properties"] for item in one["properties"]["networkProfile"]["networkInterfaces"]]


def address(interface):
    return interface["ipConfigurations"][0]["properties"]["privateIPAddress"]


def first_boot(machine):
    """What a machine is told at its first boot."""
    return json.loads(base64.b64decode(machine["properties"]["osProfile"]["customData"]))


def first_boot_is_right(templates):
    """Custom data has the shape of gabion/first-boot/v1, says what the template makes, and of secrets its own token alone."""
    found = []
    for name, given, resources in templates.deployed():
        nodes = given.get("nodes", 2)
        made = list(machines(resources))
        if len(made) != nodes:
            found.append(f"{name}: {len(made)} machines, not {nodes}")
        for number, (machine, interfaces) in enumerate(made, 1):
            data = base64.b64decode(machine["properties"]["osProfile"]["customData"])
            if len(data) > CUSTOM_DATA_BYTES_MAX:
                found.append(f"{name}: {len(data)} bytes of custom data")
            found += [f"{name}, node {number}: {one}" for one in first_boot_problems(data, given, number, nodes, machine, made, resources)]
    return found


def first_boot_problems(data, given, number, nodes, machine, made, resources):
    document = json.loads(data)
    policy = document.pop("policy", "")
    inside = given.get("spokePrefixes", ["10.1.0.0/16"]) + given.get("onPremisesPrefixes", [])
    wanted = {
        "apiVersion": "gabion/first-boot/v1",
        "node": {"name": machine["name"], "number": number},
        "interfaces": {"mgmt": "eth0", "ext": "eth1", "int": "eth2"},
        "routes": [{"to": "0.0.0.0/0", "out": "ext"}] + [{"to": prefix, "out": "int"} for prefix in inside],
        "cluster": {
            "name": given.get("name", "fw"),
            "members": [f"{i}={address(interfaces[0])}" for i, (_, interfaces) in enumerate(made, 1)],
        },
        "settings": {
            # Several workers are for the programs in the kernel alone.
            "node": {"workers": 1} if given.get("workers", 1) == 1 else {"workers": given["workers"], "datapath": "ebpf"},
            "health": {"port": 4480, "tcp_port": 4481},
        },
        "trust": {"token": given["tokens"][str(number)]},
    }
    if nodes == 1:
        del wanted["cluster"], wanted["node"]["number"]
    yield from differences(wanted, document)
    text = data.decode()
    if "PRIVATE KEY" in text:
        yield "a private key"
    for other, token in given["tokens"].items():
        if other != str(number) and token in text:
            yield f"the token of node {other}"
    frontend = next(one for key, one in resources.items() if key.endswith("publicIPAddresses/" + given.get("name", "fw") + "-in"))
    published = cloud.known_at_run_time(cloud.resource_id(frontend["type"], frontend["name"]))["ipAddress"]
    for stand_in in ("203.0.113.7", "192.0.2."):
        if stand_in in policy:
            yield f"{stand_in} stands in the policy still"
    if published not in policy:
        yield "the policy does not speak of the frontend"


def machines_are_closed(templates):
    """No agent, no extension, no password, no address of its own; the serial console is kept; forwarding where it is wanted."""
    found = []
    for name, _, resources in templates.deployed():
        for machine, (mgmt, ext, int_) in machines(resources):
            profile = machine["properties"]["osProfile"]
            wanted = {
                "allowExtensionOperations": profile["allowExtensionOperations"] is False,
                "provisionVMAgent": profile["linuxConfiguration"]["provisionVMAgent"] is False,
                "disablePasswordAuthentication": profile["linuxConfiguration"]["disablePasswordAuthentication"] is True,
                "bootDiagnostics": machine["properties"]["diagnosticsProfile"]["bootDiagnostics"]["enabled"] is True,
                "IP forwarding": [one["enableIPForwarding"] for one in (mgmt, ext, int_)] == [False, True, True],
                "accelerated networking": all(one["enableAcceleratedNetworking"] for one in (mgmt, ext, int_)),
                "public address": "publicIPAddress" not in json.dumps([mgmt, ext, int_]),
                "pools": ["loadBalancerBackendAddressPools" in json.dumps(one) for one in (mgmt, ext, int_)] == [False, True, True],
                "availability": bool(machine.get("zones")) != bool(machine["properties"].get("availabilitySet")),
            }
            found += [f"{name}: {machine['name']}: {what}" for what, holds in wanted.items() if not holds]
    return found


def filters_are_narrow(templates):
    """API and health for operators alone, the cluster's ports for members alone, probes for the balancer alone; then nothing."""
    found = []
    for name, given, resources in templates.deployed():
        interfaces = [three for _, three in machines(resources)]
        members = [sorted(address(three[i]) for three in interfaces) for i in range(3)]
        prefix = given.get("name", "fw")
        rules = {one["name"].removeprefix(prefix + "-"): named(one["properties"]["securityRules"]) for one in of_kind(resources, "networkSecurityGroups").values()}
        probe = "4481" if given.get("variant") == "active-passive" else "4480"
        datagrams = [f"{6081 + 16 * i}-{6082 + 16 * i}" for i in range(given.get("workers", 1))]
        inside = sorted(given.get("spokePrefixes", ["10.1.0.0/16"]) + given.get("onPremisesPrefixes", []))
        published = given.get("published", [{"name": "https", "protocol": "Tcp", "port": 443}])
        wanted = {
            "mgmt": {
                ("Tcp", ("192.168.7.0/24",), ("4450", "4480")),
                ("Udp", tuple(members[0]), tuple(datagrams)),
                ("Tcp", tuple(members[0]), ("6083", "6084")),
            },
            "ext": {("Tcp", ("AzureLoadBalancer",), (probe,)), ("Tcp", tuple(members[1]), ("6084",))}
            | {(one["protocol"], ("Internet",), (str(one["port"]),)) for one in published},
            "int": {("Tcp", ("AzureLoadBalancer",), (probe,)), ("Tcp", tuple(members[2]), ("6084",)), ("*", tuple(inside), ("*",))},
        }
        for kind, allowed in wanted.items():
            there = {opening(rule) for rule in rules[kind].values() if (rule["access"], rule["direction"]) == ("Allow", "Inbound")}
            found += [f"{name}: {kind} lets in {one}" for one in sorted(there - allowed)]
            found += [f"{name}: {kind} does not let in {one}" for one in sorted(allowed - there)]
            last = max(rules[kind].values(), key=lambda rule: rule["priority"])
            if (last["access"], opening(last)) != ("Deny", ("*", ("*",), ("*",))):
                found.append(f"{name}: {kind} does not end with a refusal of everything")
            priorities = [(rule["direction"], rule["priority"]) for rule in rules[kind].values()]
            if len(priorities) != len(set(priorities)):
                found.append(f"{name}: {kind} has two rules of one priority")
        if "to-inside" not in rules["int"]:
            found.append(f"{name}: clients' own addresses are not let out to the inside")
    return found


def opening(rule):
    sources = rule.get("sourceAddressPrefixes") or [rule["sourceAddressPrefix"]]
    ports = rule.get("destinationPortRanges") or [rule["destinationPortRange"]]
    return rule["protocol"], tuple(sorted(sources)), tuple(ports)


def balancers_fit(templates):
    """Standard balancers: probes on our port, floating IP and resets outside, all ports and no reset inside."""
    found = []
    for name, given, resources in templates.deployed():
        prefix = given.get("name", "fw")
        balancers = {one["name"].removeprefix(prefix + "-"): one for one in of_kind(resources, "loadBalancers").values()}
        passive = given.get("variant") == "active-passive"
        probe = {"protocol": "Tcp", "port": 4481} if passive else {"protocol": "Http", "port": 4480, "requestPath": "/"}
        probe |= {"intervalInSeconds": 5, "numberOfProbes": 2, "probeThreshold": 2}
        for kind, balancer in balancers.items():
            properties = balancer["properties"]
            found += [f"{name}: {kind}: {one}" for one in differences(probe, named(properties["probes"])["health"])]
            if balancer["sku"]["name"] != "Standard":
                found.append(f"{name}: {kind} is no Standard balancer")
        for rule in named(balancers["external"]["properties"]["loadBalancingRules"]).values():
            wanted = (True, rule["protocol"] == "Tcp", True, rule["frontendPort"])
            if (rule["enableFloatingIP"], rule["enableTcpReset"], rule["disableOutboundSnat"], rule["backendPort"]) != wanted:
                found.append(f"{name}: rule for port {rule['frontendPort']}")
        inside = named(balancers["internal"]["properties"]["loadBalancingRules"])["ha-ports"]
        if (inside["protocol"], inside["frontendPort"], inside["backendPort"], inside["enableTcpReset"]) != ("All", 0, 0, False):
            found.append(f"{name}: the internal balancer does not take all ports")
        [outbound] = balancers["external"]["properties"]["outboundRules"]
        ports = outbound["properties"]["allocatedOutboundPorts"]
        if ports % 8 or ports * given.get("nodes", 2) > 64_000 or ports < 64_000 // given.get("nodes", 2) - 8:
            found.append(f"{name}: {ports} outbound ports a node")
    return found


def routes_lead_inside(templates):
    """Spokes send everything to the internal frontend, the gateway what is for the spokes; both know its address."""
    found = []
    for name, given, resources in templates.deployed():
        [frontend] = [
            one["properties"]["privateIPAddress"]
            for balancer in of_kind(resources, "loadBalancers").values()
            for one in balancer["properties"]["frontendIPConfigurations"]
            if "privateIPAddress" in one["properties"]
        ]
        subnet = given.get("subnets", {}).get("int", {}).get("prefix", "10.0.0.128/26")
        if ipaddress.ip_address(frontend) not in ipaddress.ip_network(subnet):
            found.append(f"{name}: the frontend {frontend} is not in {subnet}")
        tables = {one["name"].split("-")[-1]: one["properties"] for one in of_kind(resources, "routeTables").values()}
        wanted = {"spokes": ["0.0.0.0/0"], "gateway": given.get("spokePrefixes", ["10.1.0.0/16"])}
        for kind, prefixes in wanted.items():
            routes = [one["properties"] for one in tables[kind]["routes"]]
            if [one["addressPrefix"] for one in routes] != prefixes:
                found.append(f"{name}: routes of {kind}")
            if any((one["nextHopType"], one["nextHopIpAddress"]) != ("VirtualAppliance", frontend) for one in routes):
                found.append(f"{name}: next hop of {kind}")
        if tables["spokes"]["disableBgpRoutePropagation"] is not True or tables["gateway"]["disableBgpRoutePropagation"] is not False:
            found.append(f"{name}: routes of the gateway in the wrong table")
        addresses = [address(one) for _, three in machines(resources) for one in three]
        if len({*addresses, frontend}) != len(addresses) + 1:
            found.append(f"{name}: one address twice")
    return found


def identity_is_off(templates):
    """No rights unless asked for, and then no more than moving routes and addresses takes."""
    found = []
    for name, given, resources in templates.deployed():
        roles = of_kind(resources, "roleDefinitions")
        wanted = bool(given.get("failoverRole"))
        has = bool(roles), bool(of_kind(resources, "userAssignedIdentities")), any(one.get("identity") for one, _ in machines(resources))
        if has != (wanted,) * 3:
            found.append(f"{name}: identity {has}")
        for role in roles.values():
            for action in role["properties"]["permissions"][0]["actions"]:
                if "*" in action or not action.startswith("Microsoft.Network/") or action.endswith("/delete"):
                    found.append(f"{name}: the role may {action}")
    return found


RULES = [
    the_same_everywhere,
    parameters_agree,
    translated,
    nothing_unused,
    references_resolve,
    ports_are_ours,
    balancers_end_first,
    first_boot_is_right,
    machines_are_closed,
    filters_are_narrow,
    balancers_fit,
    routes_lead_inside,
    identity_is_off,
]


def problems(templates):
    """Everything that is wrong, with the name of the rule that says so."""
    return [f"{rule.__name__}: {problem}" for rule in RULES for problem in rule(templates)]
