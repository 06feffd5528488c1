data "azurerm_resource_group" "group" {
  name = var.resource_group_name
}

locals {
  # What docs/configuration.md has as defaults.
  ports = {
    api        = 4450
    health     = 4480
    health_tcp = 4481
    wrapped    = 6081
    sync       = 6082
    session    = 6083
    machine    = 6084
    per_worker = 16
  }

  # The longest that a rule of the load balancer allows. Ours are longer (docs/policy.md), so the balancer's end first, with resets where it can.
  idle_minutes = 30

  # Of one address; a node's share is a multiple of 8.
  outbound_ports = floor(64000 / var.nodes / 8) * 8

  tags = {
    product = "gabion"
    variant = var.variant
  }

  probe = {
    protocol     = var.variant == "active-passive" ? "Tcp" : "Http"
    port         = var.variant == "active-passive" ? local.ports.health_tcp : local.ports.health
    request_path = var.variant == "active-passive" ? null : "/"
  }

  inside_prefixes   = concat(var.spoke_prefixes, var.on_premises_prefixes)
  frontend_address  = cidrhost(var.subnets["int"].prefix, 10)
  mgmt_addresses    = [for i in range(var.nodes) : cidrhost(var.subnets["mgmt"].prefix, i + 11)]
  ext_addresses     = [for i in range(var.nodes) : cidrhost(var.subnets["ext"].prefix, i + 11)]
  int_addresses     = [for i in range(var.nodes) : cidrhost(var.subnets["int"].prefix, i + 11)]
  members           = [for i in range(var.nodes) : "${i + 1}=${cidrhost(var.subnets["mgmt"].prefix, i + 11)}"]
  cluster_datagrams = [for i in range(var.workers) : "${local.ports.wrapped + i * local.ports.per_worker}-${local.ports.sync + i * local.ports.per_worker}"]

  network_name = var.network_name != "" ? var.network_name : "${var.name}-net"
  network_id   = "${var.existing_network && var.network_resource_group != "" ? replace(data.azurerm_resource_group.group.id, "/resourceGroups/${var.resource_group_name}", "/resourceGroups/${var.network_resource_group}") : data.azurerm_resource_group.group.id}/providers/Microsoft.Network/virtualNetworks/${local.network_name}"
  subnet_ids   = { for key, subnet in var.subnets : key => "${local.network_id}/subnets/${subnet.name}" }

  policy = replace(replace(replace(
    var.policy != "" ? var.policy : file("${path.module}/../policies/${var.variant}.yaml"),
    "192.0.2.0/24", join(", ", local.inside_prefixes)),
    "192.0.2.10", var.server),
    "203.0.113.7", azurerm_public_ip.in.ip_address
  )

  # What the nodes are told at their first boot: JSON, which is YAML. Without what only a cluster has, if there is none.
  first_boot = [for i in range(var.nodes) : { for key, value in {
    apiVersion = "gabion/first-boot/v1"
    interfaces = { mgmt = "eth0", ext = "eth1", int = "eth2" }
    routes     = concat([{ to = "0.0.0.0/0", out = "ext" }], [for prefix in local.inside_prefixes : { to = prefix, out = "int" }])
    node       = { for key, value in { name = "${var.name}-${i + 1}", number = i + 1 } : key => value if key != "number" || var.nodes > 1 }
    cluster    = { name = var.name, members = local.members }
    settings = {
      node   = { for key, value in { workers = var.workers, datapath = "ebpf" } : key => value if key != "datapath" || var.workers > 1 }
      health = { port = local.ports.health, tcp_port = local.ports.health_tcp }
    }
    trust  = { token = var.tokens[tostring(i + 1)] }
    policy = local.policy
  } : key => value if key != "cluster" || var.nodes > 1 }]
}
