output "frontend" {
  description = "The address at which the published services are reached."
  value       = azurerm_public_ip.in.ip_address
}

output "outbound" {
  description = "The address from which the inside reaches the internet."
  value       = azurerm_public_ip.out.ip_address
}

output "next_hop" {
  description = "The internal load balancer: next hop of the spokes."
  value       = local.frontend_address
}

output "node_addresses" {
  description = "The nodes' API and health addresses."
  value       = local.mgmt_addresses
}

output "spoke_route_table" {
  description = "To be associated with the subnets of the spokes."
  value       = azurerm_route_table.spokes.id
}

output "gateway_route_table" {
  description = "To be associated with the GatewaySubnet, where there is one."
  value       = azurerm_route_table.gateway.id
}
