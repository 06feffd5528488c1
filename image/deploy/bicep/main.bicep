// Gabion on Azure: N nodes in an availability set or in zones, between an external and an internal load balancer.
// docs/deploy-azure.md is the guide. ../arm/azuredeploy.json and ../terraform describe the same; ../check compares them.
// Not deployed from where it was written: no Azure subscription was at hand.

targetScope = 'resourceGroup'

@description('Name of the cluster; everything that is created has it in front.')
@minLength(1)
@maxLength(20)
param name string = 'fw'

@description('Where everything is created.')
param location string = resourceGroup().location

@description('How many nodes. One stands alone, two or more are a cluster.')
@minValue(1)
@maxValue(16)
param nodes int = 2

@description('How answers find the node that has the connection, and by which probe nodes are chosen. See docs/deploy-azure.md.')
@allowed([
  'active-active'
  'inbound-snat'
  'active-passive'
])
param variant string = 'active-active'

@description('Availability zones, by turns: 1, 2, 3. Empty: an availability set.')
param zones array = []

@description('Resource id of the image version in a Compute Gallery.')
param imageId string

@description('VM size. It must take three network interfaces and accelerated networking.')
param vmSize string = 'Standard_D8s_v5'

@description('Name of the administrator on the nodes, for ssh.')
param adminUsername string = 'azureuser'

@description('Public ssh key of the administrator. No password works.')
param adminSshKey string

@description('One enrolment token for each node, by its number: {"1": "...", "2": "..."}. `gabion pki token` makes one. Worthless once the node has its certificate.')
@secure()
param tokens object

@description('From where operators reach API and health of the nodes: prefixes.')
param operatorPrefixes array

@description('The spokes: prefixes that are reached through the internal load balancer.')
param spokePrefixes array = [
  '10.1.0.0/16'
]

@description('Prefixes behind a VPN or ExpressRoute gateway of the same network.')
param onPremisesPrefixes array = []

@description('What the external load balancer takes: name, protocol (Tcp or Udp) and port of each.')
param published array = [
  {
    name: 'https'
    protocol: 'Tcp'
    port: 443
  }
]

@description('The server that the built-in first policy publishes on TCP port 443.')
param server string = '10.1.0.10'

@description('The first policy. Empty: the one of the variant, in ../policies. 203.0.113.7, 192.0.2.0/24 and 192.0.2.10 in it stand for frontend, inside prefixes and server.')
param policy string = ''

@description('Packet threads of each node; all workers of the cluster together are 16 at most.')
@minValue(1)
@maxValue(16)
param workers int = 1

@description('Whether the virtual network and its three subnets are there already.')
param existingNetwork bool = false

@description('Virtual network.')
param networkName string = '${name}-net'

@description('Resource group of an existing virtual network.')
param networkResourceGroup string = resourceGroup().name

@description('Address space of a new virtual network.')
param networkPrefix string = '10.0.0.0/24'

@description('The subnets, /27 or larger: the balancer has the 10th address, node 1 the 11th, and so on.')
param subnets object = {
  mgmt: {
    name: 'mgmt'
    prefix: '10.0.0.0/26'
  }
  ext: {
    name: 'ext'
    prefix: '10.0.0.64/26'
  }
  int: {
    name: 'int'
    prefix: '10.0.0.128/26'
  }
}

@description('Whether the nodes get an identity that may move routes and addresses. Nothing uses it yet: for gabion-failover.')
param failoverRole bool = false

@description('Encrypts disks and caches on the VM host too; the subscription needs the feature Microsoft.Compute/EncryptionAtHost.')
param encryptionAtHost bool = true

// What docs/configuration.md has as defaults.
var ports = {
  api: 4450
  health: 4480
  healthTcp: 4481
  wrapped: 6081
  sync: 6082
  session: 6083
  machine: 6084
  perWorker: 16
}

// The longest that a rule of the load balancer allows. Ours are longer (docs/policy.md), so the balancer's end first, with resets where it can.
var idleMinutes = 30

// Of one address; a node's share is a multiple of 8.
var outboundPorts = 64000 / nodes / 8 * 8

var tags = {
  product: 'gabion'
  variant: variant
}

var probePort = variant == 'active-passive' ? ports.healthTcp : ports.health
var probe = variant == 'active-passive' ? {
  protocol: 'Tcp'
  port: ports.healthTcp
  intervalInSeconds: 5
  numberOfProbes: 2
  probeThreshold: 2
} : {
  protocol: 'Http'
  port: ports.health
  requestPath: '/'
  intervalInSeconds: 5
  numberOfProbes: 2
  probeThreshold: 2
}

var insidePrefixes = concat(spokePrefixes, onPremisesPrefixes)
var frontendAddress = cidrHost(subnets.int.prefix, 9)
var mgmtAddresses = [for i in range(0, nodes): cidrHost(subnets.mgmt.prefix, i + 10)]
var extAddresses = [for i in range(0, nodes): cidrHost(subnets.ext.prefix, i + 10)]
var intAddresses = [for i in range(0, nodes): cidrHost(subnets.int.prefix, i + 10)]
var members = [for i in range(0, nodes): '${i + 1}=${cidrHost(subnets.mgmt.prefix, i + 10)}']
var clusterDatagrams = [for i in range(0, workers): '${ports.wrapped + i * ports.perWorker}-${ports.sync + i * ports.perWorker}']

var publishedRules = [for (service, i) in published: {
  name: 'published-${service.name}'
  properties: {
    priority: 200 + i
    direction: 'Inbound'
    access: 'Allow'
    protocol: service.protocol
    sourceAddressPrefix: 'Internet'
    sourcePortRange: '*'
    destinationAddressPrefix: '*'
    destinationPortRange: string(service.port)
  }
}]

var policies = {
  'active-active': loadTextContent('../policies/active-active.yaml')
  'inbound-snat': loadTextContent('../policies/inbound-snat.yaml')
  'active-passive': loadTextContent('../policies/active-passive.yaml')
}

var writtenPolicy = empty(policy) ? policies[variant] : policy
var insidePolicy = replace(replace(writtenPolicy, '192.0.2.0/24', join(insidePrefixes, ', ')), '192.0.2.10', server)

var insideRoutes = [for prefix in insidePrefixes: {
  to: prefix
  out: 'int'
}]

// What all nodes are told at their first boot: JSON, which is YAML.
var firstBoot = union({
  apiVersion: 'gabion/first-boot/v1'
  interfaces: {
    mgmt: 'eth0'
    ext: 'eth1'
    int: 'eth2'
  }
  routes: concat([
    {
      to: '0.0.0.0/0'
      out: 'ext'
    }
  ], insideRoutes)
}, nodes > 1 ? {
  cluster: {
    name: name
    members: members
  }
} : {})

var networkId = resourceId(networkResourceGroup, 'Microsoft.Network/virtualNetworks', networkName)

resource mgmtFilter 'Microsoft.Network/networkSecurityGroups@2024-05-01' = {
  name: '${name}-mgmt'
  location: location
  tags: tags
  properties: {
    securityRules: [
      {
        name: 'operators'
        properties: {
          priority: 100
          direction: 'Inbound'
          access: 'Allow'
          protocol: 'Tcp'
          sourceAddressPrefixes: operatorPrefixes
          sourcePortRange: '*'
          destinationAddressPrefix: '*'
          destinationPortRanges: [
            string(ports.api)
            string(ports.health)
          ]
        }
      }
      {
        name: 'cluster-datagrams'
        properties: {
          priority: 110
          direction: 'Inbound'
          access: 'Allow'
          protocol: 'Udp'
          sourceAddressPrefixes: mgmtAddresses
          sourcePortRange: '*'
          destinationAddressPrefix: '*'
          destinationPortRanges: clusterDatagrams
        }
      }
      {
        name: 'cluster-sessions'
        properties: {
          priority: 120
          direction: 'Inbound'
          access: 'Allow'
          protocol: 'Tcp'
          sourceAddressPrefixes: mgmtAddresses
          sourcePortRange: '*'
          destinationAddressPrefix: '*'
          destinationPortRanges: [
            string(ports.session)
            string(ports.machine)
          ]
        }
      }
      {
        name: 'deny-rest'
        properties: {
          priority: 4096
          direction: 'Inbound'
          access: 'Deny'
          protocol: '*'
          sourceAddressPrefix: '*'
          sourcePortRange: '*'
          destinationAddressPrefix: '*'
          destinationPortRange: '*'
        }
      }
    ]
  }
}

resource extFilter 'Microsoft.Network/networkSecurityGroups@2024-05-01' = {
  name: '${name}-ext'
  location: location
  tags: tags
  properties: {
    securityRules: concat([
      {
        name: 'probes'
        properties: {
          priority: 100
          direction: 'Inbound'
          access: 'Allow'
          protocol: 'Tcp'
          sourceAddressPrefix: 'AzureLoadBalancer'
          sourcePortRange: '*'
          destinationAddressPrefix: '*'
          destinationPortRange: string(probePort)
        }
      }
      {
        name: 'machines'
        properties: {
          priority: 110
          direction: 'Inbound'
          access: 'Allow'
          protocol: 'Tcp'
          sourceAddressPrefixes: extAddresses
          sourcePortRange: '*'
          destinationAddressPrefix: '*'
          destinationPortRange: string(ports.machine)
        }
      }
      {
        name: 'deny-rest'
        properties: {
          priority: 4096
          direction: 'Inbound'
          access: 'Deny'
          protocol: '*'
          sourceAddressPrefix: '*'
          sourcePortRange: '*'
          destinationAddressPrefix: '*'
          destinationPortRange: '*'
        }
      }
    ], publishedRules)
  }
}

resource intFilter 'Microsoft.Network/networkSecurityGroups@2024-05-01' = {
  name: '${name}-int'
  location: location
  tags: tags
  properties: {
    securityRules: [
      {
        name: 'probes'
        properties: {
          priority: 100
          direction: 'Inbound'
          access: 'Allow'
          protocol: 'Tcp'
          sourceAddressPrefix: 'AzureLoadBalancer'
          sourcePortRange: '*'
          destinationAddressPrefix: '*'
          destinationPortRange: string(probePort)
        }
      }
      {
        name: 'machines'
        properties: {
          priority: 110
          direction: 'Inbound'
          access: 'Allow'
          protocol: 'Tcp'
          sourceAddressPrefixes: intAddresses
          sourcePortRange: '*'
          destinationAddressPrefix: '*'
          destinationPortRange: string(ports.machine)
        }
      }
      {
        name: 'from-inside'
        properties: {
          priority: 120
          direction: 'Inbound'
          access: 'Allow'
          protocol: '*'
          sourceAddressPrefixes: insidePrefixes
          sourcePortRange: '*'
          destinationAddressPrefix: '*'
          destinationPortRange: '*'
        }
      }
      {
        // Without this rule clients' own addresses stop here: Azure's default lets out to the network only what comes from it.
        name: 'to-inside'
        properties: {
          priority: 100
          direction: 'Outbound'
          access: 'Allow'
          protocol: '*'
          sourceAddressPrefix: '*'
          sourcePortRange: '*'
          destinationAddressPrefixes: insidePrefixes
          destinationPortRange: '*'
        }
      }
      {
        name: 'deny-rest'
        properties: {
          priority: 4096
          direction: 'Inbound'
          access: 'Deny'
          protocol: '*'
          sourceAddressPrefix: '*'
          sourcePortRange: '*'
          destinationAddressPrefix: '*'
          destinationPortRange: '*'
        }
      }
    ]
  }
}

resource network 'Microsoft.Network/virtualNetworks@2024-05-01' = if (!existingNetwork) {
  name: networkName
  location: location
  tags: tags
  properties: {
    addressSpace: {
      addressPrefixes: [
        networkPrefix
      ]
    }
    subnets: [
      {
        name: subnets.mgmt.name
        properties: {
          addressPrefix: subnets.mgmt.prefix
          defaultOutboundAccess: false
          networkSecurityGroup: {
            id: mgmtFilter.id
          }
        }
      }
      {
        name: subnets.ext.name
        properties: {
          addressPrefix: subnets.ext.prefix
          defaultOutboundAccess: false
          networkSecurityGroup: {
            id: extFilter.id
          }
        }
      }
      {
        name: subnets.int.name
        properties: {
          addressPrefix: subnets.int.prefix
          defaultOutboundAccess: false
          networkSecurityGroup: {
            id: intFilter.id
          }
        }
      }
    ]
  }
}

resource publicIn 'Microsoft.Network/publicIPAddresses@2024-05-01' = {
  name: '${name}-in'
  location: location
  tags: tags
  sku: {
    name: 'Standard'
  }
  zones: zones
  properties: {
    publicIPAllocationMethod: 'Static'
    publicIPAddressVersion: 'IPv4'
  }
}

resource publicOut 'Microsoft.Network/publicIPAddresses@2024-05-01' = {
  name: '${name}-out'
  location: location
  tags: tags
  sku: {
    name: 'Standard'
  }
  zones: zones
  properties: {
    publicIPAllocationMethod: 'Static'
    publicIPAddressVersion: 'IPv4'
  }
}

resource external 'Microsoft.Network/loadBalancers@2024-05-01' = {
  name: '${name}-external'
  location: location
  tags: tags
  sku: {
    name: 'Standard'
  }
  properties: {
    frontendIPConfigurations: [
      {
        name: 'in'
        properties: {
          publicIPAddress: {
            id: publicIn.id
          }
        }
      }
      {
        name: 'out'
        properties: {
          publicIPAddress: {
            id: publicOut.id
          }
        }
      }
    ]
    backendAddressPools: [
      {
        name: 'nodes'
      }
    ]
    probes: [
      {
        name: 'health'
        properties: probe
      }
    ]
    loadBalancingRules: [for service in published: {
      name: service.name
      properties: {
        frontendIPConfiguration: {
          id: resourceId('Microsoft.Network/loadBalancers/frontendIPConfigurations', '${name}-external', 'in')
        }
        backendAddressPool: {
          id: resourceId('Microsoft.Network/loadBalancers/backendAddressPools', '${name}-external', 'nodes')
        }
        probe: {
          id: resourceId('Microsoft.Network/loadBalancers/probes', '${name}-external', 'health')
        }
        protocol: service.protocol
        frontendPort: service.port
        backendPort: service.port
        enableFloatingIP: true
        enableTcpReset: service.protocol == 'Tcp'
        idleTimeoutInMinutes: idleMinutes
        loadDistribution: 'Default'
        disableOutboundSnat: true
      }
    }]
    outboundRules: [
      {
        name: 'out'
        properties: {
          frontendIPConfigurations: [
            {
              id: resourceId('Microsoft.Network/loadBalancers/frontendIPConfigurations', '${name}-external', 'out')
            }
          ]
          backendAddressPool: {
            id: resourceId('Microsoft.Network/loadBalancers/backendAddressPools', '${name}-external', 'nodes')
          }
          protocol: 'All'
          allocatedOutboundPorts: outboundPorts
          enableTcpReset: true
          idleTimeoutInMinutes: idleMinutes
        }
      }
    ]
  }
}

resource internal 'Microsoft.Network/loadBalancers@2024-05-01' = {
  name: '${name}-internal'
  location: location
  tags: tags
  sku: {
    name: 'Standard'
  }
  properties: {
    frontendIPConfigurations: [
      {
        name: 'inside'
        zones: zones
        properties: {
          subnet: {
            id: '${networkId}/subnets/${subnets.int.name}'
          }
          privateIPAllocationMethod: 'Static'
          privateIPAddress: frontendAddress
        }
      }
    ]
    backendAddressPools: [
      {
        name: 'nodes'
      }
    ]
    probes: [
      {
        name: 'health'
        properties: probe
      }
    ]
    loadBalancingRules: [
      {
        // All ports of all protocols. Azure sends no resets here, and passing packets keep their destination without floating IP.
        name: 'ha-ports'
        properties: {
          frontendIPConfiguration: {
            id: resourceId('Microsoft.Network/loadBalancers/frontendIPConfigurations', '${name}-internal', 'inside')
          }
          backendAddressPool: {
            id: resourceId('Microsoft.Network/loadBalancers/backendAddressPools', '${name}-internal', 'nodes')
          }
          probe: {
            id: resourceId('Microsoft.Network/loadBalancers/probes', '${name}-internal', 'health')
          }
          protocol: 'All'
          frontendPort: 0
          backendPort: 0
          enableFloatingIP: false
          enableTcpReset: false
          idleTimeoutInMinutes: idleMinutes
          loadDistribution: 'Default'
          disableOutboundSnat: true
        }
      }
    ]
  }
  dependsOn: [
    network
  ]
}

resource spokeRoutes 'Microsoft.Network/routeTables@2024-05-01' = {
  name: '${name}-spokes'
  location: location
  tags: tags
  properties: {
    disableBgpRoutePropagation: true
    routes: [
      {
        name: 'default'
        properties: {
          addressPrefix: '0.0.0.0/0'
          nextHopType: 'VirtualAppliance'
          nextHopIpAddress: frontendAddress
        }
      }
    ]
  }
}

// For the GatewaySubnet: the spokes only. A default route there is not allowed, and its own prefixes would go round in circles.
resource gatewayRoutes 'Microsoft.Network/routeTables@2024-05-01' = {
  name: '${name}-gateway'
  location: location
  tags: tags
  properties: {
    disableBgpRoutePropagation: false
    routes: [for (prefix, i) in spokePrefixes: {
      name: 'spoke-${i + 1}'
      properties: {
        addressPrefix: prefix
        nextHopType: 'VirtualAppliance'
        nextHopIpAddress: frontendAddress
      }
    }]
  }
}

resource availability 'Microsoft.Compute/availabilitySets@2024-07-01' = if (empty(zones)) {
  name: name
  location: location
  tags: tags
  sku: {
    name: 'Aligned'
  }
  properties: {
    platformFaultDomainCount: 2
    platformUpdateDomainCount: 20
  }
}

resource identity 'Microsoft.ManagedIdentity/userAssignedIdentities@2023-01-31' = if (failoverRole) {
  name: '${name}-failover'
  location: location
  tags: tags
}

resource role 'Microsoft.Authorization/roleDefinitions@2022-04-01' = if (failoverRole) {
  name: guid(resourceGroup().id, name, 'failover-role')
  properties: {
    roleName: '${name}-failover'
    description: 'Lets the nodes of a Gabion cluster move routes and public addresses to the active one.'
    type: 'CustomRole'
    permissions: [
      {
        actions: [
          'Microsoft.Network/routeTables/read'
          'Microsoft.Network/routeTables/routes/read'
          'Microsoft.Network/routeTables/routes/write'
          'Microsoft.Network/networkInterfaces/read'
          'Microsoft.Network/networkInterfaces/write'
          'Microsoft.Network/networkSecurityGroups/join/action'
          'Microsoft.Network/virtualNetworks/subnets/join/action'
          'Microsoft.Network/loadBalancers/backendAddressPools/join/action'
          'Microsoft.Network/publicIPAddresses/read'
          'Microsoft.Network/publicIPAddresses/join/action'
          'Microsoft.Network/locations/operations/read'
          'Microsoft.Network/locations/operationResults/read'
        ]
        notActions: []
      }
    ]
    assignableScopes: [
      resourceGroup().id
    ]
  }
}

resource assignment 'Microsoft.Authorization/roleAssignments@2022-04-01' = if (failoverRole) {
  name: guid(resourceGroup().id, name, 'failover-assignment')
  properties: {
    roleDefinitionId: role.id
    principalId: identity.properties.principalId
    principalType: 'ServicePrincipal'
  }
}

resource mgmtInterfaces 'Microsoft.Network/networkInterfaces@2024-05-01' = [for i in range(0, nodes): {
  name: '${name}-${i + 1}-mgmt'
  location: location
  tags: tags
  properties: {
    enableAcceleratedNetworking: true
    enableIPForwarding: false
    networkSecurityGroup: {
      id: mgmtFilter.id
    }
    ipConfigurations: [
      {
        name: 'mgmt'
        properties: {
          subnet: {
            id: '${networkId}/subnets/${subnets.mgmt.name}'
          }
          privateIPAllocationMethod: 'Static'
          privateIPAddress: mgmtAddresses[i]
        }
      }
    ]
  }
  dependsOn: [
    network
  ]
}]

resource extInterfaces 'Microsoft.Network/networkInterfaces@2024-05-01' = [for i in range(0, nodes): {
  name: '${name}-${i + 1}-ext'
  location: location
  tags: tags
  properties: {
    enableAcceleratedNetworking: true
    enableIPForwarding: true
    networkSecurityGroup: {
      id: extFilter.id
    }
    ipConfigurations: [
      {
        name: 'ext'
        properties: {
          subnet: {
            id: '${networkId}/subnets/${subnets.ext.name}'
          }
          privateIPAllocationMethod: 'Static'
          privateIPAddress: extAddresses[i]
          loadBalancerBackendAddressPools: [
            {
              id: resourceId('Microsoft.Network/loadBalancers/backendAddressPools', '${name}-external', 'nodes')
            }
          ]
        }
      }
    ]
  }
  dependsOn: [
    network
    external
  ]
}]

resource intInterfaces 'Microsoft.Network/networkInterfaces@2024-05-01' = [for i in range(0, nodes): {
  name: '${name}-${i + 1}-int'
  location: location
  tags: tags
  properties: {
    enableAcceleratedNetworking: true
    enableIPForwarding: true
    networkSecurityGroup: {
      id: intFilter.id
    }
    ipConfigurations: [
      {
        name: 'int'
        properties: {
          subnet: {
            id: '${networkId}/subnets/${subnets.int.name}'
          }
          privateIPAllocationMethod: 'Static'
          privateIPAddress: intAddresses[i]
          loadBalancerBackendAddressPools: [
            {
              id: resourceId('Microsoft.Network/loadBalancers/backendAddressPools', '${name}-internal', 'nodes')
            }
          ]
        }
      }
    ]
  }
  dependsOn: [
    network
    internal
  ]
}]

resource machines 'Microsoft.Compute/virtualMachines@2024-07-01' = [for i in range(0, nodes): {
  name: '${name}-${i + 1}'
  location: location
  tags: tags
  zones: empty(zones) ? [] : [zones[i % length(zones)]]
  identity: failoverRole ? {
    type: 'UserAssigned'
    userAssignedIdentities: {
      '${identity.id}': {}
    }
  } : null
  properties: {
    availabilitySet: empty(zones) ? {
      id: availability.id
    } : null
    hardwareProfile: {
      vmSize: vmSize
    }
    securityProfile: {
      encryptionAtHost: encryptionAtHost
    }
    storageProfile: {
      imageReference: {
        id: imageId
      }
      osDisk: {
        name: '${name}-${i + 1}'
        createOption: 'FromImage'
        caching: 'ReadOnly'
        deleteOption: 'Delete'
        managedDisk: {
          storageAccountType: 'Premium_LRS'
        }
      }
    }
    osProfile: {
      computerName: '${name}-${i + 1}'
      adminUsername: adminUsername
      allowExtensionOperations: false
      linuxConfiguration: {
        disablePasswordAuthentication: true
        provisionVMAgent: false
        ssh: {
          publicKeys: [
            {
              path: '/home/${adminUsername}/.ssh/authorized_keys'
              keyData: adminSshKey
            }
          ]
        }
      }
      customData: base64(string(union(firstBoot, {
        node: union({
          name: '${name}-${i + 1}'
        }, nodes > 1 ? {
          number: i + 1
        } : {})
        settings: {
          node: union({
            workers: workers
          }, workers > 1 ? {
            datapath: 'ebpf'
          } : {})
          health: {
            port: ports.health
            tcp_port: ports.healthTcp
          }
        }
        trust: {
          token: tokens[string(i + 1)]
        }
        policy: replace(insidePolicy, '203.0.113.7', publicIn.properties.ipAddress)
      })))
    }
    networkProfile: {
      networkInterfaces: [
        {
          id: mgmtInterfaces[i].id
          properties: {
            primary: true
            deleteOption: 'Detach'
          }
        }
        {
          id: extInterfaces[i].id
          properties: {
            primary: false
            deleteOption: 'Detach'
          }
        }
        {
          id: intInterfaces[i].id
          properties: {
            primary: false
            deleteOption: 'Detach'
          }
        }
      ]
    }
    diagnosticsProfile: {
      bootDiagnostics: {
        enabled: true
      }
    }
  }
}]

output frontend string = publicIn.properties.ipAddress
output outbound string = publicOut.properties.ipAddress
output nextHop string = frontendAddress
output nodeAddresses array = mgmtAddresses
output spokeRouteTable string = spokeRoutes.id
output gatewayRouteTable string = gatewayRoutes.id
