resource "azurerm_network_security_group" "mgmt" {
  name                = "${var.name}-mgmt"
  location            = var.location
  resource_group_name = var.resource_group_name
  tags                = local.tags

  security_rule {
    name                       = "operators"
    priority                   = 100
    direction                  = "Inbound"
    access                     = "Allow"
    protocol                   = "Tcp"
    source_address_prefixes    = var.operator_prefixes
    source_port_range          = "*"
    destination_address_prefix = "*"
    destination_port_ranges    = [tostring(local.ports.api), tostring(local.ports.health)]
  }

  security_rule {
    name                       = "cluster-datagrams"
    priority                   = 110
    direction                  = "Inbound"
    access                     = "Allow"
    protocol                   = "Udp"
    source_address_prefixes    = local.mgmt_addresses
    source_port_range          = "*"
    destination_address_prefix = "*"
    destination_port_ranges    = local.cluster_datagrams
  }

  security_rule {
    name                       = "cluster-sessions"
    priority                   = 120
    direction                  = "Inbound"
    access                     = "Allow"
    protocol                   = "Tcp"
    source_address_prefixes    = local.mgmt_addresses
    source_port_range          = "*"
    destination_address_prefix = "*"
    destination_port_ranges    = [tostring(local.ports.session), tostring(local.ports.machine)]
  }

  security_rule {
    name                       = "deny-rest"
    priority                   = 4096
    direction                  = "Inbound"
    access                     = "Deny"
    protocol                   = "*"
    source_address_prefix      = "*"
    source_port_range          = "*"
    destination_address_prefix = "*"
    destination_port_range     = "*"
  }
}

resource "azurerm_network_security_group" "ext" {
  name                = "${var.name}-ext"
  location            = var.location
  resource_group_name = var.resource_group_name
  tags                = local.tags

  security_rule {
    name                       = "probes"
    priority                   = 100
    direction                  = "Inbound"
    access                     = "Allow"
    protocol                   = "Tcp"
    source_address_prefix      = "AzureLoadBalancer"
    source_port_range          = "*"
    destination_address_prefix = "*"
    destination_port_range     = tostring(local.probe.port)
  }

  security_rule {
    name                       = "machines"
    priority                   = 110
    direction                  = "Inbound"
    access                     = "Allow"
    protocol                   = "Tcp"
    source_address_prefixes    = local.ext_addresses
    source_port_range          = "*"
    destination_address_prefix = "*"
    destination_port_range     = tostring(local.ports.machine)
  }

  security_rule {
    name                       = "deny-rest"
    priority                   = 4096
    direction                  = "Inbound"
    access                     = "Deny"
    protocol                   = "*"
    source_address_prefix      = "*"
    source_port_range          = "*"
    destination_address_prefix = "*"
    destination_port_range     = "*"
  }

  dynamic "security_rule" {
    for_each = var.published
    content {
      name                       = "published-${security_rule.value.name}"
      priority                   = 200 + security_rule.key
      direction                  = "Inbound"
      access                     = "Allow"
      protocol                   = security_rule.value.protocol
      source_address_prefix      = "Internet"
      source_port_range          = "*"
      destination_address_prefix = "*"
      destination_port_range     = tostring(security_rule.value.port)
    }
  }
}

resource "azurerm_network_security_group" "int" {
  name                = "${var.name}-int"
  location            = var.location
  resource_group_name = var.resource_group_name
  tags                = local.tags

  security_rule {
    name                       = "probes"
    priority                   = 100
    direction                  = "Inbound"
    access                     = "Allow"
    protocol                   = "Tcp"
    source_address_prefix      = "AzureLoadBalancer"
    source_port_range          = "*"
    destination_address_prefix = "*"
    destination_port_range     = tostring(local.probe.port)
  }

  security_rule {
    name                       = "machines"
    priority                   = 110
    direction                  = "Inbound"
    access                     = "Allow"
    protocol                   = "Tcp"
    source_address_prefixes    = local.int_addresses
    source_port_range          = "*"
    destination_address_prefix = "*"
    destination_port_range     = tostring(local.ports.machine)
  }

  security_rule {
    name                       = "from-inside"
    priority                   = 120
    direction                  = "Inbound"
    access                     = "Allow"
    protocol                   = "*"
    source_address_prefixes    = local.inside_prefixes
    source_port_range          = "*"
    destination_address_prefix = "*"
    destination_port_range     = "*"
  }

  # Without this rule clients' own addresses stop here: Azure's default lets out to the network only what comes from it.
  security_rule {
    name                         = "to-inside"
    priority                     = 100
    direction                    = "Outbound"
    access                       = "Allow"
    protocol                     = "*"
    source_address_prefix        = "*"
    source_port_range            = "*"
    destination_address_prefixes = local.inside_prefixes
    destination_port_range       = "*"
  }

  security_rule {
    name                       = "deny-rest"
    priority                   = 4096
    direction                  = "Inbound"
    access                     = "Deny"
    protocol                   = "*"
    source_address_prefix      = "*"
    source_port_range          = "*"
    destination_address_prefix = "*"
    destination_port_range     = "*"
  }
}

resource "azurerm_virtual_network" "network" {
  count               = var.existing_network ? 0 : 1
  name                = local.network_name
  location            = var.location
  resource_group_name = var.resource_group_name
  tags                = local.tags
  address_space       = [var.network_prefix]

  subnet {
    name                            = var.subnets["mgmt"].name
    address_prefixes                = [var.subnets["mgmt"].prefix]
    default_outbound_access_enabled = false
    security_group                  = azurerm_network_security_group.mgmt.id
  }

  subnet {
    name                            = var.subnets["ext"].name
    address_prefixes                = [var.subnets["ext"].prefix]
    default_outbound_access_enabled = false
    security_group                  = azurerm_network_security_group.ext.id
  }

  subnet {
    name                            = var.subnets["int"].name
    address_prefixes                = [var.subnets["int"].prefix]
    default_outbound_access_enabled = false
    security_group                  = azurerm_network_security_group.int.id
  }
}

resource "azurerm_route_table" "spokes" {
  name                          = "${var.name}-spokes"
  location                      = var.location
  resource_group_name           = var.resource_group_name
  tags                          = local.tags
  bgp_route_propagation_enabled = false

  route {
    name                   = "default"
    address_prefix         = "0.0.0.0/0"
    next_hop_type          = "VirtualAppliance"
    next_hop_in_ip_address = local.frontend_address
  }
}

# For the GatewaySubnet: the spokes only. A default route there is not allowed, and its own prefixes would go round in circles.
resource "azurerm_route_table" "gateway" {
  name                          = "${var.name}-gateway"
  location                      = var.location
  resource_group_name           = var.resource_group_name
  tags                          = local.tags
  bgp_route_propagation_enabled = true

  dynamic "route" {
    for_each = var.spoke_prefixes
    content {
      name                   = "spoke-${route.key + 1}"
      address_prefix         = route.value
      next_hop_type          = "VirtualAppliance"
      next_hop_in_ip_address = local.frontend_address
    }
  }
}
