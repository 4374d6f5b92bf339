resource "kubernetes_config_map_v1" "this" {
  metadata {
    name      = var.name
    namespace = var.namespace
    labels    = local.labels
  }

  data = {
    BACKLOG_CLEARER_CONFIG     = local.configuration
    BACKLOG_CLEARER_DEADLINE_S = tostring(var.attempt_seconds - local.settle_seconds)
  }

  lifecycle {
    precondition {
      # One string of a process's environment has 128 KiB (Linux: MAX_ARG_STRLEN).
      condition     = length(local.configuration) <= 100000
      error_message = "The configuration of all backlogs has ${length(local.configuration)} characters, and 100000 fit: use the module twice, with some of the backlogs each."
    }
  }
}
