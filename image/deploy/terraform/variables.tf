variable "name" {
  description = "Name of the cluster; everything that is created has it in front."
  type        = string
  default     = "fw"

  validation {
    condition     = can(regex("^[a-z0-9]([a-z0-9-]{0,18}[a-z0-9])?$", var.name))
    error_message = "1 to 20 lower-case letters, digits and dashes."
  }
}

variable "resource_group_name" {
  description = "Resource group in which everything is created."
  type        = string
}

variable "location" {
  description = "Where everything is created."
  type        = string
}

variable "nodes" {
  description = "How many nodes. One stands alone, two or more are a cluster."
  type        = number
  default     = 2

  validation {
    condition     = var.nodes >= 1 && var.nodes <= 16
    error_message = "1 to 16 nodes."
  }
}

variable "variant" {
  description = "How answers find the node that has the connection, and by which probe nodes are chosen. See docs/deploy-azure.md."
  type        = string
  default     = "active-active"

  validation {
    condition     = contains(["active-active", "inbound-snat", "active-passive"], var.variant)
    error_message = "active-active, inbound-snat or active-passive."
  }
}

variable "zones" {
  description = "Availability zones, by turns: 1, 2, 3. Empty: an availability set."
  type        = list(string)
  default     = []
}

variable "image_id" {
  description = "Resource id of the image version in a Compute Gallery."
  type        = string
}

variable "vm_size" {
  description = "VM size. It must take three network interfaces and accelerated networking."
  type        = string
  default     = "Standard_D8s_v5"
}

variable "admin_username" {
  description = "Name of the administrator on the nodes, for ssh."
  type        = string
  default     = "azureuser"
}

variable "admin_ssh_key" {
  description = "Public ssh key of the administrator. No password works."
  type        = string
}

variable "tokens" {
  description = "One enrolment token for each node, by its number: {\"1\" = \"...\", \"2\" = \"...\"}. `gabion pki token` makes one. Worthless once the node has its certificate; the state keeps it."
  type        = map(string)
  sensitive   = true
}

variable "operator_prefixes" {
  description = "From where operators reach API and health of the nodes: prefixes."
  type        = list(string)
}

variable "spoke_prefixes" {
  description = "The spokes: prefixes that are reached through the internal load balancer."
  type        = list(string)
  default     = ["10.1.0.0/16"]
}

variable "on_premises_prefixes" {
  description = "Prefixes behind a VPN or ExpressRoute gateway of the same network."
  type        = list(string)
  default     = []
}

variable "published" {
  description = "What the external load balancer takes: name, protocol (Tcp or Udp) and port of each."
  type = list(object({
    name     = string
    protocol = string
    port     = number
  }))
  default = [{ name = "https", protocol = "Tcp", port = 443 }]
}

variable "server" {
  description = "The server that the built-in first policy publishes on TCP port 443."
  type        = string
  default     = "10.1.0.10"
}

variable "policy" {
  description = "The first policy. Empty: the one of the variant, in ../policies. 203.0.113.7, 192.0.2.0/24 and 192.0.2.10 in it stand for frontend, inside prefixes and server."
  type        = string
  default     = ""
}

variable "workers" {
  description = "Packet threads of each node; all workers of the cluster together are 16 at most."
  type        = number
  default     = 1

  validation {
    condition     = var.workers >= 1 && var.workers * var.nodes <= 16
    error_message = "All workers of the cluster together are 16 at most."
  }
}

variable "existing_network" {
  description = "Whether the virtual network and its three subnets are there already."
  type        = bool
  default     = false
}

variable "network_name" {
  description = "Virtual network. Empty: the cluster's name and -net."
  type        = string
  default     = ""
}

variable "network_resource_group" {
  description = "Resource group of an existing virtual network. Empty: the same."
  type        = string
  default     = ""
}

variable "network_prefix" {
  description = "Address space of a new virtual network."
  type        = string
  default     = "10.0.0.0/24"
}

variable "subnets" {
  description = "The subnets, /27 or larger: the balancer has the 10th address, node 1 the 11th, and so on."
  type = map(object({
    name   = string
    prefix = string
  }))
  default = {
    mgmt = { name = "mgmt", prefix = "10.0.0.0/26" }
    ext  = { name = "ext", prefix = "10.0.0.64/26" }
    int  = { name = "int", prefix = "10.0.0.128/26" }
  }
}

variable "failover_role" {
  description = "Whether the nodes get an identity that may move routes and addresses. Nothing uses it yet: for gabion-failover."
  type        = bool
  default     = false
}

variable "encryption_at_host" {
  description = "Encrypts disks and caches on the VM host too; the subscription needs the feature Microsoft.Compute/EncryptionAtHost."
  type        = bool
  default     = true
}
