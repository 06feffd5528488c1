resource "azurerm_public_ip" "in" {
  name                = "${var.name}-in"
  location            = var.location
  resource_group_name = var.resource_group_name
  tags                = local.tags
  sku                 = "Standard"
  zones               = var.zones
  allocation_method   = "Static"
  ip_version          = "IPv4"
}

resource "azurerm_public_ip" "out" {
  name                = "${var.name}-out"
  location            = var.location
  resource_group_name = var.resource_group_name
  tags                = local.tags
  sku                 = "Standard"
  zones               = var.zones
  allocation_method   = "Static"
  ip_version          = "IPv4"
}

resource "azurerm_lb" "external" {
  name                = "${var.name}-external"
  location            = var.location
  resource_group_name = var.resource_group_name
  tags                = local.tags
  sku                 = "Standard"

  frontend_ip_configuration {
    name                 = "in"
    public_ip_address_id = azurerm_public_ip.in.id
  }

  frontend_ip_configuration {
    name                 = "out"
    public_ip_address_id = azurerm_public_ip.out.id
  }
}

resource "azurerm_lb_backend_address_pool" "external" {
  name            = "nodes"
  loadbalancer_id = azurerm_lb.external.id
}

resource "azurerm_lb_probe" "external" {
  name                = "health"
  loadbalancer_id     = azurerm_lb.external.id
  protocol            = local.probe.protocol
  port                = local.probe.port
  request_path        = local.probe.request_path
  interval_in_seconds = 5
  number_of_probes    = 2
  probe_threshold     = 2
}

resource "azurerm_lb_rule" "published" {
  count                          = length(var.published)
  name                           = var.published[count.index].name
  loadbalancer_id                = azurerm_lb.external.id
  frontend_ip_configuration_name = "in"
  backend_address_pool_ids       = [azurerm_lb_backend_address_pool.external.id]
  probe_id                       = azurerm_lb_probe.external.id
  protocol                       = var.published[count.index].protocol
  frontend_port                  = var.published[count.index].port
  backend_port                   = var.published[count.index].port
  floating_ip_enabled            = true
  tcp_reset_enabled              = var.published[count.index].protocol == "Tcp"
  idle_timeout_in_minutes        = local.idle_minutes
  load_distribution              = "Default"
  disable_outbound_snat          = true
}

resource "azurerm_lb_outbound_rule" "out" {
  name                     = "out"
  loadbalancer_id          = azurerm_lb.external.id
  backend_address_pool_id  = azurerm_lb_backend_address_pool.external.id
  protocol                 = "All"
  allocated_outbound_ports = local.outbound_ports
  tcp_reset_enabled        = true
  idle_timeout_in_minutes  = local.idle_minutes

  frontend_ip_configuration {
    name = "out"
  }
}

resource "azurerm_lb" "internal" {
  name                = "${var.name}-internal"
  location            = var.location
  resource_group_name = var.resource_group_name
  tags                = local.tags
  sku                 = "Standard"

  frontend_ip_configuration {
    name                          = "inside"
    zones                         = var.zones
    subnet_id                     = local.subnet_ids["int"]
    private_ip_address_allocation = "Static"
    private_ip_address            = local.frontend_address
  }

  depends_on = [azurerm_virtual_network.network]
}

resource "azurerm_lb_backend_address_pool" "internal" {
  name            = "nodes"
  loadbalancer_id = azurerm_lb.internal.id
}

resource "azurerm_lb_probe" "internal" {
  name                = "health"
  loadbalancer_id     = azurerm_lb.internal.id
  protocol            = local.probe.protocol
  port                = local.probe.port
  request_path        = local.probe.request_path
  interval_in_seconds = 5
  number_of_probes    = 2
  probe_threshold     = 2
}

# All ports of all protocols. Azure sends no resets here, and passing packets keep their destination without floating IP.
resource "azurerm_lb_rule" "ha_ports" {
  name                           = "ha-ports"
  loadbalancer_id                = azurerm_lb.internal.id
  frontend_ip_configuration_name = "inside"
  backend_address_pool_ids       = [azurerm_lb_backend_address_pool.internal.id]
  probe_id                       = azurerm_lb_probe.internal.id
  protocol                       = "All"
  frontend_port                  = 0
  backend_port                   = 0
  floating_ip_enabled            = false
  tcp_reset_enabled              = false
  idle_timeout_in_minutes        = local.idle_minutes
  load_distribution              = "Default"
  disable_outbound_snat          = true
}
