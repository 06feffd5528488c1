"""Terraform's resources in ARM's words.

Terraform's are finer: associations, pools, probes and rules are folded into what they belong to.
"""

KINDS = {
    "azurerm_availability_set": "Microsoft.Compute/availabilitySets",
    "azurerm_lb": "Microsoft.Network/loadBalancers",
    "azurerm_linux_virtual_machine": "Microsoft.Compute/virtualMachines",
    "azurerm_network_interface": "Microsoft.Network/networkInterfaces",
    "azurerm_network_security_group": "Microsoft.Network/networkSecurityGroups",
    "azurerm_public_ip": "Microsoft.Network/publicIPAddresses",
    "azurerm_role_assignment": "Microsoft.Authorization/roleAssignments",
    "azurerm_role_definition": "Microsoft.Authorization/roleDefinitions",
    "azurerm_route_table": "Microsoft.Network/routeTables",
    "azurerm_user_assigned_identity": "Microsoft.ManagedIdentity/userAssignedIdentities",
    "azurerm_virtual_network": "Microsoft.Network/virtualNetworks",
}
# What is part of another resource: the attribute that says of which, and where it stands there.
PARTS = {
    "azurerm_lb_backend_address_pool": ("loadbalancer_id", "backendAddressPools"),
    "azurerm_lb_outbound_rule": ("loadbalancer_id", "outboundRules"),
    "azurerm_lb_probe": ("loadbalancer_id", "probes"),
    "azurerm_lb_rule": ("loadbalancer_id", "loadBalancingRules"),
    "azurerm_network_interface_backend_address_pool_association": ("network_interface_id", None),
    "azurerm_network_interface_security_group_association": ("network_interface_id", None),
}


def filter_(plain):
    rules = [{"name": rule.pop("name"), "properties": {camel(k): v for k, v in rule.items()}} for rule in plain["security_rule"]]
    return {"properties": {"securityRules": rules}}


def camel(name):
    first, *rest = name.split("_")
    return first + "".join(part.capitalize() for part in rest)


def reference(resource):
    return {"id": resource}


def network(plain):
    subnets = [
        {
            "name": subnet["name"],
            "properties": {
                "addressPrefix": subnet["address_prefixes"][0],
                "defaultOutboundAccess": subnet["default_outbound_access_enabled"],
                "networkSecurityGroup": reference(subnet["security_group"]),
            },
        }
        for subnet in plain["subnet"]
    ]
    return {"properties": {"addressSpace": {"addressPrefixes": plain["address_space"]}, "subnets": subnets}}


def routes(plain):
    made = [
        {
            "name": route["name"],
            "properties": {
                "addressPrefix": route["address_prefix"],
                "nextHopType": route["next_hop_type"],
                "nextHopIpAddress": route["next_hop_in_ip_address"],
            },
        }
        for route in plain.get("route", [])
    ]
    return {"properties": {"disableBgpRoutePropagation": not plain["bgp_route_propagation_enabled"], "routes": made}}


def public_address(plain):
    return {
        "sku": {"name": plain["sku"]},
        "zones": plain["zones"],
        "properties": {
            "publicIPAllocationMethod": plain["allocation_method"],
            "publicIPAddressVersion": plain["ip_version"],
        },
    }


def balancer(plain):
    frontends = []
    for one in plain["frontend_ip_configuration"]:
        properties = {}
        if "public_ip_address_id" in one:
            properties["publicIPAddress"] = reference(one["public_ip_address_id"])
        else:
            properties["subnet"] = reference(one["subnet_id"])
            properties["privateIPAllocationMethod"] = one["private_ip_address_allocation"]
            properties["privateIPAddress"] = one["private_ip_address"]
        frontends.append({"name": one["name"], "zones": one.get("zones"), "properties": properties})
    return {"sku": {"name": plain["sku"]}, "properties": {"frontendIPConfigurations": frontends}}


def interface(plain):
    configurations = [
        {
            "name": one["name"],
            "properties": {
                "subnet": reference(one["subnet_id"]),
                "privateIPAllocationMethod": one["private_ip_address_allocation"],
                "privateIPAddress": one["private_ip_address"],
            },
        }
        for one in plain["ip_configuration"]
    ]
    return {
        "properties": {
            "enableAcceleratedNetworking": plain["accelerated_networking_enabled"],
            "enableIPForwarding": plain["ip_forwarding_enabled"],
            "ipConfigurations": configurations,
        }
    }


def machine(plain):
    disk, key = plain["os_disk"][0], plain["admin_ssh_key"][0]
    made = {
        "zones": [plain["zone"]] if plain["zone"] else [],
        "properties": {
            "availabilitySet": reference(plain["availability_set_id"]) if plain["availability_set_id"] else None,
            "hardwareProfile": {"vmSize": plain["size"]},
            "securityProfile": {"encryptionAtHost": plain["encryption_at_host_enabled"]},
            "storageProfile": {
                "imageReference": reference(plain["source_image_id"]),
                "osDisk": {
                    "name": disk["name"],
                    "caching": disk["caching"],
                    "managedDisk": {"storageAccountType": disk["storage_account_type"]},
                },
            },
            "osProfile": {
                "computerName": plain["computer_name"],
                "adminUsername": plain["admin_username"],
                "allowExtensionOperations": plain["allow_extension_operations"],
                "linuxConfiguration": {
                    "disablePasswordAuthentication": plain["disable_password_authentication"],
                    "provisionVMAgent": plain["provision_vm_agent"],
                    "ssh": {
                        "publicKeys": [
                            {"path": f"/home/{key['username']}/.ssh/authorized_keys", "keyData": key["public_key"]}
                        ]
                    },
                },
                "customData": plain["custom_data"],
            },
            "networkProfile": {
                # The first one is the primary.
                "networkInterfaces": [
                    {"id": one, "properties": {"primary": i == 0}}
                    for i, one in enumerate(plain["network_interface_ids"])
                ]
            },
            "diagnosticsProfile": {"bootDiagnostics": {"enabled": "boot_diagnostics" in plain}},
        },
    }
    for identity in plain.get("identity", []):
        made["identity"] = {
            "type": identity["type"],
            "userAssignedIdentities": {one: {} for one in identity["identity_ids"]},
        }
    return made


def availability(plain):
    return {
        "sku": {"name": "Aligned" if plain["managed"] else "Classic"},
        "properties": {
            "platformFaultDomainCount": plain["platform_fault_domain_count"],
            "platformUpdateDomainCount": plain["platform_update_domain_count"],
        },
    }


def role(plain):
    permissions = [{"actions": one["actions"], "notActions": one["not_actions"]} for one in plain["permissions"]]
    return {
        "properties": {
            "roleName": plain["name"],
            "description": plain["description"],
            "type": "CustomRole",
            "permissions": permissions,
            "assignableScopes": plain["assignable_scopes"],
        }
    }


def assignment(plain):
    return {
        "properties": {
            "roleDefinitionId": plain["role_definition_id"],
            "principalId": plain["principal_id"],
            "principalType": plain["principal_type"],
        }
    }


WRITERS = {
    "azurerm_availability_set": availability,
    "azurerm_lb": balancer,
    "azurerm_linux_virtual_machine": machine,
    "azurerm_network_interface": interface,
    "azurerm_network_security_group": filter_,
    "azurerm_public_ip": public_address,
    "azurerm_role_assignment": assignment,
    "azurerm_role_definition": role,
    "azurerm_route_table": routes,
    "azurerm_user_assigned_identity": lambda plain: {},
    "azurerm_virtual_network": network,
}


def add(whole, where, name, properties):
    one = {"name": name, "properties": properties} if properties else {"name": name}
    whole["properties"].setdefault(where, []).append(one)


def frontend(plain, name):
    return reference(f"{plain['loadbalancer_id']}/frontendIPConfigurations/{name}")


def add_probe(whole, plain):
    properties = {
        "protocol": plain["protocol"],
        "port": plain["port"],
        "requestPath": plain["request_path"],
        "intervalInSeconds": plain["interval_in_seconds"],
        "numberOfProbes": plain["number_of_probes"],
        "probeThreshold": plain["probe_threshold"],
    }
    add(whole, "probes", plain["name"], properties)


def add_rule(whole, plain):
    [pool] = plain["backend_address_pool_ids"]
    properties = {
        "frontendIPConfiguration": frontend(plain, plain["frontend_ip_configuration_name"]),
        "backendAddressPool": reference(pool),
        "probe": reference(plain["probe_id"]),
        "protocol": plain["protocol"],
        "frontendPort": plain["frontend_port"],
        "backendPort": plain["backend_port"],
        "enableFloatingIP": plain["floating_ip_enabled"],
        "enableTcpReset": plain["tcp_reset_enabled"],
        "idleTimeoutInMinutes": plain["idle_timeout_in_minutes"],
        "loadDistribution": plain["load_distribution"],
        "disableOutboundSnat": plain["disable_outbound_snat"],
    }
    add(whole, "loadBalancingRules", plain["name"], properties)


def add_outbound(whole, plain):
    properties = {
        "frontendIPConfigurations": [frontend(plain, one["name"]) for one in plain["frontend_ip_configuration"]],
        "backendAddressPool": reference(plain["backend_address_pool_id"]),
        "protocol": plain["protocol"],
        "allocatedOutboundPorts": plain["allocated_outbound_ports"],
        "enableTcpReset": plain["tcp_reset_enabled"],
        "idleTimeoutInMinutes": plain["idle_timeout_in_minutes"],
    }
    add(whole, "outboundRules", plain["name"], properties)


def join_pool(whole, plain):
    for one in whole["properties"]["ipConfigurations"]:
        if one["name"] == plain["ip_configuration_name"]:
            one["properties"]["loadBalancerBackendAddressPools"] = [reference(plain["backend_address_pool_id"])]


def join_filter(whole, plain):
    whole["properties"]["networkSecurityGroup"] = reference(plain["network_security_group_id"])


PART_WRITERS = {
    "azurerm_lb_backend_address_pool": lambda whole, plain: add(whole, "backendAddressPools", plain["name"], {}),
    "azurerm_lb_outbound_rule": add_outbound,
    "azurerm_lb_probe": add_probe,
    "azurerm_lb_rule": add_rule,
    "azurerm_network_interface_backend_address_pool_association": join_pool,
    "azurerm_network_interface_security_group_association": join_filter,
}
