resource "azurerm_user_assigned_identity" "failover" {
  count               = var.failover_role ? 1 : 0
  name                = "${var.name}-failover"
  location            = var.location
  resource_group_name = var.resource_group_name
  tags                = local.tags
}

resource "azurerm_role_definition" "failover" {
  count             = var.failover_role ? 1 : 0
  name              = "${var.name}-failover"
  scope             = data.azurerm_resource_group.group.id
  description       = "Lets the nodes of a Gabion cluster move routes and public addresses to the active one."
  assignable_scopes = [data.azurerm_resource_group.group.id]

  permissions {
    actions = [
      "Microsoft.Network/routeTables/read",
      "Microsoft.Network/routeTables/routes/read",
      "Microsoft.Network/routeTables/routes/write",
      "Microsoft.Network/networkInterfaces/read",
      "Microsoft.Network/networkInterfaces/write",
      "Microsoft.Network/networkSecurityGroups/join/action",
      "Microsoft.Network/virtualNetworks/subnets/join/action",
      "Microsoft.Network/loadBalancers/backendAddressPools/join/action",
      "Microsoft.Network/publicIPAddresses/read",
      "Microsoft.Network/publicIPAddresses/join/action",
      "Microsoft.Network/locations/operations/read",
      "Microsoft.Network/locations/operationResults/read",
    ]
    not_actions = []
  }
}

resource "azurerm_role_assignment" "failover" {
  count              = var.failover_role ? 1 : 0
  scope              = data.azurerm_resource_group.group.id
  role_definition_id = azurerm_role_definition.failover[0].role_definition_resource_id
  principal_id       = azurerm_user_assigned_identity.failover[0].principal_id
  principal_type     = "ServicePrincipal"
}
