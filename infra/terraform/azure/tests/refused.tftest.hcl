# Every validation refuses what it is for.

mock_provider "azurerm" {
  source = "./tests/mocks"
}

variables {
  resource_group = { name = "drains", location = "westeurope" }
  name           = "contoso-clearer"
  storage_name   = "contosoclearer"
  public_access  = { storage = true }
  backlogs       = { orders = { system = "kafka", options = { topic = "orders" } } }
}

run "location_by_its_code" {
  command = plan
  variables {
    resource_group = { name = "drains", location = "west_europe" }
  }
  expect_failures = [var.resource_group]
}

run "name_with_capitals" {
  command = plan
  variables {
    name = "Contoso"
  }
  expect_failures = [var.name]
}

run "storage_name_with_hyphens" {
  command = plan
  variables {
    storage_name = "contoso-clearer"
  }
  expect_failures = [var.storage_name]
}

run "no_backlog" {
  command = plan
  variables {
    backlogs = {}
  }
  expect_failures = [var.backlogs]
}

run "backlog_name_with_capitals" {
  command = plan
  variables {
    backlogs = { Orders = { system = "kafka", options = {} } }
  }
  expect_failures = [var.backlogs]
}

run "unknown_system" {
  command = plan
  variables {
    backlogs = { orders = { system = "rabbitmq", options = {} } }
  }
  expect_failures = [var.backlogs]
}

run "unknown_mode" {
  command = plan
  variables {
    backlogs = { orders = { system = "kafka", options = {}, mode = "delete" } }
  }
  expect_failures = [var.backlogs]
}

run "unknown_allowed_mode" {
  command = plan
  variables {
    backlogs = { orders = { system = "kafka", options = {}, allowed_modes = ["delete"] } }
  }
  expect_failures = [var.backlogs]
}

run "reserved_variable" {
  command = plan
  variables {
    secrets = { AZURE_CLIENT_ID = { key_vault_id = "/subscriptions/0/resourceGroups/g/providers/Microsoft.KeyVault/vaults/brokers", name = "id" } }
  }
  expect_failures = [var.secrets]
}

run "vault_by_its_url" {
  command = plan
  variables {
    secrets = { KAFKA_PASSWORD = { key_vault_id = "https://brokers.vault.azure.net", name = "kafka-password" } }
  }
  expect_failures = [var.secrets]
}

run "secret_without_entry" {
  command = plan
  variables {
    backlogs = { orders = { system = "kafka", options = { "sasl.password" = "$${env:KAFKA_PASSWORD}" } } }
  }
  expect_failures = [var.secrets]
}

run "slice_longer_than_an_instance_may_end" {
  command = plan
  variables {
    timeout_seconds = 7200
  }
  expect_failures = [var.timeout_seconds]
}

run "no_time_to_settle" {
  command = plan
  variables {
    timeout_seconds = 120
  }
  expect_failures = [var.timeout_seconds]
}

run "no_slice_at_a_time" {
  command = plan
  variables {
    max_parallel_slices = 0
  }
  expect_failures = [var.max_parallel_slices]
}

run "no_attempt" {
  command = plan
  variables {
    max_dequeue_count = 0
  }
  expect_failures = [var.max_dequeue_count]
}

run "memory_of_another_size" {
  command = plan
  variables {
    instance_memory_in_mb = 1024
  }
  expect_failures = [var.instance_memory_in_mb]
}

run "schedule_without_seconds" {
  command = plan
  variables {
    schedule = { ncrontab = "0 3 * * *", backlogs = ["orders"] }
  }
  expect_failures = [var.schedule]
}

run "schedule_of_no_backlog" {
  command = plan
  variables {
    schedule = { backlogs = ["payments"] }
  }
  expect_failures = [var.schedule]
}

run "schedule_of_nothing_runs" {
  command = plan
  variables {
    schedule = { paused = false }
  }
  expect_failures = [var.schedule]
}

run "subnet_by_its_name" {
  command = plan
  variables {
    network = { subnet_id = "functions", private_endpoint_subnet_id = "/subscriptions/0/resourceGroups/g/providers/Microsoft.Network/virtualNetworks/v/subnets/endpoints" }
  }
  expect_failures = [var.network]
}

run "unknown_zone" {
  command = plan
  variables {
    network = { subnet_id = "/subscriptions/0/resourceGroups/g/providers/Microsoft.Network/virtualNetworks/v/subnets/f", private_endpoint_subnet_id = "/subscriptions/0/resourceGroups/g/providers/Microsoft.Network/virtualNetworks/v/subnets/e", private_dns_zone_ids = { vault = "zone" } }
  }
  expect_failures = [var.network]
}

run "no_way_to_the_storage" {
  command = plan
  variables {
    public_access = {}
  }
  expect_failures = [var.public_access]
}

run "hub_of_another_system" {
  command = plan
  variables {
    event_hubs = { orders = { hub_id = "/subscriptions/0/resourceGroups/g/providers/Microsoft.EventHub/namespaces/contoso/eventhubs/orders" } }
  }
  expect_failures = [var.event_hubs]
}

run "a_whole_namespace" {
  command = plan
  variables {
    backlogs   = { telemetry = { system = "eventhubs", options = { fully_qualified_namespace = "contoso.servicebus.windows.net", eventhub_name = "telemetry" } } }
    event_hubs = { telemetry = { hub_id = "/subscriptions/0/resourceGroups/g/providers/Microsoft.EventHub/namespaces/contoso" } }
  }
  expect_failures = [var.event_hubs]
}

run "a_whole_checkpoint_account" {
  command = plan
  variables {
    backlogs   = { telemetry = { system = "eventhubs", options = { fully_qualified_namespace = "contoso.servicebus.windows.net", eventhub_name = "telemetry" } } }
    event_hubs = { telemetry = { hub_id = "/subscriptions/0/resourceGroups/g/providers/Microsoft.EventHub/namespaces/contoso/eventhubs/telemetry", checkpoint_container_id = "/subscriptions/0/resourceGroups/g/providers/Microsoft.Storage/storageAccounts/brokers" } }
  }
  expect_failures = [var.event_hubs]
}

run "image_without_tag" {
  command = plan
  variables {
    job = { image = "contoso.azurecr.io/backlog-clearer" }
  }
  expect_failures = [var.job]
}

run "job_longer_than_a_week" {
  command = plan
  variables {
    job = { image = "image:1", timeout_seconds = 604801 }
  }
  expect_failures = [var.job]
}

run "memory_that_does_not_go_with_the_cpu" {
  command = plan
  variables {
    job = { image = "image:1", cpu = 1, memory = "4Gi" }
  }
  expect_failures = [var.job]
}

run "registry_by_its_name" {
  command = plan
  variables {
    job = { image = "image:1", registry = { id = "contoso", server = "contoso.azurecr.io" } }
  }
  expect_failures = [var.job]
}

run "logs_for_a_week" {
  command = plan
  variables {
    log_retention_days = 7
  }
  expect_failures = [var.log_retention_days]
}

run "unknown_replication" {
  command = plan
  variables {
    receipts = { replication = "RAGRS" }
  }
  expect_failures = [var.receipts]
}

run "receipts_gone_at_once" {
  command = plan
  variables {
    receipts = { recover_days = 1 }
  }
  expect_failures = [var.receipts]
}

run "action_group_by_its_name" {
  command = plan
  variables {
    action_group_ids = ["oncall"]
  }
  expect_failures = [var.action_group_ids]
}
