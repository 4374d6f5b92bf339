# The example plans as a whole, with what it makes itself not known yet.

mock_provider "azurerm" {
  source = "./tests/mocks"
}

run "complete" {
  command = apply

  module {
    source = "./examples/complete"
  }

  variables {
    subscription_id         = "00000000-0000-0000-0000-000000000000"
    tenant_id               = "33333333-3333-3333-3333-333333333333"
    eventhub_id             = "/subscriptions/0/resourceGroups/brokers/providers/Microsoft.EventHub/namespaces/contoso/eventhubs/telemetry"
    checkpoint_container_id = "/subscriptions/0/resourceGroups/brokers/providers/Microsoft.Storage/storageAccounts/brokers/blobServices/default/containers/checkpoints"
    image                   = "contoso.azurecr.io/backlog-clearer:1"
    oncall_email            = "oncall@example.com"
  }

  assert {
    condition     = startswith(output.dispatch_commands.telemetry, "curl ")
    error_message = "the example prints no command"
  }
}
