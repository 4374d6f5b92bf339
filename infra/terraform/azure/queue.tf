locals {
  # Scopes of single queues and containers, written out: the resources' ids are data-plane URLs in
  # some versions of the provider and resource ids in others.
  queue_ids    = { for name, queue in { slices = azurerm_storage_queue.slices, poison = azurerm_storage_queue.poison } : name => "${azurerm_storage_account.data.id}/queueServices/default/queues/${queue.name}" }
  container_id = "${azurerm_storage_account.data.id}/blobServices/default/containers/${azurerm_storage_container.receipts.name}"
}

# One message for each slice.
resource "azurerm_storage_queue" "slices" {
  name               = "${var.name}-slices"
  storage_account_id = azurerm_storage_account.data.id
}

# The host moves a message here after five deliveries, to exactly this name. It exists
# beforehand, so that nothing needs the right to create queues.
resource "azurerm_storage_queue" "poison" {
  name               = "${azurerm_storage_queue.slices.name}-poison"
  storage_account_id = azurerm_storage_account.data.id
}
