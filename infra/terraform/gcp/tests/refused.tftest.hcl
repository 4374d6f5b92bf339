# Every validation refuses what it is for.

mock_provider "google" {
  source = "./tests/mocks"
}

variables {
  project_id     = "my-project"
  project_number = "123456789012"
  region         = "europe-west1"
  bundle         = "tests/bundle.zip"
  backlogs       = { orders = { system = "kafka", options = { topic = "orders" } } }
}

run "project_by_its_number" {
  command = plan
  variables {
    project_id = "123456789012"
  }
  expect_failures = [var.project_id]
}

run "project_number_by_its_id" {
  command = plan
  variables {
    project_number = "my-project"
  }
  expect_failures = [var.project_number]
}

run "region_is_a_zone" {
  command = plan
  variables {
    region = "europe-west1-b"
  }
  expect_failures = [var.region]
}

run "name_too_long" {
  command = plan
  variables {
    name = "backlog-clearer-of-team-a"
  }
  expect_failures = [var.name]
}

run "bundle_is_not_there" {
  command = plan
  variables {
    bundle = "tests/none.zip"
  }
  expect_failures = [var.bundle]
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
    backlogs = { orders = { system = "kafka", options = {}, allowed_modes = ["consume", "delete"] } }
  }
  expect_failures = [var.backlogs]
}

run "reserved_variable" {
  command = plan
  variables {
    secrets = { BACKLOG_CLEARER_CONFIG = { secret = "config" } }
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

run "slice_longer_than_a_task_waits" {
  command = plan
  variables {
    timeout_seconds = 3600
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

run "more_than_a_queue_dispatches" {
  command = plan
  variables {
    queue = { max_dispatches_per_second = 501 }
  }
  expect_failures = [var.queue]
}

run "no_attempt" {
  command = plan
  variables {
    queue = { max_attempts = 0 }
  }
  expect_failures = [var.queue]
}

run "backoff_upside_down" {
  command = plan
  variables {
    queue = { min_backoff_seconds = 600 }
  }
  expect_failures = [var.queue]
}

run "memory_without_unit" {
  command = plan
  variables {
    drain = { memory = "2048" }
  }
  expect_failures = [var.drain]
}

run "open_to_the_internet" {
  command = plan
  variables {
    ingress = "ALLOW_ALL"
  }
  expect_failures = [var.ingress]
}

run "everyone_dispatches" {
  command = plan
  variables {
    dispatchers = ["allUsers"]
  }
  expect_failures = [var.dispatchers]
}

run "schedule_of_no_backlog" {
  command = plan
  variables {
    schedules = { payments = { cron = "0 3 * * *" } }
  }
  expect_failures = [var.schedules]
}

run "schedule_with_seconds" {
  command = plan
  variables {
    schedules = { orders = { cron = "0 0 3 * * *" } }
  }
  expect_failures = [var.schedules]
}

run "schedule_of_no_job" {
  command = plan
  variables {
    schedules = { orders = { cron = "0 3 * * *", target = "job" } }
  }
  expect_failures = [var.schedules]
}

run "image_without_tag" {
  command = plan
  variables {
    job = { image = "europe-west1-docker.pkg.dev/my-project/tools/backlog-clearer" }
  }
  expect_failures = [var.job]
}

run "job_of_no_backlog" {
  command = plan
  variables {
    job = { image = "image:1", backlogs = ["payments"] }
  }
  expect_failures = [var.job]
}

run "parallelism_above_tasks" {
  command = plan
  variables {
    job = { image = "image:1", task_count = 2, parallelism = 4 }
  }
  expect_failures = [var.job]
}

run "too_many_retries" {
  command = plan
  variables {
    job = { image = "image:1", max_retries = 11 }
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

run "connector_by_its_short_name" {
  command = plan
  variables {
    network = { connector = "brokers" }
  }
  expect_failures = [var.network]
}

run "receipts_gone_within_a_week" {
  command = plan
  variables {
    receipts = { delete_after_days = 1 }
  }
  expect_failures = [var.receipts]
}

run "build_account_by_its_address" {
  command = plan
  variables {
    build_service_account = "builder@my-project.iam.gserviceaccount.com"
  }
  expect_failures = [var.build_service_account]
}

run "channel_by_its_number" {
  command = plan
  variables {
    notification_channels = ["1234567890"]
  }
  expect_failures = [var.notification_channels]
}

run "subscription_of_no_project" {
  command = plan
  variables {
    backlogs = { events = { system = "googlepubsub", options = { subscription_id = "audit" } } }
  }
  expect_failures = [var.backlogs]
}
