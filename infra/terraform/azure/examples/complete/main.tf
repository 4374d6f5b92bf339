# A Kafka backlog that is cleared every night and an Event Hubs backlog that is started by hand, in a virtual
# network, with no public endpoint.

terraform {
  required_version = ">= 1.9"

  required_providers {
    azurerm = {
      source  = "hashicorp/azurerm"
      version = "~> 5.10"
    }
  }
}

variable "subscription_id" {
  description = "Subscription that everything is created in."
  type        = string
}

variable "tenant_id" {
  description = "Tenant of the key vault."
  type        = string
}

variable "eventhub_id" {
  description = "Resource id of the Event Hub."
  type        = string
}

variable "checkpoint_container_id" {
  description = "Resource id of the blob container with its checkpoints."
  type        = string
}

variable "image" {
  description = "The job's image, by digest."
  type        = string
}

variable "oncall_email" {
  description = "E-mail address that is notified of a backlog that was not cleared."
  type        = string
}

# The storage accounts have no keys. Without data_plane_available = false the provider reads them over their own
# endpoints, which takes a way into the network, and the roles Storage Blob and Queue Data Contributor.
provider "azurerm" {
  subscription_id     = var.subscription_id
  storage_use_azuread = true
  features {
    storage {
      data_plane_available = false
    }
  }
}

resource "azurerm_resource_group" "this" {
  name     = "contoso-drains"
  location = "westeurope"
}

resource "azurerm_virtual_network" "this" {
  name                = "contoso-drains"
  resource_group_name = azurerm_resource_group.this.name
  location            = azurerm_resource_group.this.location
  address_space       = ["10.20.0.0/22"]
}

# Both are delegated to Container Apps' environments, and have to be separate.
resource "azurerm_subnet" "functions" {
  name                 = "functions"
  resource_group_name  = azurerm_resource_group.this.name
  virtual_network_name = azurerm_virtual_network.this.name
  address_prefixes     = ["10.20.0.0/24"]

  delegation {
    name = "environments"
    service_delegation {
      name    = "Microsoft.App/environments"
      actions = ["Microsoft.Network/virtualNetworks/subnets/join/action"]
    }
  }
}

resource "azurerm_subnet" "jobs" {
  name                 = "jobs"
  resource_group_name  = azurerm_resource_group.this.name
  virtual_network_name = azurerm_virtual_network.this.name
  address_prefixes     = ["10.20.1.0/24"]

  delegation {
    name = "environments"
    service_delegation {
      name    = "Microsoft.App/environments"
      actions = ["Microsoft.Network/virtualNetworks/subnets/join/action"]
    }
  }
}

resource "azurerm_subnet" "endpoints" {
  name                 = "endpoints"
  resource_group_name  = azurerm_resource_group.this.name
  virtual_network_name = azurerm_virtual_network.this.name
  address_prefixes     = ["10.20.2.0/24"]
}

# Azure's default rules: only traffic from the network itself is admitted.
resource "azurerm_network_security_group" "this" {
  name                = "contoso-drains"
  resource_group_name = azurerm_resource_group.this.name
  location            = azurerm_resource_group.this.location
}

resource "azurerm_subnet_network_security_group_association" "functions" {
  subnet_id                 = azurerm_subnet.functions.id
  network_security_group_id = azurerm_network_security_group.this.id
}

resource "azurerm_subnet_network_security_group_association" "jobs" {
  subnet_id                 = azurerm_subnet.jobs.id
  network_security_group_id = azurerm_network_security_group.this.id
}

resource "azurerm_subnet_network_security_group_association" "endpoints" {
  subnet_id                 = azurerm_subnet.endpoints.id
  network_security_group_id = azurerm_network_security_group.this.id
}

resource "azurerm_private_dns_zone" "this" {
  for_each = {
    blob  = "privatelink.blob.core.windows.net"
    queue = "privatelink.queue.core.windows.net"
    sites = "privatelink.azurewebsites.net"
    vault = "privatelink.vaultcore.azure.net"
  }

  name                = each.value
  resource_group_name = azurerm_resource_group.this.name
}

# A template, because azurerm 4 and 5 name the zone of a link with different arguments. Without links, the network
# resolves the services to their public addresses, where access is denied.
resource "azurerm_resource_group_template_deployment" "dns_links" {
  name                = "contoso-dns-links"
  resource_group_name = azurerm_resource_group.this.name
  deployment_mode     = "Incremental"

  template_content = jsonencode({
    "$schema"      = "https://schema.management.azure.com/schemas/2019-04-01/deploymentTemplate.json#"
    contentVersion = "1.0.0.0"
    resources = [for zone in values(azurerm_private_dns_zone.this) : {
      type       = "Microsoft.Network/privateDnsZones/virtualNetworkLinks"
      apiVersion = "2020-06-01"
      name       = "${zone.name}/contoso-drains"
      location   = "global"
      properties = {
        registrationEnabled = false
        virtualNetwork      = { id = azurerm_virtual_network.this.id }
      }
    }]
  })
}

resource "azurerm_key_vault" "brokers" {
  name                       = "contoso-brokers"
  resource_group_name        = azurerm_resource_group.this.name
  location                   = azurerm_resource_group.this.location
  tenant_id                  = var.tenant_id
  sku_name                   = "standard"
  rbac_authorization_enabled = true
  purge_protection_enabled   = true

  public_network_access_enabled = false

  network_acls {
    bypass         = "None"
    default_action = "Deny"
  }
}

resource "azurerm_private_endpoint" "brokers" {
  name                = "contoso-brokers"
  resource_group_name = azurerm_resource_group.this.name
  location            = azurerm_resource_group.this.location
  subnet_id           = azurerm_subnet.endpoints.id

  private_service_connection {
    name                           = "contoso-brokers"
    private_connection_resource_id = azurerm_key_vault.brokers.id
    subresource_names              = ["vault"]
    is_manual_connection           = false
  }

  private_dns_zone_group {
    name                 = "vault"
    private_dns_zone_ids = [azurerm_private_dns_zone.this["vault"].id]
  }
}

resource "azurerm_monitor_action_group" "oncall" {
  name                = "contoso-oncall"
  resource_group_name = azurerm_resource_group.this.name
  short_name          = "oncall"

  email_receiver {
    name          = "oncall"
    email_address = var.oncall_email
  }
}

module "backlog_clearer" {
  source = "../.."

  resource_group = { name = azurerm_resource_group.this.name, location = azurerm_resource_group.this.location }
  name           = "contoso-clearer"
  storage_name   = "contosoclearer"
  tags           = { team = "platform" }

  backlogs = {
    orders = {
      system = "kafka"
      options = {
        bootstrap_servers   = "broker-1.example.com:9093,broker-2.example.com:9093"
        topic               = "orders"
        group_id            = "billing"
        "security.protocol" = "SASL_SSL"
        "sasl.mechanisms"   = "SCRAM-SHA-512"
        "sasl.username"     = "clearer"
        "sasl.password"     = "$${env:KAFKA_PASSWORD}"
      }
      workers       = 8
      allowed_modes = ["consume", "skip"]
    }
    telemetry = {
      system = "eventhubs"
      options = {
        fully_qualified_namespace = "contoso.servicebus.windows.net"
        eventhub_name             = "telemetry"
        consumer_group            = "billing"
        checkpoint_store          = "https://contosobrokers.blob.core.windows.net"
        checkpoint_container      = "checkpoints"
      }
    }
  }

  event_hubs = {
    telemetry = { hub_id = var.eventhub_id, checkpoint_container_id = var.checkpoint_container_id }
  }

  # The secret is added by hand, so that it is not in the state: az keyvault secret set --vault-name contoso-brokers …
  secrets  = { KAFKA_PASSWORD = { key_vault_id = azurerm_key_vault.brokers.id, name = "kafka-password" } }
  schedule = { ncrontab = "0 0 3 * * *", backlogs = ["orders"], enabled = true }

  network = {
    subnet_id                  = azurerm_subnet.functions.id
    job_subnet_id              = azurerm_subnet.jobs.id
    private_endpoint_subnet_id = azurerm_subnet.endpoints.id
    private_dns_zone_ids       = { for name in ["blob", "queue", "sites"] : name => azurerm_private_dns_zone.this[name].id }
  }

  job              = { image = var.image }
  action_group_ids = [azurerm_monitor_action_group.oncall.id]
}

output "deploy_command" {
  description = "Deploys the bundle; run it inside the network."
  value       = module.backlog_clearer.deploy_command
}

output "secrets_command" {
  description = "Makes the app read its secrets, once after the first apply."
  value       = module.backlog_clearer.secrets_command
}

output "dispatch_commands" {
  description = "Start a drain by hand."
  value       = module.backlog_clearer.dispatch_commands
}
