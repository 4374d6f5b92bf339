locals {
  storage_endpoints = var.network == null ? {} : {
    host-blob  = { account = azurerm_storage_account.host.id, service = "blob" }
    data-blob  = { account = azurerm_storage_account.data.id, service = "blob" }
    data-queue = { account = azurerm_storage_account.data.id, service = "queue" }
  }
}

resource "azurerm_private_endpoint" "storage" {
  for_each = local.storage_endpoints

  name                = "${var.name}-${each.key}"
  resource_group_name = var.resource_group.name
  location            = var.resource_group.location
  subnet_id           = var.network.private_endpoint_subnet_id
  tags                = var.tags

  private_service_connection {
    name                           = "${var.name}-${each.key}"
    private_connection_resource_id = each.value.account
    subresource_names              = [each.value.service]
    is_manual_connection           = false
  }

  dynamic "private_dns_zone_group" {
    for_each = contains(keys(var.network.private_dns_zone_ids), each.value.service) ? [var.network.private_dns_zone_ids[each.value.service]] : []
    content {
      name                 = each.value.service
      private_dns_zone_ids = [private_dns_zone_group.value]
    }
  }
}

resource "azurerm_private_endpoint" "app" {
  count = var.network == null ? 0 : 1

  name                = "${var.name}-app"
  resource_group_name = var.resource_group.name
  location            = var.resource_group.location
  subnet_id           = var.network.private_endpoint_subnet_id
  tags                = var.tags

  private_service_connection {
    name                           = "${var.name}-app"
    private_connection_resource_id = azurerm_function_app_flex_consumption.this.id
    subresource_names              = ["sites"]
    is_manual_connection           = false
  }

  dynamic "private_dns_zone_group" {
    for_each = contains(keys(var.network.private_dns_zone_ids), "sites") ? [var.network.private_dns_zone_ids.sites] : []
    content {
      name                 = "sites"
      private_dns_zone_ids = [private_dns_zone_group.value]
    }
  }
}
