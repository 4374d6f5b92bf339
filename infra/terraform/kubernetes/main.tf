locals {
  labels = merge(var.labels, {
    "app.kubernetes.io/name"       = var.name
    "app.kubernetes.io/managed-by" = "terraform"
  })
  selector = { "app.kubernetes.io/name" = var.name }

  volume = "/receipts"
  configuration = jsonencode({
    receipts = coalesce(var.receipts.url, local.volume)
    backlogs = {
      for name, backlog in var.backlogs :
      name => { for key, value in backlog : key => value if value != null }
    }
  })

  # Time after the drain for acknowledging, verifying and completing the receipt.
  settle_seconds = 120

  # Jobs of schedules and runs, in one form.
  jobs = {
    for key, slices in merge(
      { for name, schedule in var.schedules : "schedule/${name}" => schedule.slices },
      { for name, run in var.runs : "run/${name}" => run.slices },
    ) :
    key => {
      slices = slices
      # Every slice may take all its attempts, as many at a time as may run; a failure waits 6 min at most.
      seconds = ceil(slices / var.parallelism) * var.attempts * (var.attempt_seconds + 360)
    }
  }
}
