locals {
  receipts_container = "receipts"
}

# The functions' host keeps its locks, keys and packages here, and owns every blob of this account:
# so it is a separate account, without the queue and the receipts.
resource "azurerm_storage_account" "host" {
  # checkov:skip=CKV_AZURE_59:public_access.storage is false by default; the scan does not see through the variable
  # checkov:skip=CKV_AZURE_206:Locks and packages, which a deployment restores
  # checkov:skip=CKV_AZURE_33:The host polls its queues all day, and each poll would be a log entry to pay for
  # checkov:skip=CKV2_AZURE_1:Locks and packages of public code; Microsoft's own keys encrypt them
  name                = "${var.storage_name}host"
  resource_group_name = var.resource_group.name
  location            = var.resource_group.location
  tags                = var.tags

  account_tier                    = "Standard"
  account_replication_type        = "LRS" # a deployment restores everything in it
  min_tls_version                 = "TLS1_2"
  https_traffic_only_enabled      = true
  shared_access_key_enabled       = false
  default_to_oauth_authentication = true
  allow_nested_items_to_be_public = false
  local_user_enabled              = false
  public_network_access_enabled   = var.public_access.storage

  blob_properties {
    delete_retention_policy {
      days = 7
    }
  }
}

resource "azurerm_storage_container" "packages" {
  # checkov:skip=CKV2_AZURE_21:Packages of public code, which the platform reads whenever an instance starts
  name                  = "packages"
  storage_account_id    = azurerm_storage_account.host.id
  container_access_type = "private"
}

resource "azurerm_storage_account" "data" {
  # checkov:skip=CKV_AZURE_59:public_access.storage is false by default; the scan does not see through the variable
  # checkov:skip=CKV_AZURE_206:Three zones by default; receipts.replication = "GZRS" adds another region
  # checkov:skip=CKV_AZURE_33:The host polls its queues all day, and each poll would be a log entry to pay for
  # checkov:skip=CKV2_AZURE_1:receipts.key decides; without it Microsoft's own keys encrypt them
  name                = "${var.storage_name}data"
  resource_group_name = var.resource_group.name
  location            = var.resource_group.location
  tags                = var.tags

  account_tier                    = "Standard"
  account_replication_type        = var.receipts.replication
  min_tls_version                 = "TLS1_2"
  https_traffic_only_enabled      = true
  shared_access_key_enabled       = false
  default_to_oauth_authentication = true
  allow_nested_items_to_be_public = false
  local_user_enabled              = false
  public_network_access_enabled   = var.public_access.storage

  blob_properties {
    versioning_enabled = true

    delete_retention_policy {
      days = var.receipts.recover_days
    }

    container_delete_retention_policy {
      days = var.receipts.recover_days
    }
  }

  dynamic "identity" {
    for_each = var.receipts.key == null ? [] : [var.receipts.key]
    content {
      type         = "UserAssigned"
      identity_ids = [identity.value.identity_id]
    }
  }

  # Of blobs: the key of queues could only be chosen when the account is created.
  dynamic "customer_managed_key" {
    for_each = var.receipts.key == null ? [] : [var.receipts.key]
    content {
      key_vault_key_id          = customer_managed_key.value.key_vault_key_id
      user_assigned_identity_id = customer_managed_key.value.identity_id
    }
  }
}

resource "azurerm_storage_container" "receipts" {
  # checkov:skip=CKV2_AZURE_21:Read rarely, by people who undo a run; a diagnostic setting of yours on the account keeps a log of it
  name                  = local.receipts_container
  storage_account_id    = azurerm_storage_account.data.id
  container_access_type = "private"
}
