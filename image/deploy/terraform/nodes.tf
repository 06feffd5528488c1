resource "azurerm_availability_set" "set" {
  count                        = length(var.zones) == 0 ? 1 : 0
  name                         = var.name
  location                     = var.location
  resource_group_name          = var.resource_group_name
  tags                         = local.tags
  managed                      = true
  platform_fault_domain_count  = 2
  platform_update_domain_count = 20
}

resource "azurerm_network_interface" "mgmt" {
  count                          = var.nodes
  name                           = "${var.name}-${count.index + 1}-mgmt"
  location                       = var.location
  resource_group_name            = var.resource_group_name
  tags                           = local.tags
  accelerated_networking_enabled = true
  ip_forwarding_enabled          = false

  ip_configuration {
    name                          = "mgmt"
    subnet_id                     = local.subnet_ids["mgmt"]
    private_ip_address_allocation = "Static"
    private_ip_address            = local.mgmt_addresses[count.index]
  }

  depends_on = [azurerm_virtual_network.network]
}

resource "azurerm_network_interface" "ext" {
  count                          = var.nodes
  name                           = "${var.name}-${count.index + 1}-ext"
  location                       = var.location
  resource_group_name            = var.resource_group_name
  tags                           = local.tags
  accelerated_networking_enabled = true
  ip_forwarding_enabled          = true

  ip_configuration {
    name                          = "ext"
    subnet_id                     = local.subnet_ids["ext"]
    private_ip_address_allocation = "Static"
    private_ip_address            = local.ext_addresses[count.index]
  }

  depends_on = [azurerm_virtual_network.network]
}

resource "azurerm_network_interface" "int" {
  count                          = var.nodes
  name                           = "${var.name}-${count.index + 1}-int"
  location                       = var.location
  resource_group_name            = var.resource_group_name
  tags                           = local.tags
  accelerated_networking_enabled = true
  ip_forwarding_enabled          = true

  ip_configuration {
    name                          = "int"
    subnet_id                     = local.subnet_ids["int"]
    private_ip_address_allocation = "Static"
    private_ip_address            = local.int_addresses[count.index]
  }

  depends_on = [azurerm_virtual_network.network]
}

resource "azurerm_network_interface_security_group_association" "mgmt" {
  count                     = var.nodes
  network_interface_id      = azurerm_network_interface.mgmt[count.index].id
  network_security_group_id = azurerm_network_security_group.mgmt.id
}

resource "azurerm_network_interface_security_group_association" "ext" {
  count                     = var.nodes
  network_interface_id      = azurerm_network_interface.ext[count.index].id
  network_security_group_id = azurerm_network_security_group.ext.id
}

resource "azurerm_network_interface_security_group_association" "int" {
  count                     = var.nodes
  network_interface_id      = azurerm_network_interface.int[count.index].id
  network_security_group_id = azurerm_network_security_group.int.id
}

resource "azurerm_network_interface_backend_address_pool_association" "ext" {
  count                   = var.nodes
  network_interface_id    = azurerm_network_interface.ext[count.index].id
  ip_configuration_name   = "ext"
  backend_address_pool_id = azurerm_lb_backend_address_pool.external.id
}

resource "azurerm_network_interface_backend_address_pool_association" "int" {
  count                   = var.nodes
  network_interface_id    = azurerm_network_interface.int[count.index].id
  ip_configuration_name   = "int"
  backend_address_pool_id = azurerm_lb_backend_address_pool.internal.id
}

resource "azurerm_linux_virtual_machine" "node" {
  #checkov:skip=CKV_AZURE_179:no agent by intention, nothing of Azure's runs on a node and no extension changes it
  count                           = var.nodes
  name                            = "${var.name}-${count.index + 1}"
  computer_name                   = "${var.name}-${count.index + 1}"
  location                        = var.location
  resource_group_name             = var.resource_group_name
  tags                            = local.tags
  size                            = var.vm_size
  availability_set_id             = length(var.zones) == 0 ? azurerm_availability_set.set[0].id : null
  zone                            = length(var.zones) == 0 ? null : var.zones[count.index % length(var.zones)]
  source_image_id                 = var.image_id
  encryption_at_host_enabled      = var.encryption_at_host
  admin_username                  = var.admin_username
  disable_password_authentication = true
  provision_vm_agent              = false
  allow_extension_operations      = false
  custom_data                     = base64encode(jsonencode(local.first_boot[count.index]))

  # The first is eth0.
  network_interface_ids = [
    azurerm_network_interface.mgmt[count.index].id,
    azurerm_network_interface.ext[count.index].id,
    azurerm_network_interface.int[count.index].id,
  ]

  admin_ssh_key {
    username   = var.admin_username
    public_key = var.admin_ssh_key
  }

  os_disk {
    name                 = "${var.name}-${count.index + 1}"
    caching              = "ReadOnly"
    storage_account_type = "Premium_LRS"
  }

  # Logs of the serial console, in storage that Azure keeps.
  boot_diagnostics {}

  dynamic "identity" {
    for_each = var.failover_role ? [azurerm_user_assigned_identity.failover[0].id] : []
    content {
      type         = "UserAssigned"
      identity_ids = [identity.value]
    }
  }

  # Only read at the first boot; a change of policy is `gabion push`, and must not make new machines.
  lifecycle {
    ignore_changes = [custom_data]
  }

  depends_on = [
    azurerm_network_interface_security_group_association.mgmt,
    azurerm_network_interface_security_group_association.ext,
    azurerm_network_interface_security_group_association.int,
  ]
}
