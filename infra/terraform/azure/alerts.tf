resource "azurerm_log_analytics_workspace" "this" {
  name                = "${var.name}-logs"
  resource_group_name = var.resource_group.name
  location            = var.resource_group.location
  sku                 = "PerGB2018"
  retention_in_days   = var.log_retention_days
  tags                = var.tags
}

resource "azurerm_application_insights" "this" {
  name                = "${var.name}-insights"
  resource_group_name = var.resource_group.name
  location            = var.resource_group.location
  application_type    = "web"
  workspace_id        = azurerm_log_analytics_workspace.this.id
  tags                = var.tags
}

# The poison queue is watched through the function that reads it: Azure's metric for queues
# (QueueMessageCount) is for the whole account and refreshed once a day.
resource "azurerm_monitor_scheduled_query_rules_alert_v2" "not_cleared" {
  name                    = "${var.name}-not-cleared"
  display_name            = "${var.name}: a backlog was not cleared"
  description             = "A slice failed, was refused, was not cleared, or ended in the poison queue. An attempt continues where the last one stopped: read the receipts in ${local.receipts} before you start one."
  resource_group_name     = var.resource_group.name
  location                = var.resource_group.location
  scopes                  = [azurerm_log_analytics_workspace.this.id]
  severity                = 1
  evaluation_frequency    = "PT5M"
  window_duration         = "PT10M"
  auto_mitigation_enabled = true
  skip_query_validation   = true # the tables exist after the first entries
  tags                    = var.tags

  criteria {
    operator                = "GreaterThan"
    threshold               = 0
    time_aggregation_method = "Count"
    query                   = <<-KQL
      union isfuzzy=true
        (AppTraces | where Message has "backlog-clearer: not cleared" | project TimeGenerated, Entry = Message),
        (AppExceptions | where OperationName in~ ("drain", "dispatch", "scheduled", "poisoned") | project TimeGenerated, Entry = OuterMessage),
        (ContainerAppConsoleLogs_CL | where Log_s has "backlog-clearer: not cleared" | project TimeGenerated, Entry = Log_s)
    KQL

    failing_periods {
      minimum_failing_periods_to_trigger_alert = 1
      number_of_evaluation_periods             = 1
    }
  }

  dynamic "action" {
    for_each = length(var.action_group_ids) == 0 ? [] : [var.action_group_ids]
    content {
      action_groups = action.value
    }
  }
}
